"""The compiled data plane, as the control plane sees it.

Everything here is safe to call from any Python thread unless a docstring says otherwise. Sizes are in bytes,
durations in seconds, points in time in nanoseconds since 1970 (realtime clock).
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
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
    shaped: int
    overflowed: int
    observed: int
    coerced: int
    fields_rejected: int
    dropped: dict[str, int]
    sockets: int
    kernel_drops: int
    queue_bytes: int
    receive_buffer_bytes: int
    connections: int
    connections_accepted: int
    connections_refused: int
    connections_closed: dict[str, int]
    requests: dict[str, int]
    """By the status of their answers; the inputs of Python fill this in."""

@type_check_only
class LaneStats(TypedDict):
    lane: int
    beats: int
    receives: int
    accepted: int
    cpu_ns: int
    running: bool
    paused: bool
    """Nothing is read from connections, since no ring has room."""
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
    filtered: int
    """Lines that were accepted for other rings only."""
    left_out: int
    """Fields that its encoding could not hold."""
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
    unrouted: int
    conflicts: int
    """Points that are for none of the rings."""
    expired: int
    bytes: int

@type_check_only
class BookStats(TypedDict):
    series: int
    """Known, overflow series not among them."""
    series_max: int
    overflow_series: int
    expired: int
    refused: int
    """Heads over a limit, as often as the book was asked."""
    observed: int
    """The same where the book only observes."""
    unknown: int
    """Heads that it was asked for."""
    touched: int
    bytes: int

@type_check_only
class Offender(TypedDict):
    measurement: str
    tag: str
    """Both empty: names of measurements."""
    count: int
    """New series and refusals, at most so many."""
    error: int
    """Of these may belong to another."""
    series: int
    """That are known and charged to it."""
    refused: int
    per_minute: int
    """Distinct new heads, good to 3 %."""
    samples: list[str]
    policy: str
    """Of the last refusal; empty without one."""
    since_ns: int
    last_ns: int

@type_check_only
class TypesStats(TypedDict):
    fields: int
    fields_max: int
    unguarded: int
    """First sights of fields that there was no room for."""

@type_check_only
class GuardStats(TypedDict):
    unknown: int
    """Heads that had to be decided: first sights, and those that were forgotten."""
    given_up: int
    """Of them, those with a name that took a rule or a filter too long, and went by it."""
    heads: int
    """Kept, a second ago at most."""
    bytes: int
    rejected_unsaved: int
    """Fields of another type that could not be kept."""

@type_check_only
class StatsdResult(TypedDict):
    body: bytes
    received: int
    accepted: int
    aggregated: int
    shaped: int
    overflowed: int
    coerced: int
    fields_rejected: int
    dropped: dict[str, int]

@type_check_only
class StreamResult(TypedDict):
    body: bytes
    frames: int
    received: int
    accepted: int
    aggregated: int
    rewritten: int
    dropped: dict[str, int]

@type_check_only
class ReadResult(TypedDict):
    body: bytes
    metrics: int
    """In the body."""
    left_out: int
    """Fields and tags of accepted lines that the encoding could not hold."""
    received: int
    accepted: int
    rewritten: int
    clamped: int
    dropped: dict[str, int]

@type_check_only
class FeedResult(TypedDict):
    received: int
    accepted: int
    rewritten: int
    clamped: int
    dropped: dict[str, int]
    full: bool
    """Whether a metric found no ring with room."""
    errors: list[tuple[int, str, bytes]]
    """Number (from 1, of the lines that are neither blank nor a comment), reason, at most 256 bytes."""

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
class Histogram:
    """Values by size: ten bounds in each of *decades* powers of ten, from *least* on, itself a power of ten.

    A value is in the bucket of the first bound that is not below it. Raises ValueError.
    """

    def __init__(self, least: float, decades: int) -> None: ...
    @property
    def bounds(self) -> tuple[float, ...]:
        """Exact decimals: 1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8 times the powers; both ends included."""
    def observe(self, value: float, weight: int = ...) -> None:
        """Count *value*, *weight* times."""
    def read(self) -> tuple[list[int], float]:
        """How many values are in each bucket, one more than there are bounds; and the sum of all."""

@final
class Delays:
    """How long metrics took from arrival to answer, and how many of them no longer than *within* seconds.

    Metrics that an earlier process received are in the histogram, and not in :attr:`on_time`.
    """

    within: float
    """May be changed; what was counted before stays."""

    def __init__(self, within: float) -> None: ...
    @property
    def histogram(self) -> Histogram:
        """Seconds, from 100 us to 100,000 s; delays below 0, of a clock that was set, are 0."""
    @property
    def on_time(self) -> int: ...
    def file(self, oldest_ns: int, delivered: int, ours: bool) -> None:
        """Count metrics that did not come from a batch; *ours*: whether this process received them."""

@final
class Ring:
    """One writer, one reader: a region of memory mapped twice in a row from a file.

    What is published outlives the process in the file: see :meth:`adopt`. ``path=None`` maps anonymous
    memory, without checksums. *capacity* is rounded up to a multiple of the page size. A slot is closed at
    *slot_bytes* or *slot_metrics*, whichever comes first, so that batches can be cut there. *encoding* is
    what the lanes write into it: ``lp``, line protocol; ``lp_signed``, the same where unsigned integers
    (``1u``) become ``i``, clamped; ``pb``, TimeSeries records of remote write, where a metric is a sample.
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
        encoding: str = ...,
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
    def encoding(self) -> str: ...
    def limits(self, slot_bytes: int, slot_metrics: int) -> None:
        """Change where slots are closed; takes effect with the next burst."""
    def populate(self, bytes_max: int) -> None:
        """Map its pages now, the first *bytes_max* bytes of them, so that the writer need not fault them in.

        Only a matter of speed: about 0.4 ms for each MiB. Any thread.
        """
    def put(self, data: Buffer, metrics: int = ..., arrival_ns: int = ..., *, marked: bool = ...) -> bool:
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
    def young(self, within: float) -> int:
        """Metrics, not released yet, that this process has received in the last *within* seconds.

        Those that an earlier process left are not among them. Looks at every run that waits (0.2 ms at most).
        """
    def stats(self) -> RingStats: ...
    def close(self, unlink: bool = ...) -> None:
        """Detach. The memory goes when the last batch is released; the file at once if *unlink*.

        In a file that stays, what is not released by then waits for the process that adopts it.
        """

