"""The sockets that metrics come in by: opened, adopted from systemd, kept across a reload, closed.

This module binds and closes; it never reads. A lane reads (`agent.pipeline` brings the two together).

- ``udp://HOST:PORT`` is one socket, or with several lanes one per lane in a ``SO_REUSEPORT`` group, over
  which the kernel spreads the senders. ``[::]`` takes IPv6 only, so that ``0.0.0.0`` can stand beside it.
- ``tcp://HOST:PORT`` is the same for connections.
- ``unixgram:///PATH`` is one socket, whatever the number of lanes: its senders are spread by nobody. What a
  dead process left at the path is replaced; what a live one listens on is an error, and so is any other file.
- ``unix:///PATH`` is one socket too, by which every lane accepts connections.

A socket passed by systemd belongs to systemd: it is used, never unlinked, and comes back to the pool
when its listener goes, since PID 1 keeps it bound and a new one could not be opened beside it.
"""

import ctypes
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.config import Listen
from agent.config_values import parse_listen_address
from agent.errors import ListenError
from agent.systemd import PassedSocket

logger = logging.getLogger(__name__)

_SO_RCVBUFFORCE = 33
"""``SO_RCVBUFFORCE`` of asm-generic/socket.h, which the socket module does not name."""


_SO_ATTACH_FILTER = 26
_BPF = struct.Struct("HBBI")
_BPF_RET = 0x06
"""Returns how many bytes of a packet are kept; of linux/filter.h, as ``_BPF`` is."""

BACKLOG = 4096
"""Connections that the kernel makes before we accept them; net.core.somaxconn may allow less."""


class Endpoint(NamedTuple):
    """Where a listener is bound: an address family and what ``bind`` takes for it."""

    family: socket.AddressFamily
    host: str
    port: int
    path: str
    stream: bool = False
    """Whether connections are accepted there."""

    @property
    def sockaddr(self) -> str | tuple[str, int]:
        return self.path or (self.host, self.port)


def endpoint(address: str) -> Endpoint:
    """Resolve a listener's *address*. Raises ListenError."""
    parts = parse_listen_address(address)
    stream = parts.scheme not in ("udp", "unixgram")
    if parts.path:
        return Endpoint(socket.AF_UNIX, "", 0, parts.path, stream)
    try:
        found = socket.getaddrinfo(
            parts.host, parts.port, type=socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        )
    except OSError as error:
        raise ListenError(f"{address}: cannot resolve the host: {error.strerror}") from error
    family, _, _, _, sockaddr = found[0]
    return Endpoint(family, str(sockaddr[0]), int(sockaddr[1]), "", stream)


@dataclass(eq=False)
class BoundSocket:
    """One open socket of a listener. Owned here; a lane borrows its descriptor."""

    sock: socket.socket
    passed_name: str | None = None
    """The ``FileDescriptorName`` if systemd passed it."""
    file_id: tuple[int, int] | None = None
    """Device and inode of the socket file that we made, by which it is known again before it is removed."""
    scheme: str = ""
    """Of the address that it was opened for."""

    @property
    def fd(self) -> int:
        return self.sock.fileno()

    @property
    def stream(self) -> bool:
        """Whether connections are accepted on it."""
        return self.sock.type == socket.SOCK_STREAM

    @property
    def bound(self) -> str:
        """Where the socket really is, in the form of a listener's address."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"{'unix' if self.stream else 'unixgram'}://{os.fsdecode(name)}"
        host = f"[{name[0]}]" if self.sock.family == socket.AF_INET6 else name[0]
        scheme = self.scheme or ("tcp" if self.stream else "udp")
        return f"{scheme}://{host}:{name[1]}"

    def cut_off(self) -> None:
        """Let the kernel queue no more datagrams or connections; what is there can still be read.

        So a socket can be read empty for good before it is closed, and where another socket of ours takes
        its port over, that one gets everything from now on. Not for a passed socket, which systemd shares.
        """
        if self.passed_name is not None:
            return
        try:
            if self.sock.family == socket.AF_UNIX:
                self.sock.shutdown(socket.SHUT_RD)
            elif self.stream:
                _refuse_packets(self.sock)
            else:
                # A connected UDP socket hears its peer only: itself, which never sends.
                bound = self.sock.getsockname()
                loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound[0])
                self.sock.connect((loopback, bound[1]) if loopback else bound)
        except OSError as error:
            logger.debug("cannot cut a socket off", extra={"address": self.bound, "error": str(error)})

    def close(self) -> None:
        """Close the socket, and remove its file if that is still the one that we made."""
        if self.file_id is not None:
            path = self.sock.getsockname()
            try:
                if _file_id(path) == self.file_id:
                    os.unlink(path)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    logger.warning("cannot remove a socket file", extra={"path": path, "error": str(error)})
        self.sock.close()


@dataclass
class Pool:
    """Sockets passed by systemd that no listener uses at the moment."""

    sockets: list[BoundSocket] = field(default_factory=list)

    @classmethod
    def adopt(cls, passed: Sequence[PassedSocket]) -> "Pool":
        """Take over descriptors that systemd passed. Those that are no sockets are closed with a warning."""
        pool = cls()
        for fd, name in ((one.fd, one.name) for one in passed):
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                logger.warning("systemd passed something that is no socket", extra={"fd_name": name})
                os.close(fd)
                continue
            pool.sockets.append(BoundSocket(socket.socket(fileno=fd), passed_name=name))
        return pool

    def take(self, listen: Listen, where: Endpoint) -> list[BoundSocket]:
        """Remove and return the sockets that are *listen*'s, by its name or by its address.

        All sockets of a unit have one name, so those of another kind are left to other listeners. Raises
        ListenError if there is none but those.
        """
        named = [one for one in self.sockets if one.passed_name == listen.name]
        taken = [one for one in named if _same_kind(one, where)]
        if named and not taken:
            raise ListenError(
                f"{listen.address}: systemd passed a socket named {listen.name!r} of another kind; make it "
                f"{'ListenStream' if where.stream else 'ListenDatagram'}= in the .socket unit, "
                "or give it another FileDescriptorName="
            )
        if not taken:
            taken = [one for one in self.sockets if _same_kind(one, where) and _serves(one.sock, where)]
        self.sockets = [one for one in self.sockets if one not in taken]
        return taken

    def warn(self) -> None:
        """Say which passed sockets nobody reads. They stay open, as systemd's, until the agent ends."""
        for one in self.sockets:
            logger.warning(
                "no listener wants a socket passed by systemd; it stays open unread",
                extra={"fd_name": one.passed_name, "address": _describe(one)},
            )

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        self.sockets = []


