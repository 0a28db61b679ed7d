"""What relays have seen, put together: by `unite`, at /api/fleet, and by `penstock fleet`."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from agent.admin.fleet_table import fleet_lines
from agent.admin.server import start
from agent.batch_id import Place, batch_id
from agent.config import load
from agent.outputs.base import Payload
from agent.pipeline import Layout, Pipeline
from agent.relay.fleet import Whole, unite
from agent.relay.message import Message
from agent.relay.sources import Sources
from tests.unit.test_admin import Running, Service, run
from tests.unit.test_sources import START, S, message

ROOT = Path(__file__).resolve().parents[2]


def relays(count: int, since: int = START) -> list[Sources]:
    """Relays, each of which is another process."""
    return [Sources(since + number) for number in range(count)]


def whole(seen: list[Sources], second: float) -> Whole:
    return unite([(f"r{number}", one.view(START + round(second * S))) for number, one in enumerate(seen)])


def deal(seen: list[Sources], second: int, slots: range, agent: str = "edge-1") -> None:
    """Each slot to one of them in turn."""
    for slot in slots:
        at = START + second * S
        seen[slot % len(seen)].seen(message(slot, oldest=second - 0.5, agent=agent), at)


def test_each_misses_what_others_took_and_together_they_miss_nothing() -> None:
    seen = relays(3)
    deal(seen, 100, range(300))
    for one in seen:
        assert one.view(START + 200 * S).missing == 198
    found = whole(seen, 120)
    assert (found.missing, found.silent, found.ill, found.complete) == (0, 0, False, True)
    [source] = found.sources
    assert (source.messages, source.metrics, source.ring_count) == (300, 30_000, 1)
    assert source.relays == ("r0", "r1", "r2") and source.rings[0].seen == ()
    assert (source.rings[0].first, source.rings[0].next, source.shared) == (0, 300, 0)
    assert [one.sources for one in found.relays] == [1, 1, 1]


def test_what_none_has_seen_is_missing_and_what_several_have_is_shared() -> None:
    seen = relays(2)
    deal(seen, 100, range(100))
    deal(seen, 101, range(110, 200))
    assert (whole(seen, 105).sources[0].late, whole(seen, 105).missing) == (10, 0)
    found = whole(seen, 112)
    assert (found.missing, found.sources[0].missing, found.ill) == (10, 10, True)
    # A relay that died had let some go, which another one got.
    deal(seen[:1], 120, range(105, 115))
    found = whole(seen, 121)
    assert (found.missing, found.sources[0].shared) == (5, 2)
    assert found.sources[0].rings[0].shared == 2


def test_what_may_have_gone_to_a_relay_that_was_started_anew_is_not_missing() -> None:
    seen = relays(2)
    deal(seen, 100, range(100))
    seen[1] = Sources(START + 110 * S)
    deal(seen, 111, range(100, 120))
    deal(seen, 130, range(120, 200))
    found = whole(seen, 150)
    assert (found.missing, found.sources[0].unsure) == (0, 50)
    # What is lost after that shows.
    deal(seen, 140, range(205, 210))
    assert whole(seen, 160).missing == 5


def test_without_one_of_them_nothing_can_be_said_to_be_missing() -> None:
    seen = relays(2)
    deal(seen, 100, range(100))
    views = [("a", seen[0].view(START + 120 * S)), ("b", "nobody listens")]
    found = unite(views)
    assert (found.missing, found.complete, found.ill) == (0, False, True)
    assert (found.sources[0].missing, found.sources[0].unsure) == (0, 49)
    assert found.relays[1].trouble == "nobody listens"


def test_the_same_relay_twice_is_refused() -> None:
    view = Sources(START).view(START)
    with pytest.raises(ValueError, match="a and b are the same relay"):
        unite([("a", view), ("b", view)])


def test_silent_is_who_no_relay_sees() -> None:
    seen = relays(2)
    for second in range(100):
        deal(seen[second % 2 :][:1], second, range(second, second + 1))
    seen[0].seen(message(0, agent="edge-2", oldest=0), START)
    found = whole(seen, 120)
    assert [(one.agent, one.silent) for one in found.sources] == [("edge-1", False), ("edge-2", True)]
    # Each sees it every two seconds: together every second.
    assert found.sources[0].pause == pytest.approx(1.0, rel=0.1)
    assert [one.silent for one in whole(seen, 131).sources] == [True, True]


def test_delays_and_rates_are_of_all_together() -> None:
    seen = relays(2)
    for second in range(60):
        at = START + second * S
        seen[0].seen(message(2 * second, oldest=second - 0.001), at)
        seen[1].seen(message(2 * second + 1, oldest=second - 4), at)
    [one] = whole(seen, 60).sources
    assert one.rate == pytest.approx(200, rel=0.05)
    assert one.delay is not None
    assert one.delay.p50 < 0.002 and 3 < one.delay.p99 <= 4


# ---- as text ----


def text(found: Whole, width: int = 200, height: int | None = None, first: int = 0) -> list[str]:
    lines = [line.plain.rstrip() for line in fleet_lines(found, width, height, first)]
    assert all(cell_len(line) <= width for line in lines), lines
    assert height is None or len(lines) <= height
    return lines


def busy() -> Whole:
    seen = relays(2)
    deal(seen, 40, range(10), "edge-ok")
    deal(seen, 100, range(1000), "edge-ok")
    deal(seen, 101, range(20), "edge-lost")
    deal(seen, 101, range(23, 30), "edge-lost")
    deal(seen, 20, range(1), "edge-gone")
    return whole(seen, 115)


def test_the_table_has_who_is_in_trouble_first() -> None:
    lines = text(busy())
    assert lines[0] == "3 agents · 1,860 metrics/s · silent 1 · missing 3 · 2 relays"
    assert re.split(" {2,}", lines[1]) == [
        *("AGENT", "rings", "rate", "p50", "p99", "missing", "late", "repeated", "duplicates", "last seen"),
        "relays",
    ]
    assert [line.split()[0] for line in lines[2:]] == ["edge-gone", "edge-lost", "edge-ok"]
    assert re.split(" {2,}", lines[2]) == [
        *("edge-gone", "1", "0", "-", "-", "0", "0", "0", "0", "1 min 35 s ago", "1"),
        "silent for 1 min 35 s",
    ]
    assert re.split(" {2,}", lines[3])[:2] + re.split(" {2,}", lines[3])[5:] == [
        *("edge-lost", "1", "3", "0", "0", "0", "14 s ago", "2"),
    ]


def test_one_relay_alone_says_so_and_one_that_does_not_answer_too() -> None:
    view = relays(1)[0].view(START)
    assert "if there are others, name all of them" in text(unite([("a", view)]))[1]
    lines = text(unite([("a", view), ("http://b:1", "no answer within 10 s")]))
    assert "missing cannot be told" in lines[0]
    assert lines[1] == "http://b:1: no answer within 10 s"


@pytest.mark.parametrize("height", [1, 2, 5, 24, None])
@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
def test_it_fits_any_size(width: int, height: int | None) -> None:
    for first in (0, 2, 1 << 30):
        lines = text(busy(), width, height, first)
        assert lines


def test_what_has_no_room_is_told_and_can_be_reached() -> None:
    seen = relays(1)
    for number in range(50):
        deal(seen, 100, range(3), f"edge-{number:02}")
    found = whole(seen, 101)
    lines = text(found, 120, 10)
    assert len(lines) == 10 and lines[3].startswith("edge-00") and lines[-1] == "… 44 more lines"
    lines = text(found, 120, 10, 1 << 30)
    assert lines[-1].startswith("edge-49")


def test_no_terminal_obeys_an_agent() -> None:
    seen = relays(1)
    batch = batch_id(Place(START, 0, 1))
    evil = "e\x1b[2J\u202e[bold]"
    seen[0].seen(Message(Payload(b"m v=1 1\n", 1, 8), evil, batch, START), START)
    view = unite([("\x1b]0;x\x07", "\x1b[2J"), ("b", seen[0].view(START))])
    shown = "\n".join(text(view))
    assert "\x1b" not in shown and "\u202e" not in shown and "\x07" not in shown
    assert "e\\x1b[2J\\u202e[bold]" in shown


# ---- over HTTP ----


def test_the_fleet_is_told_and_without_rings_if_wanted(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        status, answer = await running.get("/api/fleet")
        assert status == 404 and "it is no relay" in json.loads(answer)["error"]
        sources = running.service.relayed = Sources()
        sources.seen(message(7), time.time_ns())
        for path, rings in (("/api/fleet", 1), ("/api/fleet?rings=1", 1), ("/api/fleet?rings=0", 0)):
            status, answer = await running.get(path)
            document = json.loads(answer)
            assert status == 200 and len(document["sources"][0]["rings"]) == rings
        assert (await running.get("/api/fleet?rings=2"))[0] == 400

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("address", "is_one"),
    [("udp://127.0.0.1:8089", False), ("nats://127.0.0.1:4222", True), ("kafka://h:9092,i:9092", True)],
)
def test_an_agent_is_a_relay_by_its_listeners(address: str, is_one: bool) -> None:
    pipeline = Pipeline()
    assert not pipeline.relays
    config = load(ROOT / "configs" / "demo.toml")
    listen = replace(config.listen[0], address=address)
    pipeline.layout = Layout(replace(config, listen=(listen,)))
    assert pipeline.relays == is_one


# ---- the command ----


def asked(folder: Path, services: list[Service], *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command answers, beside servers with states of the test's making."""

    async def main() -> subprocess.CompletedProcess[str]:
        admins = [await start("127.0.0.1:0", service) for service in services]
        control = await start(str(folder / "control.sock"), services[0])
        urls = [part for admin in admins for part in ("--url", f"http://{admin.address}")]
        where = ["--socket", control.address] if "--socket" in arguments else urls
        given = [one for one in arguments if one != "--socket"]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent", "fleet", *where, *given),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode is not None
            return subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode())
        finally:
            for admin in (*admins, control):
                await admin.aclose()

    return asyncio.run(main())


