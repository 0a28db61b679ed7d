"""When to send: one thread that waits for the rings of an output and takes batches from them.

A batch leaves at the first of three: ``batch_lines``, ``batch_bytes``, or ``interval`` after the first metric
of it was seen. It goes to one of at most ``max_concurrency`` senders, threads that are started when first
needed and do the waiting for the network. While there is no room for more attempts nothing is taken, so a
slow destination makes batches fuller, never more numerous.

What waits in the spool is delivered beside that: with ``fresh_first`` in the places that live batches leave
free, and never in the last one if there are several; with ``oldest_first`` before them. A file of it is what
a breaker that wants to close is tried with, so that its failure makes no new file.

What cannot leave may have to go to the spool without an attempt: see :mod:`agent.delivery.relief`.

Nothing happens without a reason: an idle flusher sleeps until a ring, a sender or a call wakes it.

Finished bodies that a broker brought are one more source of batches, which takes turns with the rings.

      ring ──┐                     ┌─▶ send-NAME-1 ─▶ Delivery.deliver ─┬─▶ decided
      ring ──┼─▶ flush-NAME ─queue─┼─▶ send-NAME-2                      │
      ring ──┘     ▲    │          └─▶ …  ▲                             ▼
                 waker  └─▶ spill-NAME ───┼──────── Delivery.store ─▶ Spool
                                          └──────────── Backlog ◀───────┘
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from agent._core import Ring, Waker
from agent.config import Flush
from agent.delivery.backlog import Backlog
from agent.delivery.breaker import State
from agent.delivery.delivery import Counters, Delivery
from agent.delivery.feed import ALL, Feed
from agent.delivery.relief import STUCK_POLL_S, Relief
from agent.delivery.senders import Senders
from agent.delivery.spiller import Spiller
from agent.delivery.task import DEFAULTS, UNWATCHED, Health, Resilience, Watching
from agent.delivery.work import Carried, Live, Loose, Stored, Told
from agent.outputs.base import Output, Payload
from agent.store.rejected import Rejected
from agent.store.spool import Spool

logger = logging.getLogger(__name__)

ABORT_GRACE_S = 2.0
"""So long senders may take to return after the deadline, once their attempts have been aborted."""

STORE_GRACE_S = 10.0
"""So long the spool may take at the end for what could not be delivered."""

CHORES_S = 60.0
"""The rejected metrics are looked after so often."""

WARM_UP_S = 0.5
"""So long after they came, rings are mapped whole: the start of the agent must not wait for that."""

WARM_UP_BYTES = 256 << 20
"""So much of each ring is, at 0.4 ms for each MiB."""

LOOSE_MAX = 16
"""Bodies that commands have brought and that are undecided, at most."""


class Flusher:
    """Empties the rings of one output, and its spool. All methods may be called by any thread.

    *waker* is the one that the rings were made with. The rings, the waker, the spool and the rejected metrics
    stay the caller's, who has :meth:`spool_changed` called when something was stored.
    """

    def __init__(
        self,
        name: str,
        output: Output,
        waker: Waker,
        rings: Iterable[Ring],
        flush: Flush,
        resilience: Resilience = DEFAULTS,
        *,
        spool: Spool | None = None,
        rejected: Rejected | None = None,
        same_field: str = "",
        watching: Watching = UNWATCHED,
    ) -> None:
        self.name = name
        self._waker = waker
        self.delivery = Delivery(
            output,
            resilience,
            spool=spool,
            rejected=rejected,
            same_field=same_field,
            watching=watching,
            left=self._take_back,
            wake=waker.wake,
            stored=self.spool_changed,
        )
        self._senders = Senders(name, self.delivery)
        # Guards what other threads set and the flusher looks at once in each round.
        self._lock = threading.Lock()
        self._flush = flush
        self._feeds = [Feed(ring) for ring in rings]
        self._backlog = Backlog(spool) if spool is not None else None
        self._deadline = math.inf
        self._draining = False
        self._keeping = False
        self._loose = 0
        # The flusher's own.
        self._rejected = rejected
        self._spiller = Spiller(name, self.delivery)
        self._relief = Relief(name, self.delivery, self._senders, self._spiller)
        self._room = 0  # for so many more, in this round
        self._blocked_since: float | None = None  # monotonic
        self._in_outage = False  # as of the last round
        self._turn = 0
        self._chores_at = math.inf if rejected is None else time.monotonic() + CHORES_S
        self._cold = [feed.ring for feed in self._feeds]
        self._warm_up_at = time.monotonic() + WARM_UP_S
        self._lost = 0  # metrics that were dropped or left at the end
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

    def reconfigure(
        self,
        flush: Flush,
        output: Output | None = None,
        resilience: Resilience | None = None,
        *,
        spool: Spool | None = None,
        spooling: bool = True,
        same_field: str = "",
        watching: Watching = UNWATCHED,
    ) -> None:
        """Flush as *flush* says from now on, and deliver to *output*, each unless it is None.

        Batches that are under way go there with their next attempt; the former output is closed when none
        uses it any more. The rings stay as they are, so the new output must take their encoding. A *spool*
        may come where there was none; one that is there stays, and is only emptied if not *spooling*.
        *same_field* is what the delivery merges batches by, *watching* what it tells of them.
        """
        with self._lock:
            self._flush = flush
            if spool is not None and self._backlog is None:
                self._backlog = Backlog(spool)
        self.delivery.reconfigure(
            output or self.delivery.output,
            resilience or self.delivery.attempts.resilience,
            spool or self.delivery.spool,
            spooling,
            same_field,
            watching,
        )
        self._waker.wake()

    def set_rings(self, rings: Sequence[Ring]) -> None:
        """Read these rings. One that is left out is read until it is empty: no lane may write to it now."""
        with self._lock:
            wanted = {id(ring): ring for ring in rings}
            for feed in self._feeds:
                feed.leaving = wanted.pop(id(feed.ring), None) is None
            self._feeds += [Feed(ring) for ring in wanted.values()]
            self._cold += wanted.values()
            self._warm_up_at = time.monotonic() + WARM_UP_S
        self._waker.wake()

    def spool_changed(self) -> None:
        """Something was stored, or can be read again."""
        if self._backlog is not None:
            self._backlog.changed()
            self._waker.wake()

    def inject(self, body: bytes, metrics: int, oldest_ns: int, decided: Callable[[], None]) -> bool:
        """Deliver *body*, *metrics* finished lines, beside what is in the rings; False if that is too much.

        *decided* is called, by any thread, when all of it is delivered, rejected or in the spool. At the end
        it may never be.
        """

        def released() -> None:
            with self._lock:
                self._loose -= 1
            decided()

        with self._lock:
            if self._draining or self._loose >= LOOSE_MAX:
                return False
            self._loose += 1
            self._senders.take_back(self.delivery.live(Loose(body, metrics, oldest_ns, released)))
        self._waker.wake()
        return True

    def carry(self, payload: Payload, batch: str, told: Told) -> Carried | None:
        """Deliver the finished body of *batch* beside what is in the rings; None at the end.

        *told* is called once, by any thread and perhaps before the return: with True when all of it is
        delivered, rejected or in the spool, with False if it was let go. Until then it is the caller's, who
        bounds how much there is. *payload* is this output's alone; it says when its oldest metric arrived.
        """
        with self._lock:
            if self._draining:
                return None
            work = self.delivery.carried(payload, batch, told)
            self._senders.bring(work)
        self._waker.wake()
        return work

    def let_go(self, works: Iterable[Carried]) -> None:
        """Nobody waits for *works* any more: what is not being attempted just now is told of at once."""
        self._senders.abandon(works)
        self.delivery.attempts.look_again()
        self._waker.wake()

    def retire(self, deadline: float, *, keep: bool = False) -> None:
        """Begin to flush everything at once, and end when that is delivered or at *deadline* (monotonic).

        What is undecided then goes to the spool. What does not get there stays in its ring where *keep*, for
        the next process; else it is dropped and counted, reason ``drain_timeout``. No lane may write to the
        rings any more. Another call sets another deadline.
        """
        with self._lock:
            self._draining = True
            self._keeping = keep
            self._deadline = deadline
        self.delivery.attempts.stop(deadline)
        self._waker.wake()

    def drain(self, deadline: float, *, keep: bool = False) -> bool:
        """:meth:`retire`, and wait for the end; True if all was delivered, rejected or stored."""
        self.retire(deadline, keep=keep)
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join()
        return not self._lost

    # ---- the flusher's thread ----

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except Exception:
            logger.critical("a flusher failed; its output gets nothing any more", exc_info=True)
        self._senders.close()
        self._spiller.close(ABORT_GRACE_S)
        if self._backlog is not None:
            self._backlog.close()
        self._feeds = []
        self._cold = []

    def _round(self) -> bool:
        """Take what is ready, then sleep until something can have changed. False at the end."""
        with self._lock:
            flush, feeds, draining, deadline = self._flush, list(self._feeds), self._draining, self._deadline
            backlog = None if draining else self._backlog
        now = time.monotonic()
        if now >= deadline:
            self._end(feeds, flush)
            return False
        wake_at = min(self._look_after(now), deadline)
        self._room, ready_at = self.delivery.room(self._senders.busy)
        while self._room > 0 and (work := self._senders.next_returned()) is not None:
            self._hand_over(work)
        held = backlog is not None and self._replay_first(backlog, now)
        self._turn += 1
        first = self._turn % max(len(feeds), 1)
        if self._turn % 2 and not held:
            self._take_carried()
        stuck = False
        for feed in feeds[first:] + feeds[:first]:
            stuck |= not self._take(feed, flush, draining, held, now)
        if not held:
            self._take_carried()
        if backlog is not None:
            self._replay(backlog, now, spare=1)
            if not backlog.is_waiting(now):
                # One that waits already has no place; whatever gives it one wakes us, or has its time below.
                wake_at = min(wake_at, backlog.wakes_at)
        if self._room <= 0 or held:
            # Only a sender that comes back changes that, and it wakes us; or the time does.
            self._blocked_since = self._blocked_since or now
            if self._relief.relieve(feeds, flush, draining, now):
                # What comes from now on has not waited yet.
                self._blocked_since = now
            if self._relief.look_at <= now:
                return True
            wake_at = min(wake_at, ready_at, self._relief.look_at)
            pending = any(feed.ring.pending()[0] for feed in feeds)
        else:
            self._blocked_since = None
            if stuck:
                wake_at = min(wake_at, now + STUCK_POLL_S)
            elif not all(feed.arm(flush, draining, now) for feed in feeds):
                return True
            seen = [feed.seen_at for feed in feeds if feed.seen_at is not None]
            pending = bool(seen)
            if seen:
                wake_at = min(wake_at, min(seen) + flush.interval)
        if draining and not pending and not self._is_working():
            return False
        self._waker.wait(max(wake_at - time.monotonic(), 0.0) if wake_at < math.inf else -1.0)
        return True

    def _is_working(self) -> bool:
        senders = self._senders
        waiting = senders.returned or senders.carried
        return bool(senders.busy or waiting or self._spiller.in_hand or self.delivery.storing)

    def _look_after(self, now: float) -> float:
        """Do what is due without a batch; returns when something is due next."""
        output = self.delivery.output
        if (due := output.due()) is not None and now >= due:
            try:
                output.tick()
            except Exception:
                logger.exception("an output failed in a way that it should not", extra={"output": self.name})
            due = output.due()
        if now >= self._chores_at and self._rejected is not None:
            self._chores_at = now + CHORES_S
            self._spiller.do(self._rejected.tick)
        if now >= self._warm_up_at:
            self._warm_up()
        return min(self._chores_at, self._warm_up_at, math.inf if due is None else due)

    def _warm_up(self) -> None:
        """Map the rings, or a burst that is the first to reach a page would pay for each by the way."""
        with self._lock:
            cold, self._cold = self._cold, []
            self._warm_up_at = math.inf
        for ring in cold:
            ring.populate(WARM_UP_BYTES)

    def _take(self, feed: Feed, flush: Flush, draining: bool, held: bool, now: float) -> bool:
        """Hand over what is ready in one ring, as long as there is room. False if the ring refuses."""
        while True:
            metrics, size = feed.ring.pending()
            if not metrics:
                feed.seen_at = None
                if feed.leaving:
                    with self._lock:
                        self._feeds = [other for other in self._feeds if other is not feed]
                return True
            if feed.seen_at is None:
                # What came while there was no room may have waited as long as that lasted.
                feed.seen_at = self._blocked_since or now
            partial = draining or now >= feed.seen_at + flush.interval
            ready = partial or metrics >= flush.batch_lines or size >= flush.batch_bytes
            if not ready or held or self._room <= 0:
                return True
            work = feed.take(flush.batch_bytes, flush.batch_lines, partial, self.delivery.leaves)
            if work is None:
                return False
            self._hand_over(work)

    def _take_carried(self) -> None:
        """Hand over bodies that were brought, as long as there is room."""
        while self._room > 0 and (work := self._senders.next_carried()) is not None:
            self._hand_over(work)

    def _replay_first(self, backlog: Backlog, now: float) -> bool:
        """Hand over files before batches where that is wanted; True if batches must wait for them."""
        attempts = self.delivery.attempts
        closed = attempts.breaker is State.CLOSED
        if closed and self._in_outage:
            backlog.outage_over()
        self._in_outage = not closed
        backlog.ordered = attempts.resilience.order == "oldest_first"
        if backlog.ordered:
            self._replay(backlog, now)
            # What is on its way into the spool is older than what is in the rings.
            storing = self.delivery.storing or self._spiller.in_hand
            return bool(self._senders.replaying or storing or backlog.holds_up(now))
        if not closed:
            self._replay(backlog, now)
        return False

    def _replay(self, backlog: Backlog, now: float, spare: int = 0) -> None:
        """Hand over files, leaving *spare* of all places for batches unless there is one only."""
        places = max(self.delivery.attempts.limit - spare, 1)
        while self._room > 0 and self._senders.replaying < places and backlog.is_waiting(now):
            self._hand_over(backlog)

    def _hand_over(self, work: Live | Backlog) -> None:
        self._room -= 1
        self._senders.hand_over(work)

    def _take_back(self, work: Live | Stored) -> None:
        """It is undecided, and nobody's. Called by any thread."""
        if isinstance(work, Live):
            self._senders.take_back(work)
        elif self._backlog is not None:
            self._backlog.give_back(work, self.delivery.output, in_outage=False)

    # ---- the end ----

    def _end(self, feeds: list[Feed], flush: Flush) -> None:
        """After the deadline: end what is under way, and store what is left, or keep or drop it."""
        self.delivery.attempts.abort()
        self._wait(lambda: bool(self._senders.busy), ABORT_GRACE_S)
        until = time.monotonic() + STORE_GRACE_S
        self._spiller.close(STORE_GRACE_S)
        self._senders.abandon(self._senders.carried)
        while self.delivery.may_leave() and (returned := self._senders.next_returned()) is not None:
            self.delivery.store(returned)
        for feed in feeds:
            while self.delivery.may_leave() and time.monotonic() < until:
                work = feed.take(flush.batch_bytes, flush.batch_lines, True, self.delivery.leaves)
                if work is None:
                    break
                self.delivery.store(work)
        if self.delivery.spool is not None and self.delivery.storing:
            self.delivery.spool.flush(max(until - time.monotonic(), 0.0))
            self._wait(lambda: bool(self.delivery.storing), until - time.monotonic())
        left = self._senders.undecided() + sum(feed.ring.pending()[0] for feed in feeds)
        self._lost = left
        if self._keeping:
            if left:
                extra = {"output": self.name, "metrics": left}
                logger.warning("metrics stay in their rings for the next start", extra=extra)
            while (returned := self._senders.next_returned()) is not None:
                returned.keep()
            return
        while (returned := self._senders.next_returned()) is not None:
            if isinstance(returned, Carried):
                returned.let_go()
            else:
                self.delivery.drop(returned, "drain_timeout")
        for feed in feeds:
            while (work := feed.take(ALL, ALL, True, None)) is not None:
                self.delivery.drop(work, "drain_timeout")

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait as long as *condition* holds, *seconds* at most. Whatever ends it wakes us."""
        patience = time.monotonic() + seconds
        while condition() and (left := patience - time.monotonic()) > 0:
            self._waker.wait(left)
