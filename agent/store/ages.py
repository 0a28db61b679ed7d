"""How old something is, when the clock may be stepped.

Files carry the time of the clock on the wall, which a person or NTP may set by a day, or by 56 years where
a machine starts without a battery. If ages were taken from it as it stands, a step forward would make
everything too old at once, and a step back would keep everything.

So a step is not believed until it has lasted as long as the limit on ages itself. By then whatever was there
before the step is too old by any clock, and what came after it was stamped by the new one. Until then time
goes on at the pace of the monotonic clock. A clock that is behind is always believed: what seems to come from
the future is kept longer, by the size of the step at most.
"""

import time
from collections.abc import Callable

SLACK_S = 60.0
"""A clock that is corrected by less is simply believed."""


class AgeClock:
    """Time for ages. Not thread-safe.

    *newest* is the latest time (seconds since 1970) that is known to have been, for instance of the newest
    file: while nothing ran, time may have passed or the clock may have been stepped, and nobody can tell. So
    that time does not count; a step that came before the newest file does.
    """

    def __init__(
        self,
        newest: float | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        now = wall()
        self._then = now if newest is None else min(newest, now)
        self._then_monotonic = monotonic()
        self._ahead_since: float | None = None  # monotonic

    def now(self, patience: float) -> float:
        """Seconds since 1970; a step forward counts after *patience* seconds, which is the limit on ages."""
        wall, monotonic = self._wall(), self._monotonic()
        steady = self._then + (monotonic - self._then_monotonic)
        if wall > steady + SLACK_S:
            if self._ahead_since is None:
                self._ahead_since = monotonic
            if monotonic - self._ahead_since < patience:
                return steady
        self._ahead_since = None
        if wall >= steady:
            self._then, self._then_monotonic = wall, monotonic
        return wall