@final
class Tap:
    """A bounded look at what passes: lines of line protocol, of batches that are in somebody's hand.

    *match* is for the measurement, or with *whole_head* for measurement and tags, as they are written.
    *listeners*, by number: runs of no other, nor of several at once; None: all. At most *rate* lines a second
    are shown, and it looks for *share* of the time, whatever comes. Raises ValueError.
    """

    def __init__(
        self,
        match: Pattern | None = ...,
        *,
        whole_head: bool = ...,
        listeners: Iterable[int] | None = ...,
        rate: float = ...,
        share: float = ...,
    ) -> None: ...
    def limit(self, share: float) -> None: ...
    def offer(self, batch: Batch) -> None:
        """Look at *batch*, which the caller has taken and not released. Waits for nothing, holds no lock."""
    def take(self) -> tuple[bytes, int, int, int, int]:
        """The lines since the last call; and how many metrics have passed, matched, been shown, been skipped.

        The numbers only rise. What was skipped was not looked at.
        """

@final
class Capture:
    """Datagrams as they came, kept by the lane or Receiver that has it until others take their place.

    *size* in bytes, 2 MiB at least; pages are taken as they are needed. One writer; one reader, who is any
    thread, but one at a time. Raises OSError, ValueError.
    """

    def __init__(self, size: int) -> None: ...
    @property
    def missed(self) -> int:
        """Datagrams that came since it was rewound, and were gone before they were read."""
    @property
    def waiting(self) -> int:
        """Bytes that may be read, about."""
    def rewind(self, oldest: bool) -> None:
        """Read on from what comes from now on, or from the *oldest* that is there."""
    @staticmethod
    def take(
        captures: Iterable[Capture], numbers: bytes, since_ns: int, until_ns: int, most: int = ...
    ) -> tuple[bytes, int, int] | None:
        """What came in all of *captures* until *until_ns*, in the order of arrival: one block of a file.

        (bytes as in :mod:`agent.capture_file`, datagrams, first arrival); None if there is nothing.
        *numbers*: for each of 64 listeners what it is called there; 255: it is left out. Of what came before
        *since_ns* nothing is taken, and of the rest *most* datagrams.
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
    def encoding(self) -> str: ...
    @property
    def metrics(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def oldest_ns(self) -> int: ...
    @property
    def place(self) -> tuple[int, int, int]:
        """When its ring was made, its first slot of all that the ring ever had, and how many slots it is."""
    @property
    def own(self) -> int:
        """Metrics in it that this process has received; fewer than all in a ring that was adopted."""
    @property
    def marked(self) -> bool:
        """Lines of one series and time may be in it: see :class:`Guard`."""

    def merge(self, nudge: bool) -> tuple[bytes, int] | None:
        """What :func:`merge_lines` makes of it. Raises ValueError once it is released."""

    @property
    def released(self) -> bool: ...
    def release(self, delays: Delays | None = ..., delivered: int = ...) -> None:
        """Give the space back. *delivered* metrics are decided now: *delays* gets how long they took.

        The others are left out at the oldest ones.
        """
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

_Globs = tuple[Sequence[Pattern], Sequence[Pattern]]
"""Patterns of which one must match (none: any text will do), and those of which none may."""

@final
class Plan:
    """What the configuration says of metrics, in the form that writers read. Immutable, shared by all."""

    def __init__(
        self, outputs: Sequence[tuple[str, tuple[str, str] | None, _Globs, Mapping[str, _Globs]]]
    ) -> None:
        """*outputs* in the order of the rings of all writers: name, group of shards or None, filter.

        A filter is globs for the measurement, and for the values of tags, "" being the value of one that is
        not there. A group is what is shared, ``series`` or ``measurement``, and a name: of its outputs, as
        far as their filters let it through, each series, or each measurement, goes to one. The others get
        all that theirs let through. Raises ValueError.
        """
    @property
    def outputs(self) -> int:
        """How many rings a writer has."""

@final
class Guard:
    """Which of its rings each metric of one writer is for, by a plan; found again for heads that it knows.

    For one lane, feed or ticker, with the tags and rings of one layout. With a *book* heads that it does not
    know are counted there, whose limit *max_series* is; what is over the limits is changed or dropped.
    *rules* are applied before.
    """

    def __init__(
        self,
        plan: Plan,
        book: Book | None = ...,
        max_series: int = ...,
        rules: Rules | None = ...,
        types: Types | None = ...,
        coerce: bool = ...,
        rename: bool = ...,
        collisions: bool = ...,
    ) -> None:
        """With *types* fields are kept to theirs: coerced if they can be, else left out, or renamed.

        With *collisions* each batch of its rings that may hold lines of one series and time is marked. Only
        the same series with its tags in another order is not recognized.
        """

    def take_rejected(self) -> list[tuple[bytes, str, str]]:
        """Lines of the fields that were left out, 10,000 at most, each with the kept type and its own.

        One thread at a time.
        """

    def stats(self) -> GuardStats: ...

CLOSE_NAMES: tuple[str, ...]
"""Why a connection may be closed, in the order of the counters."""

@final
class Connections:
    """How many connections a listener has, on all lanes, and may have."""

    def __init__(self, most: int) -> None: ...
    @property
    def open(self) -> int: ...
    most: int

@final
class Sources:
    """Who may send how much by one listener. Never changes; any thread may ask it, at any time.

    A source is an IPv4 address, a /64 of IPv6, or a process on a Unix socket.
    """

    def __init__(
        self,
        *,
        rate: int = ...,
        source_rate: int = ...,
        burst: float = ...,
        max_sources: int = ...,
        networks: Sequence[IPv4Network | IPv6Network] | None = ...,
        former: Sources | None = ...,
    ) -> None:
        """*rate* of all together, and *source_rate* of one of them, in metrics a second (0: any); *burst*
        seconds of it may come at once. *max_sources* of them have buckets of their own. *networks*, without
        overlap, are those that may send; None: anybody may. With *former* its buckets go on being used.

        Raises ValueError, OSError.
        """
    def allows(self, address: str) -> bool:
        """Whether whoever has this IP address may send."""
    def wait(self, address: str) -> float:
        """Seconds until something of it may pass; 0 is now. :meth:`charge` is due for what does."""
    def charge(self, address: str, metrics: int) -> None:
        """So many metrics of it have passed."""
    def losers(self) -> list[tuple[str, str, int]]:
        """Who lost metrics by now, up to 64: (source, reason, metrics), those who lost most first."""

@final
class Burst:
    """The memory that datagrams are received into: a file at *path*, which must not exist, or none.

    What was taken from the kernel, and is not published yet, outlives the process in the file: see
    :class:`LeftBurst`. One lane's, or one receiver's, for good. Raises OSError where the file cannot be made.
    """

    def __init__(self, path: str | None = ...) -> None: ...
    @property
    def path(self) -> str | None: ...
    def name(self, listener: int, name: str, address: str) -> None:
        """Say under which name and address a later process finds the listener with the number.

        Not while datagrams of it are in hand.
        """
    def remove(self) -> None:
        """Remove the file, in which nothing may be in hand. The memory stays."""

@final
class LeftBurst:
    """A copy of what an earlier process had in hand, by its file at *path*, which stays as it is.

    But for this: a burst whose arrival was not noted has that noted in the file, so that whoever reads it
    again gives it the same stamps. Raises OSError.
    """

    def __init__(self, path: str) -> None: ...
    @property
    def state(self) -> str:
        """``whole``, ``unfinished`` (nothing can be in it), ``foreign``, ``older``, ``torn``, or
        ``fatal``: whole, but eight processes have begun to read it."""
    @property
    def reason(self) -> str:
        """Why it is not to be trusted."""
    @property
    def readable(self) -> bool:
        """Whether it is whole."""
    @property
    def known(self) -> bool:
        """Whether the file says what was in hand, be it readable or not."""
    @property
    def messages(self) -> int: ...
    @property
    def datagrams(self) -> int: ...
    @property
    def name(self) -> str:
        """Of the listener, cut at 255 bytes; empty if nothing is in hand."""
    @property
    def address(self) -> str: ...
    def parts(self, bytes_max: int = ...) -> tuple[list[bytes], list[bytes]]:
        """The datagrams of up to *bytes_max* bytes, and the larger ones. Raises ValueError."""
    def named(self, name: str, address: str) -> tuple[bool, bool]:
        """Whether a listener has the same name, and the same address, as far as they are kept."""

@final
class Lane:
    """One writing thread that owns its sockets and writes its rings.

    Call :meth:`run` in a thread of its own: it holds no GIL until it returns. The other methods may be
    called from any other thread, before, during and after; while the lane runs, they return after it has
    carried them out between two bursts.
    """

    index: int
    """As given. Read-only."""

    def __init__(self, index: int, burst: Burst | None = ...) -> None: ...
    def run(self) -> None:
        """Receive until :meth:`stop`. Raises OSError if the lane cannot go on."""
    def stop(self, drain: float = ...) -> None:
        """Ask the lane to read what its sockets hold, for *drain* seconds at most, and return from run."""
    def set_layout(
        self, tags: Sequence[tuple[bytes, bytes]], rings: Sequence[Ring], guard: Guard | None = ...
    ) -> None:
        """From the next burst on add these *tags*, and write to these *rings*, and no others. At most 16.

        Tags are raw, not escaped, and are added to each metric that does not carry them. With a *guard* each
        metric goes to the rings that it is for; else to all of them. Raises ValueError.
        """
    def set_capture(self, capture: Capture | None) -> None:
        """Keep each datagram in *capture* too, from the next burst on; None: no more. Raises OSError."""
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
        graphite: Graphite | None = ...,
        connections: Connections | None = ...,
        idle_timeout: float = ...,
        accepts: bool = ...,
        shared: bool = ...,
        framed: bool = ...,
        name: str = ...,
        address: str = ...,
        sources: Sources | None = ...,
    ) -> None:
        """Receive from *fd* (borrowed, non-blocking; the caller keeps it open until removed).

        *listener* is a number below 64 of the caller's choosing; its counters live as long as the lane.
        *format* is "line", "statsd", which takes an *aggregator* with a table for each lane, "graphite",
        which may have templates, or "protobuf": each datagram is a WriteRequest of remote write 1.0, not
        compressed.
        A lane has room for 256 sockets. Adding an fd that is already there changes its settings. Raises
        OSError, ValueError.

        With *connections* it is a socket that listens: the lane accepts by it up to so many connections, and
        closes those that are silent, or inside one line, for *idle_timeout* seconds (0: never). Without
        *accepts* others accept, and bring what they accepted by :meth:`add_connection`. What waits to be
        accepted at the end stays there if the socket is *shared* with a later process. *framed* allows
        DogStatsD's framing. *name* and *address* are those of the listener for :class:`LeftBurst`. *sources*
        says who may send, and how much: datagrams of others, and of those who are in debt, are dropped
        unread, connections of others are closed, and of those in debt not read until they are out of it.
        """
    def add_connection(self, fd: int, connection: int, peer: str | None = ...) -> None:
        """Read from *connection* as if it had been accepted by *fd*, a socket that was added. *peer* is the
        address of whoever is behind it, if that is not who is at its other end.

        The descriptor is the lane's from then on, whatever happens. Raises OSError: EUSERS if there are too
        many, EPERM if it may not send.
        """
    def remove_socket(self, fd: int, drain: bool = ...) -> None:
        """Stop receiving from *fd*, with *drain* after reading what it holds."""
    def replay(self, fd: int, left: LeftBurst) -> None:
        """Read what an earlier process had in hand as if it had come by *fd*, a socket that was added.

        It is published when this returns. Raises ValueError if it is not to be trusted, OSError.
        """
    def refuse(self, listener: int, left: LeftBurst) -> None:
        """Count what an earlier process had in hand as dropped: ``burst_torn``, each message as one metric,
        or ``listener_gone``, if it could be read."""
    def stats(self) -> LaneStats: ...
    def sample(self) -> tuple[int, str, bytes] | None:
        """A malformed line since the last call: (listener, reason, at most 256 of its bytes), or None."""

@final
class Receiver:
    """Receives datagrams from one socket for a thread of Python, many at once and without its lock."""

    def __init__(self, fd: int, burst: Burst | None = ..., *, gro: bool = ...) -> None:
        """*fd* is borrowed, and must stay open for as long as anything is received. Raises OSError.

        With *gro* the kernel may glue datagrams of one sender together, which costs less; they come out
        as they were sent all the same.
        """
    def receive(
        self, timeout: float, bytes_max: int = ..., nbytes: int = ...
    ) -> tuple[list[bytes], list[bytes]]:
        """Give out datagrams until they have *nbytes* bytes: some that were taken before, or what waits now.

        64 messages of the kernel are taken at once, each of them a datagram or several glued together. If
        there is nothing, this waits for *timeout* seconds. Returns the datagrams of up to *bytes_max* bytes,
        and the larger ones, cut at 64 KiB. Both are empty after the time, and after :meth:`wake`. Until
        :meth:`done`, what was taken is in hand, and a process that is killed leaves it to the next one.
        """
    @property
    def holds(self) -> bool:
        """Whether there is some left of what was taken."""
    def done(self, metrics: int = ...) -> None:
        """What was given out last is published, and held so many metrics, which its sources are charged with.
        When all that was taken is published, it is in hand no more."""
    def ask(self, sources: Sources | None) -> None:
        """Give out only what *sources* let pass, as soon as nothing that was taken before is in hand. For the
        thread that receives. What is not given out waits for :meth:`Feed.refuse`."""
    def set_capture(self, capture: Capture | None, listener: int) -> None:
        """Keep each datagram in *capture* too, under this number, from the next call on. Any thread."""
    def set_gro(self, on: bool) -> None: ...
    def wake(self) -> None:
        """Have a :meth:`receive` that waits return, or else the next one that would wait. Any thread."""

@final
class Feed:
    """A lane without a thread: threads hand it finished messages, and it writes them into rings of its own.

    Calls take turns, without the GIL.
    """

    def __init__(self) -> None: ...
    def set_layout(
        self, tags: Sequence[tuple[bytes, bytes]], rings: Sequence[Ring], guard: Guard | None = ...
    ) -> None:
        """From the next message on add these *tags*, and write to these *rings*, and no others. At most 16.

        Tags are raw, not escaped, and are added to each metric that does not carry them. With a *guard* each
        metric goes to the rings that it is for; else to all of them. Raises ValueError.
        """
    def read(
        self,
        listener: int,
        data: Buffer,
        *,
        format: str = ...,
        precision: str = ...,
        line_bytes_max: int = ...,
        errors_max: int = ...,
        whole: bool = ...,
        graphite: Graphite | None = ...,
        tags: Sequence[tuple[bytes, bytes]] = ...,
    ) -> FeedResult:
        """Read *data*, at most 1 GiB, into the rings, where what was accepted is when this returns.

        *format* is "line", "graphite" (with *graphite* for its templates), "protobuf" (a WriteRequest of
        remote write 1.0) or "otlp" (an ExportMetricsServiceRequest); none of them is compressed.
        *precision* is ns, us, ms, s, m, h or auto (by the size of each timestamp). The first *errors_max*
        malformed lines are named. With *whole* nothing is written if one line is malformed; the good ones
        are dropped as ``body_refused`` then. *tags* are added too, before those of :meth:`set_layout`. Raises
        ValueError, also for tags that cannot be written, and MemoryError.
        """
    def write(
        self,
        listener: int,
        points: Iterable[object],
        *,
        precision: str = ...,
        as_written: bool = ...,
        line_bytes_max: int = ...,
        errors_max: int = ...,
        datagrams: int = ...,
        nbytes: int = ...,
        malformed: Iterable[tuple[str, bytes]] = ...,
        burst: Receiver | LeftBurst | None = ...,
    ) -> FeedResult:
        """Put decoded metrics into the rings, where what was accepted is when this returns.

        A point is a tuple (name, tags, fields, time), or a dict in Telegraf's shape: ``name``, ``tags``,
        ``fields``, and ``timestamp`` or ``time``. Where a list stands, or ``{"metrics": [...]}``, each of its
        members is a point. A time is a number of units of *precision* (ns, us, ms or s), but that of the key
        ``time`` is nanoseconds; without one the point is stamped. Whole numbers become floats unless
        *as_written*. A field whose value is no number, boolean or text, or not finite, is left out, and so is
        a tag without a value; a point without any field is dropped. A text is a str, or bytes that are to be
        UTF-8, unless one of *points* is :class:`AsIs`; the keys of one dict are all of one kind.

        What came with a *burst* has arrived with it, and gets stamps that depend on nothing else.

        *datagrams* and *nbytes* are only counted. *malformed* are messages that could not be decoded: a
        reason out of :data:`REASONS`, and the bytes; each counts as one metric. While *points* are taken,
        which may be decoded only then, more may be added to it if it is a list. Raises ValueError, KeyError,
        MemoryError.
        """
    def refuse(self, listener: int, receiver: Receiver) -> bool:
        """Count what *receiver* did not give out as dropped, each datagram as one metric; false if there is
        none. For the thread that receives. Raises ValueError."""
    def has_room(self, nbytes: int, *, everywhere: bool = ...) -> bool:
        """Whether a ring has room for what *nbytes* are likely to become; with *everywhere*: all rings.

        An empty one always has.
        """
    def set_sockets(self, listener: int, count: int) -> None:
        """Note for :meth:`stats` how many sockets a listener has open."""
    def watch(self, listener: int, receiver: Receiver) -> None:
        """Show the queue of *receiver*, and what the kernel drops of it, with *listener*'s counters."""
    def unwatch(self, receiver: Receiver) -> None: ...
    def publish(self) -> None:
        """Publish what small messages have left open in rings that are half full of them: once a second."""
    def stats(self) -> LaneStats:
        """The counters of a lane whose number is -1; a datagram is a message."""
    def sample(self) -> tuple[int, str, bytes] | None:
        """A malformed line since the last call: (listener, reason, at most 256 of its bytes), or None."""

