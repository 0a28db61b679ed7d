"""A route: one output with its rings, one for each lane, and its flusher; and what remains when it ends.

There may be two more: the tick ring, which the thread of :mod:`agent.aggregation` writes, and the feed ring,
for what listeners bring that Python reads. An output has either from when there is a listener that needs it
until the output leaves. Rings that an earlier process left, and that nobody is to write (:mod:`agent.rings`),
belong to the route until they are empty.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

from agent._core import Ring, Waker
from agent.accounts import DeliveryCounters, OutputReading, RejectedCounters, SpoolCounters
from agent.config import Destination, Flush, ServerOutput
from agent.config import Output as OutputConfig
from agent.delivery.flusher import Flusher
from agent.delivery.task import DEFAULTS, UNWATCHED, Resilience, Watching
from agent.objectives import Promised
from agent.outputs.base import Output
from agent.rings import Form, Rings, let_go
from agent.store.stores import Store, settle

if TYPE_CHECKING:
    from agent._core import RingStats

OTHERS = ("tick", "feed")
"""What may write rings besides the lanes."""

_SLOTS_PER_BATCH = 16
"""A batch is cut between slots: with so many of them it comes within a sixteenth of its limits."""


def slot_limits(flush: Flush) -> tuple[int, int]:
    """Bytes and metrics at which a lane closes a slot, so that batches come near *flush*'s limits."""
    return (
        min(max(flush.batch_bytes // _SLOTS_PER_BATCH, 4 << 10), 64 << 10),
        min(max(flush.batch_lines // _SLOTS_PER_BATCH, 1), 256),
    )


class Leaving:
    """Rings of a route that are only emptied, and the counters of those that were. One thread at a time."""

    def __init__(self, rings: Iterable[tuple[str, Ring]] = ()) -> None:
        self._rings = list(rings)
        self._ended: list[tuple[str, RingStats]] = []

    @property
    def rings(self) -> list[Ring]:
        return [ring for _, ring in self._rings]

    def sweep(self) -> None:
        """Let go of the rings that are empty by now; their files go."""
        for writer, ring in [*self._rings]:
            if not ring.stats()["waiting"]:
                self._rings.remove((writer, ring))
                self._ended.append((writer, _without_space(ring.stats())))
                let_go(ring)

    def close(self) -> None:
        """Let go of all of them; files with something in them stay."""
        for _, ring in self._rings:
            let_go(ring)

    def stats(self) -> "Iterator[tuple[str, RingStats]]":
        """The counters of each, by the thread that wrote it."""
        yield from self._ended
        for writer, ring in self._rings:
            yield writer, ring.stats()


@dataclass(frozen=True, eq=False)
class Route:
    """One output as it runs. Replaced by a changed copy, on the same rings, when its settings change."""

    config: OutputConfig
    output: Output
    waker: Waker
    rings: tuple[Ring, ...]
    """By lane."""
    flusher: Flusher
    others: Mapping[str, Ring] = field(default_factory=dict)
    """By the names in :data:`OTHERS`, those that some listener has needed so far."""
    leaving: Leaving = field(default_factory=Leaving)
    """Shared by all copies."""
    store: Store | None = None
    """What it keeps on disk, shared by all routes of its name."""

    @property
    def writers(self) -> dict[str, Ring]:
        """All rings that are written, by the names of what does."""
        return {**{f"lane-{lane}": ring for lane, ring in enumerate(self.rings)}, **self.others}

    @property
    def paths(self) -> set[str]:
        """The files of all its rings."""
        return {ring.path for ring in self.all_rings if ring.path is not None}

    @property
    def all_rings(self) -> "list[Ring]":
        """Those that are written, and those that are only emptied."""
        return [*self.writers.values(), *self.leaving.rings]

    def ring_stats(self) -> "list[tuple[str, RingStats]]":
        """The counters of all rings, each with what writes it, or did."""
        running = [(writer, ring.stats()) for writer, ring in self.writers.items()]
        return [*running, *self.leaving.stats()]

    @classmethod
    def open(
        cls,
        config: OutputConfig,
        output: Output,
        flush: Flush,
        lanes: int,
        folder: Rings,
        *,
        others: Collection[str] = (),
        in_use: Collection[str] = (),
        store: Store | None = None,
        same_field: str = "",
        watching: Watching = UNWATCHED,
    ) -> "Route":
        """Make the rings, or adopt what an earlier process left of them, and start the flusher.

        *others* are the writers that want a ring besides the lanes; *in_use* are the files of all rings of
        this process. The *store* stays the caller's. Raises OSError, and then nothing remains of it but what
        was there before.
        """
        waker = Waker()
        form = _form(config, output, flush)
        writers = [*(f"lane-{lane}" for lane in range(lanes)), *others]
        rings: list[Ring] = []
        former: list[tuple[str, Ring]] = []
        try:
            for writer in writers:
                rings.append(folder.open(form, writer, waker, in_use))
            taken = {*in_use, *(ring.path for ring in rings if ring.path is not None)}
            for one in folder.leaving(form, waker, taken):
                former.append(one)
            flusher = Flusher(
                config.name,
                output,
                waker,
                [*rings, *(ring for _, ring in former)],
                flush,
                resilience(config),
                spool=store.spool if store is not None else None,
                rejected=store.rejected if store is not None else None,
                same_field=same_field,
                watching=watching,
            )
            flusher.start()
        except BaseException:
            for ring in (*rings, *(ring for _, ring in former)):
                let_go(ring)
            waker.close()
            raise
        if store is not None:
            store.watch(flusher.spool_changed)
        by_name = dict(zip(others, rings[lanes:], strict=True))
        return cls(config, output, waker, tuple(rings[:lanes]), flusher, by_name, Leaving(former), store)

    def with_ring(self, writer: str, flush: Flush, folder: Rings, in_use: Collection[str]) -> "Route":
        """A copy that has a ring for *writer* too, which nobody reads until it is settled. Raises OSError."""
        ring = folder.open(_form(self.config, self.output, flush), writer, self.waker, in_use)
        return replace(self, others={**self.others, writer: ring})

    def close_ring(self, writer: str) -> None:
        """Undo :meth:`with_ring` for a copy that was never settled."""
        let_go(self.others[writer])

    def fits(self, config: OutputConfig, output: Output) -> bool:
        """Whether what is in the rings can go to *output*, and they are of the size that *config* wants."""
        return self.output.encoding == output.encoding and self.config.ring_bytes == config.ring_bytes

    def settle(self, flush: Flush, same_field: str = "", watching: Watching = UNWATCHED) -> None:
        """Put the settings, and the output of this copy, to work on the rings."""
        rings = list(self.writers.values())
        for ring in rings:
            ring.limits(*slot_limits(flush))
        self.flusher.set_rings(rings)
        if self.store is not None:
            settle(self.store, self.config, self.output.target)
        self.flusher.reconfigure(
            flush,
            self.output,
            resilience(self.config),
            spool=self.store.spool if self.store is not None else None,
            spooling=isinstance(self.config, ServerOutput) and self.config.spool is not None,
            same_field=same_field,
            watching=watching,
        )

    def drain(self, deadline: float, *, keep: bool) -> None:
        """Deliver what is in the rings until *deadline* (monotonic), and end.

        The rest goes to the spool. What does not get there is counted as dropped or, if *keep*, stays in the
        rings for the next process. Whatever writes the rings must have let go of them.
        """
        self.flusher.drain(deadline, keep=keep)

    def close(self) -> None:
        """Free the rings and the output. The flusher has ended."""
        if self.store is not None:
            self.store.unwatch(self.flusher.spool_changed)
            # What it had taken of the spool is there again, for another route of its name.
            self.store.changed()
        for ring in self.writers.values():
            let_go(ring)
        self.leaving.close()
        self.waker.close()
        self.output.close()


def resilience(config: Destination) -> Resilience:
    """What an output that does not say so goes by is the default."""
    if not isinstance(config, ServerOutput):
        return DEFAULTS
    return Resilience(
        retries=config.retries,
        batch_timeout=config.batch_timeout,
        breaker_sensitivity=config.breaker_sensitivity,
        order=config.order,
        spill_at=config.spool.spill_at if config.spool is not None else DEFAULTS.spill_at,
    )


def _form(config: OutputConfig, output: Output, flush: Flush) -> Form:
    slot_bytes, slot_metrics = slot_limits(flush)
    return Form(config.name, config.ring_bytes, output.encoding, slot_bytes, slot_metrics)


def _without_space(stats: "RingStats") -> "RingStats":
    """The counters of a ring that is gone."""
    return {**stats, "capacity_bytes": 0, "slots_used": 0}


Kept = Callable[[str], tuple[SpoolCounters | None, RejectedCounters | None]]
"""Reads what an output has on disk, by its name."""


@dataclass
class Tally:
    """Counters of an output that add up over all its routes, those that ended included."""

    type: str = ""
    delivered: int = 0
    rejected: int = 0
    merged: int = 0
    restored: int = 0
    batches: int = 0
    replayed: int = 0
    attempts: int = 0
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    bytes_sent: int = 0
    opened: int = 0
    traced: int = 0
    on_time: int = 0
    histograms: dict[str, tuple[list[int], float]] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    rings: dict[str, "RingStats"] = field(default_factory=dict)

    def add(
        self, type: str, counters: DeliveryCounters, rings: "Iterable[tuple[str, RingStats]]" = ()
    ) -> None:
        """Add one reading. The last *type* given is the one shown."""
        self.type = type
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(counters, name))
        _add(self.dropped, counters.dropped)
        _add(self.requests, counters.requests)
        _add(self.stages, counters.stages)
        for name, (buckets, total) in counters.histograms.items():
            known, before = self.histograms.get(name, ([0] * len(buckets), 0.0))
            both = [one + other for one, other in zip(known, buckets, strict=True)]
            self.histograms[name] = both, before + total
        self.add_rings(rings)

    def add_rings(self, rings: "Iterable[tuple[str, RingStats]]") -> None:
        """Add the counters of rings, each with the thread that writes it."""
        for writer, stats in rings:
            known = self.rings.get(writer)
            total = dict(cast(Mapping[str, int], known)) if known is not None else {}
            _add(total, cast(Mapping[str, int], stats))
            self.rings[writer] = cast("RingStats", total)


_NUMBERS = (
    *("delivered", "rejected", "merged", "restored", "batches", "replayed", "attempts", "retries"),
    *("splits", "bytes_raw", "bytes_sent", "opened", "traced", "on_time"),
)

N = TypeVar("N", int, float)


def _add(total: dict[str, N], part: Mapping[str, N]) -> None:
    for name, count in part.items():
        total[name] = total.get(name, 0) + count


class Accounts:
    """What each output did, by name, over the routes that ended. Not thread-safe."""

    def __init__(self) -> None:
        self._ended: dict[str, Tally] = {}

    def close(self, route: Route) -> None:
        """Keep the counters of a route that ended, but for space, unless nothing ever came to it."""
        counters = route.flusher.counters
        rings = [(writer, _without_space(stats)) for writer, stats in route.ring_stats()]
        kept = route.store is not None and route.store.spool is not None
        if kept or any(stats["accepted"] or stats["restored"] for _, stats in rings):
            self._ended.setdefault(route.config.name, Tally()).add(route.config.type, counters, rings)

    def promised(self, routes: Sequence[Route], within: float) -> dict[str, Promised]:
        """What the outputs of *routes* still have *within* seconds for, and what they delivered in time.

        Read as a metric goes, rings before spools: one on its way is seen twice rather than never.
        """
        young: dict[str, int] = {}
        for route in routes:
            name = route.config.name
            young[name] = young.get(name, 0) + sum(ring.young(within) for ring in route.all_rings)
        spools = {route.config.name: route.store.spool for route in routes if route.store is not None}
        for name, spool in spools.items():
            young[name] += spool.owed.young(within) if spool is not None else 0
        on_time = {name: self._ended[name].on_time if name in self._ended else 0 for name in young}
        for route in routes:
            on_time[route.config.name] += route.flusher.delivery.promise.delays.on_time
        return {name: Promised(count, on_time[name]) for name, count in young.items()}

    def readings(
        self, routes: Sequence[Route], kept: Kept = lambda name: (None, None)
    ) -> list[OutputReading]:
        """Everything that ended, the given routes on top of it, and what each output has *kept* on disk."""
        tallies: dict[str, Tally] = {}
        for name, ended in self._ended.items():
            tallies[name] = Tally()
            tallies[name].add(ended.type, ended, ended.rings.items())
        # Against the stream: what lies further up is then never behind.
        for route in routes:
            tally = tallies.setdefault(route.config.name, Tally())
            tally.add(route.config.type, route.flusher.counters)
        stores = {name: kept(name) for name in tallies}
        for route in routes:
            tallies[route.config.name].add_rings(route.ring_stats())
        return [
            OutputReading(name, tally.type, tally, tally.rings, *stores[name])
            for name, tally in tallies.items()
        ]
