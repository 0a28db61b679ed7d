"""``penstock fleet --watch`` in a real terminal: live, of any size, and it leaves all as it was."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.admin.server import start
from agent.relay.sources import Sources
from tests.integration.test_terminal import answer, keep, untouched
from tests.integration.tmux import terminal
from tests.unit.test_admin import Service
from tests.unit.test_sources import message

pytestmark = pytest.mark.needs("tmux")

AGENTS = 40


@contextmanager
def relay(folder: Path) -> Iterator[Service]:
    """One that sees forty agents, answering at its control socket until it is ended."""
    service = Service()
    service.relayed = Sources(time.time_ns() - 100 * 10**9)
    for number in range(AGENTS):
        service.relayed.seen(message(0, agent=f"edge-{number:02}"), time.time_ns())
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        admin = await start(str(folder / "control.sock"), service)
        up.set()
        await asyncio.to_thread(over.wait)
        await admin.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert up.wait(20)
        yield service
    finally:
        over.set()
        thread.join()


def command(folder: Path) -> str:
    return f"{sys.executable} -m agent fleet --watch --socket {folder}/control.sock"


def test_it_is_live_and_fits_every_size(tmp_path: Path) -> None:
    with relay(tmp_path) as service, terminal(tmp_path) as term, untouched(term):
        term.run(command(tmp_path))
        rows = term.wait_for("AGENT")
        assert rows[0].startswith("40 agents · ") and term.modes == ("1", "0", "0")
        keep(term, "fleet-80x24")
        assert service.relayed is not None
        service.relayed.seen(message(0, agent="edge-00-new"), time.time_ns())
        term.wait_for("edge-00-new")
        for columns, lines, last, left_out in (
            (40, 10, "p50", "p99"),
            (200, 50, "relays", "more lines"),
            (20, 5, "as seen by this", "AGENT"),
            (80, 24, "late", "relays"),
        ):
            term.resize(columns, lines)
            # Columns go from the right, then the table; with room for all, no row is left out.
            rows = term.wait_for(
                lambda rows, last=last, left_out=left_out: (
                    last in (text := "\n".join(rows)) and left_out not in text and "41 agents" in text
                )
            )
            assert len(rows) <= lines and max(map(len, rows)) <= columns
            keep(term, f"fleet-{columns}x{lines}")
        term.keys("End")
        term.wait_for("edge-39")
        term.keys("Home")
        term.wait_for(lambda rows: "edge-39" not in "\n".join(rows) and "edge-00 " in "\n".join(rows))
        term.keys("q")
        assert answer(term) == "code=0."


@pytest.mark.parametrize("end", ["C-c", "q"])
def test_an_end_leaves_the_terminal_as_it_was(tmp_path: Path, end: str) -> None:
    with relay(tmp_path), terminal(tmp_path) as term, untouched(term):
        term.run(command(tmp_path))
        term.wait_for("AGENT")
        term.keys(end)


def test_a_relay_that_goes_away_leaves_old_numbers_that_are_called_so(tmp_path: Path) -> None:
    with terminal(tmp_path) as term, untouched(term):
        with relay(tmp_path):
            term.run(command(tmp_path))
            term.wait_for("AGENT")
        term.wait_for("these numbers are old")
        assert "edge-00" in term.text
        with relay(tmp_path):
            term.wait_for(lambda rows: rows[0].startswith("40 agents"))
        term.keys("q")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {}])
def test_no_color_is_obeyed(tmp_path: Path, env: dict[str, str]) -> None:
    with relay(tmp_path) as service, terminal(tmp_path, env=env) as term, untouched(term):
        assert service.relayed is not None
        service.relayed.seen(message(0, agent="gone"), time.time_ns() - 10**11)
        term.run(command(tmp_path))
        term.wait_for("silent for")
        assert ("\x1b[31m" in term.painted or "\x1b[1m\x1b[31m" in term.painted) == (not env)
        term.keys("q")
        assert answer(term) == "code=1."


def test_a_dumb_terminal_gets_one_frame_below_the_other(tmp_path: Path) -> None:
    with relay(tmp_path), terminal(tmp_path, lines=200) as term, untouched(term):
        term.run(f"env TERM=dumb {command(tmp_path)}")
        term.wait_for(lambda rows: sum(row.startswith("AGENT") for row in rows) >= 2)
        term.keys("q")
