"""Lanes, sockets, rings and flushers: built from a configuration, and rebuilt from the next as metrics flow.

A *door* is a listener with its open sockets, a *route* an output with its rings and its flusher. Together
they are a *layout*, which :meth:`Pipeline.apply` replaces as a whole:

1. prepare: whatever can fail, that is sockets, ring files, outputs. What runs is not touched.
2. commit: lanes and flushers are told. Should a lane refuse all the same, everything is undone.
3. retire: sockets that left the config are read empty and closed. Outputs that left it still get what is
   in their rings, in the background and for ``drain_timeout`` at most; their counters stay in the ledger.

What an earlier process left in the rings of an output is delivered as soon as the output is opened.

A socket stays open as long as its address stays in the config. A ring stays, with what is in it, as long as
its output's name, ``ring_bytes`` and encoding stay: a changed destination is put under it. What aggregates
for a StatsD listener stays as long as the listener's name and what decides what is one series: other settings
take effect at its next tick, and when it leaves it sends what it has in a last one.

Threads: one per lane, ``lane-0`` …, ``tick``, and those of the flushers. :meth:`Pipeline.apply` and
:meth:`Pipeline.stop` are for one thread at a time; the other methods may be called by any thread at any time.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from agent import ledger
from agent._core import Lane
from agent.accounts import RejectedCounters, SpoolCounters
from agent.aggregation import Ticker, settings
from agent.config import Config, InfluxOutput, Listen
from agent.config import Output as OutputConfig
from agent.door import Door, aggregator_for, number_listeners, place, sources
from agent.errors import ConfigError, ListenError, OutputError, Problem
from agent.keeping import Keeper
from agent.listeners import (
    BoundSocket,
    Pool,
    close_sockets,
    fit_receive_buffer,
    open_sockets,
    set_file_access,
)
from agent.outputs import make
from agent.outputs.base import Output
from agent.rings import Rings
from agent.route import Accounts, Route
from agent.store.stores import Store, Stores
from agent.systemd import PassedSocket

logger = logging.getLogger(__name__)

SOCKET_DRAIN_S = 2.0
"""How long a lane reads on at stop. Nothing more arrives then, so this is for the case that it crawls."""

RESTART_KEYS = ("lanes", "runtime_dir", "state_dir")
"""Keys of ``[agent]`` that only a restart changes: rings, lanes and what lies on the disk hang on them."""


@dataclass(frozen=True)
class Layout:
    """All that runs. *names* gives name and address for each listener number ever used."""

    config: Config | None = None
    doors: tuple[Door, ...] = ()
    routes: tuple[Route, ...] = ()
    names: tuple[tuple[int, tuple[str, str]], ...] = ()


class Pipeline:
    """The data plane of one agent."""

    def __init__(self, passed: Sequence[PassedSocket] = ()) -> None:
        self.layout = Layout()
        self._pool = Pool.adopt(passed)
        self._rings: Rings | None = None
        self._stores: Stores | None = None
        self._lanes: list[Lane] = []
        self._threads: list[threading.Thread] = []
        self._lane_errors: list[str] = []
        self._ticker = Ticker()
        # Guards the layout, the routes that are being retired and the accounts of those that ended, so that
        # a reader of the ledger finds each counter in exactly one of the three.
        self._lock = threading.Lock()
        self._retiring: list[Route] = []
        self._accounts = Accounts()
        self._enders: list[threading.Thread] = []

    # ---- what runs ----

    def apply(self, config: Config) -> None:
        """Run *config*, the first or the next one.

        Raises ConfigError with every problem found; then what ran before runs on as if nothing were asked.
        """
        old = self.layout
        first = old.config is None
        self._refuse_restart_keys(config)
        with ExitStack() as undo:
            problems: list[Problem] = []
            if first:
                self._make_lanes(config, problems)
            new = self._prepare(config, problems, undo)
            if problems:
                raise ConfigError(problems)
            try:
                self._commit(old, new, undo)
            except OSError as error:
                raise ConfigError([Problem("listen", f"a lane cannot take it: {error}")]) from error
            undo.pop_all()
        self._retire(old, new)
        if first:
            self._start_lanes()

    def stop(self, timeout: float) -> None:
        """Read the sockets empty, close them, and deliver what is in the rings for *timeout* seconds at most.

        What is left then goes to the spools, or stays in the rings for the next start.
        """
        deadline = time.monotonic() + timeout
        layout = self.layout
        sockets = [sock for door in layout.doors for sock in door.sockets]
        for sock in sockets:
            sock.cut_off()
        for lane in self._lanes:
            lane.stop(SOCKET_DRAIN_S)
        for thread in self._threads:
            thread.join()
        for door in layout.doors:
            for placed in door.placed:
                self._lanes[placed.lane].remove_socket(placed.sock.fd, drain=False)
        close_sockets(sockets, self._pool)
        self._pool.close()
        for lane in self._lanes:
            lane.set_rings(())
        # What it leaves of the time is for the delivery of what it sends.
        self._ticker.stop(max(deadline - time.monotonic(), 0.0) / 2)
        with self._lock:
            self.layout = Layout(layout.config, (), (), layout.names)
            self._retiring += layout.routes
        self._end_in_background(layout.routes, deadline, keep=True)
        for thread in self._enders:
            thread.join()
        if self._stores is not None:
            self._stores.close()

    def close_at_once(self) -> None:
        """Remove the socket files, for an end without ceremony."""
        for door in self.layout.doors:
            for sock in door.sockets:
                sock.close()

    # ---- what it looks like ----

    def ledger(self) -> ledger.Ledger:
        """One reading of all counters, those of outputs that ended included."""
        with self._lock:
            routes = [*self._retiring, *self.layout.routes]
            outputs = self._accounts.readings(routes, self._kept)
            names = dict(self.layout.names)
        aggregates = self._ticker.readings()
        return ledger.read(names, [lane.stats() for lane in self._lanes], outputs, aggregates)

    def _kept(self, name: str) -> tuple[SpoolCounters | None, RejectedCounters | None]:
        """What the output of that name has on disk."""
        store = self._stores.get(name) if self._stores is not None else None
        if store is None:
            return None, None
        return (
            store.spool.counters if store.spool is not None else None,
            store.rejected.counters if store.rejected is not None else None,
        )

    def routes(self) -> list[Route]:
        """The routes that deliver: those of the config, and others that are still being emptied."""
        with self._lock:
            by_name = {route.config.name: route for route in (*self._retiring, *self.layout.routes)}
        return list(by_name.values())

    def keepers(self) -> dict[str, Keeper]:
        """What the outputs keep on disk, for commands, by name."""
        stores = {route.config.name: (route.store, route.flusher.inject) for route in self.routes()}
        return {
            name: Keeper(name, store.spool, store.rejected, inject)
            for name, (store, inject) in stores.items()
            if store is not None and (store.spool is not None or store.rejected is not None)
        }

    def look_after(self) -> None:
        """Let go of rings that an earlier process left and that are empty by now. For once a second."""
        with self._lock:
            for route in (*self._retiring, *self.layout.routes):
                route.leaving.sweep()

    def beats(self) -> dict[str, int]:
        """How often each lane and each flusher came round, by thread: more at each look, a second later."""
        beats = {f"lane-{lane.index}": lane.stats()["beats"] for lane in self._lanes}
        return beats | {f"flush-{one.config.name}": one.flusher.beat() for one in self.layout.routes}

    def failures(self) -> list[str]:
        """Which threads ended that should run, and why; empty if all is well."""
        dead = [route.config.name for route in self.layout.routes if not route.flusher.alive]
        failures = [*self._lane_errors, *(f"the flusher of output {name} ended" for name in dead)]
        return [*failures, self._ticker.failure] if self._ticker.failure else failures

    def samples(self) -> Iterator[tuple[str, str, bytes]]:
        """Malformed lines seen since the last call, one for each lane at most: (listener, reason, bytes)."""
        names = dict(self.layout.names)
        for lane in self._lanes:
            sample = lane.sample()
            if sample is not None:
                number, reason, text = sample
                yield names[number][0], reason, text

    # ---- prepare ----

    def _refuse_restart_keys(self, config: Config) -> None:
        if (running := self.layout.config) is None:
            return
        changed = [key for key in RESTART_KEYS if getattr(running.agent, key) != getattr(config.agent, key)]
        if changed:
            raise ConfigError(
                Problem(
                    f"agent.{key}",
                    f"{getattr(running.agent, key)} is running and {getattr(config.agent, key)} is wanted: "
                    "this takes a restart of the agent",
                )
                for key in changed
            )

    def _make_lanes(self, config: Config, problems: list[Problem]) -> None:
        """Make the lanes and the folder of the rings."""
        folder = Path(config.agent.runtime_dir) / "rings"
        try:
            self._rings = Rings(folder)
            self._stores = Stores(Path(config.agent.state_dir))
            self._rings.warn_of_strangers({output.name for output in config.output})
        except OSError as error:
            raise ConfigError(
                [Problem("agent.runtime_dir", f"cannot use {folder}: {error.strerror}; make it writable")]
            ) from error
        self._lanes = [Lane(index) for index in range(config.agent.lanes)]

    def _prepare(self, config: Config, problems: list[Problem], undo: ExitStack) -> Layout:
        """The next layout, with every new socket open and every new ring made, yet nothing connected."""
        names = number_listeners(config.listen, dict(self.layout.names))
        numbers = {name: number for number, (name, _) in names.items()}
        wanted = {one.address for one in config.listen}
        leaving = [
            sock for door in self.layout.doors if door.config.address not in wanted for sock in door.sockets
        ]
        doors = []
        for index, listen in enumerate(config.listen):
            try:
                doors.append(self._door(listen, numbers[listen.name], leaving, undo))
            except ListenError as error:
                problems.append(Problem(f"listen[{index}].address", str(error)))
            except OSError as error:  # no more descriptors, no memory
                problems.append(Problem(f"listen[{index}]", f"cannot be opened: {error.strerror}"))
        routes = []
        for index, output in enumerate(config.output):
            try:
                routes.append(self._route(output, config, undo))
            except (OutputError, OSError) as error:
                problems.append(Problem(f"output[{index}]", str(error)))
        return Layout(config, tuple(doors), tuple(routes), tuple(names.items()))

    def _door(self, listen: Listen, number: int, leaving: Sequence[BoundSocket], undo: ExitStack) -> Door:
        """*listen* on the sockets that it has already, or on new ones. Raises ListenError."""
        aggregator = aggregator_for(listen, self.layout.doors, len(self._lanes))
        for door in self.layout.doors:
            if door.config.address == listen.address:
                if (listen.mode, listen.owner) != (door.config.mode, door.config.owner):
                    undo.callback(set_file_access, door.config, door.sockets)
                    set_file_access(listen, door.sockets)
                return Door(listen, number, door.placed, aggregator)
        sockets = open_sockets(listen, len(self._lanes), self._pool, leaving)
        undo.callback(close_sockets, sockets, self._pool)
        return Door(listen, number, place(number, sockets, len(self._lanes)), aggregator)

    def _route(self, config: OutputConfig, whole: Config, undo: ExitStack) -> Route:
        """*config* on the rings that it has already, or on new ones. Raises OutputError, OSError."""
        assert self._rings is not None and self._stores is not None
        old = next((route for route in self.layout.routes if route.config.name == config.name), None)
        ticks = any(listen.format == "statsd" for listen in whole.listen)
        if old is not None and old.config == config and not _reads_files(config):
            route = old
        else:
            output = make(config)
            try:
                store = self._stores.open(config, output.target)
                if old is not None and old.fits(config, output):
                    undo.callback(output.close)
                    route = replace(old, config=config, output=output, store=store)
                else:
                    route = self._new_route(config, output, whole, store, ticks)
                    # What an earlier process left there is left once more.
                    undo.callback(self._end_route, route, time.monotonic(), keep=True)
            except BaseException:
                output.close()
                raise
        if route.tick is None and ticks:
            route = route.with_tick(whole.flush, self._rings, self._ring_files() | route.paths)
            undo.callback(route.close_tick)
        return route

    def _new_route(
        self, config: OutputConfig, output: Output, whole: Config, store: Store, tick: bool
    ) -> Route:
        """*config* on rings of its own. Raises OSError."""
        assert self._rings is not None
        lanes, in_use = len(self._lanes), self._ring_files()
        return Route.open(
            config, output, whole.flush, lanes, self._rings, tick=tick, in_use=in_use, store=store
        )

    def _ring_files(self) -> set[str]:
        """The files of the rings that run, or are being emptied."""
        with self._lock:
            return {path for route in (*self._retiring, *self.layout.routes) for path in route.paths}

    # ---- commit ----

    def _commit(self, old: Layout, new: Layout, undo: ExitStack) -> None:
        """Connect the new layout. Raises OSError, and only before anything is beyond undoing."""
        assert new.config is not None
        for index, lane in enumerate(self._lanes):
            undo.callback(_connect, index, lane, old)
            _connect(index, lane, new)
        former_settings = {door.aggregator: settings(door.config) for door in old.doors}
        for door in new.doors:
            wanted = settings(door.config)
            if door.aggregator is not None and former_settings.get(door.aggregator, wanted) != wanted:
                undo.callback(door.aggregator.configure, **former_settings[door.aggregator])
                door.aggregator.configure(**wanted)
        before = {id(placed.sock): door for door in old.doors for placed in door.placed}
        for door in new.doors:
            for placed in door.placed:
                former = before.get(id(placed.sock))
                lane, fd = self._lanes[placed.lane], placed.sock.fd
                if former is None:
                    undo.callback(lane.remove_socket, fd, drain=False)
                elif former.reading == door.reading:
                    continue
                else:
                    undo.callback(former.read_socket, lane, fd)
                door.read_socket(lane, fd)
        staying = {route.flusher for route in new.routes}
        with self._lock:
            self.layout = new
            self._retiring += [route for route in old.routes if route.flusher not in staying]
        for route in new.routes:
            route.settle(new.config.flush)
        ticks = [route.tick for route in new.routes if route.tick is not None]
        self._ticker.connect(self._lanes, ticks, _tags(new), sources(new.doors))

    def _start_lanes(self) -> None:
        for index, lane in enumerate(self._lanes):
            self._threads.append(
                threading.Thread(target=self._run_lane, args=(index, lane), name=f"lane-{index}", daemon=True)
            )
            self._threads[-1].start()

    def _run_lane(self, index: int, lane: Lane) -> None:
        try:
            lane.run()
        except OSError as error:
            self._lane_errors.append(f"lane {index} ended: {error}")
            logger.critical("a lane ended", extra={"lane": index, "error": str(error)})

    # ---- retire ----

    def _retire(self, old: Layout, new: Layout) -> None:
        """Let go of what only the *old* layout has, and fit the buffers of what stays. Does not fail."""
        assert new.config is not None
        kept = {id(placed.sock) for door in new.doors for placed in door.placed}
        gone = [placed for door in old.doors for placed in door.placed if id(placed.sock) not in kept]
        for placed in gone:
            placed.sock.cut_off()
            self._lanes[placed.lane].remove_socket(placed.sock.fd, drain=True)
        close_sockets([placed.sock for placed in gone], self._pool)
        self._ticker.finish()
        self._pool.warn()
        former = {door.config.address: door.config.receive_buffer for door in old.doors}
        for door in new.doors:
            if former.get(door.config.address, door.config.receive_buffer) != door.config.receive_buffer:
                fit_receive_buffer(door.config, door.sockets)
        staying = {route.flusher for route in new.routes}
        leaving = [route for route in old.routes if route.flusher not in staying]
        # No config has them any more, so no later process would deliver what stays in a ring.
        self._end_in_background(leaving, time.monotonic() + new.config.agent.drain_timeout, keep=False)

    def _end_in_background(self, routes: Iterable[Route], deadline: float, *, keep: bool) -> None:
        self._enders = [thread for thread in self._enders if thread.is_alive()]
        for route in routes:
            self._enders.append(
                threading.Thread(
                    target=self._end_route,
                    args=(route, deadline),
                    kwargs={"keep": keep},
                    name=f"end-{route.config.name}",
                )
            )
            self._enders[-1].start()

    def _end_route(self, route: Route, deadline: float, *, keep: bool) -> None:
        """Empty a route that no lane writes to any more, and move its counters to the accounts."""
        route.drain(deadline, keep=keep)
        with self._lock:
            self._accounts.close(route)
            if route in self._retiring:
                self._retiring.remove(route)
        route.close()


def _connect(index: int, lane: Lane, layout: Layout) -> None:
    """Have lane *index* write what it reads to the layout's rings, with the layout's tags."""
    lane.set_tags(_tags(layout))
    lane.set_rings([route.rings[index] for route in layout.routes])


def _tags(layout: Layout) -> list[tuple[bytes, bytes]]:
    tags = layout.config.agent.tags if layout.config is not None else {}
    return [(name.encode(), value.encode()) for name, value in sorted(tags.items())]


def _reads_files(config: OutputConfig) -> bool:
    """Whether the same settings may make another output, since the files that they name have changed."""
    return isinstance(config, InfluxOutput) and bool(config.ca or config.cert or config.key)