def open_sockets(
    listen: Listen, lanes: int, pool: Pool, own: Sequence[BoundSocket] = ()
) -> list[BoundSocket]:
    """The sockets of *listen*: those that systemd passed for it, else newly bound ones.

    *own* are the sockets that this agent still has open and is about to close: where a new address overlaps
    with one of them (``127.0.0.1:8089`` becomes ``0.0.0.0:8089``), the two may be bound together for the
    moment in which the old one is emptied. Raises ListenError, and then nothing stays open.
    """
    where = endpoint(listen.address)
    sockets = pool.take(listen, where)
    if not sockets and where.family == socket.AF_UNIX:
        sockets = [_open_unix(listen, where)]
    elif not sockets:
        sockets = _open_inet(listen, where, lanes, own)
    for one in sockets:
        one.scheme = parse_listen_address(listen.address).scheme
        # Whoever finds nothing there must not wait for it.
        one.sock.setblocking(False)
    fit_receive_buffer(listen, sockets)
    return sockets


def close_sockets(sockets: Sequence[BoundSocket], pool: Pool) -> None:
    """Close what we opened; hand what systemd passed back to the pool."""
    for one in sockets:
        if one.passed_name is None:
            one.close()
        else:
            pool.sockets.append(one)


def fit_receive_buffer(listen: Listen, sockets: Sequence[BoundSocket]) -> None:
    """Bring the UDP receive buffers to ``receive_buffer``; a warning tells where the kernel gives less.

    A passed socket is never made smaller than systemd made it. A Unix socket has no such buffer: its
    datagrams wait at the sender's expense. That of a connection grows and shrinks by itself.
    """
    got = listen.receive_buffer
    for one in sockets:
        if one.sock.family != socket.AF_UNIX and not one.stream:
            got = min(got, _set_receive_buffer(one, listen.receive_buffer))
    if got < listen.receive_buffer:
        logger.warning(
            "the receive buffer is smaller than wanted: a burst may be lost in the kernel",
            extra={
                "listener": listen.name,
                "wanted_bytes": listen.receive_buffer,
                "got_bytes": got,
                "remedy": f"sysctl -w net.core.rmem_max={listen.receive_buffer}, "
                "or ReceiveBuffer= in a systemd .socket unit",
            },
        )


def set_file_access(listen: Listen, sockets: Sequence[BoundSocket]) -> None:
    """Give the files of *sockets*, if we made them, ``owner`` and ``mode``. Raises ListenError."""
    for path in (one.sock.getsockname() for one in sockets if one.file_id is not None):
        try:
            uid, gid = _owner_ids(listen)
            if (uid, gid) != (-1, -1):
                os.chown(path, uid, gid)
            os.chmod(path, int(listen.mode, 8))
        except OSError as error:
            raise ListenError(
                f"{listen.address}: cannot set owner {listen.owner!r}, mode {listen.mode}: {error.strerror}"
            ) from error


