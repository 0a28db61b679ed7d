"""The encoding ``pb``: Google's runtime reads what the oracle says, and every form of it is the same."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import _core
from tests.conftest import examples
from tests.reference import lines, remote_write
from tests.reference.remote_write import Sample
from tests.reference.samples import samples

options = st.fixed_dictionaries(
    {},
    optional={
        "precision": st.sampled_from(["ns", "us", "ms", "s"]),
        "tags": lines.agent_tags,
        "now_ns": st.sampled_from([0, 999_999, 1_700_000_000_000_999_999, 999_999_999_999_999_998]),
        "isa": st.sampled_from(["scalar", None]),
    },
)

# Names that are near each other, and near what may not stand in one.
names = st.sampled_from(
    rb"a A a.b a-b a_b a:b 1a _ __name__ __name_ __nam __name__x Z value a\,b a\=b 9 _1 x\y val\_ue".split()
)
near = st.tuples(
    names,
    st.lists(st.tuples(names, names), max_size=6),
    st.lists(st.tuples(names, lines.values), min_size=1, max_size=6),
    lines.times,
).map(
    lambda t: (
        t[0]
        + b"".join(b",%b=%b" % tag for tag in t[1])
        + b" "
        + b",".join(b"%b=%b" % field for field in t[2])
        + t[3]
        + b"\n"
    )
)


def as_text(data: bytes, **options: Any) -> bytes:
    """The lines that are accepted, in the form that other tests hold to the reference."""
    return bytes(_core.read_lines(data, **options)["body"])


def check(data: bytes, **options: Any) -> list[Sample]:
    text = as_text(data, **options)
    by_line, left_out = samples(text)
    expected = [sample for line in by_line for sample in line]
    result = _core.read_lines(data, encoding="pb", **options)
    found = remote_write.samples(result["body"])
    assert found == expected, f"{data[-2000:]!r} with {options}"
    assert (result["metrics"], result["left_out"]) == (len(expected), left_out)
    # -0.0 == 0.0, and is not the same.
    assert [str(one.value) for one in found] == [str(one.value) for one in expected]
    return found


@settings(max_examples=examples(150), deadline=None)
@given(data=st.one_of(lines.datagrams, st.lists(near, max_size=4).map(b"".join)), options=options)
@example(data=b"m,a.b=1,a-b=2,__name__=x v.x=1,v-x=2,value=3 5\n", options={"tags": [(b"a_b", b"3")]})
@example(data=b"1m,1t=1,Z=2 f=-1 -1\nm f=1 -999999\nm f=1 -1000001\n", options={})
@example(data=b'm f=18446744073709551615u,g=9007199254740993i,h=t,i=F,j="s" 1\n', options={})
def test_googles_runtime_reads_what_the_oracle_says(data: bytes, options: dict[str, Any]) -> None:
    check(data, **options)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.one_of(lines.datagrams, st.lists(near, max_size=4).map(b"".join)))
def test_a_body_as_lines_and_as_version_2_is_the_same(data: bytes) -> None:
    body = _core.read_lines(data, encoding="pb")["body"]
    found = remote_write.samples(body)
    assert remote_write.samples_2(_core.request_of_samples(body)) == found
    text = _core.lines_of_samples(body)
    assert _core.count_lines(text) == _core.count_samples(body) == len(found)
    assert _core.samples_of_lines(text) == body
    assert as_text(text) == text, "the lines are in the form that we write"
    assert _core.samples_of_lines(as_text(data)) == body
    for count in range(len(found) + 1):
        at = _core.split_samples(body, count)
        assert remote_write.samples(body[:at]) == found[:count]
        assert remote_write.samples(body[at:]) == found[count:]


@settings(max_examples=examples(60), deadline=None)
@given(data=near, damage=st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=3)))
def test_a_damaged_body_is_refused_or_is_another_one(data: bytes, damage: tuple[int, bytes]) -> None:
    body = bytearray(_core.read_lines(data, encoding="pb")["body"])
    if not body:
        return
    at, with_what = damage[0] % len(body), damage[1]
    body[at : at + 1] = with_what
    for read in (_core.count_samples, _core.lines_of_samples, _core.request_of_samples):
        try:
            read(bytes(body))
        except ValueError as error:
            assert "damaged" in str(error)


def test_a_body_cut_at_every_byte_is_damaged() -> None:
    body = _core.read_lines(b"cpu,host=a,dc=b x=1,y=2.5 1700000000000000000\n", encoding="pb")["body"]
    ends = {0, _core.split_samples(body, 1), len(body)}
    for at in range(len(body) + 1):
        if at in ends:
            assert remote_write.samples_2(_core.request_of_samples(body[:at])) == remote_write.samples(
                body[:at]
            )
            continue
        for read in (_core.count_samples, _core.lines_of_samples, _core.request_of_samples):
            with pytest.raises(ValueError, match="damaged"):
                read(body[:at])


def test_any_number_of_tags_and_fields_at_a_bounded_cost() -> None:
    tags = b"".join(b",%c%d.x=v" % (97 + i * 7 % 26, i) for i in range(6000))
    found = check(b"m" + tags + b" f=1 1\n")
    assert len(found) == 1 and len(found[0].labels) == 6001
    fields = b",".join(b"f%d.x=%d" % (i % 4000, i) for i in range(4800))
    assert len(check(b"m " + fields + b" 1\n")) == 4000


def test_a_line_that_would_take_too_much_is_dropped_whole() -> None:
    tags = b"".join(b",t%04d=%s" % (i, b"v" * 90) for i in range(300))
    line = b"m" + tags + b" " + b",".join(b"f%d=1" % i for i in range(200)) + b" 1\n"
    result = _core.read_lines(line + b"m f=1 1\n", encoding="pb")
    assert (result["accepted"], result["dropped"], result["metrics"]) == (1, {"ring_full": 1}, 1)
    with pytest.raises(ValueError, match="4 MiB"):
        _core.samples_of_lines(line)
