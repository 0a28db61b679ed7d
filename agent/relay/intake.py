"""What a listener has taken from its broker, from the arrival of a message until it may be forgotten.

    message ─▶ parse ─▶ known? ─▶ as it is ─▶ Carrier ─▶ every output ─┐
                 │         │   └─▶ Reading ─▶ feed ─▶ rings ───────────┤
                 ▼         ▼                                           ▼
              rejected  duplicate ────────────────────────────▶ decided: the broker may forget it
                                       let go: it has to bring it again ◀─ stop, reload, a partition that went

The broker is told to forget a message when all outputs have delivered, rejected or stored it, not before. So
whatever ends this process costs no metric: the messages come again, to it or to another relay, and those that
had been sent after all are repeated, which a database does not notice. One that comes again soon is known,
and is not sent again.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from agent.outputs.base import Payload, one_line, plain, snappy_bytes
from agent.relay.account import RelayCounters
from agent.relay.carrier import Carrier, Shipment
from agent.relay.message import Message, parse
from agent.relay.reading import Reading, Reads
from agent.store.rejected import Rejected

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 1024
"""A message in flight counts as so much more than its body."""


class Place(Protocol):
    """Where a message lies in its broker."""

    def about(self) -> Mapping[str, Any]:
        """The same for people."""


P = TypeVar("P", bound=Place)


class Watcher(Protocol):
    """Who is shown every message. The listener's thread."""

    def seen(self, message: Message, now_ns: int, duplicate: bool, redelivered: bool) -> None: ...


class Relay(NamedTuple):
    """What a listener of a broker is given besides its way into the feed."""

    carrier: Carrier
    counters: RelayCounters
    poison: Rejected
    """Keeps what nobody can read."""
    watcher: Watcher | None = None


class Held(Generic[P]):
    """A message that is undecided. *places*: as often as the broker has brought it meanwhile."""

    __slots__ = ("message", "places", "reading", "shipment", "size")

    def __init__(self, message: Message, place: P, size: int) -> None:
        self.message = message
        self.places = [place]
        self.size = size
        self.shipment: Shipment | None = None
        self.reading: Reading | None = None


