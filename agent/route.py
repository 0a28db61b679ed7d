"""A route: one output with its rings, one for each lane, and its flusher; and what remains when it ends.

A ring of lane 0 of output "influx" lies in ``influx.0.ring``; where a former ring of that name is still being
emptied, in ``influx.0~1.ring``. ("~" is no letter of an output's name, so every name can be read back.) The
tick ring, which the thread of :mod:`agent.aggregation` writes, lies in ``influx.tick.ring``. An output has
one from when there is a StatsD listener until the output leaves.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agent._core import Ring, Waker
from agent.config import Flush
from agent.config import Output as OutputConfig
from agent.flusher import Flusher
from agent.ledger import DeliveryCounters, OutputReading
from agent.outputs.base import Output

if TYPE_CHECKING:
    from agent._core import RingStats

_SLOTS_PER_BATCH = 16
"""A batch is cut between slots: with so many of them it comes within a sixteenth of its limits."""


def slot_limits(flush: Flush) -> tuple[int, int]:
    """Bytes and metrics at which a lane closes a slot, so that batches come near *flush*'s limits."""
    return (
        min(max(flush.batch_bytes // _SLOTS_PER_BATCH, 4 << 10), 64 << 10),
        min(max(flush.batch_lines // _SLOTS_PER_BATCH, 1), 256),
    )


@dataclass(frozen=True, eq=False)
class Route:
    """One output as it runs. Replaced by a changed copy, on the same rings, when its settings change."""

    config: OutputConfig
    output: Output
    waker: Waker
    rings: tuple[Ring, ...]
    """By lane."""
    flusher: Flusher
    tick: Ring | None = None
    """What the tick thread writes; None as long as there has been no StatsD listener."""

    @property
    def writers(self) -> dict[str, Ring]:
        """All rings, by the names of the threads that write them."""
        writers = {f"lane-{lane}": ring for lane, ring in enumerate(self.rings)}
        return writers | {"tick": self.tick} if self.tick is not None else writers

    @classmethod
    def open(cls, config: OutputConfig, output: Output, flush: Flush, lanes: int, folder: Path) -> "Route":
        """Make the rings and start the flusher. Raises OSError, and then nothing remains of it."""
        waker = Waker()
        rings: list[Ring] = []
        try:
            for lane in range(lanes):
                rings.append(_make_ring(config, output, flush, lane, folder, waker))
            flusher = Flusher(config.name, output, waker, rings, flush)
            flusher.start()
        except BaseException:
            for ring in rings:
                ring.close(unlink=True)
            waker.close()
            raise
        return cls(config, output, waker, tuple(rings), flusher)

    def with_tick(self, flush: Flush, folder: Path) -> "Route":
        """A copy that has a tick ring too, which nobody reads until it is settled. Raises OSError."""
        ring = _make_ring(self.config, self.output, flush, "tick", folder, self.waker)
        return replace(self, tick=ring)

    def close_tick(self) -> None:
        """Undo :meth:`with_tick` for a copy that was never settled."""
        if self.tick is not None:
            self.tick.close(unlink=True)

    def fits(self, config: OutputConfig, output: Output) -> bool:
        """Whether what is in the rings can go to *output*, and they are of the size that *config* wants."""
        return self.output.unsigned == output.unsigned and self.config.ring_bytes == config.ring_bytes

    def settle(self, flush: Flush) -> None:
        """Put *flush*, and the output of this copy, to work on the rings."""
        rings = list(self.writers.values())
        for ring in rings:
            ring.limits(*slot_limits(flush))
        self.flusher.set_rings(rings)
        self.flusher.reconfigure(flush, self.output)

    def drain(self, deadline: float) -> None:
        """Deliver what is in the rings until *deadline* (monotonic), count the rest as dropped, and end.

        The lanes and the tick thread must have let go of the rings.
        """
        self.flusher.drain(deadline)

    def close(self) -> None:
        """Free the rings and the output. The flusher has ended."""
        for ring in self.writers.values():
            ring.close(unlink=True)
        self.waker.close()
        self.output.close()


def _make_ring(
    config: OutputConfig, output: Output, flush: Flush, writer: int | str, folder: Path, waker: Waker
) -> Ring:
    slot_bytes, slot_metrics = slot_limits(flush)
    for generation in itertools.count():
        suffix = f"~{generation}" if generation else ""
        try:
            return Ring(
                str(folder / f"{config.name}.{writer}{suffix}.ring"),
                config.ring_bytes,
                waker,
                slot_bytes=slot_bytes,
                slot_metrics=slot_metrics,
                unsigned=output.unsigned,
            )
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


@dataclass
class Tally:
    """Counters of an output that add up over all its routes, those that ended included."""

    type: str = ""
    delivered: int = 0
    rejected: int = 0
    batches: int = 0
    attempts: int = 0
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    bytes_sent: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    rings: dict[str, "RingStats"] = field(default_factory=dict)

    def add(self, type: str, counters: DeliveryCounters, rings: Mapping[str, "RingStats"]) -> None:
        """Add one reading. The last *type* given is the one shown."""
        self.type = type
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(counters, name))
        _add(self.dropped, counters.dropped)
        _add(self.requests, counters.requests)
        for writer, stats in rings.items():
            known = self.rings.get(writer)
            total = dict(cast(Mapping[str, int], known)) if known is not None else {}
            _add(total, cast(Mapping[str, int], stats))
            self.rings[writer] = cast("RingStats", total)

    def add_route(self, route: Route, ended: bool = False) -> None:
        """Add what a route did so far. Of one that *ended*, nothing is said about space."""
        # Deliveries first: what lies further up the stream is then never behind.
        counters = Tally()
        counters.add(route.config.type, route.flusher.counters, {})
        rings = {writer: ring.stats() for writer, ring in route.writers.items()}
        if ended:
            for stats in rings.values():
                stats["capacity_bytes"] = stats["slots_used"] = 0
        self.add(route.config.type, counters, rings)

    def reading(self, name: str) -> OutputReading:
        return OutputReading(name, self.type, self, self.rings)


_NUMBERS = ("delivered", "rejected", "batches", "attempts", "retries", "splits", "bytes_raw", "bytes_sent")


def _add(total: dict[str, int], part: Mapping[str, int]) -> None:
    for name, count in part.items():
        total[name] = total.get(name, 0) + count


class Accounts:
    """What each output did, by name, over the routes that ended. Not thread-safe."""

    def __init__(self) -> None:
        self._ended: dict[str, Tally] = {}

    def close(self, route: Route) -> None:
        """Keep the counters of a route that ended, unless it never saw a metric."""
        if not any(ring.stats()["accepted"] for ring in route.writers.values()):
            return
        self._ended.setdefault(route.config.name, Tally()).add_route(route, ended=True)

    def readings(self, routes: Sequence[Route]) -> Iterable[OutputReading]:
        """Everything that ended, and the given routes on top of it."""
        tallies: dict[str, Tally] = {}
        for name, ended in self._ended.items():
            tallies[name] = Tally()
            tallies[name].add(ended.type, ended, ended.rings)
        for route in routes:
            tallies.setdefault(route.config.name, Tally()).add_route(route)
        return [tally.reading(name) for name, tally in tallies.items()]
