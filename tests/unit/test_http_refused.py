"""Bad requests, by table: what the client sees, what is counted, and that nothing else suffers."""

import base64
import gzip
import http.client
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cramjam
import pytest

from agent.inputs.http import connections
from tests.conftest import wait_until
from tests.integration.certificates import make_certificates
from tests.unit.http_rig import Headers, Rig

LINE = b"m v=1 1\n"
V1, V2, V3, PROMETHEUS = "/write", "/api/v2/write", "/api/v3/write_lp", "/api/v1/write"
WRITES = (V1, V2, V3, PROMETHEUS)


def gzipped(size: int) -> bytes:
    return gzip.compress(bytes(size))


def snappy(size: int) -> bytes:
    return bytes(cramjam.snappy.compress_raw(bytes(size)))


def error(path: str, message: str, code: str) -> Any:
    """The body that says *message* to clients of *path*."""
    return {V1: {"error": message}, V2: {"code": code, "message": message}, V3: {"error": message}}.get(
        path, message + "\n"
    )


TOO_LARGE = "the body is larger than 100000 bytes, also when decompressed; send less at once"

BAD_BODIES: list[tuple[str, Headers, bytes, int, str]] = [
    ("too long", {}, bytes(100_001), 413, TOO_LARGE),
    ("bad gzip", {"Content-Encoding": "gzip"}, b"no gzip at all", 400, "the body is no gzip, or damaged: "),
    ("cut gzip", {"Content-Encoding": "gzip"}, gzipped(1000)[:-9], 400, "the body is no gzip, or damaged: "),
    (
        "gzip sum",
        {"Content-Encoding": "gzip"},
        gzipped(9)[:-8] + bytes(8),
        400,
        "the body is no gzip, or dam",
    ),
    ("gzip bomb", {"Content-Encoding": "gzip"}, gzipped(50_000_000), 413, TOO_LARGE),
    ("gzip bombs", {"Content-Encoding": "gzip"}, gzipped(90_000) * 2, 413, TOO_LARGE),
    ("gzip members", {"Content-Encoding": "gzip"}, gzipped(0) * 4500, 400, "the body is no gzip, or damaged"),
    (
        "bad snappy",
        {"Content-Encoding": "snappy"},
        b"\x05nothing",
        400,
        "the body is no snappy, or damaged: ",
    ),
    ("no snappy", {"Content-Encoding": "snappy"}, b"", 400, "the body is no snappy, or damaged: its size"),
    ("snappy bomb", {"Content-Encoding": "snappy"}, snappy(2_000_000), 413, TOO_LARGE),
    ("snappy lie", {"Content-Encoding": "snappy"}, b"\xff\xff\xff\xff\x0f" + b"\0" * 9, 413, TOO_LARGE),
    (
        "bad deflate",
        {"Content-Encoding": "deflate"},
        b"\x78\x9cnothing",
        400,
        "the body is no deflate, or dam",
    ),
    ("bomb", {"Content-Encoding": "deflate"}, zlib.compress(bytes(10_000_000)), 413, TOO_LARGE),
    ("zstd", {"Content-Encoding": "zstd"}, b"(\xb5/\xfd", 415, "Content-Encoding 'zstd' is not known here; "),
    ("two", {"Content-Encoding": "gzip, gzip"}, b"", 415, "Content-Encoding 'gzip, gzip' is not known here"),
]

CODES = {400: "invalid", 413: "request too large", 415: "unsupported media type"}


