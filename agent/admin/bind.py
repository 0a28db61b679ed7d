"""The addresses of the admin HTTP, bound before anything is served there.

Without aiohttp: an address that cannot be had shows at once, and whoever connects waits in the queue while
the server (:mod:`agent.admin.server`) is imported.
"""

import asyncio
import errno
import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from agent.errors import ControlError

CONNECTIONS_MAX = 64


class PortHolder(Protocol):
    """What listens on a port that another is to have beside it for a moment."""

    address: str

    def share_port(self, shared: bool) -> None:
        """Let the port be bound once more, by this user only, or not."""


class Bound:
    """A listening socket: *address* has the port that the kernel chose, *path* is the file of a Unix one."""

    def __init__(self, address: str, sock: socket.socket, path: Path | None) -> None:
        self.address = address
        self.sock = sock
        self.path = path
        self._inode = os.stat(path).st_ino if path is not None else 0

    @property
    def loopback(self) -> bool:
        """Whether it is a TCP address that only this machine reaches."""
        return self.path is None and ip_address(self.sock.getsockname()[0]).is_loopback

    def close(self) -> None:
        """Stop listening, and remove the socket file."""
        self.sock.close()
        if self.path is not None:
            # Not if another agent has put its own in the place of ours.
            try:
                if os.stat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            except FileNotFoundError:
                pass


async def bind(address: str, former: PortHolder | None = None) -> Bound:
    """Listen on *address*: ``HOST:PORT``, ``[IPV6]:PORT``, or the path of the control socket.

    *former* is a server of ours that is about to be closed: its port may be had beside it meanwhile.
    Raises ControlError if the address cannot be bound. A socket file that nobody listens on is replaced.
    """
    # Every TCP address has a colon and none has a slash.
    if "/" in address or ":" not in address:
        path = Path(address)
        return Bound(address, _bind_control(path), path)
    sock = await _bind_tcp(address, former)
    host, port = sock.getsockname()[:2]
    return Bound(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", sock, None)


async def _bind_tcp(address: str, former: PortHolder | None) -> socket.socket:
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
            sock.listen(CONNECTIONS_MAX)
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
        sock.listen(CONNECTIONS_MAX)
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
