"""Watching: what a lane loses while somebody looks at what passes, and while its datagrams are kept.

By turns on the same agent: nobody looks, and somebody does. The control says what the difference of two
such turns is where nobody looks in either.
"""

import http.client
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agent.admin.client import stream
from agent.admin.following import seconds
from agent.capture_file import Reader
from tests.bench import receive
from tests.bench.agent_run import ROOT, AgentRun, free_port
from tests.bench.harness import Run, Target, check, check_equal, poll
from tests.bench.native import Beside, Lines
from tests.bench.receive import Load
from tests.bench.scenarios.guards import SINGLE_PER_S, Keys, Pair, check_untouched, known, packed

_TIMEOUT_S = 30.0
_SCRAPE_S = 5.0
_SCREEN_BYTES = 1000
_WITHOUT = "without capture_ring"


class Watcher:
    """Somebody who looks, by the control socket: a thread that reads what comes. A context manager."""

    def __init__(self, agent: AgentRun, path: str) -> None:
        self.seen = 0
        """Lines, or datagrams."""
        self.passed = 0
        """Metrics that went by; of a capture, datagrams that were seen or missed."""
        self._where = str(agent.runtime / "control.sock")
        self._path = path
        self._begun = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        check(self._begun.wait(_TIMEOUT_S), f"{self._path} is answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with stream(self._where, self._path, _TIMEOUT_S) as answer:
            self._begun.set()
            if self._path.startswith("/api/tap"):
                for line in answer:
                    frame = json.loads(line)
                    self.seen, self.passed = frame["shown"], frame["passed"]
                    if self._over.is_set():
                        return
            else:
                reader = Reader(answer)
                for block in reader.blocks():
                    self.seen += block.datagrams
                    self.passed = self.seen + reader.missed
                    if self._over.is_set():
                        return


@contextmanager
def _nobody() -> Iterator[None]:
    yield None


_WATCHERS = {
    "nobody looks either": ("", None),
    "tap --match '*'": ("/api/tap?match=*", 0.95),
    "tap of nothing": ("/api/tap?match=no*thing*", 0.95),
    "capture": ("/api/capture", 0.9),
}


def _verify(agent: AgentRun, port: int) -> None:
    """What is shown and kept is what was sent, where so little comes that nothing is left out."""
    load = Load(Lines(shape=64), count=500, rate=5_000)
    for path, count in (("/api/tap", 500), ("/api/tap?match=no*thing*", 0), ("/api/capture", 500)):
        with Watcher(agent, path) as watcher:
            receive.agent(load, agent, port, True)
            poll(lambda watcher=watcher: watcher.passed >= 500, 10, f"{path} has seen all")
        check_equal((watcher.seen, watcher.passed), (count, 500), f"seen by {path}")


def _looking(run: Run) -> None:
    ports = {free_port(socket.SOCK_DGRAM): gro for gro in (True, False)}
    by_gro = {gro: port for port, gro in ports.items()}
    loads = {
        "64-byte lines, one in a datagram": Load(
            Lines(shape=64), count=run.size(2_000_000, 100_000), rate=SINGLE_PER_S
        ),
        "64-byte lines, packed": packed(Lines(shape=64), run.size(5_000_000, 400_000)),
        "117-byte lines, packed": packed(Lines(shape=117), run.size(5_000_000, 400_000)),
    }
    with run.place() as folder, AgentRun(folder, receive.null_config(ports)) as agent:
        receive.warm_up(agent, ports)
        _verify(agent, by_gro[True])
        for shape, load in loads.items():
            for gro in (True, False):
                named = f"{shape}, UDP_GRO {'on' if gro else 'off'}"
                figures = {
                    name: run.figure(
                        f"{named}: {name}",
                        "M lines/core-s",
                        baseline="nobody looks",
                        target=Target(bound, at_least=True, of_ratio=True) if bound else None,
                    )
                    for name, (_, bound) in _WATCHERS.items()
                }
                for _ in run.rounds(named):
                    for name, (path, _) in _WATCHERS.items():
                        plain = receive.agent(load, agent, by_gro[gro], gro)
                        with Watcher(agent, path) if path else _nobody():
                            looked = receive.agent(load, agent, by_gro[gro], gro)
                        figures[name].add(looked.lines_per_core_s / 1e6, plain.lines_per_core_s / 1e6)


def _keeping(run: Run) -> None:
    """``capture_ring``: two agents, one that keeps and one that does not."""
    count = run.size(3_000_000, 200_000)
    with run.place() as folder, Pair(folder, keys=Keys(tables='capture_ring = "64MiB"\n')) as pair:
        for gro in (True, False):
            lines = packed(Lines(), count)
            known(run, pair, "capture_ring: 117-byte lines, packed", lines, gro, 0.9, _WITHOUT)
            single = Load(Lines(shape=64), count=count // 6, rate=SINGLE_PER_S)
            what = "capture_ring: 64-byte lines, one in a datagram"
            known(run, pair, what, single, gro, 0.9, _WITHOUT)
        check_untouched(pair)


class Everybody:
    """All that a diligent operator has open: the page, a scrape every 5 s, and top in a terminal.

    A context manager, which begins when the first of each has been answered.
    """

    def __init__(self, agent: AgentRun) -> None:
        self.pages = self.scrapes = self.screens = 0
        """Events of the page, scrapes, and bytes of top's screen."""
        self._agent = agent
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=look) for look in (self._open_page, self._scrape, self._read_top)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "Everybody":
        self._terminal, theirs = pty.openpty()
        command = [
            sys.executable,
            "-m",
            "agent",
            "top",
            "--socket",
            str(self._agent.runtime / "control.sock"),
        ]
        terminal = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        self._top = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=terminal,
            start_new_session=True,
        )
        os.close(theirs)
        for thread in self._threads:
            thread.start()
        poll(self._answered, _TIMEOUT_S, "page, scrape and top are answered")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._top.terminate()
        self._top.wait()
        for thread in self._threads:
            thread.join()
        os.close(self._terminal)

    def _answered(self) -> bool:
        return self.pages > 1 and self.scrapes > 0 and self.screens > _SCREEN_BYTES

    def _open_page(self) -> None:
        for _ in seconds(f"http://127.0.0.1:{self._agent.admin_port}"):
            self.pages += 1
            if self._over.is_set():
                return

    def _scrape(self) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._agent.admin_port, timeout=_TIMEOUT_S)
            connection.request("GET", "/metrics")
            check(b"penstock_" in connection.getresponse().read(), "metrics are told")
            connection.close()
            self.scrapes += 1
            if self._over.wait(_SCRAPE_S):
                return

    def _read_top(self) -> None:
        while not self._over.is_set():
            try:
                self.screens += len(os.read(self._terminal, 1 << 16))
            except OSError:  # it ended
                return


