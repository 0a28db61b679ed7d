"""What this host says of itself: a collector for each subject, in the words of Telegraf.

Measurements, tags, fields and their types are those of Telegraf's inputs of the same names on Linux, so that
its dashboards work. A field of a kernel counter is an integer, a share is a float in percent.

A collector is asked every interval and returns points without a time. One that compares two readings says
nothing the first time. They are called by one thread; what they raise is for the caller to count.
"""

import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import psutil  # type: ignore[import-untyped]

from agent.config import Host

Fields = dict[str, object]
Measured = tuple[str, dict[str, str], Fields]
"""Measurement, tags, fields."""

PROC = Path("/proc")


class Collector(ABC):
    """One subject."""

    name: ClassVar[str]

    @abstractmethod
    def collect(self, config: Host) -> list[Measured]:
        """The points of now."""


class Cpu(Collector):
    """``cpu``: shares of the time since the last reading, for each processor and all together."""

    name = "cpu"
    _PARTS = ("user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")

    def __init__(self) -> None:
        self._before: dict[str, Mapping[str, float]] = {}

    def collect(self, config: Host) -> list[Measured]:
        now = {f"cpu{n}": times._asdict() for n, times in enumerate(psutil.cpu_times(percpu=True))}
        now["cpu-total"] = psutil.cpu_times()._asdict()
        before, self._before = self._before, now
        points: list[Measured] = []
        for cpu, times in now.items():
            shares = self._shares(before.get(cpu), times)
            if shares and (config.totalcpu if cpu == "cpu-total" else config.percpu):
                points.append(("cpu", {"cpu": cpu}, shares))
        return points

    def _shares(self, before: Mapping[str, float] | None, now: Mapping[str, float]) -> Fields:
        if before is None:
            return {}
        delta = {part: now.get(part, 0.0) - before.get(part, 0.0) for part in self._PARTS}
        # The kernel counts a guest's time as user time too.
        total = sum(delta[part] for part in self._PARTS if not part.startswith("guest"))
        if total <= 0:
            return {}
        delta["user"] -= delta["guest"]
        delta["nice"] -= delta["guest_nice"]
        return {f"usage_{part}": 100.0 * max(value, 0.0) / total for part, value in delta.items()}


class Mem(Collector):
    """``mem``: /proc/meminfo, in bytes."""

    name = "mem"
    _FIELDS: ClassVar[Mapping[str, str]] = {
        "active": "Active",
        "available": "MemAvailable",
        "buffered": "Buffers",
        "commit_limit": "CommitLimit",
        "committed_as": "Committed_AS",
        "dirty": "Dirty",
        "free": "MemFree",
        "high_free": "HighFree",
        "high_total": "HighTotal",
        "huge_page_size": "Hugepagesize",
        "huge_pages_free": "HugePages_Free",
        "huge_pages_total": "HugePages_Total",
        "inactive": "Inactive",
        "low_free": "LowFree",
        "low_total": "LowTotal",
        "mapped": "Mapped",
        "page_tables": "PageTables",
        "shared": "Shmem",
        "slab": "Slab",
        "sreclaimable": "SReclaimable",
        "sunreclaim": "SUnreclaim",
        "swap_cached": "SwapCached",
        "swap_free": "SwapFree",
        "swap_total": "SwapTotal",
        "total": "MemTotal",
        "vmalloc_chunk": "VmallocChunk",
        "vmalloc_total": "VmallocTotal",
        "vmalloc_used": "VmallocUsed",
        "write_back": "Writeback",
        "write_back_tmp": "WritebackTmp",
    }

    def collect(self, config: Host) -> list[Measured]:
        info = read_meminfo()
        fields: Fields = {name: info.get(key, 0) for name, key in self._FIELDS.items()}
        total, free, buffers = info["MemTotal"], info["MemFree"], info["Buffers"]
        # What the kernel gives back when it must counts as cached.
        cached = info["Cached"] + info.get("SReclaimable", 0)
        used = max(total - free - buffers - cached, 0)
        fields |= {
            "cached": cached,
            "used": used,
            "used_percent": 100.0 * used / total,
            "available_percent": 100.0 * info.get("MemAvailable", free) / total,
        }
        return [("mem", {}, fields)]


