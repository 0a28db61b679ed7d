"""The sampler: rates, events, and whether the ledger is broken, from one look after the other."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import ledger
from agent.accounts import BOUNDS
from agent.admin.status import OutputState, ReloadOutcome, ReloadStatus, ServiceStatus, Watched
from agent.config import Slo
from agent.keeping import Keeper
from agent.ledger import Ledger
from agent.objectives import Promised
from agent.relay.sources import Sources
from agent.sampler import EVENTS_MAX, SAMPLES_MAX, Sampler
from agent.vitals import ThreadTimes
from tests.conftest import wait_until
from tests.unit.test_sources import message
from tests.unit.test_vitals import listener, output


class Service:
    """What the test says of it."""

    def __init__(self) -> None:
        self.reading = Ledger(listeners=(), lanes=(), outputs=(), problems=())
        self.outputs: tuple[OutputState, ...] = ()
        self.reloads = ReloadStatus()
        self.promises: dict[str, Promised] = {}
        self.relayed: Sources | None = None
        self.sampler = Sampler(self)
        self.now = 500.0

    def tick(self, seconds: float = 1.0) -> dict[str, Any]:
        """The document of the second that *seconds* later is over."""
        self.now += seconds
        self.sampler.tick(self.now)
        document = json.loads(self.sampler.second())
        assert isinstance(document, dict)
        return document

    def read(self, *accounts: Any, problems: tuple[str, ...] = ()) -> None:
        self.reading = Ledger(
            listeners=tuple(one for one in accounts if isinstance(one, ledger.ListenerAccount)),
            lanes=(),
            outputs=tuple(one for one in accounts if isinstance(one, ledger.OutputAccount)),
            problems=problems,
        )

    def status(self) -> ServiceStatus:
        return ServiceStatus(
            state="running", started=0.0, config="/c", reload=self.reloads, outputs=self.outputs
        )

    def ledger(self) -> Ledger:
        return self.reading

    def ready(self) -> list[str]:
        return []

    def keepers(self) -> dict[str, Keeper]:
        return {}

    def slo(self) -> Slo:
        return Slo(window=43_200.0)

    def promised(self) -> dict[str, Promised]:
        return self.promises

    def sources(self) -> Sources | None:
        return self.relayed

    def watched(self) -> Watched:
        return self.sampler.watched()

    def pulse(self) -> Sampler:
        return self.sampler

    async def reload(self) -> ReloadOutcome:
        raise NotImplementedError


@pytest.fixture
def service() -> Service:
    return Service()


def test_rates_are_what_came_and_went_since_the_look_before(service: Service) -> None:
    service.read(listener(100, kernel_drops=3), output("influx", delivered=50, waiting=7, spooled=2))
    # What was before the first look came in the second before it.
    assert service.tick()["rates"] == {
        "listeners": {"udp": {"received": 100, "lost": 3}},
        "outputs": {"influx": {"delivered": 50, "lost": 0, "waiting": 7, "spooled": 2}},
    }
    service.read(
        listener(400, kernel_drops=5, dropped={"field": 10}),
        output("influx", delivered=60, rejected=2, missed=4, dropped={"overload": 6}, waiting=1),
    )
    assert service.tick(2.0)["rates"] == {
        "listeners": {"udp": {"received": 150, "lost": 6}},
        "outputs": {"influx": {"delivered": 5, "lost": 6, "waiting": 1, "spooled": 0}},
    }
    hello = json.loads(service.sampler.hello())
    assert hello["seconds"]["listeners"] == {"udp": {"received": [100, 150], "lost": [3, 6]}}
    assert hello["seconds"]["outputs"]["influx"]["waiting"] == [7, 1]


def test_delays_are_those_of_the_last_second_and_of_the_last_minute(service: Service) -> None:
    bounds = BOUNDS["delay_seconds"]
    buckets = [0] * (len(bounds) + 1)

    def deliver(seconds: float, count: int) -> dict[str, Any]:
        buckets[bounds.index(seconds)] += count
        service.read(output("influx", histograms={"delay_seconds": ([*buckets], 0.0)}))
        return service.tick()

    deliver(0.1, 100)
    found = deliver(2.0, 100)
    # A second's own, within its bucket from 1.6 to 2 s.
    assert found["rates"]["outputs"]["influx"]["p50"] == pytest.approx(1.8)
    assert 1.9 < found["rates"]["outputs"]["influx"]["p99"] < 2.0
    assert found["status"]["delay"]["influx"] == {
        "count": 200,
        "p50": pytest.approx(0.1),
        "p99": pytest.approx(1.992),
        "max": 2.0,
    }
    # Nobody knows how long nothing took.
    service.read(output("influx", histograms={"delay_seconds": ([*buckets], 0.0)}))
    assert service.tick()["rates"]["outputs"]["influx"]["p50"] is None
    for _ in range(58):
        found = service.tick()
    assert found["status"]["delay"]["influx"]["count"] == 100
    assert service.tick()["status"]["delay"]["influx"] is None


def test_how_outputs_fare_by_the_objective_is_in_the_document(service: Service) -> None:
    for second in range(200):
        service.read(output("influx", written=1000 * second))
        # From the hundredth second on nothing is delivered.
        service.promises = {"influx": Promised(young=0, on_time=1000 * min(second, 100))}
        found = service.tick()
    (slo,) = found["status"]["slo"]
    assert (slo["output"], slo["state"], slo["due"], slo["late"]) == ("influx", "fast", 199_000, 99_000)
    assert list(slo["burn"]) == ["5", "30", "60", "360", "4320"]
    assert slo["burn"]["5"] == pytest.approx(1000)
    assert slo["budget_left"] < 1
    events = [(one["kind"], one["name"], one["text"]) for one in found["status"]["events"]]
    assert events == [("slo", "influx", "fast (was ok)")]


def test_a_look_that_comes_too_soon_is_none(service: Service) -> None:
    service.tick()
    service.tick(0.5)
    assert service.sampler.number == 1
    service.tick(0.5)
    assert service.sampler.number == 2


def test_what_happens_to_outputs_and_the_config_is_an_event(service: Service) -> None:
    state = OutputState(name="influx", type="influxdb", target="", state="ok")
    service.outputs = (state,)
    assert service.tick()["new_events"] == []
    service.outputs = (
        msgspec.structs.replace(state, state="retrying", last_error="refused", breaker="open"),
    )
    found = service.tick()
    assert [(one["kind"], one["name"], one["text"]) for one in found["new_events"]] == [
        ("output", "influx", "retrying: refused"),
        ("breaker", "influx", "open"),
    ]
    assert found["new_events"] == found["status"]["events"]
    service.outputs = (state,)
    service.reloads = ReloadStatus(last=ReloadOutcome(time=1.0, changes=("a", "b")))
    found = service.tick()
    assert [(one["kind"], one["text"]) for one in found["new_events"]] == [
        ("output", "ok"),
        ("breaker", "closed"),
        ("reload", "applied: a; b"),
    ]
    service.reloads = ReloadStatus(last=ReloadOutcome(time=2.0, problems=("no such file",)))
    assert [one["text"] for one in service.tick()["new_events"]] == ["refused: no such file"]
    found = service.tick()
    assert found["new_events"] == []
    assert len(found["status"]["events"]) == 6


def test_events_and_samples_are_kept_up_to_a_number(service: Service) -> None:
    for number in range(EVENTS_MAX + 5):
        service.reloads = ReloadStatus(last=ReloadOutcome(time=1.0, changes=(str(number),)))
        service.tick()
    for number in range(SAMPLES_MAX + 5):
        service.sampler.sample("udp", "field", b"m %d" % number)
    status = service.tick()["status"]
    assert [one["text"] for one in status["events"]] == [
        f"applied: {number}" for number in range(5, EVENTS_MAX + 5)
    ]
    assert [one["line"] for one in status["samples"]] == [
        f"m {number}" for number in range(5, SAMPLES_MAX + 5)
    ]


def test_a_sample_is_text_whatever_was_sent(service: Service) -> None:
    service.sampler.sample("udp", "field", b"m\xff\x00\x1b[31m \xc3\xa4\n" + b"x" * 1000)
    (sample,) = service.sampler.watched().samples
    assert sample.line.startswith("m\\xff\\x00\\x1b[31m ä\\nxxx")
    assert len(sample.line) < 300


def test_the_ledger_is_broken_once_it_has_stood_still_for_five_seconds_and_does_not_balance(
    service: Service,
) -> None:
    for second in range(20):
        # As long as something moves it cannot be told.
        service.read(listener(second), problems=("10 received, but 9",))
        assert service.tick()["status"]["ledger"]["balance"] == "moving"
    for _ in range(5):
        assert service.watched().broken_since is None
        service.tick()
    found = service.tick()["status"]
    assert found["ledger"]["balance"] == "broken"
    assert found["ledger"]["broken_since"] is not None
    assert [(one["kind"], one["text"]) for one in found["events"]] == [
        ("ledger", "does not balance: 10 received, but 9")
    ]
    # It stays so when metrics come again, until it balances.
    service.read(listener(21), problems=("11 received, but 10",))
    assert service.tick()["status"]["ledger"]["balance"] == "broken"
    service.read(listener(22))
    found = service.tick()["status"]
    assert found["ledger"] == {"balance": "balanced", "problems": [], "broken_since": None}
    assert found["events"][-1]["text"] == "balances again"


def test_time_of_threads_adds_up_by_name_and_does_not_go_back_when_they_end() -> None:
    times, stop, worked = ThreadTimes(), threading.Event(), threading.Barrier(3)

    def work() -> None:
        sum(range(2_000_000))
        worked.wait(10)
        stop.wait(10)

    senders = [threading.Thread(target=work, name=f"send-a-2-{number}") for number in (1, 2)]
    for thread in senders:
        thread.start()
    worked.wait(10)
    found = times.read()
    assert found["main"] > 0
    # Two of them, each of some milliseconds.
    assert found["send-a-2"] > 5_000_000
    stop.set()
    for thread in senders:
        thread.join()
    wait_until(lambda: not any(Path(f"/proc/self/task/{one.native_id}").exists() for one in senders))
    later = times.read()
    assert later["send-a-2"] >= found["send-a-2"]
    assert later["main"] >= found["main"]
    assert times.read()["send-a-2"] == later["send-a-2"]


def test_a_relay_tells_how_many_send_to_it(service: Service) -> None:
    assert service.tick()["fleet"] is None
    service.relayed = Sources()
    now = time.time_ns()
    service.relayed.seen(message(0), now)
    service.relayed.seen(message(1), now)
    service.relayed.seen(message(0, agent="edge-2"), now - 100 * 10**9)
    assert service.tick()["fleet"] == {"agents": 2, "silent": 1, "seen": 3}
