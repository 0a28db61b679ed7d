"""Ticks: when what the StatsD listeners aggregated is sent.

The lanes fill tables of the core, one :class:`~agent._core.Aggregator` for each StatsD listener. A tick swaps
the tables, and writes what was in them as points into the *tick rings*, of which each output has one beside
those of its lanes. One thread, ``tick``, does that for all listeners, and is the only writer of those rings;
where there is no StatsD listener there is no thread either.

A listener ticks at the multiples of its ``interval`` since 1970 by the realtime clock, and its points carry
that time. So that no point overwrites another one in the database, points of the second StatsD listener are
stamped one nanosecond later than those of the first, and so on: two listeners may well see the same series.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent._core import Aggregator, Guard, Lane, Ring
from agent.config import Listen

if TYPE_CHECKING:
    from agent._core import AggregateStats

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a tick may wait for room in a ring that it has filled, or half its interval if that is less."""

_WAIT_S = 60.0
"""The thread looks at the clock so often at least: it may have been set, or the machine suspended."""

_SET_BACKS = 64
"""Stamps are moved by so many nanoseconds each time the clock is set back; more than there are listeners."""


class Schedule:
    """The ticks of one listener: points in time in nanoseconds since 1970."""

    def __init__(self, interval: float, now: int) -> None:
        self._interval = _nanoseconds(interval)
        self._due = self._multiple_after(now)
        self._shift = 0

    def change(self, interval: float, now: int) -> None:
        """Tick every *interval* seconds from the next tick on, which comes when either interval wants it."""
        if self._interval != _nanoseconds(interval):
            self._interval = _nanoseconds(interval)
            self._due = min(self._due, self._multiple_after(now))

    def wait(self, now: int) -> float:
        """Seconds until the next tick, if nobody sets the clock."""
        return max(self._due - now, 0) / 1e9

    def take(self, now: int) -> int | None:
        """The stamp of the tick that is due *now*, once; None if none is.

        After a pause of several intervals, or when the clock has been set forward, one tick stands for all
        that were missed. A clock that goes back by less than an interval makes the next tick wait for it.
        One that is further back has been set, and ticks go by the new time. Stamps that come again then are
        a little later than the first time, so that both points stay.
        """
        if self._due - now > 2 * self._interval:
            self._due = self._multiple_after(now)
            self._shift += _SET_BACKS
        if now < self._due:
            return None
        stamp = max(self._due, now - now % self._interval)
        self._due = self._multiple_after(now)
        return stamp + self._shift

    def _multiple_after(self, now: int) -> int:
        return (now // self._interval + 1) * self._interval


def _nanoseconds(seconds: float) -> int:
    return max(round(seconds * 1e9), 1)


def settings(listen: Listen) -> dict[str, Any]:
    """What an aggregator is told of *listen*, also later as long as the :func:`identity` stays."""
    return {
        "percentiles": listen.percentiles,
        "relative_error": listen.relative_error,
        "gauge_deltas": listen.gauge_deltas,
        "reset_gauges": listen.reset_gauges,
        "expire": listen.expire,
        "interval": listen.interval,
        "separator": listen.separator,
        "dialect": listen.dialect,
    }


def identity(listen: Listen) -> tuple[object, ...]:
    """The settings that decide what is one series, and how many may be: others take another aggregator."""
    return listen.separator, listen.dialect, listen.max_series, listen.templates


def make_aggregator(listen: Listen, lanes: int) -> Aggregator:
    """What aggregates for *listen*, with a table for each of *lanes*."""
    return Aggregator(lanes, max_series=listen.max_series, **settings(listen))


@dataclass(frozen=True)
class Source:
    """A StatsD listener: its number, and what aggregates for it."""

    number: int
    name: str
    interval: float
    aggregator: Aggregator


class Ticker:
    """The thread ``tick``. Methods may be called by any thread; those that say so wait for a running tick."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.failure = ""
        """Why the thread ended though it should run; empty if all is well."""
        self._clock = clock
        # Held during a tick: whoever has it knows that nobody writes to the rings.
        self._ticking = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._lanes: Sequence[Lane] = ()
        self._rings: Sequence[Ring] = ()
        self._tags: Sequence[tuple[bytes, bytes]] = ()
        self._guard: Guard | None = None
        self._sources: tuple[Source, ...] = ()
        self._schedules: dict[Aggregator, Schedule] = {}
        # Guards the three places where counters are, so that a reader finds each of them once. Never held
        # for long: a reading does not wait for a tick.
        self._lock = threading.Lock()
        self._counted: list[Source] = []
        self._ended: dict[int, AggregateStats] = {}

    def connect(
        self,
        lanes: Sequence[Lane],
        rings: Sequence[Ring],
        tags: Sequence[tuple[bytes, bytes]],
        sources: Iterable[Source],
        guard: Guard | None = None,
    ) -> None:
        """Tick for these *sources*, and no others, from now on. Waits for a running tick.

        *guard* was made for these rings and tags.

        Sources that are left out still hold what they aggregated, until :meth:`finish`.
        """
        with self._ticking:
            now = self._clock()
            self._lanes, self._rings, self._tags, self._guard = lanes, rings, tags, guard
            self._sources = tuple(sources)
            schedules = {}
            for source in self._sources:
                schedule = self._schedules.get(source.aggregator) or Schedule(source.interval, now)
                schedule.change(source.interval, now)
                schedules[source.aggregator] = schedule
            self._schedules = schedules
            with self._lock:
                leaving = [one for one in self._counted if one.aggregator not in schedules]
                self._counted = [*self._sources, *leaving]
            if self._sources and self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="tick", daemon=True)
                self._thread.start()
            self._ticking.notify_all()

    def finish(self, patience: float = PATIENCE_S) -> None:
        """Send what the sources hold that were left out, and let go of them. Waits for a running tick.

        No lane may aggregate for them any more. *patience* in seconds is for all of them together.
        """
        with self._ticking:
            staying = {source.aggregator for source in self._sources}
            leaving = [source for source in self._counted if source.aggregator not in staying]
            deadline = time.monotonic() + patience
            for position, source in enumerate(leaving):
                self._tick(source, self._clock() + position, max(deadline - time.monotonic(), 0.0))
                with self._lock:
                    self._counted.remove(source)
                    _add(self._ended, source.number, _without_space(source.aggregator.stats()))

    def stop(self, patience: float) -> None:
        """End the thread, and send what is aggregated. The lanes must have ended."""
        with self._ticking:
            self._stopped = True
            self._sources = ()
            self._schedules = {}
            thread = self._thread
            self._ticking.notify_all()
        if thread is not None:
            thread.join()
        self.finish(patience)

    def readings(self) -> "Mapping[int, AggregateStats]":
        """The counters by the numbers of the listeners, with those of aggregators that have gone."""
        with self._lock:
            readings = {number: stats.copy() for number, stats in self._ended.items()}
            for source in self._counted:
                _add(readings, source.number, source.aggregator.stats())
        return readings

    # ---- the thread ----

    def _run(self) -> None:
        try:
            with self._ticking:
                while self._sources:
                    self._ticking.wait(min(self._round(), _WAIT_S))
                self._thread = None
        except Exception as error:
            self.failure = f"the tick thread ended: {error!r}"
            logger.critical("the tick thread failed; nothing aggregated is sent any more", exc_info=True)

    def _round(self) -> float:
        """Tick for every source that is due; returns the seconds until the next one is."""
        for position, source in enumerate(self._sources):
            stamp = self._schedules[source.aggregator].take(self._clock())
            if stamp is not None:
                self._tick(source, stamp + position, min(source.interval / 2, PATIENCE_S))
        now = self._clock()
        return min(schedule.wait(now) for schedule in self._schedules.values())

    def _tick(self, source: Source, at_ns: int, patience: float) -> None:
        # A ring that still holds much from before will not have room soon; the others need not wait for it.
        stuck = (ring["waiting_bytes"] * 2 > ring["capacity_bytes"] for ring in map(Ring.stats, self._rings))
        patience = 0.0 if any(stuck) else patience
        before = source.aggregator.stats()["ring_full"]
        source.aggregator.tick(
            self._lanes,
            self._rings,
            at_ns,
            tags=self._tags,
            patience=patience,
            guard=self._guard,
            listener=source.number,
        )
        if lost := source.aggregator.stats()["ring_full"] - before:
            logger.error(
                "a tick found every ring full, and points were dropped",
                extra={"listener": source.name, "points": lost},
            )


def _without_space(stats: "AggregateStats") -> "AggregateStats":
    """The counters of an aggregator that holds nothing any more."""
    return {**stats, "series": 0, "bytes": 0}


def _add(total: "dict[int, AggregateStats]", number: int, stats: "AggregateStats") -> None:
    known = total.get(number)
    if known is None:
        total[number] = stats.copy()
        return
    total[number] = {
        "series": known["series"] + stats["series"],
        "samples": known["samples"] + stats["samples"],
        "points": known["points"] + stats["points"],
        "ring_full": known["ring_full"] + stats["ring_full"],
        "unrouted": known["unrouted"] + stats["unrouted"],
        "conflicts": known["conflicts"] + stats["conflicts"],
        "expired": known["expired"] + stats["expired"],
        "bytes": known["bytes"] + stats["bytes"],
    }
