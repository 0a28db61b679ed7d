"""The rules of the line reader, each by an example: what comes in, what is written, what is dropped and why.

Lines without a timestamp are stamped 1, 2, ... here. All readers must agree, the reference and the kernels.
"""

import pytest

from tests.reference.line_protocol import read as reference
from tests.reference.readers import NAMES, Reader, reader

Example = tuple[bytes, bytes, dict[str, int]]

# fmt: off
ACCEPTED = [
    # Blank lines and comments are not lines, and a comment ends at its LF whatever it holds.
    (b"", b""),
    (b"\n \n\t\0\n\r\n\r", b""),
    (b'# f="\n m f=1\n #\xff\0\n', b"m f=1 1\n"),
    # Separators become one space; NUL is taken for a blank only behind another one, or before the line.
    (b" \t\0m \0 f=1\t\t7\t \r\n", b"m f=1 7\n"),
    (b"m f=1 \0\n", b"m f=1 1\n"),
    (b"m\tf=1\r", b"m f=1 1\n"),
    # Names stay as they are; escapes need not be taken apart.
    (b'm\\ n\\,o=p"q,t\\=\\ \\,"=v\\=\\ \\," f=1', b'm\\ n\\,o=p"q,t\\=\\ \\,"=v\\=\\ \\," f=1 1\n'),
    (b'm f\\=\\ \\,g=1,h"=2,\\i\\\\\\ j=3', b'm f\\=\\ \\,g=1,h"=2,\\i\\\\\\ j=3 1\n'),
    (b"m\\n\\\\o,t\\\\\\ u=a\\\\,b\\x\\\\= f=1", b"m\\n\\\\o,t\\\\\\ u=a\\\\,b\\x\\\\= f=1 1\n"),
    (b"m\xc2\x80\xed\x9f\xbf f=1", b"m\xc2\x80\xed\x9f\xbf f=1 1\n"),
    # An equals sign may begin a tag's value.
    (b"m,t==x,u== f=1", b"m,t=\\=x,u=\\= f=1 1\n"),
    # Numbers: a digit on both sides of the point, no leading zeros in integers, no underscores.
    (b"m a=1.,b=.5,c=-.5,d=1.e5,e=.5E-3", b"m a=1.0,b=0.5,c=-0.5,d=1.0e5,e=0.5E-3 1\n"),
    (b"m a=1_000,b=1_0.0_1e1_0", b"m a=1000,b=10.01e10 1\n"),
    (b"m a=007,b=-0,c=-0.0,d=1e-400,e=1e+05", b"m a=007,b=-0,c=-0.0,d=1e-400,e=1e+05 1\n"),
    (b"m a=007i,b=-0i,c=-9223372036854775808i", b"m a=7i,b=0i,c=-9223372036854775808i 1\n"),
    (b"m a=1.7976931348623158e308", b"m a=1.7976931348623158e308 1\n"),
    (b"m a=00018446744073709551615u,b=0u", b"m a=18446744073709551615u,b=0u 1\n"),
    (b"m a=t,b=T,c=true,d=True,e=TRUE", b"m a=t,b=T,c=true,d=True,e=TRUE 1\n"),
    (b"m a=f,b=F,c=false,d=False,e=FALSE", b"m a=f,b=F,c=false,d=False,e=FALSE 1\n"),
    # Strings may hold anything; a backslash that escapes nothing is doubled.
    (b'm f="",g="a\\"b\\\\c"', b'm f="",g="a\\"b\\\\c" 1\n'),
    (b'm f="\\x\\\n\\,\\\\\\y"', b'm f="\\\\x\\\\\n\\\\,\\\\\\\\y" 1\n'),
    (b'm f="a\nm g=1\n\0\x7f\r\t,= #" 5\nm h=1', b'm f="a\nm g=1\n\0\x7f\r\t,= #" 5\nm h=1 1\n'),
    # Of several fields of one key the last stays, in its place.
    (b"m f=1,g=2,f=3i", b"m g=2,f=3i 1\n"),
    (b"m time=1,f=2", b"m time=1,f=2 1\n"),
    # Timestamps are plain decimal; without one, the next stamp.
    (b"m f=1 007\nm f=1 -0\nm f=1 -5", b"m f=1 7\nm f=1 0\nm f=1 -5\n"),
    (b"m f=1 -00000000000000000000001", b"m f=1 -1\n"),
    (b"m f=1 9223372036854775806", b"m f=1 9223372036854775806\n"),
    (b"m f=1 -9223372036854775806", b"m f=1 -9223372036854775806\n"),
    (b"m f=1\nm f=1 9\nm f=1", b"m f=1 1\nm f=1 9\nm f=1 2\n"),
    # A space behind two backslashes begins the fields for the splitter of InfluxDB 1 and 2: harmless here.
    (b'm,t=a\\\\ b,u=" f="x\ny"', b'm,t=a\\\\ b,u=" f="x\ny" 1\n'),
    (b"m\\\\ =,t=v f=1", b"m\\\\ =,t=v f=1 1\n"),
]