class Intake(Generic[P]):
    """One listener's. For its thread alone, but for what outputs tell.

    *call* has something done in that thread, from any other. *forget* is given the place of a message that
    is decided, *bring_again* that of one that was let go.
    """

    def __init__(
        self,
        name: str,
        relay: Relay,
        source: Reads,
        *,
        call: Callable[[Callable[[], None]], None],
        forget: Callable[[P], None],
        bring_again: Callable[[P], None],
    ) -> None:
        self._name = name
        self._carrier = relay.carrier
        self._source = source
        self.counters = relay.counters
        self._poison = relay.poison
        self._call = call
        self._forget = forget
        self._bring_again = bring_again
        self._watcher = relay.watcher
        self._held: dict[str, Held[P]] = {}
        self._reading: deque[Held[P]] = deque()
        """Those that the feed reads, in their order."""
        self._disk: ThreadPoolExecutor | None = None
        self._writing_bytes = 0

    # ---- what comes ----

    def take(
        self, headers: Mapping[str, str], body: bytes, place: P, *, redelivered: bool = False
    ) -> Held[P] | None:
        """A message has come. Returns it unless that is the end of it."""
        self.counters.redelivered += redelivered
        try:
            message = parse(headers, body)
            _check(message.payload)
        except ValueError as error:
            self._reject(body, 0, place, str(error), {})
            return None
        identity = message.identity
        held = self._held.get(identity)
        duplicate = held is not None or identity in self.counters.window
        if self._watcher is not None:
            self._watcher.seen(message, time.time_ns(), duplicate, redelivered)
        if held is not None:
            held.places.append(place)
            return held
        if duplicate:
            self._count_duplicates(message, 1)
            self._forget(place)
            return None
        held = Held(message, place, len(body) + MESSAGE_BYTES)
        self._held[identity] = held
        self.counters.in_flight += 1
        self.counters.in_flight_bytes += held.size
        self._pass_on(held)
        return held

    def _pass_on(self, held: Held[P]) -> None:
        message = held.message
        payload = message.payload
        # An arrival that has not been yet is a clock that is wrong.
        payload.oldest_ns = min(message.oldest_ns, time.time_ns())
        if self._carrier.takes(payload):

            def ended(shipment: Shipment) -> None:
                self._call(lambda: self._shipped(held, shipment))

            held.shipment = self._carrier.send(payload, message.batch, ended)
            return
        try:
            held.reading = Reading(payload, self._source)
        except ValueError as error:
            self._poisoned(held, str(error), counted=False)
            return
        self._reading.append(held)
        self.read_on()

    # ---- what becomes of it ----

    @property
    def reads(self) -> bool:
        """Whether :meth:`read_on` is to be called every few milliseconds."""
        return bool(self._reading)

    def read_on(self) -> None:
        """Go on with what the feed reads, as far as it has room, and see what of it is decided."""
        ways = self._carrier.ways
        left: deque[Held[P]] = deque()
        blocked = False
        while self._reading:
            held = self._reading.popleft()
            assert held.reading is not None
            try:
                # In order: what waits for room lets nothing pass.
                done = not (blocked and held.reading.waits) and held.reading.go_on(ways)
            except ValueError as error:
                self._poisoned(held, str(error), counted=True)
                continue
            if held.reading.full:
                self._let_go(held)
            elif held.reading.reason:
                self._poisoned(held, held.reading.reason, counted=True)
            elif done:
                self._decided(held, as_it_is=False)
            else:
                blocked |= held.reading.waits
                left.append(held)
        self._reading = left

    def _shipped(self, held: Held[P], shipment: Shipment) -> None:
        """Every output has told of it."""
        if self._held.get(held.message.identity) is not held:
            # It was let go; what the outputs did is known all the same.
            if shipment.decided:
                self.counters.window.add(held.message.identity)
            return
        if not shipment.decided:
            self._let_go(held)
        elif shipment.damaged and (reason := _damage(held.message.payload)):
            self._decided(held, as_it_is=True, kept=reason)
        else:
            self._decided(held, as_it_is=True)

    def _decided(self, held: Held[P], *, as_it_is: bool, kept: str = "") -> None:
        """All outputs are done with it; *kept* says why it is kept all the same."""
        message, counters = held.message, self.counters
        if not self._remove(held):
            return
        counters.window.add(message.identity)
        counters.messages += 1
        counters.bytes += len(message.payload.data)
        counters.metrics += message.payload.metrics
        counters.carried += message.payload.metrics if as_it_is else 0
        self._count_duplicates(message, len(held.places) - 1)
        if kept:
            counters.poisoned += 1
            self._keep(held.message, held.places, kept)
            return
        for place in held.places:
            self._forget(place)

    def _poisoned(self, held: Held[P], reason: str, *, counted: bool) -> None:
        """Nothing in it can be read. *counted*: the feed has counted its metrics as dropped."""
        message, counters = held.message, self.counters
        if not self._remove(held):
            return
        counters.window.add(message.identity)
        counters.messages += 1
        counters.bytes += len(message.payload.data)
        counters.poisoned += 1
        counters.damaged += 0 if counted else message.payload.metrics
        self._count_duplicates(message, len(held.places) - 1)
        self._keep(message, held.places, reason)

    def _let_go(self, held: Held[P]) -> None:
        """It is to come again."""
        if self._remove(held):
            for place in held.places:
                self._bring_again(place)

    def _remove(self, held: Held[P]) -> bool:
        """It is not in flight any more. False if it was not."""
        if self._held.get(held.message.identity) is not held:
            return False
        del self._held[held.message.identity]
        self.counters.in_flight -= 1
        self.counters.in_flight_bytes -= held.size
        return True

    def _count_duplicates(self, message: Message, count: int) -> None:
        self.counters.messages += count
        self.counters.bytes += count * len(message.payload.data)
        self.counters.duplicates += count
        self.counters.duplicate_metrics += count * message.payload.metrics

    # ---- what nobody can read ----

    def _reject(self, body: bytes, metrics: int, place: P, reason: str, more: Mapping[str, Any]) -> None:
        """It is no message of an agent."""
        self.counters.messages += 1
        self.counters.bytes += len(body)
        self.counters.poisoned += 1
        self._store(body, metrics, [place], reason, more)

    def _keep(self, message: Message, places: list[P], reason: str) -> None:
        payload = message.payload
        more = {
            "agent": message.agent,
            "batch": message.batch,
            "encoding": payload.encoding,
            "compression": payload.compression or "none",
            "oldest_ns": message.oldest_ns,
        }
        self._store(bytes(payload.data), payload.metrics, places, reason, more)

    def _store(
        self, body: bytes, metrics: int, places: list[P], reason: str, more: Mapping[str, Any]
    ) -> None:
        """Keep *body* in a file, which may take its time, and then have the broker forget it."""
        where, reason = places[-1].about(), one_line(reason)
        about = {"listener": self._name, **where, "reason": reason, **more}
        extra = {"listener": self._name, "where": where, "reason": reason, "bytes": len(body)}
        logger.warning("a message of a broker cannot be read; it is kept", extra=extra)
        size = len(body) + MESSAGE_BYTES
        self._writing_bytes += size
        self.counters.in_flight_bytes += size

        def stored() -> None:
            self._writing_bytes -= size
            self.counters.in_flight_bytes -= size
            for place in places:
                self._forget(place)

        def store() -> None:
            self._poison.keep(body, metrics, about)
            self._call(stored)

        if self._disk is None:
            self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"poison-{self._name}")
        self._disk.submit(store)

    # ---- the end, and what is asked meanwhile ----

    @property
    def places(self) -> list[P]:
        """Where all that is undecided lies."""
        return [place for held in self._held.values() for place in held.places]

    def let_go(self, which: Callable[[P], bool] = lambda place: True) -> None:
        """Let go of what lies at the places that *which* names: attempts of it are not repeated."""
        going = []
        for held in self._held.values():
            # What another place has is still wanted.
            staying = [place for place in held.places if not which(place)]
            if staying:
                held.places = staying
            else:
                going.append(held)
        for held in going:
            self._let_go(held)
        self._reading = deque(held for held in self._reading if held.message.identity in self._held)
        self._carrier.let_go(held.shipment for held in going if held.shipment is not None)

    def close(self) -> None:
        """The thread ends. What is on its way to the disk still gets there, and comes again all the same."""
        self.counters.in_flight_bytes -= self._writing_bytes
        self._writing_bytes = 0
        if self._disk is not None:
            self._disk.shutdown(wait=False)


def _check(payload: Payload) -> None:
    """Raise ValueError where it can be told without reading *payload* that it is not what it says."""
    data = payload.data
    size = len(data)
    if payload.compression == "gz":
        # It ends with the number of bytes that went in, modulo 2^32.
        size = int.from_bytes(data[-4:], "little") if data[:2] == b"\x1f\x8b" else -1
    elif payload.compression == "sz":
        size = snappy_bytes(data)
    if size != payload.raw_bytes & 0xFFFFFFFF:
        raise ValueError("its body is cut off, or is not in the form that its headers say")


def _damage(payload: Payload) -> str:
    """Why *payload* cannot be read; empty if it can."""
    try:
        plain(payload)
    except ValueError as error:
        return str(error)
    return ""
