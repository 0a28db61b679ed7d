"""The admin HTTP: health, metrics, status and, on the control socket only, reload.

The same application answers on two kinds of address, each with a :func:`start` of its own: the TCP address
of ``agent.admin``, which only tells, and the Unix socket ``control.sock`` in the runtime folder, which
belongs to the agent's user alone (0600) and therefore may also be told something. Nothing it says is secret.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from agent.admin import CONTROL_SOCKET as CONTROL_SOCKET
from agent.admin.guard import Guard, Guards
from agent.admin.keep import add_routes
from agent.admin.status import Provider, ReloadOutcome, document, troubles
from agent.errors import ControlError

logger = logging.getLogger(__name__)

_CONNECTIONS_MAX = 64
_REQUEST_TIMEOUT = 10.0
# A reload that waits may have to look up names and to read an old socket empty.
_ANSWER_TIMEOUT = 120.0
_LINE_BYTES_MAX = 4096
_BODY_BYTES_MAX = 4096

_ENDPOINTS = (
    ("/healthz", "200 while the agent runs; says nothing of the database"),
    ("/readyz", "200 while metrics can be received, 503 with the reasons while not; says what else is amiss"),
    ("/metrics", "counters and gauges for Prometheus"),
    ("/api/status", "state, listeners, outputs and the ledger as JSON"),
)
_PAGE = (
    "<!doctype html><meta charset=utf-8><title>Penstock</title><h1>Penstock</h1><ul>\n"
    + "".join(f'<li><a href="{path}">{path}</a>: {text}\n' for path, text in _ENDPOINTS)
    + "</ul>\n"
)


class Admin:
    """A running server. Made by :func:`start`; close it in the same event loop."""

    def __init__(
        self, address: str, runner: web.AppRunner, server: asyncio.Server, path: Path | None
    ) -> None:
        self.address = address
        """Where it listens; of port 0, the port that the kernel chose."""
        self._runner = runner
        self._server = server
        self._path = path
        self._inode = os.stat(path).st_ino if path is not None else 0

    def share_port(self, shared: bool) -> None:
        """Let the port be bound once more, by this user only, or not."""
        for sock in self._server.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)

    async def aclose(self) -> None:
        """Stop listening, end the connections (answers under way get a second), remove the socket file."""
        self._server.close()
        await self._runner.cleanup()
        if self._path is not None:
            # Not if another agent has put its own in the place of ours.
            try:
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
            except FileNotFoundError:
                pass


async def start(address: str, provider: Provider, former: Admin | None = None) -> Admin:
    """Serve on *address*: ``HOST:PORT``, ``[IPV6]:PORT``, or the path of the control socket.

    *former* is a server of ours that is about to be closed: its port may be had beside it meanwhile.
    Raises ControlError if the address cannot be bound. A socket file that nobody listens on is replaced.
    """
    # Every TCP address has a colon and none has a slash.
    path = Path(address) if "/" in address or ":" not in address else None
    sock = _bind_control(path) if path is not None else await _bind_tcp(address, former)
    runner = web.AppRunner(
        _application(provider, control=path is not None),
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
    server = await asyncio.get_running_loop().create_server(
        lambda: Guard(inner(), guards), sock=sock, backlog=_CONNECTIONS_MAX
    )
    if path is None:
        host, port = sock.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Admin(address, runner, server, path)


async def _bind_tcp(address: str, former: Admin | None) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, sockaddr = found[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:
        raise ControlError(f"agent.admin: cannot listen on {address}: {error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        rival = former if former is not None and former.address.endswith(f":{port}") else None
        if rival is not None:
            # `127.0.0.1:8690` becomes `0.0.0.0:8690`. Counts at the moment of the bind.
            rival.share_port(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        try:
            sock.bind(sockaddr)
            # Listening here and now shows a taken port before anything has been built on it.
            sock.listen(_CONNECTIONS_MAX)
        finally:
            if rival is not None:
                rival.share_port(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, False)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno or 0)
        raise ControlError(f"agent.admin: cannot listen on {address}: {reason}") from error
    return sock


def _bind_control(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(str(path))
        # Nobody can connect before listen, so there is no moment at which others could.
        os.chmod(path, 0o600)
        sock.listen(_CONNECTIONS_MAX)
    except OSError as error:
        sock.close()
        raise ControlError(f"{path}: cannot listen: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that a dead agent left behind. Raises ControlError if a live one answers."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ControlError(f"{path}: cannot listen: a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ControlError(f"{path}: cannot listen: {error.strerror or error}") from error
        else:
            raise ControlError(f"{path}: another agent runs with this runtime_dir")


def _application(provider: Provider, control: bool) -> web.Application:
    app = web.Application(client_max_size=_BODY_BYTES_MAX, middlewares=[_guarded])
    app[_GUARDS] = Guards(_CONNECTIONS_MAX, _REQUEST_TIMEOUT, _ANSWER_TIMEOUT)
    handlers = _Handlers(provider, control)
    app.router.add_get("/", handlers.page)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/api/status", handlers.status)
    app.router.add_post("/api/reload", handlers.reload)
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
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


class _Handlers:
    def __init__(self, provider: Provider, control: bool) -> None:
        self._provider = provider
        self._control = control
        self._render: Any = None
        self._reloads: set[asyncio.Task[ReloadOutcome]] = set()

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=_PAGE, content_type="text/html")

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

    def _reload_done(self, task: asyncio.Task[ReloadOutcome]) -> None:
        self._reloads.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("reload failed unexpectedly", exc_info=error)


def _json(content: object, status: int = 200) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)
    return web.Response(body=body, status=status, content_type="application/json")
