"""The influxdb output in time: what each layer may take at most, and which connections are used again."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agent.config import InfluxOutput
from agent.outputs import make
from agent.outputs.base import Kind, Output, Verdict
from agent.outputs.influxdb import InfluxSink
from tests.conftest import wait_until
from tests.integration.certificates import make_certificates, server_context
from tests.integration.fake_influxdb import Answer, FakeInfluxDB

BODY = b"m v=1 1\n"
LARGE = BODY * (2 << 20)
LIMIT_S = 0.4
SLACK_S = 2.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def output(url: str, **settings: Any) -> Output:
    identity = {"org": "an org", "bucket": "metrics", "token": "t0ken==", "compression": "none"}
    return make(InfluxOutput(name="influx", url=url, **{**identity, **settings}))


def post(sink: Output, body: bytes = BODY, deadline: float = math.inf) -> Verdict:
    return sink.post(sink.encode(memoryview(body), body.count(b"\n")), deadline)


@contextmanager
def serve(talk: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that does *talk* with one connection, and then holds it until the end; its URL."""
    over = threading.Event()

    def run() -> None:
        accepted, _ = listener.accept()
        with accepted if tls is None else tls.wrap_socket(accepted, server_side=True) as sock:
            while not over.is_set():
                try:
                    talk(sock)
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            # Should the client never have come.
            socket.create_connection(listener.getsockname()).close()
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address at which connecting hangs: the kernel completes connections up to the backlog only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for one in waiting:
            one.close()


def trickle(data: bytes) -> Callable[[socket.socket], None]:
    """Send a byte of *data* every few milliseconds, the last one for ever."""
    left = iter(data)
    pause = threading.Event()

    def talk(sock: socket.socket) -> None:
        pause.wait(0.02)
        sock.sendall(bytes([next(left, data[-1])]))

    return talk


def sip(sock: socket.socket) -> None:
    """Take a little of what comes every few milliseconds."""
    threading.Event().wait(0.02)
    sock.settimeout(0.02)
    try:
        sock.recv(1000)
    except TimeoutError:
        pass


def silence(sock: socket.socket) -> None:
    threading.Event().wait(0.02)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("talk", "body", "phase"),
    [
        (lambda: trickle(b"HTTP/1.1 200 OK\r\nX-Slow: xxxxxxxxxx"), BODY, "waiting for the answer"),
        (lambda: trickle(HEAD), BODY, "waiting for the answer"),
        (lambda: silence, BODY, "waiting for the answer"),
        (lambda: sip, LARGE, "sending"),
    ],
    ids=["a head that never ends", "a body that never ends", "nothing", "a slow reader"],
)
@pytest.mark.parametrize("by", ["response_timeout", "deadline"])
def test_a_server_that_trickles_has_the_time_of_one_response(
    certificates: Path, tls: bool, talk: Any, body: bytes, phase: str, by: str
) -> None:
    """Each of its bytes comes well in time."""
    settings = {"ca": str(certificates / "ca.pem")} if tls else {}
    limit = {"response_timeout": LIMIT_S} if by == "response_timeout" else {}
    with serve(talk(), server_context(certificates) if tls else None) as url:
        sink = output(url, **settings, **limit)
        sink.tick()
        started = time.monotonic()
        verdict = post(sink, body, math.inf if limit else started + LIMIT_S)
        assert LIMIT_S <= time.monotonic() - started < LIMIT_S + SLACK_S
        assert (verdict.kind, verdict.text) == (Kind.RETRY, f"timed out while {phase}")
        sink.close()


@pytest.mark.parametrize("by", ["tls_timeout", "deadline"])
def test_a_handshake_has_its_own_time(certificates: Path, by: str) -> None:
    limit = {"tls_timeout": LIMIT_S} if by == "tls_timeout" else {}
    with serve(silence) as url:
        sink = output(url.replace("http:", "https:"), **limit)
        sink.tick()
        started = time.monotonic()
        verdict = post(sink, BODY, math.inf if limit else started + LIMIT_S)
        assert LIMIT_S <= time.monotonic() - started < LIMIT_S + SLACK_S
        assert (verdict.kind, verdict.text) == (Kind.RETRY, "timed out while making the TLS connection")
        sink.close()


@pytest.mark.parametrize("by", ["connect_timeout", "deadline"])
def test_connecting_has_its_own_time(by: str) -> None:
    limit = {"connect_timeout": LIMIT_S} if by == "connect_timeout" else {}
    with black_hole() as (host, port):
        sink = output(f"http://{host}:{port}", **limit)
        sink.tick()
        started = time.monotonic()
        verdict = post(sink, BODY, math.inf if limit else started + LIMIT_S)
        assert LIMIT_S <= time.monotonic() - started < LIMIT_S + SLACK_S
        assert (verdict.kind, verdict.text) == (Kind.RETRY, "timed out while connecting")
        sink.close()


def test_after_the_deadline_nothing_is_sent() -> None:
    with FakeInfluxDB(2) as server:
        sink = output(server.url)
        verdict = post(sink, BODY, time.monotonic())
        assert (verdict.kind, verdict.text) == (Kind.RETRY, "no time was left")
        assert server.connections == 0
        sink.close()


