"""A strict InfluxDB that never was: the write endpoints of versions 1, 2 and 3, and every way to fail there.

It refuses what a real server might let pass (a wrong form of the authorization header, an unknown parameter,
a body that is not what its headers say, a line outside the safe subset), and notes each such thing in
``problems``, which a test expects to be empty at the end. Which lines it refuses as a database would, a test
decides with ``refuse``; what else goes wrong, with ``script``.

    with FakeInfluxDB(2) as server:
        server.script(Answer(503, headers={"Retry-After": "1"}), Answer(cut="reset"))
        ...
        assert server.lines == {...} and not server.problems
"""

import base64
import gzip
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# One line of the safe subset. A newline may stand in a quoted string only.
_NAME = rb"(?:\\[^\n]|[^,\s\\])+"
_KEY = rb"(?:\\[^\n]|[^,=\s\\])+"
_NUMBER = rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_TRUTH = rb"t|T|true|True|TRUE|f|F|false|False|FALSE"
_TEXT = rb'"(?:\\.|[^"\\])*"'
_FIELD = rb"%s=(?:%s|-?\d+i|%%s%s|%s)" % (_KEY, _NUMBER, _TRUTH, _TEXT)
_LINE = rb"%s(?:,%s=%s)* %s(?:,%s)* -?\d{1,19}\n"


def _line_pattern(unsigned: bool) -> re.Pattern[bytes]:
    one = _FIELD % (rb"\d+u|" if unsigned else b"")
    return re.compile(_LINE % (_NAME, _KEY, _KEY, one, one), re.DOTALL)


@dataclass(frozen=True)
class Endpoint:
    """What one version takes."""

    path: str
    required: Mapping[str, str]
    optional: frozenset[str]
    authorization: str
    line: re.Pattern[bytes]


_BASIC = "Basic " + base64.b64encode(b"writer:pa:ss").decode()

ENDPOINTS = {
    1: Endpoint(
        "/write",
        {"db": "metrics", "precision": "n"},
        frozenset(("rp", "consistency")),
        _BASIC,
        _line_pattern(unsigned=False),
    ),
    2: Endpoint(
        "/api/v2/write",
        {"org": "an org", "bucket": "metrics", "precision": "ns"},
        frozenset(),
        "Token t0ken==",
        _line_pattern(unsigned=True),
    ),
    3: Endpoint(
        "/api/v3/write_lp",
        {"db": "metrics", "precision": "nanosecond", "accept_partial": "true"},
        frozenset(("no_sync",)),
        "Bearer t0ken==",
        _line_pattern(unsigned=True),
    ),
}


@dataclass(frozen=True)
class Answer:
    """What to do with one request instead of treating it as a database would."""

    status: int | None = None
    """Answer so, and store nothing. None: as a database would."""
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    """Hold the answer back until this is set."""
    cut: str = ""
    """Close the connection without an answer: ``early`` before the body is read, ``reset`` the same with an
    RST, ``late`` after the lines were stored, ``half`` in the middle of the answer."""


