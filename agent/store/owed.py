"""What of the metrics that this process has received waits in a spool, and is not late yet.

A file counts from before it is there, so that a metric on its way out of a ring is seen twice rather than
never. What an earlier process left, or a command brought, is nobody's promise and is not here.
"""

import threading
import time

FILES_MAX = 65_536
"""So many files are remembered; of more than that, those that were stored first count as late already."""


class Owed:
    """The files of one spool, each by the id of its batch and its number of metrics. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[str, int], tuple[int, int]] = {}  # oldest arrival, metrics of our own

    def add(self, batch: str, metrics: int, oldest_ns: int, own: int) -> None:
        """A file is about to be stored, with *own* metrics that this process has received."""
        with self._lock:
            self._files[batch, metrics] = oldest_ns, own
            if len(self._files) > FILES_MAX:
                del self._files[next(iter(self._files))]

    def own(self, batch: str, metrics: int) -> int:
        """How many metrics of the file this process has received; 0 of one that is not known."""
        return self._files.get((batch, metrics), (0, 0))[1]

    def remove(self, batch: str, metrics: int) -> None:
        """The file is decided, or was never stored."""
        with self._lock:
            self._files.pop((batch, metrics), None)

    def young(self, within: float) -> int:
        """Metrics of our own in files that arrived in the last *within* seconds. Forgets the others."""
        since_ns = time.time_ns() - int(within * 1e9)
        with self._lock:
            late = [key for key, (oldest_ns, _) in self._files.items() if oldest_ns < since_ns]
            for key in late:
                del self._files[key]
            return sum(own for _, own in self._files.values())
