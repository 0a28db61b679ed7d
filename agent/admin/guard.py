"""A bound on what one connection to the admin HTTP may cost: how many, and for how long.

aiohttp bounds the size of a request, not the time it takes to arrive, nor the number of connections. A
:class:`Guard` stands between the transport and aiohttp's protocol and cuts a connection whose request is not
complete in time, whose answer is not taken in time, or that is one too many. Each connection carries one
request only (the server answers ``Connection: close``), which makes these the only limits needed. A stream is
an answer without an end; of it, only who stops reading is cut.
"""

import asyncio
from typing import cast


class Guards:
    """The connections of one server."""

    def __init__(self, connections_max: int, request_timeout: float, answer_timeout: float) -> None:
        self.connections_max = connections_max
        self.request_timeout = request_timeout
        """Seconds from the connection to the end of its request's head."""
        self.answer_timeout = answer_timeout
        """Seconds from there to the end of the connection."""
        self._open: dict[asyncio.BaseTransport, Guard] = {}

    def admit(self, guard: "Guard", transport: asyncio.BaseTransport) -> bool:
        if len(self._open) >= self.connections_max:
            return False
        self._open[transport] = guard
        return True

    def forget(self, transport: asyncio.BaseTransport | None) -> None:
        if transport is not None:
            self._open.pop(transport, None)

    def request_arrived(self, transport: asyncio.BaseTransport | None) -> None:
        """The head of the request is complete: from now on the time for the answer counts."""
        guard = self._open.get(transport) if transport is not None else None
        if guard is not None:
            guard.limit(self.answer_timeout)

    def stream(self, transport: asyncio.BaseTransport | None) -> None:
        """The answer is one without an end: only a client that does not take it is cut, in the usual time."""
        guard = self._open.get(transport) if transport is not None else None
        if guard is not None:
            guard.stream()


class Guard(asyncio.Protocol):
    """One connection: passes everything on to *inner*, and cuts it when its time is over."""

    def __init__(self, inner: asyncio.Protocol, guards: Guards) -> None:
        self._inner = inner
        self._guards = guards
        self._transport: asyncio.Transport | None = None
        self._admitted = False
        self._timer: asyncio.TimerHandle | None = None
        self._streams = False

    def limit(self, seconds: float) -> None:
        """Cut the connection after *seconds*, in place of an earlier limit."""
        self._cancel()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def stream(self) -> None:
        """No limit on the whole from now on, but on each time that the client takes nothing."""
        self._cancel()
        self._streams = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._admitted = self._guards.admit(self, transport)
        if not self._admitted:
            self._transport.abort()
            return
        self.limit(self._guards.request_timeout)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._guards.forget(self._transport)
        if self._admitted:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        if self._streams:
            self.limit(self._guards.request_timeout)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._streams:
            self._cancel()
        self._inner.resume_writing()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
