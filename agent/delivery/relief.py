"""What becomes of rings while no batch can leave: what relieves those that run full or have waited too long.

A ring that fills up goes to the spool without an attempt; and if attempts that do not end hold it up, they
are interrupted. While the breaker is open, so does every full batch, but for the last second: what arrives
while the server comes back is not to wait behind all of an outage. Less than a batch stays as well, unless it
has waited for long: a ring outlives its process, and an outage of days must not become a million small files.
"""

import logging
import math
from collections.abc import Sequence

from agent.config import Flush
from agent.delivery.breaker import State
from agent.delivery.delivery import Delivery
from agent.delivery.feed import Feed
from agent.delivery.senders import Senders
from agent.delivery.spiller import Spiller

logger = logging.getLogger(__name__)

STUCK_POLL_S = 0.05
"""A ring lets only so many batches out (256); while one refuses, it is asked so often."""

FULL_POLL_S = 1.0
"""While no batch can leave, it is looked at so often whether a ring or an attempt has had enough time."""

YOUNG_S = 1.0
"""While the breaker is open, what has waited no longer stays in the ring."""

YOUNG_POLL_S = 0.2
"""And so often it is looked at what has."""

OLD_S = 10.0
"""While the breaker is open, what has waited so long goes to the spool even if it is no full batch."""

STUCK_S = 1.0
STUCK_ROUND_TRIPS = 5.0
"""An attempt that has taken so long, in seconds and in usual round trips, holds up a full ring no longer."""


class Relief:
    """The relief of one output's rings. The flusher's thread only."""

    def __init__(self, name: str, delivery: Delivery, senders: Senders, spiller: Spiller) -> None:
        self._name = name
        self._delivery = delivery
        self._senders = senders
        self._spiller = spiller
        self.look_at = math.inf
        """When to look again at the latest (monotonic); in the past for at once."""

    def relieve(self, feeds: Sequence[Feed], flush: Flush, draining: bool, now: float) -> bool:
        """Give to the spool what must not wait; True if there was something."""
        self.look_at = math.inf
        delivery = self._delivery
        if not delivery.spooling:
            return False
        self.look_at = now + FULL_POLL_S
        if not delivery.may_leave():
            return False
        spill_at = delivery.attempts.resilience.spill_at
        closed = delivery.attempts.breaker is State.CLOSED
        self._interrupt(spill_at, now)
        spilled = False
        for feed in feeds:
            while self._spiller.has_room and self._must_spill(feed, flush, spill_at, closed, draining, now):
                work = feed.take(flush.batch_bytes, flush.batch_lines, True, delivery.leaves)
                if work is None:
                    self.look_at = now + STUCK_POLL_S
                    return spilled
                self._spiller.spill(work)
                spilled = True
        # Without room it is the spiller that wakes the flusher.
        if self._spiller.has_room:
            for feed in feeds:
                self._arm(feed, flush, spill_at, closed, draining, now)
        return spilled

    def _must_spill(
        self, feed: Feed, flush: Flush, spill_at: float, closed: bool, draining: bool, now: float
    ) -> bool:
        metrics, size = feed.ring.pending()
        if not metrics:
            return False
        if not closed:
            feed.seen_at = feed.seen_at or now
            if draining or now >= feed.seen_at + OLD_S:
                return True
            batch = min(size / metrics * flush.batch_lines, flush.batch_bytes)
            if feed.older_bytes(YOUNG_S, now) >= batch:
                return True
        return feed.is_full(spill_at)

    def _arm(
        self, feed: Feed, flush: Flush, spill_at: float, closed: bool, draining: bool, now: float
    ) -> None:
        """Have a ring wake the flusher when there may be something to do."""
        if feed.seen_at is None and not closed:
            armed = feed.arm(flush, draining, now)
        else:
            armed = feed.arm_full(spill_at)
            if not closed:
                self.look_at = min(self.look_at, now + YOUNG_POLL_S)
        if not armed:
            self.look_at = now

    def _interrupt(self, spill_at: float, now: float) -> None:
        """End attempts that have hung for long, if one of them holds up a ring that is full.

        All of them at once: what is behind that one in the ring would hold it up next, and a second for each
        is more than a full ring has.
        """
        attempts = self._delivery.attempts
        before = now - max(STUCK_S, STUCK_ROUND_TRIPS * attempts.round_trip)
        hanging = self._senders.hanging(before)
        if any(work.feed.held_up(work) >= spill_at for work in hanging):
            for work in hanging:
                work.hurried = True
            batches = [work.trace.id for work in hanging]
            extra = {"output": self._name, "attempts": len(hanging), "batch": batches}
            logger.warning("attempts that hold up a full ring are given up", extra=extra)
            attempts.interrupt(before)
