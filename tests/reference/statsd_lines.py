"""Hypothesis strategies for the StatsD reader: lines that are nearly right, in datagrams, beside raw bytes.

Few names and few tags come again and again, so that series meet; each part has its traps.
"""

from hypothesis import strategies as st

from tests.reference.lines import often, parts

NAME_PARTS = [b"a", b"b", b".", b"_", b"-", b";", b"=", b"/", b" ", b"\t", b"9", b"Z", b"\xc3\xa9"] * 2 + [
    b"#",
    b",",
    b"[",
    b"]",
    b"|",
    b"\\",
    b'"',
    b"\0",
    b"\x01",
    b"\x7f",
    b"\xff",
    b"\r",
    b"\xc2\xa0",
    b"_e{",
    b"_sc",
]
TAG_PARTS = [b"a", b"b", b"9", b".", b"\xc3\xa9", b"/"] * 3 + [
    b" ",
    b"=",
    b"==",
    b'"',
    b"\\",
    b"\\\\",
    b"\\ ",
    b"\\=",
    b"\\n",
    b"\t",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xed\xa0\x80",
    b":",
    b"#",
    b"[",
    b"]",
    b"@",
    b"T1",
]
NAMES = [b"a", b"b", b"a.b", b"a_b", b"page.views", b"x y", b"x/y", b"x" * 40]
KEYS = [b"k", b"host", b"env", b"dc", b"k k", b"time", b"_field", b"metric_type", b"metric_type_", b"source"]
VALUES = [b"v", b"w", b"web-1", b"true", b"a b", b"a=b", b"c:\\dir", b"\xc3\xa9", b"\\\\share\\d", b"x" * 40]
TYPES = [b"c", b"g", b"ms", b"h", b"d", b"s"]
NUMBERS = (
    b"0 1 -1 +1 2 3.5 -2.25 +0.5 1. .5 -.5 007 100 1e3 1E+3 1e-3 4.6968460083008E-5 320 9007199254740993 "
    b"9223372036854775807 9223372036854775808 18446744073709551616 123456789012345678901234567890 -0 1e15 "
    b"123456789012345 1234567890123456 0.1 0.000001 12345.678901234567 1e22 1e23 999999999999999.9"
).split()
STRANGE_NUMBERS = [
    *b"1e400 -1e400 1e308 -1e308 1.7976931348623157e308 1.7976931348623159e308 1e-400 5e-324 1e-310".split(),
    *b"0x10 0b1 inf Infinity nan NaN 1_000 1e 1e+ e5 . - + -. ++1 +-1 1.2.3 1a a 1,5 --1 1e5.5".split(),
    *[b" 5 ", b"\t1", b" ", b"", b"1\0", b"- 1"],
]
RATES = b"0.1 0.5 1 1.0 .25 0.3 0.001 0.7 1e-3 1.".split()
STRANGE_RATES = [
    *b"0 2 -0.5 +0.5 1.0000001 1e-400 5e-324 1e-9 nan inf 0.1.1 0.1@ 0x1 @0.1".split(),
    *[b"", b" 0.5"],
]
TIMES = b"1 1656581400 9223372036 0001656581400".split()
STRANGE_TIMES = [
    *b"0 -1 +1 1.0 1e9 9223372037 99999999999999999999999 abc 1656581400000".split(),
    *[b"", b" 1"],
]
UNKNOWN_PARTS = [
    b"c:abc",
    b"c:in-123",
    b"e:it-false,cn-x",
    b"card:low",
    b"x",
    b"",
    b":",
    b"1.0",
    b"#x@",
    b"t1",
]

names = st.integers(0, 9).flatmap(lambda die: parts(NAME_PARTS, 1) if die == 7 else st.sampled_from(NAMES))
keys = st.integers(0, 9).flatmap(lambda die: parts(TAG_PARTS) if die == 7 else st.sampled_from(KEYS))
values = st.integers(0, 9).flatmap(lambda die: parts(TAG_PARTS) if die == 7 else st.sampled_from(VALUES))
floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
moderate = st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: repr(number).encode())
digits = st.tuples(st.integers(-(10**18), 10**18), st.integers(0, 18)).map(
    lambda t: b"%d.%0*d" % (t[0] // 10**9, max(t[1], 1), abs(t[0]) % 10 ** max(t[1], 1))
)
numbers = st.integers(0, 19).flatmap(
    lambda die: (
        st.sampled_from(STRANGE_NUMBERS)
        if die == 7
        else floats.map(lambda number: repr(number).encode())
        if die == 13
        else st.one_of(st.sampled_from(NUMBERS), moderate, digits)
    )
)
members = st.one_of(
    st.sampled_from([b"u1", b"u2", b"u:3", b"+10", b"\xff\x00", b"a b", b"1"]),
    st.integers(0, 20).map(lambda number: b"%d" % number),
)


def mostly(usual: list[bytes], strange: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.integers(0, 15).flatmap(lambda die: st.sampled_from(strange if die == 7 else usual))


rates = mostly(RATES, STRANGE_RATES).map(b"@".__add__)
times = mostly(TIMES, STRANGE_TIMES).map(b"T".__add__)
dog_item = st.tuples(often(b"", b"#"), keys, often(b":", b""), values).map(
    lambda t: t[0] + t[1] + (t[2] + t[3] if t[2] else b"")
)
dog_tags = st.lists(dog_item, max_size=4).flatmap(
    lambda items: often(b",", b",,").map(lambda comma: b"#" + comma.join(items))
)
head_items = st.lists(st.tuples(keys, often(b"=", b"", b"=="), values).map(b"".join), max_size=3).map(
    b",".join
)
heads = st.tuples(names, names, head_items, st.integers(0, 11)).map(
    lambda t: {
        1: t[0] + b"," + t[2],
        2: t[0] + b"#" + t[2],
        3: t[0] + b"[" + t[2] + b"]",
        4: t[0] + b"[" + t[2] + b"]" + t[1],
        5: b"[" + t[2] + b"]" + t[0],
        6: t[0] + b"[" + t[2],
        7: t[0] + b"]" + t[1] + b"[" + t[2],
    }.get(t[3], t[0])
)


@st.composite
def groups(draw: st.DrawFn) -> bytes:
    """Values, type, perhaps a rate."""
    kind = draw(st.sampled_from(TYPES))
    several = draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
    elements = [draw(members if kind == b"s" else numbers) for _ in range(several)]
    group = b":".join(elements) + b"|" + draw(often(kind, b"x", b"", b"C", kind + b" "))
    if draw(st.sampled_from([False, False, False, True])):
        group += b"|" + draw(rates)
    return group


@st.composite
def metrics(draw: st.DrawFn) -> bytes:
    """A metric line without its end, most of it valid; now and then with a byte in the wrong place."""
    line = draw(heads) + draw(often(b":", b"")) + draw(groups())
    for _ in range(draw(st.sampled_from([0] * 10 + [1, 1, 2]))):
        line += draw(st.sampled_from([b":", b"|:"])) + draw(groups())
    some = st.one_of(dog_tags, dog_tags, dog_tags, rates, times, st.sampled_from(UNKNOWN_PARTS))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2, 3]))):
        line += b"|" + draw(some)
    if draw(st.integers(0, 15)) == 7:
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.sampled_from(NAME_PARTS)) + line[at + draw(st.integers(0, 2)) :]
    return line


