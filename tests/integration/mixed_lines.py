"""Lines of mixed shapes, each made from a point that is known before it is written as text.

The text is written here, by the rules of line protocol and not by anything of the agent's, with the liberties
that senders take: blanks, CR LF, spellings of numbers and booleans, comments. So what a database holds in the
end can be compared with the points themselves. A :class:`Dialect` says what the database keeps of them; a
:class:`Stream` is what one sender sends to one listener. All is drawn from one seeded generator.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

Value = bool | int | float | str
Tags = frozenset[tuple[str, str]]

INT64_MAX = 2**63 - 1
UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
MALFORMED_SHARE = 0.01
TRUE = "t T true True TRUE".split()
FALSE = "f F false False FALSE".split()
FLOATS = "0 -0.0 1. .5 -.25 1e3 1E-2 1.5e+07 007.50 12345678901234567".split()
BLANKS = (" ",) * 12 + ("  ", "\t", " \t ")
DAY_NS = 86_400 * UNIT_NS["s"]


@dataclass(frozen=True)
class Dialect:
    """What a database takes, and gives back as it was."""

    kinds: str
    """Types of its fields: f float, i integer, u unsigned, b boolean, s string."""
    windows_ns: tuple[int, ...]
    """Where the timestamps lie: within six days behind each of these."""
    single_times_ns: tuple[int, ...]
    """Timestamps that occur besides."""
    texts: tuple[str, ...]
    """What names, tag values and strings are made of."""
    string_ends: tuple[str, ...]
    """What strings end in besides."""
    unsigned: bool
    """Whether it is sent unsigned integers; if not, they come as integers, cut to the greatest one."""
    decimal: bool
    """Whether floats are only kept if they have few digits, and integers up to 10^15."""


_TEXTS = (
    "a",
    "b",
    "cpu",
    "host-1",
    "x y",
    "a,b",
    "k=v",
    "é",
    "日本語",
    "🚰",
    "1",
    "#",
    "/dev/sda1",
    "A.b_c",
    "'",
)

# A shard of InfluxDB is a week from Thursday to Thursday, and each costs it files: so there are few windows.
INFLUXDB = Dialect(
    kinds="ffiiubs",
    windows_ns=(-2_879 * 7 * DAY_NS, -7 * DAY_NS, 0, 2_815 * 7 * DAY_NS),
    single_times_ns=(-(2**63) + 2, -(2**63) + 3, 2**63 - 2, 2**63 - 3),
    texts=(*_TEXTS, "c:\\d", '"', 'say "x"'),
    string_ends=("\n", "\r\n", "\\", "m v=1 1\n", "\t,= "),
    unsigned=False,
    decimal=False,
)

VICTORIA_METRICS = Dialect(
    kinds="ffiiubs",
    windows_ns=(1_600 * 7 * DAY_NS, 2_700 * 7 * DAY_NS, 2_815 * 7 * DAY_NS),
    single_times_ns=(),
    texts=_TEXTS,
    string_ends=(),
    unsigned=True,
    decimal=True,
)

# Each costs itself only, and is counted under its reason.
MALFORMED = (
    (b"m", "field"),
    (b"m ", "field"),
    (b"m v=", "field"),
    (b"m,t=a v=abc 1", "field"),
    (b",t=a v=1", "measurement"),
    (b"m,t= v=1", "tag"),
    (b"m,t=a,t=b v=1", "tag_duplicate"),
    (b"m,_field=a v=1", "tag_reserved"),
    (b"m v=NaN 1", "number"),
    (b"m v=1.2.3", "number"),
    (b"m v=9223372036854775808i 1", "number"),
    (b"m v=1 12x", "timestamp"),
    (b"m v=1 99999999999999999999", "timestamp_range"),
    (b"m\xff v=1 1", "utf8"),
    (b"m\x01 v=1 1", "control_character"),
    (b'm v="a\\nb" 1', "backslash"),
)
COMMENTS = (b"", b"# m v=1 1", b"  ", b'#"')


@dataclass(frozen=True)
class Point:
    """What is sent with one line; *time_ns* is None where the agent must stamp it."""

    name: str
    tags: Tags
    fields: Mapping[str, Value]
    time_ns: int | None


@dataclass(frozen=True)
class Schema:
    """A measurement: its tag keys, and its fields, each of one type."""

    name: str
    tag_keys: list[str]
    fields: list[tuple[str, str]]


@dataclass(frozen=True)
class Series:
    """A measurement with *tags*, those of the agent included, and ways to write it, those excluded."""

    schema: Schema
    tags: Tags
    heads: list[str]


@dataclass
class Stream:
    """What one sender sends to one listener: datagrams, and the points and malformed lines in them."""

    listener: str
    number: int
    precision: str
    datagrams: list[bytes] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    malformed: Counter[str] = field(default_factory=Counter)
    clamped: int = 0

    @property
    def flow(self) -> str:
        return f"{self.listener}/{self.number}"


class Maker:
    """Draws points and writes them.

    *agent_tags* are those that the agent adds where they are absent; *unstamped* is the share of lines that
    come without a timestamp.
    """

    def __init__(
        self, seed: int, dialect: Dialect, agent_tags: Mapping[str, str], unstamped: float = 0.1
    ) -> None:
        self._random = random.Random(seed)
        self._dialect = dialect
        self._agent_tags = agent_tags
        self._unstamped = unstamped
        self._taken: set[tuple[str, Tags, int]] = set()

    # ---- names ----

    def _text(self) -> str:
        """A name or a tag value. None ends in a backslash or begins as a comment does."""
        parts = self._random.choices(self._dialect.texts, k=self._random.choice((1, 1, 2, 3)))
        return "n" + "".join(parts)

    @cached_property
    def _schemas(self) -> list[Schema]:
        draw, kinds = self._random, self._dialect.kinds
        schemas = [
            Schema(
                f"{self._text()}{number}",
                [f"{self._text()}{key}" for key in range(draw.choice((0, 1, 2, 3, 5)))],
                _typed((self._text(), draw.choice(kinds)) for _ in range(draw.choice((1, 1, 1, 2, 2, 5)))),
            )
            for number in range(24)
        ]
        wide = _typed(("w", draw.choice(kinds)) for _ in range(24))
        return [
            *schemas,
            Schema("wide", [f"tag{key}" for key in range(20)], wide),
            Schema("plain", ["host"], [("value", "f")]),
        ]

    @cached_property
    def _series(self) -> list[Series]:
        """Few enough for a database to read all of them at once."""
        draw = self._random
        series = []
        for schema in self._schemas:
            for _ in range(20 if schema.tag_keys else 1):
                tags = {key: self._text() for key in schema.tag_keys if draw.random() < 0.9}
                # Some carry a tag themselves that the agent would add.
                tags |= {key: self._text() for key in self._agent_tags if draw.random() < 0.2}
                heads = []
                for _ in range(3):
                    texts = [f",{escaped(key)}={escaped(value)}" for key, value in tags.items()]
                    draw.shuffle(texts)
                    heads.append(escaped(schema.name, ", ") + "".join(texts))
                series.append(Series(schema, frozenset({**self._agent_tags, **tags}.items()), heads))
        return series

    @cached_property
    def _strings(self) -> list[tuple[str, str]]:
        """Strings, each as it is and as it is written."""
        draw, pieces = self._random, (*self._dialect.texts, " ", "")
        strings = ["".join(draw.choices(pieces, k=draw.choice((0, 1, 3, 9)))) for _ in range(500)]
        strings += [f"{string}{end}" for end in self._dialect.string_ends for string in strings[:20]]
        return [(one, '"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"') for one in strings]

    # ---- one line ----

    def _point(self, stream: Stream) -> tuple[Point, bytes]:
        draw = self._random
        series = draw.choice(self._series)
        schema, tags = series.schema, series.tags
        head = draw.choice(series.heads)
        time_ns = None
        if draw.random() < self._unstamped:
            # What the agent stamps is recognised by its order, which holds for one sender.
            head += f",flow={stream.flow}"
            tags |= {("flow", stream.flow)}
        else:
            time_ns = self._time(schema.name, tags, stream.precision)
        some = schema.fields
        if len(some) > 1 and draw.random() < 0.5:
            some = draw.sample(some, draw.randint(1, len(some)))
        fields: dict[str, Value] = {}
        texts = []
        for key, kind in some:
            value, text = self._value(kind)
            if kind == "u" and not self._dialect.unsigned and int(value) > INT64_MAX:
                value = INT64_MAX
                stream.clamped += 1
            fields[key] = value
            texts.append(f"{escaped(key)}={text}")
        blank = draw.choice(BLANKS)
        line = f"{head}{blank}{','.join(texts)}"
        if time_ns is not None:
            line += f"{blank}{time_ns // UNIT_NS[stream.precision]}"
        if draw.random() < 0.05:
            line = f" {line} "
        return Point(schema.name, tags, fields, time_ns), line.encode()

    def _time(self, name: str, tags: Tags, precision: str) -> int:
        """A time that no other point of the series has, in nanoseconds."""
        draw, unit = self._random, UNIT_NS[precision]
        while True:
            time = draw.choice(self._dialect.windows_ns) + draw.randrange(6 * DAY_NS)
            if self._dialect.single_times_ns and draw.random() < 0.0005:
                time = draw.choice(self._dialect.single_times_ns)
                if unit > 1 and abs(time) >= 2**63 - 2 * unit:
                    continue
            time -= time % unit
            if (name, tags, time) not in self._taken:
                self._taken.add((name, tags, time))
                return time

    def _value(self, kind: str) -> tuple[Value, str]:
        """A value, and one of the ways to write it."""
        draw = self._random
        if kind == "b":
            boolean = draw.random() < 0.5
            return boolean, draw.choice(
                "t T true True TRUE".split() if boolean else "f F false False FALSE".split()
            )
        if kind == "s":
            return draw.choice(self._strings)
        if kind == "f":
            return self._float()
        bits = draw.choice((4, 16, 32, 49 if self._dialect.decimal else 63))
        integer = draw.getrandbits(bits)
        if kind == "u":
            if not self._dialect.decimal and draw.random() < 0.1:
                integer += 2**63
            return integer, f"{integer}u"
        if draw.random() < 0.4:
            integer = -integer
        return integer, draw.choice((f"{integer}i", f"{'-' * (integer < 0)}00{abs(integer)}i"))

    def _float(self) -> tuple[float, str]:
        draw = self._random
        if self._dialect.decimal:
            thousandths = draw.randint(-(10**9), 10**9)
            text = f"{thousandths / 1000:.3f}"
        elif draw.random() < 0.5:
            text = repr(draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300))
        else:
            text = draw.choice(
                ("0", "-0.0", "1.", ".5", "-.25", "1e3", "1E-2", "1.5e+07", "007.50", "12345678901234567")
            )
        return float(text), text

    # ---- datagrams ----

    def stream(self, listener: str, number: int, precision: str, lines: int, packed_bytes_max: int) -> Stream:
        """A stream of *lines* well-formed lines, single and packed into datagrams of up to so many bytes."""
        draw = self._random
        stream = Stream(listener, number, precision)
        sizes = (*(0,) * 30, *(200, 600, 1_400) * 10, packed_bytes_max)
        parts: list[bytes] = []
        limit = 0
        for _ in range(lines):
            point, line = self._point(stream)
            stream.points.append(point)
            for text in (*self._noise(stream), line):
                if parts and sum(map(len, parts)) + len(parts) + len(text) > limit:
                    stream.datagrams.append(self._datagram(parts))
                    parts = []
                if not parts:
                    limit = draw.choice(sizes)
                parts.append(text)
        stream.datagrams.append(self._datagram(parts))
        return stream

    def _noise(self, stream: Stream) -> Iterator[bytes]:
        """What may stand between two lines: nothing, a comment, a malformed line."""
        draw = self._random
        if draw.random() < MALFORMED_SHARE:
            text, reason = draw.choice(MALFORMED)
            stream.malformed[reason] += 1
            yield text
        if draw.random() < MALFORMED_SHARE:
            yield draw.choice(COMMENTS)

    def _datagram(self, parts: Sequence[bytes]) -> bytes:
        end = self._random.choice((b"\n", b"\n", b"\n", b"\r\n"))
        return end.join(parts) + self._random.choice((b"", end))


@cache
def escaped(text: str, special: str = ",= ") -> str:
    """*text* as a tag or a field key; a measurement has other *special* letters."""
    return "".join(f"\\{letter}" if letter in special else letter for letter in text)


def _typed(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names that differ, and tell the type."""
    return [(f"{text}.{kind}{number}", kind) for number, (text, kind) in enumerate(fields)]
