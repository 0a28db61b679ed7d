"""Addresses of a host by a deadline: the C library looks a name up in its own time, 20 s and more if no
server of names answers.

So a thread of its own waits for that, and whoever wants the address waits for the thread, but not for longer
than there is time. One that does not come back keeps only its thread, which all that ask meanwhile share.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

Addresses = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]

STOP_POLL_S = 0.05
"""While a name is looked up it is asked so often whether that is still wanted."""


class _Lookup:
    """One name that is being looked up."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.found: Addresses = ()
        self.error: Exception | None = None


class Resolver:
    """Looks up names. All methods may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], _Lookup] = {}

    def resolve(
        self, host: str, port: int, deadline: float, stopped: Callable[[], bool] = lambda: False
    ) -> Addresses:
        """The addresses of *host* for a stream to *port*, at *deadline* (monotonic clock) at the latest.

        Raises TimeoutError when the time is over or it is *stopped*, and what ``getaddrinfo`` raises: OSError
        (gaierror), or UnicodeError for what cannot be a name.
        """
        try:
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )
        except socket.gaierror:
            pass  # It is a name.
        with self._lock:
            lookup = self._under_way.get((host, port))
            if lookup is None:
                lookup = self._under_way[host, port] = _Lookup()
                threading.Thread(
                    target=self._look_up, args=(host, port, lookup), name="resolve", daemon=True
                ).start()
        while not lookup.over.wait(min(max(deadline - time.monotonic(), 0.0), STOP_POLL_S)):
            if stopped() or time.monotonic() >= deadline:
                raise TimeoutError("timed out")
        if lookup.error is not None:
            # Not the same object in several threads: each adds its frames.
            raise type(lookup.error)(*lookup.error.args)
        return lookup.found

    def _look_up(self, host: str, port: int, lookup: _Lookup) -> None:
        try:
            lookup.found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            lookup.error = error
        except Exception as error:
            lookup.error = OSError(f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                del self._under_way[host, port]
            lookup.over.set()
