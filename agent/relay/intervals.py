"""Which slots of one ring have been seen, and which lack: a sorted list of intervals, the newest ones.

::

    seen      ├──────┤      ├────┤  ├─────────┤
                  told ^    ^ since             next: no hole is behind it, whatever may be lost there
              │      └ hole ┘    └──┘
              └ floor: what lies below is forgotten

A hole is *late* while it is young, since batches come out of order, and *missing* after that; what fills it
ends it. One that may be due to a time when who looks was not there yet is *unsure*: what lay in it may have
been seen by the process that was there before.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

GRACE_NS = 10_000_000_000
"""A hole that is younger is late; and so far the clocks of two machines may be apart."""

Interval = tuple[int, int, int, int]
"""First slot, the one behind the last, since when the hole below is known, when the last slot was sent."""


class Lacking(NamedTuple):
    """Slots that were not seen, between the first and the last one that were."""

    missing: int = 0
    late: int = 0
    unsure: int = 0


class Intervals:
    """What was seen of one ring. For one thread at a time.

    Times are nanoseconds since 1970. *since*, by the clock of who looks, never falls from one interval to the
    next one; *told*, when the oldest metric of the batch with the last slot arrived, is by the sender's.
    """

    __slots__ = ("ends", "floor", "sinces", "starts", "tolds")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.sinces: list[int] = []
        self.tolds: list[int] = []
        self.floor = 0
        """Slots below are forgotten."""

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, first: int, end: int, now_ns: int, told_ns: int) -> int:
        """Slots from *first* to the one before *end* are seen; returns how many of them had been before."""
        starts, ends, sinces, tolds = self.starts, self.ends, self.sinces, self.tolds
        if ends and first == ends[-1]:
            # What nearly always comes, where one sees all of a ring.
            ends[-1], tolds[-1] = end, told_ns
            return 0
        first = max(first, self.floor)
        if first >= end:
            return 0
        low, high = bisect_left(ends, first), bisect_right(starts, end)
        if low == high:
            if low < len(starts):
                now_ns = sinces[low]  # what lacks below the next one is known since then
            elif sinces:
                now_ns = max(now_ns, sinces[-1])
            starts.insert(low, first)
            ends.insert(low, end)
            sinces.insert(low, now_ns)
            tolds.insert(low, told_ns)
            return 0
        again = sum(min(end, ends[at]) - max(first, starts[at]) for at in range(low, high))
        if ends[high - 1] >= end:
            end, told_ns = ends[high - 1], tolds[high - 1]
        starts[low] = min(first, starts[low])
        ends[low], tolds[low] = end, told_ns
        del starts[low + 1 : high], ends[low + 1 : high], sinces[low + 1 : high], tolds[low + 1 : high]
        return again

    def keep(self, most: int) -> int:
        """Forget all but the newest *most*; returns how many slots lacked between those and what stays."""
        return self._forget(len(self) - most)

    def forget(self, before_ns: int) -> int:
        """Forget the holes that are known since before then, and what lies below them; returns as `keep`."""
        return self._forget(bisect_left(self.sinces, before_ns, 1) - 1 if len(self) > 1 else 0)

    def _forget(self, count: int) -> int:
        if count <= 0:
            return 0
        lacked = sum(self.starts[1 : count + 1]) - sum(self.ends[:count])
        for one in (self.starts, self.ends, self.sinces, self.tolds):
            del one[:count]
        self.floor = self.starts[0]
        return lacked

    def lacking(self, now_ns: int, there_ns: int, grace_ns: int = GRACE_NS) -> Lacking:
        """The holes, as who looks has been there since *there_ns*."""
        starts, ends, sinces, tolds = self.starts, self.ends, self.sinces, self.tolds
        low, high = 1, len(starts)
        # What lies below a slot that was sent later than that was sent later, or came out of order.
        while low < high and tolds[low - 1] < there_ns + grace_ns:
            low += 1
        while high > low and sinces[high - 1] > now_ns - grace_ns:
            high -= 1
        if high < 1:
            return Lacking()
        return Lacking(
            missing=sum(starts[low:high]) - sum(ends[low - 1 : high - 1]),
            late=sum(starts[high:]) - sum(ends[high - 1 : -1]),
            unsure=sum(starts[1:low]) - sum(ends[: low - 1]),
        )

    def rows(self) -> list[Interval]:
        return list(zip(self.starts, self.ends, self.sinces, self.tolds, strict=True))


def united(parts: Iterable[tuple[int, Iterable[Interval]]]) -> tuple[Intervals, int]:
    """What several have seen of one ring, each with its floor; and how many slots more than one has seen.

    What one of them has forgotten cannot be told by all together.
    """
    known = [(floor, list(rows)) for floor, rows in parts]
    whole = Intervals()
    whole.floor = max((floor for floor, _ in known), default=0)
    shared = 0
    for start, end, since, told in sorted(row for _, rows in known for row in rows):
        first = max(start, whole.floor)
        if first >= end:
            continue
        if not whole.ends or first > whole.ends[-1]:
            whole.starts.append(first)
            whole.ends.append(end)
            whole.sinces.append(since)
            whole.tolds.append(told)
            continue
        shared += min(end, whole.ends[-1]) - first
        if first == whole.starts[-1]:
            whole.sinces[-1] = min(whole.sinces[-1], since)
        if end > whole.ends[-1]:
            whole.ends[-1], whole.tolds[-1] = end, told
    # Whoever has seen what is above knew since then what lacks below.
    for at in range(len(whole) - 2, -1, -1):
        whole.sinces[at] = min(whole.sinces[at], whole.sinces[at + 1])
    return whole, shared
