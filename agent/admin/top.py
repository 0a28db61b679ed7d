"""The live screen of ``penstock top``: frames of text from documents of ``/api/stream``, and what keys do.

Frames are made for any size. Columns go from the right where it is narrow; under :data:`COLUMNS_MIN` columns
or :data:`LINES_MIN` lines there are the totals only. Nothing is drawn here; see :mod:`agent.cli_top`.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from agent.admin.figures import count, duration, rate, span, volume
from agent.admin.top_sections import SECTIONS, Second, Section
from agent.admin.top_table import cut, fold, table
from agent.terminal import printable

COLUMNS_MIN = 40
LINES_MIN = 10

_ROOMY_LINES = 16
"""From so many on, an empty line stands between sections."""

_SECTION_LINES = 3
"""A section with less room would say nothing but that there is more: its title, a row, and that."""

_STATES = {"ok": "green", "running": "green", "retrying": "yellow", "holding": "bold red"}

_HELP = (
    ("q", "end"),
    ("p, space", "pause, and go on"),
    ("s", "sort by the next column"),
    ("r", "turn the order around"),
    ("1", "listeners only; once more, or 0: all sections"),
    ("2", "outputs only"),
    ("3", "measurements and tags with most new series only"),
    ("4", "what happened, and malformed lines, only"),
    ("up, down", "scroll the first section; Page Up, Page Down, Home, End too"),
    ("?", "this list, and away with it"),
)


class View:
    """What whoever looks on has chosen."""

    def __init__(self, sort: str = "") -> None:
        self.sort = sort
        """Title of a column; empty: as configured."""
        self.reversed = False
        self.section = 0
        """The only one that is shown, from 1; 0: all of them."""
        self.first = 0
        """Rows of the first section that are above its window."""
        self.paused = False
        self.helping = False
        self.rows = 1
        """Of the first section, that the last frame had room for."""
        self.over = False

    def press(self, key: str) -> None:
        """Do what *key* asks for; others do nothing."""
        if key in ("q", "Q", "\x03", "\x04"):
            self.over = True
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key in ("?", "h"):
            self.helping = not self.helping
        elif key == "r":
            self.reversed = not self.reversed
        elif key == "s":
            titles = ["", *sort_keys(self.section)]
            self.sort = titles[(titles.index(self.sort) + 1 if self.sort in titles else 0) % len(titles)]
            self.first = 0
        elif key in ("0", "1", "2", "3", "4"):
            self.section = 0 if int(key) == self.section else int(key)
            self.first = 0
        else:
            self._scroll(key)

    def _scroll(self, key: str) -> None:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self.rows, "page down": self.rows}
        if key == "home":
            self.first = 0
        elif key == "end":
            self.first = 1 << 30
        else:
            self.first = max(0, self.first + steps.get(key, 0))

    def sections(self) -> Sequence[Section]:
        return SECTIONS if not self.section else SECTIONS[self.section - 1 : self.section]


def sort_keys(section: int = 0) -> list[str]:
    """The titles of columns that can be sorted by, in one section or in all of them."""
    wanted = SECTIONS if not section else SECTIONS[section - 1 : section]
    return list(dict.fromkeys(one.title for each in wanted for one in each.columns if one.sorts))


def frame(second: Second, view: View, width: int, height: int | None, trouble: str = "") -> list[Text]:
    """The lines of one frame, none wider than *width*; *height* of them at most, or as many as it takes.

    *trouble* says why *second* is old.
    """
    if view.helping and height is not None:
        return [cut(line, width) for line in _help()][:height]
    head = list(_head(second, view, trouble))
    if width < COLUMNS_MIN or (height is not None and height < LINES_MIN):
        lines = [line for one in [*head, *_totals(second)] for line in fold(one, width)]
        return lines[:height]
    lines = [cut(_first_line(head, width), width), *(cut(line, width) for line in head[1:])]
    lines.append(_in_one_line(_totals(second), width))
    room = height - len(lines) if height is not None else None
    lines += _sections(second, view, width, room)
    return lines[:height]


# ---- what is above the sections ----


def _first_line(head: list[Text], width: int) -> Text:
    """The headline, with the keys at its right end if there is room for them."""
    keys = Text("q s r p ?", style="dim")
    space = width - cell_len(head[0].plain) - cell_len(keys.plain)
    return head[0] if space < 2 else Text.assemble(head[0], " " * space, keys)


def _head(second: Second, view: View, trouble: str) -> Iterator[Text]:
    status = second.status
    state, balance = status["state"], status["ledger"]["balance"]
    line = Text.assemble(
        (f"penstock {printable(status['version'])}", "bold"),
        " · ",
        (printable(state), _STATES.get(state, "yellow")),
        f" {span(status['uptime'])} · ledger ",
        (balance, "bold red" if balance == "broken" else ""),
    )
    if view.paused:
        line.append(" · ")
        line.append("paused", "reverse")
    yield line
    if trouble:
        at = time.strftime("%H:%M:%S", time.localtime(second.time))
        yield Text(f"these numbers are of {at}: {printable(trouble)}", style="bold red")
    for reason in status["not_ready"]:
        yield Text(f"not ready: {printable(reason)}", style="bold red")
    for reason in status["detail"]:
        yield Text(f"trouble: {printable(reason)}", style="bold red")
    burning = [one for one in status["slo"] if one["state"] != "ok"]
    if burning:
        told = ", ".join(f"{printable(one['output'])} burns {one['state']}" for one in burning)
        yield Text(f"objective: {told}", style="bold red")


def _totals(second: Second) -> Iterator[Text]:
    """What comes and goes, in all."""
    sums = second.sums
    yield Text.assemble("in ", (rate(sums["in"]), "bold"), "/s")
    yield Text.assemble("out ", (rate(sums["out"]), "bold"), "/s")
    yield Text.assemble("lost ", (rate(sums["lost"]), "bold red" if sums["lost"] else "bold"), "/s")
    yield Text(f"waiting {count(int(sums['waiting']))}")
    delays = [one["p99"] for one in second.status["delay"].values() if one]
    if delays:
        yield Text(f"p99 {duration(max(delays))}")
    if sums["spool"]:
        yield Text(f"spool {volume(sums['spool'])}")
    if second.processors is not None:
        yield Text(f"processor {second.processors * 100:.0f} %")


def _in_one_line(parts: Iterator[Text], width: int) -> Text:
    """As many of *parts* as there is room for."""
    line = Text()
    for part in parts:
        between = " · " if line else ""
        if line.cell_len + len(between) + part.cell_len > width:
            break
        line.append(between, style="dim").append_text(part)
    return line


def _help() -> Iterator[Text]:
    yield Text("Keys", style="bold")
    for keys, does in _HELP:
        yield Text(f"  {keys:10} {does}")


# ---- the sections ----


def _sections(second: Second, view: View, width: int, room: int | None) -> list[Text]:
    shown = [(one, rows) for one in view.sections() if (rows := one.rows(second)) or view.section]
    for section, rows in shown:
        _sort(section, rows, view)
    if room is not None:
        shown = shown[: max(1, room // _SECTION_LINES)]
    blank = 1 if room is None or room >= _ROOMY_LINES else 0
    made = [table(section, rows, width, (view.sort, view.reversed)) for section, rows in shown]
    wanted = [len(lines) + blank for _, lines in made]
    heights = _shared_out(wanted, room)
    lines: list[Text] = []
    for index, (title, body) in enumerate(made):
        height = heights[index] - blank - 1
        # A title without a row says nothing.
        if height < 1 and body:
            continue
        first = 0
        if index == 0:
            first = view.first = min(view.first, max(0, len(body) - height))
            view.rows = max(1, height)
        lines += [Text()] * blank
        lines.append(title)
        lines += _window(body, first, height, width)
    return lines


def _sort(section: Section, rows: list[dict[str, Any]], view: View) -> None:
    """By the column that is wanted, the largest first and names from A on; else as they are."""
    column = next((one for one in section.columns if one.sorts and one.title == view.sort), None)
    if column is None:
        if view.reversed and not view.sort:
            rows.reverse()
        return
    numbers = column.right
    rows.sort(key=lambda row: column.value(row), reverse=numbers != view.reversed)


def _shared_out(wanted: Sequence[int], room: int | None) -> list[int]:
    """Lines for each: what it wants while there is room, else what small ones leave is for the large ones.

    *wanted* are without titles, which are added.
    """
    heights = [one + 1 for one in wanted]
    if room is None or sum(heights) <= room:
        return heights
    left, result = room, dict.fromkeys(range(len(heights)), 0)
    for number, index in enumerate(sorted(result, key=lambda index: heights[index])):
        result[index] = min(heights[index], left // (len(heights) - number))
        left -= result[index]
    return list(result.values())


def _window(body: list[Text], first: int, height: int, width: int) -> list[Text]:
    """*height* lines of *body* from *first* on; the last one says how many there are behind it."""
    rest = len(body) - first - height
    if rest <= 0:
        return body[first:]
    return [*body[first : first + height - 1], cut(Text(f"… {rest + 1:,} more", style="dim"), width)]
