"""Asks a running agent: the other end of :mod:`agent.admin.server`, over its control socket or over HTTP."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.errors import ControlError, NoAgentError

_ANSWER_BYTES_MAX = 64 << 20


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(where: str, method: str, path: str, timeout: float) -> tuple[int, Any]:
    """Send one request to the agent at *where* and return (status, JSON).

    *where* is the path of a control socket, or ``http://HOST:PORT``. Raises ControlError, with what to do
    about it, if there is no agent or if it does not answer within *timeout* seconds.
    """
    connection = _connection(where, timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read(_ANSWER_BYTES_MAX)
    except FileNotFoundError as error:
        raise NoAgentError(f"no agent is running here: there is no {where}") from error
    except ConnectionRefusedError as error:
        raise NoAgentError(f"no agent is running here: nobody listens on {where}") from error
    except PermissionError as error:
        raise ControlError(f"{where}: permission denied; ask as the user that the agent runs as") from error
    except TimeoutError as error:
        raise ControlError(f"{where}: no answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise ControlError(f"{where}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    try:
        return answer.status, json.loads(body)
    except ValueError as error:
        raise ControlError(f"{where}: answers {answer.status}, but not as Penstock does") from error


def _connection(where: str, timeout: float) -> http.client.HTTPConnection:
    if "://" not in where:
        return _UnixConnection(str(Path(where).absolute()), timeout)
    parts = urlsplit(where)
    try:
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise ValueError("not of that form")
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)
    except ValueError as error:
        raise ControlError(f"{where}: wanted http://HOST:PORT ({error})") from error
