"""Protocol buffers by hand: what no library writes, such as malformed messages."""

from __future__ import annotations

import struct

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """*value* as a varint; negative numbers have ten bytes."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def key(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def number(field: int, value: int) -> bytes:
    return key(field, VARINT) + varint(value)


def double(field: int, value: float) -> bytes:
    return key(field, FIXED64) + struct.pack("<d", value)


def fixed64(field: int, value: int) -> bytes:
    return key(field, FIXED64) + struct.pack("<Q", value & 2**64 - 1)


def data(field: int, *parts: bytes) -> bytes:
    """A field of bytes, or of a message whose fields are *parts*."""
    whole = b"".join(parts)
    return key(field, BYTES) + varint(len(whole)) + whole


def label(name: bytes, value: bytes) -> bytes:
    """A label in a TimeSeries of remote write."""
    return data(1, data(1, name), data(2, value))


def sample(value: float, time_ms: int) -> bytes:
    """A sample in a TimeSeries of remote write."""
    return data(2, double(1, value), number(2, time_ms))


def series(labels: dict[bytes, bytes], *rest: bytes) -> bytes:
    """A TimeSeries in a WriteRequest."""
    return data(1, *(label(name, value) for name, value in labels.items()), *rest)
