"""The command beside a real agent in every state of its life: what it prints, and the exit code."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from agent.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_USAGE
from tests.integration.agent_process import (
    ROOT,
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    output,
    send_udp,
    udp_inodes,
)
from tests.integration.certificates import make_certificates
from tests.integration.test_ledger import dead_output, file_output
from tests.integration.test_stop import udp_listener


def penstock(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the command without saying where the agent is."""
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_reload_wait_returns_when_the_new_config_is_live(tmp_path: Path) -> None:
    """What is sent behind it is received by the new listener, tagged and scaled as the new config says."""
    first, second = free_port(), free_port()
    before = f"{udp_listener(first)}{file_output('out')}"
    after = f"""
        [agent]
        admin = ""
        tags = {{ dc = "eu1" }}
        {udp_listener(first)}
        precision = "s"
        {udp_listener(second, "added")}
        {file_output("out")}
    """
    with AgentProcess(tmp_path, before) as agent:
        agent.write_config(after)
        command = penstock("reload", "--wait", "-c", agent.config_path)
        send_udp(first, b"m v=1 1")
        send_udp(second, b"m v=2 2")
        assert (command.returncode, command.stderr) == (EXIT_OK, "")
        changes = command.stdout.splitlines()
        assert changes[0] == "reloaded"
        assert {change.split(":")[0].strip() for change in changes[1:]} >= {
            "agent.tags",
            "listen[udp].precision",
        }
        agent.wait_for(lambda status: at_rest(status) and listener(status, "added")["received"] == 1)
        assert agent.stop() == EXIT_OK
    assert sorted(delivered_lines(tmp_path / "out")) == [b"m,dc=eu1 v=1 1000000000", b"m,dc=eu1 v=2 2"]


def test_reload_reads_conf_d_and_the_environment(tmp_path: Path) -> None:
    port, added = free_port(), free_port()
    folder = tmp_path / "conf.d"
    folder.mkdir()
    config = f"{udp_listener(port)}{file_output('out')}"
    with AgentProcess(tmp_path, config, env={"ADDED_PORT": str(added)}) as agent:
        (folder / "10-more.toml").write_text(
            '[[listen]]\nname = "added"\naddress = "udp://127.0.0.1:${ADDED_PORT}"\n'
        )
        assert agent.command("reload", "--wait").returncode == EXIT_OK
        send_udp(added, b"m v=1 1")
        agent.wait_for(lambda status: listener(status, "added")["accepted"] == 1)
        # A key set twice is refused, with both files named.
        (folder / "20-twice.toml").write_text('[flush]\ninterval = "1s"\n')
        (folder / "30-twice.toml").write_text('[flush]\ninterval = "2s"\n')
        refused = agent.command("reload", "--wait")
        assert (refused.returncode, refused.stdout) == (EXIT_FAILURE, "")
        assert "flush.interval" in refused.stderr
        assert "20-twice.toml" in refused.stderr and "30-twice.toml" in refused.stderr
        (folder / "10-more.toml").unlink()
        (folder / "30-twice.toml").unlink()
        assert agent.command("reload", "--wait").returncode == EXIT_OK
        assert listener(agent.status(), "added")["sockets"] == 0


def test_status_under_load_exits_with_0(tmp_path: Path) -> None:
    """Counters that are read while they move are no broken ledger."""
    port = free_port()
    config = f"{udp_listener(port)}{file_output('out')}"
    with AgentProcess(tmp_path, config) as agent, load(port, 50_000) as sender:
        agent.wait_for(lambda status: listener(status, "udp")["received"] > 5_000)
        received = []
        for _ in range(5):
            shown = agent.command("status", "--json")
            assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
            document = json.loads(shown.stdout)
            assert document["ledger"]["balance"] in ("balanced", "moving")
            received.append(listener(document, "udp")["received"])
            screen = agent.command("status")
            assert (screen.returncode, screen.stderr) == (EXIT_OK, "")
        assert received == sorted(set(received))
        sender.finish()


