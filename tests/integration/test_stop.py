"""Start and stop: what was received is delivered before the end, and nothing stays behind."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from agent.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK
from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    send_udp,
    send_unixgram,
)
from tests.integration.servers import Influxd, influxd
from tests.integration.test_ledger import dead_output, file_output


def udp_listener(port: int, name: str = "udp") -> str:
    return f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "{name}"\n'


# ---- stop ----


@pytest.mark.parametrize(("number", "lanes"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_under_load_everything_received_is_delivered_before_exit_0(
    tmp_path: Path, number: signal.Signals, lanes: int
) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        lanes = {lanes}
        {udp_listener(port)}
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent, load(port, 100_000, flows=8) as sender:
        agent.wait_for(lambda status: listener(status, "udp")["received"] > 50_000)
        agent.signal(number)
        assert agent.wait() == EXIT_OK
        sent = sender.finish()
        [final] = agent.log("stopped")
        assert final["balanced"] is True
        received = final["listeners"]["udp"]["received"]
        assert 50_000 < received <= sent
        assert final["listeners"]["udp"]["accepted"] == final["outputs"]["out"]["delivered"] == received
        lines = delivered_lines(tmp_path / "out")
        assert len(lines) == len(set(lines)) == received


def influx_output(server: Influxd, database: str) -> str:
    return f"""
        [[output]]
        name = "influx"
        type = "influxdb"
        version = 1
        url = "{server.url}"
        database = "{database}"
    """


def test_under_load_everything_received_is_in_the_database_before_exit_0(tmp_path: Path) -> None:
    port = free_port()
    with influxd(tmp_path) as server:
        database = server.create_database()
        config = f"{udp_listener(port)}{influx_output(server, database)}"
        with AgentProcess(tmp_path, config) as agent, load(port, 40_000) as sender:
            agent.wait_for(lambda status: listener(status, "udp")["received"] > 40_000)
            assert agent.stop() == EXIT_OK
            sent = sender.finish()
            [final] = agent.log("stopped")
        assert final["balanced"] is True
        received = final["listeners"]["udp"]["received"]
        assert 40_000 < received <= sent
        assert final["outputs"]["influx"]["delivered"] == received
        [series] = server.query("SELECT COUNT(id) FROM load1", database)
        assert series["values"][0][1] == received


def test_a_database_that_stalls_gets_everything_once_it_goes_on(tmp_path: Path) -> None:
    port = free_port()
    with influxd(tmp_path) as server:
        database = server.create_database()
        config = f"{udp_listener(port)}{influx_output(server, database)}"
        with AgentProcess(tmp_path, config) as agent:
            server.freeze()
            send_udp(port, *[b"m v=%d %d" % (at, at) for at in range(1, 101)])
            agent.wait_for(lambda status: listener(status, "udp")["received"] == 100)
            agent.signal(signal.SIGTERM)
            agent.wait_for(lambda status: status["state"] == "draining")
            server.thaw()
            assert agent.wait() == EXIT_OK
            assert agent.log("stopped")[0]["balanced"] is True
        [series] = server.query("SELECT COUNT(v) FROM m", database)
        assert series["values"][0][1] == 100


def test_what_the_kernel_still_holds_is_read_before_the_end(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        {udp_listener(port)}
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        agent.signal(signal.SIGSTOP)
        send_udp(port, *[b"udp v=1 %d" % at for at in range(1, 301)])
        send_unixgram(tmp_path / "sock", *[b"unix v=1 %d" % at for at in range(1, 6)])
        agent.signal(signal.SIGTERM)
        agent.signal(signal.SIGCONT)
        assert agent.wait() == EXIT_OK
        lines = delivered_lines(tmp_path / "out")
        assert sum(line.startswith(b"udp ") for line in lines) == 300
        assert sum(line.startswith(b"unix ") for line in lines) == 5


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        drain_timeout = "1h"
        {udp_listener(port)}
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        {dead_output("dead")}
    """
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=1")
        agent.wait_for(lambda status: listener(status, "udp")["received"] == 1)
        agent.signal(signal.SIGTERM)
        agent.wait_for(lambda status: status["state"] == "draining")
        status, _ = agent.request("GET", "/readyz")
        assert status == 503
        assert agent.returncode is None
        begin = time.monotonic()
        agent.signal(signal.SIGTERM)
        assert agent.wait() == EXIT_FAILURE
        assert time.monotonic() - begin < 2
        assert not (tmp_path / "sock").exists()