def read_meminfo() -> dict[str, int]:
    """/proc/meminfo, kilobytes as bytes, plain counts as they are."""
    found: dict[str, int] = {}
    for line in (PROC / "meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        found[key] = int(number) * (1024 if unit == "kB" else 1)
    return found


class Swap(Collector):
    """``swap``: how full it is, and what was moved since the start of the machine, in bytes."""

    name = "swap"

    def collect(self, config: Host) -> list[Measured]:
        swap = psutil.swap_memory()
        used_percent = 100.0 * swap.used / swap.total if swap.total else 0.0
        fill: Fields = {
            "total": swap.total,
            "used": swap.used,
            "free": swap.free,
            "used_percent": used_percent,
        }
        return [("swap", {}, {**fill, "in": swap.sin, "out": swap.sout})]


class DiskIo(Collector):
    """``diskio``: /proc/diskstats."""

    name = "diskio"
    _COUNTS = (
        *("reads", "merged_reads", "sectors_read", "read_time"),
        *("writes", "merged_writes", "sectors_written", "write_time"),
        *("iops_in_progress", "io_time", "weighted_io_time"),
    )
    _SECTORS: ClassVar[Mapping[str, str]] = {
        "sectors_read": "read_bytes",
        "sectors_written": "write_bytes",
    }

    def collect(self, config: Host) -> list[Measured]:
        points: list[Measured] = []
        for line in (PROC / "diskstats").read_text().splitlines():
            _, _, device, *numbers = line.split()
            if len(numbers) < 11 or not chosen(device, config.devices):
                continue
            counts = dict(zip(self._COUNTS, map(int, numbers), strict=False))
            fields: Fields = {
                self._SECTORS.get(name, name): value * 512 if name in self._SECTORS else value
                for name, value in counts.items()
            }
            points.append(("diskio", {"name": device}, fields))
        return points


class Net(Collector):
    """``net``: counters of the interfaces that are up, loopback left out, or of those that are named."""

    name = "net"

    def collect(self, config: Host) -> list[Measured]:
        points: list[Measured] = []
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
        for interface, io in counters.items():
            if not (chosen(interface, config.interfaces) if config.interfaces else is_up(interface)):
                continue
            fields: Fields = {
                "bytes_sent": io.bytes_sent,
                "bytes_recv": io.bytes_recv,
                "packets_sent": io.packets_sent,
                "packets_recv": io.packets_recv,
                "err_in": io.errin,
                "err_out": io.errout,
                "drop_in": io.dropin,
                "drop_out": io.dropout,
                "speed": speed_of(interface),
            }
            points.append(("net", {"interface": interface}, fields))
        return points


_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


def is_up(interface: str) -> bool:
    """Whether *interface* is up, and is not the loopback."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", interface.encode(), 0))
        except OSError:
            return False
    flags = struct.unpack("16sH14x", answer)[1]
    return bool(flags & _IFF_UP) and not flags & _IFF_LOOPBACK


def speed_of(interface: str) -> int:
    """In Mbit/s; -1 where the interface has none, or does not say."""
    try:
        return int(Path("/sys/class/net", interface, "speed").read_text())
    except (OSError, ValueError):
        return -1


class System(Collector):
    """``system``: load, processors, users, time since the start of the machine."""

    name = "system"

    def collect(self, config: Host) -> list[Measured]:
        load1, load5, load15 = os.getloadavg()
        uptime = int(float((PROC / "uptime").read_text().split()[0]))
        users = [user.name for user in psutil.users()]
        fields: Fields = {
            "load1": load1,
            "load5": load5,
            "load15": load15,
            "n_cpus": os.cpu_count() or 1,
            "n_users": len(users),
            "n_unique_users": len(set(users)),
            "uptime": uptime,
            "uptime_format": format_uptime(uptime),
        }
        return [("system", {}, fields)]


def format_uptime(seconds: int) -> str:
    """``5 days,  3:07``, as uptime(1) would say."""
    days, minutes = seconds // 86_400, seconds // 60
    said = f"{days} day{'s' if days > 1 else ''}, " if days else ""
    return f"{said}{minutes // 60 % 24:2d}:{minutes % 60:02d}"


class Processes(Collector):
    """``processes``: how many there are in each state."""

    name = "processes"
    _STATES: ClassVar[Mapping[bytes, str]] = {
        b"R": "running",
        b"S": "sleeping",
        b"D": "blocked",
        b"Z": "zombies",
        b"X": "dead",
        b"x": "dead",
        b"T": "stopped",
        b"t": "stopped",
        b"W": "paging",
        b"I": "idle",
        b"P": "parked",
    }

    def collect(self, config: Host) -> list[Measured]:
        names = (*dict.fromkeys(self._STATES.values()), "unknown", "total", "total_threads")
        counts = dict.fromkeys(names, 0)
        for stat in read_stats():
            # The name of the program, in parentheses, may hold anything.
            state, _, rest = stat[stat.rindex(b")") + 2 :].partition(b" ")
            counts[self._STATES.get(state, "unknown")] += 1
            counts["total"] += 1
            counts["total_threads"] += int(rest.split(b" ", 17)[16])
        if not counts["parked"]:
            del counts["parked"]
        return [("processes", {}, dict(counts))]


def read_stats() -> Iterable[bytes]:
    """/proc/PID/stat of every process that lives long enough."""
    folder = os.open(PROC, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(folder):
            if not name.isdigit():
                continue
            try:
                file = os.open(f"{name}/stat", os.O_RDONLY, dir_fd=folder)
                try:
                    text = os.read(file, 4096)
                finally:
                    os.close(file)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text:
                yield text
    finally:
        os.close(folder)


def chosen(name: str, patterns: Sequence[str]) -> bool:
    """Whether *name* is among shell *patterns*; without any, everything is."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


COLLECTORS: Mapping[str, Callable[[], Collector]] = {
    one.name: one for one in (Cpu, Mem, Swap, DiskIo, Net, System, Processes)
}
"""Those that need nothing of the agent."""
