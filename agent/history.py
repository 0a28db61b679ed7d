"""What plots show of the past: some figures of each second for ten minutes, and of each minute for six hours.

A figure has a place of three words: ``listeners`` or ``outputs``, a name, and what it is of that one. What
nobody knows of a moment is a gap.
"""

import math
from array import array
from collections.abc import Iterator, Mapping

Place = tuple[str, str, str]

SECONDS = 600
MINUTES = 360
PLACES_MAX = 400
"""Figures that have a history; it bounds the memory, at 7.7 KB each, and what a page is sent at its start."""

_SECONDS_PER_MINUTE = 60


class History:
    """The figures of the last :data:`SECONDS` and :data:`MINUTES`. One thread's."""

    def __init__(self) -> None:
        self._seconds = _Window(SECONDS)
        self._minutes = _Window(MINUTES)
        self._places: set[Place] = set()
        self._left_out: set[Place] = set()
        self._sums: dict[Place, tuple[float, int]] = {}
        self._added = 0

    @property
    def truncated(self) -> int:
        """Listeners and outputs some of whose figures have no history, since there are too many."""
        return len({place[:2] for place in self._left_out})

    def add(self, time: float, figures: Mapping[Place, float]) -> None:
        """The *figures* of one second that ended at *time*; a minute's are their means."""
        known = {place: figure for place, figure in figures.items() if self._admit(place)}
        self._seconds.put(time, known)
        for place, figure in known.items():
            if not math.isnan(figure):
                total, number = self._sums.get(place, (0.0, 0))
                self._sums[place] = total + figure, number + 1
        self._added += 1
        if self._added % _SECONDS_PER_MINUTE == 0:
            self._minutes.put(time, {place: _short(total / n) for place, (total, n) in self._sums.items()})
            self._sums.clear()

    def seconds(self) -> dict[str, object]:
        """The last minutes, second by second: ``{"time": […], "outputs": {NAME: {"delivered": […]}}}``."""
        return self._seconds.document()

    def minutes(self) -> dict[str, object]:
        """The same for hours, minute by minute."""
        return self._minutes.document()

    def _admit(self, place: Place) -> bool:
        if place not in self._places:
            if len(self._places) >= PLACES_MAX:
                self._left_out.add(place)
                return False
            self._places.add(place)
        return True


class _Window:
    """The last *length* readings of any number of figures; the next one overwrites the oldest."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._added = 0
        self._times = array("d", bytes(8 * length))
        self._figures: dict[Place, array[float]] = {}

    def put(self, time: float, figures: Mapping[Place, float]) -> None:
        at = self._added % self._length
        self._added += 1
        self._times[at] = time
        for place in figures.keys() - self._figures.keys():
            self._figures[place] = array("d", [math.nan]) * self._length
        for place, kept in self._figures.items():
            kept[at] = figures.get(place, math.nan)

    def document(self) -> dict[str, object]:
        document: dict[str, object] = {"time": self._in_order(self._times)}
        for (kind, name, what), kept in sorted(self._figures.items()):
            of_kind = document.setdefault(kind, {})
            assert isinstance(of_kind, dict)
            of_kind.setdefault(name, {})[what] = self._in_order(kept)
        return {"listeners": {}, "outputs": {}} | document

    def _in_order(self, kept: "array[float]") -> list[float]:
        """From the oldest to the newest."""
        if self._added < self._length:
            return kept[: self._added].tolist()
        at = self._added % self._length
        return [*kept[at:], *kept[:at]]


def places(kind: str, name: str, figures: Mapping[str, float]) -> Iterator[tuple[Place, float]]:
    """*figures* of one listener or output, each at its place, with as many digits as a plot needs."""
    for what, figure in figures.items():
        yield (kind, name, what), _short(figure)


def _short(figure: float) -> float:
    """Six digits: a plot has no more, and a page is sent thousands of them."""
    return float(f"{figure:.6g}")