@final
class AsIs:
    """A message for :meth:`Feed.write` in which each text is a str, and bytes are none."""

    def __init__(self, message: object) -> None: ...
    @property
    def message(self) -> object: ...

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
        guard: Guard | None = ...,
        listener: int = ...,
    ) -> int:
        """Write what all *lanes* have aggregated, stamped *at_ns*, into every ring; returns how many points.

        With a *guard* each goes to the rings that it is for. The caller is the only writer of *rings*, one
        thread at a time. The GIL is released meanwhile. A ring that is full is waited for, *patience* seconds
        in all; what does not fit then is counted.
        """
    def stats(self) -> AggregateStats:
        """Live series, samples aggregated, points written, points that no ring took, series forgotten.

        *bytes* is the memory of the tables, and of the sketches and sets as it was at the last tick.
        """

def split_json(data: Buffer) -> list[bytes]:
    """The values of a text that holds several of JSON, with or without line feeds between them.

    Not all that is returned is JSON. Something that is malformed ends with its line, or where an object or
    an array begins.
    """

def read_statsd(
    data: Buffer,
    aggregator: Aggregator,
    *,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    now_ns: int = ...,
    line_bytes_max: int = ...,
    rings: Sequence[Ring] | None = ...,
    guard: Guard | None = ...,
    listener: int = ...,
) -> StatsdResult:
    """Read one StatsD datagram into the first table of *aggregator*, as a lane does. For tests and tools.

    The body holds what passes unaggregated, or nothing if there are *rings* for it, for which *guard* is
    made then. Not while a lane uses the aggregator.
    """

