"""Lanes, sockets, rings and flushers: built from a configuration, and rebuilt from the next as metrics flow.

A *door* is a listener with its open sockets, a *route* an output with its rings and its flusher. Together
they are a *layout*, which :meth:`Pipeline.apply` replaces as a whole:

1. prepare: whatever can fail, that is sockets, ring files, outputs. What runs is not touched.
2. commit: lanes and flushers are told. Should a lane refuse all the same, everything is undone.
3. retire: sockets that left the config are read empty and closed. Outputs that left it still get what is
   in their rings, in the background and for ``drain_timeout`` at most; their counters stay in the ledger.

What an earlier process left in the rings of an output is delivered as soon as the output is opened, and what
it had in hand (:mod:`agent.bursts`) is read before the lanes read anything.

A socket stays open as long as its address stays in the config. A ring stays, with what is in it, as long as
its output's name, ``ring_bytes`` and encoding stay: a changed destination is put under it. What aggregates
for a StatsD listener stays as long as the listener's name and what decides what is one series: other settings
take effect at its next tick, and when it leaves it sends what it has in a last one.

Listeners that Python reads are *inputs* (:mod:`agent.inputs`), which hand what they receive to one *feed*. An
input stays, with its connections, as long as its address and its kind do.

Threads: one per lane, ``lane-0`` …, ``tick``, and those of the inputs and flushers.
:meth:`Pipeline.apply` and :meth:`Pipeline.stop` are for one thread at a time; the other methods may be called
by any thread at any time.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent import inputs, ledger
from agent._core import Burst, Feed, Guard, Lane, Ring
from agent.accounts import RejectedCounters, SpoolCounters
from agent.aggregation import Ticker, settings
from agent.bursts import Bursts
from agent.captures import Known
from agent.config import Config, Listen, ServerOutput
from agent.config import Output as OutputConfig
from agent.delivery.task import Watching
from agent.door import (
    HOST,
    LISTENERS_MAX,
    Door,
    Named,
    aggregated,
    aggregator_for,
    connections_for,
    gate_for,
    graphite_for,
    number_listeners,
    place,
    sources_for,
)
from agent.errors import ConfigError, ListenError, OutputError, Problem
from agent.gate import Gate, GateCounters
from agent.guards import Guards, Tags, changes
from agent.inputs.base import Source
from agent.keeping import Keeper
from agent.kept_types import KeptTypes
from agent.listeners import (
    BoundSocket,
    Pool,
    close_sockets,
    fit_receive_buffer,
    open_sockets,
    set_file_access,
)
from agent.losers import LoserWatch, losers
from agent.objectives import Fares, Promised
from agent.outputs import make
from agent.outputs.base import Output
from agent.outputs.broker import BrokerSink
from agent.relay.account import RelayCounters
from agent.relay.carrier import Carrier, Ways, forms
from agent.relay.intake import Relay
from agent.rings import Rings
from agent.route import OTHERS, Accounts, Route
from agent.sessions import Sessions
from agent.store.rejected import GUARD, RELAY, Rejected
from agent.store.stores import Store, Stores
from agent.systemd import PassedSocket
from agent.watch import Watch

if TYPE_CHECKING:
    from agent.inputs.host import HostInput

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
    guards: Guards | None = None


class Pipeline:
    """The data plane of one agent."""

    def __init__(self, passed: Sequence[PassedSocket] = ()) -> None:
        self.layout = Layout()
        self._pool = Pool.adopt(passed)
        self._rings: Rings | None = None
        self._bursts: Bursts | None = None
        self._lane_bursts: list[Burst] = []
        self._stores: Stores | None = None
        self._lanes: list[Lane] = []
        self._threads: list[threading.Thread] = []
        self._lane_errors: list[str] = []
        self._ticker = Ticker()
        self.feed = Feed()
        self._carrier = Carrier()
        self._relays: dict[int, RelayCounters] = {}
        """By listener number, as the gates'."""
        self._poison: Rejected | None = None
        self.sessions = Sessions()
        self._host: HostInput | None = None
        self.fares: Callable[[], Fares] = Fares
        """How outputs fare, as whoever looks once a second has seen it; for any thread."""
        self._watch = Watch()
        self._kept_types = KeptTypes()
        self._loser_watch = LoserWatch()
        # Guards the layout, the routes that are being retired and the accounts of those that ended, so that
        # a reader of the ledger finds each counter in exactly one of the three.
        self._lock = threading.Lock()
        self._retiring: list[Route] = []
        self._accounts = Accounts()
        self._enders: list[threading.Thread] = []
        # By listener number, like the counters of the lanes.
        self._gates: dict[int, GateCounters] = {}

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
                undo.callback(self._remove_bursts)
            new = self._prepare(config, problems, undo)
            if problems:
                raise ConfigError(problems)
            try:
                self._commit(old, new, undo)
            except OSError as error:
                raise ConfigError([Problem("listen", f"a lane cannot take it: {error}")]) from error
            undo.pop_all()
        self._retire(old, new)
        host = [Known(number, *named) for number, named in new.names if named[0] == HOST and config.gathered]
        self.sessions.connect(self._lanes, new.doors, host, new.routes, config.agent.capture_ring)
        if first:
            assert self._bursts is not None
            self._bursts.read_left(new.doors, self._lanes, self._number_gone)
            self._start_lanes()

    def stop(self, timeout: float) -> None:
        """Read the sockets empty, close them, and deliver what is in the rings for *timeout* seconds at most.

        What is left then goes to the spools, or stays in the rings for the next start.
        """
        deadline = time.monotonic() + timeout
        self.sessions.stop()
        layout = self.layout
        sockets = [sock for door in layout.doors for sock in door.sockets]
        for sock in sockets:
            sock.cut_off()
        for door in layout.doors:
            if door.input is not None:
                door.input.stop(SOCKET_DRAIN_S)
            if door.gate is not None:
                door.gate.stop(SOCKET_DRAIN_S / 2)
        self._end_host()
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
            lane.set_layout((), ())
        if not self._lane_errors:
            self._remove_bursts()
        self.feed.set_layout((), ())
        # What it leaves of the time is for the delivery of what it sends.
        self._ticker.stop(max(deadline - time.monotonic(), 0.0) / 2)
        with self._lock:
            self.layout = Layout(layout.config, (), (), layout.names)
            self._retiring += layout.routes
        self._end_in_background(layout.routes, deadline, keep=True)
        for thread in self._enders:
            thread.join()
        self._kept_types.take(layout.guards, time.monotonic(), time.time_ns())
        self._kept_types.close()
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
            names, doors, guards = dict(self.layout.names), self.layout.doors, self.layout.guards
        aggregates = self._ticker.readings()
        lanes = [lane.stats() for lane in self._lanes]
        feed = self.feed.stats()
        for door in doors:
            if door.input is not None and (stats := feed["listeners"].get(door.number)) is not None:
                door.input.tell(stats)
        return ledger.read(
            names,
            [*lanes, feed] if feed["listeners"] else lanes,
            outputs,
            aggregates,
            dict(self._gates),
            self._watch.account(self._kept_types.stats(), guards.stats() if guards is not None else None),
            {door.number: losers(door) for door in doors},
            dict(self._relays),
        )

    def promised(self, within: float) -> dict[str, Promised]:
        """What each output still has *within* seconds for: see :mod:`agent.objectives`."""
        with self._lock:
            return self._accounts.promised([*self._retiring, *self.layout.routes], within)

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
        """What the outputs keep on disk, and the type guard, for commands, by name."""
        stores = {route.config.name: (route.store, route.flusher.inject) for route in self.routes()}
        left_out = self._kept_types.rejected
        guard = {GUARD: Keeper(GUARD, None, left_out)} if left_out is not None else {}
        if self._poison is not None:
            guard[RELAY] = Keeper(RELAY, None, self._poison)
        return guard | {
            name: Keeper(name, store.spool, store.rejected, inject)
            for name, (store, inject) in stores.items()
            if store is not None and (store.spool is not None or store.rejected is not None)
        }

    def look_after(self) -> None:
        """Let go of rings that an earlier process left and that are empty by now; and what the feed asks for.

        For once a second.
        """
        self.feed.publish()
        self._watch.look_after(time.monotonic_ns(), time.time_ns())
        self._kept_types.look_after(self.layout.guards, time.monotonic(), time.time_ns())
        self._loser_watch.look_after(self.layout.doors, time.monotonic())
        with self._lock:
            for route in (*self._retiring, *self.layout.routes):
                route.leaving.sweep()

    def beats(self) -> dict[str, int]:
        """How often each lane, input and flusher came round, by thread: more at each look, a second later."""
        beats = {f"lane-{lane.index}": lane.stats()["beats"] for lane in self._lanes}
        for door in self.layout.doors:
            beats |= door.input.beats() if door.input is not None else {}
            beats |= door.gate.beats() if door.gate is not None else {}
        beats |= self._host.beats() if self._host is not None else {}
        return beats | {f"flush-{one.config.name}": one.flusher.beat() for one in self.layout.routes}

    def failures(self) -> list[str]:
        """Which threads ended that should run, and why; empty if all is well."""
        dead = [route.config.name for route in self.layout.routes if not route.flusher.alive]
        failures = [*self._lane_errors, *(f"the flusher of output {name} ended" for name in dead)]
        failures += [door.input.failure for door in self.layout.doors if door.input and door.input.failure]
        failures += [door.gate.failure for door in self.layout.doors if door.gate and door.gate.failure]
        if self._host is not None and self._host.failure:
            failures.append(self._host.failure)
        return [*failures, self._ticker.failure] if self._ticker.failure else failures

    def samples(self) -> Iterator[tuple[str, str, bytes]]:
        """Malformed lines seen since the last call, one for each lane at most: (listener, reason, bytes)."""
        names = dict(self.layout.names)
        writers: list[Lane | Feed] = [*self._lanes, self.feed]
        for writer in writers:
            sample = writer.sample()
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
            self._bursts = Bursts(Path(config.agent.runtime_dir) / "bursts")
            self._stores = Stores(Path(config.agent.state_dir))
            self._rings.warn_of_strangers({output.name for output in config.output})
        except OSError as error:
            raise ConfigError(
                [Problem("agent.runtime_dir", f"cannot use {folder}: {error.strerror}; make it writable")]
            ) from error
        self._lane_bursts = [self._bursts.open(f"lane-{index}") for index in range(config.agent.lanes)]
        self._lanes = [Lane(index, burst) for index, burst in enumerate(self._lane_bursts)]

    def _remove_bursts(self) -> None:
        """Remove the files of the lanes, which have nothing in hand any more."""
        for burst in self._lane_bursts:
            burst.remove()

    def _number_gone(self, name: str, address: str) -> int | None:
        """A number for what is counted of a listener that the config does not have; None if all are used."""
        with self._lock:
            names = dict(self.layout.names)
            numbers = {known: number for number, (known, _) in names.items()}
            if name not in numbers and len(names) < LISTENERS_MAX:
                numbers[name] = next(number for number in range(LISTENERS_MAX) if number not in names)
                names[numbers[name]] = (name, address)
                self.layout = replace(self.layout, names=tuple(names.items()))
            return numbers.get(name)

    def _prepare(self, config: Config, problems: list[Problem], undo: ExitStack) -> Layout:
        """The next layout, with every new socket open and every new ring made, yet nothing connected."""
        host = [Named(HOST, HOST)] if config.gathered is not None else []
        names = number_listeners([*config.listen, *host], dict(self.layout.names))
        numbers = {name: number for number, (name, _) in names.items()}
        wanted = {one.address for one in config.listen}
        leaving = [
            sock for door in self.layout.doors if door.config.address not in wanted for sock in door.sockets
        ]
        doors = []
        # Under other rules what was one series may be two, or another one.
        old = self.layout.config
        staying = self.layout.doors if old is not None and changes(old) == changes(config) else ()
        for index, listen in enumerate(config.listen):
            try:
                doors.append(self._door(listen, numbers[listen.name], leaving, undo, staying))
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
        try:
            self._kept_types.open(config.types, Path(config.agent.state_dir))
        except ValueError as error:
            problems.append(Problem("types.max_fields", str(error)))
        except OSError as error:
            path = Path(config.agent.state_dir) / "types"
            problems.append(Problem("types", f"cannot use {path}: {error.strerror}"))
        guards = Guards(config, self._watch.book, numbers, self.layout.guards, self._kept_types.types)
        return Layout(config, tuple(doors), tuple(routes), tuple(names.items()), guards)

    def _door(
        self,
        listen: Listen,
        number: int,
        leaving: Sequence[BoundSocket],
        undo: ExitStack,
        staying: Sequence[Door],
    ) -> Door:
        """*listen* on the sockets that it has already, or on new ones. Raises ListenError.

        What aggregates for a door of *staying* goes on, if its own settings let it.
        """
        if inputs.kind(listen):
            return self._fed_door(listen, number, leaving, undo)
        aggregator = aggregator_for(listen, staying, len(self._lanes))
        graphite = graphite_for(listen, self.layout.doors)
        limited = sources_for(listen, self.layout.doors)
        for door in self.layout.doors:
            if door.config.address == listen.address:
                if (listen.mode, listen.owner) != (door.config.mode, door.config.owner):
                    undo.callback(set_file_access, door.config, door.sockets)
                    set_file_access(listen, door.sockets)
                placed = door.placed or place(number, door.own, len(self._lanes))
                counted = connections_for(listen, door.sockets, door)
                kept = Door(
                    listen, number, placed, aggregator, graphite, connections=counted, sources=limited
                )
                return self._with_gate(kept, door.gate)
        sockets = open_sockets(listen, len(self._lanes), self._pool, leaving)
        undo.callback(close_sockets, sockets, self._pool)
        placed = place(number, sockets, len(self._lanes))
        counted = connections_for(listen, sockets, None)
        made = Door(listen, number, placed, aggregator, graphite, connections=counted, sources=limited)
        return self._with_gate(made, None)

    def _with_gate(self, door: Door, former: Gate | None) -> Door:
        """*door* with what speaks TLS for it, if that is wanted. Raises ListenError."""
        counters = self._gates.setdefault(door.number, GateCounters()) if door.config.cert else GateCounters()
        gate, context = gate_for(door, former, self._lanes, counters)
        return replace(door, gate=gate, context=context)

    def _fed_door(self, listen: Listen, number: int, leaving: Sequence[BoundSocket], undo: ExitStack) -> Door:
        """The same for a listener that an input reads: the input that it has, or a new one."""
        limited = sources_for(listen, self.layout.doors)
        broker = inputs.is_broker(listen)
        for door in self.layout.doors:
            if door.config.address != listen.address or (broker and door.config.name != listen.name):
                continue
            set_file_access(listen, door.sockets)
            undo.callback(set_file_access, door.config, door.sockets)
            if door.input is None or inputs.kind(door.config) != inputs.kind(listen):
                sockets = door.sockets
                break
            door.input.check(listen)
            return replace(door, config=listen, number=number, sources=limited)
        else:
            sockets = [] if broker else open_sockets(listen, 1, self._pool, leaving)
            undo.callback(close_sockets, sockets, self._pool)
        assert self._bursts is not None
        source = Source(self.feed, number, limited, self._relay(number) if broker else None)
        made = inputs.make(listen, source, sockets, self._bursts.open)
        return Door(listen, number, (), input=made, source=source, own=tuple(sockets), sources=limited)

    def _relay(self, number: int) -> Relay:
        """What a listener of a broker is given. Raises OSError."""
        assert self._stores is not None
        if self._poison is None:
            self._poison = self._stores.rejected(RELAY)
        counters = self._relays.setdefault(number, RelayCounters())
        return Relay(self._carrier, counters, self._poison, getattr(self, "sources", None))

    def _route(self, config: OutputConfig, whole: Config, undo: ExitStack) -> Route:
        """*config* on the rings that it has already, or on new ones. Raises OutputError, OSError."""
        assert self._rings is not None and self._stores is not None
        old = next((route for route in self.layout.routes if route.config.name == config.name), None)
        others = _other_writers(whole)
        if old is not None and old.config == config and not _changes(old.output, config, whole):
            route = old
        else:
            output = make(config, whole.agent.known_as)
            try:
                store = self._stores.open(config, output.target)
                if old is not None and old.fits(config, output):
                    undo.callback(output.close)
                    route = replace(old, config=config, output=output, store=store)
                else:
                    route = self._new_route(config, output, whole, store, others)
                    # What an earlier process left there is left once more.
                    undo.callback(self._end_route, route, time.monotonic(), keep=True)
            except BaseException:
                output.close()
                raise
        for writer in others:
            if writer not in route.others:
                in_use = self._ring_files() | route.paths
                route = route.with_ring(writer, whole.flush, self._rings, in_use)
                undo.callback(route.close_ring, writer)
        return route

    def _new_route(
        self, config: OutputConfig, output: Output, whole: Config, store: Store, others: Collection[str]
    ) -> Route:
        """*config* on rings of its own. Raises OSError."""
        assert self._rings is not None
        lanes, in_use = len(self._lanes), self._ring_files()
        return Route.open(
            config,
            output,
            whole.flush,
            lanes,
            self._rings,
            others=others,
            in_use=in_use,
            store=store,
            same_field=_same_field(whole),
            watching=_watching(whole),
        )

    def _ring_files(self) -> set[str]:
        """The files of the rings that run, or are being emptied."""
        with self._lock:
            return {path for route in (*self._retiring, *self.layout.routes) for path in route.paths}

    # ---- commit ----

    def _commit(self, old: Layout, new: Layout, undo: ExitStack) -> None:
        """Connect the new layout. Raises OSError, and only before anything is beyond undoing."""
        assert new.config is not None
        undo.callback(self._watch.configure, old.config.cardinality if old.config is not None else None)
        self._watch.configure(new.config.cardinality)
        undo.callback(self._kept_types.configure, old.config.types if old.config is not None else None)
        self._kept_types.configure(new.config.types)
        for index, lane in enumerate(self._lanes):
            undo.callback(_connect, index, lane, old)
            _connect(index, lane, new)
        undo.callback(self._connect_feed, old)
        self._connect_feed(new)
        former_settings = {door.aggregator: settings(door.config) for door in old.doors}
        for door in new.doors:
            wanted = settings(door.config)
            if door.aggregator is not None and former_settings.get(door.aggregator, wanted) != wanted:
                undo.callback(door.aggregator.configure, **former_settings[door.aggregator])
                door.aggregator.configure(**wanted)
        before = {id(placed.sock): door for door in old.doors for placed in door.placed}
        for door in new.doors:
            if door.connections is not None:
                undo.callback(setattr, door.connections, "most", door.connections.most)
                door.connections.most = door.config.max_connections
            for placed in door.placed:
                former = before.get(id(placed.sock))
                lane, sock = self._lanes[placed.lane], placed.sock
                if former is None:
                    undo.callback(lane.remove_socket, sock.fd, drain=False)
                elif former.reading == door.reading:
                    continue
                else:
                    undo.callback(former.read_socket, lane, sock)
                door.read_socket(lane, sock)
        self._commit_inputs(old, new, undo)
        self._commit_gates(old, new, undo)
        self._commit_host(old, new, undo)
        staying = {route.flusher for route in new.routes}
        with self._lock:
            self.layout = new
            self._retiring += [route for route in old.routes if route.flusher not in staying]
        for route in new.routes:
            route.settle(new.config.flush, _same_field(new.config), _watching(new.config))
        tags, ticks = _tags(new), _rings(new, "tick")
        self._ticker.connect(
            self._lanes, ticks, tags, aggregated(new.doors), _guard(new, "tick", tags, ticks)
        )

    def _connect_feed(self, layout: Layout) -> None:
        """Have the feed write what it is given to the layout's rings, with the layout's tags.

        And the carrier bring what needs no reading to its outputs.
        """
        tags, rings = _tags(layout), _rings(layout, "feed")
        self.feed.set_layout(tags, rings, _guard(layout, "feed", tags, rings))
        config, outputs = layout.config, [(route.config, route.output) for route in layout.routes]
        flushers = tuple(route.flusher for route in layout.routes)
        untouched = forms(config, outputs) if config is not None else frozenset()
        self._carrier.ways = Ways(flushers, tuple(rings), untouched)

    def _commit_inputs(self, old: Layout, new: Layout, undo: ExitStack) -> None:
        """Start the inputs that are new, and tell the others of their settings. Raises OSError."""
        former = {door.input: door for door in old.doors if door.input is not None}
        for door in new.doors:
            if door.input is None or door.source is None:
                continue
            before = former.get(door.input)
            if before is None:
                undo.callback(door.input.stop, 0.0)
                door.input.start()
            elif before.config != door.config or before.number != door.number or _reads_files(door.config):
                undo.callback(door.input.reconfigure, before.config)
                undo.callback(setattr, door.source, "number", before.number)
                undo.callback(setattr, door.source, "sources", before.sources)
                door.source.number = door.number
                door.source.sources = door.sources
                door.input.reconfigure(door.config)
            self.feed.set_sockets(door.number, len(door.own))

    def _commit_gates(self, old: Layout, new: Layout, undo: ExitStack) -> None:
        """Start the gates that are new, and give all of them the certificates as they are now."""
        running = {door.gate for door in old.doors}
        for door in new.doors:
            if door.gate is None or door.context is None:
                continue
            undo.callback(setattr, door.gate, "context", door.gate.context)
            door.gate.context = door.context
            undo.callback(setattr, door.gate, "sources", door.gate.sources)
            door.gate.sources = door.sources
            if door.gate not in running:
                undo.callback(door.gate.stop, 0.0)
                door.gate.start([one.sock for one in door.sockets])

    def _commit_host(self, old: Layout, new: Layout, undo: ExitStack) -> None:
        """Start the collectors of this machine, or tell them of their settings."""
        assert new.config is not None
        if new.config.gathered is None:
            return
        tags = new.config.agent.tags
        if self._host is None:
            # Imported where it is wanted: psutil takes time and memory.
            from agent.inputs.host import HostInput

            number = next(number for number, (name, _) in new.names if name == HOST)
            self._host = HostInput(
                new.config.gathered, tags, Source(self.feed, number), self.ledger, self.fares
            )
            undo.callback(self._end_host)
            self._host.start()
        else:
            assert old.config is not None and old.config.gathered is not None
            undo.callback(self._host.reconfigure, old.config.gathered, old.config.agent.tags)
            self._host.reconfigure(new.config.gathered, tags)

    def _end_host(self) -> None:
        if self._host is not None:
            self._host.stop(SOCKET_DRAIN_S)
            self._host = None

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
        read = {id(placed.sock) for door in new.doors for placed in door.placed}
        kept = {id(sock) for door in new.doors for sock in door.sockets}
        gone = [sock for door in old.doors for sock in door.sockets if id(sock) not in kept]
        for sock in gone:
            sock.cut_off()
        staying_gates = {door.gate for door in new.doors}
        for door in old.doors:
            if door.gate is not None and door.gate not in staying_gates:
                door.gate.stop(SOCKET_DRAIN_S / 2)
        for placed in (placed for door in old.doors for placed in door.placed):
            if id(placed.sock) not in read:
                self._lanes[placed.lane].remove_socket(placed.sock.fd, drain=True)
        staying_inputs = {door.input: door.number for door in new.doors if door.input is not None}
        for door in old.doors:
            if door.input is None:
                continue
            if door.input not in staying_inputs:
                door.input.stop(SOCKET_DRAIN_S)
            if door.number not in staying_inputs.values():
                self.feed.set_sockets(door.number, 0)
        if new.config.gathered is None:
            self._end_host()
        self._watch.settle()
        self._kept_types.take(old.guards, time.monotonic(), time.time_ns())
        if new.guards is not None:
            new.guards.inherit(old.guards)
        close_sockets(gone, self._pool)
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
    tags, rings = _tags(layout), [route.rings[index] for route in layout.routes]
    lane.set_layout(tags, rings, _guard(layout, f"lane-{index}", tags, rings))


