"""Collisions: several lines of one series and time are one point in InfluxDB; no value is lost."""

import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    free_port,
    output,
    send_udp,
)
from tests.integration.servers import Influxd, influxd
from tests.integration.test_kill import door as door
from tests.integration.test_kill import kernel_drops

LINES = 24
"""Of a datagram: of each point half are one of its fields, half the other."""


def config(server: Influxd, database: str, port: int, same_field: str = "", interval: str = "200ms") -> str:
    table = f'[collisions]\nsame_field = "{same_field}"\n' if same_field else ""
    return f"""
        [agent]
        admin = ""
        {table}
        [flush]
        interval = "{interval}"
        [[listen]]
        name = "door"
        address = "udp://127.0.0.1:{port}"
        [[output]]
        name = "db"
        type = "influxdb"
        version = 1
        url = "{server.url}"
        database = "{database}"
    """


def received(status: Status) -> int:
    return sum(one["received"] for one in status["listeners"])


def decided(count: int, status: Status) -> bool:
    return at_rest(status) and received(status) == count


@pytest.mark.parametrize("same_field", ["", "last", "nudge"])
def test_lines_of_one_series_and_time(tmp_path: Path, same_field: str) -> None:
    port = free_port()
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with AgentProcess(tmp_path, config(server, database, port, same_field)) as agent:
            send_udp(
                port,
                b"two,h=a x=1 10\ntwo,h=a y=2 10\ntwo,h=b x=3 10",
                b"same,h=a x=1 10\nsame,h=a y=1 11\n",
                b"same,h=a x=2 10\nother x=1 10",
                b"same,h=a x=3,z=t 10",
            )
            status = agent.wait_for(lambda status: decided(8, status))
            assert_balanced(status)
            account = output(status, "db")
            merged = {"": 0, "last": 3, "nudge": 1}[same_field]
            assert (account["delivered"], account["merged"], account["rejected"]) == (8 - merged, merged, 0)
            assert f'penstock_output_merged_metrics_total{{output="db"}} {merged}' in agent.metrics()
            if merged:
                assert "merged" in agent.command("status").stdout
            assert agent.stop() == EXIT_OK
        [two] = server.query("SELECT x, y FROM two WHERE h = 'a'", database)
        assert two["values"] == [[10, 1, 2]]
        [same] = server.query("SELECT x, y, z FROM same", database)
        if same_field == "nudge":
            # The next nanosecond is taken.
            points = [[10, 1, None, None], [11, None, 1, None], [12, 2, None, None], [13, 3, None, True]]
            assert same["values"] == points
        else:
            assert same["values"] == [[10, 3, None, True], [11, None, 1, None]]


class Traffic:
    """A sender of datagrams whose lines come in pairs, two fields of one point, until it is told to end."""

    def __init__(self, port: int, datagrams_per_s: float) -> None:
        self._port, self._pause = port, 1 / datagrams_per_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.points = 0
        self._thread.start()

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            due = time.monotonic()
            while not self._ending.wait(max(due - time.monotonic(), 0)):
                due += self._pause
                first, half = self.points, LINES // 2
                many = range(first, first + half)
                fields = [*(("a", number) for number in many), *(("b", number) for number in many)]
                text = "".join(f"m,s={at % 7} {name}={at}i {1000 + at // 7}\n" for name, at in fields)
                sender.sendto(text.encode(), ("127.0.0.1", self._port))
                self.points += half

    def finish(self) -> int:
        """Returns how many points it has sent."""
        self._ending.set()
        self._thread.join()
        return self.points


@contextmanager
def traffic(port: int, datagrams_per_s: float) -> Iterator[Traffic]:
    sender = Traffic(port, datagrams_per_s)
    try:
        yield sender
    finally:
        sender.finish()


def assert_all_there(server: Influxd, database: str, points: int) -> None:
    """Each point of :class:`Traffic` has both of its values."""
    found: list[int] = []
    for series in server.query("SELECT a, b FROM m GROUP BY s", database):
        assert all(a == b for _, a, b in series["values"])
        found += [a for _, a, _ in series["values"]]
    assert sorted(found) == list(range(points))


def test_reloads_turn_it_on_change_it_and_turn_it_off_without_loss(tmp_path: Path) -> None:
    port = free_port()
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with (
            AgentProcess(tmp_path, config(server, database, port, interval="20ms")) as agent,
            traffic(port, 500) as sender,
        ):
            merged = [0]
            for same_field in ("last", "nudge", "", "nudge", "last", ""):
                until = received(agent.status()) + 200 * LINES
                agent.wait_for(lambda status, until=until: received(status) >= until)
                assert agent.reload(config(server, database, port, same_field, "20ms"))["applied"]
                merged.append(output(agent.status(), "db")["merged"])
            # While it was on, and only then.
            assert merged[1] == 0 < merged[2] < merged[3] and merged[4] < merged[5] < merged[6]
            until = received(agent.status()) + 200 * LINES
            status = agent.wait_for(lambda status: received(status) >= until)
            settled = output(status, "db")["merged"]
            until = received(status) + 200 * LINES
            status = agent.wait_for(lambda status: received(status) >= until)
            assert output(status, "db")["merged"] == settled
            points = sender.finish()
            status = agent.wait_for(lambda status: decided(2 * points, status))
            assert_balanced(status)
            account = output(status, "db")
            assert account["delivered"] + account["merged"] == 2 * points
            assert status["listeners"][0]["kernel_drops"] == account["rejected"] == 0
            assert agent.stop() == EXIT_OK
        assert_all_there(server, database, points)


def test_what_is_killed_loses_nothing(tmp_path: Path, door: socket.socket) -> None:
    moments, port = random.Random(3), door.getsockname()[1]
    agent = AgentProcess(tmp_path, "", pass_fds={"door": door})
    with influxd(tmp_path / "influxd") as server, closing(agent):
        database = server.create_database()
        # Much waits in the rings: what a killed one leaves is looked at by the next.
        agent.write_config(config(server, database, port, "last", "1s"))
        agent.start()
        with traffic(port, 1500) as sender:
            merged = 0
            for run in range(5):
                until, more = moments.uniform(0.2, 1.5), time.monotonic()
                while time.monotonic() - more < until:
                    merged += output(agent.status(), "db")["merged"]
                agent.signal(signal.SIGKILL)
                agent.wait()
                agent.spawn()
                agent.wait_notified("READY", run + 2)
            points = sender.finish()
        status = agent.wait_for(lambda status: at_rest(status) and status["lanes"][0]["receives"], 60)
        assert_balanced(status)
        account = output(status, "db")
        assert account["restored"] > 0 and account["rejected"] == 0 and merged + account["merged"] > 0
        assert agent.stop() == EXIT_OK
        assert kernel_drops(door) == 0
        assert_all_there(server, database, points)
