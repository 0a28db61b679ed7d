"""Objectives in plain Python: lists of what happened, summed up anew at each question.

:class:`Objective` keeps every step's events for ever. :func:`promised` tells what the two counters must be
from when each metric was sent and when it was answered. :func:`states` puts the two together.

The long spans may begin early: beyond 4,320 steps an objective remembers every 120th step only, and a span
that begins between two of those begins at the earlier one.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

ALARMS = (
    ("fast", Fraction(144, 10), 720, 8640),
    ("slow", Fraction(6), 120, 1440),
    ("trickle", Fraction(1), 10, 120),
)


def step_of(window: float) -> float:
    """Seconds between two looks."""
    return max(1.0, window / 518_400)


class Objective:
    """The events of each step: (step, due, late), the newest last."""

    def __init__(self, share: Fraction, window: float) -> None:
        self.budget = 1 - share
        self.window = window
        self.step = step_of(window)
        self.events: list[tuple[int, int, int]] = []
        self.index = 0

    def add(self, index: int, due: int, late: int) -> str:
        """What fell due since the step before, all of it at step *index*; the state then."""
        assert index > self.index
        self.index = index
        self.events.append((index, due, late))
        return self.state()

    def burn(self, part: int) -> Fraction:
        """The burn rate of one *part*-th of the window."""
        steps = max(1, round(self.window / part / self.step))
        begin = self.index - steps
        if begin > 0 and steps > 4320:
            begin -= begin % 120
        found = [event for event in self.events if event[0] > begin]
        due = Fraction(sum(event[1] for event in found))
        if begin < 0:
            # Before the start as many a second as since, none of them late.
            due = due * steps / self.index
        return sum(event[2] for event in found) / due / self.budget if due else Fraction(0)

    def state(self) -> str:
        """The first of the alarms that holds."""
        for name, factor, long, short in ALARMS:
            if self.burn(long) >= factor and self.burn(short) >= factor:
                return name
        return "ok"


def promised(
    sent: Sequence[float], answered: Sequence[float], within: float, until: Sequence[float]
) -> list[tuple[int, int]]:
    """(due, late) at each moment of *until*, which rises.

    *sent* and *answered* belong together, ``inf`` is never. A metric is due once it is answered or its time
    is over, and late if it was not answered by then.
    """
    due = sorted(min(end, begin + within) for begin, end in zip(sent, answered, strict=True))
    late = sorted(begin + within for begin, end in zip(sent, answered, strict=True) if end - begin > within)
    return [(bisect_right(due, moment), bisect_right(late, moment)) for moment in until]


def states(
    share: Fraction, window: float, start: float, counters: Sequence[tuple[float, int, int]]
) -> list[tuple[float, str]]:
    """(when, state) at each change, from (when, due, late) in their order; it begins as ``ok`` at *start*."""
    objective = Objective(share, window)
    found, last, before = [], "ok", (0, 0)
    for when, due, late in counters:
        index = math.floor((when - start) / objective.step)
        if index <= objective.index:
            continue
        state = objective.add(index, due - before[0], late - before[1])
        before = (due, late)
        if state != last:
            found.append((when, state))
            last = state
    return found
