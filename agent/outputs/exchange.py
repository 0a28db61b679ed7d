"""One POST of HTTP/1.1 and its answer, on a connection that is open.

The usual answer comes whole with the first read, says how long it is and is in no coding: that one is read
here. Any other one, chunked, encoded, in pieces or of an older server, is read by http.client and urllib3 as
if they had read it from the start; for each answer that costs more than all the rest of a request.
"""

import errno
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse as PlainResponse
from typing import cast

from urllib3 import HTTPHeaderDict, HTTPResponse

ANSWER_BYTES_MAX = 8 << 20
"""So much of an answer is read. InfluxDB 3 repeats each line that it refuses."""

_READ_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. The lookup in *headers* does not regard case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def head(host: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a POST of *length* bytes to *target*, a path with its query, of *host*.

    Raises ValueError for what cannot stand in a head.
    """
    given = {name.lower() for name in headers}
    lines = [f"POST {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {host}")
    if "accept-encoding" not in given:
        lines.append("Accept-Encoding: identity")
    lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or target.count(" "):
        raise ValueError("a line break in a header, or a space in a target")
    return f"{text}\r\n\r\n".encode("latin-1")


def send(sock: socket.socket, head: bytes, body: bytes | memoryview) -> None:
    """Send a request. A server that closes before it has all of it may have answered: no error yet."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.sendall(head)
            sock.sendall(body)
            return
        # Together, so that the server is not woken for the head alone.
        sent = sock.sendmsg((head, body)) - len(head)
        if sent < 0:
            sock.sendall(head[sent:])
            sent = 0
        if sent < len(body):
            with memoryview(body) as view, view[sent:] as rest:
                sock.sendall(rest)
    except ssl.SSLError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise


def receive(sock: socket.socket, heard: Callable[[], None]) -> tuple[Answer, bool]:
    """The answer to a POST, and whether the connection is good for another one.

    *heard* is called when there is the head of one at least. Raises http.client's and urllib3's errors for
    what is none, OSError.
    """
    buffer = bytearray(_READ_BYTES)
    count = sock.recv_into(buffer)
    begun = bytes(buffer[:count])
    usual = _usual(begun)
    if usual is None:
        return _any(begun, sock, heard)
    heard()
    return usual


def _usual(text: bytes) -> tuple[Answer, bool] | None:
    """The answer that *text* is, if it is a usual one."""
    end = text.find(b"\r\n\r\n")
    if end < 0 or not text.startswith(b"HTTP/1.1 ") or text[9:10] == b"1" or not text[9:12].isdigit():
        return None
    fields: dict[str, str] = {}
    for line in text[:end].decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name in fields or not name.isascii() or name.strip() != name:
            return None
        fields[name] = value.strip()
    status = int(text[9:12])
    if "transfer-encoding" in fields or "content-encoding" in fields:
        return None
    if status == 204:
        length = 0
    elif (said := fields.get("content-length", "")).isdecimal() and len(said) < 10:
        length = int(said)
    else:
        return None
    body = text[end + 4 : end + 4 + length]
    if len(body) < length:
        return None
    # Whatever came behind the answer was not asked for.
    good = len(text) == end + 4 + length and fields.get("connection", "").lower() != "close"
    return Answer(status, cast("Mapping[str, str]", HTTPHeaderDict(fields)), body), good


def _any(begun: bytes, sock: socket.socket, heard: Callable[[], None]) -> tuple[Answer, bool]:
    """The answer that starts with *begun* and goes on in *sock*."""
    plain = PlainResponse(cast(socket.socket, _Begun(begun, sock)), method="POST")
    try:
        plain.begin()
        heard()
        headers = HTTPHeaderDict(plain.msg.items())
        with HTTPResponse(
            plain, headers, plain.status, preload_content=False, original_response=plain
        ) as response:
            body = response.read(ANSWER_BYTES_MAX)
            # What is longer is not worth reading, and with it unread the connection is of no more use.
            good = plain.isclosed() and not plain.will_close
        return Answer(plain.status, cast("Mapping[str, str]", headers), body), good
    finally:
        plain.close()


class _Begun(io.RawIOBase):
    """A socket of which the first bytes have been read already, as http.client wants it."""

    def __init__(self, begun: bytes, sock: socket.socket) -> None:
        self._begun = begun
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._begun:
            return self._sock.recv_into(buffer)
        count = min(len(buffer), len(self._begun))
        buffer[:count], self._begun = self._begun[:count], self._begun[count:]
        return count
