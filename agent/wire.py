"""From an address to where metrics are written: datagrams, streams, TLS and HTTP, as a client of a listener.

An address is one of a listener's, ``tls://HOST:PORT`` or ``https://HOST:PORT``. Everything that goes wrong
with it is a WireError with the address and what is to be done.
"""

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlencode

from agent.config_values import Address, parse_listen_address, quote
from agent.errors import WireError
from agent.terminal import printable

DATAGRAM_BYTES = 1432
"""What is put into one datagram: with its headers that fits an Ethernet frame, and a tunnel's besides."""

DATAGRAM_BYTES_MAX = 65_507
"""No datagram of UDP over IPv4 is longer."""

STREAM_BYTES = 64 * 1024
BODY_BYTES = 1 << 20

_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 64 * 1024
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_TLS = {"tls": "tcp", "https": "http"}


class Secrets(NamedTuple):
    """What a server is shown, and by what it is known."""

    token: str = ""
    ca: str = ""
    """Path of a file of certificates of authorities; empty: those of the system."""
    certificate: str = ""
    """Path of the server's own certificate, if it is at hand: then it is known by that alone."""


NO_SECRETS = Secrets()


class Sink(Protocol):
    """Where messages are written to."""

    message_bytes: int
    """What is worth putting together into one message."""
    message_bytes_max: int
    """What one metric may take."""

    def send(self, message: bytes) -> None:
        """Write whole metrics. Raises WireError."""

    def close(self) -> None:
        """Raises WireError if what was sent did not arrive, as far as anybody is told."""


def parse(address: str) -> tuple[Address, bool]:
    """The parts of *address*, and whether TLS is spoken there. Raises WireError."""
    scheme, separator, rest = address.partition("://")
    try:
        parts = parse_listen_address(f"{_TLS.get(scheme, scheme)}{separator}{rest}")
        if parts.brokers:
            raise ValueError("nothing is sent to a broker from here")
        if not parts.path and not parts.port:
            raise ValueError("the port is missing")
    except ValueError as error:
        raise WireError(f"{quote(address)} is no address: {error}") from None
    # What is bound to every address is reached on the loopback.
    return parts._replace(host=_EVERYWHERE.get(parts.host, parts.host)), scheme in _TLS


def open_sink(address: str, secrets: Secrets = NO_SECRETS) -> Sink:
    """Connect to *address*. Raises WireError."""
    parts, tls = parse(address)
    with _told(address):
        if parts.scheme in ("udp", "unixgram"):
            return _Datagrams(address, datagram_socket(parts), parts.scheme == "udp")
        context = _context(secrets) if tls else None
        if parts.scheme == "http":
            return _Http(address, parts, context, secrets.token)
        return _Stream(address, _connected(parts, context))


def datagram_socket(parts: Address) -> socket.socket:
    """A socket that is connected to where *parts* say. Raises OSError."""
    if parts.path:
        found = [(socket.AF_UNIX, socket.SOCK_DGRAM, 0, "", parts.path)]
    else:
        found = socket.getaddrinfo(parts.host, parts.port, type=socket.SOCK_DGRAM)  # type: ignore[assignment]
    family, kind, _, _, where = found[0]
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


class _Datagrams:
    def __init__(self, address: str, sock: socket.socket, inet: bool) -> None:
        self._address, self._sock = address, sock
        self.message_bytes = DATAGRAM_BYTES
        self.message_bytes_max = DATAGRAM_BYTES_MAX if inet else STREAM_BYTES

    def send(self, message: bytes) -> None:
        with _told(self._address):
            self._sock.send(message)

    def close(self) -> None:
        # On this machine a refusal has come back by now; from others it may never.
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._sock.close()
        if error:
            with _told(self._address):
                raise OSError(error, os.strerror(error))


class _Stream:
    message_bytes = STREAM_BYTES
    message_bytes_max = STREAM_BYTES

    def __init__(self, address: str, sock: socket.socket) -> None:
        self._address, self._sock = address, sock

    def send(self, message: bytes) -> None:
        with _told(self._address):
            self._sock.sendall(message)

    def close(self) -> None:
        """Waits until the other end has read all and closes, too: a listener does at once."""
        with _told(self._address), self._sock as sock:
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap().close()
                return
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass


class _Http:
    message_bytes = BODY_BYTES
    message_bytes_max = BODY_BYTES

    def __init__(self, address: str, parts: Address, context: ssl.SSLContext | None, token: str) -> None:
        self._address = address
        self._connection: http.client.HTTPConnection
        if context is not None:
            self._connection = http.client.HTTPSConnection(
                parts.host, parts.port, timeout=_TIMEOUT_S, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.host, parts.port, timeout=_TIMEOUT_S)
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if token:
            self._headers["Authorization"] = f"Token {token}"
        self._connection.connect()

    def send(self, message: bytes) -> None:
        query = urlencode({"bucket": "penstock", "precision": "ns"})
        with _told(self._address):
            self._connection.request("POST", f"/api/v2/write?{query}", message, self._headers)
            answer = self._connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX)
        if answer.status >= 300:
            told = printable(body.decode(errors="backslashreplace").strip())
            raise WireError(f"{self._address}: answers {answer.status}: {told}")

    def close(self) -> None:
        self._connection.close()


def _connected(parts: Address, context: ssl.SSLContext | None) -> socket.socket:
    if parts.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect(parts.path)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((parts.host, parts.port), _TIMEOUT_S)
    if context is None:
        return sock
    try:
        return context.wrap_socket(sock, server_hostname=parts.host)
    except BaseException:
        sock.close()
        raise


def _context(secrets: Secrets) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=secrets.ca or secrets.certificate or None)
    if secrets.certificate and not secrets.ca:
        # It is this certificate, whatever name is in it.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def read_token(file: Path | None) -> str:
    """The token in *file*, or in PENSTOCK_TOKEN: never on a command line, which everybody can see."""
    if file is None:
        return os.environ.get("PENSTOCK_TOKEN", "")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WireError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Say what is wrong in words for people."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise WireError(
            f"{address}: its certificate is not to be trusted: {error.verify_message}; see --ca"
        ) from error
    except FileNotFoundError as error:
        raise WireError(f"{address}: there is no such socket, nor file") from error
    except ConnectionRefusedError as error:
        raise WireError(f"{address}: nobody listens there") from error
    except TimeoutError as error:
        raise WireError(f"{address}: no answer within {_TIMEOUT_S:g} s") from error
    except socket.gaierror as error:
        raise WireError(f"{address}: cannot resolve the host: {error.strerror}") from error
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise WireError(f"{address}: {said}") from error
