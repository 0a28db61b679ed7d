"""A door: a listener with its open sockets, what reads them, and what aggregates for it.

Lanes know a listener by a number, under which its counters live as long as the lanes do. A listener keeps its
number as long as its name is in the config, and an aggregator goes with the name: one that moves to another
address takes along what it has aggregated.
"""

import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent._core import Aggregator, Connections, Graphite, Lane, Sources
from agent.aggregation import Source, identity, make_aggregator
from agent.config import Listen
from agent.config_networks import networks
from agent.gate import Gate, GateCounters, Room, make_context
from agent.inputs.base import Input
from agent.inputs.base import Source as FeedSource
from agent.listeners import BoundSocket
from agent.templates import compile_templates

HOST = "host"
"""The name under which the metrics of ``[host]`` are counted."""

LISTENERS_MAX = 64
"""Numbers that a lane has for listeners."""


@dataclass(frozen=True)
class Placed:
    """A socket, and the lane that reads it."""

    lane: int
    sock: BoundSocket


@dataclass(frozen=True)
class Door:
    """A listener with its open sockets, under the number that the lanes know it by."""

    config: Listen
    number: int
    placed: tuple[Placed, ...]
    aggregator: Aggregator | None = None
    """What its samples go to, if its format is ``statsd``."""
    graphite: Graphite | None = None
    """Its templates, if its format is ``graphite``."""
    input: Input | None = None
    """What reads its sockets, if no lane does."""
    source: FeedSource | None = None
    """What the input hands its metrics to."""
    own: tuple[BoundSocket, ...] = ()
    """The sockets that the input reads."""
    gate: Gate | None = None
    """What accepts and speaks TLS before the lanes read, if it is spoken there."""
    context: ssl.SSLContext | None = None
    """What the gate is to speak it with."""
    connections: Connections | None = None
    """How many come by its sockets, if those are streams that lanes read. Stays as long as the sockets do."""
    sources: Sources | None = None
    """Who may send how much; None is anybody, anything."""

    @property
    def sockets(self) -> list[BoundSocket]:
        # By a Unix socket several lanes accept.
        return [*dict.fromkeys(placed.sock for placed in self.placed), *self.own]

    @property
    def reading(self) -> tuple[object, ...]:
        """All that a lane must know to read the sockets."""
        listen = self.config
        how = (listen.format, listen.precision, listen.max_line, listen.max_datagram, listen.gro)
        known = listen.name, listen.address
        made = self.aggregator, self.graphite, self.sources
        return self.number, known, *made, how, listen.idle_timeout, self.gate is None

    def read_socket(self, lane: Lane, sock: BoundSocket) -> None:
        """Have *lane* receive from *sock*, one of this door's, or change how it does. Raises OSError."""
        listen = self.config
        lane.add_socket(
            self.number,
            sock.fd,
            precision=listen.precision,
            line_bytes_max=listen.max_line,
            datagram_bytes_max=listen.max_datagram,
            gro=listen.gro,
            format=listen.format,
            aggregator=self.aggregator,
            graphite=self.graphite,
            connections=self.connections,
            idle_timeout=listen.idle_timeout,
            accepts=self.gate is None,
            # What waits there is for the next process, which systemd passes the same socket.
            shared=sock.passed_name is not None,
            framed=listen.format == "statsd" and sock.sock.family == socket.AF_UNIX,
            name=listen.name,
            address=listen.address,
            sources=self.sources,
        )


def place(number: int, sockets: Sequence[BoundSocket], lanes: int) -> tuple[Placed, ...]:
    """Give *sockets* to lanes. The number turns listeners of one socket towards different lanes.

    Where connections are accepted by fewer sockets than there are lanes, every lane accepts by all.
    """
    if len(sockets) < lanes and all(sock.stream for sock in sockets):
        return tuple(Placed(lane, sock) for lane in range(lanes) for sock in sockets)
    return tuple(Placed((number + index) % lanes, sock) for index, sock in enumerate(sockets))


