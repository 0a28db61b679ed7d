"""``/api/stream``: what happens each second, as server-sent events, to whoever keeps the connection.

    event: hello      once: what came before, and what does not change
    event: second     each second: the document of /api/status, rates, what happened

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from typing import Any

from aiohttp import web

from agent.admin.guard import Guards
from agent.admin.status import Provider

STREAMS_MAX = 16
"""Of all addresses together."""

_RETRY_MS = 2000


class Streams:
    """The streams of one server."""

    def __init__(self, provider: Provider, guards: Guards) -> None:
        self._pulse = provider.pulse()
        self._guards = guards
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Tell one client until it goes away."""
        pulse = self._pulse
        if pulse.clients >= STREAMS_MAX:
            return web.Response(status=503, text=f"{STREAMS_MAX} streams are open, and there are no more\n")
        # Proxies that would rather wait for the end are told not to; there is none.
        headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pulse.clients += 1
        try:
            self._guards.stream(request.transport)
            await response.prepare(request)
            await response.write(b"retry: %d\n" % _RETRY_MS + _event(b"hello", pulse.number, pulse.hello()))
            while True:
                # Whoever was slow to take the last one gets the newest, and those between are passed over.
                changed = pulse.changed
                await response.write(_event(b"second", pulse.number, pulse.second()))
                await changed.wait()
        except ConnectionError:
            pass  # it has gone away, or was cut since it took nothing
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._tasks.discard(task)
            pulse.clients -= 1
        return response

    async def close(self, _: web.Application) -> None:
        """End all streams of this server."""
        self._closing = True
        for task in self._tasks:
            task.cancel()


def _event(name: bytes, number: int, data: bytes) -> bytes:
    """One event; JSON has no line feed in it."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, data)
