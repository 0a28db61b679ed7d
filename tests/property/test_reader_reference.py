"""The compiled line reader does what the plain-Python reference does: the same bytes, the same counts."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import examples
from tests.reference import lines
from tests.reference.line_protocol import REASONS, ReadResult, read
from tests.reference.points import parse, split
from tests.reference.readers import Reader, reader

WINDOW_BYTES = 16_384
"""The core indexes a datagram in pieces of this size; lines may lie across the border."""

options = st.fixed_dictionaries(
    {},
    optional={
        "precision": st.sampled_from(["ns", "us", "ms", "s", "m", "h", "auto"]),
        "tags": lines.agent_tags,
        "now_ns": st.sampled_from([0, 8, 99, 1_700_000_000_000_000_000, 999_999_999_999_999_998]),
        "unsigned": st.booleans(),
        "line_bytes_max": st.sampled_from([8, 40, 65_536]),
    },
)


@pytest.fixture(scope="module", params=["scalar", "avx2"])
def compiled(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


def assert_same(compiled: Reader, data: bytes, **options: Any) -> ReadResult:
    expected, found = read(data, **options), compiled(data, **options)
    assert found == expected, f"{data[-2000:]!r} with {options}"
    return expected


@settings(max_examples=examples(700), deadline=None)
@given(data=lines.datagrams, options=options)
@example(data=b'm f="x 2\nm g="y" 3', options={})
@example(data=b'm s="x\nevil v=1\n",n=NaN\nm f=1 1\n', options={})
@example(data=b"m time=1\nm time=1,f=2\nm f=1,time=2,f=3 4\n", options={})
@example(data=b'm\\\\ =" f="x\ny" 5\nm,t=a\\\\ b f="x\ny" 5\nm,a\\\\ b=c f"x=1\n', options={})
@example(data=b"m,t==x,u== f=1\nm,t=a=b f=1\n", options={"tags": [(b"t", b"v"), (b"u", b"w")]})
@example(data=b"m f=18446744073709551615u,g=9223372036854775808u,f=1u 5\n", options={"unsigned": False})
def test_datagrams(compiled: Reader, data: bytes, options: dict[str, Any]) -> None:
    assert_same(compiled, data, **options)


def test_each_value_in_a_plain_line(compiled: Reader) -> None:
    for value in [*lines.NUMBERS, *lines.BOOLEANS, b'"x"', b'"x', b'"\\x"', b'"\\n"', b'x"', b'""y', b""]:
        for line in (
            b"m f=%b",
            b"m f=%b 7",
            b"m,t=v f=1,g=%b,h=2",
            b"m f=%b,f=1 7",
            b"m f=%b\r",
            b" m  f=%b",
        ):
            for unsigned in (True, False):
                assert_same(compiled, line % value + b"\nm f=1 1\n", unsigned=unsigned)


def test_each_timestamp_in_a_plain_line(compiled: Reader) -> None:
    for time in lines.TIMES:
        for precision in ("ns", "us", "ms", "s", "m", "h", "auto"):
            for end in (b"\n", b"\r\n", b" \n", b"", b"\0\n", b" \0\n"):
                assert_same(compiled, b"m f=1 " + time + end, precision=precision)
                assert_same(compiled, b"m,t=v f=.5  " + time + end, precision=precision)


@settings(max_examples=examples(500), deadline=None)
@given(data=st.lists(lines.simple, max_size=4).map(b"\n".join), options=options)
def test_plain_lines(compiled: Reader, data: bytes, options: dict[str, Any]) -> None:
    assert_same(compiled, data, **options)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.binary(max_size=200), options=options)
def test_raw_bytes(compiled: Reader, data: bytes, options: dict[str, Any]) -> None:
    assert_same(compiled, data, **options)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.text('m,= "\\\n\r\t\0a1.i#', max_size=30).map(str.encode), options=options)
def test_structure_bytes_in_any_order(compiled: Reader, data: bytes, options: dict[str, Any]) -> None:
    assert_same(compiled, data, **options)


@settings(max_examples=examples(150), deadline=None)
@given(data=lines.datagrams, before=st.integers(0, 130), windows=st.integers(1, 2))
def test_lines_across_the_border_of_a_window(
    compiled: Reader, data: bytes, before: int, windows: int
) -> None:
    filler = b"#" + b"x" * (windows * WINDOW_BYTES - 2 - before) + b"\n"
    assert_same(compiled, filler + data + b"\nm f=1 1\n")


@settings(max_examples=40, deadline=None)
@given(
    data=lines.datagrams,
    before=st.integers(0, 70),
    text=st.sampled_from([b"x", b"\n", b"\\\\", b'\\"', b"\\x"]),
    options=options,
)
def test_strings_longer_than_a_window(
    compiled: Reader, data: bytes, before: int, text: bytes, options: dict[str, Any]
) -> None:
    long = b'm f="' + text * ((WINDOW_BYTES - before) // len(text)) + b'",g=.5'
    assert_same(compiled, long + b"\n" + data, **options)


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("part", ["measurement", "tag value", "field key", "agent tag"])
def test_longest_key(compiled: Reader, part: str, size: int) -> None:
    """Series key + 4 + field key may be 65,535 bytes long."""
    rest = 65_535 - 4 - 2 + size
    data, tags = {
        "measurement": (b"m" * rest + b" f=1 1\n", ()),
        "tag value": (b"m,t=" + b"v" * (rest - 4) + b" f=1 1\n", ()),
        "field key": (b"m " + b"f" * rest + b"=1,f=2 1\n", ()),
        "agent tag": (b"m" * (rest - 304) + b" f=1 1\n", ((b"t\\x", b"v" * 299),)),
    }[part]
    result = assert_same(compiled, data, tags=tags, line_bytes_max=100_000)
    assert result.dropped == ({"key_too_long": 1} if size > 1 else {})


def test_line_limit_counts_all_but_the_line_feed(compiled: Reader) -> None:
    for line in (b"m f=1 1", b" m f=1 1", b"m f=1 1\r", b"m f=NaN", b'm f="\n'):
        for limit in range(len(line) - 2, len(line) + 2):
            assert_same(compiled, line + b"\nm f=2 2\n", line_bytes_max=limit)


def test_stamps_grow_in_digits(compiled: Reader) -> None:
    for now_ns in (0, 5, 95, 999_999_995, 1_700_000_000_000_000_000):
        result = assert_same(compiled, b"m f=1\nm f=x\nm f=1 7\n" * 12, now_ns=now_ns)
        stamps = [point.time_ns for point in parse(result.body)[::2]]
        assert stamps == list(range(now_ns, now_ns + 12))


def test_many_equal_keys_are_read_in_little_time(compiled: Reader) -> None:
    """A line full of keys must not cost time in the square of their number."""
    fields = b",".join(b"%x=1" % number for number in range(9_000))
    assert compiled(b"m " + fields + b" 1\n" + b"m " + fields + b"," + fields + b" 1\n").accepted == 1
    tags = b"".join(b",%x=1" % number for number in range(7_000))
    assert compiled(b"m" + tags + b" f=1 1\n", line_bytes_max=100_000).accepted == 1


@pytest.mark.parametrize(
    "tag",
    [
        (b"", b"v"),
        (b"k", b""),
        (b"time", b"v"),
        (b"_field", b"v"),
        (b"k", b"v\\"),
        (b"k\\", b"v"),
        (b"k", b"a\\,b"),
        (b"k", b"a\nb"),
        (b"k", b"\xff"),
        (b"k", b"\x7f"),
    ],
)
def test_agent_tags_that_cannot_be_written_are_refused(compiled: Reader, tag: tuple[bytes, bytes]) -> None:
    for read_with in (read, compiled):
        with pytest.raises(ValueError):
            read_with(b"m f=1 1\n", tags=[tag])
        with pytest.raises(ValueError):
            read_with(b"m f=1 1\n", tags=[(b"k", b"v"), (b"k", b"w")])
        with pytest.raises(ValueError):
            read_with(b"m f=1 1\n", precision="d")


@settings(max_examples=examples(200), deadline=None)
@given(data=lines.datagrams, prefix=st.sampled_from([b"", b'm f="\n\\"\n" 1\n' * 40]))
def test_lines_of_a_body_are_counted_and_split(compiled: Reader, data: bytes, prefix: bytes) -> None:
    """What bisects a refused batch finds the lines where the reader ended them."""
    from agent import _core

    body = compiled(prefix + data).body
    texts = [text for text, _ in split(body)]
    assert _core.count_lines(body) == len(texts)
    for count in range(len(texts) + 1):
        assert _core.split_lines(body, count) == len(b"".join(texts[:count]))


def test_every_reason_has_a_line() -> None:
    """The reference's own sanity: one line for each reason, and nothing else is called so."""
    examples = {
        "line_too_long": b"m f=1 " + b"1" * 100,
        "measurement": b",t=v f=1",
        "tag": b"m,t= f=1",
        "tag_duplicate": b"m,t=1,t=2 f=1",
        "tag_reserved": b"m,_field=1 f=1",
        "field": b"m f=",
        "number": b"m f=1e400",
        "string": b'm f="x',
        "timestamp": b"m f=1 1.5",
        "timestamp_range": b"m f=1 9223372036854775807",
        "utf8": b"m\xff f=1",
        "control_character": b"m\x01 f=1",
        "backslash": b'm f="\\n"',
        "key_too_long": b"",
    }
    assert tuple(examples) == REASONS
    for reason, line in examples.items():
        if line:
            result = read(line + b"\nm f=1 1\n", line_bytes_max=100)
            assert (result.dropped, result.body) == ({reason: 1}, b"m f=1 1\n")


@settings(max_examples=examples(300), deadline=None)
@given(data=lines.datagrams, options=options)
def test_reference_reads_its_own_output_as_it_is(data: bytes, options: dict[str, Any]) -> None:
    result = read(data, **options)
    again = read(result.body)
    assert again == ReadResult(result.body, result.accepted, result.accepted)
    assert len(parse(result.body)) == result.accepted