def gate_for(
    door: Door, former: Gate | None, lanes: Sequence[Lane], counters: GateCounters
) -> tuple[Gate | None, ssl.SSLContext | None]:
    """What speaks TLS for *door*, if that is wanted: the *former* gate of its sockets or a new one.

    With it a context made of the files as they are now, for :attr:`Gate.context`. Raises ListenError.
    """
    if not door.config.cert or door.connections is None:
        return None, None
    context = make_context(door.config)
    if former is not None:
        return former, context
    counted = door.connections
    readers: dict[int, list[Lane]] = {}
    for placed in door.placed:
        readers.setdefault(placed.sock.fd, []).append(lanes[placed.lane])

    def bring(sock: socket.socket, connection: int, peer: str) -> None:
        mine = readers[sock.fileno()]
        mine.append(mine.pop(0))
        mine[-1].add_connection(sock.fileno(), connection, peer)

    room = Room(lambda: counted.open, lambda: counted.most)
    return Gate(door.config.name, context, bring, room, counters), context


def connections_for(
    listen: Listen, sockets: Sequence[BoundSocket], former: Door | None
) -> Connections | None:
    """What counts the connections of *listen*: the *former* door of the sockets has it, or a new one."""
    if not all(sock.stream for sock in sockets):
        return None
    return (former.connections if former is not None else None) or Connections(listen.max_connections)


def aggregator_for(listen: Listen, doors: Iterable[Door], lanes: int) -> Aggregator | None:
    """What aggregates for *listen*: what did so among *doors* until now, or a new one. None for line."""
    if listen.format != "statsd":
        return None
    for door in doors:
        if door.config.name == listen.name and door.aggregator and identity(door.config) == identity(listen):
            return door.aggregator
    return make_aggregator(listen, lanes)


def graphite_for(listen: Listen, doors: Iterable[Door]) -> Graphite | None:
    """The templates of *listen*, compiled: those of *doors* if they are the same. None for other formats."""
    if listen.format != "graphite":
        return None
    for door in doors:
        if door.graphite is not None and (door.config.templates, door.config.join) == (
            listen.templates,
            listen.join,
        ):
            return door.graphite
    return compile_templates(listen.templates, listen.join)


_RATES = ("rate", "source_rate", "burst", "max_sources")


def sources_for(listen: Listen, doors: Iterable[Door]) -> Sources | None:
    """Who may send how much by *listen*: what its name has among *doors* if the keys are the same.

    Under another rate everybody begins anew: what is owed is a time. None without limits. Raises OSError
    without memory.
    """
    if not (listen.rate or listen.source_rate or listen.sources):
        return None
    former = None
    for door in doors:
        same = all(getattr(door.config, key) == getattr(listen, key) for key in _RATES)
        if door.config.name == listen.name and same:
            former = door.sources
            if former is not None and door.config.sources == listen.sources:
                return former
    return Sources(
        rate=listen.rate,
        source_rate=listen.source_rate,
        burst=listen.burst,
        max_sources=listen.max_sources,
        networks=networks(listen.sources) if listen.sources else None,
        former=former,
    )


def aggregated(doors: Iterable[Door]) -> list[Source]:
    """The doors that aggregate, as the tick thread wants them."""
    return [
        Source(door.number, door.config.name, door.config.interval, door.aggregator)
        for door in doors
        if door.aggregator is not None
    ]


class Named(NamedTuple):
    """What has a number, and is no listener of the config."""

    name: str
    address: str


def number_listeners(
    listens: Iterable[Listen | Named], names: dict[int, tuple[str, str]]
) -> dict[int, tuple[str, str]]:
    """Give each listener the number that its name had before, or a new one: (name, address) by number.

    Once all numbers have been used, that of a listener which is gone is given on, with its counters.
    """
    listens = list(listens)
    known = {name: number for number, (name, _) in names.items()}
    wanted = {listen.name for listen in listens}
    free = [number for number in range(LISTENERS_MAX) if number not in names]
    free += [number for number, (name, _) in names.items() if name not in wanted]
    for listen in listens:
        number = known[listen.name] if listen.name in known else free.pop(0)
        names[number] = (listen.name, listen.address)
    return names
