"""What listeners of brokers have in common: a thread of their own, and how they tell how they fare."""

import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping

from msgspec.structs import replace

from agent.config import Listen
from agent.inputs.base import Input, Source

logger = logging.getLogger(__name__)

RETRY_MIN_S = 0.2
RETRY_MAX_S = 5.0
"""Between two attempts to reach a broker: at first, and doubled up to this."""

LATER = ("name", "max_in_flight")
"""Keys that can change while messages are under way; for others all is let go, and taken anew."""


class BrokerError(Exception):
    """Why nothing can be read from a broker now, for a person."""


class BrokerInput(Input):
    """One listener of a broker. Its thread connects, and connects again, until it is stopped."""

    scheme = ""

    def __init__(self, config: Listen, source: Source) -> None:
        assert source.relay is not None
        self.config = config
        self.source = source
        self.relay = source.relay
        self.counters = self.relay.counters
        self.stopping = False
        self.stop_at = 0.0
        """When to end at the latest (monotonic), once stopping."""
        self.turns = 0
        self.waiting = False
        """Whether the thread waits for the broker, in a call that takes seconds where that is gone."""
        self._changed = False
        self._name = f"{self.scheme}-{source.number}"
        self._thread: threading.Thread | None = None

    # ---- for the pipeline ----

    def check(self, config: Listen) -> None:
        """What could be wrong with it shows when the broker is asked."""

    def start(self) -> None:
        self.counters.owner = self
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def reconfigure(self, config: Listen) -> None:
        before, self.config = self.config, config
        self._changed |= before != replace(config, **{name: getattr(before, name) for name in LATER})
        self.wake()

    def stop(self, drain: float) -> None:
        if self._thread is None:
            return
        self.stop_at = time.monotonic() + drain
        self.stopping = True
        self.wake()
        self._thread.join()
        self._thread = None

    def beats(self) -> Mapping[str, int]:
        # What waits for a broker does not hang.
        self.turns += self.waiting
        return {self._name: self.turns}

    # ---- the thread ----

    @abstractmethod
    def wake(self) -> None:
        """Have the thread look around. Any thread."""

    @abstractmethod
    def serve(self) -> None:
        """Connect and take messages until it is stopping; what fails is told, and tried again."""

    def _run(self) -> None:
        try:
            self.serve()
        except Exception as error:
            self.failure = f"the listener {self.config.name} ended: {error!r}"
            logger.critical(
                "a listener of a broker ended", extra={"listener": self.config.name}, exc_info=True
            )
        if self.counters.owner is self:
            self.counters.connected = self.counters.paused = False
            self.counters.failing = ""

    def take_change(self) -> bool:
        """Whether the settings of the connection have changed since it was asked last."""
        changed, self._changed = self._changed, False
        return changed

    @property
    def changed(self) -> bool:
        return self._changed

    @property
    def ending(self) -> bool:
        """Whether the connection is to end."""
        return self.stopping or self._changed

    def connected(self) -> None:
        """The broker answers, and lets us read."""
        self.counters.connected = True
        if self.counters.failing:
            self.counters.failing = ""
            extra = {"listener": self.config.name, "address": self.config.address}
            logger.info("a broker can be read again", extra=extra)

    def failed(self, reason: str) -> None:
        """It does not, for *reason*; the log is told once of each."""
        self.counters.connected = False
        if reason != self.counters.failing:
            self.counters.failing = reason
            extra = {"listener": self.config.name, "address": self.config.address, "reason": reason}
            logger.warning("a broker cannot be read; it is tried again", extra=extra)

    def expired(self, messages: int, **where: object) -> None:
        """The broker has dropped *messages* that nobody had read."""
        self.counters.expired += messages
        extra = {"listener": self.config.name, "messages": messages, **where}
        logger.error("a broker has dropped messages before they were read", extra=extra)

    def room(self) -> int:
        """Bytes that may be taken; below 0 if more is undecided than may be."""
        room = self.config.max_in_flight - self.counters.in_flight_bytes
        self.counters.paused = room <= 0
        return room
