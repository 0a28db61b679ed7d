"""One body, attempted until the output has a verdict on it or it is given up for now.

How many attempts are under way at once, when there are none at all, and how long one that failed waits is
decided here, for all batches of an output together:

- the limiter says how many, the breaker says whether (:mod:`agent.delivery.limiter`,
  :mod:`agent.delivery.breaker`);
- a body that failed is repeated after a pause that doubles each time, with full jitter; a success of another
  one ends the pause once, since it shows that the destination is back;
- HOLD and a long ``Retry-After`` open the breaker for as long as they say; a short one, and 429, 502, 503 and
  504, hold all others off for the pause of the one that was told so.

A body that may go elsewhere, to the spool, is given up when its retries or its time are used up, or when the
breaker opens. One that may not waits for as long as it takes.
"""

import logging
import math
import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from agent.delivery.breaker import Breaker, State
from agent.delivery.leases import Lease, Leases
from agent.delivery.limiter import Limiter
from agent.delivery.measures import Measures
from agent.delivery.task import AttemptCounters, Health, Resilience, Task
from agent.outputs.base import Kind, Output, Payload, Verdict, one_line
from agent.outputs.verdicts import OVERLOADED

logger = logging.getLogger(__name__)

DRAIN_PAUSE_MAX = 1.0
"""Seconds between two attempts at most while draining: a server that comes back in time must be noticed."""

HOLD_OFF_MAX = 1.0
"""Seconds up to which a ``Retry-After`` is waited out as it is; for longer ones the breaker opens."""

TIMEOUT_S = 1.0
"""An attempt without an answer that took so long is a refusal to the limiter: the server does not keep up."""

_TICK_S = 0.001
"""Never wait for less: the moment may have come between two looks at the clock."""


