"""The proxy that the tests of outages rely on: each of its faults is one, and all of them end."""

import contextlib
import gc
import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.conftest import wait_until
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.fault_proxy import Fault, FaultProxy

PATH = "/api/v2/write?org=an%20org&bucket=metrics&precision=ns"
HEADERS = {
    "Authorization": "Token t0ken==",
    "Content-Type": "text/plain; charset=utf-8",
    "User-Agent": "penstock/0.0.0",
}
LINE = b"m v=1 1\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


@pytest.fixture
def server() -> Iterator[FakeInfluxDB]:
    with FakeInfluxDB(2) as server:
        yield server


@pytest.fixture
def proxy(server: FakeInfluxDB) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


class Client(http.client.HTTPConnection):
    def __init__(self, proxy: FaultProxy, timeout: float = 10.0) -> None:
        super().__init__("127.0.0.1", proxy.port, timeout)

    def post(self, body: bytes = LINE) -> tuple[int, bytes]:
        self.request("POST", PATH, body, HEADERS)
        response = self.getresponse()
        return response.status, response.read()


Connect = Callable[..., Client]


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    """Makes clients of the proxy, which are closed in the end."""
    clients: list[Client] = []

    def make(timeout: float = 10.0) -> Client:
        clients.append(Client(proxy, timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_healthy_proxy_is_not_there(server: FakeInfluxDB, proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    body = b"".join(b"m v=1 %d\n" % n for n in range(50_000))
    assert [client.post()[0], client.post(body)[0]] == [204, 204]
    assert len(server.lines) == 50_000 and proxy.accepted == server.connections == proxy.connections == 1
    client.close()
    wait_until(lambda: proxy.connections == 0)


def test_a_delay_is_that_of_each_direction(proxy: FaultProxy, connect: Connect) -> None:
    proxy.fault = Fault(delay_s=0.1)
    started = time.monotonic()
    assert connect().post()[0] == 204 and time.monotonic() - started >= 0.2


@pytest.mark.parametrize("old", [True, False], ids=["open connection", "new connection"])
def test_a_stall_holds_everything_and_lets_it_flow_in_the_end(
    server: FakeInfluxDB, proxy: FaultProxy, old: bool, connect: Connect
) -> None:
    client = connect()
    if old:
        client.post()
    proxy.fault = Fault(stall=True)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(client.post, b"m v=2 2\n")
        wait_until(lambda: proxy.accepted == 1 and proxy.connections == 1)
        assert not threading.Event().wait(0.1) and not future.done() and b"m v=2 2\n" not in server.lines
        proxy.heal()
        assert future.result(10)[0] == 204 and b"m v=2 2\n" in server.lines


def test_a_stall_holds_an_answer_too(server: FakeInfluxDB, proxy: FaultProxy, connect: Connect) -> None:
    gate = threading.Event()
    server.script(Answer(gate=gate))
    client = connect()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(client.post)
        wait_until(lambda: not server._script)
        proxy.fault = Fault(stall=True)
        gate.set()
        wait_until(lambda: server.lines)
        assert not threading.Event().wait(0.1) and not future.done()
        proxy.heal()
        assert future.result(10)[0] == 204


def test_what_a_stall_forgets_is_dead_for_ever_and_the_rest_is_not(
    server: FakeInfluxDB, proxy: FaultProxy, connect: Connect
) -> None:
    client = connect(timeout=0.2)
    client.post()
    proxy.fault = Fault(stall=True, forget=True)
    proxy.heal()
    with pytest.raises(TimeoutError):
        client.post(b"m v=2 2\n")
    assert connect().post()[0] == 204 and len(server.requests) == 2


@pytest.mark.parametrize("reset", [False, True])
def test_a_request_is_cut_in_its_middle(
    server: FakeInfluxDB, proxy: FaultProxy, reset: bool, connect: Connect
) -> None:
    client = connect()
    for _ in range(2):
        # Each exchange is counted for itself.
        assert client.post()[0] == 204
    proxy.fault = Fault(cut_after=100_000, reset=reset)
    assert client.post()[0] == 204
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        client.post(b"m v=2 2\n" * 50_000)
    wait_until(lambda: proxy.connections == 0)
    if not reset:
        wait_until(lambda: len(server.requests) == 4)
        assert server.statuses()[-1] is None and 90_000 < len(server.requests[-1].raw) <= 100_000
    assert server.lines == {LINE}
    proxy.heal()
    client.close()
    assert client.post()[0] == 204


@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_is_truncated(
    server: FakeInfluxDB, proxy: FaultProxy, reset: bool, connect: Connect
) -> None:
    client = connect()
    assert client.post()[0] == 204
    proxy.fault = Fault(truncate_after=10, reset=reset)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.post(b"m v=2 2\n")
    # The server has it all the same.
    assert b"m v=2 2\n" in server.lines
    wait_until(lambda: proxy.connections == 0)


def test_a_port_that_is_refused_is_the_same_afterwards(proxy: FaultProxy, connect: Connect) -> None:
    client, port = connect(), proxy.port
    client.post()
    proxy.refuse()
    assert proxy.connections == 0
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.post()
    with pytest.raises(ConnectionRefusedError):
        connect().post()
    proxy.heal()
    assert proxy.port == port and connect().post()[0] == 204


def test_connections_are_dropped_and_new_ones_taken(
    server: FakeInfluxDB, proxy: FaultProxy, connect: Connect
) -> None:
    client = connect()
    client.post()
    proxy.drop_connections()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.post()
    assert connect().post()[0] == 204 and len(server.requests) == 2


@pytest.mark.parametrize("old", [True, False], ids=["open connection", "new connection"])
def test_requests_are_answered_without_the_server(
    server: FakeInfluxDB, proxy: FaultProxy, old: bool, connect: Connect
) -> None:
    client = connect()
    if old:
        client.post()
    proxy.fault = Fault(answer=UNAVAILABLE)
    assert [client.post(LINE * 50_000), client.post()] == [(503, b"busy")] * 2
    assert len(server.requests) == old
    proxy.heal()
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        # One request more is answered, and that connection is over.
        assert [client.post()[0], client.post()[0]][0] == 503
    assert connect().post()[0] == 204


def test_a_server_that_is_not_there_closes_the_connection() -> None:
    with FakeInfluxDB(2) as server:
        port = server.port
    with FaultProxy("127.0.0.1", port) as proxy, closing(Client(proxy)) as client:
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            client.post()


def test_connections_that_come_while_others_are_dropped_are_closed_as_well(server: FakeInfluxDB) -> None:
    """Whatever a task was at when it was cancelled, before its first step too, it leaves no socket open."""
    stop = threading.Event()
    chance = random.Random(1)

    def connect() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", proxy.port), 1) as sock:
                sock.send(b"x")

    with FaultProxy("127.0.0.1", server.port) as proxy:
        clients = [threading.Thread(target=connect) for _ in range(4)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            chance.choice([proxy.refuse, proxy.heal, proxy.heal, lambda: proxy.drop_connections(True)])()
            stop.wait(chance.random() * 0.003)
        stop.set()
        for client in clients:
            client.join()
    # A socket that nobody closed says so when it is collected, and warnings are errors here.
    gc.collect()
