"""``penstock tap`` against an agent: what it shows, where it ends, and what a terminal gets to see."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import ROOT, AgentProcess, send_unixgram

CONFIG = """
[flush]
interval = "10ms"
[[listen]]
name = "one"
address = "unixgram://{folder}/one"
[[listen]]
name = "json"
address = "unixgram://{folder}/json"
format = "json"
[[output]]
name = "void"
type = "null"
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, CONFIG) as process:
        yield process


@contextmanager
def tapping(
    agent: AgentProcess, *arguments: str, stdout: int = subprocess.PIPE
) -> "Iterator[subprocess.Popen[bytes]]":
    """``penstock tap``, as soon as the agent shows it something."""
    socket = str(agent.runtime_dir / "control.sock")
    command = [sys.executable, "-m", "agent", "tap", "--socket", socket, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def traffic(agent: AgentProcess, *lines: bytes, listener: str = "one") -> Iterator[None]:
    """*lines* again and again, until whoever waits for them has them."""
    enough = threading.Event()

    def send() -> None:
        # An agent that stops hears nothing any more.
        with suppress(OSError):
            while not enough.wait(0.01):
                send_unixgram(agent.folder / listener, *lines)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def output_of(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return stream.read()


def test_lines_come_as_they_are_and_end_with_their_count(agent: AgentProcess) -> None:
    line = 'cpu,host=ä text="a\nb \x1b[31m" 17\n'.encode()
    with tapping(agent, "--count", "3", "--match", "c*") as tap, traffic(agent, line, b"mem v=1 1"):
        assert output_of(tap.stdout) == line * 3
        assert (tap.wait(20), output_of(tap.stderr)) == (0, b"")


def test_what_is_left_out_is_told(agent: AgentProcess) -> None:
    many = b"\n".join([b"m v=1 1"] * 50)
    with tapping(agent, "--rate", "1", "--for", "1500ms") as tap, traffic(agent, many):
        out = output_of(tap.stdout)
        assert tap.wait(20) == 0
        told = output_of(tap.stderr).decode().splitlines()
    assert set(out.splitlines()) == {b"m v=1 1"} and 1 <= len(out.splitlines()) <= 4
    assert told and all(line.endswith(" more passed, 1 a second are shown") for line in told)


def test_a_listener_of_python_is_shown_by_its_place(agent: AgentProcess) -> None:
    metric = json.dumps({"name": "m", "tags": {}, "fields": {"v": 1}, "timestamp": 1}).encode()
    with (
        tapping(agent, "--count", "1", "--listener", "2") as tap,
        traffic(agent, b"cpu v=1 1"),
        traffic(agent, metric, listener="json"),
    ):
        assert output_of(tap.stdout).startswith(b"m v=1")


def test_a_terminal_is_not_let_at_by_what_comes_from_the_network(agent: AgentProcess) -> None:
    ours, theirs = pty.openpty()
    with (
        tapping(agent, "--count", "1", stdout=theirs) as tap,
        traffic(agent, 'm text="\x1b]0;x\x07\u202e\x9b" 1'.encode()),
    ):
        os.close(theirs)
        assert tap.wait(20) == 0
        shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown == 'm text="\\x1b]0;x\\x07\\u202e\\x9b" 1\r\n'


def test_a_broken_pipe_is_the_end_without_a_word(agent: AgentProcess) -> None:
    with tapping(agent) as tap, traffic(agent, b"m v=1 1"):
        assert tap.stdout is not None
        assert tap.stdout.readline() == b"m v=1 1\n"
        tap.stdout.close()
        assert (tap.wait(20), output_of(tap.stderr)) == (0, b"")


def test_an_interrupt_is_an_end_like_any_other(agent: AgentProcess) -> None:
    with tapping(agent) as tap, traffic(agent, b"m v=1 1"):
        assert tap.stdout is not None
        tap.stdout.readline()
        tap.send_signal(signal.SIGINT)
        assert tap.wait(20) == 0
        assert b"Traceback" not in output_of(tap.stderr)


def test_whoever_goes_is_forgotten(agent: AgentProcess) -> None:
    """There are four places, so the fifth would be refused."""
    for _ in range(6):
        with tapping(agent) as tap, traffic(agent, b"m v=1 1"):
            assert tap.stdout is not None
            tap.stdout.readline()

        def free() -> bool:
            return agent.command("tap", "--for", "1ms").returncode == 0

        wait_until(free)


def test_the_end_of_what_was_looked_at_is_told(agent: AgentProcess) -> None:
    with tapping(agent) as tap, traffic(agent, b"m v=1 1"):
        assert tap.stdout is not None
        tap.stdout.readline()
        agent.reload(CONFIG.replace('"void"', '"other"'))
        assert tap.wait(20) == 1
        assert b"the agent has another configuration now" in output_of(tap.stderr)


def test_a_stop_is_told(agent: AgentProcess) -> None:
    with tapping(agent) as tap, traffic(agent, b"m v=1 1"):
        assert tap.stdout is not None
        tap.stdout.readline()
        agent.signal(signal.SIGTERM)
        assert tap.wait(20) == 1
        assert b"the agent stops" in output_of(tap.stderr)


def test_what_is_asked_wrongly_is_refused_in_the_agents_words(agent: AgentProcess) -> None:
    for arguments, words in (
        (["--output", "no"], "no output is named 'no'"),
        (["--listener", "no"], "no listener is named 'no'"),
        (["--rate", "0"], "rate is 0"),
        (["--match", "[a"], "match"),
    ):
        result = agent.command("tap", *arguments)
        assert result.returncode == 1 and words in result.stderr
    assert agent.command("tap", "--for", "long").returncode == 2


def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent", "tap", "--socket", str(tmp_path / "no")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("penstock: no agent is running here")
