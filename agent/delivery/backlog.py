"""The backlog: what waits in the spool, in the order in which it is to be delivered.

The oldest goes first. A file that fails rests for a while, twice as long each time, and lets the others pass:
the reason may lie in the file, and then it must not stop what is behind it. When an outage ends, those that
failed in it need no more rest.

Where the order matters (:attr:`Backlog.ordered`), nothing passes a file that has failed: one that fails in an
outage is the next to be tried, and one that fails by itself, with short rests, lets others pass after
:data:`PASSED_AFTER` times.
"""

import math
import threading
import time
from collections import OrderedDict

from agent.delivery.work import Stored
from agent.outputs.base import Output
from agent.store.spool import Spool

RESTING_MAX = 1000
"""So many files rest at once. Further ones are not tried before one of these has rested."""

REMEMBERED_MAX = 1024
"""Of so many files it is known how often they have failed."""

PASSED_AFTER = 8
REST_IN_ORDER_S = 0.5
"""The longest rest until then."""


class Backlog:
    """The files of *spool*. All methods may be called by any thread.

    Only :meth:`take` and :meth:`give_back` touch the disk: a disk that hangs hangs only their callers.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._resting: dict[str, tuple[float, Stored, bool]] = {}  # until when (monotonic); in an outage?
        self._failures: OrderedDict[str, int] = OrderedDict()
        self._wakes = math.inf  # the first of those who rest
        self._waiting = True  # something may be in the spool that does not rest
        self.ordered = False
        """Whether what waits is to be delivered in the order in which it came."""

    def changed(self) -> None:
        """Something was stored."""
        self._waiting = True

    def is_waiting(self, now: float) -> bool:
        """Whether there may be something to deliver; False is certain."""
        return self._waiting or now >= self._wakes

    def holds_up(self, now: float) -> bool:
        """Whether something must go before what is behind the backlog, where the order matters."""
        return self.is_waiting(now) or self._is_blocked()

    @property
    def wakes_at(self) -> float:
        """When the next file has rested enough (monotonic); infinite if none rests."""
        return self._wakes

    def take(self) -> Stored | None:
        """The oldest that does not rest. It is the caller's until it is decided, or given back."""
        self._wake(time.monotonic())
        # In this order: what is stored after the look at the spool sets it again.
        self._waiting = False
        if len(self._resting) >= RESTING_MAX or (self.ordered and self._is_blocked()):
            return None
        entry = self._spool.take()
        if entry is None:
            return None
        self._waiting = True
        return Stored(entry)

    def give_back(self, work: Stored, output: Output, in_outage: bool) -> None:
        """It is undecided still. If it has failed, it rests, by the pauses of *output*.

        *in_outage*: everything else fails, too.
        """
        name = work.entry.name
        if not work.failures or (self.ordered and in_outage):
            self._spool.put_back(work.entry)
            self._waiting = True
            return
        with self._lock:
            failures = self._failures.pop(name, 0)
            self._failures[name] = failures + 1
            if len(self._failures) > REMEMBERED_MAX:
                self._failures.popitem(last=False)
            pause = min(output.retry_max, output.retry_min * 2.0 ** min(failures, 62))
            if self.ordered and failures < PASSED_AFTER:
                pause = min(pause, REST_IN_ORDER_S)
            self._resting[name] = (time.monotonic() + pause, work, in_outage)
            self._look_at_those_who_rest()

    def outage_over(self) -> None:
        """Something was delivered again."""
        with self._lock:
            for name, (_, work, in_outage) in self._resting.items():
                if in_outage:
                    self._resting[name] = (0.0, work, False)
                    self._failures.pop(name, None)
            self._look_at_those_who_rest()

    def decided(self, work: Stored) -> None:
        """It is done with."""
        with self._lock:
            self._failures.pop(work.entry.name, None)

    def close(self) -> None:
        """Give everything back to the spool."""
        self._wake(math.inf)

    def _is_blocked(self) -> bool:
        """Whether a file rests that nothing may pass."""
        with self._lock:
            return any(self._failures.get(name, 0) <= PASSED_AFTER for name in self._resting)

    def _wake(self, now: float) -> None:
        """Give those back to the spool that have rested enough."""
        if now < self._wakes:
            return
        with self._lock:
            rested = [name for name, (until, *_) in self._resting.items() if until <= now]
            works = [self._resting.pop(name)[1] for name in rested]
            self._look_at_those_who_rest()
        self._put_back(works)

    def _look_at_those_who_rest(self) -> None:
        self._wakes = min((until for until, *_ in self._resting.values()), default=math.inf)

    def _put_back(self, works: list[Stored]) -> None:
        for work in works:
            self._spool.put_back(work.entry)
        self._waiting = True
