"""An HTTP listener under bad clients: its limits hold, and a UDP listener beside it does not notice."""

import gzip
import http.client
import random
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import QUIET, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    free_port,
    listener,
    load,
)

IDLE = 10_000
CONNECTIONS_MAX = 500
RATE = 50_000
SECONDS = 4.0

CONFIG = """
[[listen]]
address = "http://127.0.0.1:{http}"
name = "door"
max_connections = 500
max_body = "2MB"

[[listen]]
address = "udp://127.0.0.1:{udp}"
name = "udp"

[[output]]
name = "null"
type = "null"
"""


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(socket.SOCK_STREAM), free_port()


@pytest.fixture
def agent(tmp_path: Path, ports: tuple[int, int]) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, CONFIG.format(http=ports[0], udp=ports[1])) as one:
        yield one


def post(port: int, body: bytes, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/write", body, headers or {})
        return connection.getresponse().status
    except OSError:  # turned away
        return 0
    finally:
        connection.close()


def received(agent: AgentProcess, port: int) -> float:
    """Which part the UDP listener takes of what is sent to it for some seconds."""
    before = listener(agent.status(), "udp")["received"]
    with load(port, RATE, seconds=SECONDS) as sender:
        sent = sender.finish(stop=False)
    taken = listener(agent.wait_for(at_rest), "udp")["received"] - before
    assert sent > 0.8 * RATE * SECONDS
    return float(taken / sent)


def test_ten_thousand_idle_connections(agent: AgentProcess, ports: tuple[int, int]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, IDLE + 1000), hard), hard))
    count = min(IDLE, hard - 1000)
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            held.append(socket.create_connection(("127.0.0.1", ports[0]), timeout=30))

        def settled() -> bool:
            door = listener(agent.status(), "door")
            return bool(door["connections_accepted"] + door["connections_refused"] >= count)

        wait_until(settled, 60, "all are accepted, or turned away")
        door = listener(agent.status(), "door")
        assert door["connections"] <= CONNECTIONS_MAX
        # Those that say nothing are cut after 10 s, and make room for who has something to say.
        wait_until(lambda: post(ports[0], b"m v=1 1") == 204, 30, "a client is let in")
        door = listener(agent.status(), "door")
        assert door["connections_refused"] >= count - 2 * CONNECTIONS_MAX
        assert door["connections_closed"].get("slow", 0) > 0
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_balanced(agent.wait_for(at_rest))


class Attackers:
    """Clients that do everything wrong, in threads, until they are told to end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self.requests = 0

    @contextmanager
    def at_work(self) -> Iterator["Attackers"]:
        threads = [threading.Thread(target=one) for one in (self._bombs, self._slow, self._deaf, self._noise)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _bombs(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        while not self._ended.wait(0.05):
            assert post(self._port, bomb, {"Content-Encoding": "gzip"}) == 413
            self.requests += 1

    def _slow(self) -> None:
        with ExitStack() as stack:
            socks = [stack.enter_context(self._connect()) for _ in range(100)]
            while not self._ended.wait(0.2):
                for sock in socks:
                    try:
                        sock.send(b"POST /write HTTP/1.1\r\nX: y\r\n"[: random.randint(1, 20)])
                    except OSError:
                        continue

    def _deaf(self) -> None:
        while not self._ended.is_set():
            with self._connect() as sock:
                try:
                    for _ in range(200):
                        sock.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
                        if self._ended.wait(0.01):
                            return
                except OSError:
                    continue

    def _noise(self) -> None:
        while not self._ended.wait(0.01):
            with self._connect() as sock:
                try:
                    sock.sendall(random.randbytes(2000))
                except OSError:
                    continue

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        sock.settimeout(0.5)
        return sock


def test_bad_clients_cost_neither_memory_nor_the_throughput_of_others(
    agent: AgentProcess, ports: tuple[int, int]
) -> None:
    received(agent, ports[1])
    quiet = received(agent, ports[1])
    with Attackers(ports[0]).at_work() as attackers:
        attacked = received(agent, ports[1])
        memory = agent.memory
        assert attackers.requests > 0
    assert memory < 400e6
    assert attacked > quiet * (0.95 if QUIET else 0.5)
    assert post(ports[0], b"m v=1 1") == 204
    status = agent.wait_for(at_rest)
    assert_balanced(status)
    door = listener(status, "door")
    assert door["accepted"] == door["received"] == 1
    assert door["requests"]["413"] == attackers.requests