def services(count: int, ago: int) -> list[Service]:
    """Relays that were started so many seconds ago."""
    made = [Service() for _ in range(count)]
    for number, one in enumerate(made):
        one.relayed = Sources(time.time_ns() - ago * S + number)
    return made


def tell(service: Service, slots: range, ago: float) -> None:
    """Slots come, each so many seconds ago."""
    at = time.time_ns() - round(ago * S)
    for slot in slots:
        batch = batch_id(Place(START, slot, 1))
        assert service.relayed is not None
        service.relayed.seen(Message(Payload(b"m v=1 1\n", 1, 8), "edge-1", batch, at), at)


def test_the_command_asks_all_relays_and_exits_with_1_if_anything_lacks(tmp_path: Path) -> None:
    made = services(2, 60)
    tell(made[0], range(0, 100, 2), 20)
    tell(made[1], range(1, 100, 2), 20)
    done = asked(tmp_path, made)
    assert (done.returncode, done.stderr) == (0, "")
    assert "missing 0 · 2 relays" in done.stdout and "\x1b" not in done.stdout
    tell(made[0], range(105, 110), 15)
    done = asked(tmp_path, made)
    assert done.returncode == 1 and "missing 5" in done.stdout
    done = asked(tmp_path, made, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["missing"] == 5
    [source] = document["sources"]
    assert (source["agent"], source["missing"], source["rings"][0]["missing"]) == ("edge-1", 5, 5)
    assert len(source["relays"]) == 2
    done = asked(tmp_path, made, "--socket")
    # One alone: what the other one has is missing, and it says that it may be elsewhere.
    assert done.returncode == 1 and "if there are others" in done.stdout


def test_a_silent_agent_is_exit_code_1(tmp_path: Path) -> None:
    made = services(1, 200)
    tell(made[0], range(10), 100)
    done = asked(tmp_path, made)
    assert done.returncode == 1 and "silent for 1 min 4" in done.stdout


def test_a_relay_that_does_not_answer_is_told(tmp_path: Path) -> None:
    made = services(1, 60)
    tell(made[0], range(10), 1)
    done = asked(tmp_path, made, "--url", f"{tmp_path}/none")
    assert done.returncode == 1 and "missing cannot be told" in done.stdout
    assert "no agent is running here" in done.stdout
    done = asked(tmp_path, [*made, Service()])
    assert done.returncode == 1 and "it is no relay: it has no listener of a broker" in done.stdout
    done = asked(tmp_path, [Service()])
    assert done.returncode == 1 and "it is no relay" in done.stderr and done.stdout == ""
    assert done.stderr.count("penstock:") == 1
    twice = services(1, 60) * 2
    done = asked(tmp_path, twice)
    assert done.returncode == 1 and "are the same relay" in done.stderr


def test_json_is_for_once() -> None:
    command = [sys.executable, "-m", "agent", "fleet", "--json", "--watch"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == 2


def test_a_pipe_that_nobody_reads_is_silent(tmp_path: Path) -> None:
    made = services(1, 60)
    reading, writing = os.pipe()
    os.close(reading)

    async def main() -> None:
        control = await start(str(tmp_path / "control.sock"), made[0])
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent", "fleet", "--watch", "--socket", control.address),
                cwd=ROOT,
                stdout=writing,
                stderr=subprocess.PIPE,
            )
            assert (await process.communicate())[1] == b""
        finally:
            await control.aclose()

    with ExitStack() as stack:
        stack.callback(os.close, writing)
        asyncio.run(main())
