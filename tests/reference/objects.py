"""What decoded metrics become, in plain Python: the rules of ext/objects.pyx and ext/object_text.h once more.

A point here is what a database is to understand, not how it is written: see :mod:`tests.reference.points`.
"""

from __future__ import annotations

import math
from typing import Any

from tests.reference.points import Point

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
TIME_MIN, TIME_MAX = -(2**63) + 2, 2**63 - 2
LETTERS = {"\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
RESERVED = ("time", "_measurement", "_field")


class Dropped(Exception):
    """The point is none; its argument is the reason."""


def utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Dropped("utf8") from None


def name_of(text: str, kind: str) -> bytes:
    """A name as the database has it. *kind*: measurement, tag or field."""
    raw = utf8(text).decode().rstrip("\\")
    out = ""
    for at, letter in enumerate(raw):
        following = raw[at + 1 : at + 2]
        if letter == "\\" and ((following and following in ", =") or (following == '"' and kind != "tag")):
            raise Dropped("backslash")
        if letter in LETTERS:
            out += LETTERS[letter]
        elif letter < " " or letter == "\x7f":
            raise Dropped("control_character")
        else:
            out += letter
    return out.encode()


def tag_value(value: object) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int and -(2**63) <= value < 2**63:
        return str(value)
    if type(value) is float and math.isfinite(value):
        return shortest(value)
    if type(value) is str:
        return value
    raise Dropped("tag")


def shortest(value: float) -> str:
    """The text of a float: Python's own digits, in the two forms of ext/num_shortest.h."""
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return sign + "0"
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, part = mantissa.partition(".")
    scale = int(exponent or 0) - (0 if part == "0" else len(part))
    digits = (whole + ("" if part == "0" else part)).lstrip("0")
    scale += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    point = len(digits) + scale
    if point > 17 or point < -4:
        return f"{sign}{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return sign + digits + "0" * (point - len(digits))
    return f"{sign}{digits[:point]}.{digits[point:]}"


def tags_of(tags: object) -> tuple[tuple[bytes, bytes], ...]:
    if tags is None:
        return ()
    if type(tags) is not dict:
        raise Dropped("tag")
    found: list[tuple[bytes, bytes]] = []
    for key, value in tags.items():
        if type(key) is not str:
            raise Dropped("tag")
        utf8(key)
        text = tag_value(value) if value is not None else ""
        if value is None:
            continue
        name, content = name_of(key, "tag"), name_of(text, "tag")
        if not name or not content:
            continue
        if name.decode() in RESERVED:
            raise Dropped("tag_reserved")
        found.append((name, content))
    if len({name for name, _ in found}) < len(found):
        raise Dropped("tag_duplicate")
    if len(found) in (100, 200, 400, 800):
        raise Dropped("tag")
    return tuple(sorted(found))


Field = tuple[bytes, str, "int | float | bytes | bool"]


def field_of(key: object, value: object, as_written: bool) -> Field | None:
    if type(key) is not str:
        raise Dropped("field")
    utf8(key)
    typed: tuple[str, int | float | bytes | bool] | None = None
    if type(value) is bool:
        typed = "b", value
    elif type(value) is int and -(2**63) <= value < 2**64:
        typed = ("f", float(value)) if not as_written else ("i" if value < 2**63 else "u", value)
    elif type(value) is float and math.isfinite(value):
        typed = "f", value
    elif type(value) is str:
        typed = "s", utf8(value)
    if typed is None:
        return None
    name = name_of(key, "field")
    return (name, *typed) if name else None


def time_of(time: object, unit: int, now_ns: int) -> int:
    if time is None:
        return now_ns
    if type(time) is int:
        ns = time * unit
    elif type(time) is float and math.isfinite(time):
        whole = math.floor(time)
        ns = whole * unit + math.floor((time - whole) * unit + 0.5)
        if not -9.2e18 < float(whole) * unit < 9.2e18:
            raise Dropped("timestamp_range")
    else:
        raise Dropped("timestamp")
    if not TIME_MIN <= ns <= TIME_MAX:
        raise Dropped("timestamp_range")
    return ns


def point_of(metric: Any, precision: str, as_written: bool, now_ns: int) -> Point:
    """The point of one decoded metric. Raises Dropped."""
    unit = UNITS[precision]
    if type(metric) is dict and (metric.get("name") is not None or metric.get("fields") is not None):
        time = metric.get("timestamp")
        if time is None:
            time, unit = metric.get("time"), 1
        parts = metric.get("name"), metric.get("tags"), metric.get("fields"), time
    elif type(metric) is tuple and len(metric) == 4:
        parts = metric
    else:
        raise Dropped("object")
    name, tags, fields, time = parts
    if type(name) is not str:
        raise Dropped("measurement")
    measurement = name_of(name, "measurement")
    if not measurement or measurement.startswith(b"#"):
        raise Dropped("measurement")
    found_tags = tags_of(tags)
    if type(fields) is not dict:
        raise Dropped("field")
    found = [field_of(key, value, as_written) for key, value in fields.items()]
    kept = tuple(field for field in found if field is not None)
    if time is not None and type(time) not in (int, float):
        raise Dropped("timestamp")
    ns = time_of(time, unit, now_ns)
    if not kept or [field[0] for field in kept] == [b"time"]:
        raise Dropped("field")
    if len({field[0] for field in kept}) < len(kept):
        raise Dropped("field")
    return Point(measurement, found_tags, kept, ns)


def points_of(messages: list[Any], precision: str, as_written: bool) -> tuple[list[Point], dict[str, int]]:
    """The points of decoded messages, which all have a time, and the metrics that were dropped by reason."""
    points: list[Point] = []
    dropped: dict[str, int] = {}
    for message in messages:
        metrics = [message]
        if type(message) is list:
            metrics = message
        elif type(message) is dict and message.get("metrics") is not None and message.get("fields") is None:
            inner = message["metrics"]
            metrics = inner if type(inner) is list else [inner]
        for metric in metrics:
            try:
                points.append(point_of(metric, precision, as_written, 0))
            except Dropped as reason:
                dropped[reason.args[0]] = dropped.get(reason.args[0], 0) + 1
    return points, dropped
