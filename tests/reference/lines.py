"""Hypothesis strategies for the line reader: lines that are nearly right, in datagrams, beside raw bytes.

Random bytes hardly ever get past the first comma, so lines are put together from parts, most of them valid,
of which each has its traps: escapes, numbers at their limits, quotes and line feeds in the wrong place.
"""

from hypothesis import strategies as st

NAME_PARTS = (
    [b"a", b"b", b"cpu", b"\xc3\xa9"] * 4
    + [b"\\,", b"\\ ", b"\\=", b"\\\\", b"\\a", b"\\\\,", b"\\\\ ", b"\\\\=", b"\\\\\\ "]
    + [
        b'"',
        b"=",
        b"time",
        b"_field",
        b"#",
        b"\\",
        b'\\"',
        b"\x7f",
        b"\x00",
        b"\t",
        b"\r",
        b"\xff",
        b"\n",
        b",",
    ]
)
KEYS = [b"k", b"time", b"times", b"_measurement", b"_field", b"_time"]
STRING_PARTS = [b"x", b" ", b",", b"=", b"#", b"\xc3\xa9", b"plain text", b"m f=1 1"] * 2 + [
    b'\\"',
    b"\\\\",
    b"\\",
    b"\\n",
    b"\\x",
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\x7f",
    b"\xff",
    b'"',
]
NUMBERS = (
    b"0 1 1.5 -2.25 1. .5 -.5 -1. 1.e5 .5E-3 1e5 1E+05 1e-400 1e400 -1e400 00.50 -0 -0.0 0e0 9e999999999999 "
    b"1_000 1_0.0_1 1e1_0 1__0 _1 1_ 1._0 0x10 0x1p4 nan NaN inf -Inf +1 - . -. e5 1e 1e+ 1.2.3 1-2 1e5.5 "
    b"1.7976931348623157e308 1.7976931348623158e308 1.7976931348623159e308 179769313486231580793e289 "
    b"0i -0i 7i -7i 007i 1.0i i -i 1ii 1i2 1_0i 9223372036854775807i 9223372036854775808i "
    b"-9223372036854775808i -9223372036854775809i 00009223372036854775807i 99999999999999999999999i "
    b"0u 7u 007u -1u -0u u 1.0u 9223372036854775807u 9223372036854775808u 18446744073709551615u "
    b"18446744073709551616u 99999999999999999999999u 0000018446744073709551615u"
).split()
BOOLEANS = b"t T true True TRUE f F false False FALSE tr tRUE truE True1 falsee".split()
TIMES = (
    b"0 1 -1 1700000000 1700000000000000000 007 -007 -0 00000000000000000000001 1e9 1.5 - -- 1-1 +1 1i "
    b"9223372036854775806 9223372036854775807 9223372036854775808 -9223372036854775806 -9223372036854775807 "
    b"-9223372036854775808 9223372036854775 9223372036854776 9223372036 9223372037 9223372036854 -9223372036 "
    b"-9223372037 9223372036855 -9223372036854775 -9223372036854776 99999999999999999999"
).split()


def often(usual: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    """*usual* mostly, else one of *others*."""
    return st.sampled_from([usual] * (15 * len(others)) + list(others))


def parts(choice: list[bytes], size_min: int = 0, size_max: int = 4) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(choice), min_size=size_min, max_size=size_max).map(b"".join)