def test_a_reload_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, f"{udp_listener(port)}{file_output('out')}") as agent:
        part = tmp_path / "conf.d" / "part.toml"
        part.parent.mkdir()
        os.mkfifo(part)
        agent.signal(signal.SIGHUP)
        agent.wait_notified("RELOADING")
        send_udp(port, b"m v=1 1")
        assert agent.stop() == EXIT_OK
        assert delivered_lines(tmp_path / "out") == [b"m v=1 1"]
        [refused] = agent.log("reload refused, the old configuration runs on")
        assert refused["problem"] == "the agent is stopping"


def test_drain_timeout_bounds_the_end(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        drain_timeout = "300ms"
        {udp_listener(port)}
        {dead_output("dead")}
    """
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=1\nm v=2")
        agent.wait_for(lambda status: listener(status, "udp")["received"] == 2)
        begin = time.monotonic()
        assert agent.stop() == EXIT_OK
        assert 0.3 <= time.monotonic() - begin < 3
        [final] = agent.log("stopped")
        assert final["balanced"] is True
        assert (final["outputs"]["dead"]["waiting"], final["outputs"]["dead"]["dropped"]) == (2, {})
        assert [ring.name for ring in (agent.runtime_dir / "rings").iterdir()] == ["dead.0.ring"]


def test_nothing_stays_behind(tmp_path: Path) -> None:
    config = f"""
        {udp_listener(free_port())}
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        assert (tmp_path / "run" / "rings" / "out.0.ring").exists()
        assert agent.stop() == EXIT_OK
        assert not (tmp_path / "sock").exists()
        assert list((tmp_path / "run" / "rings").iterdir()) == []
        assert not (tmp_path / "run" / "control.sock").exists()
        states = [next(iter(message)) for message in agent.notifications]
        assert states == ["READY", "STOPPING"]


# ---- start ----


def test_what_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        {udp_listener(port)}
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        name = "unix"
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        agent.signal(signal.SIGKILL)
        agent.wait()
        assert (tmp_path / "sock").exists()
        agent.spawn()
        agent.wait_notified("READY", 2)
        send_unixgram(tmp_path / "sock", b"m v=1")
        agent.wait_for(lambda status: at_rest(status) and listener(status, "unix")["received"] == 1)
        assert agent.stop() == EXIT_OK


def test_a_taken_port_is_a_failure_that_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        agent = AgentProcess(tmp_path, f"{udp_listener(port)}\n{file_output('out')}")
        try:
            agent.spawn()
            assert agent.wait() == EXIT_FAILURE
            [record] = agent.log("cannot start")
            assert record["problem"].startswith(f"listen[0].address: udp://127.0.0.1:{port}: cannot bind")
            assert list((tmp_path / "run" / "rings").iterdir()) == []
            assert not any("READY" in message for message in agent.notifications)
        finally:
            agent.close()


def test_signals_that_come_during_the_start_wait_for_its_end(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, f"{udp_listener(free_port())}{file_output('out')}")
    # Keeps the agent in the middle of reading its configuration.
    part = tmp_path / "conf.d" / "part.toml"
    part.parent.mkdir()
    os.mkfifo(part)
    try:
        agent.spawn()
        with part.open("w"):
            part.unlink()
            agent.signal(signal.SIGHUP)
            agent.signal(signal.SIGUSR1)
        agent.wait_notified("RELOADING")
        agent.wait_for(lambda status: status["reload"]["applied"] == 1)
        wait_until(lambda: agent.log("ledger"))
        assert agent.stop() == EXIT_OK
    finally:
        agent.close()


def test_a_bad_config_is_exit_78(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, f"{udp_listener(free_port())}\nintervall = 1\n{file_output('out')}")
    try:
        agent.spawn()
        assert agent.wait() == EXIT_CONFIG
        assert "intervall" in agent.log_text()
    finally:
        agent.close()


def test_a_second_agent_with_the_same_runtime_folder_is_refused(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, f"{udp_listener(free_port())}{file_output('out')}") as first:
        (tmp_path / "second").mkdir()
        second = AgentProcess(tmp_path / "second", "")
        try:
            second.config_path.write_text(
                f'[agent]\nadmin = ""\nruntime_dir = "{first.runtime_dir}"\n'
                f"{udp_listener(free_port())}{file_output('out').replace('{folder}', str(tmp_path))}"
            )
            second.spawn()
            assert second.wait() == EXIT_FAILURE
            assert "another agent runs with it" in second.log("cannot start")[0]["problem"]
        finally:
            second.close()
        assert first.status()["state"] == "running"
        assert (first.runtime_dir / "rings" / "out.0.ring").exists()


def test_a_second_agent_with_the_same_state_folder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    sink = '[[output]]\nname = "db"\ntype = "influxdb"\nurl = "http://127.0.0.1:9"\n'
    sink += 'version = 1\ndatabase = "d"\n'
    with AgentProcess(tmp_path, f"{udp_listener(free_port())}{sink}") as first:
        (tmp_path / "second").mkdir()
        agent = f'[agent]\nadmin = ""\nstate_dir = "{first.state_dir}"\n'
        second = AgentProcess(tmp_path / "second", f"{agent}{udp_listener(free_port())}{sink}")
        try:
            second.spawn()
            assert second.wait() == EXIT_FAILURE
            problem = second.log("cannot start")[0]["problem"]
            assert problem.startswith(f"agent.state_dir: {first.state_dir}: another agent runs with it: ")
            assert f"process {first.pid} ({first.config_path})" in problem
            # An agent that keeps nothing in the folder has no need of it.
            second.write_config(f"{agent}{udp_listener(free_port())}{file_output('out')}")
            second.start()
            assert second.reload(f"{agent}{udp_listener(free_port())}{sink}")["problems"] == [problem]
        finally:
            second.close()


def test_the_watchdog_is_fed(tmp_path: Path) -> None:
    config = f"{udp_listener(free_port())}{file_output('out')}"
    with AgentProcess(tmp_path, config, env={"WATCHDOG_USEC": "400000"}) as agent:
        agent.wait_notified("WATCHDOG", 10)


# ---- sockets passed by systemd ----


@pytest.mark.needs("root")
def test_a_passed_socket_loses_nothing_over_a_restart(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as passed:
        passed.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE, as systemd does
        passed.bind(("127.0.0.1", 0))
        port = passed.getsockname()[1]
        config = f"{udp_listener(port)}{file_output('out')}"
        received = 0
        agent = AgentProcess(tmp_path, config, pass_fds={"penstock.socket": passed})
        with agent, load(port, 30_000) as sender:
            for restart in range(3):
                if restart:
                    agent.spawn()
                    agent.wait_notified("READY", restart + 1)
                agent.wait_for(lambda status: listener(status, "udp")["received"] > 10_000)
                if restart < 2:
                    assert agent.stop() == EXIT_OK
                    received += agent.log("stopped")[-1]["listeners"]["udp"]["received"]
            sent = sender.finish()
            status = agent.wait_for(
                lambda status: at_rest(status) and received + listener(status, "udp")["received"] == sent,
                what=f"{sent} received by three agents",
            )
            assert_balanced(status)
            assert listener(status, "udp")["kernel_drops"] == 0
            assert agent.stop() == EXIT_OK
            lines = delivered_lines(tmp_path / "out")
            assert len(lines) == len(set(lines)) == sent


def test_passed_sockets_are_taken_by_name_and_by_address(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as named,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as spare,
    ):
        named.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "sock"))
        spare.bind(("127.0.0.1", 0))
        config = f"""
            {udp_listener(free_port(), "named")}
            [[listen]]
            address = "unixgram://{{folder}}/sock"
            name = "path"
            {file_output("out")}
        """
        pass_fds = {"named": named, "penstock.socket": unix, "spare": spare}
        with AgentProcess(tmp_path, config, pass_fds=pass_fds) as agent:
            send_udp(named.getsockname()[1], b"m v=1")
            send_unixgram(tmp_path / "sock", b"m v=1", b"m v=2")
            status = agent.wait_for(
                lambda status: [one["received"] for one in status["listeners"]] == [1, 2] and at_rest(status)
            )
            assert_balanced(status)
            [warning] = agent.log("no listener wants a socket passed by systemd; it stays open unread")
            assert warning["fd_name"] == "spare"
            assert agent.stop() == EXIT_OK
            # The file is systemd's, who goes on listening.
            assert (tmp_path / "sock").exists()
            assert os.stat(tmp_path / "sock").st_ino == os.stat(unix.getsockname()).st_ino
