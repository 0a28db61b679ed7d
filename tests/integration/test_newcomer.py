"""README.md as a newcomer follows it: its commands, as they stand there, in a clean clone.

The clone is of the last commit, and is built by its own ``make``, with pip and npm from the network. The demo
has fixed ports, so an agent that somebody has started from another clone is in the way, and said to be.
"""

import asyncio
import base64
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from packages.build_page import NAME, is_built
from tests.conftest import missing, need, wait_until
from tests.integration.chromium import Tab, chromium

pytestmark = [pytest.mark.slow, pytest.mark.needs("git", "make", "nc"), pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "build" / "screens"
BUILD_SECONDS_MAX = 600.0
TRY_IT = (ROOT / "README.md").read_text().split("\n## Try it\n", 1)[1].split("\n## ", 1)[0]
RUN, SEND, LOOK, STATUS, BENCH, TEST = re.findall(r"^    (\S.*)$", TRY_IT, re.MULTILINE)
PAGE = re.findall(r"http://\S+?/(?=[*\s])", TRY_IT)[0]
OFFLINE = re.compile(
    r"No matching distribution|Could not find a version|Temporary failure|NewConnectionError"
)

# What a make above this one, an environment of Python or a test run has left is not a newcomer's.
OWN = re.compile(
    r"MAKE|MFLAGS|PENSTOCK_|PYTEST|PYTHON|VIRTUAL_ENV|TEST_ARGS|BENCH_ARGS|FUZZ_SECONDS|NOTIFY_SOCKET"
)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not OWN.match(name)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone of the last commit, in which nothing was built."""
    if not (ROOT / ".git").exists():
        missing("no corpus of tracked files: this is no clone")
    place = tmp_path_factory.mktemp("newcomer")
    # Whoever owns the repository, it is the one that is tested.
    settings = place / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n")
    command = [need("git"), "clone", "--quiet", ROOT, place / "penstock"]
    subprocess.run(command, check=True, env=environment() | {"GIT_CONFIG_GLOBAL": str(settings)})
    return place / "penstock"


@dataclass
class Demo:
    """The agent that ``make run`` has started."""

    folder: Path
    process: subprocess.Popen[bytes]
    said: Callable[[], str]

    def do(self, command: str) -> str:
        """What somebody sees who types *command* in another terminal."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> int:
        """Ctrl-C: the signal goes to make and to the agent."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)


def refuse_taken_ports() -> None:
    """Fails, or skips, where somebody else has the demo's ports."""
    port = int(PAGE.rstrip("/").rpartition(":")[2])
    for kind, number in ((socket.SOCK_STREAM, port), (socket.SOCK_DGRAM, int(SEND.split()[-1]))):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            try:
                sock.bind(("127.0.0.1", number))
            except OSError as error:
                missing(f"needs port {number} of the demo, which cannot be had: {error.strerror}")


def get(url: str) -> str | None:
    """The body of the answer; None while there is none."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return None


@contextmanager
def running(clone: Path) -> Iterator[Demo]:
    """``make run``, from its start until its page answers; afterwards it is gone."""
    refuse_taken_ports()
    path = clone.parent / "said"
    with path.open("wb") as said:
        process = subprocess.Popen(
            RUN, shell=True, cwd=clone, env=environment(), stdout=said, stderr=said, start_new_session=True
        )
    try:
        # The page alone could be that of another agent, which has come meanwhile.
        wait_until(
            lambda: process.poll() is not None or ("Try:  " in path.read_text() and get(PAGE)),
            BUILD_SECONDS_MAX,
            f"{RUN} serves {PAGE}",
        )
        if process.poll() is not None:
            if OFFLINE.search(path.read_text()):
                missing("needs what pip brings from the network, which cannot be had")
            pytest.fail(f"{RUN} ended:\n{path.read_text()[-4000:]}")
        yield Demo(clone, process, path.read_text)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_first_commands_do_what_the_readme_says(clone: Path) -> None:
    with running(clone) as demo:
        for hint in (
            "Send to:  udp://127.0.0.1:8089",
            f"Look at:  ./penstock-data/out/, {PAGE}",
            f"Try:      {SEND}",
        ):
            assert hint in demo.said()
        assert "<title>Penstock</title>" in (get(PAGE) or "")
        demo.do(SEND)
        wait_until(
            lambda: list((clone / "penstock-data" / "out").glob("*")), what="there is a file of output"
        )
        wait_until(lambda: demo.do(LOOK), what="the line is in it")
        assert re.fullmatch(r"demo,host=me value=1 \d{19}\n", demo.do(LOOK))
        wait_until(
            lambda: re.search(r'"delivered": ?1\b', get(f"{PAGE}api/status") or ""), what="and counted"
        )
        assert f'"{clone}/configs/demo.toml"' in (get(f"{PAGE}api/status") or "")
        status = demo.do(STATUS)
        assert re.search(r"udp://127\.0\.0\.1:8089 +1 +1 +1 +0 ", status)
        assert "Ledger: balances" in status
        assert demo.stop() == -signal.SIGINT
        assert re.search(r'"stopped","balanced":true', demo.said())


@pytest.mark.needs("chromium")
def test_the_page_shows_the_load_that_the_readme_makes(clone: Path) -> None:
    """docs/page.png is the picture that this takes."""

    async def body(demo: Demo) -> None:
        async with chromium(clone.parent) as tab:
            await tab.resize(1280, 1200)
            await tab.open(PAGE)
            bench = asyncio.create_task(asyncio.to_thread(demo.do, BENCH))
            await tab.until(
                "window.penstock?.shown.rates?.listeners['udp://127.0.0.1:8089']?.received > 50000", 60
            )
            await tab.until("penstock.shown.outputs[0].ledger.delivered > 600000", 60)
            assert await tab.evaluate("document.querySelectorAll('#plots .u-over').length") == 4
            await take_picture(tab)
            report = await bench
            assert re.search(r"^Sent +1,000,0\d\d metrics", report)
            assert tab.told == []

    with running(clone) as demo:
        if not is_built(clone / "agent" / "admin" / "page"):
            missing(f"needs {NAME}, which npm cannot bring: {demo.said()[:500]}")
        asyncio.run(body(demo))


async def take_picture(tab: Tab) -> None:
    """The page down to its plots, as docs/page.png has it."""
    height: float = await tab.evaluate("document.getElementById('plots').getBoundingClientRect().bottom + 16")
    clip: dict[str, Any] = {"x": 0, "y": 0, "width": 1280, "height": height, "scale": 1}
    answer = await tab.send("Page.captureScreenshot", format="png", clip=clip)
    SCREENS.mkdir(parents=True, exist_ok=True)
    (SCREENS / "newcomer.png").write_bytes(base64.b64decode(answer["data"]))


def test_the_second_command_tests_it(clone: Path) -> None:
    """The C tests, and of the others one file, in the environment that make completes for them."""
    command = [*TEST.split(), "TEST_ARGS=-q tests/unit/test_units.py"]
    done = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True, timeout=800)
    if done.returncode and OFFLINE.search(done.stdout + done.stderr):
        missing("needs what pip brings from the network, which cannot be had")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert re.search(r"\d+ passed", done.stdout)
