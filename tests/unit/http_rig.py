"""An HTTP listener for tests, by itself: on a port of the kernel's choice, over a feed with one ring."""

import http.client
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import orjson
from msgspec.structs import replace

from agent._core import Feed, Ring, Waker
from agent.config import Listen
from agent.inputs.base import Source
from agent.inputs.http.input import HttpInput
from agent.listeners import Pool, close_sockets, open_sockets

Headers = Mapping[str, str]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Rig:
    """A context manager: starts and stops the listener. *settings* are keys of a listener."""

    settings: dict[str, Any] = field(default_factory=dict)
    ring_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        self.config = Listen(address="http://127.0.0.1:0", **self.settings)
        self.feed = Feed()
        self.ring = Ring(None, self.ring_bytes, Waker())
        self.feed.set_layout((), [self.ring])
        self.sockets = open_sockets(self.config, 1, Pool())
        self.port: int = self.sockets[0].sock.getsockname()[1]
        self.input = HttpInput(self.config, Source(self.feed, 0), self.sockets)

    def __enter__(self) -> "Rig":
        self.input.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.input.stop(1.0)
        close_sockets(self.sockets, Pool())

    def reconfigure(self, **settings: Any) -> None:
        self.config = replace(self.config, **settings)
        self.input.check(self.config)
        self.input.reconfigure(self.config)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(
        self,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Headers | None = None,
        method: str = "",
    ) -> Answer:
        """One request on a connection of its own: POST if there is a body; an iterable is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            shown = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, shown, response.read())
        finally:
            connection.close()

    def written(self) -> bytes:
        """What has come into the ring since the last call."""
        out = b""
        while (batch := self.ring.take(1 << 24, 1 << 20, True)) is not None:
            out += bytes(memoryview(batch))
            batch.release()
        return out

    def counted(self) -> dict[str, Any]:
        """The listener's counters, those that are not 0."""
        stats: dict[str, Any] = dict(self.feed.stats()["listeners"].get(0, {}))
        return {name: value for name, value in stats.items() if value}

    def balanced(self) -> bool:
        """Whether the first two laws of the ledger hold."""
        stats, ring = self.feed.stats(), self.ring.stats()
        one = stats["listeners"].get(0)
        if one is not None and one["received"] != one["accepted"] + sum(one["dropped"].values()):
            return False
        return stats["accepted"] == ring["accepted"] == ring["written"] + ring["missed"]
