"""What the ledger is made of: accounts of listeners, lanes, rings and outputs, and the counters behind them.

Nothing here counts or adds up: :mod:`agent.ledger` does.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from agent._core import RingStats


class AggregationAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What a StatsD listener made of its samples."""

    series: int
    """Series in its tables now."""
    samples: int
    """Samples aggregated so far."""
    points: int
    """Points sent at ticks so far."""
    ring_full: int
    """Points that no output's ring had room for."""
    expired: int
    """Series forgotten because they were silent for too long."""
    bytes: int
    """Memory of the tables now."""


class ListenerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What one listener saw, added up over its lanes. Metrics unless the name says otherwise."""

    name: str
    address: str
    sockets: int
    """Sockets open now, one per lane; 0 once the listener has left the config."""
    datagrams: int
    bytes: int
    received: int
    accepted: int
    aggregated: int
    """Accepted, and gone into a table instead of the rings."""
    rewritten: int
    """Accepted after their bytes were brought into the safe subset."""
    clamped: int
    """Accepted after an unsigned value beyond the signed range was cut to it."""
    dropped: dict[str, int]
    kernel_drops: int
    """Datagrams that the kernel dropped because the receive buffer was full."""
    queue_bytes: int
    receive_buffer_bytes: int
    aggregation: AggregationAccount | None
    """None if it never was a StatsD listener."""


class LaneAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What one lane did."""

    lane: int
    running: bool
    beats: int
    receives: int
    accepted: int
    cpu_ns: int


class RingAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One ring: what its writer accepted, what was written to it, what waits in it."""

    writer: str
    """The thread that writes it: ``lane-0`` … or ``tick``."""
    restored: int
    """Metrics that an earlier process left in it."""
    torn: int
    """Of these, the ones that were damaged, and are dropped."""
    accepted: int
    written: int
    missed: int
    written_bytes: int
    waiting: int
    waiting_bytes: int
    capacity_bytes: int
    slots_used: int
    restarts: int


class SpoolAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The queue of one output on the disk; metrics unless the name says otherwise."""

    restored: int
    """Found at the start, or brought by a command."""
    stored: int
    decided: int
    """Taken out again: delivered or rejected."""
    dropped: dict[str, int]
    """Also in the output's."""
    metrics: int
    """Waiting now, like the next three."""
    files: int
    bytes: int
    oldest_ns: int
    """When the oldest metric arrived, since 1970; 0 if nothing waits."""
    foreign: int
    """Files in the folder that are not ours, and are left alone."""
    errors: dict[str, int]
    """Calls that the system refused, by the name of the error."""
    failing: str
    """What does not work now; empty if everything does."""


class RejectedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of what an output's destination refused for good; metrics unless the name says otherwise."""

    metrics: int
    """In its files now, like the next two."""
    files: int
    bytes: int
    unsaved: int
    """Refused, and not in any file: the disk did not take them."""
    removed: int
    """Were in a file that a limit or a command has removed."""
    errors: dict[str, int]
    """Calls that the system refused, by the name of the error."""
    failing: str
    """What does not work now; empty if everything does."""


class OutputAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What one output made of what its rings were given; metrics unless the name says otherwise."""

    name: str
    type: str
    restored: int
    """Left by an earlier process, or brought by a command."""
    written: int
    missed: int
    delivered: int
    rejected: int
    dropped: dict[str, int]
    spooled: int
    """In the spool now."""
    waiting: int
    """In the rings now."""
    waiting_bytes: int
    capacity_bytes: int
    batches: int
    replayed: int
    """Files of the spool that were decided."""
    attempts: int
    requests: dict[str, int]
    """Attempts by the class of their answer: ``2xx`` … ``5xx``, ``error`` where there was no answer."""
    retries: int
    splits: int
    bytes_raw: int
    bytes_sent: int
    """After compression."""
    opened: int
    """How often the breaker has opened."""
    rings: tuple[RingAccount, ...]
    spool: SpoolAccount | None
    """None if it has none."""
    refused: RejectedAccount | None
    """Where what was rejected is kept; None if the output does not reject."""


class DeliveryCounters(Protocol):
    """The counters of a delivery, as far as the ledger reads them."""

    @property
    def delivered(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def restored(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def batches(self) -> int: ...
    @property
    def replayed(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def requests(self) -> Mapping[str, int]: ...
    @property
    def retries(self) -> int: ...
    @property
    def splits(self) -> int: ...
    @property
    def bytes_raw(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def opened(self) -> int: ...


class SpoolCounters(Protocol):
    """The counters of a spool, as :class:`SpoolAccount` has them."""

    @property
    def restored(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def decided(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def metrics(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def oldest_ns(self) -> int: ...
    @property
    def foreign(self) -> int: ...
    @property
    def errors(self) -> Mapping[str, int]: ...
    @property
    def failing(self) -> str: ...


class RejectedCounters(Protocol):
    """The counters of a folder of rejected metrics, as :class:`RejectedAccount` has them."""

    @property
    def metrics(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def unsaved(self) -> int: ...
    @property
    def removed(self) -> int: ...
    @property
    def errors(self) -> Mapping[str, int]: ...
    @property
    def failing(self) -> str: ...


class OutputReading(msgspec.Struct, frozen=True):
    """The counters of one output. Read in this order: see :func:`read`."""

    name: str
    type: str
    counters: DeliveryCounters
    rings: Mapping[str, "RingStats"]
    """By the thread that writes it: ``lane-0`` … or ``tick``."""
    spool: SpoolCounters | None = None
    refused: RejectedCounters | None = None
