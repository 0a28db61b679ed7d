"""Tables of a live screen: one line a row, and columns that go from the right where there is no room."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

_GAP = 2
_NAME_MIN = 12

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column. The first one of a table is the name of its rows."""

    title: str
    value: Callable[[Row], Any]
    """What it is sorted by."""
    text: Callable[[Row], str | Text]
    width: int = 0
    """At least, so that columns do not move while numbers change."""
    right: bool = True
    """Numbers are."""
    sorts: bool = True


class Tabular(Protocol):
    """What a table is made of."""

    @property
    def columns(self) -> Sequence[Column]: ...
    @property
    def rest(self) -> Callable[[Row], Text] | None:
        """What is said of a row behind all columns."""


def table(
    made_of: Tabular, rows: Sequence[Row], width: int, order: tuple[str, bool]
) -> tuple[Text, list[Text]]:
    """The line of titles, and those of the rows, none wider than *width*; *order* is what they are sorted by.

    What is said of a row stands at its end, or in a line below it if it is too long for that.
    """
    name, *others = made_of.columns
    names = [_text(name.text(row)) for row in rows]
    cells = [[_text(one.text(row)) for one in others] for row in rows]
    rests = [made_of.rest(row) if made_of.rest is not None else Text() for row in rows]
    widths = [
        max(one.width, cell_len(_titled(one, order)), *(row[at].cell_len for row in cells), 0)
        for at, one in enumerate(others)
    ]
    natural = max([name.width, cell_len(_titled(name, order)), *(one.cell_len for one in names)])
    least = min(natural, max(_NAME_MIN, width // 4))
    while widths and least + sum(widths) + _GAP * len(widths) > width:
        widths.pop()
    fixed = sum(widths) + _GAP * len(widths)
    longest = max((one.cell_len for one in rests), default=0)
    room = width - fixed
    # Names are cut for what stands behind them only where that is enough.
    if longest and least + _GAP + longest <= room:
        room -= _GAP + longest
    name_width = min(natural, max(least, room))
    left = width - name_width - fixed - _GAP

    titles = [_fit(Text(_titled(name, order)), name_width, False)]
    titles += [
        _fit(Text(_titled(one, order)), size, one.right) for one, size in zip(others, widths, strict=False)
    ]
    head = Text(" " * _GAP).join(titles)
    head.rstrip()
    head.stylize("bold")
    lines: list[Text] = []
    for label, row, rest in zip(names, cells, rests, strict=True):
        parts = [_fit(middle(label, name_width), name_width, False)]
        parts += [_fit(cell, size, one.right) for one, cell, size in zip(others, row, widths, strict=False)]
        line = Text(" " * _GAP).join(parts)
        below = rest.cell_len > left
        if rest and not below:
            line.append(" " * _GAP).append_text(rest)
        line.rstrip()
        lines.append(cut(line, width))
        if rest and below:
            lines.append(cut(Text.assemble("    ", rest), width))
    return cut(head, width), lines


def cut(line: Text, width: int) -> Text:
    """*line* in *width* columns, its end left out if it is longer."""
    if line.cell_len <= width:
        return line
    short = line.copy()
    short.truncate(width, overflow="ellipsis")
    return short


def middle(text: Text, width: int) -> Text:
    """The same with its middle left out: both ends of an address tell something."""
    if text.cell_len <= width or width < 5:
        return cut(text, width)
    plain, tail = text.plain, ""
    for char in reversed(plain):
        if cell_len(char + tail) > (width - 1) * 2 // 3:
            break
        tail = char + tail
    head = ""
    for char in plain:
        if cell_len(head + char) > width - 1 - cell_len(tail):
            break
        head += char
    return Text(f"{head}…{tail}", style=text.style)


def fold(line: Text, width: int) -> Iterator[Text]:
    """*line* in as many lines as it takes; for screens that are narrower than a headline."""
    style = line.style
    if line.cell_len <= width:
        yield line
        return
    for piece in _folded(line.plain, max(1, width)):
        yield Text(piece, style=style)


def _folded(text: str, width: int) -> Iterator[str]:
    piece = ""
    for word in text.split(" "):
        longer = f"{piece} {word}" if piece else word
        if cell_len(longer) <= width:
            piece = longer
            continue
        if piece:
            yield piece
        *full, piece = chop_cells(word, width) or [""]
        yield from full
    if piece:
        yield piece


def _fit(text: Text, width: int, right: bool) -> Text:
    """Exactly *width* columns."""
    space = width - text.cell_len
    if space < 0:
        return Text(set_cell_size(text.plain, width), style=text.style)
    return Text.assemble(" " * space, text) if right else Text.assemble(text, " " * space)


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _titled(column: Column, order: tuple[str, bool]) -> str:
    wanted, turned = order
    if not wanted or column.title != wanted or not column.sorts:
        return column.title.upper() if not column.right else column.title
    arrow = "↓" if column.right != turned else "↑"
    return f"{column.title.upper() if not column.right else column.title}{arrow}"
