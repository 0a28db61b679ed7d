"""A fleet on one machine: agents at the edge, a broker, agents behind it, and a real database.

Each edge agent has a socket of the test's, as it would be systemd's, so that what is sent while it does not
run waits. Each line has a number and a time of its own: what was sent is in the database, or it is missing.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from tests.conftest import wait_until
from tests.integration.agent_process import ROOT, AgentProcess, free_port
from tests.integration.servers import Influxd, VictoriaMetrics
from tests.integration.test_kill import kernel_drops

_SO_RCVBUFFORCE = 33
BUFFER_BYTES = 32 << 20
LINES_PER_DATAGRAM = 10
FIRST_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
"""VictoriaMetrics knows milliseconds."""
PATIENCE_S = 120.0


class Database:
    """Where the relays deliver to."""

    keys: str
    """Of the relays' output."""

    def stored(self, edges: int) -> list[int]:
        """How many lines of each edge agent are there."""
        raise NotImplementedError


class InfluxDatabase(Database):
    """InfluxDB 1. It takes no unsigned integers, so the relays read what they pass on."""

    def __init__(self, server: Influxd) -> None:
        self._server = server
        self._name = server.create_database()
        self.keys = f'type = "influxdb"\nversion = 1\nurl = "{server.url}"\ndatabase = "{self._name}"\n'

    def stored(self, edges: int) -> list[int]:
        found = [0] * edges
        for series in self._server.query("SELECT COUNT(id) FROM load GROUP BY edge", self._name):
            found[int(series["tags"]["edge"])] = series["values"][0][1]
        return found


class VictoriaDatabase(Database):
    """VictoriaMetrics, in the place of an InfluxDB 2: bodies go through as they are.

    Start it with ``-dedup.minScrapeInterval=1ms``, or what was sent twice counts twice.
    """

    def __init__(self, server: VictoriaMetrics) -> None:
        self._server = server
        self.keys = (
            f'type = "influxdb"\nversion = 2\nurl = "{server.url}"\norg = "o"\nbucket = "b"\ntoken = "t"\n'
        )

    def stored(self, edges: int) -> list[int]:
        self._server.flush()
        query = urlencode({"query": "sum(count_over_time(load_id[10y])) by (edge)"})
        answer = self._server.request("GET", f"/api/v1/query?{query}").json()
        found = [0] * edges
        for one in answer["data"]["result"]:
            found[int(one["metric"]["edge"])] = int(one["value"][1])
        return found


