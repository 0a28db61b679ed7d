"""An agent in a process of its own, as the benchmarks need it: started, read, pinned, stopped.

Status comes from the control socket, so that it costs no port; processor time from the kernel, in
nanoseconds, where psutil has hundredths of a second.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from tests.bench.harness import CheckError, Lost, check, check_equal, poll

ROOT = Path(__file__).resolve().parents[2]

STILL_S = 1.5
"""Longer than the agent takes from one look at a socket's drops to the next."""


def free_port(kind: socket.SocketKind) -> int:
    """A port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process_cpu_ns(pid: int) -> int:
    """User and system time of all threads a process ever had, in nanoseconds.

    The clock is what clock_getcpuclockid(3) returns: the complement of the id, and 2 for "scheduled time".
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


@dataclass(frozen=True)
class Reading:
    """The counters of one listener and one output at one moment; metrics unless the name says otherwise."""

    datagrams: int
    received: int
    accepted: int
    rewritten: int
    aggregated: int
    points: int
    """Sent by the ticks of a StatsD listener."""
    dropped: int
    kernel_drops: int
    """Datagrams."""
    delivered: int
    written: int
    decided: int
    """Delivered, rejected or dropped by the output."""
    retries: int
    batches: int
    bytes_raw: int
    bytes_sent: int
    lane_cpu_ns: int
    balance: str

    def since(self, before: "Reading") -> "Reading":
        """What was counted from *before* until now."""
        numbers = {
            name: getattr(self, name) - getattr(before, name)
            for name in self.__dataclass_fields__
            if name != "balance"
        }
        return Reading(**numbers, balance=self.balance)