def _sink(port: int, address: str) -> str:
    return (
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'
        f'receive_buffer = "{receive.RECEIVE_BUFFER_BYTES}B"\n'
        f'[[output]]\nname = "sink"\ntype = "influxdb"\nurl = "http://{address}"\norg = "o"\n'
        f'bucket = "b"\ntoken = "t"\n'
    )


def _all(run: Run) -> None:
    """The page open, top running, a scrape each 5 s and 1 % of the batches traced, against nothing of it."""
    lines = Lines(shape=117, series=1000)
    load = packed(lines, run.size(4_000_000, 300_000), 500_000)
    single = Load(Lines(shape=64), count=run.size(1_500_000, 100_000), rate=200_000)
    with run.place() as folder, Beside("http_null") as sink, ExitStack() as stack:
        agents = []
        for name, share in (("plain", 0), ("watched", 0.01)):
            port = free_port(socket.SOCK_DGRAM)
            (folder / name).mkdir()
            config = _sink(port, sink.address)
            agent = stack.enter_context(AgentRun(folder / name, config, log=f"trace = {share}\n"))
            receive.warm_up(agent, {port: True})
            agents.append((agent, port))
        (plain, plain_port), (watched, port) = agents
        for what, one in (("117-byte lines, packed", load), ("64-byte lines, one in a datagram", single)):
            figure = run.figure(
                f"page, top, scrapes and traces: {what}",
                "M lines/core-s",
                baseline="nothing of it",
                target=Target(0.98, at_least=True, of_ratio=True),
            )
            for _ in run.rounds(f"all: {what}"):
                bare = receive.agent(one, plain, plain_port, True)
                with Everybody(watched):
                    looked = receive.agent(one, watched, port, True)
                figure.add(looked.lines_per_core_s / 1e6, bare.lines_per_core_s / 1e6)
        traces = 1 if run.quick else watched.log.read_text().count("a batch was traced")
        check(traces > 0, "batches were traced")


def measure(run: Run) -> None:
    """Who looks while it lasts, and who keeps all the time."""
    _all(run)
    _looking(run)
    _keeping(run)
