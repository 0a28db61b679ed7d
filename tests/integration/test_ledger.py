"""The ledger of a running agent balances, whatever happened to the metrics."""

import signal
import socket
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.conftest import missing
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    output,
    send_udp,
    send_unixgram,
)

FILE = """
[[output]]
name = "{name}"
type = "file"
path = "{{folder}}/{name}"
"""


def file_output(name: str) -> str:
    return FILE.format(name=name)


def dead_output(name: str) -> str:
    """An InfluxDB that is not there, with a small ring and nothing else to keep metrics in.

    The flush settings let the ring be so small.
    """
    return f"""
[flush]
batch_bytes = "16KiB"
[[output]]
name = "{name}"
type = "influxdb"
url = "http://127.0.0.1:{free_port(socket.SOCK_STREAM)}"
org = "o"
bucket = "b"
ring_bytes = "64KiB"
spool = false
"""


def test_every_metric_of_every_listener_is_accounted_for(tmp_path: Path) -> None:
    try:
        four, six = free_port(), free_port(host="::1")
    except OSError:
        missing("no IPv6")
    config = f"""
        [[listen]]
        address = "udp://127.0.0.1:{four}"
        name = "four"
        [[listen]]
        address = "udp://[::1]:{six}"
        name = "six"
        precision = "s"
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        name = "unix"
        max_line = "64B"
        {file_output("one")}
        {file_output("two")}
    """
    with AgentProcess(tmp_path, config) as agent:
        send_udp(four, b"a v=1 1\na v=2 2\n# no metric\n\na v= 3\n", b"b,t=x v=1i 4")
        send_udp(six, b"c v=1 1700000000\nnonsense", host="::1")
        send_unixgram(tmp_path / "sock", b"d v=1 1", b"d v=" + b"1" * 64 + b" 2", b"d v=3 3")
        status = agent.wait_for(
            lambda status: at_rest(status) and sum(one["received"] for one in status["listeners"]) == 9
        )
        assert_balanced(status)
        shown = agent.command("status")
        assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
        assert "unix" in shown.stdout
        accounts = {one["name"]: (one["received"], one["accepted"]) for one in status["listeners"]}
        assert accounts == {"four": (4, 3), "six": (2, 1), "unix": (3, 2)}
        assert listener(status, "unix")["dropped"] == {"line_too_long": 1}
        for name in ("one", "two"):
            assert output(status, name)["delivered"] == 6
        assert agent.stop() == EXIT_OK
        for name in ("one", "two"):
            assert sorted(delivered_lines(tmp_path / name)) == [
                b"a v=1 1",
                b"a v=2 2",
                b"b,t=x v=1i 4",
                b"c v=1 1700000000000000000",
                b"d v=1 1",
                b"d v=3 3",
            ]
        [final] = agent.log("stopped")
        assert final["balanced"] is True
        assert final["listeners"]["four"]["received"] == 4


@pytest.mark.parametrize("lanes", [1, 2])
def test_datagrams_that_the_kernel_dropped_are_counted(tmp_path: Path, lanes: int) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        lanes = {lanes}
        [[listen]]
        address = "udp://127.0.0.1:{port}"
        name = "udp"
        receive_buffer = "16KiB"
        {file_output("out")}
    """
    sent = 0
    with AgentProcess(tmp_path, config) as agent:
        for _ in range(3):
            # While the agent stands still, its buffers run over.
            agent.signal(signal.SIGSTOP)
            with load(port, 0, count=2000, flows=8) as sender:
                sent += sender.finish(stop=False)
            agent.signal(signal.SIGCONT)
        status = agent.wait_for(
            lambda status: (
                at_rest(status)
                and listener(status, "udp")["received"] + listener(status, "udp")["kernel_drops"] == sent
            ),
            what="sent = received + kernel_drops",
        )
        assert_balanced(status)
        account = listener(status, "udp")
        assert account["kernel_drops"] > 0
        assert 0 < account["received"] == account["datagrams"] == output(status, "out")["delivered"]
        assert f'penstock_kernel_dropped_datagrams_total{{listener="udp"}} {account["kernel_drops"]}.0' in (
            agent.metrics()
        )
        assert agent.stop() == EXIT_OK
        assert len(delivered_lines(tmp_path / "out")) == account["received"]


def test_what_no_ring_has_room_for_is_dropped_and_counted(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        drain_timeout = "0s"
        [[listen]]
        address = "udp://127.0.0.1:{port}"
        name = "udp"
        {dead_output("dead")}
    """
    with AgentProcess(tmp_path, config) as agent:
        with load(port, 20000, count=5000) as sender:
            assert sender.finish(stop=False) == 5000
        status = agent.wait_for(lambda status: listener(status, "udp")["received"] == 5000)
        status = agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
        assert_balanced(status)
        account, written = listener(status, "udp"), output(status, "dead")["written"]
        assert account["accepted"] == written > 0
        assert account["dropped"] == {"ring_full": 5000 - written}
        assert output(status, "dead")["waiting"] == written
        assert agent.stop() == EXIT_OK
        [final] = agent.log("stopped")
        assert final["balanced"] is True
        assert (final["outputs"]["dead"]["waiting"], final["outputs"]["dead"]["dropped"]) == (written, {})
        # The next one has it.
        agent.spawn()
        agent.wait_notified("READY", 2)
        status = agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
        assert_balanced(status)
        assert output(status, "dead")["restored"] == output(status, "dead")["waiting"] == written


def test_what_one_output_has_no_room_for_reaches_the_others(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        drain_timeout = "0s"
        [[listen]]
        address = "udp://127.0.0.1:{port}"
        name = "udp"
        {file_output("alive")}
        {dead_output("dead")}
    """
    with AgentProcess(tmp_path, config) as agent:
        with load(port, 20000, count=5000) as sender:
            sender.finish(stop=False)
        status = agent.wait_for(
            lambda status: (
                output(status, "alive")["delivered"] == 5000 and status["ledger"]["balance"] == "balanced"
            )
        )
        assert_balanced(status)
        assert listener(status, "udp")["dropped"] == {}
        dead = output(status, "dead")
        assert dead["missed"] == 5000 - dead["written"] > 0
        assert agent.stop() == EXIT_OK
        assert len(set(delivered_lines(tmp_path / "alive"))) == 5000


def test_usr1_logs_the_ledger(tmp_path: Path) -> None:
    port = free_port()
    config = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "udp"\n{file_output("out")}'
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=1 1\nm v= 1")
        agent.wait_for(lambda status: at_rest(status) and listener(status, "udp")["received"] == 2)
        agent.signal(signal.SIGUSR1)
        agent.wait_for(lambda _: agent.log("ledger"))
        [record] = agent.log("ledger")
        assert record["balanced"] is True
        assert record["listeners"]["udp"]["received"] == 2
        assert record["outputs"]["out"]["delivered"] == 1


def test_malformed_lines_are_sampled_to_the_log(tmp_path: Path) -> None:
    port = free_port()
    config = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "udp"\n{file_output("out")}'
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=\x01nonsense", *[b"m v="] * 1000)
        agent.wait_for(lambda status: listener(status, "udp")["received"] == 1001)
        agent.wait_for(lambda _: agent.log("malformed line"))
        first = agent.log("malformed line")[0]
        assert first["listener"] == "udp"
        assert first["line"].startswith("m v=")
        # At a bounded rate: a sample a second, not a line for each.
        assert len(agent.log("malformed line")) < 20
