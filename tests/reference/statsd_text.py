"""The small parts of the reference StatsD reader: names, tags, numbers, and how they are written.

Bytes from outside never become structure: a name is brought into an alphabet that needs no escaping, as
StatsD's first server does it; a tag keeps what line protocol can carry for every version of InfluxDB, and the
rest of its bytes are replaced one for one.
"""

from __future__ import annotations

import math
import re
import sys

from tests.reference.line_text import Malformed

BLANKS = b"\0\t\v\f\r "
"""Stripped from both ends of a line and of a number. C programs send the NUL that ends their strings."""

NUMBER = re.compile(rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
DIGITS = re.compile(rb"[0-9]+")

RESERVED_TAGS = frozenset({b"time", b"_measurement", b"_field", b"metric_type"})
"""InfluxDB 2 refuses the first three; the last is ours, and one series must not pass for another's type."""

FLOAT_MAX = sys.float_info.max
INT64_MAX = 2**63 - 1


def number(text: bytes, reason: str) -> float:
    """The double next to the decimal *text*. Raises Malformed(*reason*) for what is no finite number."""
    text = text.strip(BLANKS)
    if NUMBER.fullmatch(text) is None:
        raise Malformed(reason)
    value = float(text)
    if math.isinf(value):
        raise Malformed(reason)
    return value


def finite(value: float) -> float:
    """*value*, or the greatest finite number of its sign: no database takes an infinity."""
    return max(-FLOAT_MAX, min(FLOAT_MAX, value))


def metric_name(raw: bytes, separator: bytes) -> bytes:
    """The measurement for a metric's name, perhaps empty: only ``A-Z a-z 0-9 _ - ; =`` and *separator*s."""
    name = re.sub(rb"[\t\v\f\r ]+", b"_", raw)
    name = re.sub(rb"[^A-Za-z0-9_.;=-]", b"", name.replace(b"/", b"-"))
    return name.replace(b".", separator)


def carried(raw: bytes) -> bytes:
    """*raw* with the bytes replaced that line protocol cannot carry, or not alike in all versions.

    These are control characters and such backslashes as stand at the end, or before a byte that some version
    takes together with them.
    """
    return re.sub(
        rb'\\(?=[\\,= "\x00-\x1f\x7f]|\Z)|([\x00-\x1f\x7f])',
        lambda match: b"_" if match[1] else b"/",
        raw,
    )


def tag_text(raw: bytes) -> bytes:
    """A tag's key or value as it is written."""
    return re.sub(rb"([,= ])", rb"\\\1", carried(raw))


def tag_key(raw: bytes) -> bytes:
    """A tag's key as it is written; one that is reserved gets an underscore behind it."""
    key = tag_text(raw)
    return key + b"_" * (key in RESERVED_TAGS)


def title_name(raw: bytes) -> bytes:
    """The measurement for an event's title. A ``#`` in front would make a comment of the line."""
    name = carried(raw)
    if name[:1] == b"#":
        name = b"_" + name[1:]
    return re.sub(rb"([, ])", rb"\\\1", name)


def string_field(raw: bytes) -> bytes:
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", raw) + b'"'


def float_field(value: float) -> bytes:
    """The shortest text that reads back as *value*."""
    return repr(finite(value)).encode()


def integer_field(value: int) -> bytes:
    return b"%di" % min(value, INT64_MAX)


def percentile_field(percentile: float) -> bytes:
    """``90_percentile``, ``99.9_percentile``: as Telegraf names them."""
    return b"%s_percentile" % repr(percentile).removesuffix(".0").encode()


def head_text(measurement: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Measurement and tags, which are written already, with the tags in the order of their keys' bytes."""
    return b"".join([measurement, *(b"," + key + b"=" + tags[key] for key in sorted(tags))])
