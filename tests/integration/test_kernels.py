"""The scalar kernels and those of this processor make the same bytes of the same datagrams, end to end."""

import os
import subprocess
import sys
from pathlib import Path

from agent.errors import EXIT_OK
from tests.conftest import missing
from tests.integration.agent_process import ROOT, AgentProcess, at_rest, free_port, listener, output
from tests.integration.mixed_lines import VICTORIA_METRICS, Maker, Stream
from tests.integration.paced_sender import send_paced
from tests.integration.test_ledger import file_output
from tests.integration.test_stop import udp_listener

LINES = 20_000


def kernels(isa: str) -> str:
    """The kernels that the core takes with this ``PENSTOCK_ISA``; an empty one is the processor's best."""
    code = "from agent import _core; print(_core.ISA)"
    env = {**os.environ, "PENSTOCK_ISA": isa}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def delivered_bytes(folder: Path, isa: str, stream: Stream) -> tuple[bytes, dict[str, int]]:
    """What an agent with these kernels writes to its file, and the counters that depend on the reader."""
    folder.mkdir()
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        tags = {{ dc = "eu1" }}
        {udp_listener(port)}
        {file_output("out")}
    """
    with AgentProcess(folder, config, env={"PENSTOCK_ISA": isa}) as agent:
        send_paced(agent, [stream], {"udp": ("127.0.0.1", port)})
        status = agent.wait_for(
            lambda status: at_rest(status) and output(status, "out")["delivered"] == LINES
        )
        assert f'isa="{kernels(isa)}"' in agent.metrics()
        assert agent.stop() == EXIT_OK
    account = listener(status, "udp")
    [file] = (folder / "out").iterdir()
    counters = {key: account[key] for key in ("received", "accepted", "rewritten", "clamped", "dropped")}
    return file.read_bytes(), counters


def test_all_kernels_give_the_same_bytes(tmp_path: Path) -> None:
    if kernels("") == "scalar":
        missing("no AVX2")
    assert kernels("scalar") == "scalar"
    # Times of the agent's own would differ. Everything else is in the order of the one sender.
    stream = Maker(6, VICTORIA_METRICS, {"dc": "eu1"}, unstamped=0.0).stream("udp", 0, "ns", LINES, 20_000)
    fast, fast_counters = delivered_bytes(tmp_path / "fast", "", stream)
    scalar, scalar_counters = delivered_bytes(tmp_path / "scalar", "scalar", stream)
    assert fast_counters == scalar_counters
    assert fast_counters["rewritten"] > 1_000
    assert fast == scalar
    assert fast.count(b"\n") == LINES
