"""The commands for people in a real terminal: ``penstock top`` and its neighbours, seen by way of tmux.

What was seen is kept in build/screens.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import ROOT, AgentProcess, send_unixgram
from tests.integration.servers import free_tcp_port
from tests.integration.tmux import PROMPT, Terminal, terminal

pytestmark = pytest.mark.needs("tmux")

CONFIG = """
[flush]
interval = "10ms"
[[listen]]
name = "first"
address = "unixgram://{folder}/first"
[[listen]]
name = "second"
address = "unixgram://{folder}/second"
[[output]]
name = "void"
type = "null"
"""
TAPPED = ("0", "1", "1")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path, CONFIG) as process:
        yield process


def penstock(agent: AgentProcess, *arguments: str) -> str:
    words = [sys.executable, "-m", "agent", *arguments, "--socket", str(agent.runtime_dir / "control.sock")]
    return " ".join(words)


def keep(term: Terminal, name: str) -> None:
    """Keep what can be seen, for people to look at."""
    folder = ROOT / "build" / "screens"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(term.text)


def pid_of(agent: AgentProcess, *arguments: str) -> int:
    """The process that was started by typing its command."""
    wanted = penstock(agent, *arguments).split(" ")

    def found() -> list[int]:
        pids = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
            except (OSError, UnicodeDecodeError):
                continue
            if words == wanted:
                pids.append(int(folder.name))
        return pids

    wait_until(found)
    return found()[0]


@contextmanager
def untouched(term: Terminal) -> Iterator[None]:
    """The terminal is as it was: what it does with keys, its screen, its cursor."""
    before = term.tty
    yield
    term.wait_for(_at_prompt)
    assert (term.tty, term.modes) == (before, TAPPED)


def _at_prompt(rows: list[str]) -> bool:
    return [row for row in rows if row][-1:] == [PROMPT]


def answer(term: Terminal) -> str:
    """The exit code of the last command."""
    term.wait_for(_at_prompt)
    term.run("echo code=$?.")
    rows = term.wait_for(lambda rows: any(row.startswith("code=") for row in rows))
    return next(row for row in reversed(rows) if row.startswith("code="))


def test_top_fits_every_size_while_it_runs(tmp_path: Path, agent: AgentProcess) -> None:
    with terminal(tmp_path) as term, untouched(term):
        term.run(penstock(agent, "top"))
        send_unixgram(tmp_path / "first", b"m v=1\nm v=\n")
        rows = term.wait_for("malformed")
        assert rows[0].startswith("penstock ") and rows[0].endswith("q s r p ?")
        assert term.modes == ("1", "0", "0")
        keep(term, "top-80x24")
        assert [row.split()[0] for row in rows if row.startswith(("LISTENER", "OUTPUT"))] == [
            "LISTENER",
            "OUTPUT",
        ]
        for columns, lines in ((40, 10), (200, 50), (39, 24), (80, 9)):
            term.resize(columns, lines)
            totals = columns < 40 or lines < 10
            rows = term.wait_for(
                lambda rows, totals=totals: (
                    ("LISTENER" not in "\n".join(rows)) == totals  # type: ignore[misc]
                    and any(row.startswith("in ") for row in rows)
                )
            )
            keep(term, f"top-{columns}x{lines}")
            assert len(rows) <= lines and max(map(len, rows)) <= columns
            assert not any("\\x" in row or "^[" in row for row in rows)
        term.keys("q")
        assert term.wait_for(lambda rows: rows[-1] or PROMPT in "\n".join(rows))


def test_top_obeys_its_keys(tmp_path: Path, agent: AgentProcess) -> None:
    with terminal(tmp_path) as term, untouched(term):
        term.run(penstock(agent, "top"))
        term.wait_for("OUTPUT")
        term.keys("2")
        term.wait_for(
            lambda rows: any(r.startswith("OUTPUT") for r in rows) and "LISTENER" not in "\n".join(rows)
        )
        term.keys("1", "s")
        term.wait_for("LISTENER↑")
        term.keys("r")
        rows = term.wait_for("LISTENER↓")
        assert [row.split()[0] for row in rows if row.startswith(("first", "second"))] == ["second", "first"]
        term.keys("?")
        rows = term.wait_for("Keys")
        keep(term, "top-help")
        term.keys("?", "p")
        term.wait_for("paused")
        before = term.wait_for("LISTENER↓")
        send_unixgram(tmp_path / "first", b"m v=\n" * 20)
        seen = agent.status()["uptime"]
        agent.wait_for(lambda status: status["uptime"] > seen + 2)
        assert term.rows == before
        term.keys("p")
        term.wait_for(lambda rows: "paused" not in rows[0])
        term.keys("Down", "Escape", "x", "q")


@pytest.mark.parametrize("end", ["q", "C-c", "TERM", "HUP", "C-z"])
def test_the_terminal_is_as_it_was_whatever_ends_it(tmp_path: Path, agent: AgentProcess, end: str) -> None:
    with terminal(tmp_path) as term:
        with untouched(term):
            term.run(penstock(agent, "top"))
            term.wait_for("OUTPUT")
            assert term.modes != TAPPED
            if end in ("TERM", "HUP"):
                os.kill(pid_of(agent, "top"), getattr(signal, f"SIG{end}"))
            else:
                term.keys(end)
        if end == "C-z":
            with untouched(term):
                term.run("fg")
                term.wait_for("OUTPUT")
                assert term.modes != TAPPED
                term.keys("q")
        assert answer(term) == {"TERM": "code=143.", "HUP": "code=129."}.get(end, "code=0.")


def test_ctrl_s_does_not_keep_it_from_ending(tmp_path: Path, agent: AgentProcess) -> None:
    with terminal(tmp_path) as term, untouched(term):
        term.run(penstock(agent, "top"))
        term.wait_for("OUTPUT")
        term.keys("C-s")
        send_unixgram(tmp_path / "first", b"m v=\n")
        term.wait_for("malformed")
        os.kill(pid_of(agent, "top"), signal.SIGTERM)


def test_top_waits_for_an_agent_that_went_away(tmp_path: Path, agent: AgentProcess) -> None:
    with terminal(tmp_path) as term, untouched(term):
        term.run(penstock(agent, "top"))
        term.wait_for("OUTPUT")
        assert agent.stop() == 0
        term.wait_for("these numbers are of")
        keep(term, "top-gone")
        agent.spawn()
        agent.wait_notified("READY", count=2)
        send_unixgram(tmp_path / "first", b"m v=\n")
        rows = term.wait_for("malformed")
        assert "these numbers" not in "\n".join(rows)
        term.keys("q")


@pytest.mark.parametrize("command", ["top", "top --once", "status"])
def test_without_an_agent_there_is_one_line(tmp_path: Path, command: str) -> None:
    with terminal(tmp_path) as term, untouched(term):
        term.run(f"{sys.executable} -m agent {command} --socket {tmp_path}/none")
        term.wait_for("penstock: no agent is running here")
        assert answer(term) == "code=1."
        assert len([row for row in term.rows if "penstock:" in row]) == 1


@pytest.mark.parametrize(("name", "env"), [("no-color", {"NO_COLOR": "1"}), ("colour", {})])
def test_no_color_is_obeyed(tmp_path: Path, agent: AgentProcess, name: str, env: dict[str, str]) -> None:
    with terminal(tmp_path, env=env) as term, untouched(term):
        term.run(penstock(agent, "top"))
        term.wait_for("OUTPUT")
        assert ("\x1b[32m" in term.painted) == (not env)
        term.keys("q")


@pytest.mark.parametrize("term_type", ["TERM=dumb", "-u TERM"])
def test_a_dumb_terminal_gets_one_frame_below_the_other(
    tmp_path: Path, agent: AgentProcess, term_type: str
) -> None:
    with terminal(tmp_path, lines=60) as term, untouched(term):
        term.run(f"env {term_type} {penstock(agent, 'top')}")
        rows = term.wait_for(lambda rows: sum(row.startswith("OUTPUT") for row in rows) >= 2)
        assert term.modes == TAPPED and "\x1b[3" not in term.painted
        assert PROMPT in rows[0]
        term.keys("q")


def test_without_a_terminal_there_is_one_frame(tmp_path: Path, agent: AgentProcess) -> None:
    command = penstock(agent, "top").split(" ")
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("OUTPUT") == 1 and "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["top", "status"])
def test_a_broken_pipe_is_silent(tmp_path: Path, agent: AgentProcess, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(
            penstock(agent, command).split(" "), cwd=ROOT, stdout=out, stderr=subprocess.PIPE, timeout=60
        )
    assert done.stderr == b""


@pytest.mark.parametrize(("columns", "lines"), [(40, 30), (80, 24), (200, 50)])
def test_the_status_screen_fits(tmp_path: Path, agent: AgentProcess, columns: int, lines: int) -> None:
    send_unixgram(tmp_path / "first", b"m v=1\nm v=\n")
    agent.wait_for(lambda status: any(status["delay"].values()))
    with terminal(tmp_path, columns, lines) as term, untouched(term):
        term.run(f"clear; {penstock(agent, 'status')}")
        term.wait_for("Ledger: balances")
        keep(term, f"status-{columns}x{lines}")


def test_top_asks_over_http_too(tmp_path: Path) -> None:
    port = free_tcp_port()
    with AgentProcess(tmp_path, f'[agent]\nadmin = "127.0.0.1:{port}"\n{CONFIG}'):
        command = [sys.executable, "-m", "agent", "top", "--url", f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert "LISTENER" in done.stdout


def test_bench_draws_a_bar_and_ends_at_ctrl_c_with_its_report(tmp_path: Path, agent: AgentProcess) -> None:
    with terminal(tmp_path) as term, untouched(term):
        where = f"-c {agent.config_path}"
        term.run(f"{sys.executable} -m agent bench {where} --seconds 60s --rate 1k")
        term.wait_for("/60")
        term.keys("C-c")
        term.wait_for("Lost")
        keep(term, "bench-80x24")
        assert answer(term) == "code=0."
        term.run(f"{sys.executable} -m agent send {where}")
        term.keys("typed v=1", "Enter", "C-d")
        term.wait_for("1 sent to unixgram://")