def test_status_over_http_and_of_an_agent_that_is_gone(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    config = f'[agent]\nadmin = "127.0.0.1:{port}"\n{udp_listener(free_port())}{file_output("out")}'
    with AgentProcess(tmp_path, config) as agent:
        url = f"http://127.0.0.1:{port}"
        shown = penstock("status", "--json", "--url", url)
        assert shown.returncode == EXIT_OK
        assert json.loads(shown.stdout)["pid"] == agent.pid
        assert penstock("status", "-c", agent.config_path).returncode == EXIT_OK
        # Over HTTP it only tells.
        assert penstock("reload", "--url", url).returncode == EXIT_USAGE
        # A killed agent leaves its control socket behind.
        agent.signal(signal.SIGKILL)
        agent.wait()
        assert (agent.runtime_dir / "control.sock").exists()
        for command in (("status",), ("status", "--json"), ("reload", "--wait"), ("reload", "--no-wait")):
            gone = penstock(*command, "-c", agent.config_path)
            assert (gone.returncode, gone.stdout) == (EXIT_FAILURE, "")
            assert gone.stderr.startswith("penstock: no agent is running here: nobody listens on ")
        gone = penstock("status", "--url", url)
        assert (gone.returncode, gone.stdout) == (EXIT_FAILURE, "")
        assert gone.stderr.startswith("penstock: no agent is running here: ")


def test_status_and_top_by_tls_with_the_token_that_the_agent_asks_for(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    keys = f'admin_cert = "{tmp_path / "server.pem"}"\nadmin_key = "{tmp_path / "server.key"}"'
    config = f'[agent]\nadmin = "127.0.0.1:0"\nadmin_token = "s3cret"\n{keys}\n'
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with AgentProcess(tmp_path, f"{config}{udp_listener(free_port())}{file_output('out')}") as agent:
        url = f"https://{agent.log('ready')[0]['admin']}"
        asked = ("status", "--json", "--url", url, "--ca", tmp_path / "ca.pem")
        shown = penstock(*asked, "--token-file", token)
        assert (shown.returncode, json.loads(shown.stdout)["pid"]) == (EXIT_OK, agent.pid)
        seen = penstock("top", "--once", *asked[2:], "--token-file", token)
        assert (seen.returncode, seen.stderr) == (EXIT_OK, "") and "out" in seen.stdout
        for arguments, why in (
            (asked, "the agent answers 401: wanted: the token"),
            (("top", *asked[2:]), "wanted: the token"),
            ((*asked, "--token-file", tmp_path / "none"), "none: cannot be read"),
            ((*asked[:4], "--ca", tmp_path / "none", "--token-file", token), "none: cannot be read"),
            (asked[:4], "its certificate is not trusted"),
        ):
            refused = penstock(*arguments)
            assert (refused.returncode, refused.stdout) == (EXIT_FAILURE, "")
            assert refused.stderr.startswith("penstock: ") and why in refused.stderr


def test_an_agent_that_drains_is_shown_and_takes_no_new_config(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        drain_timeout = "1h"
        {udp_listener(port)}
        {dead_output("dead")}
    """
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"m v=1 1", b"m v=2 2")
        agent.wait_for(lambda status: output(status, "dead")["retries"] > 0)
        agent.signal(signal.SIGTERM)
        agent.wait_for(lambda status: status["state"] == "draining" and not udp_inodes(port))
        shown = agent.command("status")
        assert (shown.returncode, shown.stderr) == (EXIT_OK, "")
        assert "draining" in shown.stdout and "Ledger: balances" in shown.stdout
        status = agent.status()
        assert_balanced(status)
        assert output(status, "dead")["waiting"] == 2
        assert status["ready"] is False
        # The answer comes at once, and not when the draining is over.
        agent.write_config(config.replace('"udp"', '"renamed"'))
        refused = agent.command("reload", "--wait")
        assert (refused.returncode, refused.stdout) == (EXIT_FAILURE, "")
        assert "reload refused" in refused.stderr and "the agent is stopping" in refused.stderr
        agent.signal(signal.SIGHUP)
        agent.wait_for(lambda _: agent.log("asked to reload while stopping: nothing is changed"))
        assert agent.status()["state"] == "draining"
        kinds = [next(iter(message)) for message in agent.notifications]
        assert kinds == ["READY", "STOPPING"]


def test_exit_codes_of_run(tmp_path: Path) -> None:
    good = f"{udp_listener(free_port())}{file_output('out')}"
    with closing(AgentProcess(tmp_path, good)) as agent:
        agent.start()
        assert agent.stop() == EXIT_OK
        agent.write_config(f"{good}\nformat = 1\n")
        agent.spawn()
        assert agent.wait() == EXIT_CONFIG
        agent.write_config(good.replace("{folder}/out", "/proc/none"))
        agent.spawn()
        assert agent.wait() == EXIT_FAILURE
    assert penstock("run", "-c", tmp_path / "absent.toml").returncode == EXIT_CONFIG
    assert penstock("run", "--nonsense").returncode == EXIT_USAGE