DROPPED = {
    "measurement": [b",t=v f=1", b" ,t=v f=1", b","],
    "tag": [
        *(b"m" + b"".join(b",t%d=v" % number for number in range(n)) + b" f=1" for n in (100, 200, 400)),
        b"m, f=1", b"m,t f=1", b"m,t= f=1", b"m,t=,u=1 f=1", b"m,=v f=1", b"m,,t=v f=1", b"m,t=v, f=1",
        b"m,t=a=b f=1", b"m,t==a=b f=1", b"m,t=\tf=1", b"m,t\tu=v f=1", b"m,t", b"m,t=", b"m,",
    ],
    "tag_duplicate": [b"m,t=1,t=2 f=1", b"m,t=1,u=1,t=1 f=1", b"m,a\\ b=1,a\\ b=2 f=1", b"m,t=1,t= f=1"],
    "tag_reserved": [b"m,time=1 f=1", b"m,_measurement=1 f=1", b"m,_field=1 f=1", b"m,time= f=1"],
    "field": [
        b"m", b"m ", b"m,t=v", b"m f", b"m f=", b"m f= 1", b"m =1", b"m f=1,", b"m f=1,,g=1", b"m f=1, g=1",
        b"m f=x", b"m f=tr", b"m f=truE", b"m f=truex", b"m f,g=1", b"m f g=1", b"m,t=a\tb f=1", b"m f=\r1",
        b"m f=e5", b"m time=1", b"m time=1,time=2 x",
    ],
    "number": [
        b"m f=NaN", b"m f=nan", b"m f=Inf", b"m f=-inf", b"m f=+1", b"m f=-", b"m f=.", b"m f=-.", b"m f=1e",
        b"m f=1e400", b"m f=1.7976931348623159e308", b"m f=-1e309", b"m f=1" + b"0" * 309, b"m f=0x1p4",
        b"m f=1e5i", b"m f=1i1", b"m f=i", b"m f=1.0i", b"m f=-1u", b"m f=-0u", b"m f=1_", b"m f=1__0",
        b"m f=1_0i", b"m f=1\0", b"m f=1\r1", b"m f=1\x0b7", b'm f=1"', b"m f=1.2.3", b"m f=1-2",
        b"m f=9223372036854775808i", b"m f=-9223372036854775809i", b"m f=18446744073709551616u",
        b"m f=" + b"9" * 5000 + b"i",
    ],
    "string": [
        b'm f="', b'm f="x', b'm f="x\\"', b'm f="x"y', b'm f="x""', b'm f="x"=', b'm f="x"\r1',
    ],
    "timestamp": [
        b"m f=1 x", b"m f=1 1.5", b"m f=1 1e9", b"m f=1 -", b"m f=1 +1", b"m f=1 1 2", b"m f=1 1 \0",
        b"m f=1 1\0", b"m f=1 ,g=2", b"m f=1 \x0b", b"m f=1 \r1",
    ],
    "timestamp_range": [
        b"m f=1 9223372036854775807", b"m f=1 -9223372036854775807", b"m f=1 9223372036854775808",
        b"m f=1 99999999999999999999", b"m f=1 " + b"9" * 5000,
    ],
    "utf8": [
        b"m\xff f=1", b'm f="\xc3"', b"m,t=\xed\xa0\x80 f=1", b"m \xc0\x80=1", b"m \xf4\x90\x80\x80=1",
        b'm f="\xff",f=1',
    ],
    "control_character": [
        b"m\0 f=1", b"m\x0b f=1", b"m\x7f f=1", b"m\rn f=1", b"m,t\x01=v f=1", b"m,t=\x1f f=1", b"m f\x7f=1",
    ],
    "backslash": [
        # Some versions take it away, others do not.
        b"m\\=n f=1", b'm\\"n f=1', b'm f\\"=1', b'm f="\\n"', b'm f="\\r"', b'm f="\\t"', b'm f="\\\\\\n"',
        # At the end of a name.
        b"m\\\tf=1", b"m\\", b"m,t=v\\\tf=1", b"m f\\\t=1",
        # InfluxDB 1 and 2 take backslashes in field keys by pairs.
        b"m f\\\\,g=1", b"m f\\\\ g=1", b"m f\\\\=g=1",
        # The splitter of InfluxDB 1 and 2 would be wrong about the quotes.
        b'm\\\\ =" f="x\ny"', b'm,a\\\\ b\\\\,\\\\,c=d f="x\ny"', b'm,a\\\\ b=c f"x=1', b'm\\\\ =" f=1',
    ],
}
# fmt: on

