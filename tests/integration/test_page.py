"""The page in a real Chromium: its numbers are the ledger's, whatever happens, and everybody can read it."""

import asyncio
import io
import itertools
import shutil
import subprocess
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.accounts import GuardAccount, OffenderAccount
from agent.admin import files
from agent.admin.files import read_page
from agent.admin.status import ReloadOutcome, ReloadStatus
from agent.admin.stream import STREAMS_MAX
from agent.relay.sources import Sources
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters
from packages.build_page import is_built
from tests.conftest import missing, need
from tests.integration.agent_process import (
    ROOT,
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    send_unixgram,
)
from tests.integration.chromium import Tab, chromium
from tests.integration.fault_proxy import FaultProxy
from tests.integration.outage import Traffic
from tests.integration.servers import influxd
from tests.reference import figures
from tests.unit.test_admin import Running, run
from tests.unit.test_sources import message

pytestmark = pytest.mark.needs("chromium")

PAGE = Path(files.__file__).parent / "page"
SCREENS = ROOT / "build" / "screens"
RATE = 20_000
BYTES_MAX = 150_000
AXE = "axe-core@4.14.0"

CONFIG = """
[agent]
admin = "127.0.0.1:0"

[[listen]]
name = "door"
address = "unixgram://{folder}/door.sock"

[[listen]]
name = "udp://[::1]:0 / 50 %% + *"
address = "udp://127.0.0.1:0"

[cardinality]

[flush]
interval = "200ms"

[[output]]
name = "influx"
type = "influxdb"
version = 1
database = "%(database)s"
url = "%(url)s"
ring_bytes = "4MiB"
retry_max = "1s"

[output.spool]
min_free_space = "0B"
"""

HOSTILE = (
    # A measurement that is HTML, values of a tag that turn text around, and a line that is none.
    *(b"<img\\ src=x\\ onerror=alert(1)>,who=\xe2\x80\xaeevil%d v=1" % number for number in range(50)),
    b"<script>alert(1)</script>",
)

WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""

SHOWN = """({
  root: penstock.shown,
  figures: [...document.querySelectorAll("[data-at]")].map((one) => ({
    at: one.dataset.at, as: one.dataset.as, text: one.textContent, seen: one.checkVisibility(),
  })),
})"""

SEEN = "filter((one) => one.checkVisibility())"
LOSSES = f"[...document.querySelectorAll('.loss')].{SEEN}.map((one) => one.textContent)"
CONTROLS = (
    f"[...document.querySelectorAll('a, button, [tabindex=\"0\"]')].{SEEN}"
    ".map((one) => one.getAttribute('aria-label') ?? one.textContent.trim())"
)
AXE_RUN = """axe.run().then(({ violations }) =>
  violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"""

RISING = (
    "listeners/*/received",
    "listeners/*/accepted",
    "listeners/door/received",
    "outputs/influx/ledger/written",
    "outputs/influx/ledger/delivered",
    "outputs/influx/ledger/batches",
)


async def shown(tab: Tab) -> tuple[dict[str, Any], dict[str, str]]:
    """The document that the page shows, and its counters by place; each text is held to the document."""
    document = await tab.evaluate(SHOWN)
    root, counters = document["root"], {}
    assert len(document["figures"]) > 100
    for one in document["figures"]:
        if one["as"] == "gain":
            continue
        assert one["text"] == figures.text(root, one["at"], one["as"]), one
        if one["as"] in ("count", "loss"):
            counters[one["at"]] = one["text"]
    assert {*RISING} <= {*counters}
    return root, counters


async def next_seconds(tab: Tab, seconds: int) -> None:
    """Let so many documents come that begin from now on."""
    number = await tab.evaluate("penstock.shown.id")
    await tab.until(f"penstock.shown.id >= {number + seconds}")


async def ask(agent: AgentProcess) -> Status:
    return await asyncio.to_thread(agent.status)