TEXTS = [
    b"title",
    b"a b",
    b"x,y=z",
    b"#x",
    b"|",
    b":",
    b"\xc3\xa9",
    b"\\n",
    b"\\",
    b'"',
    b"\t",
    b"\xff",
    b" ",
]
event_parts = st.one_of(
    dog_tags,
    st.sampled_from(
        b"d:1656581400 d:x d:99999999999999999999 d: p:low p:normal p:high t:error t:warning t:success "
        b"t:info t:bad h:web1 h: h:a,b k:key k: s:src c:abc x y:z m:msg m:bad\\nnews".split()
    ),
)
event_rests = st.lists(event_parts, max_size=4).map(lambda some: b"".join(b"|" + part for part in some))


@st.composite
def events(draw: st.DrawFn) -> bytes:
    title, text = draw(parts(TEXTS, 1, 3)), draw(parts(TEXTS, 0, 3))
    lengths = (
        len(title) + draw(st.sampled_from([0] * 12 + [1, -1])),
        len(text) + draw(often(b"", b"x")).count(b"x"),
    )
    header = b"_e{%d,%d}:" % (max(lengths[0], 0), lengths[1])
    return header + title + draw(often(b"|", b"")) + text + draw(event_rests)


checks = st.tuples(
    often(b"_sc|", b"_sc"),
    parts(TEXTS, 1, 3),
    mostly([b"|0", b"|1", b"|2", b"|3"], [b"|4", b"|00", b"|", b"", b"|-1", b"|ok"]),
    event_rests,
).map(b"".join)

simple = st.tuples(
    st.sampled_from(NAMES[:4]),
    st.sampled_from([b":1|c", b":2|c|@0.1", b":320|ms", b":3.5|ms|@0.5", b":7|g", b":+2|g", b":-2|g"])
    | members.map(lambda member: b":" + member + b"|s")
    | st.tuples(moderate, st.sampled_from(TYPES[:5])).map(lambda t: b":" + t[0] + b"|" + t[1]),
    st.sampled_from([b"", b"|#k:v", b"|#k:v,env:w", b"|#env:w,k:v", b"|#k:v,k:w", b"|#k"]),
).map(b"".join)
"""What a fast path takes, and must not take too much of."""

crowds = st.tuples(
    st.sampled_from([1, 20, 97, 98, 99, 100, 127, 128, 129, 200]),
    st.sampled_from([1, 20, 60, 64, 4_000, 8_180]),
    st.sampled_from([b"v", b" ", b"="]),
    st.booleans(),
).map(
    lambda t: (
        b"a:1|c|#"
        + b",".join(
            b"k%d:" % (number if t[3] else 0) + t[2] * (t[1] // t[0] + 1) + b"v" for number in range(t[0])
        )
    )
)
"""Many tags, or long ones, or many times the same."""

lines = st.sampled_from(
    [simple] * 8 + [metrics()] * 8 + [events()] * 2 + [checks] * 2 + [st.binary(max_size=30), crowds]
).flatmap(lambda strategy: strategy)
ends = often(b"\n", b"\r\n", b"\n\n", b" \n", b"\0\n", b"\0", b"")
datagrams = st.lists(st.tuples(often(b"", b" ", b"\t"), lines, ends).map(b"".join), max_size=6).map(b"".join)
streams = st.lists(datagrams, max_size=4)
"""Datagrams one behind the other, within one interval."""
dialects = often(
    b"auto",
    b"dogstatsd",
    b"influxdb",
    b"librato",
    b"signalfx",
    b"none",
    b"influxdb+signalfx",
    b"dogstatsd+librato",
).map(bytes.decode)
