"""An agent whose database is away and whose disk misbehaves: it runs on, loses nothing, counts exactly."""

import errno
import gzip
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, free_port, send_udp
from tests.integration.disks import broken, fill, remount, small_disk
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.stepped_clock import SteppedClock

CONFIG = """
[agent]
admin = ""
state_dir = "{state}"
[[listen]]
address = "udp://127.0.0.1:{port}"
[flush]
batch_lines = 200
interval = "50ms"
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
org = "an org"
bucket = "metrics"
token = "t0ken=="
retries = 0
batch_timeout = "200ms"
retry_min = "10ms"
retry_max = "200ms"
[output.spool]
min_free_space = "{min_free}"
max_age = "{max_age}"
"""
LINES = 20_000
"""More than a megabyte."""

BURST = 1000
"""Fits into any receive buffer."""


class Bench:
    """A server that is away, and an agent with its spool in *state*."""

    def __init__(
        self, folder: Path, state: Path, *, min_free: str = "0B", max_age: str = "7d", env: Any = None
    ):
        self.server = FakeInfluxDB(2)
        self.down()
        self.port = free_port()
        self.sent = 0
        config = CONFIG
        names = {"state": state, "port": self.port, "url": self.server.url}
        for name, value in {**names, "min_free": min_free, "max_age": max_age}.items():
            config = config.replace("{" + name + "}", str(value))
        self.spool = state / "spool" / "influx"
        self.agent = AgentProcess(folder, config, env=env)

    def restart(self) -> None:
        """Start the agent again, after an end."""
        self.agent.spawn()
        self.agent.wait_notified("READY", count=2)

    def down(self) -> None:
        self.server.rule = lambda: Answer(503)

    def up(self) -> None:
        self.server.rule = lambda: None

    def send(self, count: int = LINES) -> None:
        """Send so many lines, no two of them alike, and wait until they are accepted."""
        for _ in range(count // BURST):
            lines = [
                b"m,host=h%d id=%di,v=%d.5 %d" % (number % 7, number, number * 7919 % 9973, 10**18 + number)
                for number in range(self.sent, self.sent + BURST)
            ]
            send_udp(self.port, *(b"\n".join(lines[at : at + 20]) for at in range(0, BURST, 20)))
            self.sent += BURST
            self.agent.wait_for(lambda status: status["listeners"][0]["accepted"] >= self.sent)

    def output(self) -> dict[str, Any]:
        (output,) = self.agent.status()["outputs"]
        return dict(output["ledger"])

    def files(self) -> list[str]:
        return sorted(name for name in os.listdir(self.spool) if name.endswith((".lp", ".lp.gz")))

    def kept(self) -> dict[str, Any]:
        """The counters of the spool."""
        return dict(json.loads(self.agent.request("GET", "/api/keep")[1])["influx"]["spool"])

    def until_refused(self, error: int) -> None:
        wait_until(lambda: errno.errorcode[error] in self.kept()["errors"], what=str(self.kept()))
        assert self.agent.returncode is None

    def balanced(self) -> dict[str, Any]:
        self.agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
        return self.output()

    def all_arrives(self) -> None:
        """The server is back: every line that was accepted is there, and the ledger holds."""
        self.up()
        self.agent.wait_for(
            lambda status: status["outputs"][0]["ledger"]["delivered"] >= self.sent, timeout=60
        )
        assert len(self.server.lines) == self.sent and not self.server.problems
        ledger = self.balanced()
        assert ledger["delivered"] == self.sent and not any(ledger["dropped"].values())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, bench: Bench) -> Bench:
    stack.callback(bench.server.close)
    stack.enter_context(bench.agent)
    return bench


@pytest.mark.needs("root")
@pytest.mark.parametrize("options", ["size=600k", "size=20m,nr_inodes=30"])
def test_a_disk_that_is_full(tmp_path: Path, stack: ExitStack, options: str) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", options))
    bench = start(stack, Bench(tmp_path, disk / "state"))
    bench.send()
    bench.until_refused(errno.ENOSPC)
    bench.balanced()
    bench.all_arrives()
    wait_until(lambda: not bench.kept()["failing"])
    assert bench.files() == []


@pytest.mark.needs("root")
def test_a_disk_that_is_full_at_the_start_already(tmp_path: Path, stack: ExitStack) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", "size=4m"))
    filled = fill(disk)
    bench = start(stack, Bench(tmp_path, disk / "state"))
    bench.send()
    bench.balanced()
    wait_until(lambda: bench.kept()["failing"])
    filled.unlink()
    wait_until(lambda: bench.kept()["metrics"] > 0, timeout=40)
    bench.all_arrives()


