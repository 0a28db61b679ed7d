"""What becomes of a batch: attempts until each of its metrics is delivered, rejected or dropped.

The verdicts of the output (:mod:`agent.outputs.base`) decide:

========= ==================================================================================
DELIVERED counted; what the destination refused of it is counted as rejected
RETRY     the same body again after a pause that doubles each time, with full jitter; what
          the destination itself asked for (``Retry-After``, 429, 502, 503, 504) holds for all
          batches of the output
HOLD      like RETRY, at the longest pause, for all batches, and loudly
SPLIT     the halves, down to one line, which is then rejected
REJECT    counted, with the destination's words in the log
========= ==================================================================================

A batch is given back to its ring when all of its metrics are decided, and only then counted, all at once:
at rest ``written = delivered + rejected + dropped + waiting`` holds exactly.
"""

import logging
import math
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent._core import count_lines, split_lines
from agent.outputs.base import Kind, Output, Payload, Verdict, one_line
from agent.outputs.verdicts import OVERLOADED

logger = logging.getLogger(__name__)

DRAIN_PAUSE_MAX = 1.0
"""Seconds between two attempts at most while draining: a server that comes back in time must be noticed."""

SAMPLE_BYTES = 256
"""So much of a rejected line is logged."""


class Batch(Protocol):
    """What is delivered: anything whose bytes are *metrics* finished lines. ``agent._core.Batch`` is one."""

    @property
    def metrics(self) -> int: ...
    def release(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading of what a delivery has done. All only rise."""

    delivered: int = 0
    """Metrics, like the next two."""
    rejected: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    batches: int = 0
    """Batches given back to their ring."""
    attempts: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Attempts by the class of their answer: ``2xx`` … ``5xx``, ``error`` where there was none."""
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    """Bytes of the bodies of all attempts, before compression."""
    bytes_sent: int = 0
    """The same after compression."""


@dataclass(frozen=True, slots=True)
class Health:
    """How an output fares."""

    state: str = "ok"
    """``ok``, ``retrying`` (network, overload) or ``holding`` (a person must mend something)."""
    since: float = 0.0
    """Seconds since 1970."""
    last_error: str = ""
    """The last reason of an attempt that failed. Kept after it is over."""


class _Tally:
    """What became of the metrics of one batch. One thread's."""

    __slots__ = ("delivered", "dropped", "rejected")

    def __init__(self) -> None:
        self.delivered = self.rejected = self.dropped = 0


class _Lease:
    """An output, and how many attempts are using it: one that was replaced is closed after the last."""

    __slots__ = ("output", "users")

    def __init__(self, output: Output) -> None:
        self.output = output
        self.users = 0


class Delivery:
    """Brings the batches of one output to its destination. All methods may be called by any thread.

    *jitter* draws from [0, 1).
    """

    def __init__(self, output: Output, *, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        # Guards all below; signalled when there is a reason to end a pause.
        self._changed = threading.Condition(threading.Lock())
        self._lease = _Lease(output)
        self._former: list[_Lease] = []  # replaced, and still in use
        self._paused_until = 0.0  # monotonic; for all batches
        self._deadline: float | None = None  # monotonic; set once draining
        self._generation = 0  # raised when all that was decided about pauses is void
        self._successes = 0
        self._sleepers = 0
        self._health = Health(since=time.time())
        self._delivered = self._rejected = self._batches = 0
        self._attempts = self._retries = self._splits = self._bytes_raw = self._bytes_sent = 0
        self._dropped: dict[str, int] = {}
        self._requests: dict[str, int] = {}

    @property
    def output(self) -> Output:
        return self._lease.output

    @property
    def counters(self) -> Counters:
        """One reading, consistent in itself."""
        with self._changed:
            return Counters(
                delivered=self._delivered,
                rejected=self._rejected,
                dropped=dict(self._dropped),
                batches=self._batches,
                attempts=self._attempts,
                requests=dict(self._requests),
                retries=self._retries,
                splits=self._splits,
                bytes_raw=self._bytes_raw,
                bytes_sent=self._bytes_sent,
            )

    @property
    def health(self) -> Health:
        return self._health

    def reconfigure(self, output: Output) -> None:
        """Send to *output* from the next attempt on. Whatever is paused is tried again at once.

        The former output is closed as soon as no attempt uses it any more.
        """
        with self._changed:
            former = self._lease
            if former.output is output:
                return
            self._lease = _Lease(output)
            self._paused_until = 0.0
            self._generation += 1
            self._changed.notify_all()
            idle = not former.users
            if not idle:
                self._former.append(former)
        if idle:
            former.output.close()

    def stop(self, deadline: float) -> None:
        """Make no attempt after *deadline* (monotonic clock): what is undecided then is dropped and counted.

        Until then, what is paused is tried again at once, and pauses are short. May be called again with
        another deadline.
        """
        with self._changed:
            self._deadline = deadline
            self._paused_until = 0.0
            self._generation += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """End the attempts that are under way. For after the deadline."""
        with self._changed:
            outputs = [lease.output for lease in (self._lease, *self._former)]
        for output in outputs:
            output.abort()

    def deliver(self, batch: Batch) -> None:
        """Take *batch* through attempts until all of it is decided, count that, and release it.

        Blocks for as long as that takes. The batch must be of lines, whole ones, each one metric.
        """
        tally = _Tally()
        with memoryview(batch) as view:
            self._send(view, batch.metrics, tally)
        self._count(tally, "drain_timeout")
        batch.release()

    def drop(self, batch: Batch, reason: str) -> None:
        """Count *batch* as dropped for *reason*, and release it."""
        tally = _Tally()
        tally.dropped = batch.metrics
        self._count(tally, reason)
        batch.release()

    # ---- one batch ----

    def _send(self, body: memoryview, metrics: int, tally: _Tally) -> None:
        """Attempt *body*, and what it is split into, from left to right."""
        pieces = [(0, len(body), metrics)]
        while pieces:
            start, end, metrics = pieces.pop()
            with body[start:end] as piece:
                verdict = self._decide(self._encode(piece, metrics))
                if verdict is None:
                    tally.dropped += metrics
                elif verdict.kind is Kind.DELIVERED:
                    refused = min(len(verdict.refused), metrics)
                    tally.delivered += metrics - refused
                    tally.rejected += refused
                    if refused:
                        self._log_rejected(verdict, refused, metrics, b"")
                elif verdict.kind is Kind.SPLIT and (lines := count_lines(piece)) > 1:
                    middle = start + split_lines(piece, lines // 2)
                    left = min(lines // 2, metrics)
                    pieces += (middle, end, metrics - left), (start, middle, left)
                    self._note_split(verdict, metrics, end - start)
                else:
                    tally.rejected += metrics
                    sample = bytes(piece[:SAMPLE_BYTES]) if metrics == 1 else b""
                    self._log_rejected(verdict, metrics, metrics, sample)

    def _encode(self, body: memoryview, metrics: int) -> Payload:
        try:
            return self._lease.output.encode(body, metrics)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            name = self._lease.output.name
            logger.exception("an output failed in a way that it should not", extra={"output": name})
            return Payload(body, metrics, len(body))

    def _decide(self, payload: Payload) -> Verdict | None:
        """Attempt until the verdict is neither RETRY nor HOLD; None if the deadline came first."""
        failures = 0
        alone = False
        self._pause(self._generation, 0.0)
        while not self._is_over():
            generation = self._generation
            verdict = self._attempt(payload, failures > 0)
            if verdict.kind not in (Kind.RETRY, Kind.HOLD):
                return verdict
            pause, successes = self._fail(verdict, generation, failures)
            failures += 1
            # A success of another batch shows that the destination is back, so it ends the pause, but only
            # once for each batch: one that fails again after that fails by itself.
            alone |= self._pause(generation, pause, None if alone else successes)
        return None

    def _attempt(self, payload: Payload, again: bool) -> Verdict:
        """Make one attempt and count it."""
        with self._changed:
            lease = self._lease
            lease.users += 1
        try:
            verdict = lease.output.post(payload, math.inf)
        except Exception as error:
            # An attempt's frames could keep views of the batch alive, which could then not be released.
            traceback.clear_frames(error.__traceback__)
            name = lease.output.name
            logger.exception("an output failed in a way that it should not", extra={"output": name})
            verdict = Verdict(Kind.RETRY, text=one_line(f"{type(error).__name__}: {error}"))
        if verdict.status is not None:
            answer = f"{verdict.status // 100}xx"
        else:
            answer = "error" if verdict.kind is Kind.RETRY else ""
        with self._changed:
            lease.users -= 1
            last = lease.users == 0 and lease in self._former
            if last:
                self._former.remove(lease)
            self._attempts += 1
            self._retries += again
            self._bytes_raw += payload.raw_bytes
            self._bytes_sent += len(payload.data)
            if answer:
                self._requests[answer] = self._requests.get(answer, 0) + 1
            ended: Health | None = None
            if verdict.kind not in (Kind.RETRY, Kind.HOLD):
                self._successes += 1
                if self._health.state != "ok":
                    ended = self._health
                    self._health = replace(ended, state="ok", since=time.time())
                if self._sleepers:
                    self._changed.notify_all()
        if last:
            lease.output.close()
        if ended is not None:
            lasted = round(time.time() - ended.since, 1)
            extra = {"output": lease.output.name, "was": ended.state, "seconds": lasted}
            logger.info("an output delivers again", extra=extra)
        return verdict

    # ---- pauses ----

    def _fail(self, verdict: Verdict, generation: int, failures: int) -> tuple[float, int]:
        """Note a failed attempt, the one after *failures* others.

        Returns how long to pause, in seconds, and the number of successes by now.
        """
        with self._changed:
            output = self._lease.output
            longest = output.retry_max if self._deadline is None else min(output.retry_max, DRAIN_PAUSE_MAX)
            if verdict.retry_after is not None:
                pause = max(verdict.retry_after, output.retry_min)
            elif verdict.kind is Kind.HOLD:
                pause = longest
            else:
                pause = self._jitter() * min(longest, output.retry_min * 2.0 ** min(failures, 62))
            for_all = (
                verdict.kind is Kind.HOLD or verdict.retry_after is not None or verdict.status in OVERLOADED
            )
            if for_all and generation == self._generation:
                self._paused_until = max(self._paused_until, time.monotonic() + pause)
            state = "holding" if verdict.kind is Kind.HOLD else "retrying"
            since = self._health.since if self._health.state == state else time.time()
            self._health = Health(state, since, verdict.text)
            successes = self._successes
        extra = {
            "output": output.name,
            "target": output.target,
            "status": verdict.status,
            "reason": verdict.text,
            "attempt": failures + 1,
            "pause_s": round(pause, 3),
        }
        if verdict.kind is Kind.HOLD:
            logger.error("an output is refused until somebody mends it; everything is kept", extra=extra)
        else:
            logger.warning("a delivery failed and will be tried again", extra=extra)
        return pause, successes

    def _pause(self, generation: int, seconds: float, successes: int | None = None) -> bool:
        """Wait *seconds*, and as long as the whole output is paused.

        True if a success ended it that was not among the *successes* of before. The deadline ends every
        pause, and so does whatever has made another *generation*.
        """
        if not seconds and not self._paused_until:
            return False
        with self._changed:
            end = time.monotonic() + seconds
            self._sleepers += 1
            try:
                while generation == self._generation:
                    now = time.monotonic()
                    if successes not in (None, self._successes) and now >= self._paused_until:
                        return True
                    left = max(end, self._paused_until) - now
                    if self._deadline is not None:
                        left = min(left, self._deadline - now)
                    if left <= 0:
                        break
                    self._changed.wait(left)
            finally:
                self._sleepers -= 1
        return False

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    # ---- counting and telling ----

    def _count(self, tally: _Tally, reason: str) -> None:
        with self._changed:
            self._batches += 1
            self._delivered += tally.delivered
            self._rejected += tally.rejected
            if tally.dropped:
                self._dropped[reason] = self._dropped.get(reason, 0) + tally.dropped

    def _log_rejected(self, verdict: Verdict, rejected: int, metrics: int, sample: bytes) -> None:
        extra = {
            "output": self._lease.output.name,
            "status": verdict.status,
            "reason": verdict.text,
            "rejected": rejected,
            "metrics": metrics,
        }
        if sample:
            extra["line"] = sample.decode("ascii", "backslashreplace").rstrip("\n")
        logger.error("metrics were rejected for good", extra=extra)

    def _note_split(self, verdict: Verdict, metrics: int, size: int) -> None:
        with self._changed:
            self._splits += 1
        extra = {
            "output": self._lease.output.name,
            "status": verdict.status,
            "reason": verdict.text,
            "metrics": metrics,
            "bytes": size,
        }
        if verdict.status == 413:
            logger.warning("a body is too large for the server and is halved", extra=extra)
        else:
            logger.warning("a body was refused as a whole and is halved to find why", extra=extra)
