"""What the ledger is made of: accounts of listeners, lanes, rings and outputs, and the counters behind them.

Nothing here counts or adds up: :mod:`agent.ledger` does.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from agent._core import RingStats


WILLED = frozenset({"cardinality", "denied", "rate_limited", "source_denied", "type_conflict", "unrouted"})
"""Reasons for drops that are the configuration's will: nothing is wrong with the metric or its client."""


def bounds(least: int, decades: int) -> tuple[float, ...]:
    """Those of :class:`agent._core.Histogram`, from 10 to the power of *least* on."""
    steps = ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8")
    found = [float(f"{step}e{least + power}") for power in range(decades) for step in steps]
    return (*found, float(f"1e{least + decades}"))


BOUNDS = {
    "delay_seconds": bounds(-4, 9),
    "request_seconds": bounds(-4, 9),
    "batch_metrics": bounds(0, 8),
    "request_bytes": bounds(0, 9),
    "compression_ratio": bounds(0, 2),
}
"""Of an output's histograms: the buckets' upper ends, inclusive; one more bucket is for what is above."""


class GateCounters(Protocol):
    """What is counted of connections before a lane has them."""

    @property
    def failed(self) -> int: ...
    @property
    def refused(self) -> int: ...


class RelayCounters(Protocol):
    """The counters of a listener of a broker, as :class:`RelayAccount` has them."""

    @property
    def carried(self) -> int: ...


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
    unrouted: int
    """Points that no output wants."""
    conflicts: int = 0
    """Points none of whose fields has its type."""
    expired: int
    """Series forgotten because they were silent for too long."""
    bytes: int
    """Memory of the tables now."""


class OffenderAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of a measurement that makes new series."""

    measurement: str
    tag: str
    """Both empty: names of measurements."""
    series: int
    """Known, and charged to it."""
    refused: int
    """Heads that were over a limit because of it, as often as writers asked."""
    per_minute: int
    """Distinct new heads in the last minute."""
    error: int
    """So many of them may be another's."""
    samples: tuple[str, ...]
    """Some of its values."""
    since: float
    """When the first one came, seconds since 1970."""
    policy: str
    """What became of those over the limit; empty if none was."""
    remedy: str
    """Lines of configuration that would end it; empty if nothing was refused."""


class GuardAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The series that the agent knows, and what it does about new ones."""

    series: int = 0
    series_max: int = 0
    overflow_series: int = 0
    """What the policy made of series beyond the limits; they are not among ``series``."""
    expired: int = 0
    """Forgotten because they were silent."""
    refused: int = 0
    """New heads over a limit, as often as writers asked."""
    observed: int = 0
    """The same, where they only are counted."""
    unknown: int = 0
    """Heads that a writer did not know, and asked for."""
    decided: int = 0
    """Heads and names that a writer had not kept, and decided."""
    given_up: int = 0
    """Of them, those for which a rule or a filter took too long, and was passed over."""
    heads: int = 0
    """Kept by the writers."""
    bytes: int = 0
    """Memory of the book, and of what writers keep."""
    fields: int = 0
    """Fields whose type is kept."""
    fields_unguarded: int = 0
    """First sights of fields that there was no room for."""
    rejected_unsaved: int = 0
    """Fields that left their metrics, and could not be kept."""
    offenders: tuple[OffenderAccount, ...] = ()
    """The tags that make the most new series, 16 at most, the fastest first."""


class RelayAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener of a broker made of its messages; messages unless the name says otherwise."""

    messages: int
    """Decided, so that the broker may forget them: passed on, duplicates, or poisoned."""
    bytes: int
    """Of their bodies as they came."""
    metrics: int
    """In those that were passed on, by what they say."""
    carried: int
    """Metrics of these that went on as they were, unread."""
    duplicates: int
    """That were known, and not passed on."""
    duplicate_metrics: int
    poisoned: int
    """That are no message of an agent, or cannot be read; they are kept in ``rejected/_relay``."""
    damaged: int
    """Metrics in them that no output was sent; among the ``dropped`` as ``body_refused``."""
    expired: int
    """That the broker gave up before anybody had read them, as far as this listener saw."""
    redelivered: int
    """That had been handed out before."""
    in_flight: int
    """Taken and undecided now."""
    in_flight_bytes: int
    paused: bool
    """Nothing is taken, since too much is undecided."""
    connected: bool
    failing: str
    """Why nothing can be taken; empty if something can."""


class LoserAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose metrics were dropped unread."""

    source: str
    """An IPv4 address, a /64 of IPv6, ``pid N``, or ``unknown``."""
    reason: str
    """``rate_limited`` or ``source_denied``."""
    dropped: int


class SocketAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says of a listener's datagram socket on one lane."""

    lane: int
    """-1 is the feed."""
    queue_bytes: int
    receive_buffer_bytes: int
    """0 once it is closed."""
    kernel_drops: int


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
    shaped: int
    """Accepted under a head that rules have changed."""
    overflowed: int
    """Accepted with a tag replaced, or without it, since there are too many series."""
    observed: int
    """Accepted, where they would have been that or dropped; of StatsD's samples those that were first."""
    coerced: int
    """Accepted, with a field brought to the type that is kept."""
    fields_rejected: int
    """Fields that left their line, since they have another type."""
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
    connections: int = 0
    """Open now."""
    connections_accepted: int = 0
    connections_refused: int = 0
    """Closed at once: there were too many."""
    connections_closed: dict[str, int] = {}
    """By reason: some of :data:`agent._core.CLOSE_NAMES`."""
    handshakes_failed: int = 0
    """Connections that never got to speak TLS."""
    requests: dict[str, int] = {}
    """Of an HTTP listener, by the status of the answers."""
    losers: tuple[LoserAccount, ...] = ()
    """The sources that lost most by ``rate``, ``source_rate`` and ``sources``, 16 at most."""
    sockets_by_lane: tuple[SocketAccount, ...] = ()
    """Of a listener of datagrams."""
    relay: RelayAccount | None = None
    """None if it is no broker's."""


class LaneAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What one lane did, or the feed."""

    lane: int
    """-1 is the feed: what the control plane hands over, and a receive is one message."""
    running: bool
    beats: int
    receives: int
    accepted: int
    cpu_ns: int
    paused: bool = False
    """It reads from no connection, since no ring has room."""


class RingAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One ring: what its writer accepted, what was written to it, what waits in it."""

    writer: str
    """What writes it: ``lane-0`` …, ``tick`` or ``feed``."""
    restored: int
    """Metrics that an earlier process left in it."""
    torn: int
    """Of these, the ones that were damaged, and are dropped."""
    accepted: int
    written: int
    missed: int
    filtered: int
    """Lines that were accepted for other outputs only."""
    left_out: int
    """Fields and tags of written lines that its encoding could not hold."""
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
    carried: int = 0
    """Of bodies that a broker's messages brought finished, and that are decided or in the spool."""
    written: int
    missed: int
    filtered: int
    """Lines that were for other outputs only, by a filter or a shard; not in the output's other numbers."""
    left_out: int
    """Fields and tags that its rings could not hold; no metrics."""
    delivered: int
    rejected: int
    merged: int
    """Lines that went into others of their batch, of one series and time."""
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
    traced: int = 0
    """Batches that the log was told of, with the time of each stage."""
    stages: dict[str, float] = {}
    """Seconds that batches spent, by stage: see :mod:`agent.delivery.trace`."""
    on_time: int = 0
    """Of what this process received, confirmed in time."""
    histograms: dict[str, tuple[list[int], float]] = {}
    """By the names in :data:`BOUNDS`: how many values are in each bucket, and the sum of all."""
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
    def merged(self) -> int: ...
    @property
    def restored(self) -> int: ...
    @property
    def carried(self) -> int: ...
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
    @property
    def traced(self) -> int: ...
    @property
    def stages(self) -> Mapping[str, float]: ...
    @property
    def on_time(self) -> int: ...
    @property
    def histograms(self) -> Mapping[str, tuple[list[int], float]]: ...


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
    """By what writes it: ``lane-0`` …, ``tick`` or ``feed``."""
    spool: SpoolCounters | None = None
    refused: RejectedCounters | None = None
