"""What metrics, events and service checks of StatsD have in common: samples, points, tags, series heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.reference.line_protocol import TAG_COUNTS_FATAL
from tests.reference.line_text import Malformed
from tests.reference.statsd_text import head_text, tag_key, tag_text

TAGS_MAX = 128
HEAD_BYTES_MAX = 8_192
TIME_S_MAX = 9_223_372_036
"""The last whole second whose nanoseconds an int64 holds."""


@dataclass(frozen=True)
class Sample:
    """One value of a series. *head* names the series: measurement and tags as they are written."""

    head: bytes
    type: str
    value: float
    """A counter's is already divided by its rate."""
    weight: float = 1.0
    """How many values this one stands for: 1 / rate; always 1 for counters, gauges and sets."""
    delta: bool = False
    """Whether *value* changes the gauge by so much."""
    member: bytes = b""
    """Of a set, which has no other value."""


@dataclass(frozen=True)
class Point:
    """A line that is not aggregated, or that came out of the aggregation; all parts as they are written."""

    head: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    time_ns: int | None
    """None: the time of arrival."""
    samples: int = 1
    """How many values it was made of."""


def dog_tags(part: bytes) -> Iterator[tuple[bytes, bytes]]:
    """``key:value``, or ``key``, which gets the value ``true``: InfluxDB has no tag without a value."""
    for item in part.split(b","):
        key, _, value = item.removeprefix(b"#").partition(b":")
        if key:
            yield key, value or b"true"


def read_tags(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The tags as they are written; of several with one key the last is kept."""
    if len(pairs) > TAGS_MAX:
        raise Malformed("tag")
    return {tag_key(key): tag_text(value) for key, value in pairs}


def checked_head(name: bytes, tags: dict[bytes, bytes]) -> bytes:
    if len(tags) in TAG_COUNTS_FATAL:
        raise Malformed("tag")
    head = head_text(name, tags)
    if len(head) > HEAD_BYTES_MAX:
        raise Malformed("key_too_long")
    return head
