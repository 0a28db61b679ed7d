"""``penstock bench`` against an agent: its report is what the agent and the sender counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.agent_process import ROOT, AgentProcess, free_port, listener
from tests.integration.servers import free_tcp_port

CONFIG = """
[flush]
interval = "10ms"
[[listen]]
name = "udp"
address = "udp://127.0.0.1:{udp}"
[[listen]]
name = "tiny"
address = "udp://127.0.0.1:{tiny}"
receive_buffer = "4KiB"
[[listen]]
name = "statsd"
address = "unixgram://{{folder}}/statsd"
format = "statsd"
interval = "100ms"
[[listen]]
name = "tcp"
address = "tcp://127.0.0.1:{tcp}"
[[listen]]
name = "http"
address = "http://127.0.0.1:{http}"
[[output]]
name = "void"
type = "null"
"""


def config() -> str:
    return CONFIG.format(udp=free_port(), tiny=free_port(), tcp=free_tcp_port(), http=free_tcp_port())


def bench(agent: AgentProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agent", "bench", "-c", str(agent.config_path), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("udp", ("--rate", "5k")),
        ("udp", ("--rate", "2k", "--pack", "0", "--fields", "3")),
        ("statsd", ("--rate", "20k")),
        ("tcp", ("--rate", "200k", "--connections", "3")),
        ("http", ("--rate", "50k", "--connections", "2")),
    ],
)
def test_what_is_sent_arrives(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    with AgentProcess(tmp_path, config()) as agent:
        done = bench(agent, "--to", name, "--seconds", "500ms", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        assert "; from there to void (null" in done.stderr
        found, status = json.loads(done.stdout), agent.status()
        sent = found["sent"]["metrics"]
        assert sent >= found["sent"]["wanted"] / 2 and found["lost"] == {}
        assert (found["received"], found["accepted"]) == (sent, sent)
        assert listener(status, name)["received"] == sent
        if name != "statsd":
            assert found["outputs"][0]["delivered"] == sent


def test_what_the_kernel_drops_is_told_as_that(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent:
        done = bench(agent, "--to", "tiny", "--seconds", "500ms", "--rate", "max", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        lost = found["kernel"]["metrics"]
        assert lost > 0 and found["kernel"]["drops"] > 0
        # As fast as it goes is sometimes more than the output takes.
        assert found["lost"]["kernel"] == lost and found["lost"].keys() <= {"kernel", "ring_full"}
        assert found["sent"]["metrics"] == found["received"] + lost
        text = bench(agent, "--to", "tiny", "--seconds", "200ms", "--rate", "max").stdout
        assert "in the kernel" in text and "the receive buffer was full" in text


def test_without_an_agent_it_is_told_that_nothing_is_known(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, config())
    try:
        done = bench(agent, "--seconds", "200ms")
        assert done.returncode == 1
        assert "No agent of this machine listens there" in done.stderr
        assert "nobody listens there" in done.stderr and "Traceback" not in done.stderr
    finally:
        agent.close()
