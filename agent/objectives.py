"""Objectives: what share of the metrics is to be delivered in time, and how fast the rest uses up the budget.

An objective says that a *share* of the metrics that are due within a *window* is not late. What is left of
the share is the error budget: of 99.9 % over 30 days, one metric in a thousand. The *burn rate* of a span
tells how fast it goes: at 1, what is late just uses the budget up by the end of the window::

    burn(span) = late in it ÷ due in it ÷ (1 - share)

Three alarms look at two spans each, as multiwindow, multi-burn-rate alerts do
(https://sre.google/workbook/alerting-on-slos/): the long one so that a moment's trouble alone does not raise
it, the short one so that it ends soon after the trouble has. With a window of 30 days:

    fast      14.4 over 1 h and 5 min      2 % of the budget is gone
    slow       6   over 6 h and 30 min     5 %
    trickle    1   over 3 d and 6 h       10 %

The spans grow and shrink with the window, the factors do not. Of what was before the start nothing is known:
it counts as metrics in time, at the rate since. So a restart hides nothing, and one late metric in the first
second is no alarm.

Both counters are those of :meth:`agent.pipeline.Pipeline.promises`: a metric is late as soon as its time is
over, wherever it is, and not only once it is delivered.
"""

import logging
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from agent.config import Slo
from agent.ledger import Ledger
from agent.quantiles import Summary

logger = logging.getLogger(__name__)

_FINE_CELLS = 4320
"""Steps that are kept one by one: a 120th of the window, the longest span of which the short end matters."""
_COARSE_STEPS = 120
_COARSE_CELLS = 4320
"""Beyond them, every 120th step, up to the whole window."""


class Alarm(NamedTuple):
    """A state, and when an objective is in it: both burn rates are at least *factor*."""

    state: str
    long: int
    """The span, as that part of the window."""
    short: int
    factor: float


ALARMS = (Alarm("fast", 720, 8640, 14.4), Alarm("slow", 120, 1440, 6.0), Alarm("trickle", 10, 120, 1.0))
"""The first that holds is the state."""

OK = "ok"
STATES = (*(alarm.state for alarm in ALARMS), OK)
"""From the worst on."""


class Change(NamedTuple):
    """An objective has gone over from one state to another."""

    state: str
    was: str
    burn_long: float
    """Of the alarm that it is in; of the one that it has left, where it is in none."""
    burn_short: float


