"""How the body of a message gets to all outputs, as it is: one shipment, and a receipt of each output.

A body goes on as the bytes that it is where every output takes it so: in its encoding, whole, and unchanged.
Otherwise it has to be read (:mod:`agent.relay.reading`). Which it is hangs on the configuration and the form
of the body alone, so the body is not even looked at.
"""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent._core import Ring
from agent.config import Config, FilterTable
from agent.config import Output as OutputConfig
from agent.delivery.flusher import Flusher
from agent.delivery.work import Carried
from agent.outputs.base import Output, Payload

FORMS = {"lp": frozenset({("lp", ""), ("lp", "gz")}), "pb": frozenset({("pb", ""), ("pb", "sz")})}
"""Encoding and compression of bodies that an output takes as they are, by what its rings hold.

What is for InfluxDB 1 (``lp_signed``) may hold no unsigned integers, and a body does not say whether it does.
"""


class Ways(NamedTuple):
    """Where bodies go, as the configuration has it now."""

    flushers: tuple[Flusher, ...] = ()
    """Of all outputs."""
    rings: tuple[Ring, ...] = ()
    """The feed's, of all outputs."""
    forms: frozenset[tuple[str, str]] = frozenset()
    """Encoding and compression of bodies that all outputs take as they are."""


def forms(config: Config, outputs: Iterable[tuple[OutputConfig, Output]]) -> frozenset[tuple[str, str]]:
    """What all *outputs* take as it is: nothing where a metric may be changed, left out or refused."""
    if config.agent.tags or config.shape or config.cardinality or config.types:
        return frozenset()
    found = [FORMS.get(output.encoding, frozenset()) for _, output in outputs]
    if any(one.shard or one.filter != FilterTable() for one, _ in outputs):
        return frozenset()
    return frozenset.intersection(*found) if found else frozenset()


class Shipment:
    """One body on its way. *ended* is called once, by any thread, when every output has told of it."""

    __slots__ = ("_ended", "_lock", "_missing", "damaged", "decided", "works")

    def __init__(self, ended: "Callable[[Shipment], None]") -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._missing = 1
        self.decided = True
        """Whether every output has delivered, rejected or stored it."""
        self.damaged = False
        """Whether some output was refused it, and could not read it."""
        self.works: list[tuple[Flusher, Carried]] = []

    def send(self, payload: Payload, batch: str, flushers: Iterable[Flusher]) -> None:
        """Give it to all outputs."""
        for flusher in flushers:
            with self._lock:
                self._missing += 1
            # Each attempt writes into its payload.
            own = Payload(
                payload.data,
                payload.metrics,
                payload.raw_bytes,
                payload.encoding,
                payload.compression,
                oldest_ns=payload.oldest_ns,
            )
            work = flusher.carry(own, batch, self._told)
            if work is None:
                self._count(False, False)
            else:
                self.works.append((flusher, work))
        self._count(True, False)

    def _told(self, work: Carried, decided: bool) -> None:
        self._count(decided, decided and work.damaged)

    def _count(self, decided: bool, damaged: bool) -> None:
        with self._lock:
            self._missing -= 1
            self.decided &= decided
            self.damaged |= damaged
            last = not self._missing
        if last:
            self._ended(self)


class Carrier:
    """The way to the outputs, for all listeners of brokers. Any thread."""

    def __init__(self) -> None:
        self.ways = Ways()
        """Replaced as a whole."""

    def takes(self, payload: Payload) -> bool:
        """Whether *payload* can go on as it is."""
        return (payload.encoding, payload.compression) in self.ways.forms

    def send(self, payload: Payload, batch: str, ended: Callable[[Shipment], None]) -> Shipment:
        """Bring *payload* to all outputs; *ended* may be called before the return."""
        shipment = Shipment(ended)
        shipment.send(payload, batch, self.ways.flushers)
        return shipment

    def let_go(self, shipments: Iterable[Shipment]) -> None:
        """Nobody waits for them any more."""
        by_flusher: dict[Flusher, list[Carried]] = {}
        for shipment in shipments:
            for flusher, work in shipment.works:
                by_flusher.setdefault(flusher, []).append(work)
        for flusher, works in by_flusher.items():
            flusher.let_go(works)