@final
class Pattern:
    """A compiled glob or regular expression, see :mod:`agent.patterns`, which makes them.

    *steps* and *classes* are packed as ``ext/pattern.h`` has them; *literal* is what every text begins with
    that it matches, and *kind* says whether there is more to it. Raises ValueError if it cannot be run.
    """

    def __init__(self, steps: bytes, classes: bytes, captures: int, literal: bytes, kind: int) -> None: ...
    @property
    def captures(self) -> int: ...
    @property
    def literal(self) -> bytes: ...
    @property
    def is_literal(self) -> bool:
        """It matches its literal and nothing else."""

    def match(
        self, text: bytes, budget: int = ...
    ) -> tuple[tuple[tuple[int, int] | None, ...] | None, int, bool]:
        """The bytes that its captures take if it matches all of *text*, else None; how many steps that took;
        and whether it was given up, since *budget* steps were not enough.
        """

@type_check_only
class RulesResult(TypedDict):
    head: bytes
    """As it is then."""
    field: bytes | None
    """What the value is called, if a rule says so."""
    dropped: str | None
    mapped: bool
    changed: bool
    steps: list[tuple[str, int, bytes, str | None]]
    """For each rule that matched: ``map`` or ``shape``, its number, the head then, and why it is dropped."""
    runs: int
    """Programs of patterns that were run."""
    given_up: bool

