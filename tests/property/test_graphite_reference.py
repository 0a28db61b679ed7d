"""The compiled Graphite reader and its reference give the same lines and counts, whatever the bytes."""

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent._core import read_format
from agent.templates import compile_templates
from tests.conftest import examples
from tests.reference import graphite
from tests.reference.graphite import Template

NOW_NS = 1_700_000_000_000_000_000

NODES = st.sampled_from(["a", "b", "cpu", "web1", "", "time", "#x", "é", "x y", "q\\", "=", "a,b"])
PATHS = st.lists(NODES, min_size=1, max_size=6).map(".".join)
TAGS = st.lists(
    st.sampled_from(["a=b", "a=c", "dc=eu", "time=1", "k=", "=v", "k", "x=y=z", "a\\=b,c", 'q="', "é=ü"]),
    max_size=4,
)
VALUES = st.one_of(
    st.sampled_from(
        ["1", "-2.5", "+3", "1e5", ".5", "5.", "nan", "inf", "1e400", "0x1", "1_000", "-", "007", "-0"]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
TIMES = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "0",
            "-1",
            "-1.0",
            "-1.00000000000001",
            "4294.943",
            "1.7e9",
            "9223372036",
            "9223372037",
            "1e30",
            "1e-12",
        ]
    ),
    st.sampled_from(
        ["-5", "00017", "+17", "1_0", "x", "17.1234567899", "-0.25e1", "9999999999999999999999", "1e400"]
    ),
    st.integers(-(2**40), 2**40).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**10), max_value=10**10).map(
        str
    ),
)
BLANKS = st.sampled_from([" ", "  ", "\t", " \t ", "\r "])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    words = [";".join([draw(PATHS), *draw(TAGS)]), draw(VALUES), draw(TIMES)]
    text = draw(BLANKS).join(word for word in words if word is not None)
    return (
        draw(st.sampled_from(["", " ", "\t"])) + text + draw(st.sampled_from(["\n", "\r\n", " \n"]))
    ).encode()


BYTES = st.binary(max_size=60).map(lambda text: text.replace(b"\x00", b";")) | st.text(
    'ab.;= \t\n\r\\,"#é\x00\x7f1-+e', max_size=40
).map(str.encode)
DATA = st.lists(lines() | BYTES, max_size=6).map(b"".join)

FILTERS = st.lists(st.sampled_from(["a", "b", "cpu", "web1", "*", "é"]), max_size=3)
PARTS = st.lists(st.sampled_from(["", "measurement", "field", "host", "dc", "time", "a b"]), max_size=5)
LAST = st.sampled_from(["measurement", "measurement*", "field*", "host"])


@st.composite
def templates(draw: st.DrawFn) -> Sequence[Template]:
    found: dict[tuple[str, ...], Template] = {}
    for _ in range(draw(st.integers(0, 5))):
        parts = (*draw(PARTS), draw(LAST))
        if "measurement" in parts or "measurement*" in parts:
            constants = tuple(draw(st.dictionaries(st.sampled_from(["host", "env"]), st.just("v"))).items())
            key = tuple(draw(FILTERS))
            found[key] = (key, parts, constants)
    return list(found.values())


def agree(
    data: bytes, chosen: Sequence[Template], join: str, precision: str, tags: Sequence[tuple[bytes, bytes]]
) -> None:
    compiled = compile_templates([spelled(one) for one in chosen], join)
    wanted = graphite.read(
        data, templates=chosen, join=join, precision=precision, tags=tags, now_ns=NOW_NS, line_bytes_max=200
    )
    got = read_format(
        data, "graphite", graphite=compiled, precision=precision, tags=tags, now_ns=NOW_NS, line_bytes_max=200
    )
    assert got["body"] == wanted.body
    assert got["dropped"] == wanted.dropped
    assert (got["received"], got["accepted"]) == (wanted.received, wanted.accepted)
    assert got["received"] == got["accepted"] + sum(got["dropped"].values())


def spelled(template: Template) -> str:
    nodes, parts, constants = template
    tags = ",".join(f"{name}={value}" for name, value in constants)
    # A part with a space in it has no spelling; any other character will do for it.
    return " ".join(filter(None, [".".join(nodes), ".".join(parts).replace(" ", "-"), tags]))


@settings(max_examples=examples(1500), deadline=None)
@given(
    DATA, st.sampled_from(["s", "ms", "us", "ns"]), st.sampled_from([(), ((b"dc", b"eu 1"), (b"r", b"x"))])
)
@example(b'\\\\"a 1\n\\\\\\"b;t=\\\\"c 1\n', "s", ())
@example(b"a 1 9223372036.854775806\na 1 9223372036.854775807\n", "s", ())
def test_without_templates(data: bytes, precision: str, tags: Sequence[tuple[bytes, bytes]]) -> None:
    agree(data, (), "_", precision, tags)


@settings(max_examples=examples(1500), deadline=None)
@given(DATA, templates(), st.sampled_from(["_", "", ".", "--------"]))
def test_with_templates(data: bytes, chosen: Sequence[Template], join: str) -> None:
    chosen = [(nodes, tuple(part.replace(" ", "-") for part in parts), tags) for nodes, parts, tags in chosen]
    agree(data, chosen, join, "s", ((b"dc", b"eu"),))


def test_long_names_and_many_tags() -> None:
    many = b";".join([b"m", *(b"k%d=v" % index for index in range(100))])
    few = b";".join([b"m", *(b"k%d=v" % index for index in range(99))])
    twice = b";".join([b"m", *(b"k%d=v%d" % (index % 40, index) for index in range(2000))])
    data = b" 1 1\n".join(
        [many, few, twice, b"n" * 65_000 + b";a=" + b",," * 700, b"n" * 65_000, b"x" * 70_000, b""]
    )
    for tags in ((), ((b"k3", b"agent"),), ((b"zone", b"z"),)):
        wanted = graphite.read(data, tags=tags, now_ns=NOW_NS, line_bytes_max=68_000)
        got = read_format(data, "graphite", tags=tags, now_ns=NOW_NS, line_bytes_max=68_000)
        assert (got["body"], got["dropped"]) == (wanted.body, wanted.dropped)
