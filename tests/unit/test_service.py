"""What the service tells systemd's watchdog: that it lives, as long as its lanes and its flushers do."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import vitals
from agent._core import Lane
from agent.config import Config, Flush, NullOutput
from agent.outputs import make
from agent.pipeline import Layout
from agent.rings import Rings
from agent.route import Route
from agent.service import Service
from tests.conftest import wait_until


@pytest.fixture
def lane() -> Lane:
    return Lane(0)


@pytest.fixture
def one(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that has nothing but *lane*, and takes 50 ms without a beat for a lane that hangs."""
    monkeypatch.setattr(vitals, "PATIENCE_S", 0.05)
    made = Service(Path("penstock.toml"), Config())
    made._pipeline._lanes = [lane]
    return made


def test_a_lane_that_does_not_come_round_is_noticed(one: Service) -> None:
    assert one._alive()
    wait_until(lambda: not one._alive())


def test_a_lane_that_comes_round_again_is_well(one: Service, lane: Lane) -> None:
    assert one._alive()
    wait_until(lambda: not one._alive())
    thread = threading.Thread(target=lane.run)
    thread.start()
    try:
        # A command makes it come round at once.
        lane.set_layout((), ())
        wait_until(one._alive)
    finally:
        lane.stop(0.0)
        thread.join()


def test_the_watchdog_is_not_fed_while_a_lane_hangs(
    one: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "10000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)

        async def watch() -> None:
            tick = asyncio.create_task(one._tick())
            async with asyncio.timeout(10):
                while one._alive():
                    await asyncio.sleep(0.005)
                assert heard.recv(100) == b"WATCHDOG=1"
                with pytest.raises(BlockingIOError):
                    while True:
                        heard.recv(100)
                # Ten more rounds of the tick.
                await asyncio.sleep(0.05)
            tick.cancel()

        asyncio.run(watch())
        with pytest.raises(BlockingIOError):
            heard.recv(100)


@pytest.fixture
def route(one: Service, lane: Lane, tmp_path: Path) -> Iterator[Route]:
    """An output of *one*, and nothing but it: the lane is not looked at."""
    config = NullOutput(name="out", ring_bytes=1 << 16)
    made = Route.open(config, make(config), Flush(), 1, Rings(tmp_path))
    one._pipeline._lanes = []
    one._pipeline.layout = Layout(routes=(made,))
    yield made
    made.drain(time.monotonic(), keep=False)
    made.close()


def test_a_flusher_that_idles_is_well(one: Service, route: Route) -> None:
    deadline = time.monotonic() + 0.2  # four times as long as it may be silent
    while time.monotonic() < deadline:
        assert one._alive()
        time.sleep(0.01)


def test_a_flusher_that_does_not_come_round_is_noticed_and_named_once(
    one: Service, route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    assert one._alive()
    with route.flusher._lock:  # which it takes at the beginning of each round
        wait_until(lambda: not one._alive())
        assert not one._alive()
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.__dict__["hangs"] == "flush-out"
    wait_until(one._alive)
