"""One of three outputs is dead for the whole run: the other two get everything, as fast as without it."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.native import Beside
from tests.conftest import need
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    free_port,
    load,
    output,
)

RATE = 60_000
SECONDS = 4
WITHIN = 1.05
ATTEMPTS = 4

LISTEN = """
[flush]
interval = "100ms"

[[listen]]
name = "door"
address = "udp://127.0.0.1:{port}"
receive_buffer = "64MiB"
"""

OUTPUT = """
[[output]]
name = "{name}"
type = "influxdb"
url = "http://{address}"
org = "o"
bucket = "b"
token = "t"
response_timeout = "2s"

[output.spool]
min_free_space = "0B"
"""


def config(port: int, **addresses: str) -> str:
    outputs = [
        OUTPUT.replace("{name}", name).replace("{address}", address) for name, address in addresses.items()
    ]
    return LISTEN.replace("{port}", str(port)) + "".join(outputs)


@contextmanager
def refusing() -> Iterator[str]:
    """Nobody listens there."""
    yield f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"


@contextmanager
def frozen() -> Iterator[str]:
    """The kernel takes connections, and nobody ever reads from them."""
    with Beside("http_null") as server:
        server.process.send_signal(signal.SIGSTOP)
        yield server.address
        server.process.send_signal(signal.SIGCONT)


@contextmanager
def answering(status: int) -> Iterator[str]:
    with Beside("http_null", status=status) as server:
        yield server.address


SLOW = pytest.mark.slow

DEATHS = {
    "refused": refusing,
    "frozen": frozen,
    "unavailable": lambda: answering(503),
    "forbidden": lambda: answering(403),
}


@pytest.mark.parametrize(
    "death",
    ["refused", "frozen", pytest.param("unavailable", marks=SLOW), pytest.param("forbidden", marks=SLOW)],
)
def test_a_dead_output_does_not_slow_the_others(tmp_path: Path, death: str) -> None:
    need("make")
    need("cc")
    ratios = []
    for number in range(ATTEMPTS):
        # A busy machine slows either run for reasons of its own: the best of some pairs counts.
        (folder := tmp_path / f"{number}").mkdir()
        alone = run(folder / "without", None)
        with DEATHS[death]() as dead:
            beside = run(folder / "with", dead)
        ratios.append(max(after / before for after, before in zip(beside, alone, strict=True)))
        if ratios[-1] <= WITHIN:
            break
    print(f"{death}: {beside} s with a dead one, {alone} s without; {ratios} times as long")
    assert min(ratios) <= WITHIN


def run(folder: Path, dead: str | None) -> list[float]:
    """Seconds from the first line sent until each live output had all of them."""
    folder.mkdir()
    port = free_port()
    with Beside("http_null") as one, Beside("http_null") as two:
        addresses = {"one": one.address, "two": two.address} | ({"dead": dead} if dead else {})
        with AgentProcess(folder, config(port, **addresses)) as agent:
            began_ns = time.monotonic_ns()
            with load(port, RATE, count=RATE * SECONDS) as sender:
                assert sender.finish(stop=False) == RATE * SECONDS
            agent.wait_for(has_delivered, what="all delivered")
            # The dead one is still being tried, so its account may move while it is read.
            status = agent.wait_for(lambda now: now["ledger"]["balance"] == "balanced", what="a balance")
            check(status, dead)
            assert agent.stop(60) == 0
        return [round((server.stop()["last_ns"] - began_ns) / 1e9, 3) for server in (one, two)]


def has_delivered(status: Status) -> bool:
    return all(output(status, name)["delivered"] == RATE * SECONDS for name in ("one", "two"))


def check(status: Status, dead: str | None) -> None:
    assert_balanced(status)
    for name in ("one", "two"):
        account = output(status, name)
        assert account["missed"] == 0
        # It never came near its spool.
        assert account["spool"]["stored"] == 0 and account["retries"] == 0
    if dead:
        account = output(status, "dead")
        assert account["missed"] == 0 and account["delivered"] == 0
        assert account["spooled"] + account["waiting"] == RATE * SECONDS
