"""What outputs have in common that publish to a broker: a batch is a message as it stands, and is confirmed.

A client of a broker runs in a thread of its own, an event loop or one that polls. The sender hands it a
:class:`Publication` and waits for that to be decided: by the broker's confirmation, by what went wrong with
the connection, by whoever ends the attempt, or by time. Whatever comes after that is of no more interest. A
message that was given up may be stored all the same, and then once more: who reads it knows it by its
identity (:mod:`agent.relay.message`).
"""

import math
import threading
import time
from abc import abstractmethod

from isal import isal_zlib

from agent.config import BrokerOutput
from agent.outputs.base import GZIP_WBITS, Kind, Output, Payload, Verdict, one_line, snappy
from agent.outputs.bodies import SAMPLES
from agent.outputs.server import WARM_UP_S
from agent.relay.message import headers, identity

GRACE_S = 1.0
"""So much longer than its time limits an attempt waits for whoever keeps them, at most."""


class Publication:
    """One message on its way. The first verdict on it counts. Any thread."""

    __slots__ = ("_decided", "began", "body", "deadline", "ended", "headers", "identity", "phase", "verdict")

    def __init__(self, body: bytes, headers: dict[str, str], deadline: float) -> None:
        self.body = body
        self.headers = headers
        self.identity = identity(headers["Penstock-Batch"], body)
        self.deadline = deadline  # monotonic
        self.began = time.monotonic()
        self.phase = "waiting for a connection"
        """What is going on, as in "timed out while …"."""
        self.verdict: Verdict | None = None
        self.ended = False
        """It was decided without the client: by time, or because the attempt was ended."""
        self._decided = threading.Event()

    def decide(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self.verdict = verdict
            self._decided.set()

    def end(self, why: str) -> None:
        """Decide it in place of the client."""
        self.ended = self.ended or self.verdict is None
        self.decide(retry(why))

    def wait(self) -> Verdict:
        """The verdict, at the deadline at the latest."""
        if not self._decided.wait(max(self.deadline - time.monotonic(), 0.0)):
            self.end(f"timed out while {self.phase}")
        assert self.verdict is not None
        return self.verdict


class BrokerSink(Output):
    """Publishes batches to the broker of *config*, in the name of *agent*."""

    def __init__(self, config: BrokerOutput, agent: str) -> None:
        super().__init__(config.name, config.target)
        self.agent = agent
        self.encoding = SAMPLES if config.format == "protobuf" else "lp"
        self.max_concurrency = config.max_concurrency
        self.retry_min = config.retry_min
        self.retry_max = config.retry_max
        self._longest = config.connect_timeout + config.response_timeout + GRACE_S
        self._level = config.compression_level if config.compression == "gzip" else None
        self._warm_up_at: float | None = time.monotonic() + WARM_UP_S
        # Guards the next two.
        self._posts = threading.Lock()
        self._under_way: set[Publication] = set()
        self._aborted = False

    @abstractmethod
    def warm_up(self) -> None:
        """Bring in the client, once: that takes time, which the first batch should not wait for."""

    @abstractmethod
    def publish(self, publication: Publication) -> None:
        """Begin to send it; it is decided by another thread."""

    @abstractmethod
    def give_up(self, publication: Publication) -> None:
        """It was decided without the client."""

    def encode(self, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        if encoding == SAMPLES:
            return Payload(snappy(body), metrics, len(body), SAMPLES, "sz")
        if self._level is None:
            return Payload(body, metrics, len(body), encoding)
        data = isal_zlib.compress(body, self._level, GZIP_WBITS)
        return Payload(data, metrics, len(body), encoding, "gz")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        """Publish it as it is, in whatever encoding: its headers say which."""
        self.warm_up()
        deadline = min(deadline, time.monotonic() + self._longest)
        publication = Publication(bytes(payload.data), headers(payload, self.agent), deadline)
        with self._posts:
            if self._aborted:
                return retry("aborted")
            self._under_way.add(publication)
        try:
            self.publish(publication)
            verdict = publication.wait()
        finally:
            with self._posts:
                self._under_way.remove(publication)
        if publication.ended:
            self.give_up(publication)
        return verdict

    def due(self) -> float | None:
        return self._warm_up_at

    def tick(self) -> None:
        """Bring in the client before the first batch needs it."""
        self._warm_up_at = None
        self.warm_up()

    def abort(self) -> None:
        with self._posts:
            self._aborted = True
        self._stop(math.inf, "aborted")

    def interrupt(self, before: float) -> None:
        self._stop(before, "interrupted")

    def _stop(self, before: float, why: str) -> None:
        with self._posts:
            publications = [one for one in self._under_way if one.began < before]
        for one in publications:
            one.end(why)


def retry(text: str, status: int | None = None) -> Verdict:
    return Verdict(Kind.RETRY, status=status, text=one_line(text))


def hold(text: str, status: int | None = None) -> Verdict:
    return Verdict(Kind.HOLD, status=status, text=one_line(text))


def split(text: str, status: int | None = None) -> Verdict:
    return Verdict(Kind.SPLIT, status=status, text=one_line(text))
