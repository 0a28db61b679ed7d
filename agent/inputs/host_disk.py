"""``disk``: how full the file systems are. One that does not answer costs its own point only.

``statvfs`` on a dead network file system does not return, and nothing can end it. So it is asked in threads
of their own, with a deadline: one that hangs is left to itself, its mount point is not asked again until it
comes back, and another thread goes on with the rest.
"""

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from agent.config import Host
from agent.inputs.host_collectors import Collector, Fields, Measured

PATIENCE_S = 2.0
"""How long all mount points of one reading may take together."""

HANGING_MAX = 8
"""Threads that are left to themselves; with so many, only mount points that answered last time are asked."""


class Mount(NamedTuple):
    """A mounted file system."""

    device: str
    path: str
    fstype: str
    options: str


class Hanging(Exception):
    """Mount points that do not answer; the points of the others are in it."""

    def __init__(self, paths: list[str], points: list[Measured]) -> None:
        super().__init__(f"no answer from {', '.join(sorted(paths))}")
        self.points = points


class _Worker:
    """A thread that asks one mount point after the other. It ends when it is told None."""

    def __init__(self, answers: "SimpleQueue[_Answer]", ask: "Ask") -> None:
        self.asked: SimpleQueue[Mount | None] = SimpleQueue()
        self._answers, self._ask = answers, ask
        threading.Thread(target=self._run, name="host-disk", daemon=True).start()

    def _run(self) -> None:
        while (mount := self.asked.get()) is not None:
            try:
                self._answers.put((self, mount, self._ask(mount.path)))
            except OSError as error:
                self._answers.put((self, mount, error))


Ask = Callable[[str], os.statvfs_result]
_Answer = tuple[_Worker, Mount, os.statvfs_result | OSError]


class Disk(Collector):
    """The file systems that are mounted and not of a kind that ``ignore_fs`` names."""

    name = "disk"

    def __init__(self, ask: Ask = os.statvfs, patience: float = PATIENCE_S) -> None:
        self._ask, self._patience = ask, patience
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._worker: _Worker | None = None
        self._hanging: dict[_Worker, str] = {}

    def collect(self, config: Host) -> list[Measured]:
        """Raises Hanging if some do not answer."""
        self._hear_late_answers()
        deadline = time.monotonic() + self._patience
        stuck = set(self._hanging.values())
        points: list[Measured] = []
        for mount in mounts(config):
            if mount.path in stuck:
                continue
            answer = self._asked(mount, deadline)
            if answer is None:
                stuck.add(mount.path)
                if len(self._hanging) >= HANGING_MAX:
                    break
            elif isinstance(answer, os.statvfs_result) and answer.f_blocks:
                points.append(("disk", tags_of(mount), fields_of(answer)))
        if stuck:
            raise Hanging(list(stuck), points)
        return points

    def close(self) -> None:
        """Let the threads end that can."""
        for worker in (*self._hanging, *([self._worker] if self._worker else [])):
            worker.asked.put(None)
        self._worker = None

    def _asked(self, mount: Mount, deadline: float) -> os.statvfs_result | OSError | None:
        """The answer of one mount point; None if it hangs."""
        if self._worker is None:
            self._worker = _Worker(self._answers, self._ask)
        self._worker.asked.put(mount)
        while True:
            try:
                worker, _, answer = self._answers.get(timeout=max(deadline - time.monotonic(), 0.05))
            except Empty:
                self._hanging[self._worker] = mount.path
                self._worker = None
                return None
            if worker is self._worker:
                return answer
            self._come_back(worker)

    def _hear_late_answers(self) -> None:
        while not self._answers.empty():
            self._come_back(self._answers.get()[0])

    def _come_back(self, worker: _Worker) -> None:
        """One that hung has its answer after all. Its thread is of no further use."""
        if self._hanging.pop(worker, None) is not None:
            worker.asked.put(None)


def mounts(config: Host) -> list[Mount]:
    """What is mounted and wanted, each mount point once."""
    found: dict[str, Mount] = {}
    for part in psutil.disk_partitions(all=True):
        if part.fstype in config.ignore_fs:
            continue
        if config.mount_points and part.mountpoint not in config.mount_points:
            continue
        found[part.mountpoint] = Mount(part.device, part.mountpoint, part.fstype, part.opts)
    return list(found.values())


def tags_of(mount: Mount) -> dict[str, str]:
    options = mount.options.split(",")
    return {
        "device": mount.device.replace("/dev/", ""),
        "fstype": mount.fstype,
        "mode": "ro" if "ro" in options else "rw",
        "path": mount.path,
    }


def fields_of(stat: os.statvfs_result) -> Fields:
    """*free* is what users may still fill, and the shares are of what they may fill."""
    total, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    inodes_used = stat.f_files - stat.f_ffree
    return {
        "total": total,
        "free": free,
        "used": used,
        "used_percent": 100.0 * used / (used + free) if used + free else 0.0,
        "inodes_total": stat.f_files,
        "inodes_free": stat.f_ffree,
        "inodes_used": inodes_used,
        "inodes_used_percent": 100.0 * inodes_used / stat.f_files if stat.f_files else 0.0,
    }
