"""An agent with [host]: metrics of this machine in the output, a reload that changes them, the ledger."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    send_udp,
)

HOST = '[host]\ninterval = "1s"\n'


def config(folder: Path, more: str) -> str:
    return f'{more}\n[[output]]\nname = "out"\ntype = "file"\npath = "{folder}/out"\n'


def measurements(folder: Path) -> set[bytes]:
    return {line.split(b",")[0].split(b" ")[0] for line in delivered_lines(folder / "out")}


def test_a_host_needs_no_listener_and_says_everything(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config(tmp_path, HOST)) as agent:
        agent.wait_for(lambda status: status["listeners"] and listener(status, "host")["accepted"] > 20)
        everything = {b"cpu", b"mem", b"swap", b"diskio", b"net", b"system", b"processes", b"penstock"}
        wait_until(lambda: measurements(tmp_path) >= everything, 20.0)
        assert_balanced(agent.wait_for(at_rest))
        assert listener(agent.status(), "host")["dropped"] == {}
        assert agent.stop() == 0
    assert {b"penstock_output"} <= measurements(tmp_path)


def test_a_reload_begins_changes_and_ends_it(tmp_path: Path) -> None:
    port = free_port()
    listen = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'
    with AgentProcess(tmp_path, config(tmp_path, listen)) as agent:
        send_udp(port, b"own v=1 1\n")
        agent.reload(config(tmp_path, listen + HOST + 'collectors = ["mem"]\n'))
        agent.wait_for(lambda status: listener(status, "host")["accepted"] > 0)
        agent.reload(config(tmp_path, listen + HOST + 'collectors = ["swap"]\nhostname = "other"\n'))
        wait_until(lambda: b"swap" in measurements(tmp_path), 20.0)
        agent.reload(config(tmp_path, listen))
        accepted = listener(agent.status(), "host")["accepted"]
        send_udp(port, b"own v=2 2\n")
        status = agent.wait_for(at_rest)
        assert listener(status, "host")["accepted"] == accepted
        assert_balanced(status)
        names = {path.read_text().strip() for path in Path(f"/proc/{agent.pid}/task").glob("*/comm")}
        assert "host" not in names
        assert agent.stop() == 0
    lines = delivered_lines(tmp_path / "out")
    assert {b"own", b"mem", b"swap"} == measurements(tmp_path)
    assert all(line.startswith(b"swap,host=other ") for line in lines if line.startswith(b"swap"))


def test_a_host_that_is_wrong_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config(tmp_path, HOST)) as agent:
        agent.write_config(config(tmp_path, '[host]\ncollectors = ["cpuu"]\nintervals = { dsk = "1s" }\n'))
        done = agent.command("reload", "--wait")
        assert done.returncode == 1, done.stderr
        assert 'did you mean "cpu"?' in done.stdout + done.stderr
        assert "dsk" in done.stdout + done.stderr
        accepted = listener(agent.status(), "host")["accepted"]
        agent.wait_for(lambda status: listener(status, "host")["accepted"] > accepted)
        assert agent.stop() == 0


def test_an_agent_tells_of_itself_through_its_own_outputs(tmp_path: Path) -> None:
    port = free_port()
    listen = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'
    with AgentProcess(tmp_path, config(tmp_path, listen)) as agent:
        agent.reload(config(tmp_path, "[agent]\nself_metrics = true\n" + listen))
        send_udp(port, b"own v=1 1\n")
        wait_until(lambda: b"penstock_slo" in measurements(tmp_path), 25.0)
        agent.reload(config(tmp_path, listen))
        assert_balanced(agent.wait_for(at_rest))
        names = {path.read_text().strip() for path in Path(f"/proc/{agent.pid}/task").glob("*/comm")}
        assert "host" not in names
        assert agent.stop() == 0
    own = {b"penstock", b"penstock_listener", b"penstock_output", b"penstock_slo"}
    assert measurements(tmp_path) == own | {b"own"}
    lines = delivered_lines(tmp_path / "out")
    [slo] = [line for line in lines if line.startswith(b"penstock_slo,")][:1]
    assert b",output=out " in slo and b'state="ok"' in slo and b"budget_left=1" in slo
