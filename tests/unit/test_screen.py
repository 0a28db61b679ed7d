"""The status on one screen: what it shows, and that it fits."""

import asyncio
import io
import time
from typing import Any

import pytest
from rich.console import Console

from agent import ledger
from agent.accounts import OutputReading, RingAccount
from agent.admin.screen import draw
from agent.admin.status import OutputState, ReloadStatus, ServiceStatus, document
from agent.delivery.delivery import Counters
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters


class Provider:
    """A service with one output."""

    def __init__(self, spool: SpoolCounters | None, refused: RejectedCounters | None, **state: Any) -> None:
        rings: Any = dict.fromkeys(RingAccount.__struct_fields__, 0)
        if spool is not None:
            rings |= {"accepted": spool.stored, "written": spool.stored}
        counters = Counters(delivered=spool.decided if spool is not None else 0)
        self.reading = OutputReading("influx", "influxdb", counters, {"lane-0": rings}, spool, refused)
        self.state = OutputState(name="influx", type="influxdb", target="http://h", **state)

    def status(self) -> ServiceStatus:
        return ServiceStatus(
            state="running", started=0.0, config="/c.toml", reload=ReloadStatus(), outputs=(self.state,)
        )

    def ledger(self) -> ledger.Ledger:
        return ledger.read({0: ("udp", "udp://127.0.0.1:8089")}, [], [self.reading])

    def ready(self) -> list[str]:
        return []

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