@pytest.mark.needs("root")
def test_a_disk_that_becomes_read_only(tmp_path: Path, stack: ExitStack) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", "size=10m"))
    bench = start(stack, Bench(tmp_path, disk / "state"))
    bench.send(5000)
    wait_until(lambda: bench.kept()["metrics"] > 0)
    remount(disk, "ro")
    bench.send(5000)
    bench.until_refused(errno.EROFS)
    bench.all_arrives()
    remount(disk, "rw")
    wait_until(lambda: not bench.kept()["failing"] and not bench.files(), timeout=40)
    bench.balanced()


@pytest.mark.needs("cc")
@pytest.mark.parametrize("calls", [("write",), ("fsync",), ("rename", "unlink")])
def test_a_disk_that_is_broken(tmp_path: Path, stack: ExitStack, calls: tuple[str, ...]) -> None:
    disk = broken(tmp_path, tmp_path / "state")
    bench = start(stack, Bench(tmp_path, tmp_path / "state", env=disk.environment))
    bench.send(5000)
    wait_until(lambda: bench.kept()["metrics"] > 0)
    disk.fail(errno.EIO, *calls)
    bench.send(5000)
    bench.until_refused(errno.EIO)
    bench.balanced()
    disk.mend()
    wait_until(lambda: not bench.kept()["failing"], timeout=40)
    bench.all_arrives()


def test_damaged_and_foreign_files_at_the_start(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, tmp_path / "state")
    start(stack, bench)
    bench.send(2000)
    wait_until(lambda: bench.kept()["metrics"] == 2000, timeout=30)
    assert bench.agent.stop() == 0
    names = bench.files()
    assert len(names) >= 4
    damaged = dict(zip(names, (b"", b"m v=1 1\n", None), strict=False))
    for name, data in damaged.items():
        path = bench.spool / name
        path.write_bytes(path.read_bytes()[:-7] if data is None else data)
    (bench.spool / "notes.txt").write_text("of a person")
    (bench.spool / "20260101T000000.000000000Z-00000001-1-ns-00000000.lp.gz.part").write_bytes(b"half")
    lost = sum(int(name.split("-")[2]) for name in damaged)
    bench.restart()
    bench.up()
    bench.agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] >= 2000 - lost)
    wait_until(lambda: not bench.files())
    ledger = bench.balanced()
    assert ledger["dropped"]["spool_corrupt"] == lost
    assert sorted(os.listdir(bench.spool / "corrupt")) == sorted(damaged)
    assert sorted(os.listdir(bench.spool)) == ["corrupt", "notes.txt"]
    assert len(bench.server.lines) == 2000 - lost and bench.kept()["foreign"] == 1


@pytest.mark.needs("cc")
@pytest.mark.parametrize(("max_age", "restart"), [("1h", False), ("7d", True)])
@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_stepped_by_a_day(
    tmp_path: Path, stack: ExitStack, days: int, max_age: str, restart: bool
) -> None:
    clock = SteppedClock(tmp_path)
    bench = start(stack, Bench(tmp_path, tmp_path / "state", max_age=max_age, env=clock.environment))
    bench.send(2000)
    wait_until(lambda: bench.kept()["metrics"] == 2000, timeout=30)
    clock.step(days * 86400)
    bench.send(2000)
    wait_until(lambda: bench.kept()["metrics"] >= 3000, timeout=30)
    if restart:
        assert bench.agent.stop() == 0
        bench.restart()
        assert bench.kept()["metrics"] == 4000
    bench.up()
    bench.agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 4000)
    assert len(bench.server.lines) == 4000 and not any(bench.balanced()["dropped"].values())


def test_a_hundred_thousand_waiting_files(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, tmp_path / "state")
    bench.spool.mkdir(parents=True)
    body = gzip.compress(b"m v=1i 1\n", 1)
    for number in range(100_000):
        name = f"20260101T000000.{number:09d}Z-00000001-1-ns-{crc32(body):08x}.lp.gz"
        fd = os.open(bench.spool / name, os.O_CREAT | os.O_WRONLY)
        os.write(fd, body)
        os.close(fd)
    start(stack, bench)
    ledger = bench.balanced()
    assert ledger["restored"] == ledger["spooled"] == 100_000
    bench.up()
    bench.send(BURST)
    # Live metrics do not wait for what is older.
    wait_until(lambda: len(bench.server.lines) > BURST)
    assert bench.kept()["files"] > 50_000
    assert bench.agent.stop() == 0
    assert bench.server.statuses().count(204) + len(bench.files()) >= 100_000
