"""A folder of files with names that sort by age, known by its totals and by its oldest names only.

A day's outage may leave a hundred thousand files, and an index of them all would be memory that a metrics
agent does not have. So one pass over the folder adds everything up and keeps the :data:`WINDOW_MAX` oldest
names; when those are used up, the next pass finds the next ones.

        held (out)       window             beyond: counted, not known by name
    ───●──●────────●●●●●●●●●●●●●●●●●●●│●●●●●●●●●●●●●●●●●●●●●●●●●●●●●●●──▶ age of the name
                                      └ edge

Every name up to the edge that is waiting is in the window. With nothing beyond, there is no edge.
"""

import bisect
import heapq
import os
from collections.abc import Callable, Container, Iterator

from agent.store.disk import PART, PROBE, occupied

WINDOW_MAX = 16_384
"""Names that are kept in memory at most: some 3 MB."""

FOREIGN_SHOWN = 3
"""So many names that are not ours are remembered, to be told."""


def file_size(path: str) -> int:
    """Bytes in a file. Raises OSError."""
    return os.stat(path, follow_symlinks=False).st_size


class Index:
    """What waits in a folder that nobody else changes. Not thread-safe.

    *metrics_of* gives the number of metrics that a name tells, or None where it is not one of ours. *beside*
    says of such a name whether it comes with one of ours and is counted there, by *size_of*. Files that
    others put there or take away are noticed at the next pass: ``appeared`` and ``vanished`` count their
    metrics.
    """

    def __init__(
        self,
        folder: str,
        metrics_of: Callable[[str], int | None],
        *,
        size_of: Callable[[str], int] = file_size,
        beside: Callable[[str], bool] = lambda name: False,
        window_max: int = WINDOW_MAX,
    ) -> None:
        self._folder = folder
        self._metrics_of = metrics_of
        self._size_of = size_of
        self._beside = beside
        self._window_max = window_max
        self._window: list[tuple[str, int]] = []  # (name, size), sorted
        self._edge = ""
        self._held: dict[str, int] = {}  # name: size
        self.files = 0
        self.bytes = 0
        """As :func:`agent.store.disk.occupied` counts, like all bytes here."""
        self.metrics = 0
        self.appeared = 0
        self.vanished = 0
        self.foreign = 0
        """Files with other names, at the last pass."""
        self.foreign_names: list[str] = []
        self.newest = ""
        """The greatest name ever seen."""

    @property
    def out(self) -> list[str]:
        """The names that are held."""
        return list(self._held)

    def holds(self, name: str) -> bool:
        """Whether *name* is out: taken, and neither given back nor forgotten."""
        return name in self._held

    @property
    def held_bytes(self) -> int:
        """What the files take that are out."""
        return sum(map(occupied, self._held.values()))

    @property
    def oldest(self) -> str:
        """The oldest name, held or not; empty if there is none."""
        # With the window used up, what waits is not older than its edge.
        waiting = [self._edge] if self.used_up else [name for name, _ in self._window[:1]]
        return min((*self._held, *waiting), default="")

    def open(self, skip: Container[str] = ()) -> list[str]:
        """Make the first pass; returns temporary files, which a process that was killed has left.

        Raises OSError, and then the index is empty.
        """
        left: list[str] = []
        self._pass(skip, left, sizes=True)
        return left

    @property
    def used_up(self) -> bool:
        """Whether files wait of which no name is known."""
        return not self._window and self.files > len(self._held)

    def refill(self, skip: Container[str]) -> None:
        """Find the oldest names again. Raises OSError, and then nothing has changed.

        Names in *skip* are on their way in or out, and no part of the totals.
        """
        self._pass(skip, [], sizes=False)

    def add(self, name: str, size: int) -> None:
        """Count a file that was put there."""
        self.files += 1
        self.bytes += occupied(size)
        self.metrics += self._metrics_of(name) or 0
        self.newest = max(self.newest, name)
        self._insert(name, size)

    def peek(self) -> tuple[str, int] | None:
        """Name and size of the oldest in the window."""
        return self._window[0] if self._window else None

    def take(self) -> tuple[str, int] | None:
        """Name and size of the oldest in the window, which is held from now on."""
        if not self._window:
            return None
        name, size = self._window.pop(0)
        self._held[name] = size
        return name, size

    def hold(self, name: str) -> bool:
        """Hold *name*. False if it is held already, or not there."""
        if name in self._held:
            return False
        at = bisect.bisect_left(self._window, (name, -1))
        if at < len(self._window) and self._window[at][0] == name:
            size = self._window.pop(at)[1]
        elif self._edge and name > self._edge:
            try:
                size = self._size_of(os.path.join(self._folder, name))
            except OSError:
                return False
        else:
            return False
        self._held[name] = size
        return True

    def give_back(self, name: str) -> None:
        """Let go of a file that is held: it waits again."""
        self._insert(name, self._held.pop(name))

    def forget(self, name: str) -> int:
        """Take a file that is held out of the totals; returns its metrics."""
        size = self._held.pop(name)
        metrics = self._metrics_of(name) or 0
        self.files -= 1
        self.bytes -= occupied(size)
        self.metrics -= metrics
        return metrics

    def _insert(self, name: str, size: int) -> None:
        if self._edge and name > self._edge:
            return
        bisect.insort(self._window, (name, size))
        if len(self._window) > self._window_max:
            self._window.pop()
            self._edge = self._window[-1][0]

    def _pass(self, skip: Container[str], left: list[str], sizes: bool) -> None:
        """Go over the folder once. Without *sizes* only those of the window are asked for: that is faster."""
        files = metrics = total = 0
        newest = self.newest
        foreign: list[str] = []

        def waiting() -> Iterator[tuple[str, int]]:
            nonlocal files, metrics, total, newest
            for entry, count in self._ours(left, foreign):
                name = entry.name
                if name in self._held or name in skip:
                    continue
                try:
                    size = self._size_of(entry.path) if sizes else 0
                except FileNotFoundError:
                    continue
                files += 1
                metrics += count
                total += occupied(size)
                newest = max(newest, name)
                yield name, size

        self.foreign = 0
        window = heapq.nsmallest(self._window_max, waiting())
        known = self.files - len(self._held)
        held_metrics = sum(self._metrics_of(name) or 0 for name in self._held)
        if not sizes:
            if (files, metrics) != (known, self.metrics - held_metrics):
                # Somebody has been here: what is there is added up anew.
                return self._pass(skip, left, sizes=True)
            window = [(name, self._size(name)) for name, _ in window]
        else:
            change = metrics + held_metrics - self.metrics
            self.appeared += max(change, 0)
            self.vanished += max(-change, 0)
            self.files, self.bytes = files + len(self._held), total + self.held_bytes
            self.metrics = metrics + held_metrics
        self.newest = newest
        self.foreign_names = foreign
        self._window = window
        self._edge = window[-1][0] if window and len(window) < files else ""
        return None

    def _ours(self, left: list[str], foreign: list[str]) -> Iterator[tuple["os.DirEntry[str]", int]]:
        """Our files with their metrics, in no order; the names of others go where they belong."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(PART) and self._is_ours(name.removesuffix(PART)):
                    left.append(name)
                    continue
                metrics = self._metrics_of(name)
                if metrics is not None and entry.is_file(follow_symlinks=False):
                    yield entry, metrics
                elif not (self._beside(name) or entry.is_dir(follow_symlinks=False)):
                    self.foreign += 1
                    if len(foreign) < FOREIGN_SHOWN:
                        foreign.append(name)

    def _is_ours(self, name: str) -> bool:
        return name == PROBE or self._metrics_of(name) is not None or self._beside(name)

    def _size(self, name: str) -> int:
        try:
            return self._size_of(os.path.join(self._folder, name))
        except FileNotFoundError:
            # It counts until it is asked for, and is missing then.
            return 0
