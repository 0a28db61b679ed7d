"""When to send: one thread that waits for the rings of an output and takes batches from them.

A batch leaves at the first of three: ``batch_lines``, ``batch_bytes``, or ``interval`` after the first metric
of it was seen. It goes to one of at most ``concurrency`` senders, threads that are started when first needed
and do the waiting for the network. While all of them are busy nothing is taken, so a slow destination makes
batches fuller, never more numerous.

Nothing happens without a reason: an idle flusher sleeps until a ring, a sender or a call wakes it.

      ring ──┐                     ┌─▶ send-NAME-1 ─▶ Delivery.deliver
      ring ──┼─▶ flush-NAME ─queue─┼─▶ send-NAME-2
      ring ──┘       ▲             └─▶ …     │
                     └───── waker ───────────┘ done
"""

import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

from agent._core import Batch, Ring, Waker
from agent.config import Flush
from agent.delivery import Counters, Delivery, Health
from agent.outputs.base import Output

logger = logging.getLogger(__name__)

ABORT_GRACE_S = 2.0
"""So long senders may take to return after the deadline, once their attempts have been aborted."""

STUCK_POLL_S = 0.05
"""A ring lets only so many batches out (256); while one refuses, it is asked so often."""

_ALL = 1 << 62


class _Feed:
    """A ring as its reader sees it."""

    __slots__ = ("leaving", "ring", "seen_at")

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.seen_at: float | None = None
        """When what is pending now was first seen (monotonic); None if nothing was."""
        self.leaving = False
        """Forget it once it is empty: no lane writes to it any more."""


