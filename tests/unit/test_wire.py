"""Addresses to sockets: each kind gets what is sent, and what goes wrong is told with the address."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.config import Listen
from agent.errors import WireError
from agent.sending import chunks, metrics
from agent.wire import Secrets, open_sink, parse, read_token
from tests.integration.certificates import make_certificates, server_context


@contextmanager
def background(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


@pytest.mark.parametrize("scheme", ["udp", "unixgram"])
def test_datagrams_arrive_one_for_each_message(tmp_path: Path, scheme: str) -> None:
    with socket.socket(
        socket.AF_UNIX if scheme == "unixgram" else socket.AF_INET, socket.SOCK_DGRAM
    ) as there:
        there.settimeout(10)
        there.bind(str(tmp_path / "s") if scheme == "unixgram" else ("127.0.0.1", 0))
        where = f"{tmp_path}/s" if scheme == "unixgram" else f"127.0.0.1:{there.getsockname()[1]}"
        sink = open_sink(f"{scheme}://{where}")
        sink.send(b"a v=1\n")
        sink.send(b"b v=1\n")
        sink.close()
        assert [there.recv(100), there.recv(100)] == [b"a v=1\n", b"b v=1\n"]


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls"])
def test_a_stream_is_closed_once_the_other_end_has_all_of_it(tmp_path: Path, scheme: str) -> None:
    context = server_context(make_certificates(tmp_path)) if scheme == "tls" else None
    came = b""
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as listening:
        listening.settimeout(10)
        listening.bind(str(tmp_path / "s") if scheme == "unix" else ("127.0.0.1", 0))
        listening.listen()

        def take() -> None:
            nonlocal came
            sock, _ = listening.accept()
            with context.wrap_socket(sock, server_side=True) if context else sock as taken:
                while data := taken.recv(65536):
                    came += data
                if isinstance(taken, ssl.SSLSocket):
                    taken.unwrap()

        where = f"{tmp_path}/s" if scheme == "unix" else f"127.0.0.1:{listening.getsockname()[1]}"
        with background(take):
            sink = open_sink(f"{scheme}://{where}", Secrets(ca=f"{tmp_path}/ca.pem" if context else ""))
            for _ in range(100):
                sink.send(b"a v=1\n" * 1000)
            sink.close()
    assert came == b"a v=1\n" * 100_000


def test_a_server_is_known_by_its_certificate_or_an_authority_and_by_nothing_else(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    context = server_context(tmp_path, "elsewhere")
    with socket.socket() as listening:
        listening.settimeout(10)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"tls://127.0.0.1:{listening.getsockname()[1]}"

        def shake() -> None:
            sock, _ = listening.accept()
            # Whoever does not trust us goes during the handshake, or behind it.
            with sock, suppress(OSError), context.wrap_socket(sock, server_side=True) as shaken:
                shaken.unwrap()

        for secrets in (
            Secrets(),
            Secrets(ca=f"{tmp_path}/ca.pem"),
            Secrets(certificate=f"{tmp_path}/server.pem"),
        ):
            with background(shake), pytest.raises(WireError, match="not to be trusted"):
                open_sink(address, secrets)
        with background(shake):
            open_sink(address, Secrets(certificate=f"{tmp_path}/elsewhere.pem")).close()


def test_http_shows_the_token_and_tells_the_servers_own_words() -> None:
    asked: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(204 if len(asked) == 1 else 400)
            self.end_headers()
            if len(asked) > 1:
                self.wfile.write(b'{"message": "no"}')

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    with background(server.serve_forever):
        address = f"http://127.0.0.1:{server.server_port}"
        sink = open_sink(address, Secrets(token="secret"))
        sink.send(b"a v=1\n")
        with pytest.raises(WireError, match=f'^{address}: answers 400: {{"message": "no"}}$'):
            sink.send(b"b v=1\n")
        sink.close()
        server.shutdown()
    server.server_close()
    assert asked[0] == ("/api/v2/write?bucket=penstock&precision=ns", "Token secret", b"a v=1\n")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("udp://127.0.0.1:1", "nobody listens there"),
        ("tcp://127.0.0.1:1", "nobody listens there"),
        ("unix:///nowhere/at/all", "there is no such socket"),
        ("udp://host.invalid:1", "cannot resolve the host"),
        ("udp://127.0.0.1:0", "the port is missing"),
        ("127.0.0.1:8089", "is no address: wanted "),
        ("udp://127.0.0.1", "a port from 0 to 65535 is missing"),
    ],
)
def test_what_goes_wrong_is_told_with_the_address(address: str, told: str) -> None:
    with pytest.raises(WireError) as caught:
        sink = open_sink(address)
        sink.send(b"a v=1\n")
        sink.close()
    assert told in str(caught.value) and address in str(caught.value)


def test_what_is_bound_everywhere_is_reached_on_the_loopback() -> None:
    assert parse("udp://0.0.0.0:8089")[0].host == "127.0.0.1"
    assert parse("https://[::]:8089") == (parse("http://[::1]:8089")[0], True)


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TOKEN", "of the environment")
    assert read_token(None) == "of the environment"
    (tmp_path / "token").write_text("of a file\n")
    assert read_token(tmp_path / "token") == "of a file"
    with pytest.raises(WireError, match="No such file"):
        read_token(tmp_path / "none")


# ---- what a person gives ----


def listen(format: str) -> Listen:
    return Listen(address="udp://127.0.0.1:1", format=format)


@pytest.mark.parametrize(
    ("format", "given", "good", "reasons"),
    [
        ("line", b"# a\na v=1\r\n\nb v=\nc v=1 17\n", [b"a v=1\n", b"c v=1 17\n"], ["field"]),
        ("line", b'a v="x\ny"\nb v="x\nc v=1\n', [b'a v="x\ny"\n', b"c v=1\n"], ["string"]),
        ("statsd", b"a:1|c\nb:x|c\n", [b"a:1|c\n"], ["value"]),
        ("graphite", b"a.b 1 17\na\n", [b"a.b 1 17\n"], ["value"]),
        (
            "json",
            b'{"name":"a","fields":{"v":1}}\n{"name":"b"}\n{"na',
            [b'{"name":"a","fields":{"v":1}}\n'],
            ["field", "json"],
        ),
        ("msgpack", b'{"name":"a","fields":{"v":1}}', [b"\x82\xa4name\xa1a\xa6fields\x81\xa1v\x01"], []),
        ("protobuf", b"a v=1 1000000\nb\n", [b"\n\x1d\n\x0d\n\x08__name__\x12\x01a"], ["field"]),
    ],
)
def test_each_format_is_read_first_and_what_is_malformed_is_left_out(
    format: str, given: bytes, good: list[bytes], reasons: list[str]
) -> None:
    found = list(metrics(given, listen(format)))
    sent = [one.message for one in found if not one.reason]
    assert [one.reason for one in found if one.reason] == reasons
    if format == "protobuf":
        assert [one[:1] for one in sent] == [b"\n"]
    else:
        assert sent == good
    assert not any(one.reason for one in metrics(given.split(b'\n{"na')[0], listen(format), check=False))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_what_comes_in_pieces_is_cut_between_metrics(size: int) -> None:
    text = b"".join(b"m%d v=1\n" % number for number in range(50)) + b"last v=1"
    json = b" ".join(b'{"name": "m%d",\n "fields": {"v": 1}}' % number for number in range(50))

    def reading(data: bytes) -> Callable[[int], bytes]:
        at = iter(range(0, len(data), size))
        return lambda _: data[(start := next(at, len(data))) : start + size]

    pieces = list(chunks(reading(text), "line"))
    assert b"".join(pieces) == text and all(piece.endswith(b"\n") for piece in pieces[:-1])
    found = [one for piece in chunks(reading(json), "json") for one in metrics(piece, listen("json"))]
    assert len(found) == 50 and not any(one.reason for one in found)


def test_a_stream_that_is_cut_before_it_was_taken_is_told() -> None:
    with socket.socket() as listening:
        listening.settimeout(10)
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def cut() -> None:
            sock, _ = listening.accept()
            with sock:
                while sock.recv(65536):
                    pass
                # Closed like this, the other end is told that not all was taken.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with background(cut):
            sink = open_sink(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
            sink.send(b"a v=1\n")
            with pytest.raises(WireError, match="reset by peer"):
                sink.close()