def _open_inet(listen: Listen, where: Endpoint, lanes: int, own: Sequence[BoundSocket]) -> list[BoundSocket]:
    """Bind one socket per lane, or none. The first is bound without ``SO_REUSEPORT``, so that a port which
    anybody else uses is noticed; only where sockets of ours are about to go may the port be shared."""
    kind = socket.SOCK_STREAM if where.stream else socket.SOCK_DGRAM
    inet = [one.sock for one in own if one.sock.family != socket.AF_UNIX and one.stream == where.stream]
    rivals = [sock for sock in inet if sock.getsockname()[1] == where.port]
    with ExitStack() as undo:
        socks: list[socket.socket] = []
        for _ in range(lanes):
            sock = undo.enter_context(socket.socket(where.family, kind | socket.SOCK_NONBLOCK))
            if where.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if where.stream:
                # Connections of an earlier process may linger; one that listens is noticed all the same.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Inherited: a peer that vanished without a word is noticed, whatever idle_timeout is.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A port of 0 is the kernel's choice, which the other lanes must share.
            address = socks[0].getsockname() if socks else where.sockaddr
            _share_port([sock, *rivals], bool(socks or rivals))
            try:
                sock.bind(address)
                if where.stream:
                    sock.listen(BACKLOG)
            except OSError as error:
                raise ListenError(f"{listen.address}: {_bind_problem(error)}") from error
            finally:
                _share_port([sock, *rivals], lanes > 1)
            socks.append(sock)
        undo.pop_all()
        return [BoundSocket(sock) for sock in socks]


def _share_port(socks: Sequence[socket.socket], shared: bool) -> None:
    """Let the port be bound once more, by this user only, or not. Counts at the moment of a later bind."""
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)


def _refuse_packets(sock: socket.socket) -> None:
    """Have the kernel drop what comes for a listening TCP socket, so that connections which are not made yet
    are never made: their clients try again, and find that nobody listens, or somebody else."""
    nothing = _BPF.pack(_BPF_RET, 0, 0, 0)
    buffer = ctypes.create_string_buffer(nothing, len(nothing))
    program = struct.pack("HP", 1, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _open_unix(listen: Listen, where: Endpoint) -> BoundSocket:
    """Bind a Unix socket at its path, replacing a file that a dead process left there."""
    path = where.path
    kind = socket.SOCK_STREAM if where.stream else socket.SOCK_DGRAM
    _remove_stale(listen, path)
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
        # The file takes the mode of the socket's inode less the umask: nobody else can connect
        # until the owner and the mode are as configured.
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(path)
        except OSError as error:
            raise ListenError(f"{listen.address}: {_bind_problem(error)}") from error
        bound = BoundSocket(sock, file_id=_file_id(path))
        undo.callback(bound.close)
        if where.stream:
            sock.listen(BACKLOG)
        set_file_access(listen, [bound])
        undo.pop_all()
        return bound


def _remove_stale(listen: Listen, path: str) -> None:
    """Unlink a socket file that nobody listens on. Raises ListenError for anything else found there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"{listen.address}: a file that is no socket is there; remove it")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"{listen.address}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            logger.info("replaced a socket file left by a dead process", extra={"path": path})
            return
        except OSError as error:
            # EPROTOTYPE: somebody listens there with a stream socket.
            if error.errno != errno.EPROTOTYPE:
                raise ListenError(f"{listen.address}: cannot probe it: {error.strerror}") from error
    raise ListenError(f"{listen.address}: another process listens there; stop it or change the path")


def _set_receive_buffer(one: BoundSocket, wanted: int) -> int:
    """Ask for *wanted* bytes; returns what the socket has. The kernel counts in doubled bytes."""
    if one.passed_name is not None and _receive_buffer(one) >= wanted:
        return wanted
    try:
        one.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted)
    except PermissionError:
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
    return _receive_buffer(one)


def _receive_buffer(one: BoundSocket) -> int:
    return one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def _same_kind(one: BoundSocket, where: Endpoint) -> bool:
    if not _is_readable(one) or one.stream != where.stream:
        return False
    return (one.sock.family == socket.AF_UNIX) == (where.family == socket.AF_UNIX)


def _is_readable(one: BoundSocket) -> bool:
    """Whether it is of a kind that a listener may have."""
    return one.sock.type in (socket.SOCK_DGRAM, socket.SOCK_STREAM) and one.sock.family in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    )


def _serves(sock: socket.socket, where: Endpoint) -> bool:
    """Whether *sock* is bound where a listener wants to be; ``[::]`` with IPv4 is ``0.0.0.0`` too."""
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX or where.family == socket.AF_UNIX:
        return sock.family == where.family and bound == where.path
    if bound[1] != where.port:
        return False
    if sock.family == where.family:
        return bool(bound[0] == where.host)
    dual = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return bool(dual and bound[0] == "::" and where.host == "0.0.0.0")


def _owner_ids(listen: Listen) -> tuple[int, int]:
    """Numbers of ``user:group``, -1 for a part that is not given. Raises ListenError for an unknown name."""
    import grp
    import pwd

    user, _, group = listen.owner.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ListenError(f"{listen.address}: owner {listen.owner!r}: {error.args[0]}") from error
    return uid, gid


def _file_id(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _bind_problem(error: OSError) -> str:
    """What to do about a failed bind."""
    remedy = {
        errno.EADDRINUSE: "; another process has it: stop that one or choose another",
        errno.EADDRNOTAVAIL: "; no interface of this machine has it",
        errno.EACCES: "; it takes CAP_NET_BIND_SERVICE, or the right to write to the folder",
        errno.ENOENT: "; the folder must exist",
    }
    return f"cannot bind: {error.strerror}{remedy.get(error.errno or 0, '')}"


def _describe(one: BoundSocket) -> str:
    return one.bound if _is_readable(one) else repr(one.sock)
