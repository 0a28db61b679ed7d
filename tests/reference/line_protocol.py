"""Reference reader of Influx line protocol: any bytes in, only lines that every InfluxDB takes out.

    measurement{,tag=value} SP field=value{,field=value} [SP timestamp] LF
    ~~~~~~~~~~~~~~~~~~~~~~~ the head       ~~~~~~~~~~~~~ the fields

:func:`read` is the oracle of ``agent._core.read_lines``: both return the same bytes and the same counts for
every input. It reads strictly from left to right, and the first thing that is wrong names the reason. Some
checks wait until a whole line has been read, in this order: the range of the timestamp, valid UTF-8, a key
that is too long, a number of tags that no server survives, backslashes that mislead InfluxDB about where the
line ends. A line that is too long is called so whatever else is wrong with it.

What is accepted: whatever InfluxDB 1.8, InfluxDB 2.7 or line-protocol v2 accepts, provided that all of them
that accept it understand the same. What is written: the subset that all of them understand.

Terms. A *blank* is a space, tab or NUL. A *separator* is a space or tab, followed by any blanks. A line ends
at LF, at CR LF, at the end of the data, or at a CR that is the last byte of the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.reference.line_text import (
    BACKSLASH,
    COMMA,
    EQUALS,
    LF,
    QUOTE,
    SPACE,
    TAB,
    Malformed,
    decimal,
    find_line_feed,
    is_separator,
    is_utf8,
    line_ends,
    read_value,
    skip_blanks,
)

NS_PER_UNIT = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "auto": 0,
}
"""0: by the size of each timestamp."""
TIME_NS_MIN = -(2**63) + 2
TIME_NS_MAX = 2**63 - 2
KEY_BYTES_MAX = 65_535
KEY_SEPARATOR_BYTES = 4
"""InfluxDB stores a value under series key, four bytes, field key, and limits the sum."""

TAG_COUNTS_FATAL = frozenset(100 * 2**power for power in range(20))
"""InfluxDB 1 and 2 keep the places of a line's tags in a list that begins with 100 and is doubled one tag too
late: a line of exactly so many tags makes the server fail (500), and with it every line of the batch."""

RESERVED_TAGS = frozenset({b"time", b"_measurement", b"_field"})

REASONS = (
    "line_too_long",
    "measurement",
    "tag",
    "tag_duplicate",
    "tag_reserved",
    "field",
    "number",
    "string",
    "timestamp",
    "timestamp_range",
    "utf8",
    "control_character",
    "backslash",
    "key_too_long",
)

TIMESTAMP = re.compile(rb"-?[0-9]+")


@dataclass(frozen=True)
class ReadResult:
    """What :func:`read` wrote and counted; *dropped* holds only reasons that occurred."""

    body: bytes = b""
    received: int = 0
    accepted: int = 0
    rewritten: int = 0
    clamped: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Line:
    """One accepted line, in the bytes in which it is written."""

    measurement: bytes
    tags: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    time: int | None
    clamped: int
    end: int
    """Offset of the LF behind the line, or the length of the data."""

    def text(self, tags: Sequence[tuple[bytes, bytes]], time: int | None) -> bytes:
        """The line with *tags* and *time* in place of its own, without LF."""
        head = b"".join([self.measurement, *(b"," + key + b"=" + value for key, value in tags)])
        fields = b",".join(key + b"=" + value for key, value in self.fields.items())
        return head + b" " + fields + (b"" if time is None else b" %d" % time)


def read(
    data: bytes,
    *,
    precision: str = "ns",
    tags: Sequence[tuple[bytes, bytes]] = (),
    now_ns: int = 0,
    unsigned: bool = True,
    line_bytes_max: int = 65_536,
) -> ReadResult:
    """Read one datagram and return the safe lines, each with a timestamp in nanoseconds and one LF.

    *precision* is the unit of the timestamps in *data*: ns, us, ms, s, m, h or auto. *tags* are raw (not
    escaped); each is added, behind the line's own tags and in the given order, to lines that have no tag of
    that key. Lines without a timestamp get *now_ns*, *now_ns* + 1, ... in the order of acceptance; other
    lines use none up. With *unsigned* false ``1u`` is written as ``1i``. Raises ValueError for tags that
    cannot be written, see :func:`agent_tags`, and for an unknown precision.

    The counts: *received* is every line that is neither blank nor a comment, and equals *accepted* plus the
    sum of *dropped*. *rewritten* is how many accepted lines do not have the bytes they came with, apart from
    what the agent adds: with the added tags taken away and the timestamp, if it came with one, put back in
    the listener's precision in plain decimal, the written line differs from all that stood between the end
    of the line before and the LF (so a CR or a leading space is a difference). *clamped* is how many written
    field values were greater than an int64 can hold and were set to 9223372036854775807.
    """
    if precision not in NS_PER_UNIT:
        raise ValueError(f"unknown precision {precision!r}")
    added = agent_tags(tags)
    body = bytearray()
    received = accepted = rewritten = clamped = stamped = position = 0
    dropped: Counter[str] = Counter()
    while position < len(data):
        begin = skip_blanks(data, position)
        if line_ends(data, begin) or data[begin : begin + 1] == b"#":
            position = find_line_feed(data, begin) + 1
            continue
        received += 1
        try:
            line = read_line(data, begin, NS_PER_UNIT[precision], added, unsigned)
            end, reason = line.end, None
        except Malformed as malformed:
            end, reason = end_of_dropped_line(data, begin), malformed.args[0]
        if end - position > line_bytes_max:
            reason = "line_too_long"
        if reason is not None:
            dropped[reason] += 1
        else:
            accepted += 1
            rewritten += line.text(line.tags, line.time) != data[position:end]
            clamped += line.clamped
            if line.time is None:
                time_ns = now_ns + stamped
                stamped += 1
            else:
                time_ns = line.time * unit_of(NS_PER_UNIT[precision], line.time)
            body += line.text(with_agent_tags(line.tags, added), time_ns) + LF
        position = end + 1
    return ReadResult(bytes(body), received, accepted, rewritten, clamped, dict(dropped))


def unit_of(ns_per_unit: int, time: int) -> int:
    """*ns_per_unit*, or what InfluxDB 3 guesses: the finest unit in which *time* is not near 1970."""
    if ns_per_unit:
        return ns_per_unit
    size = abs(time)
    for unit in (1_000_000_000, 1_000_000, 1_000):
        if size < 5 * 10**18 // unit:
            return unit
    return 1


def agent_tags(tags: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Escape *tags* for writing. Raises ValueError for one that could not be read back as it is.

    That is an empty or repeated key, an empty value, a reserved key, a control character, invalid UTF-8, and
    a backslash at the end or before a comma, space or equals sign.
    """
    added: list[tuple[bytes, bytes]] = []
    for key, value in tags:
        for text in (key, value):
            if not text or re.search(rb"[\x00-\x1f\x7f]|\\[, =]|\\\Z", text) or not is_utf8(text):
                raise ValueError(f"cannot be a tag: {key!r}={value!r}")
        escaped = (re.sub(rb"([, =])", rb"\\\1", key), re.sub(rb"([, =])", rb"\\\1", value))
        if key in RESERVED_TAGS or escaped[0] in dict(added):
            raise ValueError(f"reserved or repeated tag: {key!r}")
        added.append(escaped)
    return added


