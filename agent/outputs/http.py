"""POST by the connections of urllib3's pools, with what an output needs beyond them.

- Every layer has its own limit in time, and none gets more than what is left until the deadline of the post:
  looking up the host and trying all its addresses together that of connecting, then the TLS handshake, then
  everything from the first byte of the request to the last one of the answer. urllib3 limits the wait for
  each read only, so a server that trickles could hold a sender for hours.
- A kept-alive connection that the server has closed meanwhile costs another try at once, on a fresh
  connection, and is no failure. Whatever else lies idle in the pool then is not trusted any more either, nor
  what has been idle for long: a firewall between forgets it without a word.
- Attempts can be ended from another thread.
- What a server answers is read up to a limit.

Imports urllib3, which takes 50 ms and 14 MB: import this module where the first request is near.
"""

import math
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.util.ssl_match_hostname import CertificateError

from agent.outputs import exchange
from agent.outputs.exchange import Answer
from agent.outputs.resolve import Resolver

_TARGET_SAFE = "!$%&'()*+,/:;=?@[]~"
"""What may stand in a target as it is, with letters, digits and ``-._``."""


class TransportError(Exception):
    """There was no answer. The message says why, without the address."""


class _Post:
    """One post, as its thread and its connections see it."""

    __slots__ = ("answered", "began", "deadline", "fresh", "phase", "reused", "sock", "stopped")

    def __init__(self, deadline: float) -> None:
        self.began = time.monotonic()
        self.deadline = deadline  # monotonic
        self.sock: _Timed | None = None
        """What it waits for; guarded by the transport's lock, like the next."""
        self.stopped = ""
        """Why it is to end."""
        self.fresh = False
        """No connection from the pool will do."""
        self.reused = False
        """The connection has served others before."""
        self.answered = False
        """The head of an answer was read."""
        self.phase = ""
        """What is going on, as in "timed out while …"."""


class _Own(threading.local):
    """What belongs to one thread."""

    post: _Post


class Transport:
    """Requests to one server, by the connections of *pool*, which becomes this transport's.

    Times in seconds: *connect_timeout* for the name and all addresses of the server together, *tls_timeout*
    for the handshake, *response_timeout* from the first byte of a request to the last of its answer,
    *idle_timeout* for how long a connection may lie idle and still be used again.
    """

    def __init__(
        self,
        pool: urllib3.HTTPConnectionPool,
        *,
        connect_timeout: float,
        tls_timeout: float,
        response_timeout: float,
        idle_timeout: float,
    ) -> None:
        self._pool = pool
        self._connect_timeout = connect_timeout
        self._tls_timeout = tls_timeout
        self._response_timeout = response_timeout
        self._idle_timeout = idle_timeout
        self._aborted = False
        self._doubted_at = -math.inf  # monotonic; what was last used before that may be dead
        self._lock = threading.Lock()
        self._posts: set[_Post] = set()
        self._own = _Own()
        self._resolver = Resolver()
        self._host = _host(pool)
        base = pool.ConnectionCls
        assert issubclass(base, HTTPConnection)
        pool.ConnectionCls = _connection_class(base, self)

    def post(
        self, target: str, body: bytes | memoryview, headers: Mapping[str, str], deadline: float = math.inf
    ) -> Answer:
        """Send *body* to *target*, a path with its query, and return what the server answers.

        The body is sent as it is, without a copy. Raises TransportError if there is no answer, at *deadline*
        (monotonic clock) at the latest.
        """
        own = self._own.post = _Post(deadline)
        with self._lock:
            self._posts.add(own)
        try:
            for own.fresh in (False, True):
                if self._aborted:
                    raise TransportError("aborted")
                if time.monotonic() >= deadline:
                    raise TransportError("no time was left")
                own.reused = own.answered = False
                try:
                    return self._post(target, body, headers)
                except (HTTPError, HTTPException, OSError) as error:
                    # The frames hold the body, and an exception that holds itself would hold them for long.
                    traceback.clear_frames(error.__traceback__)
                    reason = self._reason(own, error)
                    if not self._was_dead(own, error):
                        break
        finally:
            with self._lock:
                self._posts.remove(own)
        raise TransportError(reason)

    def interrupt(self, before: float) -> None:
        """End the posts that began before then (monotonic)."""
        self._stop(before, "interrupted")

    def abort(self) -> None:
        """End all posts, and refuse further ones."""
        self._aborted = True
        self._stop(math.inf, "aborted")

    def _stop(self, before: float, why: str) -> None:
        with self._lock:
            for post in self._posts:
                if post.began >= before:
                    continue
                post.stopped = why
                if post.sock is not None:
                    try:
                        # Not SSLSocket's, which would pull the TLS state away under its reader.
                        socket.socket.shutdown(post.sock, socket.SHUT_RDWR)
                    except OSError:
                        pass

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _post(self, target: str, body: bytes | memoryview, headers: Mapping[str, str]) -> Answer:
        head = exchange.head(self._host, quote(target, safe=_TARGET_SAFE), headers, len(body))
        connection: Any = self._pool._get_conn()
        good = False
        try:
            if connection.sock is None:
                connection.connect()
            self._sends(connection.sock, reused=connection.answers > 0)
            exchange.send(connection.sock, head, body)
            self._own.post.phase = "waiting for the answer"
            answer, good = exchange.receive(connection.sock, self._heard)
            connection.answers += 1
            connection.used_at = time.monotonic()
            return answer
        except (ssl.SSLError, CertificateError) as error:
            raise SSLError(error) from error
        finally:
            if not good:
                connection.close()
            self._pool._put_conn(connection)

    def _was_dead(self, own: _Post, error: Exception) -> bool:
        """Whether the connection had been closed before the request came, which is no failure."""
        if own.reused:
            self._doubted_at = time.monotonic()
        return own.reused and not own.answered and not own.stopped and not _is_timeout(error)

    def _reason(self, own: _Post, error: Exception) -> str:
        if own.stopped:
            return own.stopped
        return f"timed out while {own.phase}" if _is_timeout(error) else _reason(error)

    # ---- called by the connections, in the thread of the post ----

    def trusts(self, used_at: float) -> bool:
        """Whether a connection that got its last answer at *used_at* (monotonic) may be used once more."""
        idle = time.monotonic() - used_at
        return not self._own.post.fresh and idle < self._idle_timeout and used_at > self._doubted_at

    def dial(self, connection: HTTPConnection) -> "_TimedSocket":
        """A socket that is connected to the server of *connection*. Raises urllib3's errors.

        Each address gets an equal part of the time that is left, so that one in a black hole does not cost
        the others theirs.
        """
        own = self._own.post
        own.phase = "looking up the host"
        end = self._limit(self._connect_timeout)
        host = connection.host.strip("[]")
        try:
            found = self._resolver.resolve(host, connection.port, end, lambda: bool(own.stopped))
        except socket.gaierror as error:
            raise NameResolutionError(connection.host, connection, error) from error
        except UnicodeError as error:
            raise NewConnectionError(connection, f"no name of a host: {host}") from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, "timed out") from error
        own.phase = "connecting"
        failure: OSError = TimeoutError("timed out")
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            now = time.monotonic()
            sock = _TimedSocket(family, kind, protocol)
            self._use(sock, now + (end - now) / left)
            try:
                for option in connection.socket_options or ():
                    sock.setsockopt(*option)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(connection, "timed out") from failure
        raise NewConnectionError(connection, str(failure)) from failure

    def shakes_hands(self, sock: "_TimedTLSSocket") -> None:
        """The TLS handshake begins on *sock*."""
        self._own.post.phase = "making the TLS connection"
        self._use(sock, self._limit(self._tls_timeout))

    def _sends(self, sock: "_Timed", reused: bool) -> None:
        """A request starts on *sock*, which has served others before or not."""
        self._own.post.phase = "sending"
        self._own.post.reused = reused
        self._use(sock, self._limit(self._response_timeout))

    def _heard(self) -> None:
        """The head of the answer has been read."""
        self._own.post.answered = True

    def _limit(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self._own.post.deadline)

    def _use(self, sock: "_Timed", deadline: float) -> None:
        """*sock* is what this thread's post waits for now. Raises OSError if it is to end."""
        own = self._own.post
        sock.deadline = deadline
        with self._lock:
            own.sock = sock
            if own.stopped:
                raise ConnectionAbortedError(own.stopped)


