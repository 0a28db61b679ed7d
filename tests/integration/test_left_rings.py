"""Rings that an earlier process left: adopted, emptied where they do not fit, set aside where damaged."""

import signal
import socket
from pathlib import Path

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    output,
    send_udp,
)
from tests.integration.disks import small_disk
from tests.integration.test_ledger import dead_output
from tests.integration.test_stop import udp_listener

DATA = 4096 + 65536 * 32
"""Where the bytes of the runs begin in a ring's file."""


def config(port: int, sink: str, *, lanes: int = 1, ring_bytes: str = "4MiB", more: str = "") -> str:
    sink = sink.replace('ring_bytes = "64KiB"\n', "")
    return f"""
        [agent]
        admin = ""
        drain_timeout = "0s"
        lanes = {lanes}
        {udp_listener(port)}
        {sink}
        ring_bytes = "{ring_bytes}"
        {more}
    """


def files(name: str) -> str:
    return f'\n[[output]]\ntype = "file"\nname = "{name}"\npath = "{{folder}}/{name}"\n'


def rings(agent: AgentProcess) -> list[str]:
    return sorted(path.name for path in (agent.runtime_dir / "rings").iterdir())


def fill_and_kill(agent: AgentProcess, port: int, *lines: bytes) -> None:
    """Have an agent whose output is dead accept *lines*, each in a run of its own, and kill it."""
    for at, line in enumerate(lines, 1):
        send_udp(port, line)
        agent.wait_for(lambda status, at=at: sum(one["accepted"] for one in status["lanes"]) == at)
    agent.signal(signal.SIGKILL)
    agent.wait()


def restart(agent: AgentProcess, text: str) -> None:
    agent.write_config(text)
    agent.spawn()
    agent.wait_notified("READY", 2)


def test_what_a_killed_agent_accepted_is_delivered_by_the_next_one(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, config(port, dead_output("out"))) as agent:
        fill_and_kill(agent, port, b"m v=1 1", b"m v=2 2", b"m v=3 3")
        # The same name, and an output of the same encoding: where it goes is no matter of the ring.
        restart(agent, config(port, files("out")))
        send_udp(port, b"m v=4 4")
        status = agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == 4)
        assert_balanced(status)
        account = output(status, "out")
        assert (account["restored"], account["written"]) == (3, 1)
        assert listener(status, "udp")["accepted"] == 1
        assert agent.stop() == EXIT_OK
        assert sorted(delivered_lines(tmp_path / "out")) == [b"m v=%d %d" % (at, at) for at in range(1, 5)]
        assert rings(agent) == []


def test_rings_of_other_sizes_and_lanes_are_emptied_and_go(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, config(port, dead_output("out"), lanes=2)) as agent:
        # Which of the lanes reads a line is decided by the port that it comes from.
        sent = 0
        while not all(one["accepted"] for one in agent.status()["lanes"]):
            sent += 1
            send_udp(port, b"m v=%d %d" % (sent, sent))
            agent.wait_for(lambda status, sent=sent: sum(one["accepted"] for one in status["lanes"]) == sent)
        fill_and_kill(agent, port)
        assert rings(agent) == ["out.0.ring", "out.1.ring"]
        restart(agent, config(port, files("out"), ring_bytes="8MiB"))
        status = agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == sent)
        assert_balanced(status)
        found = {one["writer"]: one["restored"] for one in output(status, "out")["rings"]}
        assert sum(found.values()) == sent and found["lane-0"] > 0 and found["lane-1"] > 0
        # Their files go when they are empty, and nothing of the account with them.
        agent.wait_for(lambda _: rings(agent) == ["out.0~1.ring"])
        assert_balanced(status := agent.status())
        assert output(status, "out")["restored"] == sent
        assert agent.stop() == EXIT_OK
        assert len(delivered_lines(tmp_path / "out")) == sent
        assert rings(agent) == []


def test_files_that_cannot_be_trusted_are_set_aside_and_hold_nobody_up(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, config(port, dead_output("out"))) as agent:
        fill_and_kill(agent, port, b"m v=1 1", b"m v=2 2", b"m v=3 3")
        folder = agent.runtime_dir / "rings"
        with (folder / "out.0.ring").open("r+b") as file:
            file.seek(DATA + 10)  # in the second of three lines of eight bytes
            file.write(b"?")
        (folder / "out.1.ring").write_bytes(b"what is this")
        (folder / "stranger.0.ring").write_bytes(b"and this")
        (folder / "notes.txt").write_bytes(b"of somebody")
        restart(agent, config(port, files("out")))
        status = agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == 2)
        assert_balanced(status)
        assert (output(status, "out")["restored"], output(status, "out")["dropped"]) == (3, {"ring_torn": 1})
        assert rings(agent) == [
            "notes.txt",
            "out.0.ring",
            "out.0.ring.torn",
            "out.1.ring.foreign",
            "stranger.0.ring",
        ]
        assert len(agent.log("a ring that cannot be adopted is set aside")) == 2
        [warning] = agent.log("a ring of an output that is not in the config stays as it is")
        assert warning["output"] == "stranger"
        assert agent.stop() == EXIT_OK
        assert sorted(delivered_lines(tmp_path / "out")) == [b"m v=1 1", b"m v=3 3"]


def test_a_start_that_fails_leaves_the_rings_as_they_were(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, config(port, dead_output("out"))) as agent:
        fill_and_kill(agent, port, b"m v=1 1", b"m v=2 2")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rival:
            rival.bind(("127.0.0.1", port))
            agent.spawn()
            assert agent.wait() != EXIT_OK
        assert rings(agent) == ["out.0.ring"]
        restart(agent, config(port, files("out")))
        agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == 2)
        assert agent.stop() == EXIT_OK


def test_an_output_that_comes_back_finds_its_ring(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, config(port, dead_output("out"))) as agent:
        fill_and_kill(agent, port, b"m v=1 1", b"m v=2 2")
        restart(agent, config(port, files("other")))
        assert rings(agent) == ["other.0.ring", "out.0.ring"]
        assert agent.reload(config(port, files("other"), more=files("out")))["applied"]
        status = agent.wait_for(lambda status: at_rest(status) and output(status, "out")["delivered"] == 2)
        assert_balanced(status)
        assert output(status, "out")["restored"] == 2
        assert agent.stop() == EXIT_OK


def test_without_room_for_what_is_in_hand_the_agent_runs(tmp_path: Path) -> None:
    """The rings fit into the folder, and nothing else does."""
    port = free_port()
    with (
        small_disk(tmp_path / "run", "size=4m"),
        AgentProcess(
            tmp_path, config(port, files("out"), ring_bytes="128KiB", more='[flush]\nbatch_bytes = "64KiB"')
        ) as agent,
    ):
        send_udp(port, b"m v=1 1")
        agent.wait_for(lambda status: output(status, "out")["delivered"] == 1)
        assert rings(agent) == ["out.0.ring"] and not list((agent.runtime_dir / "bursts").iterdir())
        [warning] = agent.log("no file for what is being received: a kill now would lose it")
        assert warning["level"] == "warning" and warning["receiver"] == "lane-0"
        assert agent.stop() == EXIT_OK