def drive(folder: Path, body: Callable[[Tab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with chromium(folder) as tab:
            await tab.before_load(WATCH)
            await tab.resize(1280, 900)
            await body(tab)

    asyncio.run(main())


def axe(folder: Path) -> str:
    """The checker of accessibility, which npm brings for this test only."""
    command = [need("npm"), "pack", AXE, "--silent", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    packages = list(folder.glob("axe-core-*.tgz"))
    if done.returncode or not packages:
        missing(f"needs {AXE}, which npm cannot bring: {done.stderr.strip()[-300:]}")
    with tarfile.open(fileobj=io.BytesIO(packages[0].read_bytes())) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def assert_nothing_amiss(tab: Tab, origin: str) -> None:
    """No complaint of the browser; nothing but our own files, few and small."""
    assert tab.told == []
    asked = list(tab.requests.values())
    assert [one.url for one in asked if not one.url.startswith(f"{origin}/")] == []
    loaded = [one for one in asked if not one.url.startswith(f"{origin}/api/")]
    assert {one.status for one in asked} == {200}
    names = {one.url.rpartition("/")[2] or "index.html" for one in loaded}
    assert len(names) <= 12
    assert sum((PAGE / name).stat().st_size for name in names) < BYTES_MAX
    assert sum(one.bytes for one in loaded) < BYTES_MAX


@pytest.mark.timeout(300)
def test_the_numbers_are_the_ledger_under_load_in_an_outage_and_after_it(tmp_path: Path) -> None:
    with influxd(tmp_path) as server, FaultProxy(server.host, server.port) as proxy:
        config = CONFIG % {"database": server.create_database(), "url": proxy.url}
        with AgentProcess(tmp_path, config) as agent, Traffic(tmp_path / "door.sock", RATE) as traffic:
            origin = f"http://{agent.log('ready')[0]['admin']}"

            async def body(tab: Tab) -> None:
                await tab.open(f"{origin}/")
                await tab.until("window.penstock?.shown.rates")
                send_unixgram(tmp_path / "door.sock", *HOSTILE)
                for _ in range(3):
                    before = await ask(agent)
                    await next_seconds(tab, 2)
                    root, counters = await shown(tab)
                    after = await ask(agent)
                    for place in RISING:
                        number = int(counters[place].replace(",", ""))
                        assert figures.read(before, place) <= number <= figures.read(after, place), place
                assert root["rates"]["listeners"]["door"]["received"] > 0
                # Names from outside are text, and turn nothing around.
                assert await tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
                tables = await tab.evaluate("document.getElementById('tables').textContent")
                assert "<script>alert(1)</script>" in tables and "<img src=x onerror=alert(1)>" in tables
                assert "\\u202eevil" in tables and "\u202e" not in tables
                assert [text for text in await tab.evaluate(LOSSES) if text.startswith("1 ")] != []
                assert await tab.evaluate("document.querySelectorAll('#plots .u-over').length") == (
                    4 if is_built(PAGE) else 0
                )
                await tab.screenshot(SCREENS / "load.png")

                proxy.refuse()
                proxy.drop_connections()
                retrying = "document.querySelector('.delivery').dataset.state === 'retrying'"
                await tab.until(f"{retrying} && document.querySelector('.basin').checkVisibility()", 40)
                await tab.until("Math.max(...Object.values(penstock.shown.slo[0].burn)) > 1", 40)
                root, counters = await shown(tab)
                assert counters["outputs/influx/ledger/spooled"] != "0"
                verdict = "document.getElementById('verdict-box').textContent"
                assert "influx is retrying since" in await tab.evaluate(verdict)
                assert "influx is retrying" in await tab.evaluate(
                    "document.getElementById('announce').textContent"
                )
                assert await tab.evaluate(
                    "document.querySelector('.delivery').textContent.includes('breaker open')"
                ) or (root["outputs"][0]["breaker"] != "open")
                await tab.screenshot(SCREENS / "outage.png")

                proxy.listen()
                await asyncio.to_thread(traffic.finish)
                rest = await asyncio.to_thread(agent.wait_for, at_rest, 60)
                assert_balanced(rest)
                delivered = figures.read(rest, "outputs/influx/ledger/delivered")
                await tab.until(f"penstock.shown.outputs[0].ledger.delivered === {delivered}")
                await next_seconds(tab, 1)
                _, counters = await shown(tab)
                status = await ask(agent)
                for place, text in counters.items():
                    if not place.startswith(("threads", "rates")):
                        assert text == figures.text(status | {"time": 0}, place, "count"), place
                assert counters["listeners/*/received"] == f"{traffic.sent + len(HOSTILE):,}"
                await tab.screenshot(SCREENS / "after.png")
                assert await tab.evaluate("violations") == []
                assert_nothing_amiss(tab, origin)

                # The agent goes: the page says so, and from when its numbers are.
                assert await asyncio.to_thread(agent.stop) == 0
                await tab.until(
                    "document.getElementById('verdict').textContent.startsWith('No connection since')"
                )
                assert await tab.evaluate("document.body.classList.contains('stale')")

            drive(tmp_path, body)


def on_a_page(folder: Path, body: Callable[[Tab, Running, str], Awaitable[None]]) -> None:
    """Run *body* with the page of a service that stands still, but for one second that came."""

    async def main(running: Running) -> None:
        async with chromium(folder) as tab:
            await tab.before_load(WATCH)
            await tab.resize(1280, 900)
            running.service.sampler.tick(1000.0)
            origin = f"http://{running.tcp.address}"
            await tab.open(f"{origin}/")
            await tab.until("window.penstock")
            await body(tab, running, origin)

    run(folder, main)


def test_without_the_library_all_but_plots_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(PAGE, tmp_path / "page", ignore=shutil.ignore_patterns("uplot*"))
    monkeypatch.setattr(files, "files", lambda _: tmp_path)
    read_page.cache_clear()

    async def body(tab: Tab, running: Running, origin: str) -> None:
        assert await tab.evaluate("document.getElementById('plots').checkVisibility()") is False
        assert "without plots" in await tab.evaluate("document.getElementById('build').textContent")
        assert await tab.evaluate("document.querySelectorAll('#tables section:not([hidden])').length") >= 4
        # What has come since is shown too.
        running.service.ring.put(b"m v=1 1\n", 1, 1)
        running.service.sampler.tick(1001.0)
        await tab.until(
            "document.querySelector('[data-at=\"outputs/influx/ledger/waiting\"]').textContent === '1'"
        )
        assert await tab.evaluate("violations") == []
        assert_nothing_amiss(tab, origin)

    try:
        on_a_page(tmp_path, body)
    finally:
        read_page.cache_clear()


def test_where_no_stream_is_to_be_had_it_asks_again_and_again(tmp_path: Path) -> None:
    async def main(running: Running) -> None:
        running.service.sampler.clients = STREAMS_MAX
        running.service.sampler.tick(1000.0)
        async with chromium(tmp_path) as tab:
            await tab.resize(1280, 900)
            await tab.open(f"http://{running.tcp.address}/")
            await tab.until("window.penstock?.shown.polled")
            running.service.ring.put(b"m v=1 1\n", 1, 1)
            await tab.until("penstock.shown.outputs[0].ledger.waiting === 1")
            assert await tab.evaluate("document.body.classList.contains('stale')") is False
            # One of those who look on has gone.
            running.service.sampler.clients = 0
            await tab.until("!penstock.shown.polled")
            root = await tab.evaluate("penstock.shown")
            assert root["rates"]["outputs"]["influx"]["waiting"] == 0

    run(tmp_path, main)


TAB_STOPS = """(() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  return {
    name: one.getAttribute("aria-label") ?? one.textContent.trim(),
    seen: style.outlineStyle !== "none" && one.checkVisibility(),
    top: one.getBoundingClientRect().top + scrollY,
  };
})()"""


def test_the_keyboard_reaches_all_controls_in_their_order(tmp_path: Path) -> None:
    async def body(tab: Tab, running: Running, origin: str) -> None:
        stops = []
        controls = await tab.evaluate(CONTROLS)
        for _ in controls:
            await tab.press("Tab")
            stops.append(await tab.evaluate(TAB_STOPS))
        assert [one["name"] for one in stops] == controls
        assert [one["name"] for one in stops[:3]] == ["Skip to the flow", "Pause", "Dark"]
        assert [one for one in stops if not one["seen"]] == []
        # A heading sorts, and says so.
        first = "document.querySelector('#tables thead th')"
        await tab.evaluate(f"{first}.querySelector('button').focus()")
        for order in ("ascending", "descending"):
            await tab.press("Enter")
            assert await tab.evaluate(f"{first}.getAttribute('aria-sort')") == order
        # It stands still if one wants it to.
        await tab.evaluate("document.getElementById('pause').focus()")
        await tab.press("Enter")
        number = await tab.evaluate("penstock.shown.id")
        running.service.sampler.tick(1001.0)
        await tab.until("performance.getEntriesByType('resource').length")
        assert await tab.evaluate("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        assert await tab.evaluate("penstock.shown.id") == number
        await tab.press("Enter")
        await tab.until(f"penstock.shown.id > {number}")

    on_a_page(tmp_path, body)


def fill(running: Running) -> None:
    """Give the page something of each kind to show."""
    service = running.service
    service.spool = SpoolCounters(
        stored=30, dropped={"spool_age": 2}, metrics=28, files=2, bytes=1 << 20, oldest_ns=10**18
    )
    service.refused = RejectedCounters(metrics=6, files=1, bytes=4096)
    service.counters.rejected = 6
    offender = OffenderAccount(
        measurement="cpu",
        tag="pod",
        series=1000,
        refused=7,
        per_minute=70,
        error=0,
        samples=("a", "b"),
        since=1.0,
        policy="drop",
        remedy='[[shape]]\nmeasurement = ["cpu"]\ndrop_tags = ["pod"]',
    )
    service.guards = GuardAccount(series=1000, series_max=1000, refused=7, offenders=(offender,))
    service.reloads = ReloadStatus(refused=1, last=ReloadOutcome(time=2.0, problems=("flush: is wrong",)))
    service.ring.put(b"m v=1 1\n", 1, 1)
    service.sampler.sample("app", "field", b"<b>no line</b>")
    service.sampler.tick(1001.0)
    service.counters.rejected = 8
    service.sampler.tick(1002.0)


@pytest.mark.needs("npm")
def test_axe_finds_nothing_in_light_and_dark_wide_and_narrow(tmp_path: Path) -> None:
    script = axe(tmp_path)

    async def body(tab: Tab, running: Running, origin: str) -> None:
        assert_nothing_amiss(tab, origin)
        fill(running)
        for scheme in ("light", "dark"):
            for width in (1280, 360):
                await tab.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
                await tab.resize(width, 800)
                await tab.open(f"{origin}/")
                await tab.until("window.penstock")
                assert await tab.evaluate("document.documentElement.dataset.theme") == scheme
                # Nothing but tables may be wider than the window.
                assert await tab.evaluate("document.documentElement.scrollWidth") <= width
                await tab.evaluate(script)
                found = await tab.evaluate(AXE_RUN)
                assert found == [], f"{scheme}, {width} pixels"
                await tab.screenshot(SCREENS / f"{scheme}-{width}.png")

    on_a_page(tmp_path, body)


SOURCES = (
    "[...document.querySelectorAll('#tables section')]"
    ".find((one) => one.textContent.includes('penstock fleet'))"
)


def test_a_relay_shows_who_sends_to_it_and_others_have_no_such_table(tmp_path: Path) -> None:
    async def body(tab: Tab, running: Running, origin: str) -> None:
        assert await tab.evaluate(f"{SOURCES}.checkVisibility()") is False
        now = time.time_ns()
        sources = running.service.relayed = Sources(now - 10**11)
        evil = "edge<b>\u202e"
        for number in (0, 1, 7):
            sources.seen(message(number, agent="edge-1"), now)
            sources.seen(message(number, agent=evil), now - 90 * 10**9)
        running.service.sampler.tick(1001.0)
        await tab.until("penstock.shown.fleet?.agents === 2")
        # They are asked for beside the stream, and shown with the next second.
        await tab.until("performance.getEntriesByName(location.origin + '/api/fleet?rings=0').length > 0")
        seconds = itertools.count(1002)
        while not await tab.evaluate("penstock.shown.sources?.length"):
            running.service.sampler.tick(float(next(seconds)))
            await tab.until(f"penstock.shown.id >= {running.service.sampler.number}")
        assert await tab.evaluate(f"{SOURCES}.checkVisibility()") is True
        # The one that is silent comes first, and its name is text.
        names = f"[...{SOURCES}.querySelectorAll('tbody th')].map((one) => one.innerText)"
        assert await tab.evaluate(names) == ["edge<b>\\u202e silent", "edge-1"]
        verdict = await tab.evaluate("document.getElementById('verdict-box').textContent")
        assert "1 of 2 agents that send here are silent." in verdict
        document = await tab.evaluate(SHOWN)
        shown = {one["at"]: one["text"] for one in document["figures"]}
        assert shown["sources/edge-1/missing"] == "0" and shown["sources/edge-1/ring_count"] == "1"
        for one in document["figures"]:
            if one["at"].startswith("sources"):
                assert one["text"] == figures.text(document["root"], one["at"], one["as"]), one
        await tab.screenshot(SCREENS / "relay.png")
        assert await tab.evaluate("violations") == []
        assert_nothing_amiss(tab, origin)

    on_a_page(tmp_path, body)
