"""Reference of what a WriteRequest of remote write 1.0 becomes, the oracle of ``read_format(…, "protobuf")``.

The measurement is the label ``__name__``, other labels are tags, the field is ``value``. Of labels with one
name the first stays; one without a name or a value is none. A number that line protocol cannot hold (NaN, and
with it what Prometheus calls stale, and infinities) costs its sample.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.reference.foreign import Result, line, measurement, series, tags_of
from tests.reference.line_text import Malformed


@dataclass(frozen=True)
class TimeSeries:
    """Labels in their order, and samples: value and milliseconds."""

    labels: tuple[tuple[bytes, bytes], ...]
    samples: tuple[tuple[float, int], ...]


def number(value: float) -> bytes:
    """The shortest text that reads back to *value*, as ``ext/num_shortest.h`` writes it."""
    text = repr(value).removesuffix(".0")
    digits, _, exponent = text.partition("e")
    if not exponent:
        return text.encode()
    power = int(exponent)
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    whole, _, part = digits.partition(".")
    if power < -5 or power > 16:
        return f"{sign}{digits}e{power}".encode()
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{whole}{part}".encode()
    return f"{sign}{whole}{part.ljust(power, '0')}".encode()


def read(
    request: Iterable[TimeSeries], *, tags: Sequence[tuple[bytes, bytes]] = (), malformed_rest: bool = False
) -> Result:
    """What *request* becomes; *malformed_rest* tells that something unreadable stands behind it."""
    body = bytearray()
    received = accepted = 0
    dropped: Counter[str] = Counter()
    for one in request:
        for value, time_ms in one.samples:
            received += 1
            try:
                name = next((text for key, text in reversed(one.labels) if key == b"__name__" and text), b"")
                own = [(key, text) for key, text in one.labels if key != b"__name__"]
                written = measurement(name) if name else b""
                head = series(written, tags_of(own, last_stays=False), [b"value"], tags)
                if not math.isfinite(value):
                    raise Malformed("number")
                body += line(head, {b"value": number(value)}, time_ms * 1_000_000)
                accepted += 1
            except Malformed as malformed:
                dropped[malformed.args[0]] += 1
    if malformed_rest:
        received += 1
        dropped["protobuf"] += 1
    return Result(bytes(body), received, accepted, dict(dropped))


def is_number(text: bytes) -> bool:
    return re.fullmatch(rb"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", text) is not None
