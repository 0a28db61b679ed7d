"""How many attempts may be under way at once: as many as the server answers without getting slower.

More attempts at once fill a server that has room, and only lengthen the queue of one that has none: by
Little's law its throughput stays and each round trip takes longer. So the limit is found by trying, as TCP
finds its window: additive increase and multiplicative decrease, which converges and is fair to other senders
(D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer
Networks", 1989), on the round trip as well as on refusals (L. Brakmo, L. Peterson, "TCP Vegas: End to End
Congestion Avoidance on a Global Internet", 1995). The moving average and its deviation are those of
V. Jacobson, "Congestion Avoidance and Control", 1988.

Once for each window, which is as long as a round trip, the mean of its round trips is judged:

==========================================  ==================================
near the average, and the limit was reached  one more
far above the average                        a tenth less, one at least
a refusal: 429, 503, a timeout               half
==========================================  ==================================

The average follows what it is compared with, so where nothing but the limit itself makes the server slow, the
limit still creeps upward, to the maximum in the end: that maximum is the bound, and this the way there.

It begins at the maximum, which somebody has allowed, and begins again at one after an outage.

Nothing here waits, looks at a clock of its own or takes a lock: whoever uses a limiter holds a lock over it.
"""

from collections.abc import Callable

_GAIN = 0.1
"""Weight of a new window in the average and in its deviation."""

_FAR_DEVIATIONS = 4.0
_FAR_SHARE = 0.5
_FAR_S = 0.01
"""Far above the average is beyond it by all three: so many deviations, such a share of it, so many seconds. A
quick server's round trips differ by as much as they last, for reasons that are not its load."""

_NEAR_SHARE = 0.02

_LESS = 0.9
_HALF = 0.5

_FIRST_WINDOW_S = 0.1
"""How long a window is as long as no round trip is known."""


class Limiter:
    """One output's limit, from 1 to *maximum*. Times in seconds, *clock* monotonic."""

    def __init__(self, maximum: int, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._maximum = maximum
        self._limit = maximum
        self._mean = 0.0
        self._deviation = 0.0
        # The window: its end, until when refusals count as one with an earlier one, and what was seen in it.
        self._ends = self._spared = 0.0
        self._sum = 0.0
        self._count = 0
        self._reached = False
        self._begin(clock())

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def round_trip(self) -> float:
        """The moving average of the round trips, 0 as long as there was none."""
        return self._mean

    def resize(self, maximum: int) -> None:
        """Take another maximum. A limit that was at the former one goes with it, up or down."""
        self._limit = maximum if self._limit == self._maximum else min(self._limit, maximum)
        self._maximum = maximum

    def restart(self) -> None:
        """Begin again at one: the server was away, and is not to be overrun as soon as it is back."""
        self._limit = 1
        self._begin(self._clock())

    def answered(self, round_trip: float, under_way: int) -> None:
        """An attempt was answered; *under_way* is how many were as it began, itself included."""
        now = self._clock()
        self._sum += round_trip
        self._count += 1
        if under_way >= self._limit:
            self._reached = True
        if now >= self._ends:
            self._judge(now)

    def refused(self) -> None:
        """The server wants less, by its word or by its silence. What comes in one window counts once."""
        now = self._clock()
        if now >= self._spared:
            self._limit = max(int(self._limit * _HALF), 1)
            self._begin(now)
            self._spared = self._ends

    def _begin(self, now: float) -> None:
        """Begin a window."""
        self._ends = now + (self._mean or _FIRST_WINDOW_S)
        self._spared = now
        self._sum = 0.0
        self._count = 0
        self._reached = False

    def _judge(self, now: float) -> None:
        trip = self._sum / self._count
        if not self._mean:
            self._mean, self._deviation = trip, trip / 2
        above = trip - self._mean
        far = max(_FAR_DEVIATIONS * self._deviation, _FAR_SHARE * self._mean, _FAR_S)
        if above > far:
            self._limit = max(int(self._limit * _LESS), 1)
        elif self._reached and above <= _NEAR_SHARE * self._mean:
            self._limit = min(self._limit + 1, self._maximum)
        self._mean += _GAIN * above
        self._deviation += _GAIN * (abs(above) - self._deviation)
        self._begin(now)
