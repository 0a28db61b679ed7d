"""The admin HTTP: the page, health, metrics, status and, on the control socket only, reload.

The same application answers on two kinds of address, each with a :func:`start` of its own: the TCP address
of ``agent.admin``, which only tells, and the Unix socket ``control.sock`` in the runtime folder, which
belongs to the agent's user alone (0600) and therefore may also be told something, and show what metrics say.
Nothing else that it says is secret.
"""

import asyncio
import logging
import socket
import time
from typing import Any

import msgspec
import orjson
from aiohttp import web

from agent.admin import CONTROL_SOCKET as CONTROL_SOCKET
from agent.admin.access import Access
from agent.admin.bind import CONNECTIONS_MAX, Bound, bind
from agent.admin.files import add_headers, read_page
from agent.admin.guard import Guard, Guards
from agent.admin.keep import add_routes
from agent.admin.status import Provider, ReloadOutcome, document, troubles
from agent.admin.stream import Streams
from agent.admin.watching import capture, tap

logger = logging.getLogger(__name__)

_REQUEST_TIMEOUT = 10.0
# A reload that waits may have to look up names and to read an old socket empty.
_ANSWER_TIMEOUT = 120.0
_LINE_BYTES_MAX = 4096
_BODY_BYTES_MAX = 4096


class Admin:
    """A running server. Made by :func:`start`; close it in the same event loop."""

    def __init__(self, bound: Bound, runner: web.AppRunner, server: asyncio.Server) -> None:
        self.address = bound.address
        """Where it listens; of port 0, the port that the kernel chose."""
        self.loopback = bound.loopback
        self._bound = bound
        self._runner = runner
        self._server = server

    def share_port(self, shared: bool) -> None:
        """Let the port be bound once more, by this user only, or not."""
        for sock in self._server.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)

    async def aclose(self) -> None:
        """Stop listening, end the connections (answers under way get a second), remove the socket file."""
        self._server.close()
        await self._runner.cleanup()
        self._bound.close()


_EVERYBODY = Access()


async def start(
    address: str, provider: Provider, former: Admin | None = None, access: Access = _EVERYBODY
) -> Admin:
    """:func:`agent.admin.bind.bind`, and serve there. Raises ControlError if the address cannot be bound."""
    return await serve(await bind(address, former), provider, access)