@dataclass(frozen=True)
class Request:
    """One request that was received, and how it was answered."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes
    body: bytes
    connection: int
    status: int | None


class FakeInfluxDB(socketserver.ThreadingTCPServer):
    """One server of *version* on a free port of 127.0.0.1, running from construction to ``close``.

    *body_bytes_max* is the largest body after decompression; *tls* a server-side context.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        version: int,
        *,
        body_bytes_max: int | None = None,
        tls: ssl.SSLContext | None = None,
        authorization: str | None = None,
        prefix: str = "",
    ) -> None:
        self.version = version
        self.endpoint = ENDPOINTS[version]
        self.authorization = self.endpoint.authorization if authorization is None else authorization
        self.body_bytes_max = body_bytes_max or {1: 25_000_000, 2: 50 << 20, 3: 10 << 20}[version]
        self.tls = tls
        self.prefix = prefix
        self.refuse: Callable[[bytes], str] = lambda line: ""
        """Why a line is refused, or empty: ``parse`` or ``parse: REASON`` where it cannot be read,
        ``conflict`` where it does not fit, or another reason in full."""
        self.rule: Callable[[], Answer | None] = lambda: None
        """Asked for each request for which nothing is scripted."""
        self.lines: set[bytes] = set()
        """What is stored. A line that was written twice is there once, like a point in a database."""
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.connections = 0
        self._script: deque[Answer] = deque()
        self._open: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{self.prefix}"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, one after the other."""
        with self._lock:
            self._script.extend(answers)

    def statuses(self) -> list[int | None]:
        """The status of each answer so far; None where the connection was cut instead."""
        with self._lock:
            return [request.status for request in self.requests]

    def drop_connections(self) -> None:
        """Close every connection from this side, as a server that restarts does."""
        with self._lock:
            for sock in self._open.values():
                # It may have been closed from the other side.
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.drop_connections()

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error here."""

    # ---- called by the handlers ----

    def accepted(self, sock: socket.socket) -> int:
        with self._lock:
            self.connections += 1
            self._open[self.connections] = sock
            return self.connections

    def gone(self, number: int) -> None:
        with self._lock:
            self._open.pop(number, None)

    def next_answer(self) -> Answer:
        with self._lock:
            if self._script:
                return self._script.popleft()
        return self.rule() or Answer()

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def complain(self, problem: str) -> tuple[int, bytes]:
        with self._lock:
            self.problems.append(problem)
        return 400, json.dumps({"error": problem, "code": "invalid", "message": problem}).encode()

    # ---- what a database does ----

    def write(self, body: bytes) -> tuple[int, bytes]:
        """Store the lines of *body* as this version would: (status, body of the answer)."""
        lines = []
        position = 0
        while position < len(body):
            found = self.endpoint.line.match(body, position)
            if found is None:
                return self.complain(f"not in the safe subset: {body[position : position + 200]!r}")
            lines.append(found[0])
            position = found.end()
        if not lines:
            return self.complain("an empty body")
        reasons = [self.refuse(line) for line in lines]
        good = {line for line, reason in zip(lines, reasons, strict=True) if not reason}
        bad = [
            _Refused(number, line.decode(errors="replace").removesuffix("\n"), reason)
            for number, (line, reason) in enumerate(zip(lines, reasons, strict=True), 1)
            if reason
        ]
        return getattr(self, f"_write_{self.version}")(good, bad)

    def _store(self, good: set[bytes]) -> None:
        with self._lock:
            self.lines |= good

    def _write_1(self, good: set[bytes], bad: list["_Refused"]) -> tuple[int, bytes]:
        unread = "\n".join(f"unable to parse '{one.line}': {one.text}" for one in bad if one.unread)
        unfit = [one for one in bad if not one.unread]
        self._store(good)
        if unfit:
            # Of the lines that it could not read it says nothing then.
            text = _partial(unfit)
        elif unread:
            text = f"partial write: {unread} dropped=0" if good else unread
        else:
            return 204, b""
        return 400, json.dumps({"error": text}).encode() + b"\n"

    def _write_2(self, good: set[bytes], bad: list["_Refused"]) -> tuple[int, bytes]:
        if unread := [f"unable to parse '{one.line}': {one.text}" for one in bad if one.unread]:
            return 400, json.dumps({"code": "invalid", "message": "\n".join(unread)}).encode()
        self._store(good)
        if not bad:
            return 204, b""
        text = f"failure writing points to database: {_partial(bad)}"
        return 422, json.dumps({"code": "unprocessable entity", "message": text}).encode()

    def _write_3(self, good: set[bytes], bad: list["_Refused"]) -> tuple[int, bytes]:
        self._store(good)
        if not bad:
            return 204, b""
        data = [
            {"original_line": one.line, "line_number": one.number, "error_message": one.text} for one in bad
        ]
        return 400, json.dumps({"error": "partial write of line protocol occurred", "data": data}).encode()


class _Refused:
    """One line that is refused."""

    def __init__(self, number: int, line: str, reason: str) -> None:
        self.number, self.line = number, line
        self.unread = reason.startswith("parse")
        if self.unread:
            self.text = reason.removeprefix("parse").removeprefix(": ") or "bad"
        elif reason == "conflict":
            self.text = 'field type conflict: input field "v" is wrong'
        else:
            self.text = reason


def _partial(refused: list[_Refused]) -> str:
    """What versions 1 and 2 say: why the first one was refused, and how many for something like that."""
    kind = refused[0].text.partition(":")[0]
    count = sum(one.text.partition(":")[0] == kind for one in refused)
    return f"partial write: {refused[0].text} dropped={count}"


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Head and body of an answer are written one after the other, and none waits for an acknowledgement.
    disable_nagle_algorithm = True
    server: FakeInfluxDB

    def setup(self) -> None:
        if self.server.tls is not None:
            self.request.settimeout(10)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.number = self.server.accepted(self.request)

    def finish(self) -> None:
        self.server.gone(self.number)
        super().finish()
        # The server closes the plain socket only, whose descriptor TLS has taken over.
        self.request.close()

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_") and name != "do_POST":
            return self._refuse_method
        raise AttributeError(name)

    def _refuse_method(self) -> None:
        self._reply(405, self.server.complain(f"method {self.command}")[1], {})

    def do_POST(self) -> None:
        answer = self.server.next_answer()
        if answer.cut in ("early", "reset"):
            self._note(b"", b"", None)
            return self._cut(reset=answer.cut == "reset")
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            # The client went away in the middle, which is its right.
            self._note(raw, b"", None)
            return self._cut()
        if answer.gate is not None and not answer.gate.wait(60):
            raise TimeoutError("nobody opened the gate")
        (status, text), body = self._treat(raw, answer)
        if answer.cut == "late":
            self._note(raw, body, None)
            return self._cut()
        self._note(raw, body, status)
        self._reply(status, text, answer.headers, half=answer.cut == "half")
        return None

    def _treat(self, raw: bytes, answer: Answer) -> tuple[tuple[int, bytes], bytes]:
        server = self.server
        if answer.status is not None:
            return (answer.status, answer.body.encode() if isinstance(answer.body, str) else answer.body), b""
        problem = self._problem(raw)
        if problem:
            return server.complain(problem), b""
        if self.headers["Authorization"] != server.authorization:
            return (401, json.dumps({"error": "authorization failed"}).encode()), b""
        body = raw
        if self.headers["Content-Encoding"] == "gzip":
            try:
                body = gzip.decompress(raw)
            except (OSError, EOFError) as error:
                return server.complain(f"not gzip: {error}"), b""
        if len(body) > server.body_bytes_max:
            return (413, json.dumps({"error": "Request Entity Too Large"}).encode()), body
        return server.write(body), body

    def _problem(self, raw: bytes) -> str:
        """What is wrong with the request before its body is looked at; empty if nothing is."""
        endpoint, headers = self.server.endpoint, self.headers
        parts = urlsplit(self.path)
        if parts.path != self.server.prefix + endpoint.path:
            return f"path {parts.path}"
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
        query = dict(pairs)
        if len(pairs) != len(query) or "" in query.values():
            return f"query {parts.query}"
        if not endpoint.required.items() <= query.items() or not query.keys() <= {
            *endpoint.required,
            *endpoint.optional,
        }:
            return f"parameters {query}"
        if headers["Content-Type"] != "text/plain; charset=utf-8":
            return f"content type {headers['Content-Type']}"
        if headers["Content-Encoding"] not in (None, "gzip"):
            return f"content encoding {headers['Content-Encoding']}"
        if "Transfer-Encoding" in headers or headers.get_all("Content-Length") != [str(len(raw))]:
            return f"lengths {headers.get_all('Content-Length')} for {len(raw)} bytes"
        if not re.fullmatch(r"penstock/\d+\.\d+\.\S+(?: batch/[0-9a-f]{32})?", headers["User-Agent"] or ""):
            return f"user agent {headers['User-Agent']}"
        return ""

    def _note(self, raw: bytes, body: bytes, status: int | None) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.server.note(Request(parts.path, query, dict(self.headers), raw, body, self.number, status))

    def _cut(self, reset: bool = False) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The file objects hold the socket open as well.
            self.rfile.close()
            self.connection.close()
        self.close_connection = True

    def _reply(self, status: int, text: bytes, headers: Mapping[str, str], half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text) + 10 if half else len(text)))
        self.end_headers()
        self.wfile.write(text)
        if half:
            self.close_connection = True
