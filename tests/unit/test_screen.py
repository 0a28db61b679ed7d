"""The status on one screen: what it shows, and that it fits."""

import asyncio
import io
import time
from typing import Any

import msgspec
import pytest
from rich.console import Console

from agent import ledger
from agent.accounts import GuardAccount, OutputReading, RingAccount
from agent.admin.screen import draw
from agent.admin.status import OutputState, ReloadStatus, ServiceStatus, Watched, document
from agent.config import Cardinality
from agent.delivery.delivery import Counters
from agent.objectives import SloAccount
from agent.quantiles import Summary
from agent.relay.account import RelayCounters
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters
from agent.watch import Watch


class Provider:
    """A service with one output."""

    def __init__(self, spool: SpoolCounters | None, refused: RejectedCounters | None, **state: Any) -> None:
        rings: Any = dict.fromkeys(RingAccount.__struct_fields__, 0)
        if spool is not None:
            rings |= {"accepted": spool.stored, "written": spool.stored}
        counters = Counters(delivered=spool.decided if spool is not None else 0)
        self.reading = OutputReading("influx", "influxdb", counters, {"lane-0": rings}, spool, refused)
        self.guards: GuardAccount | None = None
        self.relays: dict[int, RelayCounters] = {}
        self.objectives: tuple[SloAccount, ...] = ()
        self.delays: dict[str, Summary | None] = {"influx": None}
        self.state = OutputState(name="influx", type="influxdb", target="http://h", **state)

    def status(self) -> ServiceStatus:
        return ServiceStatus(
            state="running", started=0.0, config="/c.toml", reload=ReloadStatus(), outputs=(self.state,)
        )

    def ledger(self) -> ledger.Ledger:
        names = {0: ("udp", "udp://127.0.0.1:8089")}
        return ledger.read(names, [], [self.reading], guards=self.guards, relays=self.relays)

    def ready(self) -> list[str]:
        return []

    def watched(self) -> Watched:
        return Watched(objectives=self.objectives, delays=self.delays)

    def pulse(self) -> Any:
        raise NotImplementedError

    async def reload(self) -> Any:
        raise NotImplementedError


def drawn(provider: Provider, width: int = 160) -> str:
    out = io.StringIO()
    draw(asyncio.run(document(provider)), Console(file=out, width=width))
    return out.getvalue()


def test_an_output_without_trouble_takes_one_line() -> None:
    text = drawn(Provider(SpoolCounters(), RejectedCounters(), state="ok"))
    assert "On disk" not in text and "trouble" not in text and "breaker" not in text
    assert "Ledger: balances" in text


