"""The threads that wait for the network, and who has what in hand."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from queue import SimpleQueue

from agent.delivery.backlog import Backlog
from agent.delivery.breaker import State
from agent.delivery.delivery import Delivery
from agent.delivery.feed import Taken
from agent.delivery.work import Carried, Live, Stored

logger = logging.getLogger(__name__)

MISSED_PAUSE_S = 0.001
"""A sender whose file turned out to be none waits so long, for the next one may be none either."""


class Senders:
    """Threads ``send-NAME-1`` …, started when first needed, each with one batch or file in hand at most.

    *delivery* says what becomes of it, and calls its ``wake`` whenever one is free again. :meth:`hand_over`
    is for one thread, the other methods may be called by any.
    """

    def __init__(self, name: str, delivery: Delivery) -> None:
        self._name = name
        self._delivery = delivery
        self._lock = threading.Lock()  # guards all below
        self.busy = 0
        """Batches and files in hand."""
        self.replaying = 0
        """The files among them."""
        self.returned: deque[Live] = deque()
        """Batches that are undecided, and in nobody's hand. To be taken by whoever hands over."""
        self.carried: deque[Carried] = deque()
        """Finished bodies that wait for their turn; those that come back are among the others."""
        self._in_hand: set[Taken] = set()
        self._closed = False
        self._queue: SimpleQueue[Live | Backlog | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def hand_over(self, work: Live | Backlog) -> None:
        """Give a batch to a sender, or the next file of the backlog."""
        with self._lock:
            self.busy += 1
            if isinstance(work, Backlog):
                self.replaying += 1
            else:
                work.hurried = work.abandoned
                if isinstance(work, Taken):
                    self._in_hand.add(work)
                    work.feed.in_hand_bytes += work.nbytes
            if self.busy > len(self._threads):
                name = f"send-{self._name}-{len(self._threads) + 1}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
        self._queue.put(work)

    def hanging(self, before: float) -> list[Taken]:
        """The batches whose attempt began before then (monotonic) and has not ended."""
        with self._lock:
            return [work for work in self._in_hand if work.began is not None and work.began < before]

    def undecided(self) -> int:
        """Metrics of batches of rings that are in hand, or in nobody's."""
        with self._lock:
            returned = [work for work in self.returned if not isinstance(work, Carried)]
            return sum(work.metrics for work in (*self._in_hand, *returned))

    def bring(self, work: Carried) -> None:
        """A finished body waits for its turn."""
        with self._lock:
            self.carried.append(work)

    def next_returned(self) -> Live | None:
        with self._lock:
            return self.returned.popleft() if self.returned else None

    def next_carried(self) -> Live | None:
        with self._lock:
            return self.carried.popleft() if self.carried else None

    def take_back(self, work: Live) -> None:
        """It is undecided, and nobody's. Any thread."""
        with self._lock:
            going = isinstance(work, Carried) and (work.abandoned or self._closed)
            if not going:
                self.returned.append(work)
        if going and isinstance(work, Carried):
            work.let_go()

    def abandon(self, works: Iterable[Carried]) -> None:
        """Nobody waits for *works* any more: those in nobody's hand go now, others after their attempt."""
        with self._lock:
            for work in works:
                work.abandoned = work.hurried = True
            left = [one for one in (*self.carried, *self.returned) if one.abandoned]
            for waiting in (self.carried, self.returned):
                kept = [one for one in waiting if not one.abandoned]
                waiting.clear()
                waiting.extend(kept)  # type: ignore[arg-type]
        for one in left:
            if isinstance(one, Carried):
                one.let_go()

    def close(self) -> None:
        """Have the threads end, and wait for them unless one has something in hand still.

        Bodies that were brought are let go, those in hand when they come back.
        """
        with self._lock:
            self._closed = True
            left = [one for one in (*self.carried, *self.returned) if isinstance(one, Carried)]
        self.abandon(left)
        for _ in self._threads:
            self._queue.put(None)
        if not self.busy:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        batch: Live | Stored | None
        while (work := self._queue.get()) is not None:
            batch = None
            try:
                if isinstance(work, Backlog):
                    if (batch := work.take()) is not None:
                        self._replay(work, batch)
                elif not self._delivery.deliver(batch := work):
                    self.take_back(work)
            except Exception:
                # A bug. The batch goes back to its ring with the last reference; the ledger shows the gap.
                extra = {"batch": batch.trace.id if batch is not None else ""}
                logger.critical("a batch could not be accounted for", exc_info=True, extra=extra)
            finally:
                with self._lock:
                    self.busy -= 1
                    if isinstance(work, Backlog):
                        self.replaying -= 1
                    elif isinstance(work, Taken):
                        self._in_hand.discard(work)
                        work.feed.in_hand_bytes -= work.nbytes
                # A batch keeps its ring's memory.
                work = batch = None
                self._delivery.wake()

    def _replay(self, backlog: Backlog, work: Stored) -> None:
        if not self._delivery.deliver(work):
            attempts = self._delivery.attempts
            backlog.give_back(work, attempts.output, attempts.breaker is not State.CLOSED)
            return
        backlog.decided(work)
        if not work.tried:
            time.sleep(MISSED_PAUSE_S)