@final
class Rules:
    """``[[map]]`` and ``[[shape]]``, compiled; see :mod:`agent.rules`, which makes them. Immutable."""

    def __init__(
        self, shape: Sequence[tuple[object, ...]] = ..., map: Sequence[tuple[object, ...]] = ...
    ) -> None: ...
    def apply(
        self,
        series: bytes,
        *,
        extra: bytes = ...,
        name: bytes | None = ...,
        listener: int = ...,
        type: int = ...,
    ) -> RulesResult:
        """What becomes of the canonical head *series* with the agent's tags *extra* (``,key=value``),
        of which those stay out that it has.

        *name*: of StatsD or Graphite, as it came; without it ``[[map]]`` is not asked. *listener*: its
        number. *type*: a bit of StatsD's types, or 0. Raises ValueError if *series* is no head.
        """

@final
class Graphite:
    """Compiled Graphite templates, shared by whoever reads with them.

    Each template is (nodes of its filter, parts, tags), see :mod:`agent.templates`, which checks them; a
    filter without nodes makes it the one for paths that no other takes. Names and values of tags are raw.
    Raises ValueError.
    """

    def __init__(
        self,
        templates: Sequence[tuple[Sequence[bytes], Sequence[bytes], Sequence[tuple[bytes, bytes]]]] = ...,
        *,
        join: bytes = ...,
    ) -> None: ...

