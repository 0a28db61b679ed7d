"""The `penstock` command: what it prints, and the exit code by which a script knows."""

import asyncio
import json
import os
import pty
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from agent import __version__
from agent.admin.server import start
from agent.cli import cli
from agent.config import load
from agent.config_toml import to_toml
from tests.integration.agent_process import AgentProcess, free_port, send_udp
from tests.unit.test_admin import Service

ROOT = Path(__file__).resolve().parents[2]
NULL = '[[output]]\nname = "void"\ntype = "null"\n'


def penstock(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def write(folder: Path, text: str) -> Path:
    path = folder / "penstock.toml"
    path.write_text(text)
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    config = f'[[listen]]\nname = "door"\naddress = "udp://127.0.0.1:{free_port()}"\n{NULL}'
    with AgentProcess(tmp_path, config) as process:
        yield process


def test_version() -> None:
    result = penstock("version")
    assert result.exit_code == 0
    assert re.fullmatch(
        rf"penstock {re.escape(__version__)} \(Python 3\.\d+\.\S+, kernels \w+\)\n", result.stdout
    )


@pytest.mark.parametrize("arguments", [["nonsense"], ["check", "--nonsense"], ["run", "-c"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert penstock(*arguments).exit_code == 2


def test_every_command_explains_itself() -> None:
    commands = cli.commands
    assert set(commands) == {
        *("run", "check", "test", "config", "status", "reload", "spool", "rejected", "version"),
        *("tap", "capture", "replay"),
        *("top", "fleet", "send", "bench"),
        *("install", "uninstall"),
    }
    for name in commands:
        result = penstock(name, "--help")
        assert result.exit_code == 0 and "Usage: cli" in result.stdout


# ---- check and config ----


def test_check_says_what_a_good_config_does(tmp_path: Path) -> None:
    path = write(tmp_path, f'[[listen]]\nname = "door"\naddress = "udp://127.0.0.1:8089"\n{NULL}')
    result = penstock("check", "-c", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{path}: OK",
        "  listen  udp://127.0.0.1:8089 (door), line",
        "  output  void, null",
    ]


@pytest.mark.parametrize("command", ["check", "config", "run"])
def test_every_problem_of_a_bad_config_is_printed_with_its_place(tmp_path: Path, command: str) -> None:
    path = write(tmp_path, '[flush]\nintervall = "1s"\n[[output]]\nname = "x"\ntype = "influxdb"\n')
    result = penstock(command, "-c", path)
    assert (result.exit_code, result.stdout) == (78, "")
    assert all(line.startswith("penstock: ") for line in result.stderr.splitlines())
    assert "flush.intervall: unknown key 'intervall'; did you mean 'interval'?" in result.stderr
    assert "output[0].url: is missing" in result.stderr


AWKWARD = r"""
[agent]
tags = { "a b" = "quote \" back\\slash dollar $${HOME} é", empty = "e" }

[[listen]]
address = "unixgram:///tmp/penstock.sock"
mode = "0600"
max_line = "3KiB"

[[listen]]
address = "udp://[::1]:8089"
name = "six"
gro = false

[flush]
interval = "1500ms"

[[output]]
name = "influx"
type = "influxdb"
url = "http://127.0.0.1:8086"
org = "o"
bucket = "b"
token = "hunter2"
"""


@pytest.mark.parametrize("defaults", [[], ["--defaults"]])
def test_config_prints_what_can_be_read_again(tmp_path: Path, defaults: list[str]) -> None:
    path = write(tmp_path, AWKWARD)
    result = penstock("config", "-c", path, *defaults)
    assert result.exit_code == 0
    assert "hunter2" not in result.output and 'token = "***"' in result.stdout
    again = tmp_path / "again.toml"
    again.write_text(result.stdout.replace("***", "hunter2"))
    assert load(again) == load(path)


def test_config_leaves_out_defaults_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path, AWKWARD)
    assert "log" not in tomllib.loads(penstock("config", "-c", path).stdout)
    short = tomllib.loads(to_toml(load(path), defaults=False))
    assert short["listen"][1] == {"address": "udp://[::1]:8089", "name": "six", "gro": False}
    assert short["flush"] == {"interval": "1500ms"}
    full = tomllib.loads(penstock("config", "-c", path, "--defaults").stdout)
    assert full["log"] == {"level": "info", "format": "auto", "trace": 0.001}
    assert full["flush"] == {"batch_lines": 5000, "batch_bytes": "1MiB", "interval": "1500ms"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_toml(text: str) -> None:
    from agent.config_toml import _quoted

    assert tomllib.loads(f"key = {_quoted(text)}") == {"key": text}


# ---- status and reload ----


def test_status_of_an_agent_that_does_not_run(tmp_path: Path) -> None:
    path = write(tmp_path, f'[agent]\nruntime_dir = "{tmp_path}"\n')
    result = penstock("status", "-c", path)
    assert result.exit_code == 1
    assert result.stderr == f"penstock: no agent is running here: there is no {tmp_path}/control.sock\n"
    result = penstock("status", "--url", f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}")
    assert result.exit_code == 1 and "nobody listens" in result.stderr
    assert penstock("reload", "-c", path).exit_code == 1


def test_status_shows_one_screen(agent: AgentProcess) -> None:
    port = int(agent.status()["listeners"][0]["address"].rpartition(":")[2])
    send_udp(port, b"m v=1\nm v=2\nbroken")
    agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 2)
    result = penstock("status", "-c", agent.config_path)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) < 24
    assert re.search(rf"Penstock {re.escape(__version__)}, running for .*, pid {agent.pid}", result.stdout)
    assert re.search(r"^door +1 +3 +2 +1 +0 +field 1$", result.stdout, re.MULTILINE)
    assert re.search(r"^void +ok +0 +2 +2 +0 +0 +0 +0 +0 *$", result.stdout, re.MULTILINE)
    assert "Ledger: balances" in result.stdout


def test_status_as_json_is_the_document(agent: AgentProcess) -> None:
    for where in ("-c", str(agent.config_path)), ("--socket", str(agent.runtime_dir / "control.sock")):
        result = penstock("status", "--json", *where)
        assert result.exit_code == 0
        found = json.loads(result.stdout)
        assert found["pid"] == agent.pid and set(found) == set(agent.status())


def test_status_finds_the_agent_while_the_config_is_broken(agent: AgentProcess) -> None:
    with agent.config_path.open("a") as file:
        file.write("[nonsense]\n")
    assert penstock("status", "-c", agent.config_path).exit_code == 0


def ask_a_service(service: Service, folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command beside a server with a state of the test's making: (exit code, what it printed)."""

    async def main() -> tuple[int, str]:
        admin = await start(str(folder / "control.sock"), service)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent", *arguments, "--socket", admin.address),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            out, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode()
        finally:
            await admin.aclose()

    return asyncio.run(main())


def test_status_exits_with_1_where_the_ledger_does_not_balance(tmp_path: Path) -> None:
    service = Service()
    service.counters.delivered = 1
    code, text = ask_a_service(service, tmp_path, "status")
    assert code == 1
    assert "Ledger: does not balance" in text
    assert (
        "output influx: 0 restored + 0 written, but 1 delivered + 0 rejected + 0 merged + 0 spooled" in text
    )
    code, text = ask_a_service(service, tmp_path, "status", "--json")
    assert code == 1 and json.loads(text)["ledger"]["balance"] == "broken"


def test_status_shows_names_as_they_are(tmp_path: Path) -> None:
    # A name in brackets is no markup, and one that looks like a link is none.
    service = Service()
    service.reasons = ["[bold]lane[/bold] 0 ended"]
    code, text = ask_a_service(service, tmp_path, "status")
    assert code == 0 and "not ready: [bold]lane[/bold] 0 ended" in text


def test_reload_prints_the_changes(agent: AgentProcess) -> None:
    with agent.config_path.open("a") as file:
        file.write('[flush]\ninterval = "75ms"\n')
    result = penstock("reload", "--wait", "-c", agent.config_path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "reloaded"
    assert "flush.interval" in result.stdout and "75ms" in result.stdout


def test_reload_without_waiting_only_asks(agent: AgentProcess) -> None:
    assert penstock("reload", "--no-wait", "-c", agent.config_path).exit_code == 0
    agent.wait_for(lambda status: status["reload"]["applied"] == 1)


@pytest.mark.parametrize(
    ("addition", "reason"),
    [('[flush]\nintervall = "1s"\n', "flush.intervall: unknown key"), ("[flush\n", "is not TOML")],
)
def test_a_refused_reload_prints_the_reasons_and_exits_with_1(
    agent: AgentProcess, addition: str, reason: str
) -> None:
    with agent.config_path.open("a") as file:
        file.write(addition)
    result = penstock("reload", "--socket", agent.runtime_dir / "control.sock")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "reload refused" in result.stderr and reason in result.stderr
    shown = penstock("status", "--socket", agent.runtime_dir / "control.sock")
    assert shown.exit_code == 0 and "reload refused" in shown.stdout and reason in shown.stdout


# ---- run ----


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("udp://127.0.0.1:8089", "nc -u -w0 127.0.0.1 8089"),
        ("udp://0.0.0.0:8089", "nc -u -w0 127.0.0.1 8089"),
        ("udp://[::]:8089", "nc -u -w0 ::1 8089"),
        ("unixgram:///run/p.sock", "nc -u -w0 -U /run/p.sock"),
        ("tcp://[::]:8094", "nc -N ::1 8094"),
        ("unix:///run/p.sock", "nc -N -U /run/p.sock"),
    ],
)
def test_the_line_to_try_reaches_the_listener(address: str, line: str) -> None:
    from agent.cli import _line_to_try

    assert _line_to_try(address, "line") == f"echo 'demo,host=me value=1' | {line}"
    assert _line_to_try(address, "statsd") == f"echo 'demo:1|c|#host:me' | {line}"


def test_on_a_terminal_run_says_where_to_send_and_where_to_look(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
[agent]
runtime_dir = "{tmp_path}/run"
admin = "127.0.0.1:{free_port(socket.SOCK_STREAM)}"
[[listen]]
address = "unixgram://{tmp_path}/in.sock"
[[output]]
name = "files"
type = "file"
path = "{tmp_path}/out"
""",
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "-c", str(path)], cwd=ROOT, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = ""
        while "ready" not in shown:
            shown += os.read(ours, 4096).decode()
        process.terminate()
        assert process.wait(20) == 0
    os.close(ours)
    assert f"Send to:  unixgram://{tmp_path}/in.sock" in shown
    assert f"Look at:  {tmp_path}/out/, http://127.0.0.1:" in shown
    assert f"Try:      echo 'demo,host=me value=1' | nc -u -w0 -U {tmp_path}/in.sock" in shown


def test_without_a_terminal_run_logs_only(agent: AgentProcess) -> None:
    assert agent.log("ready")
    assert "Send to:" not in agent.log_text()


# ---- imports ----


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "agent.cli",
            {
                "aiohttp",
                "rich",
                "prometheus_client",
                "influxdb_client",
                "nats",
                "confluent_kafka",
                "asyncio",
                "agent._core",
            },
        ),
        (
            "agent.service",
            {"aiohttp", "rich", "prometheus_client", "influxdb_client", "nats", "confluent_kafka", "psutil"},
        ),
    ],
)
def test_nothing_is_imported_before_it_is_needed(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({sorted(unwanted)!r})))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == ""
