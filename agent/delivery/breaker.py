"""The circuit breaker: when an output is left alone, and when it is tried again.

                 half of the attempts fail, or answers get too slow, or the server asks for a pause
        ┌────────┐ ───────────────────────────────────────────────────────────▶ ┌──────┐
        │ closed │                     the probe succeeds                       │ open │ ◀─┐
        └────────┘ ◀─────────────────── ┌───────────┐ ◀──────────────────────── └──────┘   │ the probe
                                        │ half-open │     the pause is over                │ fails
                                        └───────────┘ ─────────────────────────────────────┘

*Closed*, every attempt is admitted. *Open*, none is: what fails would only cost its senders time, and a
server in trouble is not helped by more of the same. *Half-open*, exactly one is, the probe.

It opens

- when at least half of at least five attempts of the last ten seconds failed;
- when the 95th percentile of the last ten seconds' round trips is beyond ``sensitivity`` times that of the
  minute before them, and beyond a second: that is how a server looks which is about to fall over;
- when the server asks to be left alone, or needs a person (``Retry-After``, 401, …): then for that long.

The pauses double from one failed probe to the next, with full jitter (M. Brooker, "Exponential Backoff And
Jitter", 2015), so that many agents do not come back in one moment. The pattern is that of M. Nygard,
"Release It!", 2007.

Nothing here waits, looks at a clock of its own or takes a lock: whoever uses a breaker holds a lock over it.
"""

import enum
import math
import random
from collections import deque
from collections.abc import Callable, Iterable

WINDOW_S = 10
"""Seconds over which failures and round trips are judged."""

BASELINE_S = 60
"""Seconds before that window which say what round trips are normal."""

ATTEMPTS_MIN = 5
"""Fewer attempts in a window say nothing."""

FAILED_SHARE = 0.5

SLOW_S = 1.0
"""A round trip below this is never too slow, whatever is normal."""

PROBE_PAUSE_MAX = 0.5
"""Seconds between two probes at most, unless the server or ``retry_min`` asks for more: one batch now and
then is no load, and a server that is back must be noticed before live data is a second late."""

UNANSWERED_PAUSE_MAX = 0.25
"""The same while nothing answers at all: such a probe costs the server nothing."""

_STEPS = 4
"""Steps of the histogram of round trips per doubling: a percentile is at most 19 % too large."""

_TICKS_PER_S = 1000.0
"""The histogram begins at a millisecond."""


