"""Sockets that systemd opened: what waits in them is never lost, whatever becomes of the agent."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK
from tests.conftest import missing
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    send_udp,
    send_unixgram,
)
from tests.integration.test_ledger import file_output
from tests.integration.test_stop import udp_listener

UNREAD = "no listener wants a socket passed by systemd; it stays open unread"


def bound(
    family: socket.AddressFamily, address: str | tuple[str, int], *, shared: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    sock.bind(address)
    return sock


class Sockets:
    """One of each kind, as a ``.socket`` unit would have them, and a config with a listener for each."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "in.sock"
        with ExitStack() as stack:
            self.four = stack.enter_context(bound(socket.AF_INET, ("127.0.0.1", 0)))
            try:
                self.six = stack.enter_context(bound(socket.AF_INET6, ("::1", 0)))
            except OSError:
                missing("no IPv6")
            self.unix = stack.enter_context(bound(socket.AF_UNIX, str(self.path)))
            self._stack = stack.pop_all()
        self.four_port, self.six_port = self.four.getsockname()[1], self.six.getsockname()[1]
        self.passed = {"four": self.four, "penstock.socket": self.six, "unknown": self.unix}
        # The first is found by its name, the others by their addresses.
        self.config = f"""
            {udp_listener(free_port(), "four")}
            [[listen]]
            name = "six"
            address = "udp://[::1]:{self.six_port}"
            [[listen]]
            name = "unix"
            address = "unixgram://{self.path}"
            {file_output("out")}
        """

    def send(self, first: int, count: int) -> set[bytes]:
        """Send *count* numbered lines to each socket, no matter who reads it; returns what they become."""
        times = range(first, first + count)
        send_udp(self.four_port, *[b"four v=1 %d" % at for at in times])
        send_udp(self.six_port, *[b"six v=1 %d" % at for at in times], host="::1")
        # A Unix socket holds ten datagrams; the eleventh would make its sender wait for a reader.
        send_unixgram(self.path, *[b"unix v=1 %d" % at for at in times[:10]])
        return {
            b"%s v=1 %d" % (name, at)
            for name, part in ((b"four", times), (b"six", times), (b"unix", times[:10]))
            for at in part
        }

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    sockets = Sockets(tmp_path)
    yield sockets
    sockets.close()


def delivered(folder: Path) -> set[bytes]:
    """The lines in the files; each is there once."""
    lines = delivered_lines(folder / "out")
    assert len(lines) == len(set(lines))
    return set(lines)


def wait_for_all(agent: AgentProcess, count: int) -> None:
    status = agent.wait_for(
        lambda status: at_rest(status) and sum(one["accepted"] for one in status["listeners"]) == count,
        what=f"{count} accepted",
    )
    assert_balanced(status)
    assert all(one["kernel_drops"] == 0 for one in status["listeners"])


def test_what_waits_before_the_start_is_read(tmp_path: Path, sockets: Sockets) -> None:
    sent = sockets.send(1, 100)
    with AgentProcess(tmp_path, sockets.config, pass_fds=sockets.passed) as agent:
        wait_for_all(agent, len(sent))
        assert not agent.log(UNREAD)
        more = sockets.send(1_000, 10)
        wait_for_all(agent, len(sent) + len(more))
        assert agent.stop() == EXIT_OK
    assert delivered(tmp_path) == sent | more


def test_what_comes_while_no_agent_runs_waits_for_the_next_one(tmp_path: Path, sockets: Sockets) -> None:
    sent: set[bytes] = set()
    with AgentProcess(tmp_path, sockets.config, pass_fds=sockets.passed) as agent:
        for number in range(1, 4):
            if number > 1:
                agent.spawn()
                agent.wait_notified("READY", number)
            # What was sent while nobody was there, and what is sent now.
            now = sockets.send(number * 10_000, 50)
            wait_for_all(agent, len(now) * (1 if number == 1 else 2))
            sent |= now
            # Nothing is under way any more, so an end without ceremony costs nothing either.
            if number == 2:
                agent.signal(signal.SIGKILL)
                agent.wait()
            else:
                assert agent.stop() == EXIT_OK
            assert sockets.path.exists()
            sent |= sockets.send(number * 10_000 + 5_000, 50)
        agent.spawn()
        agent.wait_notified("READY", 4)
        wait_for_all(agent, len(now))
        assert agent.stop() == EXIT_OK
    assert delivered(tmp_path) == sent