NEIGHBOURS: list[Example] = [
    # An unterminated quote costs its own line.
    (b'm f="x 2\nm g="y" 3\nm h=1', b'm g="y" 3\nm h=1 1\n', {"string": 1}),
    (b'm f="x\nm g=" y" 3\nm h=1', b'm g=" y" 3\nm h=1 1\n', {"timestamp": 1}),
    (b'm f="x\nm g=",y=1"\nm h=1', b'm g=",y=1" 1\nm h=1 2\n', {"number": 1}),
    (b'm f="x\nm h=1\nm i=1', b"m h=1 1\nm i=1 2\n", {"string": 1}),
    # A line feed behind a backslash ends a name, and with it the line.
    (b"m,t=a\\\nb f=1", b"b f=1 1\n", {"backslash": 1}),
    # What stands in a closed string never becomes a line, whatever else is wrong with its line.
    (b'm s="x\nevil v=1\n",f=NaN\nm h=1', b"m h=1 1\n", {"number": 1}),
    (b'm s="x\nevil v=1\n" 1e9\nm h=1', b"m h=1 1\n", {"timestamp": 1}),
    (b'm s="x\nevil v=1\n\xff"\nm h=1', b"m h=1 1\n", {"utf8": 1}),
    (b'm s="x\nevil v=1\n\\n"\nm h=1', b"m h=1 1\n", {"backslash": 1}),
    (b'm,t= s="x\nevil v=1\n"\nm h=1', b"m h=1 1\n", {"tag": 1}),
    (b'm s="x\nevil v=1\n" 9223372036854775807\r\nm h=1', b"m h=1 1\n", {"timestamp_range": 1}),
]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


@pytest.mark.parametrize(("data", "body"), ACCEPTED)
def test_accepted(read: Reader, data: bytes, body: bytes) -> None:
    result = read(data, now_ns=1)
    assert (result.body, result.dropped) == (body, {})
    assert result == reference(data, now_ns=1)


@pytest.mark.parametrize("reason", DROPPED)
def test_dropped(read: Reader, reason: str) -> None:
    for line in DROPPED[reason]:
        for end in (b"\n", b"\r\n", b""):
            behind = b"m f=1 1\n" if end else b""
            result = read(line + end + behind)
            assert (result.dropped, result.body) == ({reason: 1}, behind), line + end


@pytest.mark.parametrize(("data", "body", "dropped"), NEIGHBOURS)
def test_dropped_lines_and_their_neighbours(
    read: Reader, data: bytes, body: bytes, dropped: dict[str, int]
) -> None:
    result = read(data, now_ns=1)
    assert (result.body, result.dropped) == (body, dropped)