async def serve(bound: Bound, provider: Provider, access: Access = _EVERYBODY) -> Admin:
    """Serve on *bound*, which is the server's from now on, those whom *access* lets in."""
    runner = web.AppRunner(
        _application(provider, bound, access),
        access_log=None,
        handle_signals=False,
        max_line_size=_LINE_BYTES_MAX,
        max_field_size=_LINE_BYTES_MAX,
        lingering_time=0.0,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    inner = runner.server
    assert inner is not None
    guards: Guards = runner.app[_GUARDS]
    context = access.context()
    server = await asyncio.get_running_loop().create_server(
        lambda: Guard(inner(), guards),
        sock=bound.sock,
        backlog=CONNECTIONS_MAX,
        ssl=context,
        ssl_handshake_timeout=_REQUEST_TIMEOUT if context is not None else None,
    )
    return Admin(bound, runner, server)


def _application(provider: Provider, bound: Bound, access: Access) -> web.Application:
    control = bound.path is not None
    app = web.Application(client_max_size=_BODY_BYTES_MAX, middlewares=[_guarded])
    if not control:
        app.middlewares.append(_admitted(access, bound.loopback))
    app[_GUARDS] = Guards(CONNECTIONS_MAX, _REQUEST_TIMEOUT, _ANSWER_TIMEOUT)
    handlers = _Handlers(provider, control)
    for path, file in read_page().items():
        app.router.add_get(path, file.serve)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/api/status", handlers.status)
    app.router.add_get("/api/fleet", handlers.fleet)
    streams = Streams(provider, app[_GUARDS])
    app.router.add_get("/api/stream", streams.serve)
    app.on_shutdown.append(streams.close)
    app.on_response_prepare.append(add_headers)
    app.router.add_post("/api/reload", handlers.reload)
    app.router.add_get("/api/tap", handlers.tap)
    app.router.add_get("/api/capture", handlers.capture)
    if control:
        add_routes(app, provider)
    return app


_GUARDS = web.AppKey("guards", Guards)


@web.middleware
async def _guarded(request: web.Request, handler: Any) -> web.StreamResponse:
    request.app[_GUARDS].request_arrived(request.transport)
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    response.force_close()
    return response


def _admitted(access: Access, loopback: bool) -> Any:
    @web.middleware
    async def admitted(request: web.Request, handler: Any) -> web.StreamResponse:
        refusal = access.refuse(request.path, request.headers, loopback)
        if refusal is not None:
            answer = _json({"error": refusal.why}, refusal.status)
            answer.headers.update(refusal.headers)
            return answer
        response: web.StreamResponse = await handler(request)
        return response

    return admitted


class _Handlers:
    def __init__(self, provider: Provider, control: bool) -> None:
        self._provider = provider
        self._control = control
        self._render: Any = None
        self._reloads: set[asyncio.Task[ReloadOutcome]] = set()

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        reasons = self._provider.ready()
        # For whoever looks: it does not keep the agent from receiving.
        detail = troubles(self._provider.ledger())
        return _json({"ready": not reasons, "reasons": reasons, "detail": detail}, 503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        if self._render is None:
            # Imported at the first scrape: an agent that nobody scrapes starts faster and is smaller.
            from agent.admin.metrics import exposition

            self._render = exposition(self._provider)
        body, content_type = self._render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(self, _: web.Request) -> web.Response:
        return _json(await document(self._provider))

    async def fleet(self, request: web.Request) -> web.Response:
        """``?rings=0`` leaves the rings out, which may be megabytes; 404 from an agent that is no relay."""
        rings = request.query.get("rings", "1")
        if rings not in ("0", "1"):
            return _json({"error": "rings is 0 or 1"}, 400)
        sources = self._provider.sources()
        if sources is None:
            return _json({"error": "it is no relay: it has no listener of a broker"}, 404)

        def body() -> bytes:
            return msgspec.json.encode(sources.view(time.time_ns(), rings == "1")) + b"\n"

        return web.Response(body=await asyncio.to_thread(body), content_type="application/json")

    async def reload(self, request: web.Request) -> web.Response:
        """``?wait=0`` answers 202 at once; else 200 with the changes, or 409 with the problems."""
        if not self._control:
            return _json({"error": "reload is taken on the control socket only: penstock reload"}, 403)
        wait = request.query.get("wait", "1")
        if wait not in ("0", "1"):
            return _json({"error": "wait is 0 or 1"}, 400)
        # A task of its own: whoever asked may go away, the reload goes on.
        task = asyncio.create_task(self._provider.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reload_done)
        if wait == "0":
            return _json({"accepted": True}, 202)
        outcome = await asyncio.shield(task)
        return _json(
            {"applied": outcome.applied, "changes": outcome.changes, "problems": outcome.problems},
            200 if outcome.applied else 409,
        )

    async def tap(self, request: web.Request) -> web.StreamResponse:
        """Lines that pass: see :mod:`agent.admin.watching`."""
        if not self._control:
            return _json({"error": "a tap is taken on the control socket only: penstock tap"}, 403)
        return await tap(request, self._provider.sessions(), request.app[_GUARDS])

    async def capture(self, request: web.Request) -> web.StreamResponse:
        """Datagrams as they came: see :mod:`agent.admin.watching`."""
        if not self._control:
            return _json({"error": "a capture is taken on the control socket only: penstock capture"}, 403)
        return await capture(request, self._provider.sessions(), request.app[_GUARDS])

    def _reload_done(self, task: asyncio.Task[ReloadOutcome]) -> None:
        self._reloads.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("reload failed unexpectedly", exc_info=error)


def _json(content: object, status: int = 200) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)
    return web.Response(body=body, status=status, content_type="application/json")