@pytest.mark.parametrize("order", [1, -1])
def test_an_address_in_a_black_hole_leaves_the_others_their_time(
    monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    with black_hole() as hole, FakeInfluxDB(2) as server:
        sink = output(server.url, connect_timeout=1.0)
        sink.tick()
        addresses = [hole, ("127.0.0.1", server.port)][::order]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert post(sink).kind is Kind.DELIVERED and server.lines == {BODY}
        sink.close()


def test_a_name_that_cannot_be_one_is_a_failure_like_any_other() -> None:
    verdict = post(output(f"http://{'a' * 70}.b:1"))
    assert verdict.kind is Kind.RETRY and verdict.text.startswith("cannot ")


@pytest.mark.parametrize("how", ["abort", "interrupt"])
@pytest.mark.parametrize("where", ["connecting", "the handshake", "the answer"])
def test_what_is_under_way_can_be_ended_in_every_layer(where: str, how: str) -> None:
    with ThreadPoolExecutor(1) as threads, black_hole() as (host, port), serve(silence) as url:
        addresses = {"connecting": f"http://{host}:{port}", "the handshake": url.replace("http:", "https:")}
        sink = cast(InfluxSink, output(addresses.get(where, url)))
        sink.tick()
        transport = sink._transport
        assert transport is not None
        future = threads.submit(post, sink)
        wait_until(lambda: any(one.sock is not None for one in list(transport._posts)))
        if how == "abort":
            sink.abort()
        else:
            sink.interrupt(time.monotonic())
        verdict = future.result(SLACK_S)
        assert (verdict.kind, verdict.text) == (Kind.RETRY, f"{how.removesuffix('e')}ed")
        sink.close()


def test_only_what_began_before_is_interrupted_and_what_is_idle_stays() -> None:
    with FakeInfluxDB(2) as server, ThreadPoolExecutor(2) as threads:
        sink = output(server.url)
        sink.tick()
        gate = threading.Event()
        assert post(sink).kind is Kind.DELIVERED
        server.script(*[Answer(gate=gate)] * 2)
        sooner = threads.submit(post, sink)
        wait_until(lambda: len(server._script) == 1)
        between = time.monotonic()
        later = threads.submit(post, sink)
        wait_until(lambda: not server._script)
        sink.interrupt(between)
        # Its connection had served others before, but it is not tried again by itself.
        assert sooner.result(SLACK_S).text == "interrupted" and len(server.requests) == 1
        gate.set()
        assert later.result(SLACK_S).kind is Kind.DELIVERED
        sink.interrupt(time.monotonic())
        connections = server.connections
        assert post(sink).kind is Kind.DELIVERED and server.connections == connections
        sink.close()


def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    with FakeInfluxDB(2) as server:
        sink = output(server.url, idle_timeout=0.05)
        sink.tick()
        assert post(sink).kind is post(sink).kind is Kind.DELIVERED and server.connections == 1
        end = time.monotonic() + 0.05
        wait_until(lambda: time.monotonic() > end)
        assert post(sink).kind is Kind.DELIVERED and server.connections == 2
        sink.close()


def post_at_once(server: FakeInfluxDB, sink: Output, count: int) -> None:
    """Have so many requests under way at the same time; they are all delivered."""
    gate = threading.Event()
    server.script(*[Answer(gate=gate)] * count)
    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(post, sink) for _ in range(count)]
        wait_until(lambda: not server._script)
        gate.set()
        assert all(future.result(10).kind is Kind.DELIVERED for future in futures)


def test_a_dead_connection_costs_one_try_and_so_do_all_of_a_pool() -> None:
    with FakeInfluxDB(2) as server:
        sink = output(server.url, max_concurrency=4)
        sink.tick()
        post_at_once(server, sink, 4)
        server.script(Answer(cut="reset"))
        assert post(sink).kind is Kind.DELIVERED
        assert server.connections == 5 and len(server.requests) == 6
        # The other three have been idle for as long as the dead one: they are not even tried.
        post_at_once(server, sink, 4)
        assert server.connections == 8 and len(server.requests) == 10
        sink.close()


def test_no_answer_on_a_kept_connection_is_a_failure_at_its_time_and_not_tried_again() -> None:
    with FakeInfluxDB(2) as server:
        sink = output(server.url, response_timeout=LIMIT_S)
        assert post(sink).kind is Kind.DELIVERED
        gate = threading.Event()
        server.rule = lambda: Answer(gate=gate)
        started = time.monotonic()
        verdict = post(sink)
        assert (verdict.kind, verdict.text) == (Kind.RETRY, "timed out while waiting for the answer")
        assert LIMIT_S <= time.monotonic() - started < 2 * LIMIT_S and server.connections == 1
        gate.set()
        sink.close()


def test_half_an_answer_on_a_kept_connection_is_a_failure() -> None:
    with FakeInfluxDB(2) as server:
        sink = output(server.url)
        assert post(sink).kind is Kind.DELIVERED
        server.script(Answer(500, "half of it", cut="half"))
        verdict = post(sink)
        assert verdict.kind is Kind.RETRY and verdict.text.startswith("connection lost: ")
        assert len(server.requests) == 2
        sink.close()
