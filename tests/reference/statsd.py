"""Reference reader of StatsD and DogStatsD: any bytes in, samples and points out, and the counts.

    name:value[:value...]|type[|@rate][|#tag:v,tag][|c:container][|T unix][|...]
    ~~~~ the head, perhaps with tags        ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~ the parts
         ~~~~~~~~~~~~~~~~~~~~~~~~~~~ a group

:func:`read` is the oracle of the compiled reader. It reads from left to right, and the first thing that is
wrong names the reason; what concerns all tags together is looked at last. A line is taken whole or not at
all. A line that is too long is called so whatever else is wrong with it.

The grammar is that of DogStatsD (protocol versions 1.0 to 1.6), of Telegraf (``a:1|c:2|c``) and of
statsd_exporter, from which the four ways of writing tags are taken. Names become what etsy's server makes of
them. Parts that are not known are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.reference.line_text import LF, Malformed, decimal, is_utf8
from tests.reference.statsd_events import read_event, read_service_check
from tests.reference.statsd_parts import TIME_S_MAX, Point, Sample, checked_head, dog_tags, read_tags
from tests.reference.statsd_text import BLANKS, DIGITS, finite, float_field, metric_name, number

TYPES = {
    b"c": "counter",
    b"g": "gauge",
    b"s": "set",
    b"ms": "timing",
    b"h": "histogram",
    b"d": "distribution",
}
TIMED = frozenset({"counter", "gauge"})
"""Types for which DogStatsD defines a timestamp."""

DIALECTS = frozenset({"dogstatsd", "influxdb", "librato", "signalfx"})

REASONS = (
    "line_too_long",
    "name",
    "value",
    "type",
    "rate",
    "tag",
    "timestamp",
    "event",
    "service_check",
    "utf8",
    "key_too_long",
    "series_full",
)


@dataclass(frozen=True)
class Options:
    """What a listener can be told, as far as its reader is concerned."""

    dialect: str = "auto"
    """One of the names in DIALECTS, several of them joined by ``+``, ``auto`` for all, or ``none``."""
    gauge_deltas: bool = True
    separator: bytes = b"_"
    """Stands for each dot of a name."""
    line_bytes_max: int = 65_536

    @property
    def dialects(self) -> frozenset[str]:
        if self.dialect == "auto":
            return DIALECTS
        named = frozenset(self.dialect.split("+")) - {"none"}
        if not named <= DIALECTS:
            raise ValueError(f"unknown dialect {self.dialect!r}")
        return named


@dataclass(frozen=True)
class ReadResult:
    """What :func:`read` found, in the order of arrival; *dropped* holds only reasons that occurred."""

    found: list[Sample | Point] = field(default_factory=list)
    received: int = 0
    accepted: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def read(data: bytes, options: Options | None = None) -> ReadResult:
    """Read one datagram. *received* counts values, and one for a malformed line, an event, a service check.

    It equals *accepted* plus the sum of *dropped*. Raises ValueError for an unknown dialect.
    """
    options = options or Options()
    dialects = options.dialects
    found: list[Sample | Point] = []
    dropped: Counter[str] = Counter()
    for raw in data.split(LF):
        line = raw.lstrip(BLANKS)
        try:
            if len(raw) > options.line_bytes_max:
                raise Malformed("line_too_long")
            if not line:
                continue
            if line.startswith(b"_e{"):
                # Blanks at the end may belong to its text.
                found.append(read_event(line, dialects))
            elif line.startswith(b"_sc|"):
                found.append(read_service_check(line.rstrip(BLANKS), dialects))
            else:
                found += read_metric(line.rstrip(BLANKS), options, dialects)
        except Malformed as malformed:
            dropped[malformed.args[0]] += 1
    accepted = sum(one.samples if isinstance(one, Point) else 1 for one in found)
    return ReadResult(found, accepted + sum(dropped.values()), accepted, dict(dropped))


@dataclass
class Group:
    """Values of one type and one rate. Of a set, *values* is empty and *member* is its one value."""

    type: str
    values: list[tuple[float, bool]]
    member: bytes = b""
    rate: float = 1.0


@dataclass
class Body:
    """What stands behind the name."""

    groups: list[Group] = field(default_factory=list)
    tag_parts: list[bytes] = field(default_factory=list)
    time_s: int | None = None


def read_metric(line: bytes, options: Options, dialects: frozenset[str]) -> list[Sample | Point]:
    """The samples of one line, or its points if it has a timestamp. Raises :class:`Malformed`."""
    head, colon, rest = line.partition(b":")
    if not colon:
        raise Malformed("value")
    if b"|" in head:
        raise Malformed("name")
    if not is_utf8(head):
        raise Malformed("utf8")
    raw_name, items = split_head(head, dialects)
    name = metric_name(raw_name, options.separator)
    if not name:
        raise Malformed("name")
    body = read_body(rest, dialects)
    tags = read_tags([*head_tags(items), *(tag for part in body.tag_parts for tag in dog_tags(part))])
    found: list[Sample | Point] = []
    heads = [series_head(name, tags, group.type) for group in body.groups]
    for head, group in zip(heads, body.groups, strict=True):
        signed = options.gauge_deltas and body.time_s is None
        samples = list(group_samples(head, group, signed))
        if body.time_s is not None and group.type in TIMED:
            found.append(timed_point(samples, body.time_s))
        else:
            found += samples
    return found


def split_head(head: bytes, dialects: frozenset[str]) -> tuple[bytes, list[bytes]]:
    """The name, still as it came, and the items of the tags that stand in it."""
    if "signalfx" in dialects:
        opening = head.find(b"[")
        closing = head.find(b"]", opening) if opening >= 0 else -1
        if closing >= 0:
            return head[:opening] + head[closing + 1 :], head[opening + 1 : closing].split(b",")
        if b"[" in head or b"]" in head:
            return head, []
    for at in range(len(head)):
        byte = head[at : at + 1]
        if (byte == b"#" and "librato" in dialects) or (byte == b"," and "influxdb" in dialects):
            return head[:at], head[at + 1 :].split(b",")
    return head, []


def head_tags(items: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """``key=value``; anything else is no tag, and is ignored."""
    for item in items:
        key, _, value = item.partition(b"=")
        if key and value:
            yield key, value


def series_head(name: bytes, tags: dict[bytes, bytes], type_name: str) -> bytes:
    return checked_head(name, tags | {b"metric_type": type_name.encode()})


def read_body(rest: bytes, dialects: frozenset[str]) -> Body:
    """Groups of values, each with a type and a rate of its own, and what is said of all of them.

    A colon begins the next group behind a type, behind a rate, and at the start of a part in which more
    follows. Anywhere else it is an ordinary byte.
    """
    body = Body()
    parts = iter(rest.split(b"|"))
    values: bytes | None = next(parts)
    while values is not None:
        type_text, colon, following = next(parts, b"").partition(b":")
        if type_text not in TYPES:
            raise Malformed("type")
        group = read_values(values, TYPES[type_text])
        body.groups.append(group)
        values = following if colon else None
        while values is None and (part := next(parts, None)) is not None:
            kind, text = part[:1], part[1:]
            if kind == b"@":
                rate, colon, following = text.partition(b":")
                group.rate = read_rate(rate)
                values = following if colon else None
            elif kind == b":" and text:
                values = text
            elif kind == b"T":
                body.time_s = read_time(text)
            elif kind == b"#" and "dogstatsd" in dialects:
                if not is_utf8(text):
                    raise Malformed("utf8")
                body.tag_parts.append(text)
    return body


def read_values(text: bytes, type_name: str) -> Group:
    """The values of a group. A member of a set may hold colons; elsewhere they separate. Empty ones go."""
    if type_name == "set":
        if not text:
            raise Malformed("value")
        return Group(type_name, [], text)
    elements = [element for element in text.split(b":") if element]
    if not elements:
        raise Malformed("value")
    signed = type_name == "gauge"
    return Group(
        type_name,
        [
            (number(element, "value"), signed and element.lstrip(BLANKS)[:1] in (b"+", b"-"))
            for element in elements
        ],
    )


def read_rate(text: bytes) -> float:
    """A rate above 0 and up to 1 whose inverse is finite."""
    rate = number(text, "rate")
    if not 0 < rate <= 1 or 1 / rate == float("inf"):
        raise Malformed("rate")
    return rate


def read_time(text: bytes) -> int:
    if DIGITS.fullmatch(text) is None or not 1 <= decimal(text) <= TIME_S_MAX:
        raise Malformed("timestamp")
    return decimal(text)


def group_samples(head: bytes, group: Group, signed: bool) -> Iterator[Sample]:
    if group.type == "set":
        yield Sample(head, group.type, 0.0, member=group.member)
    for value, is_delta in group.values:
        if group.type == "counter":
            yield Sample(head, group.type, finite(value / group.rate))
        elif group.type == "gauge":
            yield Sample(head, group.type, value, delta=signed and is_delta)
        else:
            yield Sample(head, group.type, value, 1 / group.rate)


def timed_point(samples: list[Sample], time_s: int) -> Point:
    """One point for a group: two of one series and one time would overwrite each other in the database."""
    if samples[0].type == "counter":
        total = 0.0
        for sample in samples:
            total = finite(total + sample.value)
    else:
        total = samples[-1].value
    return Point(samples[0].head, ((b"value", float_field(total)),), time_s * 1_000_000_000, len(samples))
