"""How numbers are written for people, on every screen of the terminal."""

from collections.abc import Mapping

from rich.markup import escape as escape_markup

from agent.terminal import printable


def escape(text: str) -> str:
    """What others say, as it is: nothing in it is markup, and no terminal obeys it."""
    return escape_markup(printable(text))


def count(number: int) -> str:
    return f"{number:,}"


def rate(per_second: float) -> str:
    """Whole numbers, but for small ones: ``812,331``, ``0.2``."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}".removesuffix(".0")


def volume(size_bytes: float) -> str:
    """In the unit that leaves up to four digits: ``812 B``, ``1.2 GiB``."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size_bytes >= 1000 and unit != "TiB":
        size_bytes, unit = size_bytes / 1024, next(units)
    return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 100 else f"{size_bytes:.1f} {unit}"


def size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def loss(number: int) -> str:
    """A number that should be 0, and is seen if it is not."""
    return f"[bold red]{number:,}[/]" if number else "0"


def reasons(dropped: Mapping[str, int]) -> str:
    """``ring_full 12, series_full 3``."""
    return escape(", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items()) if number))


def duration(seconds: float) -> str:
    """Short times, with two digits or three: ``0.35 ms``, ``94 ms``, ``1.2 s``."""
    if seconds < 1:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.2f} ms" if milliseconds < 1 else f"{milliseconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else span(seconds)


def span(seconds: float) -> str:
    """The two largest units: ``3 d 4 h``."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= length or (unit == "s" and not parts):
            parts.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(parts[:2])