@pytest.mark.parametrize("precision", ["us", "ms", "s"])
def test_timestamps_are_scaled_and_checked_exactly(read: Reader, precision: str) -> None:
    unit = {"us": 10**3, "ms": 10**6, "s": 10**9}[precision]
    last = (2**63 - 2) // unit
    for sign in (1, -1):
        good, bad = b"m f=1 %d\n" % (sign * last), b"m f=1 %d\n" % (sign * (last + 1))
        result = read(good + bad, precision=precision)
        assert result.body == b"m f=1 %d\n" % (sign * last * unit)
        assert (result.dropped, result.rewritten) == ({"timestamp_range": 1}, 0)
    assert read(b"m f=1 -0\nm f=1 007\n", precision=precision).body == b"m f=1 0\nm f=1 %d\n" % (7 * unit)


def test_agent_tags_stand_behind_the_lines_own_and_never_replace_them(read: Reader) -> None:
    tags = [(b"dc", b"eu 1"), (b"a=b", b"c,d")]
    result = read(b"m f=1 1\nm,dc=us f=1 1\nm,x=y,a\\=b=z f=1 1\nm,a\\=b=z,dc=us f=1 1\n", tags=tags)
    assert result.body == (
        b"m,dc=eu\\ 1,a\\=b=c\\,d f=1 1\n"
        b"m,dc=us,a\\=b=c\\,d f=1 1\n"
        b"m,x=y,a\\=b=z,dc=eu\\ 1 f=1 1\n"
        b"m,a\\=b=z,dc=us f=1 1\n"
    )
    assert result.rewritten == 0


def test_unsigned_becomes_signed_for_those_that_do_not_know_it(read: Reader) -> None:
    data = b"m f=1u,g=9223372036854775807u,h=9223372036854775808u,h=18446744073709551615u 1\nm f=1i 1\n"
    result = read(data, unsigned=False)
    assert result.body == b"m f=1i,g=9223372036854775807i,h=9223372036854775807i 1\nm f=1i 1\n"
    assert (result.clamped, result.rewritten) == (1, 1)
    assert read(b"m h=9223372036854775808u,h=1u 1\n", unsigned=False).clamped == 0
    assert read(b"m h=9223372036854775808u 1x\n", unsigned=False).clamped == 0


@pytest.mark.parametrize("line", [b"m f=1", b"m f=1 7", b'm,t=v f=1,g="x" -5', b'm f="a\nb"', b"m f=1e5 0"])
def test_lines_as_we_write_them_are_not_rewritten(read: Reader, line: bytes) -> None:
    result = read(line + b"\n" + line, precision="s", tags=[(b"k", b"v")])
    assert (result.accepted, result.rewritten) == (2, 0)


@pytest.mark.parametrize(
    "line",
    [
        *(b" m f=1", b"m  f=1", b"m f=1 ", b"m f=1\r", b"m\tf=1", b"m f=1 07", b"m f=1 -0", b"m f=1 7 "),
        *(b"m f=1  7", b"m f=1 \0", b"m f=.5", b"m f=1_0", b"m f=07i", b"m f=-0i", b"m f=0,f=1"),
        *(b"m,t== f=1", b'm f="\\x"'),
    ],
)  # fmt: skip
def test_lines_that_are_written_otherwise_are_rewritten(read: Reader, line: bytes) -> None:
    result = read(line + b"\n" + line + b"\n")
    assert (result.accepted, result.rewritten) == (2, 2)


def test_a_number_of_tags_that_makes_a_server_fail_is_met_with_the_agents_tags_counted(read: Reader) -> None:
    agent = [(b"a%d" % number, b"v") for number in range(40)]
    for own, fine in ((59, True), (60, False), (61, True), (99, True), (100, True), (160, False)):
        line = b"m" + b"".join(b",t%d=v" % number for number in range(own)) + b" f=1 1"
        assert read(line, tags=agent).accepted == fine, own
    for own in (99, 101, 199, 201):
        assert read(b"m" + b"".join(b",t%d=v" % number for number in range(own)) + b" f=1 1").accepted == 1