def read_format(
    data: Buffer,
    format: str,
    *,
    graphite: Graphite | None = ...,
    precision: str = ...,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    now_ns: int = ...,
    line_bytes_max: int = ...,
) -> ReadResult:
    """Read one message of another *format* as a lane or a feed does, and return the lines that it would
    write.

    *format* is "graphite", "protobuf" (remote write 1.0) or "otlp" (an ExportMetricsServiceRequest). Points
    without a time are stamped *now_ns*, *now_ns* + 1, … Raises ValueError.
    """

def bench_format(
    data: Buffer,
    format: str,
    seconds: float,
    *,
    graphite: Graphite | None = ...,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    times: int = ...,
) -> dict[str, int]:
    """Read *data* into a ring again and again, *times* for each look at the clock. For benchmarks.

    Returns received, accepted, bytes (of input), ns (monotonic) and cpu_ns (this thread's).
    """

def bench_statsd(data: Buffer, datagram_bytes: int, seconds: float, aggregator: Aggregator) -> dict[str, int]:
    """Read *data* in datagrams of at most *datagram_bytes*, 64 a burst, for *seconds*. For benchmarks.

    Returns samples, accepted, passes, ns (monotonic) and cpu_ns (this thread's).
    """

def read_stream(
    pieces: Sequence[bytes],
    *,
    format: str = ...,
    aggregator: Aggregator | None = ...,
    graphite: Graphite | None = ...,
    framed: bool = ...,
    ended: bool = ...,
    now_ns: int = ...,
    line_bytes_max: int = ...,
    datagram_bytes_max: int = ...,
) -> StreamResult:
    """Read *pieces*, of 64 KiB each at most, as a lane reads what a connection brings. For tests.

    *ended* tells whether the client ends the stream, or is cut off. StatsD goes into the first table of
    *aggregator*. Raises ValueError.
    """

