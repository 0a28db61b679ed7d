"""A door: a listener with its open sockets, the lanes that read them, and what aggregates for it.

Lanes know a listener by a number, under which its counters live as long as the lanes do. A listener keeps its
number as long as its name is in the config, and an aggregator goes with the name: one that moves to another
address takes along what it has aggregated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent._core import Aggregator, Lane
from agent.aggregation import Source, identity, make_aggregator
from agent.config import Listen
from agent.listeners import BoundSocket

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

    @property
    def sockets(self) -> list[BoundSocket]:
        return [placed.sock for placed in self.placed]

    @property
    def reading(self) -> tuple[object, ...]:
        """All that a lane must know to read the sockets."""
        listen = self.config
        how = (listen.format, listen.precision, listen.max_line, listen.max_datagram, listen.gro)
        return self.number, self.aggregator, how

    def read_socket(self, lane: Lane, fd: int) -> None:
        """Have *lane* receive from *fd*, a socket of this door, or change how it does. Raises OSError."""
        listen = self.config
        lane.add_socket(
            self.number,
            fd,
            precision=listen.precision,
            line_bytes_max=listen.max_line,
            datagram_bytes_max=listen.max_datagram,
            gro=listen.gro,
            format=listen.format,
            aggregator=self.aggregator,
        )


def place(number: int, sockets: Sequence[BoundSocket], lanes: int) -> tuple[Placed, ...]:
    """Give *sockets* to lanes. The number turns listeners of one socket towards different lanes."""
    return tuple(Placed((number + index) % lanes, sock) for index, sock in enumerate(sockets))


def aggregator_for(listen: Listen, doors: Iterable[Door], lanes: int) -> Aggregator | None:
    """What aggregates for *listen*: what did so among *doors* until now, or a new one. None for line."""
    if listen.format != "statsd":
        return None
    for door in doors:
        if door.config.name == listen.name and door.aggregator and identity(door.config) == identity(listen):
            return door.aggregator
    return make_aggregator(listen, lanes)


def sources(doors: Iterable[Door]) -> list[Source]:
    """The doors that aggregate, as the tick thread wants them."""
    return [
        Source(door.number, door.config.name, door.config.interval, door.aggregator)
        for door in doors
        if door.aggregator is not None
    ]


def number_listeners(
    listens: Iterable[Listen], names: dict[int, tuple[str, str]]
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