@pytest.fixture(scope="module")
def small() -> Iterator[Rig]:
    with Rig({"max_body": 100_000}) as rig:
        yield rig


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [one[1:] for one in BAD_BODIES],
    ids=[one[0] for one in BAD_BODIES],
)
def test_bad_bodies(small: Rig, path: str, headers: Headers, body: bytes, status: int, message: str) -> None:
    if path == PROMETHEUS and headers.get("Content-Encoding", "snappy") != "snappy":
        status, message = 415, "Content-Encoding "
    before = small.input.events.get(str(status), 0)
    answer = small.ask(path, body, headers)
    assert answer.status == status
    shown = answer.json if path in (V1, V2, V3) else answer.body.decode()
    whole = error(path, message, CODES[status])
    if isinstance(whole, str):
        assert shown.startswith(message)
    else:
        assert shown.keys() == whole.keys()
        key = "message" if path == V2 else "error"
        assert shown.pop(key).startswith(whole.pop(key))
        assert shown == whole
    assert small.input.events[str(status)] == before + 1
    assert small.counted() == {}, "no metric came"
    assert small.written() == b""


@pytest.mark.parametrize("path", WRITES)
def test_a_body_that_says_it_is_too_long_is_not_awaited(small: Rig, path: str) -> None:
    with small.connect() as sock:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n\r\n" % path.encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        (V1, "GET", 405, "POST"),
        (V2, "PUT", 405, "POST"),
        (V3, "DELETE", 405, "POST"),
        (PROMETHEUS, "GET", 405, "POST"),
        ("/ping", "POST", 405, "GET, HEAD"),
        ("/query", "PATCH", 405, "GET, POST"),
        ("/", "GET", 404, None),
        ("/api/v2/query", "POST", 404, None),
        ("/write/", "POST", 404, None),
    ],
)
def test_wrong_methods_and_paths(small: Rig, path: str, method: str, status: int, allow: str | None) -> None:
    answer = small.ask(path, method=method)
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert answer.body


def test_remote_write_2_falls_back(small: Rig) -> None:
    headers = {
        "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "Content-Encoding": "snappy",
    }
    assert small.ask(PROMETHEUS, snappy(0), headers).status == 415
    assert small.ask(PROMETHEUS, snappy(0), {**headers, "Content-Type": "text/plain"}).status == 415


# ---- tokens ----

BASIC = base64.b64encode(b"user:s3cret").decode()


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    ("query", "headers", "right"),
    [
        ("", {"Authorization": "Token s3cret"}, True),
        ("", {"Authorization": "token  s3cret"}, True),
        ("", {"Authorization": "Bearer s3cret"}, True),
        ("", {"Authorization": "Bearer other"}, True),
        ("", {"Authorization": f"Basic {BASIC}"}, True),
        ("", {"Authorization": "Token user:s3cret"}, True),
        ("?u=user&p=s3cret", {}, True),
        ("", {}, False),
        ("?u=s3cret", {}, False),
        ("?u=user&p=s3cre", {}, False),
        ("", {"Authorization": "s3cret"}, False),
        ("", {"Authorization": "Digest s3cret"}, False),
        ("", {"Authorization": "Token s3cret2"}, False),
        ("", {"Authorization": "Token "}, False),
        ("", {"Authorization": "Basic !"}, False),
        ("", {"Authorization": "Basic " + base64.b64encode(b"s3cret").decode()}, False),
        ("", {"Authorization": "Bearer \xe9"}, False),
    ],
)
def test_tokens(tokens: Rig, path: str, query: str, headers: Headers, right: bool) -> None:
    body = snappy(0) if path == PROMETHEUS else LINE
    answer = tokens.ask(path + query, body, headers)
    if right:
        assert answer.status == 204
        return
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="InfluxDB"'
    text = answer.body.decode()
    assert {
        V1: "authorization failed" in text or "unable to parse authentication credentials" in text,
        V2: text == '{"code":"unauthorized","message":"unauthorized access"}',
        V3: text == '{"error":"the request was not authenticated"}',
        PROMETHEUS: bool(text),
    }[path]


@pytest.fixture(scope="module")
def tokens() -> Iterator[Rig]:
    with Rig({"tokens": ("s3cret", "other")}) as rig:
        yield rig


