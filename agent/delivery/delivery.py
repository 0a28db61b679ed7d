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
file is removed, and what was rejected of it is kept with the reasons. So at rest ``restored + written =
delivered + rejected + dropped + in the spool + waiting`` holds exactly.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.delivery.attempts import Attempts
from agent.delivery.task import DEFAULTS, Health, Resilience
from agent.delivery.work import Batch, Live, Loose, Stored
from agent.outputs.base import Output, Payload, Verdict
from agent.store.spool import Spool

logger = logging.getLogger(__name__)

SAMPLE_BYTES = 256
"""So much of a rejected line is logged."""

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
    spooled: int = 0
    """Of the rings, handed to the spool."""
    restored: int = 0
    """Brought by a command, and decided. Of what is in the rings or the spool, those know."""
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
    something has changed that such an owner waits for, perhaps with a lock held.
    """

    def __init__(
        self,
        output: Output,
        resilience: Resilience = DEFAULTS,
        *,
        spool: Spool | None = None,
        rejected: RejectedStore | None = None,
        left: Callable[[Live | Stored], None] = lambda work: None,
        wake: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.attempts = Attempts(output, resilience, wake=wake, jitter=jitter)
        self.spool = spool
        self._rejected_store = rejected
        self._left = left
        self.wake = wake
        self._spooling = spool is not None
        self._refused_until = 0.0  # monotonic
        self._lock = threading.Lock()  # guards all below
        self._storing = 0
        self._delivered = self._rejected = self._spooled = self._restored = 0
        self._batches = self._replayed = self._splits = 0
        self._dropped: dict[str, int] = {}

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
                spooled=self._spooled,
                restored=self._restored,
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
            )

    def reconfigure(
        self, output: Output, resilience: Resilience, spool: Spool | None, spooling: bool = True
    ) -> None:
        """Send to *output* from the next attempt on. A spool that is no more *spooling* is only emptied."""
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

    def room(self, in_hand: int) -> tuple[int, float]:
        """How many more batches may be begun: see :meth:`agent.delivery.attempts.Attempts.room`."""
        return self.attempts.room(in_hand, self.may_leave)

    # ---- what can be done with a batch ----

    def deliver(self, work: Live | Stored) -> bool:
        """Take *work* through attempts until all of it is decided, count that, and release it.

        Blocks for as long as that takes. A batch must be of lines, whole ones, each one metric. False: it is
        the caller's again, undecided, since there is no more time for attempts and no spool that takes it; or
        it is a file and belongs back.
        """
        if isinstance(work, Stored):
            assert self.spool is not None
            payload = self.spool.load(work.entry)
            if payload is None:
                return True
            work.tried = True
            end = self._carry(work, payload)
        else:
            with memoryview(work.batch) as view:
                end = self._carry(work, self._encoded(work, view))
        if isinstance(end, _Parcel):
            end.close()
            return True
        if end:
            self._settle(work)
        return end

    def store(self, work: Live) -> None:
        """Put what is undecided of *work* into the spool. If it is refused there, *left* is given it."""
        with memoryview(work.batch) as view:
            parcel = self._put(work, self._encoded(work, view))
        parcel.close()

    def drop(self, work: Live, reason: str) -> None:
        """Count *work* as dropped for *reason*, but for what is decided of it, and release it."""
        dropped = work.metrics - work.tally.delivered - work.tally.rejected
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + dropped
        self._settle(work)

    # ---- one batch ----

    def _encoded(self, work: Live, view: memoryview) -> Payload:
        body, metrics = (view, work.metrics) if work.pieces is None else work.rest()
        return self.attempts.encode(body, metrics)

    def _carry(self, work: Live | Stored, payload: Payload) -> "_Parcel | bool":
        """Attempt what is undecided: True when nothing is any more, False if it cannot go on."""
        if work.pieces is None:
            verdict = self.attempts.decide(work, payload)
            if verdict is None:
                return self._leave(work, payload)
            work.pieces = self._judge(work, payload, verdict)
        while work.pieces:
            body, metrics = work.pieces[-1]
            payload = self.attempts.encode(body, metrics)
            verdict = self.attempts.decide(work, payload)
            if verdict is None:
                return self._leave(work, self.attempts.encode(*work.rest()))
            del work.pieces[-1]
            work.pieces += self._judge(work, payload, verdict)
        return True

    def _judge(self, work: Live | Stored, payload: Payload, verdict: Verdict) -> list[tuple[memoryview, int]]:
        rejected = work.tally.rejected
        pieces = work.judge(payload, verdict)
        if pieces:
            self._note_split(verdict, payload)
        elif rejected := work.tally.rejected - rejected:
            self._log_rejected(work, verdict, rejected, payload.metrics)
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
        with self._lock:
            self._storing += 1
        self.spool.put(rest, work.oldest_ns, parcel.done)
        return parcel

    def _stored(self, work: Live | Stored, metrics: int, stored: bool) -> None:
        """The spool has the *metrics* that were undecided of *work*, or has them not."""
        if stored:
            with self._lock:
                self._spooled += metrics if isinstance(work, Live) else 0
            self._settle(work)
        else:
            self._refused_until = time.monotonic() + REFUSED_PAUSE_S
            self._left(work)
        with self._lock:
            self._storing -= 1
        self.wake()

    # ---- counting and telling ----

    def _settle(self, work: Live | Stored) -> None:
        """All of *work* is decided or safe elsewhere: count it, and let go of it."""
        tally = work.tally
        if tally.lines and self._rejected_store is not None:
            self._rejected_store.put(tally.lines, tally.status, tally.text, work.label, work.oldest_ns)
        with self._lock:
            self._delivered += tally.delivered
            self._rejected += tally.rejected
            if isinstance(work, Stored):
                self._replayed += 1
            else:
                self._batches += 1
                self._restored += work.metrics if isinstance(work.batch, Loose) else 0
        if isinstance(work, Stored):
            assert self.spool is not None
            self.spool.remove(work.entry)
        else:
            work.batch.release()

    def _log_rejected(self, work: Live | Stored, verdict: Verdict, rejected: int, metrics: int) -> None:
        extra = {
            "output": self.output.name,
            "status": verdict.status,
            "reason": verdict.text,
            "rejected": rejected,
            "metrics": metrics,
        }
        if work.tally.lines:
            line, extra["line_reason"] = work.tally.lines[-1]
            extra["line"] = line[:SAMPLE_BYTES].decode("ascii", "backslashreplace")
        logger.error("metrics were rejected for good", extra=extra)

    def _note_split(self, verdict: Verdict, payload: Payload) -> None:
        with self._lock:
            self._splits += 1
        extra = {
            "output": self.output.name,
            "status": verdict.status,
            "reason": verdict.text,
            "metrics": payload.metrics,
            "bytes": payload.raw_bytes,
        }
        if verdict.status == 413:
            logger.warning("a body is too large for the server and is halved", extra=extra)
        else:
            logger.warning("a body was refused as a whole and is sent in parts to find why", extra=extra)
