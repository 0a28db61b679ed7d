"""What tests of outages need: traffic of which each point can be told, and watches of delay and memory."""

import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import wait_until
from tests.integration.servers import Influxd

DATAGRAM_LINES = 100
SLICE_NS = 100_000_000
"""Delays are measured for all points of so much time together."""


class Traffic(threading.Thread):
    """Sends *rate* lines a second to a Unix socket. The time of each is its own, and that of its sending."""

    def __init__(self, path: Path, rate: int) -> None:
        super().__init__(name="traffic", daemon=True)
        self._path = str(path)
        self._pause = DATAGRAM_LINES / rate
        self._over = threading.Event()
        self.times: list[int] = []
        """Of the first point of each datagram (ns); the others follow nanosecond by nanosecond."""
        self.failure: OSError | None = None

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(self._path)
            due, before = time.monotonic(), 0
            while not self._over.wait(max(due - time.monotonic(), 0.0)):
                due += self._pause
                # Whole microseconds, so that no datagram has points in two slices.
                now = max(time.time_ns() // 1000, before + 1)
                before, now = now, now * 1000
                datagram = b"".join(
                    b"m,t=%d v=%di %d\n" % (n % 20, n, now + n) for n in range(DATAGRAM_LINES)
                )
                try:
                    sock.send(datagram)
                except OSError as error:
                    self.failure = error
                    return
                self.times.append(now)

    @property
    def sent(self) -> int:
        """Lines so far."""
        return len(self.times) * DATAGRAM_LINES

    def sent_between(self, begin: int, end: int) -> int:
        """Lines of this time (ns, whole microseconds)."""
        times = self.times
        return (bisect_left(times, end) - bisect_left(times, begin)) * DATAGRAM_LINES

    def finish(self) -> int:
        """End it; how many lines were sent."""
        self._over.set()
        self.join(10)
        assert self.failure is None, self.failure
        return self.sent

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join(10)


def stored(server: Influxd, database: str) -> int:
    """Points in the database."""
    series = server.query("SELECT count(v) FROM m", database)
    return int(series[0]["values"][0][1]) if series else 0


class DelayWatch:
    """Looks when what is sent from now on is in the database: in slices of time, all points of each."""

    def __init__(self, server: Influxd, database: str, traffic: Traffic) -> None:
        self._server, self._database, self._traffic = server, database, traffic
        # The database groups by multiples of the slice, too.
        self._next = time.time_ns() // SLICE_NS * SLICE_NS
        self._open: list[int] = []
        self.all: list[tuple[int, float]] = []
        """Of each slice when it began (ns), and how many seconds after its end it was complete."""

    def look(self) -> None:
        """Look once; slices may become complete in any order."""
        while self._traffic.times[-1] >= self._next + SLICE_NS:
            self._open.append(self._next)
            self._next += SLICE_NS
        if not self._open:
            return
        # Between the last look, which did not find them, and the answer of this one: a busy database may take
        # long for that, and it is not the agent's time.
        now = time.time_ns()
        stored = self._stored(self._open[0], self._open[-1] + SLICE_NS)
        for begin in list(self._open):
            end = begin + SLICE_NS
            if stored.get(begin, 0) == self._traffic.sent_between(begin, end):
                self._open.remove(begin)
                self.all.append((begin, (now - end) / 1e9))

    def differences(self) -> list[tuple[int, int, int]]:
        """Slices that are not stored as they were sent: when each began, lines sent, points stored."""
        first, last = (self._traffic.times[at] // SLICE_NS * SLICE_NS for at in (0, -1))
        stored = self._stored(first, last + SLICE_NS)
        slices = range(first, last + SLICE_NS, SLICE_NS)
        sent = {begin: self._traffic.sent_between(begin, begin + SLICE_NS) for begin in slices}
        return [(at, sent[at], stored.get(at, 0)) for at in slices if sent[at] != stored.get(at, 0)]

    def _stored(self, begin: int, end: int) -> dict[int, int]:
        """Points by slice."""
        where = f"time >= {begin} AND time < {end} GROUP BY time({SLICE_NS // 1_000_000}ms)"
        series = self._server.query(f"SELECT count(v) FROM m WHERE {where}", self._database)
        return {int(at): int(count) for at, count in series[0]["values"]} if series else {}

    @property
    def is_complete(self) -> bool:
        """Whether all slices are that have been looked at."""
        return not self._open

    @property
    def worst(self) -> float:
        """The longest delay in seconds."""
        return max(seconds for _, seconds in self.all)

    def __str__(self) -> str:
        return f"Live data was {self.worst:.3f} s late at most"


class MemoryWatch:
    """What a process has in memory without the files it has mapped, from construction on."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.first_kib = self.most_kib = self._read()

    def look_until(self, condition: Callable[[], bool], timeout: float = 300.0) -> None:
        """Look until *condition* holds; fails after *timeout* seconds."""

        def look() -> bool:
            self.most_kib = max(self.most_kib, self._read())
            return condition()

        wait_until(look, timeout, "the end of the watch")

    @property
    def growth_kib(self) -> int:
        return self.most_kib - self.first_kib

    def _read(self) -> int:
        for line in self._status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        raise AssertionError("no RssAnon")

    def __str__(self) -> str:
        return f"Memory grew from {self.first_kib} to {self.most_kib} KiB"