plain = st.sampled_from([b"a", b"b", b"host", b"m", b"a\\ b", b"a\\=b", b"\xc3\xa9\\,", b"c\\d"])
names = st.integers(0, 30).flatmap(
    lambda die: parts(NAME_PARTS, 1) if die == 17 else st.sampled_from(KEYS) if die == 13 else plain
)
strings = parts(STRING_PARTS).map(lambda text: b'"' + text + b'"')
floats = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode())
# Decimal digits on the very edge between the greatest float and infinity, and between two floats.
long_floats = st.tuples(
    st.integers(10**17, 10**60), st.integers(0, 60), st.integers(-340, 310), st.sampled_from([b"", b"-"])
).map(lambda t: t[3] + b"%d" % t[0] + b"." + b"0" * t[1] + b"1e%d" % t[2])
integers = st.tuples(
    st.sampled_from([0, 2**31, 2**53, 2**63, 2**64, 10**18, 10**19]),
    st.integers(-3, 3),
    st.sampled_from("iu"),
).map(lambda t: b"%d" % (t[0] + t[1]) + t[2].encode())
values = st.one_of(
    st.sampled_from(NUMBERS),
    floats,
    integers,
    strings,
    strings,
    st.sampled_from(BOOLEANS),
    long_floats,
    names,
)
separators = often(b" ", b"  ", b"\t", b" \t", b" \x00", b"\t\x00 ", b"", b"\r", b"\x0b")
tags = st.tuples(often(b",", b", ", b",,", b" ,"), names, often(b"=", b"==", b"", b" ="), names).map(b"".join)
fields = st.tuples(names, often(b"=", b"", b"= ", b"=="), values).map(b"".join)
times = st.one_of(
    st.just(b""),
    st.tuples(separators, st.sampled_from(TIMES)).map(b"".join),
    st.integers(0, 2**63).map(b" %d".__mod__),
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """One line without its end, most of it valid; now and then with a byte in the wrong place."""
    line: bytes = draw(often(b"", b" ", b"\t", b"\x00 ", b"#", b" # ")) + draw(names)
    line += b"".join(draw(st.lists(tags, max_size=3)))
    line += draw(separators)
    line += draw(often(b",", b",,", b", ", b" ,")).join(draw(st.lists(fields, min_size=1, max_size=3)))
    line += draw(times)
    line += draw(often(b"", b" ", b"\t", b"\x00", b",", b" 1", b"\r", b" \r"))
    if draw(st.sampled_from([False] * 15 + [True])):
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.sampled_from(NAME_PARTS)) + line[at + draw(st.integers(0, 2)) :]
    return line


simple = st.builds(
    lambda tags, fields, time: b"cpu" + b"".join(tags) + b" " + b",".join(fields) + time,
    st.lists(
        st.sampled_from([b",host=a", b",dc=eu-1", b",k=v", b",time=1", b',q="', b",\xc3\xa9=\xc3\xa9"]),
        max_size=3,
    ),
    st.lists(
        st.tuples(st.sampled_from([b"f=", b"g=", b"value=", b"time=", b"some_field_name="]), values).map(
            b"".join
        ),
        min_size=1,
        max_size=4,
    ),
    times,
)
"""Lines without escapes: what a fast path takes, and must not take too much of."""

crowds = st.tuples(
    st.integers(0, 140),
    st.integers(0, 140),
    st.lists(st.integers(0, 140), max_size=3),
    st.sampled_from([b"1", b".5"]),
).map(
    lambda t: (
        b"m"
        + b"".join(b",t%d=v" % number for number in range(t[0]))
        + b" "
        + b",".join(b"f%d=" % number + t[3] for number in [*range(t[1] + 1), *t[2]])
    )
)
"""Lines of many tags and many fields, some of which come twice."""

datagrams = st.lists(
    st.tuples(
        st.one_of(simple, simple, lines(), lines(), lines(), crowds, st.binary(max_size=40)),
        often(b"\n", b"\r\n", b"\r", b"\n\n", b""),
    ).map(b"".join),
    max_size=5,
).map(b"".join)

agent_tags = st.lists(
    st.tuples(
        st.sampled_from([b"host", b"dc", b"k", b"a b", b"a=b", b"x,y", b'q"', b"back\\slash", b"\xc3\xa9"]),
        st.sampled_from([b"v", b"eu 1", b"a=b,c", b'"', b"c:\\dir", b"x" * 300]),
    ),
    max_size=4,
    unique_by=lambda tag: tag[0],
)