def test_who_only_looks_needs_no_token(tokens: Rig) -> None:
    assert tokens.ask("/ping").status == 204
    assert tokens.ask("/ping", method="HEAD").headers["x-influxdb-version"]
    assert tokens.ask("/ping?verbose=true").json["version"]
    assert tokens.ask("/health").json["status"] == "pass"
    assert tokens.ask("/query?q=SHOW+DATABASES").status == 401


def test_tokens_follow_the_config() -> None:
    with Rig({"tokens": ("old",)}) as rig:
        assert rig.ask(V1, LINE, {"Authorization": "Token old"}).status == 204
        rig.reconfigure(tokens=("new",), max_body=1024)
        assert rig.ask(V1, LINE, {"Authorization": "Token old"}).status == 401
        assert rig.ask(V1, LINE, {"Authorization": "Token new"}).status == 204
        assert rig.ask(V1, bytes(1025), {"Authorization": "Token new"}).status == 413


# ---- queries ----


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("CREATE DATABASE x", [{"statement_id": 0}]),
        ('create database "x y" WITH DURATION 1d', [{"statement_id": 0}]),
        (
            "SHOW DATABASES",
            [{"statement_id": 0, "series": [{"name": "databases", "columns": ["name"]}]}],
        ),
        (
            "CREATE DATABASE x; SELECT 1",
            [
                {"statement_id": 0},
                {"statement_id": 1, "error": "this is an agent that takes writes; it answers no queries"},
            ],
        ),
    ],
)
def test_queries(small: Rig, text: str, results: object) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    encoded = text.replace(" ", "+").replace(";", "%3B").replace('"', "%22")
    for answer in (small.ask(f"/query?q={encoded}"), small.ask("/query", b"q=" + encoded.encode(), form)):
        assert (answer.status, answer.json) == (200, {"results": results})
    assert small.ask("/query").json == {"error": 'missing required parameter "q"'}


# ---- connections ----


def talk(rig: Rig, data: bytes) -> bytes:
    """Everything that is answered to *data* until the connection is closed."""
    with rig.connect() as sock:
        sock.sendall(data)
        got = b""
        while part := sock.recv(65536):
            got += part
        return got


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /ping HTTP/9.9\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_told_so_and_counted(small: Rig, data: bytes, status: int) -> None:
    before = small.input.events.get(str(status), 0)
    assert talk(small, data)[8:].startswith(b" %d " % status)
    assert small.input.events[str(status)] == before + 1


def test_chunks_that_are_none(small: Rig) -> None:
    head = b"POST /write HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 400 " in talk(small, head + b"5\r\nm v=1\r\nzz\r\n")
    assert small.written() == b""


def test_half_a_body_is_not_written(small: Rig) -> None:
    with small.connect() as sock:
        sock.sendall(b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + LINE)
        wait_until(lambda: small.input.busy == 1)
    wait_until(lambda: small.input.busy == 0 and small.input.connections == 0)
    assert small.written() == b""
    assert small.counted() == {}


def test_expect_100_continue(small: Rig) -> None:
    head = b"POST /write HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with small.connect() as sock:
        sock.sendall(head % len(LINE))
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(LINE)
        assert sock.recv(1000).startswith(b"HTTP/1.1 204 ")
    assert small.written() == LINE
    assert talk(small, head % 100_001).startswith(b"HTTP/1.1 413 ")


