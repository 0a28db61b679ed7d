"""The connections of an HTTP listener: how many there may be, and how long each may take for what.

aiohttp bounds the size of a head, but neither the time that anything takes nor the number of connections. A
:class:`Connection` stands between the transport and aiohttp's protocol, notes what the client is at, and
:meth:`Connections.sweep`, once a second, cuts those that are too slow:

    waiting ─▶ head ─▶ body ─▶ work ─▶ waiting

The first request of a connection, and every head once it has begun, must be there within :data:`HEAD_S`. A
body must come at :data:`BODY_RATE` on average, with :data:`BODY_GRACE_S` to spare. Whoever does not read its
answers is cut after :data:`ANSWER_S`.
"""

import asyncio
import time
from collections import Counter
from typing import cast

HEAD_S = 10.0
HEAD_BYTES_MAX = 1 << 20
"""What may come before a head is complete; aiohttp refuses a head long before, and a body may follow it."""
BODY_GRACE_S = 10.0
BODY_RATE = 4096
"""Bytes a second."""
ANSWER_S = 30.0

WAITING, HEAD, BODY, WORK = range(4)


class Connections:
    """All connections of one listener, and the counters of what was done to them. The loop's alone."""

    def __init__(self, connections_max: int, idle_timeout: float) -> None:
        self.connections_max = connections_max
        self.idle_timeout = idle_timeout
        """Seconds; 0 is for ever."""
        self.accepting = 0
        """Accepted, and not yet a connection: in its TLS handshake."""
        self.events: Counter[str] = Counter()
        """Connections ``accepted``, turned away (``refused``), and cut: ``slow``, ``idle``, ``unread``, or in
        the ``handshake`` of TLS."""
        self.idle = asyncio.Event()
        """Set while no request is under way."""
        self.idle.set()
        self.busy = 0
        """Requests under way."""
        self._open: dict[asyncio.BaseProtocol, Connection] = {}

    def __len__(self) -> int:
        return len(self._open) + self.accepting

    def of(self, protocol: asyncio.BaseProtocol) -> "Connection | None":
        """The connection of a protocol of aiohttp's; None if it has gone."""
        return self._open.get(protocol)

    def add(self, connection: "Connection") -> None:
        self._open[connection.inner] = connection

    def remove(self, connection: "Connection") -> None:
        self._open.pop(connection.inner, None)

    def begin(self, connection: "Connection", now: float) -> None:
        """A request's head is there."""
        connection.enter(BODY, now)
        connection.fresh = False
        self.busy += 1
        self.idle.clear()

    def end(self, connection: "Connection", now: float) -> None:
        """The request is answered."""
        connection.enter(WAITING, now)
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()

    def close_idle(self) -> None:
        """Close those that have no request under way."""
        for connection in [*self._open.values()]:
            if connection.phase in (WAITING, HEAD):
                connection.close()

    def abort_all(self) -> None:
        for connection in [*self._open.values()]:
            connection.abort()

    def sweep(self, now: float) -> None:
        """Cut whoever is too slow. *now* is monotonic."""
        for connection in [*self._open.values()]:
            if event := connection.late(now, self.idle_timeout):
                self.events[event] += 1
                connection.abort()


class Connection(asyncio.Protocol):
    """One connection: passes everything on to *inner*, and notes what the client is at."""

    __slots__ = ("_connections", "_paused_at", "_transport", "fresh", "inner", "phase", "received", "since")

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self.inner = inner
        self.phase = WAITING
        self.since = time.monotonic()
        """When the phase began."""
        self.received = 0
        """Bytes since then."""
        self.fresh = True
        """Whether no request has come yet."""
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._paused_at = 0.0

    def enter(self, phase: int, now: float) -> None:
        self.phase, self.since, self.received = phase, now, 0

    def late(self, now: float, idle_timeout: float) -> str:
        """Why the connection has had time enough; empty while it has not."""
        if self._paused_at and now - self._paused_at > ANSWER_S:
            return "unread"
        taken = now - self.since
        if self.phase == BODY:
            return "slow" if taken > BODY_GRACE_S + self.received / BODY_RATE else ""
        if self.phase == HEAD or (self.phase == WAITING and self.fresh):
            return "slow" if taken > HEAD_S or self.received > HEAD_BYTES_MAX else ""
        return "idle" if self.phase == WAITING and 0.0 < idle_timeout < taken else ""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- from the transport ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.phase == WAITING:
            # A first request has its time from the connection on.
            self.enter(HEAD, self.since if self.fresh else time.monotonic())
        self.received += len(data)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self._paused_at = time.monotonic()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._paused_at = 0.0
        self.inner.resume_writing()
