"""POST over urllib3's connection pools, with what an output needs beyond them.

- A kept-alive connection that the server has closed meanwhile costs another try at once, not a failure: this
  is no sign of trouble, however many connections of the pool are dead.
- The time that a body may take is that of the response: urllib3 would give it the connect timeout.
- Attempts can be aborted from another thread.
- What a server answers is read up to a limit.

Imports urllib3, which takes 50 ms and 14 MB: import this module where the first request is near.
"""

import socket
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

ANSWER_BYTES_MAX = 8 << 20
"""So much of an answer is read. InfluxDB 3 repeats each line that it refuses."""


class TransportError(Exception):
    """There was no answer. The message says why, without the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. The lookup in *headers* does not regard case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Requests to one server, by the connections of *pool*, which becomes this transport's.

    Times in seconds. *connections* is how many threads may post at once.
    """

    def __init__(
        self,
        pool: urllib3.HTTPConnectionPool,
        *,
        connections: int,
        connect_timeout: float,
        response_timeout: float,
    ) -> None:
        self._pool = pool
        self._tries = connections + 1
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=response_timeout)
        self._aborted = False
        self._lock = threading.Lock()
        self._open: set[HTTPConnection] = set()
        self._own = threading.local()
        base = pool.ConnectionCls
        assert issubclass(base, HTTPConnection)
        pool.ConnectionCls = _watched(base, self, response_timeout)

    def post(self, target: str, body: bytes | memoryview, headers: Mapping[str, str]) -> Answer:
        """Send *body* to *target*, a path with its query, and return what the server answers.

        The body is sent as it is, without a copy. Raises TransportError if there is no answer.
        """
        for _ in range(self._tries):
            if self._aborted:
                raise TransportError("aborted")
            self._own.reused = False
            try:
                return self._post(target, body, headers)
            except (HTTPError, HTTPException, OSError) as error:
                # The frames hold the body, and an exception that holds itself would hold them for long.
                traceback.clear_frames(error.__traceback__)
                reason = _reason(error)
                if not self._own.reused or not isinstance(error, (ProtocolError, SSLError)):
                    break
        raise TransportError(reason)

    def abort(self) -> None:
        """Cut all connections and refuse further posts."""
        self._aborted = True
        with self._lock:
            for connection in self._open:
                if (sock := connection.sock) is not None:
                    try:
                        # Not SSLSocket's, which would pull the TLS state away under its reader.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
                    except OSError:
                        pass

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _post(self, target: str, body: bytes | memoryview, headers: Mapping[str, str]) -> Answer:
        response = self._pool.urlopen(
            "POST",
            target,
            body=body,  # type: ignore[arg-type]  # any buffer will do
            headers=headers,
            retries=False,
            timeout=self._timeout,
            preload_content=False,
        )
        try:
            text = response.read(ANSWER_BYTES_MAX)
            if len(text) == ANSWER_BYTES_MAX:
                # The rest is not worth reading, and with it unread the connection is of no more use.
                response.close()
        finally:
            response.release_conn()
        return Answer(response.status, response.headers, text)

    # ---- called by the connections ----

    def opened(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.add(connection)
        if self._aborted:
            self.abort()

    def closed(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.discard(connection)

    def starts(self, reused: bool) -> None:
        """A request of this thread starts, on a connection that has served others before or not."""
        self._own.reused = reused


def _watched(base: type[HTTPConnection], transport: Transport, send_timeout: float) -> type[HTTPConnection]:
    """*base*, which is urllib3's connection with or without TLS, reporting to *transport*."""

    class Connection(base):  # type: ignore[valid-type, misc]
        answers = 0  # since it was opened

        def connect(self) -> None:
            super().connect()
            self.answers = 0
            self.sock.settimeout(send_timeout)
            transport.opened(self)

        def request(self, *args: Any, **options: Any) -> None:
            transport.starts(reused=self.answers > 0)
            super().request(*args, **options)

        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(send_timeout)
            super().send(data)

        def getresponse(self) -> Any:
            response = super().getresponse()
            self.answers += 1
            return response

        def close(self) -> None:
            transport.closed(self)
            super().close()

    return Connection


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words: urllib3's messages carry addresses of objects and the URL."""
    if isinstance(error, NameResolutionError):
        return f"cannot resolve the name of the host: {_root(error)}"
    if isinstance(error, NewConnectionError):  # it is a ConnectTimeoutError, too, for history's sake
        return f"cannot connect: {_root(error)}"
    if isinstance(error, ConnectTimeoutError):
        return "timed out while connecting"
    if isinstance(error, ReadTimeoutError):
        return "timed out while waiting for the answer"
    if isinstance(error, SSLError):
        return f"TLS: {_root(error)}"
    root = _root(error)
    if "timed out" in root:
        return "timed out while sending"
    return f"connection lost: {root}"


def _root(error: BaseException) -> str:
    """The innermost message that *error* wraps."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None and error.args and isinstance(error.args[-1], BaseException):
            inner = error.args[-1]
        if inner is None or inner is error:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
