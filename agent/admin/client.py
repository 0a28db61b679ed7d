"""Asks a running agent: the other end of :mod:`agent.admin.server`, over its control socket or over HTTP."""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from agent.errors import ControlError, NoAgentError

_ANSWER_BYTES_MAX = 64 << 20


class Credentials(NamedTuple):
    """What is shown to an agent that is asked over TCP, and what it must show."""

    token: str = ""
    ca: str = ""
    """File of the certificates that its own must be signed by; empty: those that the system knows."""

    def context(self) -> ssl.SSLContext:
        """Raises ControlError."""
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except OSError as error:
            raise ControlError(f"{self.ca}: cannot be read: {error.strerror or error}") from error

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def credentials(token_file: Path | None, ca: Path | None) -> Credentials:
    """The token in *token_file*, or the one in ``PENSTOCK_TOKEN``. Raises ControlError."""
    token = os.environ.get("PENSTOCK_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise ControlError(f"{token_file}: cannot be read: {error}") from error
    if not token.isprintable() or not token.isascii():
        raise ControlError("the token has characters that no token has")
    return Credentials(token, str(ca) if ca is not None else "")


NOTHING = Credentials()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(where: str, method: str, path: str, timeout: float, shown: Credentials = NOTHING) -> tuple[int, Any]:
    """Send one request to the agent at *where* and return (status, JSON).

    *where* is the path of a control socket, ``http://HOST:PORT`` or ``https://HOST:PORT``. Raises
    ControlError, with what to do about it, if there is no agent or if it does not answer within *timeout*
    seconds.
    """
    connection = _connection(where, timeout, shown)
    try:
        with _told(where, timeout):
            connection.request(method, path, headers=shown.headers())
            answer = connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX)
    finally:
        connection.close()
    try:
        return answer.status, json.loads(body)
    except ValueError as error:
        raise ControlError(f"{where}: answers {answer.status}, but not as Penstock does") from error


@contextmanager
def stream(
    where: str, path: str, timeout: float, shown: Credentials = NOTHING
) -> Iterator[http.client.HTTPResponse]:
    """Ask for an answer without an end, and give it to whoever reads it piece by piece.

    Raises ControlError as :func:`ask` does, with the agent's own words where it refuses, and also while it is
    read. *timeout* is for each piece.
    """
    connection = _connection(where, timeout, shown)
    try:
        with _told(where, timeout):
            connection.request("GET", path, headers=shown.headers())
            answer = connection.getresponse()
            if answer.status == 200:
                yield answer
                return
            body = answer.read(_ANSWER_BYTES_MAX)
    finally:
        connection.close()
    try:
        why = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        why = f"answers {answer.status}, but not as Penstock does"
    raise ControlError(f"{where}: {why}")


@contextmanager
def _told(where: str, timeout: float) -> Iterator[None]:
    """Say what is wrong in words for people."""
    try:
        yield
    except FileNotFoundError as error:
        raise NoAgentError(f"no agent is running here: there is no {where}") from error
    except ConnectionRefusedError as error:
        raise NoAgentError(f"no agent is running here: nobody listens on {where}") from error
    except PermissionError as error:
        raise ControlError(f"{where}: permission denied; ask as the user that the agent runs as") from error
    except ssl.SSLCertVerificationError as error:
        raise ControlError(
            f"{where}: its certificate is not trusted: {error.verify_message}; see --ca"
        ) from error
    except TimeoutError as error:
        raise ControlError(f"{where}: no answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise ControlError(f"{where}: {str(error) or type(error).__name__}") from error


def _connection(where: str, timeout: float, shown: Credentials) -> http.client.HTTPConnection:
    if "://" not in where:
        return _UnixConnection(str(Path(where).absolute()), timeout)
    parts = urlsplit(where)
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError("not of that form")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=timeout, context=shown.context()
        )
    except ValueError as error:
        raise ControlError(f"{where}: wanted http://HOST:PORT or https://HOST:PORT ({error})") from error
