"""What the kernel dropped is counted to the last datagram, also on sockets that are about to be closed."""

import signal
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
)
from tests.integration.test_ledger import file_output
from tests.integration.test_stop import udp_listener


def small_listener(port: int, name: str) -> str:
    return f'{udp_listener(port, name)}receive_buffer = "16KiB"\n'


def overflow(agent: AgentProcess, port: int, count: int, number: signal.Signals) -> int:
    """Send more than the sockets hold while the agent stands still, and *number* before it goes on."""
    agent.signal(signal.SIGSTOP)
    with load(port, 0, count=count, flows=8) as sender:
        sent = sender.finish(stop=False)
    agent.signal(number)
    agent.signal(signal.SIGCONT)
    return sent


@pytest.mark.parametrize("lanes", [1, 2])
def test_drops_before_the_end_are_in_the_last_account(tmp_path: Path, lanes: int) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        lanes = {lanes}
        {small_listener(port, "udp")}
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        sent = overflow(agent, port, 3_000, signal.SIGTERM)
        assert agent.wait() == EXIT_OK
        [final] = agent.log("stopped")
    account = final["listeners"]["udp"]
    assert account["kernel_drops"] > 0 < account["received"]
    assert account["received"] + account["kernel_drops"] == sent
    assert len(delivered_lines(tmp_path / "out")) == account["received"]


@pytest.mark.parametrize("lanes", [1, 2])
def test_drops_on_a_socket_that_is_removed_stay_in_the_account(tmp_path: Path, lanes: int) -> None:
    port, other = free_port(), free_port()

    def config(listeners: str) -> str:
        return f'[agent]\nadmin = ""\nlanes = {lanes}\n{listeners}{file_output("out")}'

    both = config(small_listener(port, "kept") + small_listener(other, "going"))
    with AgentProcess(tmp_path, both) as agent:
        agent.write_config(config(small_listener(port, "kept")))
        sent = overflow(agent, other, 3_000, signal.SIGHUP)
        agent.wait_notified("READY", 2)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        account = listener(status, "going")
        assert account["sockets"] == 0
        assert account["kernel_drops"] > 0 < account["received"]
        assert account["received"] + account["kernel_drops"] == sent
        # It comes back with a new socket, whose counter begins at 0 again.
        agent.write_config(both)
        assert agent.reload()["applied"]
        more = overflow(agent, other, 2_000, signal.SIGCONT)
        status = agent.wait_for(
            lambda status: (
                at_rest(status)
                and sum(listener(status, "going")[key] for key in ("received", "kernel_drops")) == sent + more
            ),
            what=f"{sent + more} accounted for",
        )
        assert_balanced(status)
        assert listener(status, "going")["kernel_drops"] > account["kernel_drops"]
        assert listener(status, "kept")["kernel_drops"] == 0
        assert agent.stop() == EXIT_OK