class State(enum.Enum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Second:
    """What was seen in one second."""

    __slots__ = ("at", "attempts", "failures", "trips")

    def __init__(self, at: int) -> None:
        self.at = at
        self.attempts = self.failures = 0
        self.trips: dict[int, int] = {}
        """How many round trips, by their step of the histogram."""


class Breaker:
    """One output's breaker. Times in seconds, *clock* monotonic; *jitter* draws from [0, 1).

    *sensitivity* is how many times the usual round trip is too slow.
    """

    def __init__(
        self,
        retry_min: float,
        retry_max: float,
        sensitivity: float,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._retry_min = retry_min
        self._retry_max = retry_max
        self._sensitivity = sensitivity
        self._state = State.CLOSED
        # Raised at each change of state: what was admitted before it says nothing about the state after it.
        self._epoch = 0
        self._until = -math.inf  # nothing is admitted before
        self._openings = 0  # since it was closed last
        self._seconds: deque[_Second] = deque(maxlen=WINDOW_S + BASELINE_S)
        self.opened = 0
        """How often it has opened out of the closed state. Only rises."""

    @property
    def state(self) -> State:
        return self._state

    def configure(self, retry_min: float, retry_max: float, sensitivity: float) -> None:
        """Take these settings from the next judgement on. A pause that is under way stays as it is."""
        self._retry_min, self._retry_max, self._sensitivity = retry_min, retry_max, sensitivity

    def reset(self) -> None:
        """Close it and forget everything: another destination."""
        self._close()
        self._seconds.clear()

    def hurry(self) -> None:
        """End the pause that is under way: the next attempt is admitted at once."""
        self._until = -math.inf

    def ready_at(self) -> float:
        """When an attempt may be admitted: in the past for now, infinite while a probe is under way."""
        return math.inf if self._state is State.HALF_OPEN else self._until

    def admit(self) -> int | None:
        """A ticket for one attempt, to be given back with what came of it; None if none may be made now."""
        if self._until > -math.inf and self._clock() < self._until:
            return None
        if self._state is State.HALF_OPEN:
            return None
        if self._state is State.OPEN:
            self._enter(State.HALF_OPEN)
        return self._epoch

    def succeeded(self, ticket: int, round_trip: float) -> None:
        """The attempt of *ticket* had an answer that is no trouble, after *round_trip* seconds."""
        if ticket != self._epoch:
            return
        if self._state is State.HALF_OPEN:
            self._close()
        second = self._second()
        second.attempts += 1
        step = _step(round_trip)
        second.trips[step] = second.trips.get(step, 0) + 1
        if round_trip > SLOW_S and self._is_slow():
            self._open(self._pause(answered=True))

    def failed(self, ticket: int, *, answered: bool, pause: float | None = None) -> None:
        """The attempt of *ticket* failed. *answered*: the server said so; else there was no answer at all.

        *pause* is for how many seconds the server is to be left alone, where that is known.
        """
        if pause is not None:
            pause = max(pause, min(self._retry_min, self._retry_max))
        if ticket != self._epoch:
            # Admitted before the last change. What it asks for holds all the same, once it is open.
            if pause is not None and self._state is State.OPEN:
                self._until = max(self._until, self._clock() + pause)
            return
        if self._state is State.HALF_OPEN:
            self._open(self._pause(answered) if pause is None else pause)
            return
        second = self._second()
        second.attempts += 1
        second.failures += 1
        if pause is not None:
            self._open(pause)
        elif self._is_failing():
            self._open(self._pause(answered))

    def hold_off(self, ticket: int, seconds: float) -> None:
        """Admit nothing for *seconds*, and stay closed: one overloaded answer, whose attempt had *ticket*."""
        if ticket == self._epoch and self._state is State.CLOSED:
            self._until = max(self._until, self._clock() + seconds)

    # ---- states ----

    def _enter(self, state: State) -> None:
        self._state = state
        self._epoch += 1

    def _open(self, pause: float) -> None:
        if self._state is State.CLOSED:
            self.opened += 1
        self._openings += 1
        self._until = self._clock() + pause
        self._enter(State.OPEN)

    def _close(self) -> None:
        self._enter(State.CLOSED)
        self._openings = 0
        self._until = -math.inf
        # What made it open must not make it open again; what was normal before stays known.
        first = int(self._clock()) - WINDOW_S
        while self._seconds and self._seconds[-1].at > first:
            self._seconds.pop()

    def _pause(self, answered: bool) -> float:
        """How long to stay open this time."""
        most = max(PROBE_PAUSE_MAX if answered else UNANSWERED_PAUSE_MAX, self._retry_min)
        longest = min(most, self._retry_max, self._retry_min * 2.0 ** min(self._openings, 62))
        return max(self._jitter() * longest, min(self._retry_min, longest))

    # ---- judgement ----

    def _second(self) -> _Second:
        """The entry of this second, which is the last one. Old ones fall off at the other end."""
        at = int(self._clock())
        if not self._seconds or self._seconds[-1].at != at:
            self._seconds.append(_Second(at))
        return self._seconds[-1]

    def _recent(self) -> list[_Second]:
        first = int(self._clock()) - WINDOW_S
        return [second for second in self._seconds if second.at > first]

    def _is_failing(self) -> bool:
        recent = self._recent()
        attempts = sum(second.attempts for second in recent)
        failures = sum(second.failures for second in recent)
        return attempts >= ATTEMPTS_MIN and failures >= FAILED_SHARE * attempts

    def _is_slow(self) -> bool:
        recent = self._recent()
        last = int(self._clock()) - WINDOW_S
        before = [second for second in self._seconds if last - BASELINE_S < second.at <= last]
        now, usual = _percentile_95(recent), _percentile_95(before)
        return now is not None and usual is not None and now > max(self._sensitivity * usual, SLOW_S)


def _step(seconds: float) -> int:
    """Where in the histogram a round trip of *seconds* counts."""
    return max(math.ceil(math.log2(max(seconds, 1e-9) * _TICKS_PER_S) * _STEPS), 0)


def _percentile_95(seconds: Iterable[_Second]) -> float | None:
    """The round trip below which 95 % of those in *seconds* lie; None where there are too few."""
    total: dict[int, int] = {}
    for second in seconds:
        for step, count in second.trips.items():
            total[step] = total.get(step, 0) + count
    left = sum(total.values())
    if left < ATTEMPTS_MIN:
        return None
    beyond = left * 0.05
    for step in sorted(total, reverse=True):
        # The largest step with at least a twentieth of all at or above it.
        beyond -= total[step]
        if beyond < 0:
            return float(2.0 ** (step / _STEPS) / _TICKS_PER_S)
    return None
