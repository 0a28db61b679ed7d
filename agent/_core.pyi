"""The compiled data plane, as the control plane sees it.

Everything here is safe to call from any Python thread unless a docstring says otherwise. Sizes are in bytes,
durations in seconds, points in time in nanoseconds since 1970 (realtime clock).
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict, final, type_check_only

from typing_extensions import Buffer

ISA: str
"""Kernels chosen at import: ``"avx2"`` or ``"scalar"`` (``PENSTOCK_ISA=scalar`` forces the latter)."""

REASONS: tuple[str, ...]
"""Why a metric may be dropped by a lane, in the order of the counters."""

@type_check_only
class ListenerStats(TypedDict):
    datagrams: int
    bytes: int
    received: int
    accepted: int
    rewritten: int
    clamped: int
    aggregated: int
    dropped: dict[str, int]
    sockets: int
    kernel_drops: int
    queue_bytes: int
    receive_buffer_bytes: int

@type_check_only
class LaneStats(TypedDict):
    lane: int
    beats: int
    receives: int
    accepted: int
    cpu_ns: int
    running: bool
    listeners: dict[int, ListenerStats]

@type_check_only
class RingStats(TypedDict):
    restored: int
    """Metrics that an earlier process left in it, torn ones included."""
    torn: int
    """Of these, the ones that were damaged: not waiting, and not coming."""
    accepted: int
    written: int
    missed: int
    written_bytes: int
    freed: int
    waiting: int
    waiting_bytes: int
    capacity_bytes: int
    slots_used: int
    restarts: int

@type_check_only
class AggregateStats(TypedDict):
    series: int
    samples: int
    points: int
    ring_full: int
    expired: int
    bytes: int

@type_check_only
class StatsdResult(TypedDict):
    body: bytes
    received: int
    accepted: int
    aggregated: int
    dropped: dict[str, int]

@type_check_only
class ReadResult(TypedDict):
    body: bytes
    received: int
    accepted: int
    rewritten: int
    clamped: int
    dropped: dict[str, int]

@final
class Waker:
    """An eventfd that rings signal and a flusher waits on."""

    def __init__(self) -> None: ...
    def wait(self, timeout: float) -> bool:
        """Sleep until woken (True; the signal is consumed) or *timeout* seconds have passed (False).

        A negative timeout waits for ever. The GIL is released meanwhile.
        """
    def wake(self) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

@final
class Ring:
    """One writer, one reader: a region of memory mapped twice in a row from a file.

    What is published outlives the process in the file: see :meth:`adopt`. ``path=None`` maps anonymous
    memory, without checksums. *capacity* is rounded up to a multiple of the page size. A slot is closed at
    *slot_bytes* or *slot_metrics*, whichever comes first, so that batches can be cut there. *unsigned* tells
    whether unsigned integers (``1u``) may be written; if not they become ``i``, clamped.
    Raises OSError where the file or the mapping cannot be made (the file must not exist), ValueError.
    """

    def __init__(
        self,
        path: str | None,
        capacity: int,
        waker: Waker,
        *,
        slot_bytes: int = ...,
        slot_metrics: int = ...,
        unsigned: bool = ...,
    ) -> None: ...
    @staticmethod
    def adopt(
        path: str, waker: Waker, *, slot_bytes: int = ..., slot_metrics: int = ..., torn: int = ...
    ) -> Ring:
        """Go on with the ring that an earlier process left at *path*: size, encoding, and what waits in it.

        Everything in the file is verified first. Nobody else may use the file meanwhile or later. *torn* is
        only for the counters: metrics of it that :func:`salvage_ring` could not save. Raises RingError if it
        is not to be trusted, OSError.
        """
    @property
    def path(self) -> str | None: ...
    @property
    def torn(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def unsigned(self) -> bool: ...
    def limits(self, slot_bytes: int, slot_metrics: int) -> None:
        """Change where slots are closed; takes effect with the next burst."""
    def put(self, data: Buffer, metrics: int = ..., arrival_ns: int = ...) -> bool:
        """Write one finished run and publish it; False if it does not fit. Only where no lane writes."""
    def take(self, bytes_max: int, metrics_max: int, partial: bool) -> Batch | None:
        """The next batch: whole slots up to both limits, at least one slot.

        None if nothing waits, if less than either limit waits and *partial* is false, or if 256 batches
        are out. Reader's thread only.
        """
    def arm(self, bytes_min: int, metrics_min: int) -> bool:
        """Ask for a wake-up once so much is pending (published and not taken). True if it is already.

        Reader's thread only.
        """
    def pending(self) -> tuple[int, int]:
        """(metrics, bytes) published and not yet taken."""
    def stats(self) -> RingStats: ...
    def close(self, unlink: bool = ...) -> None:
        """Detach. The memory goes when the last batch is released; the file at once if *unlink*.

        In a file that stays, what is not released by then waits for the process that adopts it.
        """

@final
class Batch(Buffer):
    """A contiguous run of a ring. ``memoryview(batch)`` is its bytes, without a copy, read-only.

    Taking a view of a released batch raises ValueError; releasing a batch with open views raises BufferError.
    Several batches of a ring may be out at once and be released in any order; the ring's space is freed in
    the order in which they were taken. A batch that is garbage-collected unreleased is released, unless the
    ring was closed before.
    """

    @property
    def metrics(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def oldest_ns(self) -> int: ...
    @property
    def released(self) -> bool: ...
    def release(self) -> None: ...
    def keep(self) -> None:
        """Let go of the batch without freeing its space: it waits in the ring's file for the next process.

        Only at the end: this process does not take it again, nor can the writer use the space. Raises
        BufferError as :meth:`release` does.
        """
    def __buffer__(self, flags: int, /) -> memoryview: ...

def salvage_ring(path: str, to: str) -> tuple[int, int]:
    """Write what is whole of the torn ring at *path* into a new ring at *to*, of the same size and encoding.

    Returns the metrics that were saved, and those that were not (by what their slots say). *path* is only
    read. Raises RingError if nothing in it can be told apart, OSError, FileExistsError for *to*.
    """

@final
class Lane:
    """One writing thread that owns its sockets and writes its rings.

    Call :meth:`run` in a thread of its own: it holds no GIL until it returns. The other methods may be
    called from any other thread, before, during and after; while the lane runs, they return after it has
    carried them out between two bursts.
    """

    index: int
    """As given. Read-only."""

    def __init__(self, index: int) -> None: ...
    def run(self) -> None:
        """Receive until :meth:`stop`. Raises OSError if the lane cannot go on."""
    def stop(self, drain: float = ...) -> None:
        """Ask the lane to read what its sockets hold, for *drain* seconds at most, and return from run."""
    def set_tags(self, tags: Sequence[tuple[bytes, bytes]]) -> None:
        """Tags (raw, not escaped) added to each metric that does not carry them."""
    def set_rings(self, rings: Sequence[Ring]) -> None:
        """Write to these rings, and no others, from the next burst on. At most 16."""
    def add_socket(
        self,
        listener: int,
        fd: int,
        *,
        precision: str = ...,
        line_bytes_max: int = ...,
        datagram_bytes_max: int = ...,
        gro: bool = ...,
        format: str = ...,
        aggregator: Aggregator | None = ...,
    ) -> None:
        """Receive from *fd* (borrowed, made non-blocking; the caller keeps it open until removed).

        *listener* is a number below 64 of the caller's choosing; its counters live as long as the lane.
        *format* is "line" or "statsd"; the latter takes an *aggregator* with a table for each lane.
        A lane has room for 256 sockets. Adding an fd that is already there changes its settings. Raises
        OSError, ValueError.
        """
    def remove_socket(self, fd: int, drain: bool = ...) -> None:
        """Stop receiving from *fd*, with *drain* after reading what it holds."""
    def stats(self) -> LaneStats: ...
    def sample(self) -> tuple[int, str, bytes] | None:
        """A malformed line since the last call: (listener, reason, at most 256 of its bytes), or None."""

@final
class Aggregator:
    """What the lanes have aggregated of one StatsD listener since the last tick: a table for each lane.

    *expire* says for each type (counter, gauge, set, timing, histogram, distribution) after how many seconds
    of silence a series is forgotten; it is counted in ticks of *interval* seconds. Raises ValueError.
    """

    def __init__(
        self,
        lanes: int,
        *,
        percentiles: Sequence[float] = ...,
        relative_error: float = ...,
        gauge_deltas: bool = ...,
        reset_gauges: bool = ...,
        expire: Mapping[str, float] = ...,
        interval: float = ...,
        max_series: int = ...,
        separator: str = ...,
        dialect: str = ...,
    ) -> None: ...
    def configure(
        self,
        *,
        percentiles: Sequence[float] = ...,
        relative_error: float = ...,
        gauge_deltas: bool = ...,
        reset_gauges: bool = ...,
        expire: Mapping[str, float] = ...,
        interval: float = ...,
        separator: str = ...,
        dialect: str = ...,
    ) -> None:
        """Take these settings at the next tick; no sample is lost.

        Raises ValueError, also for another *separator* or *dialect*: they decide what is one series, so they
        take another aggregator.
        """
    def tick(
        self,
        lanes: Sequence[Lane],
        rings: Sequence[Ring],
        at_ns: int,
        *,
        tags: Sequence[tuple[bytes, bytes]] = ...,
        patience: float = ...,
    ) -> int:
        """Write what all *lanes* have aggregated, stamped *at_ns*, into every ring; returns how many points.

        The caller is the only writer of *rings*, one thread at a time. The GIL is released meanwhile. A ring
        that is full is waited for, *patience* seconds in all; what does not fit then is counted.
        """
    def stats(self) -> AggregateStats:
        """Live series, samples aggregated, points written, points that no ring took, series forgotten.

        *bytes* is the memory of the tables, and of the sketches and sets as it was at the last tick.
        """

def read_statsd(
    data: Buffer,
    aggregator: Aggregator,
    *,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    now_ns: int = ...,
    line_bytes_max: int = ...,
) -> StatsdResult:
    """Read one StatsD datagram into the first table of *aggregator*, as a lane does. For tests and tools.

    The body holds what passes unaggregated. Not while a lane uses the aggregator.
    """

def bench_statsd(data: Buffer, datagram_bytes: int, seconds: float, aggregator: Aggregator) -> dict[str, int]:
    """Read *data* in datagrams of at most *datagram_bytes*, 64 a burst, for *seconds*. For benchmarks.

    Returns samples, accepted, passes, ns (monotonic) and cpu_ns (this thread's).
    """

def read_lines(
    data: Buffer,
    *,
    precision: str = ...,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    now_ns: int = ...,
    unsigned: bool = ...,
    line_bytes_max: int = ...,
    isa: str | None = ...,
) -> ReadResult:
    """Read one datagram as a lane does, and return what it would write. For tests, ``check`` and tools.

    Lines without a timestamp are stamped *now_ns*, *now_ns* + 1, … *isa* forces a kernel: "scalar" or "avx2".
    Raises ValueError for an unknown precision or kernel, and for tags that cannot be written.
    """

def bench_reader(
    data: Buffer,
    seconds: float,
    *,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    isa: str | None = ...,
    path: str | None = ...,
) -> dict[str, int]:
    """Read *data* into a ring again and again for *seconds*, without the GIL. For benchmarks.

    With a *path* the ring is a file for as long as that, with checksums.

    Returns lines, accepted, bytes (of input), ns (monotonic) and cpu_ns (this thread's).
    """

def count_lines(data: Buffer) -> int:
    """Lines in a body that we wrote; newlines inside quoted strings do not count."""

def split_lines(data: Buffer, lines: int) -> int:
    """Offset just behind the first *lines* lines of a body that we wrote."""
