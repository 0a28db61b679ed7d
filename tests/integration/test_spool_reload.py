"""The spool of an output over reloads: the metrics in it are the output's, whatever becomes of its rings."""

import socket
from pathlib import Path

from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    free_port,
    output,
    send_udp,
)
from tests.integration.fake_influxdb import FakeInfluxDB

BASE = """
[flush]
interval = "10ms"

[[listen]]
name = "door"
address = "udp://127.0.0.1:{port}"

[[output]]
name = "other"
type = "null"
"""

INFLUX = """
[[output]]
name = "influx"
type = "influxdb"
version = 1
url = "http://127.0.0.1:{server}"
database = "metrics"
username = "writer"
password = "pa:ss"
retries = 0
retry_max = "50ms"
retry_min = "10ms"
{more}
[output.spool]
min_free_space = "0B"
"""


def lines(begin: int, end: int) -> list[bytes]:
    return [b"m v=%di %d\n" % (n, n + 1) for n in range(begin, end)]


def test_a_spool_stays_its_output_s_over_reloads(tmp_path: Path) -> None:
    port, dead = free_port(), free_port(socket.SOCK_STREAM)
    base = BASE.replace("{port}", str(port))

    def influx(server: int, more: str = "") -> str:
        return base + INFLUX.replace("{server}", str(server)).replace("{more}", more)

    with FakeInfluxDB(1) as server, AgentProcess(tmp_path, influx(dead)) as agent:
        send_udp(port, *lines(0, 20))
        agent.wait_for(lambda status: kept(status) == 20, what="20 spooled")

        # Other rings, the same spool.
        assert agent.reload(influx(dead, 'ring_bytes = "4MiB"'))["applied"]
        send_udp(port, *lines(20, 30))
        status = agent.wait_for(lambda status: kept(status) == 30, what="30 spooled")
        assert_balanced(status)

        # Without its output it stays where it is, and in the ledger.
        assert agent.reload(base)["applied"]
        send_udp(port, *lines(30, 40))
        status = agent.wait_for(lambda status: has_left(status), what="rest")
        account = output(status, "influx")
        assert account["spooled"] == 30 and account["written"] == 30
        assert_balanced(status)

        # And with it, it is delivered: nothing was restored, since nothing was ever away.
        assert agent.reload(influx(server.port))["applied"]
        send_udp(port, *lines(40, 50))
        status = agent.wait_for(
            lambda status: output(status, "influx")["delivered"] == 40 and at_rest(status),
            what="40 delivered",
        )
        account = output(status, "influx")
        assert (account["written"], account["restored"], account["spooled"]) == (40, 0, 0)
        assert_balanced(status)
        assert server.lines == {*lines(0, 30), *lines(40, 50)} and not server.problems
        assert agent.stop() == 0


def kept(status: Status) -> int:
    """Metrics in the spool, once there are some, and in the rings."""
    account = output(status, "influx")
    return int(account["spooled"] and account["spooled"] + account["waiting"])


def has_left(status: Status) -> bool:
    """Whether the output has let go of its rings, and what came later is decided."""
    waiting = output(status, "influx")["waiting"]
    return waiting == 0 and output(status, "other")["delivered"] == 40 and balanced(status)


def balanced(status: Status) -> bool:
    return bool(status["ledger"]["balance"] == "balanced")


def test_what_is_spooled_at_a_stop_is_delivered_after_the_next_start(tmp_path: Path) -> None:
    port, dead = free_port(), free_port(socket.SOCK_STREAM)
    config = BASE.replace("{port}", str(port)) + INFLUX.replace("{more}", "")
    with AgentProcess(tmp_path, config.replace("{server}", str(dead))) as agent:
        send_udp(port, *lines(0, 20))
        agent.wait_for(lambda status: kept(status) == 20, what="20 spooled")
        assert agent.stop() == 0
    with FakeInfluxDB(1) as server:
        (again := tmp_path / "again").mkdir()
        for folder in ("run", "state"):
            (tmp_path / folder).rename(again / folder)
        with AgentProcess(again, config.replace("{server}", str(server.port))) as agent:
            status = agent.wait_for(
                lambda status: output(status, "influx")["delivered"] == 20, what="20 delivered"
            )
            assert output(status, "influx")["restored"] == 20
            assert_balanced(status)
            assert server.lines == {*lines(0, 20)}