@pytest.mark.parametrize("width", [80, 120, 160])
def test_what_is_on_disk_is_shown_with_its_age_and_its_losses(width: int) -> None:
    spool = SpoolCounters(
        restored=1000,
        stored=3000,
        decided=500,
        dropped={"spool_age": 250},
        metrics=3250,
        files=12,
        bytes=5 << 20,
        oldest_ns=time.time_ns() - 7_500_000_000_000,
        errors={"ENOSPC": 3},
        failing="cannot store: No space left on device",
    )
    refused = RejectedCounters(metrics=7, files=2, bytes=8192, unsaved=1)
    text = drawn(Provider(spool, refused, state="retrying", breaker="half_open", last_error="refused"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "trouble: output influx: spool: cannot store: No space left on device" in text
    assert "Ledger: balances" in text
    if width < 160:
        return
    [delivered] = [line for line in text.splitlines() if "breaker" in line]
    assert delivered.split() == (
        "influx retrying, breaker half open 1,000 3,000 500 0 3,250 0 250 0 spool_age 250".split()
    )
    lines = [line.split() for line in text.splitlines()]
    assert "influx spool 3,250 12 5.0 MiB 2 h 5 min 250 ENOSPC 3".split() in lines
    assert "influx rejected 7 2 0.0 MiB 1".split() in lines


@pytest.mark.parametrize("width", [80, 120, 160])
def test_who_makes_too_many_series_is_shown_with_what_would_end_it(width: int) -> None:
    provider = Provider(SpoolCounters(), RejectedCounters(), state="ok")
    assert "Series" not in drawn(provider, width)
    watch = Watch()
    watch.configure(Cardinality(max_series=100))
    watch.look_after(1_000_000_000, 5_000_000_000)
    provider.guards = watch.account()
    text = drawn(provider, width)
    assert "Series" in text and "Too many series" not in text
    for i in range(300):
        watch.book.decide(f"http,host=[web],id={i}".encode())
    provider.guards = watch.account()
    text = drawn(provider, width)
    assert "Too many series" in text and "http" in text and "To end the first of them:" in text
    assert '  [[shape]]\n  measurement = ["http"]\n  drop_tags = ["id"]\n' in text


@pytest.mark.parametrize("width", [80, 160])
def test_the_objective_is_shown_and_how_long_delivery_takes(width: int) -> None:
    provider = Provider(SpoolCounters(), RejectedCounters(), state="ok")
    text = drawn(provider, width)
    assert "Objective" not in text and "p99" not in text
    provider.delays = {"influx": Summary(count=9, p50=0.0944, p99=1.26, max=2.0)}
    account = SloAccount(
        output="influx",
        share=0.999,
        within=1.0,
        window=30 * 86400.0,
        state="ok",
        due=9,
        late=0,
        budget_left=0.98765,
        burn={"300": 0.0, "3600": 0.5},
    )
    provider.objectives = (account,)
    text = " ".join(drawn(provider, width).split())
    assert "Objective: 99.9 % within 1s over 30d. influx ok, 98.8 % of the budget left" in text
    if width == 160:
        assert "p50 p99" in text and "94 ms 1.3 s" in text
    provider.objectives = (
        msgspec.structs.replace(account, state="fast", burn={"300": 1000.0, "3600": 212.5}),
    )
    assert "influx burns fast (5m: 1,000.0, 1h: 212.5)" in " ".join(drawn(provider, width).split())


def test_what_others_say_is_neither_markup_nor_obeyed() -> None:
    said = "[red]\x1b]0;owned\x07\u202e[/]"
    text = drawn(Provider(SpoolCounters(), RejectedCounters(), state="retrying", last_error=said))
    assert "[red]\\x1b]0;owned\\x07\\u202e[/]" in text
    assert "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("width", [20, 40, 60])
def test_where_a_table_does_not_fit_there_is_a_paragraph_for_each_row(width: int) -> None:
    spool = SpoolCounters(stored=3000, decided=500, metrics=2500, files=3)
    provider = Provider(spool, RejectedCounters(), state="ok")
    provider.delays = {"influx": Summary(count=9, p50=0.0944, p99=1.26, max=2.0)}
    text = drawn(provider, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "influx ok: written 3,000, delivered 500" in words and "p50 94 ms, p99 1.3 s" in words
    # What is 0 throughout goes first.
    assert "restored" not in words
    assert "restored" in drawn(provider, 160)


def test_in_eighty_columns_an_idle_output_has_a_row() -> None:
    provider = Provider(SpoolCounters(), RejectedCounters(), state="ok")
    provider.delays = {"influx": Summary(count=9, p50=0.0944, p99=1.26, max=2.0)}
    [row] = [line.split() for line in drawn(provider, 80).splitlines() if line.startswith("influx")]
    assert row == ["influx", "ok", "0", "0", "0", "0", "0", "94", "ms", "1.3", "s"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_what_comes_from_brokers_is_shown_and_why_nothing_does(width: int) -> None:
    provider = Provider(SpoolCounters(), RejectedCounters(), state="ok")
    assert "From brokers" not in drawn(provider, width) and "carried" not in drawn(provider, width)
    relay = RelayCounters()
    relay.messages, relay.metrics, relay.carried, relay.poisoned, relay.connected = (
        12,
        60_000,
        50_000,
        3,
        True,
    )
    provider.relays = {0: relay}
    provider.reading = msgspec.structs.replace(
        provider.reading, counters=Counters(delivered=50_000, carried=50_000)
    )
    words = " ".join(drawn(provider, width).split())
    assert "From brokers" in words and "60,000" in words and "Ledger: balances" in words
    assert "carried" in words and "trouble" not in words
    relay.connected, relay.failing = False, "no stream takes the subject [x]"
    words = " ".join(drawn(provider, width).split())
    assert "trouble: listener udp: no stream takes the subject [x]" in words and "retrying" in words
    relay.connected, relay.failing, relay.paused = True, "", True
    assert "paused" in drawn(provider, width)
