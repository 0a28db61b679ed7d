"""What the line reader wrote, read back into points, to be compared with what others understand."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.reference.line_protocol import read_fields, read_head, read_time
from tests.reference.line_text import BOOLEANS, QUOTE, Malformed


@dataclass(frozen=True)
class Point:
    """One line of ours. *tags* are sorted by key; a field is (key, type, value), type one of i u f s b."""

    name: bytes
    tags: tuple[tuple[bytes, bytes], ...]
    fields: tuple[tuple[bytes, str, int | float | bytes | bool], ...]
    time_ns: int


def split(body: bytes) -> list[tuple[bytes, Point]]:
    """The lines of a *body* that ``read`` wrote, each with its LF and its point.

    Raises ValueError if it holds anything else.
    """
    found = []
    at = 0
    while at < len(body):
        try:
            measurement, tags, behind_head = read_head(body, at)
            fields, _, behind_fields = read_fields(body, behind_head, True)
            time, end = read_time(body, behind_fields)
        except Malformed as malformed:
            raise ValueError(f"not ours ({malformed.args[0]}): {body[at : at + 100]!r}") from malformed
        if time is None or end >= len(body):
            raise ValueError(f"no timestamp or no LF: {body[at : at + 100]!r}")
        point = Point(
            re.sub(rb"\\([, ])", rb"\1", measurement),
            tuple(sorted((unescape(key), unescape(value)) for key, value in tags)),
            tuple((unescape(key), *typed(value)) for key, value in fields.items()),
            time,
        )
        found.append((body[at : end + 1], point))
        at = end + 1
    return found


def parse(body: bytes) -> list[Point]:
    """The points of a *body* that ``read`` wrote. Raises ValueError if it holds anything else."""
    return [point for _, point in split(body)]


def unescape(text: bytes) -> bytes:
    """A tag key, tag value or field key without its escapes."""
    return re.sub(rb"\\([,= ])", rb"\1", text)


def typed(value: bytes) -> tuple[str, int | float | bytes | bool]:
    """Type letter and value of a field value that we wrote."""
    if value.startswith(QUOTE):
        return "s", re.sub(rb'\\(["\\])', rb"\1", value[1:-1])
    if value in BOOLEANS:
        return "b", value[:1] in b"tT"
    if value.endswith((b"i", b"u")):
        return value[-1:].decode(), int(value[:-1])
    return "f", float(value)
