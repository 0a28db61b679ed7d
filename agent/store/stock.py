"""What is in a folder of files, and what its limits cost: the oldest go first, and are counted.

What a spool and the rejected metrics have in common: an index that does not grow (:mod:`agent.store.folder`),
limits on bytes, on age and on what is left free for others, and a disk that may refuse anything at any time.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from agent.config_values import format_size
from agent.store import disk
from agent.store.ages import AgeClock
from agent.store.folder import Index
from agent.store.trouble import Trouble

REMOVALS_MAX = 256
"""Files that one look at a limit removes at most; whoever holds the lock meanwhile holds up others."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of all files, seconds of age, and bytes that are left free on the file system (0: any)."""

    max_bytes: int
    max_age: float
    min_free_space: int = 0


class Stock:
    """The files of one folder. Not thread-safe; nothing that a disk does raises, but for :meth:`open`.

    *time_of* gives the time that a name tells (nanoseconds since 1970), *beside* the path of another file
    that goes with the one at a path. Names in ``coming`` (with their sizes) are on their way to the folder:
    room is kept for them.
    """

    def __init__(
        self,
        path: str,
        index: Index,
        trouble: Trouble,
        limits: Limits,
        time_of: Callable[[str], int],
        *,
        beside: Callable[[str], str] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index = index
        self.limits = limits
        self.opened = False
        self.dropped: dict[str, int] = {}
        """Metrics by the reason for which they were removed."""
        self.coming: dict[str, int] = {}
        self.gone: set[str] = set()
        """Files that are decided, and still there because they cannot be removed."""
        self._path = path
        self._trouble = trouble
        self._time_of = time_of
        self._beside = beside
        self._wall = wall
        self._monotonic = monotonic
        self._ages = AgeClock(wall=wall, monotonic=monotonic)

    def at(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self._path, name)

    def open(self, first: bool = False) -> None:
        """Make the folder if need be, and look at what is there; to be called again until it could be.

        Raises OSError at *first*, if a person must mend what is wrong.
        """
        try:
            disk.make_folder(self._path)
            left = self.index.open()
            self.opened = True
            for name in left:
                # Written by a process that was killed; its metrics stayed where they were.
                disk.discard(self.at(name))
            if self.index.newest:
                newest = self._time_of(self.index.newest) / 1e9
                self._ages = AgeClock(newest, wall=self._wall, monotonic=self._monotonic)
            self._trouble.worked("open")
            disk.probe(self._path, 0)
        except OSError as error:
            if first and disk.must_be_mended(error):
                raise
            self._trouble.failed("write" if self.opened else "open", error)

    def refill(self) -> None:
        """Find the oldest names if none is known."""
        if not self.index.used_up or self._trouble.paused("read"):
            return
        skip = self.coming.keys() | self.gone
        try:
            try:
                self.index.refill(skip)
            except FileNotFoundError:
                # The whole folder has been removed: an empty one in its place tells what is missing.
                disk.make_folder(self._path)
                self.index.refill(skip)
            self._trouble.worked("read")
        except OSError as error:
            self._trouble.failed("read", error)

    def make_room(self, size: int, full: str, space: str) -> bool:
        """Remove the oldest files until one of *size* more fits, for the reasons *full* and *space*.

        False if it does not fit even then.
        """
        limit = self.limits.max_bytes
        wanted = disk.occupied(size)
        coming = sum(map(disk.occupied, self.coming.values())) + wanted
        # Nothing is removed for what would not fit into an empty folder either.
        if self.index.held_bytes + coming <= limit:
            for _ in range(REMOVALS_MAX):
                if self.index.bytes + coming <= limit or not self.drop_oldest(full):
                    break
        if self.index.bytes + coming > limit:
            self._trouble.refused("space", f"max_bytes ({format_size(limit)}) has no room for another file")
            return False
        return self.free_space(wanted, space)

    def has_room(self, size: int) -> bool:
        """Whether a file of *size* more fits as things are. Changes nothing, and so needs no lock."""
        wanted = disk.occupied(size)
        coming = sum(map(disk.occupied, list(self.coming.values())))
        if self.index.bytes + coming + wanted > self.limits.max_bytes:
            return False
        try:
            return disk.free_bytes(self._path) >= self.limits.min_free_space + wanted
        except OSError:
            return False

    def free_space(self, wanted: int, reason: str) -> bool:
        """Remove the oldest files until *wanted* bytes more than ``min_free_space`` are free."""
        limit = self.limits.min_free_space
        try:
            lacking = limit + wanted - disk.free_bytes(self._path) if limit else 0
        except OSError:
            # Whoever writes there will learn why.
            return True
        for _ in range(REMOVALS_MAX):
            # What was removed counts as free: some file systems take a while to say so.
            if lacking <= 0 or not (freed := self.drop_oldest(reason)):
                break
            lacking -= freed
        if lacking > 0:
            self._trouble.refused("space", f"less than min_free_space ({format_size(limit)}) is free")
            return False
        self._trouble.worked("space")
        return True

    def enforce(self, full: str, age: str, space: str) -> bool:
        """Remove what is beyond the limits. True if there is more to remove."""
        before_ns = (self._ages.now(self.limits.max_age) - self.limits.max_age) * 1e9
        for _ in range(REMOVALS_MAX):
            if not self.drop_oldest(age, before_ns):
                break
        else:
            return True
        for _ in range(REMOVALS_MAX):
            if self.index.bytes <= self.limits.max_bytes or not self.drop_oldest(full):
                break
        else:
            return True
        self.free_space(0, space)
        return False

    def drop_oldest(self, reason: str, before_ns: float = math.inf) -> int:
        """Remove the oldest file that is not out, if it is from before *before_ns*.

        Returns the bytes that it took on the disk; 0 if nothing was removed.
        """
        if self._trouble.paused("remove"):
            return 0
        self.refill()
        item = self.index.peek()
        if item is None or self._time_of(item[0]) >= before_ns:
            return 0
        self.index.take()
        name, size = item
        if not self.unlink(name):
            self.index.give_back(name)
            return 0
        self.drop(name, reason)
        return max(disk.occupied(size), 1)

    def drop(self, name: str, reason: str) -> None:
        """Count a file that is held as dropped. It is, or will be, out of the folder."""
        self.dropped[reason] = self.dropped.get(reason, 0) + self.index.forget(name)

    def drop_named(self, name: str, reason: str) -> bool:
        """Remove this file. False if there is none such that waits, or it cannot be removed."""
        if name in self.coming or name in self.gone or not self.index.hold(name):
            return False
        if not self.unlink(name):
            self.index.give_back(name)
            return False
        self.drop(name, reason)
        return True

    def unlink(self, name: str) -> bool:
        """Remove a file, and the one beside it. False if it is still there."""
        path = self.at(name)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            if self._beside is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._beside(path))
        except OSError as error:
            self._trouble.failed("remove", error)
            return False
        if not self.gone:
            self._trouble.worked("remove")
        return True

    def decide(self, name: str) -> int:
        """Remove a held file whose metrics are decided, and forget it; returns the metrics."""
        if not self.unlink(name):
            # It must not be taken again.
            self.gone.add(name)
        return self.index.forget(name)

    def remove_gone(self) -> None:
        """Try again to remove what could not be removed when it was decided."""
        if self._trouble.paused("remove"):
            return
        for name in list(self.gone)[:REMOVALS_MAX]:
            if not self.unlink(name):
                return
            self.gone.discard(name)
        if not self.gone:
            self._trouble.worked("remove")
