"""Spools and rejected metrics on file systems that are full, read-only, broken, or lose their process."""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import RejectedTable, SpoolTable
from agent.outputs.base import Payload
from agent.store.rejected import Rejected
from agent.store.spool import Spool
from agent.store.spool_file import metrics_of, parse, read_payload
from tests.conftest import wait_until
from tests.integration.agent_process import ROOT
from tests.integration.disks import broken, fill, remount, small_disk

BODY = b"m v=1 1\n" * 2000
METRICS = 2000


class Writer:
    """Puts bodies into a spool, and knows what it was told of them."""

    def __init__(self, folder: Path, **settings: object) -> None:
        settings = {"min_free_space": 0, **settings}
        self.spool = Spool("influx", folder, SpoolTable(**settings))  # type: ignore[arg-type]
        self.said: list[bool] = []

    def put(self) -> bool:
        """Put one body; whether it was stored."""
        self.spool.put(Payload(BODY, METRICS, len(BODY)), time.time_ns(), self.said.append)
        assert self.spool.flush(10)
        return self.said[-1]

    def until_refused(self) -> int:
        """Put until one is refused; how many were stored."""
        for stored in range(10_000):
            if not self.put():
                return stored
        raise AssertionError("the disk took everything")

    def drain(self) -> int:
        bodies = 0
        while (entry := self.spool.take()) is not None:
            payload = self.spool.load(entry)
            assert payload is not None and payload.data == BODY
            self.spool.remove(entry)
            bodies += 1
        return bodies

    def check(self) -> None:
        """Nothing was lost, doubled or left half done."""
        counters = self.spool.counters
        assert counters.stored == METRICS * sum(self.said)
        dropped = sum(counters.dropped.values())
        assert counters.restored + counters.stored == counters.decided + dropped + counters.metrics
        names = os.listdir(self.spool.folder)
        assert counters.metrics == sum(metrics_of(name) or 0 for name in names)
        assert not [name for name in names if name.endswith(".part")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


@pytest.mark.needs("root")
@pytest.mark.parametrize("sync", ["interval", "always", "never"])
def test_a_disk_without_space(disk: Path, sync: str) -> None:
    writer = Writer(disk / "spool", sync=sync)
    stored = writer.until_refused()
    assert 40 <= stored <= 70
    counters = writer.spool.counters
    assert counters.failing == os.strerror(errno.ENOSPC) and set(counters.errors) == {"ENOSPC"}
    writer.check()
    # Deliveries make room, and it finds that out by itself.
    assert writer.drain() == stored
    wait_until(lambda: writer.spool.writable and not writer.spool.counters.failing)
    assert writer.put()
    writer.check()
    writer.spool.close()


@pytest.mark.needs("root")
def test_a_disk_without_inodes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=10m,nr_inodes=20") as disk:
        writer = Writer(disk / "spool")
        assert 10 <= writer.until_refused() <= 20
        assert set(writer.spool.counters.errors) == {"ENOSPC"}
        writer.check()
        entry = writer.spool.take()
        assert entry is not None and writer.spool.load(entry) is not None
        writer.spool.remove(entry)
        wait_until(lambda: writer.spool.writable and not writer.spool.counters.failing)
        assert writer.put()
        writer.check()
        writer.spool.close()


@pytest.mark.needs("root")
def test_a_disk_that_others_fill(disk: Path) -> None:
    writer = Writer(disk / "spool", min_free_space=256 << 10)
    for _ in range(30):
        assert writer.put()
    filled = fill(disk, leave=128 << 10)
    wait_until(lambda: "spool_space" in writer.spool.counters.dropped)
    status = os.statvfs(disk)
    assert status.f_bavail * status.f_frsize >= 256 << 10
    assert 20 <= writer.spool.counters.files <= 25 and writer.spool.counters.failing == ""
    writer.check()
    filled.unlink()
    assert writer.put()
    writer.spool.close()


@pytest.mark.needs("root")
def test_a_disk_that_becomes_read_only(disk: Path) -> None:
    writer = Writer(disk / "spool")
    for _ in range(5):
        assert writer.put()
    remount(disk, "ro")
    assert not writer.put()
    assert writer.spool.counters.errors == {"EROFS": 1}
    # What is there is delivered once, though it cannot be removed.
    assert writer.drain() == 5
    counters = writer.spool.counters
    assert (counters.metrics, counters.decided) == (0, 5 * METRICS)
    assert len(os.listdir(disk / "spool")) == 5
    remount(disk, "rw")
    wait_until(lambda: not writer.spool.counters.failing and not os.listdir(disk / "spool"))
    assert writer.put()
    writer.check()
    writer.spool.close()


@pytest.mark.needs("root")
def test_a_start_on_a_read_only_disk(disk: Path) -> None:
    writer = Writer(disk / "spool")
    assert writer.put()
    writer.spool.close()
    remount(disk, "ro")
    writer = Writer(disk / "spool")
    other = Writer(disk / "other")
    assert writer.spool.counters.metrics == METRICS and writer.drain() == 1
    assert not writer.put() and not other.put()
    assert other.spool.counters.failing == os.strerror(errno.EROFS)
    remount(disk, "rw")
    wait_until(lambda: not (writer.spool.counters.failing or other.spool.counters.failing))
    assert writer.put() and other.put()
    for one in (writer, other):
        one.check()
        one.spool.close()


@pytest.mark.needs("root")
def test_rejected_metrics_on_a_full_disk(disk: Path) -> None:
    filled = fill(disk, leave=64 << 10)
    rejected = Rejected("influx", disk / "rejected", RejectedTable())
    lines = [(b"m v=%d\n" % one, "no") for one in range(100)]
    for _ in range(100):
        rejected.put(lines, 400, "no", "", 0)
    counters = rejected.counters
    assert counters.metrics + counters.unsaved == 10_000 and 100 <= counters.metrics <= 1000
    assert counters.failing == os.strerror(errno.ENOSPC) and set(counters.errors) == {"ENOSPC"}
    names = os.listdir(disk / "rejected")
    assert len(names) == 2 * counters.files and not [name for name in names if name.endswith(".part")]
    filled.unlink()

    def kept() -> bool:
        rejected.put(lines, 400, "no", "", 0)
        return rejected.counters.failing == ""

    wait_until(kept)
    assert rejected.counters.metrics > counters.metrics


# A process that puts bodies until it is told to stop, and says what became of each.
CHILD = """
import os, sys, time
from pathlib import Path
from agent.config import SpoolTable
from agent.outputs.base import Payload
from agent.store.spool import Spool

folder, sync, body, metrics = Path(sys.argv[1]), sys.argv[2], b"m v=1 1\\n" * 2000, 2000
spool = Spool("influx", folder, SpoolTable(min_free_space=0, sync=sync))
print("restored", spool.counters.restored, flush=True)
put = 0
for line in sys.stdin if len(sys.argv) > 3 else iter(int, 1):
    put += 1
    def done(ok, put=put):
        os.write(1, b"%d %d\\n" % (put, ok))
    spool.put(Payload(body, metrics, len(body)), time.time_ns(), done)
    if len(sys.argv) > 3:
        spool.flush(10)
        if line.strip() == "drain":
            while (entry := spool.take()) is not None:
                if spool.load(entry) is not None:
                    spool.remove(entry)
        time.sleep(0.01)
        counters = spool.counters
        total = counters.decided + counters.metrics + sum(counters.dropped.values())
        exact = counters.restored + counters.stored == total
        print("counters", exact, *counters.errors, flush=True)
"""


@pytest.mark.parametrize("sync", ["interval", "always", "never"])
def test_a_process_that_is_killed_loses_nothing_that_it_called_safe(tmp_path: Path, sync: str) -> None:
    folder, chance = tmp_path / "spool", random.Random(7)
    safe = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, folder, sync], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert child.stdout is not None
        restored = int(child.stdout.readline().split()[1])
        assert restored >= safe * METRICS
        before = restored // METRICS
        wanted = chance.randrange(1, 60)
        lines = [child.stdout.readline() for _ in range(wanted)]
        child.kill()
        lines += child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        told = sum(line.split()[1:2] == [b"1"] for line in lines)
        safe = before + told
    writer = Writer(folder)
    assert writer.spool.counters.files >= safe > 6
    for name in os.listdir(folder):
        entry = parse(name)
        assert entry is not None and read_payload(str(folder), entry).data == BODY
    writer.check()
    writer.spool.close()


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (("write",), errno.EIO),
        (("write",), errno.ENOSPC),
        (("fsync",), errno.EIO),
        (("rename",), errno.EIO),
        (("rename", "unlink"), errno.EIO),
        (("unlink",), errno.EROFS),
        (("read",), errno.EIO),
        (("read", "rename", "unlink"), errno.EIO),
    ],
)
def test_a_broken_disk(tmp_path: Path, calls: tuple[str, ...], error: int) -> None:
    folder = tmp_path / "spool"
    disk = broken(tmp_path, folder)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, folder, "interval", "stepwise"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=disk.environment,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None

    def step(word: str) -> tuple[bool, list[str]]:
        """One body; whether it was stored, and the errors so far. The ledger is exact after each."""
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(word + "\n")
        child.stdin.flush()
        stored = child.stdout.readline().split()[1] == "1"
        name, exact, *errors = child.stdout.readline().split()
        assert (name, exact) == ("counters", "True")
        return stored, errors

    assert child.stdout.readline() == "restored 0\n"
    assert step("put") == (True, []) and step("put") == (True, [])
    disk.fail(error, *calls)
    stored, errors = step("drain")
    assert stored == {"write", "fsync", "rename"}.isdisjoint(calls)
    assert errors == [errno.errorcode[error]]
    disk.mend()
    wait_until(lambda: step("drain")[0])
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(10) == 0
    child.stdout.close()
    # Whatever the disk did, the next process finds whole files only.
    writer = Writer(folder)
    writer.drain()
    assert writer.spool.counters.dropped == {}
    writer.spool.close()
