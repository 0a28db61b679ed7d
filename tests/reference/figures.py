"""What the page shows of a document, worked out once more: places, and how numbers are written."""

import math
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from urllib.parse import unquote


def read(root: dict[str, Any], place: str) -> Any:
    """What is at *place*: see agent/admin/page/text.js."""
    found = [value for path in place.split("+") for value in _walk(root, path.split("/"))]
    found = [value for value in found if value is not None]
    if not found:
        return 0 if "*" in place or "+" in place else None
    return found[0] if len(found) == 1 else sum(found)


def _walk(value: Any, names: list[str]) -> Iterator[Any]:
    if not names:
        yield value
        return
    name, *rest = names
    if isinstance(value, dict):
        inner = [*value.values()] if name == "*" else [value[unquote(name)]] if unquote(name) in value else []
    elif isinstance(value, list):
        inner = [one for one in value if name == "*" or _name(one) == unquote(name)]
    else:
        inner = []
    for one in inner:
        yield from _walk(one, rest)


def _name(element: dict[str, Any]) -> str:
    return str(next(element[key] for key in ("name", "output", "writer", "agent", "lane") if key in element))


def _fixed(number: float, digits: int) -> str:
    """As JavaScript has it: of two that are as near, the larger."""
    return str(Decimal(number).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def _whole(number: float) -> str:
    return f"{math.floor(number + 0.5):,}"


def _size(size_bytes: float) -> str:
    unit = 0
    while size_bytes >= 1024 and unit < 4:
        size_bytes, unit = size_bytes / 1024, unit + 1
    text = _fixed(size_bytes, 1) if unit and size_bytes < 100 else _whole(size_bytes)
    return f"{text} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def _span(seconds: float) -> str:
    rest, parts = max(0, math.floor(seconds)), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= length or (unit == "s" and not parts):
            parts.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(parts[:2])


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{_fixed(seconds * 1e3, 2)} ms"
    if seconds < 1:
        return f"{_whole(seconds * 1e3)} ms"
    return f"{_fixed(seconds, 1)} s" if seconds < 100 else _span(seconds)


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items()) if number)


NOTHING = "\N{EN DASH}"

FORMATS: dict[str, Callable[[Any, float], str]] = {
    "count": lambda value, _: f"{value:,}",
    "loss": lambda value, _: f"{value:,}",
    "rate": lambda value, _: f"{_whole(value) if value >= 10 or not value else _fixed(value, 1)}/s",
    "size": lambda value, _: _size(value),
    "span": lambda value, _: _span(value),
    "duration": lambda value, _: _duration(value),
    "age": lambda value, now: _span(now - value / 1e9) if value else NOTHING,
    "since": lambda value, now: _span(now - value),
    "percent": lambda value, _: f"{_fixed(value * 100, 1)} %",
    "times": lambda value, _: f"{_fixed(value, 2) if value < 10 else _whole(value)}\N{MULTIPLICATION SIGN}",
    "ms": lambda value, _: f"{_whole(value / 1e6)} ms",
    "reasons": lambda value, _: _reasons(value),
    "word": lambda value, _: str(value).replace("_", " ") or NOTHING,
}


def text(root: dict[str, Any], place: str, form: str) -> str:
    """What the page shows of *place*."""
    value = read(root, place)
    return NOTHING if value is None else FORMATS[form](value, root["time"])
