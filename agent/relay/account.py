"""What one listener of a broker has seen: its counters, and the messages that it knows again.

It outlives the listener's connection and every reload, as the number of the listener does.
"""

from collections import deque

WINDOW = 65_536
"""Messages that are known again, the last ones that were decided."""


class Window:
    """The identities of the last messages. One thread at a time."""

    def __init__(self, size: int = WINDOW) -> None:
        self._known: set[bytes] = set()
        self._order: deque[bytes] = deque()
        self._size = size

    def __contains__(self, identity: str) -> bool:
        return _packed(identity) in self._known

    def add(self, identity: str) -> None:
        packed = _packed(identity)
        if packed in self._known:
            return
        self._known.add(packed)
        self._order.append(packed)
        if len(self._order) > self._size:
            self._known.discard(self._order.popleft())


def _packed(identity: str) -> bytes:
    """A batch's id and a checksum as bytes, a third of their text."""
    return bytes.fromhex(identity.replace("-", ""))


class RelayCounters:
    """What became of messages. Written by the listener's thread; any thread may read.

    Each message that the broker was told to forget is passed on, a duplicate, or poisoned.
    """

    def __init__(self) -> None:
        self.window = Window()
        self.messages = 0
        """Taken, and decided, like all below up to ``expired``."""
        self.bytes = 0
        """Of their bodies as they came."""
        self.metrics = 0
        """In those that were passed on, by what they say."""
        self.carried = 0
        """Of these, the ones that went on as they were; the feed counts the others."""
        self.duplicates = 0
        self.duplicate_metrics = 0
        self.poisoned = 0
        """Messages that are no message of an agent, or cannot be read."""
        self.damaged = 0
        """Metrics in them that no output was sent, by what they say."""
        self.expired = 0
        """Messages that the broker had given up before anybody read them."""
        self.redelivered = 0
        """Messages that the broker had handed out before."""
        self.in_flight = 0
        """Messages that are taken and undecided now."""
        self.in_flight_bytes = 0
        self.paused = False
        """Whether nothing more is taken, since too much is undecided."""
        self.owner: object = None
        """Who reads for it now: at a reload another connection may begin before the former one has ended."""
        self.connected = False
        self.failing = ""
        """Why nothing can be taken, if so."""