def with_agent_tags(
    own: list[tuple[bytes, bytes]], added: list[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    keys = {key for key, _ in own}
    return own + [(key, value) for key, value in added if key not in keys]


def end_of_dropped_line(data: bytes, begin: int) -> int:
    """Offset of the LF that ends a line that is dropped, or the length of the data.

    That is the first LF, so that an unterminated quote never costs the lines behind it. Only where the line
    has the plain shape of head, fields and rest, with each string closed and followed by a comma, a separator
    or the line's end, does it end behind its strings: a number out of range in one field must not turn the
    inside of another, which anybody may have written, into lines of its own.
    """
    first = find_line_feed(data, begin)
    at = begin
    while not is_separator(data, at):
        if at >= first:
            return first
        escape = data[at : at + 1] == BACKSLASH and data[at + 1 : at + 2] in (COMMA, SPACE, EQUALS)
        at += 2 if escape else 1
    at = skip_blanks(data, at)
    while True:
        while data[at : at + 1] != EQUALS:
            if line_ends(data, at) or data[at : at + 1] == COMMA or is_separator(data, at):
                return first
            escape = data[at : at + 1] == BACKSLASH and data[at + 1 : at + 2] in (COMMA, SPACE, EQUALS)
            at += 2 if escape else 1
        at += 1
        if data[at : at + 1] == QUOTE:
            at += 1
            while data[at : at + 1] != QUOTE:
                if at >= len(data):
                    return first
                at += 2 if data[at : at + 1] == BACKSLASH else 1
            at += 1
        else:
            while not (line_ends(data, at) or data[at : at + 1] == COMMA or is_separator(data, at)):
                if data[at : at + 1] == QUOTE:
                    return first
                at += 1
        if data[at : at + 1] != COMMA:
            break
        at += 1
    if not line_ends(data, at) and not is_separator(data, at):
        return first
    end = find_line_feed(data, at)
    rest = data[at:end]
    return first if QUOTE in rest or EQUALS in rest else end


def read_line(
    data: bytes, begin: int, ns_per_unit: int, added: list[tuple[bytes, bytes]], unsigned: bool
) -> Line:
    """Read the line whose first byte is at *begin*. Raises :class:`Malformed`."""
    measurement, tags, at = read_head(data, begin)
    fields, clamped, at = read_fields(data, at, unsigned)
    time, end = read_time(data, at)
    if time is not None and not TIME_NS_MIN <= time * unit_of(ns_per_unit, time) <= TIME_NS_MAX:
        raise Malformed("timestamp_range")
    if not is_utf8(data[begin:end]):
        raise Malformed("utf8")
    series = [measurement, *(key + value + b",=" for key, value in with_agent_tags(tags, added))]
    if sum(map(len, series)) + KEY_SEPARATOR_BYTES + max(map(len, fields)) > KEY_BYTES_MAX:
        raise Malformed("key_too_long")
    if len(series) - 1 in TAG_COUNTS_FATAL:
        raise Malformed("tag")
    line = Line(measurement, tags, fields, time, clamped, end)
    if not splits_alike(line.text(with_agent_tags(tags, added), None)):
        raise Malformed("backslash")
    return line


def read_name(data: bytes, at: int, *, escapable: bytes, ambiguous: bytes, stops: bytes) -> int:
    """Where the name, key or tag value that begins at *at* ends: one of *stops*, a separator, a line's end.

    A backslash escapes the *escapable* byte behind it. Before an *ambiguous* byte some versions take it away
    and others do not, and at the end of the name it would escape what we write there. Anywhere else it is an
    ordinary byte, even before a second backslash.
    """
    while not (data[at : at + 1] in stops or is_separator(data, at) or line_ends(data, at)):
        byte, following = data[at : at + 1], data[at + 1 : at + 2]
        if byte == BACKSLASH and following != b"" and following in escapable:
            at += 2
            continue
        if byte == BACKSLASH and (line_ends(data, at + 1) or following == TAB or following in ambiguous):
            raise Malformed("backslash")
        if byte < b" " or byte == b"\x7f":
            raise Malformed("control_character")
        at += 1
    return at


def read_head(data: bytes, begin: int) -> tuple[bytes, list[tuple[bytes, bytes]], int]:
    """Measurement and tags, as they are written, and the offset of the separator behind them."""
    at = read_name(data, begin, escapable=b", ", ambiguous=b'="', stops=b",")
    measurement = data[begin:at]
    if not measurement:
        raise Malformed("measurement")
    tags: list[tuple[bytes, bytes]] = []
    while data[at : at + 1] == COMMA:
        key_at = at + 1
        at = read_name(data, key_at, escapable=b",= ", ambiguous=b"", stops=b",=")
        key = data[key_at:at]
        if not key or data[at : at + 1] != EQUALS:
            raise Malformed("tag")
        if key in RESERVED_TAGS:
            raise Malformed("tag_reserved")
        if key in dict(tags):
            raise Malformed("tag_duplicate")
        value_at = at + 1
        # An equals sign that begins the value is its first byte: InfluxDB looks for the others only.
        leading = data[value_at : value_at + 1] == EQUALS
        at = read_name(data, value_at + leading, escapable=b",= ", ambiguous=b"", stops=b",=")
        if at == value_at or data[at : at + 1] == EQUALS:
            raise Malformed("tag")
        tags.append((key, BACKSLASH * leading + data[value_at:at]))
    if line_ends(data, at):
        raise Malformed("field")
    return measurement, tags, at


def splits_alike(text: bytes) -> bool:
    """Whether InfluxDB 1 and 2 find the end of *text* where it is: a line without its timestamp and its LF.

    They look for the LF in a pass of its own, in which two backslashes are a pair. So a space behind an even
    number of them begins the fields there, though the parser proper takes it for an escaped one, and from
    there on an equals sign without a comma before it makes quotes count.
    """
    fields, quoted, balance, at = False, False, 0, 0
    while at < len(text):
        byte = text[at : at + 1]
        if byte == LF and not quoted:
            return False
        fields = fields or byte == SPACE
        if fields and byte == QUOTE and balance > 0:
            quoted = not quoted
        elif fields and not quoted:
            balance += (byte == EQUALS) - (byte == COMMA)
        at += 2 if byte == BACKSLASH else 1
    return not quoted


def read_fields(data: bytes, at: int, unsigned: bool) -> tuple[dict[bytes, bytes], int, int]:
    """Fields as they are written, how many of them were clamped, and the offset behind the last one.

    Of several fields of one key the last is kept, in its own place.
    """
    fields: dict[bytes, bytes] = {}
    clamped: set[bytes] = set()
    at = skip_blanks(data, at)
    while True:
        key_at = at
        at = read_name(data, at, escapable=b",= ", ambiguous=b'"', stops=b",=")
        key = data[key_at:at]
        if not key or data[at : at + 1] != EQUALS:
            raise Malformed("field")
        if re.search(rb"(?<!\\)(?:\\\\)+[,= ]", key):
            # InfluxDB 1 and 2 take backslashes by pairs here, and end the key.
            raise Malformed("backslash")
        value, was_clamped, at = read_value(data, at + 1, unsigned)
        fields.pop(key, None)
        fields[key] = value
        clamped.discard(key)
        if was_clamped:
            clamped.add(key)
        if data[at : at + 1] != COMMA:
            break
        at += 1
    if set(fields) == {b"time"}:
        # InfluxDB leaves a field of this name out, and refuses a point that has no other.
        raise Malformed("field")
    return fields, len(clamped), at


def read_time(data: bytes, at: int) -> tuple[int | None, int]:
    """The timestamp, if there is one, and the offset of the LF behind the line or the length of the data."""
    at = skip_blanks(data, at)
    begin = at
    while not (is_separator(data, at) or line_ends(data, at)):
        at += 1
    token = data[begin:at]
    if token and not TIMESTAMP.fullmatch(token):
        raise Malformed("timestamp")
    while is_separator(data, at):
        at += 1
    if not line_ends(data, at):
        raise Malformed("timestamp")
    return (decimal(token) if token else None), find_line_feed(data, at)
