"""What becomes of a batch: attempts until each of its metrics is delivered, rejected, or in the spool.

The verdicts of the output (:mod:`agent.outputs.base`) decide:

========= ==================================================================================
DELIVERED counted; the lines that the destination refused of it are rejected
RETRY     the same body again after a pause; for how long, :mod:`agent.delivery.attempts` knows
HOLD      like RETRY, at the longest pause, for all batches, and loudly
SPLIT     in parts, down to one line, which is then rejected
REJECT    all lines are rejected
========= ==================================================================================

What is given up for now goes to the spool, if there is one that takes it, and from there through attempts
again. Nothing is counted before all of a batch is decided or safe, and then all at once: it is released, its
file is removed, and what was rejected of it is kept with the reasons. So at rest ``restored + carried +
written = delivered + rejected + merged + dropped + in the spool + waiting`` holds exactly.

Where collisions are guarded against, a batch that is marked is merged before anything else. What is sent,
stored and refused from then on are the lines that came of that; how many fewer they are is counted as
``merged``.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent._core import Batch as RingBatch
from agent._core import Histogram, Tap
from agent.delivery import telling
from agent.delivery.attempts import Attempts
from agent.delivery.promise import Promise
from agent.delivery.task import DEFAULTS, UNWATCHED, Health, Reading, Resilience, Watching
from agent.delivery.trace import STAGES, Trace, limit_of
from agent.delivery.work import Batch, Carried, Live, Loose, Stored, Tally, Told
from agent.outputs.base import Output, Payload, Verdict
from agent.store.spool import Spool

REFUSED_PAUSE_S = 1.0
"""After the spool has refused a body, none is offered to it for so long."""


class RejectedStore(Protocol):
    """Where rejected lines are kept. :class:`agent.store.rejected.Rejected` is one."""

    def put(
        self, lines: list[tuple[bytes, str]], status: int | None, text: str, batch: str, oldest_ns: int
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading of what a delivery has done. All only rise."""

    delivered: int = 0
    """Metrics, like the next three. Those that came out of the spool are counted like any others."""
    rejected: int = 0
    merged: int = 0
    """Lines that went into others of their batch, of one series and time."""
    spooled: int = 0
    """Of the rings, handed to the spool."""
    restored: int = 0
    """Brought by a command, and decided. Of what is in the rings or the spool, those know."""
    carried: int = 0
    """The same, brought by messages of a broker."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    batches: int = 0
    """Batches given back to their ring."""
    replayed: int = 0
    """Files of the spool that were decided."""
    attempts: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Attempts by the class of their answer: ``2xx`` … ``5xx``, ``error`` where there was none."""
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    """Bytes of the bodies of all attempts, before compression."""
    bytes_sent: int = 0
    """The same after compression."""
    opened: int = 0
    """How often the breaker has opened."""
    traced: int = 0
    """Batches that the log was told of, with the time of each stage."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds that batches spent, by stage: see :mod:`agent.delivery.trace`."""
    on_time: int = 0
    """Metrics that this process received, and that were confirmed in time."""
    histograms: Mapping[str, Reading] = field(default_factory=dict)
    """By name, with the bounds of :data:`agent.accounts.BOUNDS`."""


