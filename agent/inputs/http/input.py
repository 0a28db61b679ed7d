"""An HTTP listener as it runs: a thread with an event loop, which accepts, serves, and ends."""

import asyncio
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from agent.config import Listen
from agent.errors import ListenError
from agent.inputs.base import Input, Source
from agent.inputs.http.connections import Connection, Connections
from agent.inputs.http.door import Door
from agent.listeners import BoundSocket

if TYPE_CHECKING:
    from agent._core import ListenerStats

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
ACCEPTS_AT_ONCE = 64
WORKERS = 2
"""Threads for bodies that take long to read; they take turns at the rings anyway."""

_LINGER_S = 2.0
"""How long the rest of a body is read that was refused, so that the client sees why."""

_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Protocol(RequestHandler):
    """aiohttp's protocol, which tells us of requests that it refuses by itself."""

    __slots__ = ("refused",)

    refused: Callable[[str], None]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        self.refused(str(status))
        text = (message or "bad request").splitlines()[0].rstrip(":") + "\n"
        response = web.Response(status=status, text=text, headers={"Server": "penstock"})
        response.force_close()
        return response


class HttpInput(Input):
    """One listener of scheme ``http``. Its sockets are borrowed, and non-blocking."""

    def __init__(self, config: Listen, source: Source, sockets: Sequence[BoundSocket]) -> None:
        self._config = config
        self._source = source
        self._sockets = [one.sock for one in sockets]
        self._tls = tls_context(config)
        self._name = f"http-{source.number}"
        self._thread: threading.Thread | None = None
        self._served: _Serving | None = None

    # ---- for the pipeline ----

    def check(self, config: Listen) -> None:
        tls_context(config)

    def start(self) -> None:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=self._name, daemon=True)
        self._thread.start()
        started.result()

    def reconfigure(self, config: Listen) -> None:
        tls = tls_context(config)
        self._config, self._tls = config, tls
        self._call(lambda serving: serving.configure(config, tls))

    def stop(self, drain: float) -> None:
        if self._thread is None:
            return
        self._call(lambda serving: serving.stop(drain))
        self._thread.join()
        self._thread = None

    def beats(self) -> Mapping[str, int]:
        return {self._name: self._served.beats} if self._served is not None else {}

    @property
    def connections(self) -> int:
        return len(self._served.connections) if self._served is not None else 0

    @property
    def busy(self) -> int:
        """Requests under way."""
        return self._served.connections.busy if self._served is not None else 0

    @property
    def events(self) -> Mapping[str, int]:
        """Requests by the status of their answers, and what was done to connections."""
        if self._served is None:
            return {}
        return {**self._served.door.answers, **self._served.connections.events}

    def tell(self, stats: "ListenerStats") -> None:
        if self._served is None:
            return
        events = self._served.connections.events.copy()
        stats["connections"] = len(self._served.connections)
        stats["connections_refused"] = events.pop("refused", 0)
        stats["connections_accepted"] = events.pop("accepted", 0)
        stats["connections_closed"] = dict(events)
        stats["requests"] = dict(self._served.door.answers)

    # ---- the thread ----

    def _call(self, what: "Callable[[_Serving], None]") -> None:
        """Have the loop do *what*, and wait until it has; nothing if it has ended."""
        done: Future[None] = Future()

        def call() -> None:
            assert self._served is not None
            try:
                what(self._served)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        if self._served is not None:
            try:
                self._served.loop.call_soon_threadsafe(call)
            except RuntimeError:  # the loop is closed
                return
            done.result()

    def _run(self, started: "Future[None]") -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(started))
        except Exception as error:
            self.failure = f"the HTTP listener {self._config.name} ended: {error!r}"
            logger.critical("an HTTP listener ended", extra={"listener": self._config.name}, exc_info=True)
            if not started.done():
                started.set_exception(OSError(str(error)))

    async def _serve(self, started: "Future[None]") -> None:
        with ThreadPoolExecutor(WORKERS, thread_name_prefix=self._name) as executor:
            self._served = _Serving(self._config, self._source, self._sockets, self._tls, executor)
            started.set_result(None)
            await self._served.run()


