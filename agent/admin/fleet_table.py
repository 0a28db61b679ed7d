"""``penstock fleet`` as lines of text, of any width and height: what relays have seen, the worst first.

Nothing is drawn here; see :mod:`agent.cli_fleet`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from rich.text import Text

from agent.admin.figures import count, duration, rate, span
from agent.admin.top_table import Column, Row, cut, fold, table
from agent.relay.fleet import Source, Whole
from agent.terminal import printable

_NAME_COLUMNS = 20


def _number(title: str, key: str, width: int, *, bad: bool = False) -> Column:
    """A column of a number; where it is *bad* it is seen if it is not 0."""
    return Column(
        title,
        lambda row: row[key],
        lambda row: Text(count(row[key]), "bold red" if bad and row[key] else ""),
        width=width,
    )


def _delay(title: str, key: str) -> Column:
    return Column(
        title,
        lambda row: row[key] or 0.0,
        lambda row: duration(row[key]) if row[key] is not None else "-",
        width=7,
    )


class _Sources:
    """The table."""

    columns = (
        Column("agent", lambda row: row["agent"], lambda row: row["agent"], _NAME_COLUMNS, right=False),
        _number("rings", "rings", 5),
        Column("rate", lambda row: row["rate"], lambda row: rate(row["rate"]), 9),
        _delay("p50", "p50"),
        _delay("p99", "p99"),
        _number("missing", "missing", 7, bad=True),
        _number("late", "late", 5),
        _number("repeated", "repeated", 8),
        _number("duplicates", "duplicates", 10),
        Column("last seen", lambda row: row["age"], lambda row: f"{span(row['age'])} ago", 10),
        _number("relays", "relays", 6),
    )

    # What is said of a row behind its columns, or below where there is no room.
    rest: Callable[[Row], Text] | None = staticmethod(lambda row: row["rest"])


def _row(source: Source, whole: Whole) -> dict[str, Any]:
    delay, age = source.delay, max(0.0, (whole.now_ns - source.last_ns) / 1e9)
    rest = Text()
    if source.silent:
        rest.append(f"silent for {span(age)}", "bold red")
    elif source.unsure:
        rest.append(f"of {count(source.unsure)} slots it cannot be told", "dim")
    return {
        "agent": Text(printable(source.agent), "bold red" if source.silent or source.missing else ""),
        "rings": source.ring_count,
        "rate": source.rate,
        "p50": delay.p50 if delay is not None else None,
        "p99": delay.p99 if delay is not None else None,
        "missing": source.missing,
        "late": source.late,
        "repeated": source.repeated,
        "duplicates": source.duplicates,
        "age": age,
        "relays": len(source.relays),
        "rest": rest,
    }


def fleet_lines(whole: Whole, width: int, height: int | None = None, first: int = 0) -> list[Text]:
    """The lines of one frame, none wider than *width*, *height* of them at most; rows from *first* on."""
    head = [line for one in _head(whole) for line in fold(one, width)]
    if not whole.sources:
        return head[:height]
    sources = sorted(whole.sources, key=lambda one: (not (one.silent or one.missing), one.agent))
    title, body = table(_Sources(), [_row(one, whole) for one in sources], width, ("", False))
    room = len(body) if height is None else max(0, height - len(head) - 1)
    first = max(0, min(first, len(body) - room))
    shown = body[first : first + room]
    left = len(body) - first - len(shown)
    if left and shown:
        shown[-1] = cut(Text(f"… {left + 1:,} more lines", style="dim"), width)
    return [*head, title, *shown][:height]


def _head(whole: Whole) -> Iterator[Text]:
    answered = [one for one in whole.relays if not one.trouble]
    silent, missing = whole.silent, whole.missing
    told = count(missing) if whole.complete else "cannot be told"
    yield Text.assemble(
        (_many(len(whole.sources), "agent"), "bold"),
        f" · {rate(sum(one.rate for one in whole.sources))} metrics/s · silent ",
        (count(silent), "bold red" if silent else ""),
        " · missing ",
        (told, "bold red" if missing or not whole.complete else ""),
        f" · {_many(len(answered), 'relay')}",
    )
    for one in whole.relays:
        if one.trouble:
            yield Text(f"{printable(one.name)}: {printable(one.trouble)}", style="bold red")
    if not whole.complete:
        yield Text("what lacks may have come to a relay that did not answer", style="dim")
    elif len(whole.relays) == 1:
        yield Text("as seen by this relay; if there are others, name all of them by --url", style="dim")


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"
