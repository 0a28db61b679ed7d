"""A gate: speaks TLS with the clients of a ``tcp://`` listener, and brings what they say to the lanes.

One thread for each such listener accepts, shakes hands and decrypts. The plain bytes go through a socket
pair, whose other end a lane reads as it reads any connection: lines, limits and counters are the lane's. When
the lane does not read, since no ring has room, the pair fills, the gate stops reading too, and TCP's window
closes.

A stream of TLS has an end that nobody can forge. A connection that ends without it was cut off, and so is
what the lane sees: a byte that lies unread in the gate's end of the pair when that is closed makes an error
of it, behind all that was sent. Without that byte it is an end.
"""

import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from agent._core import Sources
from agent.config import Listen
from agent.errors import ListenError

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""A handshake that takes longer is given up."""

_READ_BYTES = 1 << 16
_TURN_BYTES = 1 << 20
"""What one connection may say before the others have their turn."""
_PAIR_BYTES = 1 << 18
"""What may wait between gate and lane, for each connection."""
_LOOK_S = 1.0
_GONE = select.EPOLLHUP | select.EPOLLERR
_PAUSE_S = 0.005

Bring = Callable[[socket.socket, int, str], None]
"""Gives a connection, by its descriptor, and its client's address to a lane that reads for the listening
socket. Raises OSError."""


@dataclass
class GateCounters:
    """What a gate counts; one writer."""

    failed: int = 0
    """Handshakes that came to nothing."""
    refused: int = 0
    """Connections closed at once, since there were too many."""


class Room(NamedTuple):
    """How many connections there are, and may be."""

    open: Callable[[], int]
    most: Callable[[], int]


def make_context(listen: Listen) -> ssl.SSLContext:
    """What speaks TLS as *listen* wants. Raises ListenError."""

    def no_password() -> str:
        raise ListenError(f"{listen.address}: the private key is encrypted; it must be readable by itself")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Nobody comes back often enough for them to be worth what is sent.
    context.num_tickets = 0
    try:
        context.load_cert_chain(listen.cert, listen.key or None, no_password)
        if listen.client_ca:
            context.load_verify_locations(listen.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ListenError(f"{listen.address}: cannot use its certificates: {what}") from error
    return context


class _Connection:
    """One client: a handshake first, then bytes on their way to a lane."""

    def __init__(self, client: ssl.SSLSocket, door: socket.socket, peer: str, deadline: float) -> None:
        self.client = client
        self.door = door
        self.peer = peer
        self.deadline = deadline
        self.inner: socket.socket | None = None
        """Our end of the pair, once hands are shaken."""
        self.rest = memoryview(b"")
        """What the lane has not taken yet."""
        self.waits = False
        """Whether the client is not read, since the lane takes no more."""

    def close(self, ended: bool) -> None:
        """Close both sides; the lane is told whether the client has *ended* the stream or was cut off."""
        if self.inner is not None:
            if ended:
                with suppress(OSError):
                    self.inner.recv(1)
                # The client may wait to be told that its end was seen.
                with suppress(OSError, ValueError):
                    self.client.unwrap()
            self.inner.close()
        self.client.close()


class Gate:
    """The gate of one listener. Methods are for one thread at a time."""

    def __init__(
        self, name: str, context: ssl.SSLContext, bring: Bring, room: Room, counters: GateCounters
    ) -> None:
        self.failure = ""
        """Why the thread ended though it should run; empty if all is well."""
        self.name = name
        self.context = context
        """May be replaced at any time: it is for the handshakes that begin."""
        self.sources: Sources | None = None
        """Who may come; None is anybody. It may be replaced at any time, too."""
        self.counters = counters
        self._bring = bring
        self._room = room
        self._doors: dict[int, socket.socket] = {}
        self._connections: dict[int, _Connection] = {}
        """By the descriptor of either side."""
        self._shaking: dict[_Connection, None] = {}
        """In the order in which their time is over."""
        self._again: dict[_Connection, None] = {}
        """Those that had more to say than is one turn."""
        self._muted_until = 0.0
        self._beats = 0
        self._drain: float | None = None
        self._thread: threading.Thread | None = None
        self._epoll = select.epoll()
        self._wake, self._woken = socket.socketpair()
        self._epoll.register(self._woken, select.EPOLLIN)

    def start(self, doors: Sequence[socket.socket]) -> None:
        """Accept by *doors*, which listen and do not block; they are borrowed until :meth:`stop`."""
        self._doors = {door.fileno(): door for door in doors}
        for door in doors:
            self._epoll.register(door, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=f"tls-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, drain: float) -> None:
        """Accept nobody more, pass on what has come, for *drain* seconds at most, and close everything."""
        if self._thread is None:
            self._close()
            return
        self._drain = drain
        self._wake.send(b"x")
        self._thread.join()
        self._thread = None

    def beats(self) -> dict[str, int]:
        """How often the thread came round, by its name."""
        return {f"tls-{self.name}": self._beats} if self._thread is not None else {}

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while self._drain is None:
                self._round()
            self._finish(time.monotonic() + self._drain)
        except Exception as error:
            self.failure = f"the TLS thread of {self.name} ended: {error!r}"
            logger.critical("a TLS thread failed; its listener takes no more connections", exc_info=True)
        finally:
            self._close()

    def _round(self) -> None:
        timeout = 0.0 if self._again else _LOOK_S
        for fd, events in self._epoll.poll(timeout, 256):
            if fd in self._doors:
                self._accept(self._doors[fd])
            elif (connection := self._connections.get(fd)) is None:
                continue
            elif connection.inner is not None and fd == connection.inner.fileno() and events & _GONE:
                self._drop(connection, ended=False)  # by the lane: it was silent, or sent what no lane takes
            else:
                self._serve(connection)
        again, self._again = self._again, {}
        for connection in again:
            if connection.client.fileno() in self._connections:
                self._serve(connection)
        self._beats += 1
        self._look_after(time.monotonic())

    def _look_after(self, now: float) -> None:
        """Give up handshakes that take too long, and listen again if descriptors had run out."""
        while self._shaking:
            connection = next(iter(self._shaking))
            if connection.deadline > now:
                break
            self._fail(connection, "it took too long")
        if self._muted_until and now >= self._muted_until:
            self._muted_until = 0.0
            for door in self._doors.values():
                self._epoll.modify(door, select.EPOLLIN)

    def _accept(self, door: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, peer = door.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._muted_until = time.monotonic() + _LOOK_S
                    for one in self._doors.values():
                        self._epoll.modify(one, 0)
                return
            allowed = self.sources is None or self.sources.allows(str(peer[0]))
            if not allowed or self._room.open() + len(self._shaking) >= self._room.most():
                self.counters.refused += 1
                sock.close()
                continue
            sock.setblocking(False)
            try:
                client = self.context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
                )
            except OSError:
                self.counters.failed += 1
                sock.close()
                continue
            connection = _Connection(client, door, str(peer[0]), time.monotonic() + HANDSHAKE_S)
            self._connections[client.fileno()] = connection
            self._shaking[connection] = None
            self._epoll.register(client, select.EPOLLIN)

    def _serve(self, connection: _Connection) -> None:
        """Go on with a connection as far as it goes without waiting."""
        if connection.inner is None and not self._shake(connection):
            return
        self._pump(connection)

    def _shake(self, connection: _Connection) -> bool:
        """Go on with the handshake; true if it is done, and a lane reads the connection."""
        try:
            connection.client.do_handshake()
        except ssl.SSLWantReadError:
            self._epoll.modify(connection.client, select.EPOLLIN)
            return False
        except ssl.SSLWantWriteError:
            self._epoll.modify(connection.client, select.EPOLLOUT)
            return False
        except OSError as error:
            self._fail(connection, str(getattr(error, "reason", None) or error))
            return False
        del self._shaking[connection]
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            self.counters.refused += 1
            self._drop(connection, ended=False)
            return False
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PAIR_BYTES)
        theirs.send(b"x")
        connection.inner = ours
        try:
            self._bring(connection.door, theirs.detach(), connection.peer)
        except OSError:
            # Too many by now; the lane has counted it.
            self._drop(connection, ended=False)
            return False
        self._connections[ours.fileno()] = connection
        self._epoll.modify(connection.client, select.EPOLLIN)
        self._epoll.register(ours, 0)
        return True

    def _pump(self, connection: _Connection) -> None:
        """Bring to the lane what has come, until there is nothing more or the lane does not take it."""
        assert connection.inner is not None
        moved = 0
        try:
            while self._flush(connection):
                if moved > _TURN_BYTES:
                    self._again[connection] = None
                    return
                data = connection.client.recv(_READ_BYTES)
                if not data:
                    self._drop(connection, ended=True)
                    return
                moved += len(data)
                connection.rest = memoryview(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLZeroReturnError:
            self._drop(connection, ended=True)
        except OSError:
            # The client went without a word, or the lane has closed its end.
            self._drop(connection, ended=False)

    def _flush(self, connection: _Connection) -> bool:
        """Give the lane what waits for it. False if it does not take all; then nothing more is read."""
        assert connection.inner is not None
        while connection.rest:
            try:
                connection.rest = connection.rest[connection.inner.send(connection.rest) :]
            except BlockingIOError:
                if not connection.waits:
                    connection.waits = True
                    # Not only told to be silent: a client that goes meanwhile would be heard all the same.
                    self._epoll.unregister(connection.client)
                    self._epoll.modify(connection.inner, select.EPOLLOUT)
                return False
        if connection.waits:
            connection.waits = False
            self._epoll.register(connection.client, select.EPOLLIN)
            self._epoll.modify(connection.inner, 0)
        return True

    # ---- ends ----

    def _fail(self, connection: _Connection, why: str) -> None:
        self.counters.failed += 1
        del self._shaking[connection]
        self._drop(connection, ended=False)
        logger.warning(
            "a TLS handshake failed", extra={"listener": self.name, "peer": connection.peer, "error": why}
        )

    def _drop(self, connection: _Connection, ended: bool) -> None:
        self._connections.pop(connection.client.fileno(), None)
        if connection.inner is not None:
            self._connections.pop(connection.inner.fileno(), None)
        connection.close(ended)

    def _finish(self, deadline: float) -> None:
        """Pass on what has come by now, and what waits for the lane."""
        for connection in set(self._connections.values()):
            if connection.inner is None:
                continue
            self._pump(connection)
            while connection.rest and connection.inner.fileno() >= 0 and time.monotonic() < deadline:
                self._epoll.poll(_PAUSE_S, 1)
                self._pump(connection)

    def _close(self) -> None:
        for connection in set(self._connections.values()):
            connection.close(ended=False)
        self._connections.clear()
        self._epoll.close()
        self._wake.close()
        self._woken.close()
