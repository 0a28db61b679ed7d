"""Signs of life: who hangs by how often they came round, and what the status line says."""

import threading
from pathlib import Path

import msgspec
import pytest

from agent import vitals
from agent.admin.status import OutputState
from agent.ledger import Ledger, ListenerAccount, OutputAccount
from agent.vitals import Beats, StatusLine, ThreadNames


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vitals, "time", clock)
    return clock


def _zeros(account: type[msgspec.Struct]) -> dict[str, object]:
    """For the fields that have no default."""
    return {field.name: 0 for field in msgspec.structs.fields(account) if field.required}


def listener(received: int, **given: object) -> ListenerAccount:
    zeros = _zeros(ListenerAccount)
    known = {
        **zeros,
        "name": "udp",
        "address": "udp://[::]:1",
        "sockets": 1,
        "dropped": {},
        "aggregation": None,
    }
    return msgspec.convert({**known, "received": received, **given}, ListenerAccount)


def output(name: str, **given: object) -> OutputAccount:
    zeros = _zeros(OutputAccount)
    known = {**zeros, "name": name, "type": "null", "dropped": {}, "requests": {}, "rings": ()}
    known |= {"spool": None, "refused": None}
    return msgspec.convert({**known, **given}, OutputAccount)


def ledger(*accounts: ListenerAccount | OutputAccount) -> Ledger:
    return Ledger(
        listeners=tuple(one for one in accounts if isinstance(one, ListenerAccount)),
        lanes=(),
        outputs=tuple(one for one in accounts if isinstance(one, OutputAccount)),
        problems=(),
    )


def state(name: str, state: str = "ok", **given: object) -> OutputState:
    return msgspec.convert({"name": name, "type": "null", "target": "", "state": state, **given}, OutputState)


# ---- beats ----


@pytest.mark.parametrize(("watchdog", "patience"), [(None, 3.0), (2.0, 3.0), (15.0, 5.0)])
def test_a_thread_hangs_after_a_third_of_the_watchdogs_interval(
    clock: Clock, watchdog: float | None, patience: float
) -> None:
    beats = Beats(watchdog)
    assert beats.hanging({"lane-0": 5, "flush-a": 1}) == {}
    clock.now += patience - 0.1
    assert beats.hanging({"lane-0": 5, "flush-a": 2}) == {}
    clock.now += 0.1
    assert beats.hanging({"lane-0": 5, "flush-a": 3}) == {"lane-0": pytest.approx(patience)}
    assert beats.hanging({"lane-0": 6, "flush-a": 3}) == {}


def test_a_thread_that_has_gone_does_not_hang_and_one_that_comes_has_its_time(clock: Clock) -> None:
    beats = Beats()
    assert beats.hanging({"flush-old": 1}) == {}
    clock.now += 10
    assert beats.hanging({"flush-new": 0}) == {}
    clock.now += 2
    assert beats.hanging({"flush-new": 0, "flush-old": 1}) == {}


# ---- names ----


def test_the_kernel_knows_what_each_thread_is_called() -> None:
    names, go = ThreadNames(), threading.Event()
    thread = threading.Thread(target=go.wait, name="flush-somewhere-far")
    thread.start()
    comm = Path(f"/proc/self/task/{thread.native_id}/comm")
    process = Path("/proc/self/comm").read_text()
    try:
        names.tell()
        assert comm.read_text() == "flush-somewhere\n"
        assert Path("/proc/self/comm").read_text() == process
        # Once is enough: what somebody else says later stays.
        comm.write_text("other")
        names.tell()
        assert comm.read_text() == "other\n"
    finally:
        go.set()
        thread.join()


# ---- the status line ----


def test_the_line_has_the_rate_since_the_last_one(clock: Clock) -> None:
    line = StatusLine()
    assert line.text(ledger(listener(500)), [state("influx")]) == "receiving on 1 listener; influx ok"
    clock.now += 5
    assert line.text(ledger(listener(6_500), listener(0)), [state("influx")]) == (
        "receiving 1,200 metrics/s on 2 listeners; influx ok"
    )


def test_the_line_says_which_output_is_in_trouble_and_what_waits_for_it(clock: Clock) -> None:
    outputs = [
        state("good"),
        state("bad", "retrying", since=clock.time() - 61, last_error="refused " * 100),
    ]
    text = StatusLine().text(ledger(listener(0), output("bad", waiting=12_345, spooled=67)), outputs)
    assert text.startswith("receiving on 1 listener; good ok; bad retrying for 61 s: refused refused")
    assert text.endswith(", 12,345 waiting, 67 in the spool")
    assert len(text) < 250


def test_the_line_says_what_was_lost() -> None:
    accounts = (
        listener(10, dropped={"field": 2, "ring_full": 1}, kernel_drops=1_000, sockets=0),
        output("a", rejected=4, missed=5, dropped={"drain_timeout": 3}),
    )
    assert StatusLine().text(ledger(*accounts), []) == (
        "receiving on 0 listeners; 6 dropped; 4 rejected; 5 missed; 1,000 lost in the kernel"
    )
