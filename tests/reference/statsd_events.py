"""Reference reader of DogStatsD's events and service checks, which become points of Telegraf's shape.

    _e{5,4}:title|text|d:unix|h:host|k:key|p:low|t:error|s:source|#tag:v
    _sc|name|0|d:unix|h:host|#tag:v|m:message

Optional values that are wrong keep their defaults, and parts that are not known are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests.reference.line_text import Malformed, decimal, is_utf8
from tests.reference.statsd_parts import TIME_S_MAX, Point, checked_head, dog_tags, read_tags
from tests.reference.statsd_text import BLANKS, DIGITS, string_field, tag_text, title_name

EVENT_HEADER = re.compile(rb"_e\{([0-9]+),([0-9]+)\}:")
STATUSES = (b"ok", b"warning", b"critical", b"unknown")


def is_time(text: bytes) -> bool:
    return DIGITS.fullmatch(text) is not None and decimal(text) <= TIME_S_MAX


OPTIONAL: dict[bytes, Callable[[bytes], bool]] = {
    b"d": is_time,
    b"h": bool,
    b"k": bool,
    b"p": lambda text: text in (b"low", b"normal"),
    b"t": lambda text: text in (b"error", b"warning", b"success", b"info"),
    b"s": bool,
    b"m": bool,
}
"""What a value behind ``x:`` must be to be taken."""


def read_parts(rest: bytes, known: bytes, dialects: frozenset[str]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Values by the letter of their part, of which the last counts, and the parts with tags."""
    values: dict[bytes, bytes] = {}
    tag_parts = []
    for part in rest.split(b"|"):
        letter, text = part[:1], part[2:]
        if letter == b"#":
            if "dogstatsd" in dialects:
                tag_parts.append(part[1:])
        elif part[1:2] == b":" and letter in known and OPTIONAL[letter](text):
            values[letter] = text
    return values, tag_parts


def read_point_tags(
    tag_parts: list[bytes], values: dict[bytes, bytes], own: dict[bytes, bytes]
) -> dict[bytes, bytes]:
    """The sender's tags, of which ``host`` is called ``source`` as in Telegraf, and ours over them."""
    pairs = [tag for part in tag_parts for tag in dog_tags(part)]
    tags = read_tags([(b"source" if key == b"host" else key, value) for key, value in pairs])
    if b"h" in values:
        tags.setdefault(b"source", tag_text(values[b"h"]))
    return tags | own


def unescaped(text: bytes) -> bytes:
    return text.replace(b"\\n", b"\n")


def read_event(line: bytes, dialects: frozenset[str]) -> Point:
    """The point of an event, from a line that begins with ``_e{``. Raises :class:`Malformed`."""
    header = EVENT_HEADER.match(line)
    if header is None:
        raise Malformed("event")
    title_end = header.end() + decimal(header[1])
    text_end = title_end + 1 + decimal(header[2])
    title, text, rest = (
        line[header.end() : title_end],
        line[title_end + 1 : text_end],
        line[text_end:].rstrip(BLANKS),
    )
    if not title or line[title_end : title_end + 1] != b"|" or text_end > len(line) or rest[:1] not in b"|":
        raise Malformed("event")
    if not is_utf8(line):
        raise Malformed("utf8")
    values, tag_parts = read_parts(rest[1:], b"dhkpts", dialects)
    own = {b"aggregation_key": tag_text(values[b"k"])} if b"k" in values else {}
    head = checked_head(title_name(title), read_point_tags(tag_parts, values, own))

    def fields() -> Iterator[tuple[bytes, bytes]]:
        yield b"alert_type", string_field(values.get(b"t", b"info"))
        if b"s" in values:
            yield b"source_type_name", string_field(values[b"s"])
        yield b"priority", string_field(values.get(b"p", b"normal"))
        yield b"text", string_field(unescaped(text))
        if b"d" in values:
            yield b"ts", b"%di" % decimal(values[b"d"])

    return Point(head, tuple(fields()), None)


def read_service_check(line: bytes, dialects: frozenset[str]) -> Point:
    """The point of a service check, from a line that begins with ``_sc|``. Raises :class:`Malformed`."""
    _, name, status, *rest = [*line.split(b"|", 3), b""]
    if not name or status not in (b"0", b"1", b"2", b"3"):
        raise Malformed("service_check")
    if not is_utf8(line):
        raise Malformed("utf8")
    values, tag_parts = read_parts(rest[0], b"dhm", dialects)
    own = {b"check_name": tag_text(name)}
    head = checked_head(b"statsd_service_check", read_point_tags(tag_parts, values, own))

    def fields() -> Iterator[tuple[bytes, bytes]]:
        if b"m" in values:
            yield b"message", string_field(unescaped(values[b"m"]))
        yield b"status", status + b"i"
        yield b"status_text", string_field(STATUSES[int(status)])
        if b"d" in values:
            yield b"ts", b"%di" % decimal(values[b"d"])

    return Point(head, tuple(fields()), None)
