"""What the attempts at an output are told, and what they tell: settings, a batch's task, health, counters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.delivery.trace import Trace


@dataclass(frozen=True, slots=True)
class Resilience:
    """How hard an output is tried. Seconds, by the names of the config."""

    retries: int = 3
    """Repetitions of a body before it goes to the spool."""
    batch_timeout: float = 60.0
    """The same, since the first attempt of its batch."""
    breaker_sensitivity: float = 10.0
    order: str = "fresh_first"
    spill_at: float = 0.7
    """The part of a ring that may wait before batches go to the spool."""


DEFAULTS = Resilience()


@dataclass(frozen=True, slots=True)
class Watching:
    """How closely an output is watched, by the names of the config."""

    trace: float = 0.0
    """The share of batches that is logged with the time of each stage, 0 to 1."""
    within: float = 1.0
    """Seconds from the arrival of a metric to its confirmation in which it is in time."""


UNWATCHED = Watching()


@dataclass(frozen=True, slots=True)
class Health:
    """How an output fares."""

    state: str = "ok"
    """``ok``, ``retrying`` (network, overload) or ``holding`` (a person must mend something)."""
    since: float = 0.0
    """Seconds since 1970."""
    last_error: str = ""
    """The last reason of an attempt that failed. Kept after it is over."""


Reading = tuple[list[int], float]
"""Of a histogram: see :meth:`agent._core.Histogram.read`."""


@dataclass(frozen=True, slots=True)
class AttemptCounters:
    """One reading of what attempts came to. All only rise."""

    attempts: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Attempts by the class of their answer: ``2xx`` … ``5xx``, ``error`` where there was none."""
    retries: int = 0
    bytes_raw: int = 0
    """Bytes of the bodies of all attempts, before compression."""
    bytes_sent: int = 0
    """The same after compression."""
    opened: int = 0
    """How often the breaker has opened."""
    histograms: Mapping[str, Reading] = field(default_factory=dict)


class Task:
    """What the attempts know of a batch, and say about it. Its sender's, but for :attr:`hurried`."""

    has_spool = False
    """Whether there is a place to go to at all."""
    spared = 0
    """Places that are left free on purpose while it is under way."""

    def __init__(self, batch: str = "") -> None:
        self.oldest_ns = 0
        """When the oldest metric of it arrived, nanoseconds since 1970."""
        self.trace = Trace(batch)
        """Under the id *batch*, or one that is made."""
        self.deadline = math.inf
        """When its time is used up (monotonic); infinite before its first attempt."""
        self.began: float | None = None
        """When the attempt that is under way began (monotonic)."""
        self.failures = 0
        """Attempts that failed with a RETRY since it was taken: perhaps for a reason of its own."""
        self.hurried = False
        """Set by any thread: its place is needed, so no attempt follows the one that is under way."""

    def may_leave(self) -> bool:
        """Whether it may go elsewhere, as things are now. Called with a lock held, so it takes none."""
        return False