def _rings(layout: Layout, writer: str) -> list[Ring]:
    """What *writer*, one of :data:`agent.route.OTHERS`, writes: a ring of each output, or none."""
    return [route.others[writer] for route in layout.routes if writer in route.others]


def _guard(layout: Layout, writer: str, tags: Tags, rings: Sequence[Ring]) -> Guard | None:
    return layout.guards.of(writer, tags, rings) if layout.guards is not None else None


def _same_field(config: Config) -> str:
    return config.collisions.same_field if config.collisions is not None else ""


def _watching(config: Config) -> Watching:
    return Watching(trace=config.log.trace, within=config.slo.within)


def _tags(layout: Layout) -> list[tuple[bytes, bytes]]:
    tags = layout.config.agent.tags if layout.config is not None else {}
    return [(name.encode(), value.encode()) for name, value in sorted(tags.items())]


def _other_writers(config: Config) -> list[str]:
    """What writes rings besides the lanes, in *config*: some of :data:`agent.route.OTHERS`."""
    ticks = any(listen.format == "statsd" for listen in config.listen)
    feeds = config.gathered is not None or any(inputs.kind(listen) for listen in config.listen)
    return [writer for writer, there in zip(OTHERS, (ticks, feeds), strict=True) if there]


def _changes(output: Output, config: OutputConfig, whole: Config) -> bool:
    """Whether the same settings would make another output: by files that they name, or by our own name."""
    renamed = isinstance(output, BrokerSink) and output.agent != whole.agent.known_as
    return renamed or _reads_files(config)


def _reads_files(config: OutputConfig | Listen) -> bool:
    """Whether the same settings may make another one, since the files that they name have changed."""
    if isinstance(config, Listen):
        return bool(config.cert)
    return isinstance(config, ServerOutput) and bool(config.ca or config.cert or config.key)