class _Serving:
    """What runs in the loop."""

    def __init__(
        self,
        config: Listen,
        source: Source,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        executor: ThreadPoolExecutor,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.beats = 0
        self.connections = Connections(config.max_connections, config.idle_timeout)
        self.door = Door(config, source, self.connections, executor)
        self._name = config.name
        self._sockets = sockets
        self._tls = tls
        self._drain = 0.0
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = web.Server(self.door.handle, access_log=None)

    def configure(self, config: Listen, tls: ssl.SSLContext | None) -> None:
        self._name, self._tls = config.name, tls
        self.connections.connections_max = config.max_connections
        self.connections.idle_timeout = config.idle_timeout
        self.door.configure(config)

    def stop(self, drain: float) -> None:
        self._drain = drain
        self.door.stopping = True
        self._ended.set()

    async def run(self) -> None:
        """Serve until :meth:`stop`, then let what is under way end."""
        for sock in self._sockets:
            self.loop.add_reader(sock, self._accept, sock)
        sweeping = self.loop.create_task(self._sweep())
        try:
            await self._ended.wait()
        finally:
            for sock in self._sockets:
                self.loop.remove_reader(sock)
        self.connections.close_idle()
        try:
            async with asyncio.timeout(self._drain):
                await self.connections.idle.wait()
        except TimeoutError:
            pass
        self.connections.close_idle()
        await asyncio.sleep(0)
        self.connections.abort_all()
        sweeping.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(sweeping, *self._tasks, return_exceptions=True)
        await self._server.shutdown(0.1)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.beats += 1
            self.connections.sweep(time.monotonic())

    # ---- accepting ----

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                logger.warning(
                    "no connection can be accepted at the moment",
                    extra={"listener": self._name, "error": error.strerror},
                )
                self.loop.remove_reader(listening)
                self.loop.call_later(1.0, self._resume, listening)
                return
            sock.setblocking(False)
            if len(self.connections) >= self.connections.connections_max:
                self._turn_away(sock)
                continue
            self.connections.events["accepted"] += 1
            self.connections.accepting += 1
            task = self.loop.create_task(self._connect(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume(self, listening: socket.socket) -> None:
        if not self.door.stopping:
            self.loop.add_reader(listening, self._accept, listening)

    def _turn_away(self, sock: socket.socket) -> None:
        self.connections.events["refused"] += 1
        with sock:
            if self._tls is None:
                with suppress(OSError):
                    sock.send(_TURNED_AWAY)

    async def _connect(self, sock: socket.socket) -> None:
        """Make a connection of an accepted socket, after its TLS handshake if there is one."""
        tls = self._tls
        timeout = HANDSHAKE_S if tls is not None else None
        try:
            await self.loop.connect_accepted_socket(
                self._protocol, sock, ssl=tls, ssl_handshake_timeout=timeout
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self.connections.events["handshake"] += 1
            sock.close()
        finally:
            self.connections.accepting -= 1

    def _protocol(self) -> Connection:
        inner = _Protocol(
            self._server,
            loop=self.loop,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=86400.0,
            tcp_keepalive=False,
            lingering_time=_LINGER_S,
            read_bufsize=1 << 20,
            auto_decompress=False,
        )
        inner.refused = self._refused
        return Connection(inner, self.connections)

    def _refused(self, status: str) -> None:
        self.door.answers[status] += 1


def tls_context(config: Listen) -> ssl.SSLContext | None:
    """What *config* asks for with ``cert``, ``key`` and ``client_ca``, read now. Raises ListenError."""
    if not config.cert:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=config.client_ca or None)
        context.load_cert_chain(config.cert, config.key or None)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ListenError(f"{config.address}: TLS: {error}") from error
    if config.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
