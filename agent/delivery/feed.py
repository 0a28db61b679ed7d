"""A ring as its reader sees it: what may be taken from it, and when it wants to be looked at again."""

import math
from collections import deque
from collections.abc import Callable

from agent._core import Batch, Ring
from agent.config import Flush
from agent.delivery.work import Live

SLOTS = 65_536
"""Slots of a ring."""

ALL = 1 << 62

MARK_S = 0.1
"""It is noted so often how much has been written, to tell later what of it has waited for how long."""

Leaves = Callable[[], bool] | None
"""What a batch is told about the way into the spool: see :class:`agent.delivery.work.Live`."""


class Feed:
    """One ring. The flusher's alone, but for what is said otherwise."""

    __slots__ = ("_marks", "in_hand_bytes", "leaving", "ring", "seen_at", "taken_bytes")

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.seen_at: float | None = None
        """When what is pending now was first seen (monotonic); None if nothing was."""
        self.leaving = False
        """Forget it once it is empty: no lane writes to it any more. Guarded by the flusher's lock."""
        self.in_hand_bytes = 0
        """Bytes of its batches that senders have. Guarded, too."""
        self.taken_bytes = 0
        """Bytes of all batches that were taken from it so far."""
        self._marks: deque[tuple[float, int]] = deque(maxlen=64)
        """At some moments (monotonic), the bytes that were taken or waited."""

    def take(self, bytes_max: int, lines_max: int, partial: bool, leaves: Leaves) -> "Taken | None":
        """The next batch; None where the ring refuses, since too many are out, or has none that is due."""
        batch = self.ring.take(bytes_max, lines_max, partial)
        if batch is None:
            return None
        self.seen_at = None
        taken = Taken(batch, leaves, self)
        self.taken_bytes += taken.nbytes
        return taken

    def arm(self, flush: Flush, draining: bool, now: float) -> bool:
        """Ask to be woken when a batch begins, or is full. False if that is so already."""
        if self.seen_at is None:
            if not self.ring.arm(1, 1):
                return True
            self.seen_at = now
        return not draining and not self.ring.arm(flush.batch_bytes, flush.batch_lines)

    def held_up(self, work: "Taken") -> float:
        """The part of the ring, 0 to 1, that cannot be freed before *work* is: space is freed in order."""
        _, pending = self.ring.pending()
        return (self.taken_bytes - work.begins + pending) / self.ring.capacity

    def older_bytes(self, seconds: float, now: float) -> int:
        """Bytes that have waited for *seconds*, as far as it knows from having been asked now and then."""
        _, pending = self.ring.pending()
        marks = self._marks
        if not marks or now >= marks[-1][0] + MARK_S:
            marks.append((now, self.taken_bytes + pending))
        while len(marks) > 1 and marks[1][0] <= now - seconds:
            marks.popleft()
        at, end = marks[0]
        return max(end - self.taken_bytes, 0) if at <= now - seconds else 0

    def is_full(self, spill_at: float) -> bool:
        """Whether more than *spill_at* of it waits, leaving out what is on its way into the spool."""
        _, pending = self.ring.pending()
        if not pending:
            return False
        if pending + self.in_hand_bytes >= spill_at * self.ring.capacity:
            return True
        return self.ring.stats()["slots_used"] >= spill_at * SLOTS

    def arm_full(self, spill_at: float) -> bool:
        """Ask to be woken when :meth:`is_full` is true by bytes. False if that is so already."""
        wanted = math.ceil(spill_at * self.ring.capacity) - self.in_hand_bytes
        return not self.ring.arm(max(wanted, 1), ALL)


class Taken(Live):
    """A batch of *feed*."""

    def __init__(self, batch: Batch, leaves: Leaves, feed: Feed) -> None:
        super().__init__(batch, leaves)
        self.feed = feed
        self.nbytes = batch.nbytes
        self.begins = feed.taken_bytes
        """Where it begins among all bytes that were taken from the feed."""