class Attempts:
    """The attempts at one output. All methods may be called by any thread.

    *wake* is called, with a lock held, when there may be :meth:`room` that was not there before. *jitter*
    draws from [0, 1).
    """

    def __init__(
        self,
        output: Output,
        resilience: Resilience,
        *,
        wake: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.resilience = resilience
        self._leases = Leases(output)
        self._jitter = jitter
        self._wake = wake
        # Guards all below; signalled when there is a reason to end a pause.
        self._changed = threading.Condition(threading.Lock())
        self._breaker = Breaker(
            output.retry_min,
            output.retry_max,
            resilience.breaker_sensitivity,
            clock=time.monotonic,
            jitter=jitter,
        )
        self._limiter = Limiter(output.max_concurrency, clock=time.monotonic)
        self._under_way = 0
        self._sleepers = 0  # bodies that wait for their next attempt
        self._deadline = math.inf  # monotonic; finite once draining
        self._draining = False
        self._generation = 0  # raised when all that was decided about pauses is void
        self._successes = 0
        self._health = Health(since=time.time())
        self._measures = Measures()

    # ---- what it looks like ----

    @property
    def output(self) -> Output:
        return self._leases.output

    @property
    def health(self) -> Health:
        return self._health

    @property
    def breaker(self) -> State:
        return self._breaker.state

    @property
    def limit(self) -> int:
        """How many attempts may be under way at once now."""
        return self._limiter.limit

    @property
    def round_trip(self) -> float:
        """The moving average of the round trips in seconds, 0 as long as there was none."""
        return self._limiter.round_trip

    @property
    def counters(self) -> AttemptCounters:
        """One reading, consistent in itself."""
        with self._changed:
            return self._measures.read(self._breaker.opened)

    def room(self, in_hand: int, may_leave: Callable[[], bool]) -> tuple[int, float]:
        """How many more batches may be begun with *in_hand* begun already, and when that changes by itself.

        *may_leave*: the ones in hand may go elsewhere, so none of them waits for the breaker. The time is
        monotonic, infinite where nothing but an event changes it. At most ``max_concurrency`` are begun;
        below that, those that wait for a repetition take no place from others.
        """
        with self._changed:
            most = self.output.max_concurrency - in_hand
            active = in_hand - self._sleepers
            if self._breaker.state is State.CLOSED or not may_leave():
                return max(min(self._limiter.limit - active, most), 0), math.inf
            ready_at = self._breaker.ready_at()
            if time.monotonic() < ready_at:
                return 0, ready_at
            return max(min(1 - active, most), 0), math.inf

    # ---- settings, and the end ----

    def reconfigure(self, output: Output, resilience: Resilience) -> None:
        """Send to *output* from the next attempt on. Whatever is paused is tried again at once.

        The former output is closed as soon as no attempt uses it any more.
        """
        with self._changed:
            self.resilience = resilience
            if self._leases.replace(output):
                self._limiter = Limiter(output.max_concurrency, clock=time.monotonic)
                self._breaker.reset()
                self._go_on()
            self._configure_breaker()

    def stop(self, deadline: float) -> None:
        """Make no attempt after *deadline* (monotonic): what is undecided then is given up.

        Until then, what is paused is tried again at once, and pauses are short. May be called again with
        another deadline.
        """
        with self._changed:
            self._deadline = deadline
            self._draining = True
            self._configure_breaker()
            self._breaker.hurry()
            self._go_on()

    def is_over(self) -> bool:
        """Whether the deadline of :meth:`stop` has passed."""
        return time.monotonic() >= self._deadline

    def abort(self) -> None:
        """End the attempts that are under way. For after the deadline."""
        for output in self._leases.outputs:
            output.abort()

    def interrupt(self, before: float) -> None:
        """End the attempts that began before then (monotonic), as if their connections had broken."""
        for output in self._leases.outputs:
            output.interrupt(before)
        with self._changed:
            self._changed.notify_all()

    def look_again(self) -> None:
        """Some body is hurried now: whoever pauses is to look whether it is his."""
        with self._changed:
            self._changed.notify_all()

    def _go_on(self) -> None:
        """End every pause."""
        self._generation += 1
        self._changed.notify_all()

    def _longest(self) -> float:
        longest = self.output.retry_max
        return min(longest, DRAIN_PAUSE_MAX) if self._draining else longest

    def _configure_breaker(self) -> None:
        self._breaker.configure(self.output.retry_min, self._longest(), self.resilience.breaker_sensitivity)

    # ---- one body ----

    def encode(self, task: Task, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        """*body* as the output wants it; as it is where the output fails at that."""
        output = self.output
        try:
            return output.encode(body, metrics, encoding)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            extra = {"output": output.name, "batch": task.trace.id}
            logger.exception("an output failed in a way that it should not", extra=extra)
            return Payload(body, metrics, len(body), encoding)
        finally:
            task.trace.mark("encode")

    def decide(self, task: Task, payload: Payload) -> Verdict | None:
        """Attempt *payload* until the verdict is neither RETRY nor HOLD; None if it is given up for now."""
        failures = 0
        alone = False
        while (admitted := self._admit(task)) is not None:
            ticket, under_way, generation = admitted
            lease = self._leases.begin()
            verdict, took = self._post(lease.output, task, payload)
            self._leases.end(lease)
            failed = verdict.kind in (Kind.RETRY, Kind.HOLD)
            with self._changed:
                self._under_way -= 1
                self._measures.count(payload, verdict, took, failures > 0)
                if not failed and self._health.state == "ok" and not self._sleepers:
                    # As it is nearly always.
                    if self._leases.is_current(lease):
                        self._judge(ticket, took, under_way + task.spared)
                    self._successes += 1
                    return verdict
            if not failed:
                self._succeed(lease, ticket, took, under_way + task.spared)
                return verdict
            pause, successes = self._fail(task, lease, ticket, verdict, took, failures)
            failures += 1
            if self._gives_up(task, failures, pause):
                return None
            # A success of another batch shows that the destination is back, so it ends the pause, but only
            # once for each batch: one that fails again after that fails by itself.
            alone |= self._pause(task, generation, pause, None if alone else successes)
            task.trace.mark("pause")
        task.trace.mark("turn")
        return None

    def _admit(self, task: Task) -> tuple[int, int, int] | None:
        """Wait for a place. None to give up.

        Returns the breaker's ticket for an attempt, how many are under way with it, and the generation.
        """
        with self._changed:
            while not (self.is_over() or task.hurried):
                free = self._under_way < self._limiter.limit
                ticket = self._breaker.admit() if free else None
                if ticket is not None:
                    self._under_way += 1
                    return ticket, self._under_way, self._generation
                leaving = task.may_leave()
                if leaving and self._breaker.state is not State.CLOSED:
                    break
                now = time.monotonic()
                ends = min(self._deadline, task.deadline if leaving else math.inf)
                if ends <= now:
                    break
                if free:
                    ends = min(ends, max(self._breaker.ready_at(), now + _TICK_S))
                self._sleep(ends - now)
        return None

    def _post(self, output: Output, task: Task, payload: Payload) -> tuple[Verdict, float]:
        """Make one attempt: the verdict, and how long it took."""
        trace = task.trace
        began = trace.mark("turn")
        if task.deadline == math.inf:
            task.deadline = began + self.resilience.batch_timeout
        # What has nowhere to go when its time is over has all the time of the world.
        left = task.deadline if task.has_spool and began < task.deadline else math.inf
        deadline = min(left, self._deadline)
        task.began = began
        try:
            payload.trace = trace.header()
            payload.oldest_ns = task.oldest_ns
            verdict = output.post(payload, deadline)
        except Exception as error:
            # An attempt's frames could keep views of the batch alive, which could then not be released.
            traceback.clear_frames(error.__traceback__)
            extra = {"output": output.name, "batch": trace.id}
            logger.exception("an output failed in a way that it should not", extra=extra)
            verdict = Verdict(Kind.RETRY, text=one_line(f"{type(error).__name__}: {error}"))
        task.began = None
        return verdict, trace.tried(verdict.status, verdict.text, payload.raw_bytes, len(payload.data))

    def _gives_up(self, task: Task, failures: int, pause: float) -> bool:
        """Whether a body that has failed so often is to go elsewhere instead of being tried again."""
        if self.is_over() or task.hurried:
            return True
        with self._changed:
            return task.may_leave() and (
                failures > self.resilience.retries
                or self._breaker.state is not State.CLOSED
                or time.monotonic() + pause >= task.deadline
            )

    # ---- what an attempt came to; with the lock held unless it says otherwise ----

    def _judge(self, ticket: int, took: float, under_way: int) -> None:
        """Tell the breaker and the limiter of an answer."""
        opened = self._breaker.opened
        self._breaker.succeeded(ticket, took)
        self._limiter.answered(took, under_way)
        if self._breaker.opened > opened:
            self._limiter.restart()

    def _succeed(self, lease: Lease, ticket: int, took: float, under_way: int) -> None:
        """Note that the destination is back, whatever it said about the body. Takes the lock."""
        with self._changed:
            if self._leases.is_current(lease):
                self._judge(ticket, took, under_way)
            self._successes += 1
            ended = self._health
            if ended.state != "ok":
                self._health = replace(ended, state="ok", since=time.time())
            self._changed.notify_all()
        if ended.state != "ok":
            lasted = round(time.time() - ended.since, 1)
            extra = {"output": lease.output.name, "was": ended.state, "seconds": lasted}
            logger.info("an output delivers again", extra=extra)

    def _fail(
        self, task: Task, lease: Lease, ticket: int, verdict: Verdict, took: float, failures: int
    ) -> tuple[float, int]:
        """Note a failed attempt, the one after *failures* others. Takes the lock.

        Returns how long this body is to pause, in seconds, and the number of successes by now.
        """
        output = lease.output
        held = verdict.kind is Kind.HOLD
        with self._changed:
            pause = self._jitter() * min(self._longest(), output.retry_min * 2.0 ** min(failures, 62))
            if verdict.retry_after is not None:
                pause = max(verdict.retry_after, output.retry_min)
            elif held:
                pause = self._longest()
            task.failures += not held
            task.trace.failed = True
            if self._leases.is_current(lease):
                self._tell(ticket, verdict, took, pause)
            state = "holding" if held else "retrying"
            since = self._health.since if self._health.state == state else time.time()
            self._health = Health(state, since, verdict.text)
            successes = self._successes
            breaker = self._breaker.state
            self._changed.notify_all()
        extra = {
            "output": output.name,
            "target": output.target,
            "batch": task.trace.id,
            "status": verdict.status,
            "reason": verdict.text,
            "attempt": failures + 1,
            "pause_s": round(pause, 3),
            "breaker": breaker.value,
        }
        if held:
            logger.error("an output is refused until somebody mends it; everything is kept", extra=extra)
        else:
            logger.warning("a delivery failed and will be tried again", extra=extra)
        # Once the breaker is open, it alone says when.
        return pause if breaker is State.CLOSED else 0.0, successes

    def _tell(self, ticket: int, verdict: Verdict, took: float, pause: float) -> None:
        """Tell the breaker and the limiter of a failure. *pause* is what its body would wait."""
        answered = verdict.status is not None
        asked = verdict.kind is Kind.HOLD or (verdict.retry_after is not None and pause > HOLD_OFF_MAX)
        overloaded = verdict.retry_after is not None or verdict.status in OVERLOADED
        opened = self._breaker.opened
        self._breaker.failed(ticket, answered=answered, pause=pause if asked else None)
        if overloaded and not asked:
            self._breaker.hold_off(ticket, pause)
        if self._breaker.opened > opened:
            self._limiter.restart()
        elif overloaded or verdict.status == 408 or (not answered and took >= TIMEOUT_S):
            self._limiter.refused()

    # ---- pauses ----

    def _pause(self, task: Task, generation: int, seconds: float, successes: int | None) -> bool:
        """Wait *seconds*. True if a success ended it that was not among the *successes* of before.

        The deadline ends every pause, and so does whatever has made another *generation*.
        """
        with self._changed:
            end = time.monotonic() + seconds
            while generation == self._generation and not task.hurried:
                left = min(end, self._deadline) - time.monotonic()
                if left <= 0 or (self._breaker.state is not State.CLOSED and task.may_leave()):
                    break
                if successes not in (None, self._successes):
                    return True
                self._sleep(left)
        return False

    def _sleep(self, seconds: float) -> None:
        """Give up the lock until something changes or for *seconds*, and the place to another batch."""
        self._sleepers += 1
        self._wake()
        try:
            self._changed.wait(None if seconds == math.inf else seconds)
        finally:
            self._sleepers -= 1