def test_one_connection_too_many_is_turned_away() -> None:
    with Rig({"max_connections": 3}) as rig:
        held = [rig.connect() for _ in range(3)]
        wait_until(lambda: rig.input.connections == 3)
        for _ in range(5):
            with rig.connect() as sock:
                assert sock.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert rig.input.events["refused"] == 5
        held.pop().close()
        wait_until(lambda: rig.input.connections == 2)
        assert rig.ask(V1, LINE).status == 204
        for sock in held:
            sock.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A rig that waits for nobody longer than about a second."""
    for name in ("HEAD_S", "BODY_GRACE_S", "ANSWER_S"):
        monkeypatch.setattr(connections, name, 0.3)
    with Rig({"idle_timeout": 0.5}) as rig:
        yield rig


@pytest.mark.parametrize(
    ("first", "trickle", "event"),
    [
        (b"", b"", "slow"),
        (b"POST /wri", b"t", "slow"),
        (b"POST /write HTTP/1.1\r\nHost: h\r\n", b"X: y\r\n", "slow"),
        (b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n", b"m", "slow"),
        (b"POST /write HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nm\r\n", "slow"),
        (b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n", b"", "idle"),
    ],
)
def test_who_is_too_slow_is_cut(hasty: Rig, first: bytes, trickle: bytes, event: str) -> None:
    began = time.monotonic()
    with hasty.connect() as sock:
        sock.sendall(first)
        sock.settimeout(0.05)
        ended = False
        while not ended and time.monotonic() < began + 15:
            try:
                sock.sendall(trickle)
                ended = sock.recv(1000) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
    assert time.monotonic() - began < 10
    wait_until(lambda: hasty.input.events.get(event, 0) == 1)
    wait_until(lambda: hasty.input.connections == 0)
    assert hasty.written() == b""
    assert hasty.ask(V1, LINE).status == 204


def test_who_never_reads_the_answers_is_cut(hasty: Rig) -> None:
    # 30 kB of answer each.
    request = b"GET /query?q=" + b"SHOW+DATABASES%3B" * 400 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    with hasty.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.2)
        deadline = time.monotonic() + 15
        while not hasty.input.events.get("unread", 0) and time.monotonic() < deadline:
            try:
                sock.sendall(request * 10)
            except TimeoutError:
                continue
            except OSError:
                break
    wait_until(lambda: hasty.input.events.get("unread", 0) == 1)
    assert hasty.ask(V1, LINE).status == 204


def test_bodies_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig({"max_body": 1 << 20}) as rig:
        head = b"POST /write HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
        held = []
        for _ in range(8):
            sock = rig.connect()
            sock.sendall(head + b"#" * 999_999)
            held.append(sock)
        wait_until(lambda: rig.input.busy == 8)
        wait_until(lambda: rig.ask(V1, b"#" * 900_000).status == 429)
        for sock in held:
            sock.sendall(b"\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 204 ")
            sock.close()
        assert rig.ask(V1, b"#" * 900_000).status == 204


# ---- TLS ----


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def post(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        connection.request("POST", V1, LINE)
        return connection.getresponse().status
    finally:
        connection.close()


def client(certificates: Path, ca: str = "ca", own: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates / f"{ca}.pem")
    if own:
        context.load_cert_chain(certificates / f"{own}.pem", certificates / f"{own}.key")
    return context


def test_tls_and_certificates_of_clients(certificates: Path) -> None:
    files: Callable[[str], str] = lambda name: str(certificates / name)  # noqa: E731
    with Rig({"cert": files("server.pem"), "key": files("server.key")}) as rig:
        assert post(rig.port, client(certificates)) == 204
        with rig.connect() as plain:
            plain.sendall(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n" + bytes(300))
            assert b"HTTP" not in plain.recv(1000)
        wait_until(lambda: rig.input.events.get("handshake", 0) == 1)
        kept = http.client.HTTPSConnection("127.0.0.1", rig.port, timeout=20, context=client(certificates))
        kept.request("GET", "/ping")
        kept.getresponse().read()
        # The next one is of another authority, and asks clients for theirs.
        rig.reconfigure(client_ca=files("ca.pem"))
        with pytest.raises(OSError):
            post(rig.port, client(certificates))
        with pytest.raises(OSError):
            post(rig.port, client(certificates, own="other"))
        assert post(rig.port, client(certificates, own="client")) == 204
        kept.request("POST", V1, LINE)
        assert kept.getresponse().status == 204, "who is connected stays"
        kept.close()
        assert rig.written() == LINE * 3
        rig.reconfigure(cert="", key="", client_ca="")
        assert rig.ask(V1, LINE).status == 204