class _Parcel:
    """A body on its way into the spool.

    The batch is released when both have happened, in any order and thread: the spool has told what became of
    the body, and whoever put it there has closed its views.
    """

    def __init__(self, ended: Callable[[bool], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._missing = 2
        self._stored = False

    def done(self, stored: bool) -> None:
        """The spool: it is safe, or it is not and never will be."""
        self._stored = stored
        self.close()

    def close(self) -> None:
        with self._lock:
            self._missing -= 1
            last = not self._missing
        if last:
            self._ended(self._stored)


class Delivery:
    """Brings the batches of one output to its destination. All methods may be called by any thread.

    *left* is given, by any thread, what is undecided still and comes back to its owner; *wake* is called when
    something has changed that such an owner waits for, perhaps with a lock held; *stored* when something is
    in the spool.
    """

    def __init__(
        self,
        output: Output,
        resilience: Resilience = DEFAULTS,
        *,
        spool: Spool | None = None,
        rejected: RejectedStore | None = None,
        same_field: str = "",
        watching: Watching = UNWATCHED,
        left: Callable[[Live | Stored], None] = lambda work: None,
        wake: Callable[[], None] = lambda: None,
        stored: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.attempts = Attempts(output, resilience, wake=wake, jitter=jitter)
        self.spool = spool
        self.taps: tuple[Tap, ...] = ()
        """Who is shown each batch before it is sent, or stored; seldom anybody."""
        self._rejected_store = rejected
        self._left = left
        self.wake = wake
        self._told = stored
        self._spooling = spool is not None
        self._same_field = same_field
        self._sampled_below = limit_of(watching.trace)
        self.promise = Promise(watching.within)
        self._batch_metrics = Histogram(1.0, 8)
        self._refused_until = 0.0  # monotonic
        self._lock = threading.Lock()  # guards all below
        self._storing = 0
        self._delivered = self._rejected = self._merged = self._spooled = self._restored = 0
        self._carried = 0
        self._batches = self._replayed = self._splits = self._traced = 0
        self._dropped: dict[str, int] = {}
        self._stages = dict.fromkeys(STAGES, 0.0)

    @property
    def output(self) -> Output:
        return self.attempts.output

    @property
    def health(self) -> Health:
        return self.attempts.health

    @property
    def storing(self) -> int:
        """Bodies on their way into the spool."""
        return self._storing

    @property
    def counters(self) -> Counters:
        """One reading."""
        attempts = self.attempts.counters
        with self._lock:
            return Counters(
                delivered=self._delivered,
                rejected=self._rejected,
                merged=self._merged,
                spooled=self._spooled,
                restored=self._restored,
                carried=self._carried,
                dropped=dict(self._dropped),
                batches=self._batches,
                replayed=self._replayed,
                attempts=attempts.attempts,
                requests=attempts.requests,
                retries=attempts.retries,
                splits=self._splits,
                bytes_raw=attempts.bytes_raw,
                bytes_sent=attempts.bytes_sent,
                opened=attempts.opened,
                traced=self._traced,
                stages=dict(self._stages),
                on_time=self.promise.delays.on_time,
                histograms={
                    "delay_seconds": self.promise.delays.histogram.read(),
                    "batch_metrics": self._batch_metrics.read(),
                    **attempts.histograms,
                },
            )

    def reconfigure(
        self,
        output: Output,
        resilience: Resilience,
        spool: Spool | None,
        spooling: bool = True,
        same_field: str = "",
        watching: Watching = UNWATCHED,
    ) -> None:
        """Send to *output* from the next attempt on. A spool that is no more *spooling* is only emptied.

        *same_field* is that of ``[collisions]``, or empty: batches that are marked are merged by it.
        """
        self._same_field = same_field
        self._sampled_below = limit_of(watching.trace)
        self.promise.delays.within = watching.within
        self.spool = spool
        self._spooling = spool is not None and spooling
        self.attempts.reconfigure(output, resilience)

    def may_leave(self) -> bool:
        """Whether the spool is likely to take something now. Never blocks."""
        return self._spooling and time.monotonic() >= self._refused_until

    @property
    def spooling(self) -> bool:
        """Whether there is a spool that may be written to."""
        return self._spooling

    @property
    def leaves(self) -> Callable[[], bool] | None:
        """What a batch is told about the way into the spool."""
        return self.may_leave if self._spooling else None

    def live(self, batch: Batch) -> Live:
        """*batch*, to be delivered."""
        return Live(batch, self.leaves)

    def carried(self, payload: Payload, batch: str, told: Told) -> Carried:
        """A finished body, to be delivered as it is, or stored where that pushes nothing out."""
        size = len(payload.data)

        def leaves() -> bool:
            return self.may_leave() and self.spool is not None and self.spool.has_room(size)

        return Carried(payload, batch, leaves if self._spooling else None, told)

    def room(self, in_hand: int) -> tuple[int, float]:
        """How many more batches may be begun: see :meth:`agent.delivery.attempts.Attempts.room`."""
        return self.attempts.room(in_hand, self.may_leave)

    # ---- what can be done with a batch ----

    def deliver(self, work: Live | Stored) -> bool:
        """Take *work* through attempts until all of it is decided, count that, and release it.

        Blocks for as long as that takes. A batch must be of whole lines or samples, each one metric. False:
        it is the caller's again, undecided, since there is no more time for attempts and no spool that takes
        it; or it is a file and belongs back.
        """
        work.trace.begin(self._sampled_below)
        if isinstance(work, Stored):
            assert self.spool is not None
            payload = self.spool.load(work.entry)
            if payload is None:
                return True
            work.trace.mark("store")
            work.tried = True
            end = self._carry(work, payload)
        else:
            if self.taps:
                self._show(work)
            work.merge(self._same_field)
            whole, metrics = work.whole
            with whole:
                end = self._carry(work, self._encoded(work, whole, metrics))
        if isinstance(end, _Parcel):
            end.close()
            return True
        if end:
            self._settle(work)
        elif isinstance(work, Stored):
            self._give_up(work)
        return end

    def store(self, work: Live) -> None:
        """Put what is undecided of *work* into the spool. If it is refused there, *left* is given it."""
        if self.taps:
            self._show(work)
        work.trace.begin(self._sampled_below)
        work.merge(self._same_field)
        whole, metrics = work.whole
        with whole:
            parcel = self._put(work, self._encoded(work, whole, metrics))
        parcel.close()

    def drop(self, work: Live, reason: str) -> None:
        """Count *work* as dropped for *reason*, but for what is decided of it, and release it."""
        tally = work.tally
        dropped = work.metrics - tally.merged - tally.delivered - tally.rejected
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + dropped
        work.trace.failed = True
        self._settle(work, dropped=dropped)

    # ---- one batch ----

    def _show(self, work: Live) -> None:
        """Show *work* to those who look, unless it was: it may come here more than once."""
        if not work.tapped and isinstance(work.batch, RingBatch):
            work.tapped = True
            for tap in self.taps:
                tap.offer(work.batch)

    def _encoded(self, work: Live, whole: memoryview, metrics: int) -> Payload:
        if isinstance(work, Carried) and work.pieces is None:
            return work.payload
        body, metrics = (whole, metrics) if work.pieces is None else work.rest()
        return self.attempts.encode(work, body, metrics, work.encoding)

    def _carry(self, work: Live | Stored, payload: Payload) -> "_Parcel | bool":
        """Attempt what is undecided: True when nothing is any more, False if it cannot go on."""
        if work.pieces is None:
            verdict = self.attempts.decide(work, payload)
            if verdict is None:
                return self._leave(work, payload)
            work.pieces = self._judge(work, payload, verdict)
        while work.pieces:
            body, metrics = work.pieces[-1]
            payload = self.attempts.encode(work, body, metrics, work.encoding)
            verdict = self.attempts.decide(work, payload)
            if verdict is None:
                return self._leave(work, self.attempts.encode(work, *work.rest(), work.encoding))
            del work.pieces[-1]
            work.pieces += self._judge(work, payload, verdict)
        return True

    def _judge(self, work: Live | Stored, payload: Payload, verdict: Verdict) -> list[tuple[memoryview, int]]:
        rejected = work.tally.rejected
        pieces = work.judge(payload, verdict)
        if pieces:
            work.trace.failed = True
            with self._lock:
                self._splits += 1
            telling.split(self.output.name, work, verdict, payload)
        elif rejected := work.tally.rejected - rejected:
            work.trace.failed = True
            telling.rejected(self.output.name, work, verdict, rejected, payload.metrics)
        return pieces

    def _leave(self, work: Live | Stored, rest: Payload) -> "_Parcel | bool":
        """Put the *rest* of *work* into the spool, if there is one and that gets it any further."""
        if not self.may_leave():
            return False
        if isinstance(work, Stored) and rest.metrics == work.metrics:
            # It is there already.
            return False
        return self._put(work, rest)

    def _put(self, work: Live | Stored, rest: Payload) -> _Parcel:
        """Put *rest*, all that is undecided of *work*, into the spool. The caller closes the parcel."""
        assert self.spool is not None
        parcel = _Parcel(lambda stored: self._stored(work, rest.metrics, stored))
        work.trace.failed = True
        self.promise.storing(work, rest.metrics, self.spool.owed)
        with self._lock:
            self._storing += 1
        gently = isinstance(work, Carried)
        self.spool.put(rest, work.oldest_ns, parcel.done, work.trace.id, gently=gently)
        return parcel

    def _stored(self, work: Live | Stored, metrics: int, stored: bool) -> None:
        """The spool has the *metrics* that were undecided of *work*, or has them not."""
        work.trace.mark("store")
        if stored:
            with self._lock:
                self._spooled += metrics if isinstance(work, Live) else 0
            self._settle(work, spooled=metrics)
            # Before it is no longer storing: whoever looks finds it in the one place or the other.
            self._told()
        else:
            assert self.spool is not None
            self.promise.not_stored(work, metrics, self.spool.owed)
            self._refused_until = time.monotonic() + REFUSED_PAUSE_S
            if isinstance(work, Stored):
                self._give_up(work)
            self._left(work)
        with self._lock:
            self._storing -= 1
        self.wake()

    # ---- counting and telling ----

    def _settle(self, work: Live | Stored, *, spooled: int = 0, dropped: int = 0) -> None:
        """All of *work* is decided, or safe elsewhere as *spooled* is: count it, and let go of it."""
        tally, trace = work.tally, work.trace
        if tally.lines and self._rejected_store is not None:
            self._rejected_store.put(tally.lines, tally.status, tally.text, trace.id, work.oldest_ns)
        if tally.lines:
            # That took its time, as finding them in the answer did.
            trace.mark("request")
        told = trace.sampled or trace.failed
        with self._lock:
            self._count_trace(trace, told)
            self._delivered += tally.delivered
            self._rejected += tally.rejected
            self._merged += tally.merged
            if isinstance(work, Stored):
                self._replayed += 1
            else:
                self._batches += 1
                self._restored += work.metrics if isinstance(work.batch, Loose) else 0
                self._carried += work.metrics if isinstance(work, Carried) else 0
                self._batch_metrics.observe(work.metrics)
        if isinstance(work, Stored):
            assert self.spool is not None
            self.promise.remove(work, self.spool.owed)
            self.spool.remove(work.entry)
        else:
            work.release(self.promise.delays, tally.delivered + tally.merged)
        if told:
            telling.traced(self.output.name, work, spooled, dropped)

    def _give_up(self, work: Stored) -> None:
        """The file *work* goes back into the spool, to be tried from the start another time.

        That is told of a sampled one only: in an outage it is one file that comes and goes, and the log would
        have room for nothing else. What failed has a line of its own.
        """
        work.tally = Tally()
        told = work.trace.sampled
        with self._lock:
            self._count_trace(work.trace, told)
        if told:
            telling.traced(self.output.name, work, work.metrics, 0)

    def _count_trace(self, trace: Trace, told: bool) -> None:
        """With the lock held: it is complete, and *told* to the log or not."""
        self._traced += told
        for stage, seconds in trace.stages.items():
            self._stages[stage] += seconds