class Flusher:
    """Empties the rings of one output. All methods may be called by any thread.

    *waker* is the one that the rings were made with. The rings and the waker stay the caller's.
    """

    def __init__(self, name: str, output: Output, waker: Waker, rings: Iterable[Ring], flush: Flush) -> None:
        self.name = name
        self.delivery = Delivery(output)
        self._waker = waker
        # Guards what other threads set and the flusher looks at once in each round.
        self._lock = threading.Lock()
        self._flush = flush
        self._feeds = [_Feed(ring) for ring in rings]
        self._deadline = math.inf
        self._draining = False
        self._busy = 0  # batches that were handed over and are not released yet
        # The flusher's own.
        self._blocked_since: float | None = None  # monotonic
        self._turn = 0
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._senders: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name=f"flush-{name}", daemon=True)

    @property
    def counters(self) -> Counters:
        return self.delivery.counters

    @property
    def health(self) -> Health:
        return self.delivery.health

    @property
    def alive(self) -> bool:
        """Whether the thread runs. It ends by itself only after :meth:`retire`."""
        return self._thread.is_alive()

    def beat(self) -> int:
        """How often it came round. Asks it to do so once more: idle, it sleeps without a timer."""
        self._waker.wake()
        return self._turn

    def start(self) -> None:
        self._thread.start()

    def reconfigure(self, flush: Flush, output: Output | None = None) -> None:
        """Flush as *flush* says from now on, and deliver to *output*.

        Batches that are under way go there with their next attempt; the former output is closed when none
        uses it any more. The rings stay as they are, so the new output must take their encoding.
        """
        if output is not None:
            self.delivery.reconfigure(output)
        with self._lock:
            self._flush = flush
        self._waker.wake()

    def set_rings(self, rings: Sequence[Ring]) -> None:
        """Read these rings. One that is left out is read until it is empty: no lane may write to it now."""
        with self._lock:
            wanted = {id(ring): ring for ring in rings}
            for feed in self._feeds:
                feed.leaving = wanted.pop(id(feed.ring), None) is None
            self._feeds += [_Feed(ring) for ring in wanted.values()]
        self._waker.wake()

    def retire(self, deadline: float) -> None:
        """Begin to flush everything at once, and end when that is delivered or at *deadline* (monotonic).

        What is undecided then is dropped and counted, reason ``drain_timeout``. No lane may write to the
        rings any more. Another call sets another deadline.
        """
        with self._lock:
            self._draining = True
            self._deadline = deadline
        self.delivery.stop(deadline)
        self._waker.wake()

    def drain(self, deadline: float) -> bool:
        """:meth:`retire`, and wait for the end; True if nothing had to be dropped meanwhile."""
        before = sum(self.counters.dropped.values())
        self.retire(deadline)
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join()
        return sum(self.counters.dropped.values()) == before

    # ---- the flusher's thread ----

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except Exception:
            logger.critical("a flusher failed; its output gets nothing any more", exc_info=True)
        for _ in self._senders:
            self._queue.put(None)
        if not self._busy:
            for sender in self._senders:
                sender.join()
        self._feeds = []

    def _round(self) -> bool:
        """Take what is ready, then sleep until something can have changed. False at the end."""
        with self._lock:
            flush, feeds, draining, deadline = self._flush, list(self._feeds), self._draining, self._deadline
        now = time.monotonic()
        if now >= deadline:
            self._give_up(feeds)
            return False
        output = self.delivery.output
        if (due := output.due()) is not None and now >= due:
            due = self._tick(output)
        wake_at = deadline if due is None else min(due, deadline)
        self._turn += 1
        first = self._turn % max(len(feeds), 1)
        stuck = False
        for feed in feeds[first:] + feeds[:first]:
            stuck |= not self._take(feed, flush, draining, now, output.concurrency)
        if self._busy >= output.concurrency:
            # Only a sender that comes back changes that, and it wakes us.
            self._blocked_since = self._blocked_since or now
        else:
            self._blocked_since = None
            if stuck:
                wake_at = min(wake_at, now + STUCK_POLL_S)
            elif not all(self._arm(feed, flush, draining, now) for feed in feeds):
                return True
            pending = [feed.seen_at for feed in feeds if feed.seen_at is not None]
            if pending:
                wake_at = min(wake_at, min(pending) + flush.interval)
            elif draining and not self._busy:
                return False
        self._waker.wait(max(wake_at - time.monotonic(), 0.0) if wake_at < math.inf else -1.0)
        return True

    def _tick(self, output: Output) -> float | None:
        """Let the output do what is due; when it wants to be called again."""
        try:
            output.tick()
        except Exception:
            logger.exception("an output failed in a way that it should not", extra={"output": self.name})
        return output.due()

    def _take(self, feed: _Feed, flush: Flush, draining: bool, now: float, concurrency: int) -> bool:
        """Hand over what is ready in one ring, as long as senders are free. False if the ring refuses."""
        while True:
            metrics, size = feed.ring.pending()
            if not metrics:
                feed.seen_at = None
                if feed.leaving:
                    with self._lock:
                        self._feeds = [other for other in self._feeds if other is not feed]
                return True
            if feed.seen_at is None:
                # What came while all senders were busy may have waited as long as they were.
                feed.seen_at = self._blocked_since or now
            partial = draining or now >= feed.seen_at + flush.interval
            ready = partial or metrics >= flush.batch_lines or size >= flush.batch_bytes
            if not ready or self._busy >= concurrency:
                return True
            batch = feed.ring.take(flush.batch_bytes, flush.batch_lines, partial)
            if batch is None:
                return False
            feed.seen_at = None
            self._hand_over(batch)

    def _arm(self, feed: _Feed, flush: Flush, draining: bool, now: float) -> bool:
        """Ask the ring to wake us when its next batch begins, or is full. False if that is so already."""
        if feed.seen_at is None:
            if not feed.ring.arm(1, 1):
                return True
            feed.seen_at = now
        return not draining and not feed.ring.arm(flush.batch_bytes, flush.batch_lines)

    def _hand_over(self, batch: Batch) -> None:
        with self._lock:
            self._busy += 1
            if self._busy > len(self._senders):
                name = f"send-{self.name}-{len(self._senders) + 1}"
                self._senders.append(threading.Thread(target=self._send, name=name, daemon=True))
                self._senders[-1].start()
        self._queue.put(batch)

    def _give_up(self, feeds: list[_Feed]) -> None:
        """After the deadline: end what is under way, and count what is left as dropped."""
        self.delivery.abort()
        patience = time.monotonic() + ABORT_GRACE_S
        while self._busy and (left := patience - time.monotonic()) > 0:
            self._waker.wait(left)
        for feed in feeds:
            while (batch := feed.ring.take(_ALL, _ALL, True)) is not None:
                self.delivery.drop(batch, "drain_timeout")

    # ---- the senders' threads ----

    def _send(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                self.delivery.deliver(batch)
            except Exception:
                # A bug. The batch goes back to its ring with the last reference; the ledger shows the gap.
                logger.critical("a batch could not be accounted for", exc_info=True)
            finally:
                # A batch keeps its ring's memory.
                batch = None
                with self._lock:
                    self._busy -= 1
                self._waker.wake()
