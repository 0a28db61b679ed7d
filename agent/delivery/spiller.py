"""What goes to the disk without an attempt: a ring that runs full must not wait for the network.

The thread of an output that may wait for a disk; its flusher and its senders do not if they can help it.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from agent.delivery.delivery import Delivery
from agent.delivery.work import Live

logger = logging.getLogger(__name__)

QUEUE_MAX = 2
"""Batches in hand at most: one that is being compressed and written, and the next."""


class Spiller:
    """A thread, started when first needed, that puts batches into the spool of *delivery*.

    For one caller at a time. What the spool refuses comes back by the delivery's ``left``.
    """

    def __init__(self, name: str, delivery: Delivery) -> None:
        self._name = name
        self._delivery = delivery
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._in_hand = 0
        self._thread: threading.Thread | None = None

    @property
    def in_hand(self) -> int:
        """What is queued or being done."""
        return self._in_hand

    @property
    def has_room(self) -> bool:
        """Whether it may be given something; if not, the delivery's ``wake`` is called when it may."""
        return self._in_hand < QUEUE_MAX

    def spill(self, work: Live) -> None:
        """Put *work* into the spool, a little later."""
        self.do(lambda: self._delivery.store(work))

    def do(self, what: Callable[[], None]) -> None:
        """Call *what*, a little later."""
        with self._lock:
            self._in_hand += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"spill-{self._name}", daemon=True)
            self._thread.start()
        self._queue.put(what)

    def close(self, timeout: float) -> bool:
        """End after what is in hand; False if that takes longer than *timeout* seconds."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (what := self._queue.get()) is not None:
            try:
                what()
            except Exception:
                # A bug. A batch goes back to its ring with the last reference; the ledger shows the gap.
                logger.critical("a spiller failed", exc_info=True)
            # A batch keeps its ring's memory.
            what = None
            with self._lock:
                self._in_hand -= 1
            self._delivery.wake()