class Fleet:
    """*edges* agents that send, *relays* that receive. A context manager; nothing is sent until :meth:`load`.

    *output* and *listener* are the keys of the broker at either end.
    """

    def __init__(
        self, folder: Path, database: Database, *, edges: int, relays: int, output: str, listener: str
    ) -> None:
        self.database = database
        self.sent = [0] * edges
        self._output, self._listener, self._folder = output, listener, folder
        self._stack = ExitStack()
        self._doors: list[socket.socket] = []
        self.edges: list[AgentProcess] = []
        self.relays: list[AgentProcess] = []
        self.ports = [free_port(socket.SOCK_STREAM) for _ in range(relays)]
        """Of the relays' pages."""
        self._relays = relays
        self.rate = 0
        """Lines a second to each edge agent."""
        self._over = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "Fleet":
        try:
            for number in range(self._relays):
                self.relays.append(self._agent(f"relay-{number}", self._relay_config(number), {}))
            for number in range(len(self.sent)):
                door = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                try:
                    door.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
                except PermissionError:
                    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
                door.bind(("127.0.0.1", 0))
                self._doors.append(door)
                self.edges.append(self._agent(f"edge-{number}", self._edge_config(number), {"door": door}))
            for agent in (*self.relays, *self.edges):
                agent.spawn()
            for agent in (*self.relays, *self.edges):
                agent.wait_notified("READY", timeout=PATIENCE_S)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._sender.ident is not None:
            self._sender.join()
        self._stack.close()
        if kind is not None:
            for agent in (*self.relays, *self.edges[:3]):
                print(f"---- {agent.log_path}\n{agent.log_text()[-4000:]}")

    def _agent(self, name: str, config: str, doors: dict[str, socket.socket]) -> AgentProcess:
        folder = self._folder / name
        folder.mkdir()
        agent = AgentProcess(folder, config, pass_fds=doors)
        self._stack.callback(agent.close)
        return agent

    def _edge_config(self, number: int) -> str:
        port = self._doors[number].getsockname()[1]
        return f"""
            [agent]
            id = "edge-{number}"
            [[listen]]
            name = "door"
            address = "udp://127.0.0.1:{port}"
            [[output]]
            name = "broker"
            ring_bytes = "4MiB"
            retry_max = "500ms"
            {self._output}
            [output.spool]
            min_free_space = "0B"
        """

    def _relay_config(self, number: int) -> str:
        return f"""
            [agent]
            id = "relay-{number}"
            admin = "127.0.0.1:{self.ports[number]}"
            [[listen]]
            name = "broker"
            {self._listener}
            [[output]]
            name = "db"
            {self.database.keys}
            ring_bytes = "4MiB"
            retry_max = "500ms"
            spool = false
        """

    # ---- load ----

    def load(self, rate: int) -> None:
        """Send *rate* lines a second to each edge agent from now on."""
        self.rate = rate
        self._sender.start()

    def end_load(self) -> None:
        self._over.set()
        self._sender.join()

    def _send(self) -> None:
        addresses = [door.getsockname() for door in self._doors]
        began = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not self._over.wait(0.01):
                due = int((time.monotonic() - began) * self.rate) // LINES_PER_DATAGRAM * LINES_PER_DATAGRAM
                for edge, address in enumerate(addresses):
                    while self.sent[edge] < due:
                        first = self.sent[edge]
                        lines = (
                            f"load,edge={edge} id={number}i {FIRST_NS + number * STEP_NS}\n"
                            for number in range(first, first + LINES_PER_DATAGRAM)
                        )
                        sender.sendto("".join(lines).encode(), address)
                        self.sent[edge] = first + LINES_PER_DATAGRAM

    def stored(self) -> list[int]:
        """How many of each edge agent's lines the database has."""
        return self.database.stored(len(self.sent))

    def go_on(self, lines: int) -> None:
        """Wait until so many more lines have been stored than are now."""
        wanted = sum(self.stored()) + lines
        self.wait_for(lambda: sum(self.stored()) >= wanted, f"{lines} more lines are stored")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, PATIENCE_S, what)

    def wait_stored(self) -> None:
        """Wait until all that was sent is there. The load has ended."""
        assert [kernel_drops(door) for door in self._doors] == [0] * len(self._doors)
        self.wait_for(lambda: self.stored() == self.sent, "all that was sent is stored")

    # ---- who sees what ----

    def view(self) -> dict[str, Any]:
        """What ``penstock fleet --json`` makes of what the relays have seen."""
        urls = [word for port in self.ports for word in ("--url", f"http://127.0.0.1:{port}")]
        done = fleet_command("--json", *urls)
        assert done.returncode in (0, 1), done.stderr
        return dict(json.loads(done.stdout))

    def check_view(self) -> None:
        """All that the relays have seen, put together, has no gap; every agent is known."""
        view = self.view()
        assert {one["agent"] for one in view["sources"]} == {f"edge-{n}" for n in range(len(self.edges))}
        for key in ("missing", "late", "unsure", "repeated", "duplicates", "redelivered"):
            print(f"{key}: {sum(one[key] for one in view['sources'])}")
        assert [one["missing"] for one in view["sources"]] == [0] * len(self.edges)


def start_again(agent: AgentProcess) -> None:
    """Start an agent that has run before, and wait until it says once more that it is ready."""
    before = sum("READY" in told for told in agent.notifications)
    agent.spawn()
    agent.wait_notified("READY", before + 1, PATIENCE_S)


def fleet_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agent", "fleet", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