def test_an_agent_that_cannot_start_leaves_what_waits(tmp_path: Path, sockets: Sockets) -> None:
    """A config with a problem, and one that asks for a port that somebody has."""
    sent = sockets.send(1, 20)
    bad = sockets.config.replace("[[output]]", "[[outputs]]")
    with (
        closing(AgentProcess(tmp_path, bad, pass_fds=sockets.passed)) as agent,
        bound(socket.AF_INET, ("127.0.0.1", 0)) as taken,
    ):
        agent.spawn()
        assert agent.wait() == EXIT_CONFIG
        agent.write_config(sockets.config + udp_listener(taken.getsockname()[1], "taken"))
        agent.spawn()
        assert agent.wait() == EXIT_FAILURE
        agent.write_config(sockets.config)
        agent.start()
        wait_for_all(agent, len(sent))
        assert agent.stop() == EXIT_OK
    assert delivered(tmp_path) == sent


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_queue_of_a_port_with_several_sockets_is_read(tmp_path: Path, lanes: int) -> None:
    """``ListenDatagram=`` of one port, four times with ``ReusePort=yes``, is four queues that survive."""
    with ExitStack() as stack:
        first = stack.enter_context(bound(socket.AF_INET, ("127.0.0.1", 0), shared=True))
        address = first.getsockname()
        group = [first] + [stack.enter_context(bound(socket.AF_INET, address, shared=True)) for _ in range(3)]
        senders = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(40)]
        for number, sender in enumerate(senders, 1):
            sender.sendto(b"m v=1 %d" % number, address)
        config = f"""
            [agent]
            admin = ""
            lanes = {lanes}
            {udp_listener(address[1])}
            {file_output("out")}
        """
        passed = {f"penstock-{number}.socket": sock for number, sock in enumerate(group)}
        with AgentProcess(tmp_path, config, pass_fds=passed) as agent:
            wait_for_all(agent, 40)
            status = agent.status()
            assert listener(status, "udp")["sockets"] == 4
            for number, sender in enumerate(senders, 101):
                sender.sendto(b"m v=1 %d" % number, address)
            wait_for_all(agent, 80)
            assert all(lane["accepted"] for lane in agent.status()["lanes"])
            assert agent.stop() == EXIT_OK
    assert len(delivered(tmp_path)) == 80


def test_what_no_listener_wants_is_reported_and_stays_unread(tmp_path: Path) -> None:
    with ExitStack() as stack:
        wanted = stack.enter_context(bound(socket.AF_INET, ("127.0.0.1", 0)))
        spare = stack.enter_context(bound(socket.AF_INET, ("127.0.0.1", 0)))
        stream = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        no_socket = stack.enter_context((tmp_path / "file").open("w"))
        passed = {"wanted": wanted, "spare": spare, "stream": stream, "file": no_socket}
        config = f"{udp_listener(free_port(), 'wanted')}{file_output('out')}"
        with AgentProcess(tmp_path, config, pass_fds=passed) as agent:
            assert {record["fd_name"] for record in agent.log(UNREAD)} == {"spare", "stream"}
            [about_spare] = [one for one in agent.log(UNREAD) if one["fd_name"] == "spare"]
            assert about_spare["address"] == f"udp://127.0.0.1:{spare.getsockname()[1]}"
            [about_file] = agent.log("systemd passed something that is no socket")
            assert about_file["fd_name"] == "file"
            send_udp(spare.getsockname()[1], b"spare v=1 1")
            send_udp(wanted.getsockname()[1], b"wanted v=1 1")
            wait_for_all(agent, 1)
            assert agent.stop() == EXIT_OK
        assert delivered(tmp_path) == {b"wanted v=1 1"}
        assert spare.recv(100, socket.MSG_DONTWAIT) == b"spare v=1 1"


def test_a_socket_of_another_kind_under_a_listeners_name_is_a_failure_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stream:
        config = f"{udp_listener(free_port(), 'mine')}{file_output('out')}"
        with closing(AgentProcess(tmp_path, config, pass_fds={"mine": stream})) as agent:
            agent.spawn()
            assert agent.wait() == EXIT_FAILURE
            [record] = agent.log("cannot start")
            assert "systemd passed a socket named 'mine' of another kind" in record["problem"]


def test_sockets_that_were_passed_to_another_process_are_left_alone(tmp_path: Path) -> None:
    """``LISTEN_PID`` names somebody else, as in a child of the process that systemd started."""
    with AgentProcess(
        tmp_path,
        f"{udp_listener(free_port())}{file_output('out')}",
        env={"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "udp"},
    ) as agent:
        assert not agent.log(UNREAD)
        assert agent.stop() == EXIT_OK
