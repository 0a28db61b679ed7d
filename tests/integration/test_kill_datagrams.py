"""``kill -9``, again and again under load, and not one datagram is missing, those in hand included.

The sockets are the test's, as they would be systemd's, so what waits in the kernel is read by the next run.
Each line has a number of its own and no timestamp; many datagrams are sent glued together, and come so. The
output writes files, where a line that is delivered twice stands twice: it must be the same line then, with
its stamp.
"""

import os
import random
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent._core import LeftBurst
from agent.errors import EXIT_OK
from tests.conftest import missing, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
)

KILLS = 25
BUFFER_BYTES = 256 << 20
RATE = 60_000
"""Lines per second; little waits then while an agent runs, and much between two of them."""
JSON_RATE = 8_000
FLOWS = 8
GLUED = 24

ASKED = 'source_rate = 1_000_000_000\nsources = ["127.0.0.1"]'
"""Where datagrams come from is asked, and nothing is dropped for that."""

_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_SOL_UDP, _UDP_SEGMENT = 17, 103

Text = Callable[[int], bytes]
"""A metric with a number; all are of the same length."""


def line(number: int) -> bytes:
    return b"k,i=%09d v=1i" % number


def json_object(number: int) -> bytes:
    return b'{"name":"k","tags":{"i":"%09d"},"fields":{"v":1}}' % number


def memory() -> str | None:
    """A file system in memory for the rings, as on a real system, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def doors(count: int) -> Iterator[list[socket.socket]]:
    """Sockets of one port with large buffers, over which the kernel spreads the senders."""
    with ExitStack() as stack:
        socks: list[socket.socket] = []
        for _ in range(count):
            sock = stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
            except PermissionError:
                missing("the right to have a large receive buffer")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, count > 1)
            sock.bind(socks[0].getsockname() if socks else ("127.0.0.1", 0))
            socks.append(sock)
        yield socks


def memory_info(socks: list[socket.socket], index: int) -> int:
    found = (struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)) for sock in socks)
    return sum(int(info[index]) for info in found)


def kernel_drops(socks: list[socket.socket]) -> int:
    return memory_info(socks, 8)


def wait_reading(socks: list[socket.socket]) -> None:
    """Wait until an agent that was started reads what has come meanwhile, and is in the midst of it."""
    most, deadline = 0, time.monotonic() + 20
    while (waiting := memory_info(socks, 0)) >= most:
        most = waiting
        assert time.monotonic() < deadline, "nobody reads"


class Sender:
    """A thread that sends metrics with numbers from 0 on, every second time several datagrams at once."""

    def __init__(self, port: int, text: Text, rate: int) -> None:
        self.sent = 0
        self._rate = rate
        self._text = text
        self._over = threading.Event()
        self._socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]
        for sock in self._socks:
            sock.connect(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        for turn in range(1 << 60):
            sock, count = self._socks[turn % FLOWS], GLUED if turn % 2 else 1
            body = b"".join(self._text(number) for number in range(self.sent, self.sent + count))
            sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, len(body) // count if count > 1 else 0)
            sock.send(body)
            self.sent += count
            while self.sent > self._rate * (time.monotonic() - began):
                if self._over.wait(0.001):
                    return

    def finish(self) -> int:
        """How many it has sent."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            for sock in self._socks:
                sock.close()
        return self.sent


@contextmanager
def sending(port: int, text: Text = line, rate: int = RATE) -> Iterator[Sender]:
    sender = Sender(port, text, rate)
    try:
        yield sender
    finally:
        sender.finish()


def config(port: int, *, lanes: int = 1, name: str = "door", format: str = "line", more: str = "") -> str:
    return f"""
        [agent]
        admin = ""
        lanes = {lanes}
        [[listen]]
        name = "{name}"
        address = "udp://127.0.0.1:{port}"
        format = "{format}"
        {more}
        [[output]]
        name = "out"
        type = "file"
        path = "{{folder}}/out"
        ring_bytes = "64MiB"
    """


@contextmanager
def agent_at(folder: Path, socks: list[socket.socket], text: str) -> Iterator[AgentProcess]:
    passed = {f"passed-{at}": sock for at, sock in enumerate(socks)}
    agent = AgentProcess(folder, "", pass_fds=passed)
    with closing(agent), TemporaryDirectory(dir=memory()) as run_dir:
        agent.runtime_dir = Path(run_dir)
        agent.write_config(text)
        yield agent.start()


def in_hand(agent: AgentProcess) -> int:
    """Datagrams that a killed agent had in hand. Copies are looked at, since a look counts as a try."""
    total = 0
    for path in sorted((agent.runtime_dir / "bursts").iterdir()):
        copy = agent.folder / "copy"
        shutil.copy(path, copy)
        total += LeftBurst(str(copy)).datagrams
    return total


def kill(agent: AgentProcess) -> int:
    """Kill the agent; returns how many datagrams it had in hand."""
    agent.signal(signal.SIGKILL)
    agent.wait()
    return in_hand(agent)


def start(agent: AgentProcess, text: str = "") -> None:
    """Start it once more, with another config perhaps, and wait until it is ready."""
    before = len(agent.log("ready"))
    if text:
        agent.write_config(text)
    agent.spawn()
    wait_until(lambda: len(agent.log("ready")) > before, what="it is ready")


def killed_with_datagrams(agent: AgentProcess, socks: list[socket.socket]) -> int:
    """Kill agents until one of them had datagrams in hand; returns how many."""
    for _ in range(50):
        if held := kill(agent):
            return held
        agent.spawn()
        wait_reading(socks)
    pytest.fail("no agent had anything in hand when it was killed")