def read_lines(
    data: Buffer,
    *,
    precision: str = ...,
    tags: Sequence[tuple[bytes, bytes]] = ...,
    now_ns: int = ...,
    encoding: str = ...,
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
    encoding: str = ...,
) -> dict[str, int]:
    """Read *data* into a ring again and again for *seconds*, without the GIL. For benchmarks.

    With a *path* the ring is a file for as long as that, with checksums.

    Returns lines, accepted, metrics (written), bytes (of input), ns (monotonic) and cpu_ns (this thread's).
    """

@final
class Book:
    """Which series the agent knows, and what becomes of a new one. There is one, which outlives reloads.

    Writers ask it through their guards. Its time is that of :meth:`sweep`.
    """

    def __init__(self) -> None: ...
    def configure(
        self,
        max_series: int,
        window: float,
        *,
        policy: str = ...,
        observe: bool = ...,
        reserve: float = ...,
        limits: Sequence[tuple[bytes, bytes, int, str]] = ...,
    ) -> None:
        """Set the limits; what is known stays known.

        *limits*: glob of measurements, tag (empty: each measurement by itself), number of series, policy
        (empty: *policy*). Raises ValueError for what is out of range.
        """

    def clear(self) -> None:
        """Forget all series."""

    def sweep(self, monotonic_ns: int, realtime_ns: int) -> None:
        """Move the time on, and forget what was silent for the window. To be called each second."""

    def stats(self) -> BookStats: ...
    def offenders(self) -> list[Offender]:
        """The tags that make the most new series, at most 64, the one that grows fastest first."""

    def decide(self, head: bytes) -> tuple[str, bytes]:
        """What becomes of a canonical head, and the head then; it is entered as one that came.

        ``"passes"``, ``"overflows"``, ``"observed"`` or ``"drops"``. Raises ValueError if it is no head.
        """