class AgentRun:
    """``penstock run`` with *config*, in *folder*; a context manager that leaves nothing behind.

    The config gets an ``[agent]`` table of its own, and a ``[log]`` with the keys in *log*. Its listeners are
    named by their address's port. Spools lie in *state*, or where nothing is said, in *folder*.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        lanes: int = 1,
        cpus: list[int] | None = None,
        state: Path | None = None,
        log: str = "",
    ) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.log = folder / "agent.log"
        self.admin_port = free_port(socket.SOCK_STREAM)
        path = folder / "penstock.toml"
        state = state or folder / "state"
        path.write_text(
            f'[agent]\nruntime_dir = "{self.runtime}"\nstate_dir = "{state}"\nlanes = {lanes}\n'
            f'admin = "127.0.0.1:{self.admin_port}"\n{config}\n[log]\nformat = "json"\n{log}'
        )
        command = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
        command += [sys.executable, "-m", "agent", "run", "-c", str(path)]
        self.ready_s = 0.0
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> "AgentRun":
        try:
            self.ready_s = self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, timeout: float = 30.0) -> float:
        """Poll ``/readyz`` every millisecond until it answers 200; seconds since the process was made."""

        def look() -> float | None:
            if self.process.poll() is not None:
                raise CheckError(f"the agent ended with {self.process.returncode}:\n{self.log.read_text()}")
            with contextlib.suppress(OSError):
                if _get(("127.0.0.1", self.admin_port), "/readyz")[0] == 200:
                    return time.monotonic() - self.started
            return None

        return poll(look, timeout, "the agent is ready", pause=0.001)

    def status(self) -> dict[str, Any]:
        """``/api/status``."""
        status, body = _get(str(self.runtime / "control.sock"), "/api/status")
        check_equal(status, 200, "/api/status")
        return dict(json.loads(body))

    def read(self, port: int | None = None, output: str | None = None) -> Reading:
        """The counters of the listener at *port* and of *output*; None: of the only one."""
        status = self.status()
        listeners = [
            one for one in status["listeners"] if port is None or one["address"].endswith(f":{port}")
        ]
        outputs = [one["ledger"] for one in status["outputs"] if output in (None, one["name"])]
        check(len(listeners) == 1 and len(outputs) == 1, "which listener, which output?")
        [listener], [sink] = listeners, outputs
        dropped = sum(sink["dropped"].values())
        return Reading(
            **{
                name: listener[name]
                for name in ("datagrams", "received", "accepted", "rewritten", "aggregated")
            },
            points=(listener["aggregation"] or {"points": 0})["points"],
            dropped=sum(listener["dropped"].values()),
            kernel_drops=listener["kernel_drops"],
            **{name: sink[name] for name in ("delivered", "written", "retries", "batches")},
            decided=sink["delivered"] + sink["rejected"] + dropped,
            bytes_raw=sink["bytes_raw"],
            bytes_sent=sink["bytes_sent"],
            lane_cpu_ns=sum(lane["cpu_ns"] for lane in status["lanes"]),
            balance=status["ledger"]["balance"],
        )

    def wait_received(
        self,
        before: Reading,
        sent: dict[str, Any],
        port: int | None = None,
        *,
        gro: bool = True,
        timeout: float = 60.0,
    ) -> Reading:
        """Wait until each datagram of a sender has been counted, as received or as lost by the kernel.

        A socket with *gro* is handed several datagrams as one packet, and when such a packet finds the buffer
        full, the kernel counts one drop for all of them. Then the account cannot be exact: it is enough that
        the drops can explain what is missing, and that nothing more comes for STILL_S.
        """
        still: list[float] = [0, 0]  # (datagrams and drops counted, since when)

        def look() -> Reading | None:
            now = self.read(port)
            new = now.since(before)
            counted = new.datagrams + new.kernel_drops
            check(counted <= sent["datagrams"], f"{counted} datagrams counted, more than were sent")
            if counted == sent["datagrams"]:
                return now
            if counted != still[0]:
                still[:] = counted, time.monotonic()
            most = new.datagrams + new.kernel_drops * (sent["burst"] if gro and sent["segment"] else 1)
            explained = most >= sent["datagrams"] and time.monotonic() - still[1] > STILL_S
            return now if explained else None

        now = poll(look, timeout, f"{sent['datagrams']} datagrams counted")
        new = now.since(before)
        each = sent["lines"] // sent["datagrams"]
        check_equal(new.received, new.datagrams * each, "lines received")
        check_equal(new.accepted + new.dropped, new.received, "lines accepted and dropped")
        check_equal(new.rewritten, 0, "lines rewritten, though all are clean")
        return now

    def wait_delivered(self, before: Reading, lines: int, timeout: float = 120.0) -> Reading:
        """Wait until the only output has decided about *lines* lines more than *before*, all delivered.

        Looks rarely while much is left and often at the end, since each look costs the agent time.
        """
        started = time.monotonic()
        while True:
            now = self.read()
            done = now.since(before).decided
            if done >= lines:
                break
            elapsed = time.monotonic() - started
            check(elapsed < timeout, f"only {done} of {lines} lines delivered within {timeout:g} s")
            left = elapsed * (lines - done) / done if done else 0.1
            time.sleep(min(max(left / 2, 0.01), 0.5))
        check_equal(now.since(before).delivered, lines, "lines delivered")
        return now

    def settled(self, before: Reading | None = None, port: int | None = None) -> Reading:
        """The counters at rest, with the ledger balanced.

        With a reading *before* that was at rest too, everything accepted since then has been delivered,
        or is kept for a tick.
        """

        def look() -> Reading | None:
            now = self.read(port)
            return now if now.written == now.decided and now.balance == "balanced" else None

        now = poll(look, 60.0, "the ledger is at rest and balanced")
        if before is not None:
            new = now.since(before)
            at_once = new.accepted - new.aggregated
            check_equal(new.delivered, at_once + new.points, "lines delivered of those accepted")
        return now

    def pin_lane(self, cpu: int) -> None:
        """Bind the lane's thread to a processor: the one whose CPU time is nearest to what the lane says.

        For after a warm-up, which makes that thread unmistakable.
        """
        said = self.read_lane_cpu_ns()
        times = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            times[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        thread = min(times, key=lambda thread: abs(times[thread] - said))
        os.sched_setaffinity(thread, [cpu])

    def read_lane_cpu_ns(self) -> int:
        return sum(int(lane["cpu_ns"]) for lane in self.status()["lanes"])

    def cpu_ns(self) -> int:
        return process_cpu_ns(self.pid)

    def memory(self) -> tuple[int, int]:
        """(resident bytes beside the rings, resident bytes of the rings, both of their mappings)."""
        maps = psutil.Process(self.pid).memory_maps(grouped=False)
        rings = sum(one.rss for one in maps if one.path.endswith(".ring"))
        return sum(one.rss for one in maps) - rings, rings

    def stop(self) -> None:
        """SIGTERM; the agent must end with 0 within its time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise CheckError(f"the agent does not end:\n{self.log.read_text()}") from None
        check_equal(code, 0, f"exit status of the agent, which said\n{self.log.read_text()}\n")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def check_lossless(new: Reading, what: str) -> None:
    """Raise Lost if the kernel dropped a datagram, CheckError if the agent did."""
    check_equal(new.dropped, 0, f"{what}: lines dropped by the agent")
    if new.kernel_drops:
        raise Lost(f"{what}: the kernel dropped {new.kernel_drops} datagrams, once more")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(where: str | tuple[str, int], path: str) -> tuple[int, bytes]:
    """GET from a Unix socket or from host and port."""
    connection = (
        _UnixConnection(where) if isinstance(where, str) else http.client.HTTPConnection(*where, timeout=10)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