class Objective:
    """One output's objective, and its two counters over the window.

    *share* is from 0 to below 1, *within* and *window* are seconds. *now* is the time of a clock that never
    goes back; *due* and *late* are what the counters are at that time: what was before is not looked at.
    """

    def __init__(
        self, share: float, within: float, window: float, now: float, due: int = 0, late: int = 0
    ) -> None:
        self.share = share
        self.within = within
        self.window = window
        self.state = OK
        self.step = max(1.0, window / (_FINE_CELLS * _COARSE_STEPS))
        """Seconds between two looks at the spans."""
        self._start = now
        self._index = 0
        self._first = self._last = (due, late)
        self._fine = _Cells(_FINE_CELLS + 1)
        self._coarse = _Cells(_COARSE_CELLS + 1)
        self._put(0, self._first)

    def sample(self, now: float, due: int, late: int) -> Change | None:
        """Take in what the counters are at *now*; for once a second. Returns the change of state, if any."""
        index = int((now - self._start) / self.step)
        if index <= self._index:
            return None
        # Of steps that nobody was there for, the counters of the one before are as good as any.
        for missing in range(max(self._index + 1, index - _FINE_CELLS * _COARSE_STEPS), index):
            self._put(missing, self._last)
        self._index, self._last = index, (due, late)
        self._put(index, self._last)
        return self._look()

    def burns(self) -> dict[int, float]:
        """The burn rate of each span that an alarm looks at, by its seconds, the shortest first."""
        divisors = sorted({part for alarm in ALARMS for part in (alarm.long, alarm.short)}, reverse=True)
        return {self.span(part): self._burn(part) for part in divisors}

    def span(self, part: int) -> int:
        """The seconds of the span that is one *part*-th of the window: whole steps, one at least."""
        return round(self._steps(part) * self.step)

    @property
    def budget_left(self) -> float:
        """What is left of the window's budget: 1 is all of it; below 0 the objective is missed."""
        return 1.0 - self._burn(1)

    def _steps(self, part: int) -> int:
        return max(1, round(self.window / part / self.step))

    def _burn(self, part: int) -> float:
        """At the last step. The long spans may begin up to 120 steps early."""
        steps = self._steps(part)
        begin = self._index - steps
        if begin <= 0:
            then, scale = self._first, steps / max(self._index, 1)
        else:
            then, scale = self._at(begin), 1.0
        due, late = self._last[0] - then[0], self._last[1] - then[1]
        return late / (due * scale) / (1.0 - self.share) if due > 0 else 0.0

    def _look(self) -> Change | None:
        was, burning = self.state, next(filter(self._burning, ALARMS), None)
        self.state = burning.state if burning is not None else OK
        if self.state == was:
            return None
        shown = burning or next(alarm for alarm in ALARMS if alarm.state == was)
        return Change(self.state, was, self._burn(shown.long), self._burn(shown.short))

    def _burning(self, alarm: Alarm) -> bool:
        return self._burn(alarm.long) >= alarm.factor and self._burn(alarm.short) >= alarm.factor

    def _put(self, index: int, counters: tuple[int, int]) -> None:
        self._fine.put(index, counters)
        if index % _COARSE_STEPS == 0:
            self._coarse.put(index // _COARSE_STEPS, counters)

    def _at(self, index: int) -> tuple[int, int]:
        if self._index - index <= _FINE_CELLS:
            return self._fine.at(index)
        return self._coarse.at(index // _COARSE_STEPS)


class Promised(NamedTuple):
    """What an output still has time for, and what it delivered in time; read in this order."""

    young: int
    """Metrics in its rings and its spool that are not late yet."""
    on_time: int


class SloAccount(msgspec.Struct, frozen=True, kw_only=True):
    """How one output fares by the objective."""

    output: str
    share: float
    within: float
    """Seconds, like the window."""
    window: float
    state: str
    due: int
    """Metrics whose time is over, or that were delivered before."""
    late: int
    """Of these, those that were not delivered in time."""
    budget_left: float
    burn: dict[str, float]
    """By seconds of the span."""


class Fares(msgspec.Struct, frozen=True):
    """How all outputs fare, at one moment."""

    objectives: tuple[SloAccount, ...] = ()
    delays: dict[str, Summary | None] = {}
    """Of each output in the last minute, in seconds; None if nothing was delivered in it."""


class Objectives:
    """Those of all outputs of an agent. One thread's."""

    def __init__(self) -> None:
        self._settings = Slo(share=0.0)
        self._objectives: dict[str, Objective] = {}
        # Over all objectives that an output has had: they never fall.
        self._counters: dict[str, tuple[int, int]] = {}
        # What had been lost before the output was there.
        self._not_its: dict[str, int] = {}
        self._looked = False

    def look(
        self, now: float, settings: Slo, ledger: Ledger, promised: Mapping[str, Promised]
    ) -> list[tuple[str, Change]]:
        """Take in one reading; for once a second. Returns the changes of state, which the log is told of.

        *ledger* was read before *promised*: what moves on meanwhile is seen twice, and not taken for late.
        """
        if settings != self._settings:
            self._settings = settings
            self._objectives.clear()
        lost = _lost_before_rings(ledger)
        changes: list[tuple[str, Change]] = []
        if settings.share:
            for output in ledger.outputs:
                if (found := promised.get(output.name)) is not None:
                    not_its = self._not_its.setdefault(output.name, lost if self._looked else 0)
                    due = max(output.written + output.missed + lost - not_its - found.young, 0)
                    changes += self._take(now, output.name, due, due - found.on_time)
        self._looked = True
        for name in self._objectives.keys() - promised.keys():
            del self._objectives[name]
        return changes

    def accounts(self) -> tuple[SloAccount, ...]:
        """By output, in the order of their names."""
        return tuple(self._account(name, one) for name, one in sorted(self._objectives.items()))

    def _take(self, now: float, name: str, due: int, late: int) -> Iterable[tuple[str, Change]]:
        before = self._counters.get(name, (0, 0))
        counters = self._counters[name] = max(due, before[0]), max(late, before[1])
        objective = self._objectives.get(name)
        if objective is None:
            slo = self._settings
            objective = Objective(slo.share, slo.within, slo.window, now, *before)
            self._objectives[name] = objective
        change = objective.sample(now, *counters)
        if change is not None:
            _tell(self._account(name, objective), change)
            yield name, change

    def _account(self, name: str, objective: Objective) -> SloAccount:
        due, late = self._counters[name]
        return SloAccount(
            output=name,
            share=objective.share,
            within=objective.within,
            window=objective.window,
            state=objective.state,
            due=due,
            late=late,
            budget_left=objective.budget_left,
            burn={str(span): burn for span, burn in objective.burns().items()},
        )


def _lost_before_rings(ledger: Ledger) -> int:
    """What every output would have got. Of a datagram that the kernel dropped nobody knows more than that it
    was one metric at least."""
    return sum(
        one.dropped.get("ring_full", 0) + one.dropped.get("burst_torn", 0) + one.kernel_drops
        for one in ledger.listeners
    )


def _tell(account: SloAccount, change: Change) -> None:
    """One line for each change of state."""
    extra = {
        "output": account.output,
        "state": change.state,
        "was": change.was,
        "burn_long": round(change.burn_long, 3),
        "burn_short": round(change.burn_short, 3),
        "budget_left": round(account.budget_left, 6),
        "due": account.due,
        "late": account.late,
    }
    if STATES.index(change.state) < STATES.index(change.was):
        logger.warning("an error budget burns", extra=extra)
    elif change.state != OK:
        logger.info("an error budget burns less", extra=extra)
    else:
        logger.info("an error budget burns no more", extra=extra)


class _Cells:
    """A number of readings of two counters, of which the next one overwrites the oldest."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._due = array("q", bytes(8 * count))
        self._late = array("q", bytes(8 * count))

    def put(self, index: int, counters: tuple[int, int]) -> None:
        self._due[index % self._count], self._late[index % self._count] = counters

    def at(self, index: int) -> tuple[int, int]:
        return self._due[index % self._count], self._late[index % self._count]
