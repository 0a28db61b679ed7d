"""The collectors of [host]: Telegraf's names and types, and values that agree with /proc."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from msgspec.structs import replace

from agent._core import Feed, Ring, Waker
from agent.config import Agent, Config, Host
from agent.inputs import host_collectors
from agent.inputs.base import Source
from agent.inputs.host import HostInput
from agent.inputs.host_collectors import (
    Cpu,
    DiskIo,
    Fields,
    Measured,
    Mem,
    Net,
    Processes,
    Swap,
    System,
    format_uptime,
    read_meminfo,
)
from agent.inputs.host_disk import Disk, Hanging, fields_of
from agent.ledger import Ledger
from tests.conftest import wait_until

INTEGERS = {
    "mem": set(Mem._FIELDS) | {"cached", "used"},
    "swap": {"total", "used", "free", "in", "out"},
    "diskio": {
        *("reads", "writes", "read_bytes", "write_bytes", "read_time", "write_time", "io_time"),
        *("weighted_io_time", "iops_in_progress", "merged_reads", "merged_writes"),
    },
    "net": {
        *("bytes_sent", "bytes_recv", "packets_sent", "packets_recv"),
        *("err_in", "err_out", "drop_in", "drop_out", "speed"),
    },
    "disk": {"total", "free", "used", "inodes_total", "inodes_free", "inodes_used"},
    "system": {"n_cpus", "n_users", "n_unique_users", "uptime"},
    "processes": {
        *("blocked", "dead", "idle", "paging", "running", "sleeping", "stopped", "total"),
        *("total_threads", "unknown", "zombies"),
    },
}
PARTS = ("user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
FLOATS = {
    "cpu": {f"usage_{part}" for part in PARTS},
    "mem": {"used_percent", "available_percent"},
    "swap": {"used_percent"},
    "disk": {"used_percent", "inodes_used_percent"},
    "system": {"load1", "load5", "load15"},
}


def check_types(points: list[Measured], name: str) -> None:
    for measurement, _, fields in points:
        assert measurement == name
        integers = {field for field, value in fields.items() if type(value) is int}
        floats = {field for field, value in fields.items() if type(value) is float}
        assert integers - {"parked"} == INTEGERS.get(name, set())
        assert floats == FLOATS.get(name, set())


def only(points: list[Measured]) -> Fields:
    [(_, tags, fields)] = points
    assert tags == {}
    return fields


def test_cpu_says_the_shares_since_the_last_reading() -> None:
    collector = Cpu()
    assert collector.collect(Host()) == []
    before = psutil.cpu_times()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    points = collector.collect(Host())
    after = psutil.cpu_times()
    check_types(points, "cpu")
    names = [tags["cpu"] for _, tags, _ in points]
    assert set(names) <= {"cpu-total", *(f"cpu{n}" for n in range(os.cpu_count() or 1))}
    total = next(fields for _, tags, fields in points if tags["cpu"] == "cpu-total")
    assert sum(total[f"usage_{part}"] for part in PARTS) == pytest.approx(100.0, abs=0.5)  # type: ignore[misc]
    spent = sum(after[:8]) - sum(before[:8])
    busy = 100.0 * (after.idle - before.idle) / spent
    assert total["usage_idle"] == pytest.approx(busy, abs=15)
    few = collector.collect(Host(percpu=False, totalcpu=False))
    assert few == []


def test_cpu_takes_a_guests_time_out_of_the_users() -> None:
    zero = dict.fromkeys(PARTS, 0.0)
    shares = Cpu()._shares(zero, zero | {"user": 60.0, "guest": 20.0, "idle": 40.0})
    assert (shares["usage_user"], shares["usage_guest"], shares["usage_idle"]) == (40.0, 20.0, 40.0)
    assert Cpu()._shares(zero, zero) == {} == Cpu()._shares(None, zero)


def test_mem_is_proc_meminfo() -> None:
    points = Mem().collect(Host())
    check_types(points, "mem")
    fields, virtual = only(points), psutil.virtual_memory()
    assert fields["total"] == virtual.total
    assert fields["available"] == pytest.approx(virtual.available, rel=0.05)
    assert fields["cached"] == pytest.approx(virtual.cached, rel=0.05)
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
    assert fields["total"] == total
    parts = [fields[name] for name in ("used", "free", "buffered", "cached")]
    assert sum(parts) == total  # type: ignore[call-overload]
    assert fields["used_percent"] == 100.0 * fields["used"] / total  # type: ignore[operator]
    assert fields["huge_pages_total"] == read_meminfo()["HugePages_Total"]


def test_swap_is_proc_meminfo_and_vmstat() -> None:
    points = Swap().collect(Host())
    check_types(points, "swap")
    fields = only(points)
    info = read_meminfo()
    assert (fields["total"], fields["free"]) == (info["SwapTotal"], info["SwapFree"])
    vmstat = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert fields["in"] == int(vmstat.get("pswpin", 0)) * 4096


def test_diskio_is_proc_diskstats() -> None:
    points = DiskIo().collect(Host())
    check_types(points, "diskio")
    lines = {line.split()[2]: line.split() for line in Path("/proc/diskstats").read_text().splitlines()}
    assert {tags["name"] for _, tags, _ in points} == set(lines)
    for _, tags, fields in points:
        assert fields["reads"] == pytest.approx(int(lines[tags["name"]][3]), rel=0.1, abs=100)
        assert fields["read_bytes"] == pytest.approx(int(lines[tags["name"]][5]) * 512, rel=0.1, abs=1 << 20)
    first = next(iter(lines))
    some = DiskIo().collect(Host(devices=(first[:2] + "*",)))
    assert some and all(tags["name"].startswith(first[:2]) for _, tags, _ in some)


def test_net_is_proc_net_dev_without_the_loopback() -> None:
    points = Net().collect(Host())
    check_types(points, "net")
    names = {tags["interface"] for _, tags, _ in points}
    assert "lo" not in names
    flags = {path.name: int((path / "flags").read_text(), 16) for path in Path("/sys/class/net").iterdir()}
    assert names == {name for name, value in flags.items() if value & 1 and not value & 8}
    [(_, _, fields)] = Net().collect(Host(interfaces=("lo",)))
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    assert int(fields["bytes_recv"]) <= int(line.split(":")[1].split()[0])  # type: ignore[call-overload]
    assert fields["speed"] == -1


def test_system_is_proc_loadavg_and_uptime() -> None:
    points = System().collect(Host())
    [(name, _, fields)] = points
    assert name == "system"
    assert fields.pop("uptime_format") == format_uptime(int(fields["uptime"]))  # type: ignore[call-overload]
    check_types(points, "system")
    load = Path("/proc/loadavg").read_text().split()
    assert fields["load15"] == pytest.approx(float(load[2]), abs=0.5)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert fields["uptime"] == pytest.approx(uptime, abs=2)
    assert fields["n_cpus"] == os.cpu_count()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, " 0:00"), (3_600 + 60, " 1:01"), (86_400, "1 day,  0:00"), (5 * 86_400 + 45_300, "5 days, 12:35")],
)
def test_uptime_is_told_as_telegraf_does(seconds: int, text: str) -> None:
    assert format_uptime(seconds) == text


def test_processes_are_counted_by_their_states() -> None:
    points = Processes().collect(Host())
    check_types(points, "processes")
    fields = only(points)
    states = [name for name in fields if name not in ("total", "total_threads")]
    assert sum(fields[name] for name in states) == fields["total"]  # type: ignore[misc]
    assert fields["total"] == pytest.approx(len(psutil.pids()), abs=20)
    assert fields["running"] >= 1  # type: ignore[operator]


def test_a_programs_name_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = [b"1 (a) S) Z 0" + b" 1" * 17, b"2 (b\n c) D 0" + b" 1" * 17, b"3 () Q 0" + b" 1" * 17]
    monkeypatch.setattr(host_collectors, "read_stats", lambda: iter(stats))
    fields = only(Processes().collect(Host()))
    found = {name: value for name, value in fields.items() if value}
    assert found == {"zombies": 1, "blocked": 1, "unknown": 1, "total": 3, "total_threads": 3}


def test_disk_is_statvfs_of_what_is_mounted(tmp_path: Path) -> None:
    root = os.statvfs("/")
    disk = Disk()
    points = disk.collect(Host(ignore_fs=(), mount_points=("/",)))
    check_types(points, "disk")
    [(_, tags, fields)] = points
    assert tags["path"] == "/"
    assert set(tags) == {"device", "fstype", "mode", "path"}
    assert fields["total"] == root.f_blocks * root.f_frsize
    assert fields["inodes_total"] == root.f_files
    kinds = {part.fstype for part in psutil.disk_partitions(all=True)}
    assert disk.collect(Host(ignore_fs=tuple(kinds))) == []
    disk.close()
    used, free = int(fields["used"]), int(fields["free"])  # type: ignore[call-overload]
    assert fields["used_percent"] == pytest.approx(100 * used / (used + free))


def test_a_mount_that_hangs_costs_itself_only_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    asked: list[str] = []

    def ask(path: str) -> os.statvfs_result:
        asked.append(path)
        if path == "/dead":
            release.wait()
        return os.statvfs("/")

    parts = [
        SimpleNamespace(device="/dev/x", mountpoint=path, fstype="ext4", opts="rw")
        for path in ("/a", "/dead", "/b")
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    disk = Disk(ask, patience=0.1)
    for _ in range(2):
        with pytest.raises(Hanging, match="no answer from /dead") as hanging:
            disk.collect(Host())
        assert [tags["path"] for _, tags, _ in hanging.value.points] == ["/a", "/b"]
    assert asked.count("/dead") == 1
    release.set()
    wait_until(lambda: not disk._answers.empty())
    assert [tags["path"] for _, tags, _ in disk.collect(Host())] == ["/a", "/dead", "/b"]
    disk.close()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "host-disk"])


def test_an_empty_file_system_is_no_division_by_zero() -> None:
    empty = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    assert fields_of(empty)["used_percent"] == fields_of(empty)["inodes_used_percent"] == 0.0


def ledger() -> Ledger:
    return Ledger(listeners=(), lanes=(), outputs=(), problems=())


class Running:
    """A HostInput on a feed with one ring."""

    def __init__(self, config: Host, tags: dict[str, str] | None = None) -> None:
        self.ring = Ring(None, 1 << 20, Waker())
        self.feed = Feed()
        self.feed.set_layout((), [self.ring])
        self.input = HostInput(config, tags or {}, Source(self.feed, 7), ledger)
        self.lines: list[bytes] = []

    def take(self) -> list[bytes]:
        while (batch := self.ring.take(1 << 20, 1 << 20, True)) is not None:
            self.lines += bytes(memoryview(batch)).splitlines()
            batch.release()
        return self.lines


def run(config: Host, done: Callable[[Running], object], tags: dict[str, str] | None = None) -> Running:
    running = Running(config, tags)
    running.input.start()
    try:
        wait_until(lambda: done(running), 30.0)
    finally:
        running.input.stop(5.0)
    assert not running.input.failure
    return running


def test_points_carry_the_multiples_of_their_interval_and_the_host() -> None:
    config = Host(interval=1.0, collectors=("mem", "system", "penstock"))
    running = run(config, lambda one: len(one.take()) >= 6)
    assert all(int(line.rsplit(b" ", 1)[1]) % 10**9 == 0 for line in running.lines)
    host = os.uname().nodename.encode()
    assert all(b",host=" + host in line for line in running.lines)
    assert {line.split(b",")[0] for line in running.lines} == {b"mem", b"system", b"penstock"}
    assert running.feed.stats()["listeners"][7]["dropped"] == {}


def test_a_tag_of_the_agent_named_host_wins() -> None:
    running = run(Host(interval=1.0, collectors=("swap",)), lambda one: one.take(), {"host": "other"})
    assert b"host=" not in running.lines[0]
    named = run(Host(interval=1.0, collectors=("swap",), hostname="web 1"), lambda one: one.take())
    assert named.lines[0].startswith(b"swap,host=web\\ 1 ")


def test_a_collector_that_fails_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Mem, config: Host) -> list[Measured]:
        raise RuntimeError("no such file")

    monkeypatch.setattr(Mem, "collect", fail)
    with caplog.at_level(logging.WARNING):
        running = run(Host(interval=1.0, collectors=("mem", "swap")), lambda one: len(one.take()) >= 2)
    assert running.input.errors == {"mem": pytest.approx(2, abs=1)}
    assert {line.split(b",")[0] for line in running.lines} == {b"swap"}
    assert "a collector failed" in caplog.text


def test_a_cpu_that_cannot_be_read_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(percpu: bool = False) -> object:
        raise OSError("no /proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", fail)
    running = run(Host(interval=1.0, collectors=("cpu", "swap")), lambda one: len(one.take()) >= 2)
    assert running.input.errors["cpu"] >= 2
    assert {line.split(b",")[0] for line in running.lines} == {b"swap"}


def test_a_reload_changes_what_is_collected() -> None:
    running = Running(Host(interval=3600.0, collectors=("mem",)))
    running.input.start()
    wait_until(lambda: running.input.beats()["host"])
    assert running.take() == []
    running.input.reconfigure(
        replace(Host(), interval=3600.0, intervals={"swap": 1.0}, collectors=("swap",)), {}
    )
    wait_until(running.take, 30.0)
    assert {line.split(b",")[0] for line in running.lines} == {b"swap"}
    running.input.stop(5.0)
    assert not [one for one in threading.enumerate() if one.name == "host"]


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    running = Running(Host(interval=10.0))
    planned = running.input
    planned._plan(Host(interval=10.0, collectors=("mem",)), 10**18)
    assert planned._due["mem"] == 10**18 + 10**10
    planned._plan(Host(interval=10.0, collectors=("mem",)), 10**17)
    assert planned._due["mem"] == 10**17 + 10**10


def test_own_measurements_are_gathered_without_a_host_and_once_beside_one() -> None:
    own = Agent(self_metrics=True)
    assert Config().gathered is None
    alone = Config(agent=own).gathered
    assert alone is not None and (alone.collectors, alone.interval) == (("penstock",), 10.0)
    beside = Config(agent=own, host=Host(interval=1.0, collectors=("mem",))).gathered
    assert beside == Host(interval=1.0, collectors=("mem", "penstock"))
    assert Config(agent=own, host=Host()).gathered == Host()
