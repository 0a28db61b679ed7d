"""What all scenarios share: a run with its settings, figures beside baselines, and checks.

A scenario is a function ``(Run) -> None`` that measures whole processes, checks what arrived, and adds
figures to the run. A figure that misses its target says so in the table and fails nothing, for a busy
machine is no bug; an output that is wrong raises :class:`CheckError`, and that fails the run.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class CheckError(Exception):
    """What arrived is not what was sent, or an account does not balance."""


class NotHere(Exception):
    """A scenario needs something that this machine does not have; the message names it."""


class Lost(Exception):
    """The kernel dropped datagrams in a round that must not lose any: the round says nothing."""


def check(condition: object, message: str) -> None:
    """Raise CheckError with *message* unless *condition*."""
    if not condition:
        raise CheckError(message)


def check_equal(found: object, expected: object, what: str) -> None:
    """Raise CheckError unless both are equal."""
    check(found == expected, f"{what}: {found!r} instead of {expected!r}")


@dataclass(frozen=True)
class Target:
    """A bound on the median of a figure's values, or of its ratios to the baseline."""

    bound: float
    at_least: bool
    of_ratio: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g}{' of it' if self.of_ratio else ''}"


@dataclass
class Figure:
    """One measured quantity, a value for each round, beside the baseline of the same rounds."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    baseline: str = ""
    """What the baseline is; empty if there is none."""
    baseline_values: list[float] = field(default_factory=list)
    target: Target | None = None
    note: str = ""

    def add(self, value: float, baseline: float | None = None) -> None:
        self.values.append(value)
        if baseline is not None:
            self.baseline_values.append(baseline)

    @property
    def ratios(self) -> list[float]:
        """Round by round, so that a slow moment of the machine hits both sides."""
        if len(self.baseline_values) != len(self.values):
            return []
        pairs = zip(self.values, self.baseline_values, strict=True)
        return [value / baseline for value, baseline in pairs if baseline]

    @property
    def met(self) -> bool | None:
        """Whether the median keeps to the target; None without a target or a value."""
        values = self.ratios if self.target and self.target.of_ratio else self.values
        return self.target.met(statistics.median(values)) if self.target and values else None


@dataclass
class Run:
    """One run of the benchmarks. *folder* lies in memory where there is such a place, like ``/run``."""

    runs: int
    quick: bool
    folder: Path
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    scenario: str = ""

    def size(self, full: int, quick: int) -> int:
        """*full* or *quick*, whichever this run is."""
        return quick if self.quick else full

    def figure(self, name: str, unit: str, **more: object) -> Figure:
        """Begin a figure of the running scenario; its values come with :meth:`Figure.add`."""
        figure = Figure(name, unit, **more)  # type: ignore[arg-type]
        if self.quick:
            # So short a run says nothing about speed.
            figure.target = None
        self.figures.setdefault(self.scenario, []).append(figure)
        return figure

    def say(self, text: str) -> None:
        """Tell a person how far it is."""
        print(f"  {self.scenario}: {text}", file=sys.stderr, flush=True)

    def rounds(self, what: str, runs: int | None = None) -> Iterator[int]:
        """Count the rounds of a measurement, telling about each."""
        for number in range(runs or self.runs):
            self.say(f"{what}, round {number + 1} of {runs or self.runs}")
            yield number

    def retry(self, round: Callable[[], T], times: int = 3) -> T:
        """Run a round that must not lose a datagram, again if the kernel dropped some; returns what it does.

        Raises CheckError when that happens *times* times: then the rate is beyond this machine.
        """
        for left in reversed(range(times)):
            try:
                return round()
            except Lost as lost:
                self.say(str(lost))
                check(left, f"each of {times} attempts lost datagrams")
        raise AssertionError("unreachable")

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder that is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{self.scenario}-") as folder:
            yield Path(folder)


def processors() -> tuple[list[int], list[int]]:
    """(for the receiver, for the sender): one each where there are two, else no pinning at all."""
    usable = sorted(os.sched_getaffinity(0))
    return ([usable[0]], [usable[-1]]) if len(usable) > 1 else ([], [])


def poll(look: Callable[[], T | None], timeout: float, what: str, pause: float = 0.01) -> T:
    """Call *look* until it returns something true; CheckError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        check(time.monotonic() < deadline, f"not within {timeout:g} s: {what}")
        time.sleep(pause)
    return found