def settle(agent: AgentProcess) -> list[bytes]:
    """Have it deliver everything, and end; returns the lines that it delivered."""
    status = agent.wait_for(
        lambda status: (
            at_rest(status)
            and status["lanes"][0]["beats"]
            and not any(one["queue_bytes"] for one in status["listeners"])
        ),
        60,
        "all is read and delivered",
    )
    assert_balanced(status)
    assert agent.stop() == EXIT_OK
    assert agent.log("stopped")[-1]["balanced"] is True
    assert [*(agent.runtime_dir / "rings").iterdir(), *(agent.runtime_dir / "bursts").iterdir()] == []
    return delivered_lines(agent.folder / "out")


def check(lines: list[bytes], sent: int) -> set[int]:
    """Lines that come twice are the same; returns the numbers that are missing."""
    different = set(lines)
    numbers = {int(one[4:13]) for one in different}
    print(f"{sent} sent, {len(numbers)} delivered, {len(lines) - len(different)} of them twice")
    assert len(different) == len(numbers), "the same line with two stamps"
    assert max(numbers) < sent
    return set(range(sent)) - numbers


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("format", "text", "rate", "more"),
    [("line", line, RATE, ""), ("json", json_object, JSON_RATE, ""), ("line", line, RATE, ASKED)],
    ids=["line", "json", "asked"],
)
def test_no_datagram_is_lost_with_killed_agents(
    tmp_path: Path, format: str, text: Text, rate: int, more: str
) -> None:
    """With two lanes and with one, by turns; killed while it starts, runs, and reads all that has waited."""
    moments = random.Random(17)
    with doors(2 if format == "line" else 1) as socks:
        port = socks[0].getsockname()[1]
        with (
            agent_at(tmp_path, socks, config(port, lanes=2, format=format, more=more)) as agent,
            sending(port, text, rate) as sender,
        ):
            held = 0
            for run in range(KILLS):
                if run % 2:
                    wait_reading(socks)
                else:
                    time.sleep(moments.uniform(0.2, 0.8))
                held += bool(kill(agent))
                agent.write_config(config(port, lanes=1 + run // 2 % 2, format=format, more=more))
                if run < KILLS - 1:
                    agent.spawn()
            start(agent)
            sent = sender.finish()
            lines = settle(agent)
            assert kernel_drops(socks) == 0
        print(f"{KILLS} kills, {held} with datagrams in hand")
        assert check(lines, sent) == set()
        assert held and agent.log("datagrams that an earlier process had in hand are read")
        assert [one["message"] for one in agent.log() if one["level"] == "warning"] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_datagrams_of_a_listener_that_is_gone_are_counted(tmp_path: Path) -> None:
    gone = "datagrams of a listener that is gone are dropped"
    with doors(1) as socks:
        port = socks[0].getsockname()[1]
        with agent_at(tmp_path, socks, config(port)) as agent, sending(port) as sender:
            held = killed_with_datagrams(agent, socks)
            start(agent, config(free_port(), name="other"))
            account = listener(agent.status(), "door")
            assert (account["received"], account["dropped"]) == (held, {"listener_gone": held})
            [warning] = agent.log(gone)
            assert (warning["listener"], warning["datagrams"]) == ("door", held)
            assert_balanced(agent.wait_for(at_rest))
            kill(agent)
            start(agent, config(port))
            sent = sender.finish()
            lines = settle(agent)
            assert kernel_drops(socks) == 0 and len(agent.log(gone)) == 1
        # A part of the burst may have been published before the kill.
        assert len(check(lines, sent)) <= held


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_renamed_listener_reads_what_its_address_had_in_hand(tmp_path: Path) -> None:
    """And as what it is now, which may be one that Python reads."""
    with doors(1) as socks:
        port = socks[0].getsockname()[1]
        with agent_at(tmp_path, socks, config(port)) as agent, sending(port) as sender:
            held = killed_with_datagrams(agent, socks)
            sender.finish()
            start(agent, config(port, name="renamed", format="json"))
            told = agent.log("datagrams that an earlier process had in hand are read")[-1]
            assert (told["listener"], told["datagrams"]) == ("door", held)
            status = agent.wait_for(lambda status: listener(status, "renamed")["datagrams"] >= held)
            assert listener(status, "renamed")["dropped"]["json"] >= held
            assert agent.stop() == EXIT_OK


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_burst_that_cannot_be_trusted_is_counted_and_set_aside(tmp_path: Path) -> None:
    with doors(1) as socks:
        port = socks[0].getsockname()[1]
        with agent_at(tmp_path, socks, config(port)) as agent, sending(port) as sender:
            killed_with_datagrams(agent, socks)
            sender.finish()
            folder = agent.runtime_dir / "bursts"
            [path] = folder.iterdir()
            aside = [f"{path.name}.foreign", "lane-7.burst.foreign"]
            (folder / "lane-7.burst").write_bytes(b"this is no burst" * 4096)
            # Half a file: the header says what was in hand, and is not believed.
            os.truncate(path, path.stat().st_size // 2)
            start(agent)
            warned = agent.log("datagrams that an earlier process had in hand are dropped")
            assert sorted(Path(one["now"]).name for one in warned) == aside
            assert listener(agent.status(), "door")["dropped"]["burst_torn"] > 0
            assert_balanced(agent.wait_for(at_rest))
            assert agent.stop() == EXIT_OK
            assert sorted(one.name for one in folder.iterdir()) == aside