class _Timed(socket.socket):
    """A socket whose every operation ends at one deadline, however many others came before it.

    Timeouts that others set do not matter.
    """

    deadline = math.inf
    """Monotonic clock."""

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left if left < math.inf else None)

    def connect(self, address: Any) -> None:
        self._arm()
        super().connect(address)

    def send(self, *args: Any) -> int:
        self._arm()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        self._arm()
        super().sendall(*args)

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)


class _TimedSocket(_Timed):
    """One without TLS, until the handshake."""

    def sendmsg(self, *args: Any) -> int:
        self._arm()
        return super().sendmsg(*args)


class _TimedTLSSocket(_Timed, ssl.SSLSocket):
    """The same with TLS."""

    transport: Transport

    def do_handshake(self, block: bool = False) -> None:
        self.transport.shakes_hands(self)
        self._arm()
        super().do_handshake(block)


def _connection_class(base: type[HTTPConnection], transport: Transport) -> type[HTTPConnection]:
    """*base*, which is urllib3's connection with or without TLS, with the limits of *transport*."""
    tls_socket = type("TLSSocket", (_TimedTLSSocket,), {"transport": transport})

    class Connection(base):  # type: ignore[valid-type, misc]
        answers = 0  # since it was opened
        used_at = -math.inf  # monotonic

        @property
        def is_connected(self) -> bool:
            """Whether the pool may hand it out again."""
            return transport.trusts(self.used_at) and super().is_connected

        def _new_conn(self) -> socket.socket:
            return transport.dial(self)

        def connect(self) -> None:
            self.answers = 0
            if (context := getattr(self, "ssl_context", None)) is not None:
                context.sslsocket_class = tls_socket
            super().connect()

    return Connection


def _host(pool: urllib3.HTTPConnectionPool) -> str:
    """What the header Host says: without the port where it is the scheme's own."""
    host = pool.host.strip("[]").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    own = 443 if pool.scheme == "https" else 80
    return host if pool.port in (None, own) else f"{host}:{pool.port}"


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, NewConnectionError):  # it is a ConnectTimeoutError, too, for history's sake
        return False
    return isinstance(error, ConnectTimeoutError) or isinstance(_root(error), TimeoutError)


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words: urllib3's messages carry addresses of objects and the URL."""
    root = _root(error)
    text = root.strerror if isinstance(root, OSError) and root.strerror else str(root) or type(root).__name__
    if isinstance(error, NameResolutionError):
        return f"cannot resolve the name of the host: {text}"
    if isinstance(error, NewConnectionError):
        return f"cannot connect: {text}"
    if isinstance(error, SSLError):
        return f"TLS: {text}"
    return f"connection lost: {text}"


def _root(error: BaseException) -> BaseException:
    """The innermost error that *error* wraps."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None and error.args and isinstance(error.args[-1], BaseException):
            inner = error.args[-1]
        if inner is None or inner is error:
            return error
        error = inner