@final
class Types:
    """The types of fields that are kept: the first that came, or what is pinned. For all guards."""

    def __init__(self, max_fields: int, fd: int = ...) -> None:
        """In the file *fd*, which is the caller's, or in memory only. Raises OSError.

        ENOSPC where the disk has no room for it, EINVAL if the file is something else.
        """

    def pin(self, fields: Iterable[tuple[bytes, bytes, str]]) -> None:
        """Pin the types of measurement, field, both as lines have them; others are not pinned any more."""

    def sync(self) -> None:
        """Have the system write to the disk what is new. Raises OSError."""

    def stats(self) -> TypesStats: ...

def count_samples(data: Buffer) -> int:
    """Samples in a body of the encoding ``pb`` that we wrote. Raises ValueError if it is damaged."""

def split_samples(data: Buffer, samples: int) -> int:
    """Offset just behind the first *samples* of such a body. Raises ValueError if it is damaged."""

def lines_of_samples(data: Buffer) -> bytes:
    """Such a body as line protocol, one line for each sample: ``metric,label=value value=1.5 time``.

    Read again with the encoding ``pb`` the lines give the same bytes. Raises ValueError if it is damaged.
    """

def samples_of_lines(data: Buffer) -> bytes:
    """A body of lines that we wrote, in the encoding ``pb``; what that cannot hold is left out.

    Raises ValueError for a line that cannot be read, or that takes more than 4 MiB as samples.
    """

def request_of_samples(data: Buffer) -> bytes:
    """A body of the encoding ``pb`` as a Request of remote write 2.0. Raises ValueError if it is damaged."""

def count_lines(data: Buffer) -> int:
    """Lines in a body that we wrote; newlines inside quoted strings do not count."""

def split_lines(data: Buffer, lines: int) -> int:
    """Offset just behind the first *lines* lines of a body that we wrote."""

def merge_lines(data: Buffer, nudge: bool) -> tuple[bytes, int] | None:
    """A body of lines that we wrote with those of one series and one time made one, and how many are left.

    Of a field that several have the last value stays; with *nudge* its lines are set apart by nanoseconds.
    None if there is nothing to do.
    """
