"""What a listener of a broker does with messages: sends, reads, knows, keeps and lets go of them."""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent._core import Feed, Ring, Waker
from agent.config import Config, FileOutput, FilterTable, Flush, InfluxOutput, NullOutput, RejectedTable
from agent.config_schema import Agent, Cardinality
from agent.delivery.flusher import Flusher
from agent.inputs.base import Source
from agent.inputs.nats_session import Delivered, Owner, Session
from agent.outputs.base import Kind, Output, Payload, Verdict, plain
from agent.relay import intake as module
from agent.relay.account import RelayCounters, Window
from agent.relay.carrier import FORMS, Carrier, Ways, forms
from agent.relay.intake import Intake, Relay
from agent.relay.message import Message, parse
from agent.store.rejected import RELAY, Rejected
from tests.conftest import wait_until
from tests.integration.relay import lines, message

DELIVERED = Verdict(Kind.DELIVERED)


class Spot:
    """A place, which a test knows by its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def about(self) -> Mapping[str, Any]:
        return {"number": self.number}


class Sink(Output):
    """Keeps what it is sent as it came; *verdict* decides, and attempts wait for ``gate``."""

    retry_min = 0.001
    retry_max = 0.01
    max_concurrency = 2

    def __init__(self, encoding: str = "lp") -> None:
        super().__init__("sink", "here")
        self.encoding = encoding
        self.verdict: Callable[[Payload], Verdict] = lambda payload: DELIVERED
        self.gate = threading.Event()
        self.gate.set()
        self.bodies: list[bytes] = []

    def post(self, payload: Payload, deadline: float = 0.0) -> Verdict:
        self.gate.wait(20)
        verdict = self.verdict(payload)
        if verdict.kind is Kind.DELIVERED:
            self.bodies.append(bytes(plain(payload)))
        return verdict


class Watcher:
    def __init__(self) -> None:
        self.seen_: list[tuple[str, bool, bool]] = []

    def seen(self, message: Message, now_ns: int, duplicate: bool, redelivered: bool) -> None:
        assert abs(now_ns - time.time_ns()) < 60 * 10**9
        self.seen_.append((message.batch, duplicate, redelivered))


class Rig:
    """An intake with two outputs, each on a real ring of the feed. The test is the listener's thread."""

    def __init__(self, folder: Path, *, as_it_is: bool = True, capacity: int = 1 << 20) -> None:
        self.sinks = [Sink(), Sink()]
        self.wakers = [Waker(), Waker()]
        self.rings = [Ring(None, capacity, waker) for waker in self.wakers]
        flush = Flush(interval=0.001)
        self.flushers = [
            Flusher(f"out-{at}", sink, waker, [ring], flush)
            for at, (sink, waker, ring) in enumerate(zip(self.sinks, self.wakers, self.rings, strict=True))
        ]
        for flusher in self.flushers:
            flusher.start()
        self.feed = Feed()
        self.feed.set_layout((), self.rings)
        self.carrier = Carrier()
        self.carrier.ways = Ways(
            tuple(self.flushers), tuple(self.rings), FORMS["lp"] if as_it_is else frozenset()
        )
        self.counters = RelayCounters()
        self.poison = Rejected(RELAY, folder / RELAY, RejectedTable())
        self.calls: deque[Callable[[], None]] = deque()
        self.forgotten: list[int] = []
        self.again: list[int] = []
        self.watcher = Watcher()
        self.source = Source(self.feed, 3)
        self.intake: Intake[Spot] = Intake(
            "fleet",
            Relay(self.carrier, self.counters, self.poison, self.watcher),
            self.source,
            call=self.calls.append,
            forget=lambda spot: self.forgotten.append(spot.number),
            bring_again=lambda spot: self.again.append(spot.number),
        )

    def take(self, number: int, sent: tuple[dict[str, str], bytes] | None = None, **more: Any) -> None:
        told, data = sent if sent is not None else message(10 * number)
        self.intake.take(told, data, Spot(number), **more)

    def work(self) -> None:
        while self.calls:
            self.calls.popleft()()
        self.intake.read_on()

    def until(self, condition: Callable[[], object]) -> None:
        def look() -> bool:
            self.work()
            return bool(condition())

        wait_until(look)

    def kept(self) -> list[tuple[dict[str, Any], bytes]]:
        files = sorted(self.poison.folder.glob("*.msg"))
        return [(json.loads(path.with_suffix(".json").read_bytes()), path.read_bytes()) for path in files]

    def close(self) -> None:
        for sink in self.sinks:
            sink.gate.set()
        self.intake.let_go()
        for flusher in self.flushers:
            flusher.drain(time.monotonic() + 5)
        self.intake.close()
        for flusher, ring in zip(self.flushers, self.rings, strict=True):
            counters = flusher.counters
            decided = counters.delivered + counters.rejected + sum(counters.dropped.values())
            assert counters.carried + ring.stats()["written"] == decided + ring.stats()["waiting"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(tmp_path / str(len(made)), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("as_it_is", [True, False])
def test_a_message_is_forgotten_when_every_output_has_it(rig: Callable[..., Rig], as_it_is: bool) -> None:
    one = rig(as_it_is=as_it_is)
    one.sinks[1].gate.clear()
    one.take(1)
    one.until(lambda: one.sinks[0].bodies)
    assert not one.forgotten and one.counters.in_flight == 1 and one.counters.messages == 0
    one.sinks[1].gate.set()
    one.until(lambda: one.forgotten)
    assert one.forgotten == [1] and not one.again
    counters = one.counters
    assert (counters.messages, counters.metrics, counters.carried) == (1, 10, 10 if as_it_is else 0)
    assert (counters.in_flight, counters.in_flight_bytes) == (0, 0)
    assert [sink.bodies for sink in one.sinks] == [[lines(10, 10)]] * 2
    if not as_it_is:
        stats = one.feed.stats()["listeners"][3]
        assert (stats["received"], stats["accepted"]) == (10, 10)


def test_what_was_decided_before_is_a_duplicate(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.take(1)
    one.until(lambda: one.forgotten)
    one.take(2, message(10), redelivered=True)
    assert one.forgotten == [1, 2] and one.sinks[0].bodies == [lines(10, 10)]
    counters = one.counters
    assert (counters.messages, counters.duplicates, counters.duplicate_metrics) == (2, 1, 10)
    assert (counters.metrics, counters.redelivered) == (10, 1)
    batch = message(10)[0]["Penstock-Batch"]
    assert one.watcher.seen_ == [(batch, False, False), (batch, True, True)]


def test_what_comes_again_while_it_is_under_way_is_forgotten_with_the_first(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.sinks[0].gate.clear()
    for number in (1, 2, 3):
        one.take(number, message(10))
    assert one.counters.in_flight == 1 and len(one.intake.places) == 3
    one.sinks[0].gate.set()
    one.until(lambda: one.forgotten)
    assert one.forgotten == [1, 2, 3] and one.counters.duplicates == 2
    assert [sink.bodies for sink in one.sinks] == [[lines(10, 10)]] * 2


def test_parts_of_one_batch_are_not_taken_for_each_other(rig: Callable[..., Rig]) -> None:
    one = rig()
    told, _ = message(10)
    for number, body in enumerate((lines(10, 5), lines(15, 5))):
        own, data = message(10, body=body, metrics="5")
        one.take(number, ({**own, "Penstock-Batch": told["Penstock-Batch"]}, data))
    one.until(lambda: len(one.forgotten) == 2)
    assert one.counters.duplicates == 0


@pytest.mark.parametrize("as_it_is", [True, False])
def test_what_is_let_go_comes_again_and_is_counted_nowhere(rig: Callable[..., Rig], as_it_is: bool) -> None:
    one = rig(as_it_is=as_it_is)
    one.sinks[1].verdict = lambda payload: Verdict(Kind.RETRY, text="not now")
    for number in range(5):
        one.take(number)
    one.until(lambda: one.sinks[0].bodies)
    one.intake.let_go(lambda spot: spot.number < 3)
    assert sorted(one.again) == [0, 1, 2] and one.counters.in_flight == 2
    one.intake.let_go()
    assert sorted(one.again) == [0, 1, 2, 3, 4] and one.counters.in_flight_bytes == 0
    one.until(lambda: True)
    assert not one.forgotten and one.counters.messages == one.counters.carried == 0
    # It is taken like any other when it comes.
    one.sinks[1].verdict = lambda payload: DELIVERED
    one.take(0)
    one.until(lambda: one.forgotten)
    assert one.counters.duplicates == 0


def test_what_was_let_go_and_sent_after_all_is_known(rig: Callable[..., Rig]) -> None:
    one = rig()
    for sink in one.sinks:
        sink.gate.clear()
    one.take(1)
    wait_until(
        lambda: all(flusher.delivery.attempts.counters.attempts is not None for flusher in one.flushers)
    )
    wait_until(lambda: all(flusher._senders.busy for flusher in one.flushers))
    one.intake.let_go()
    assert one.again == [1]
    for sink in one.sinks:
        sink.gate.set()
    one.until(lambda: len(one.counters.window._order) == 1)
    one.take(1)
    assert one.forgotten == [1] and one.counters.duplicates == 1


def test_an_output_that_takes_no_more_has_the_message_come_again(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.flushers[1].drain(time.monotonic())
    one.take(1)
    one.until(lambda: one.again)
    assert one.again == [1] and not one.forgotten


BAD: dict[str, tuple[tuple[dict[str, str], bytes], str, int]] = {
    "foreign": (({}, b"x"), "no header Penstock-Version", 0),
    "empty": (message(1, body=b"", metrics="1", compression=""), "it holds no metric", 0),
    "cut off": ((message(1)[0], message(1)[1][:-1]), "cut off", 0),
    "longer than it says": (message(1, bytes="11"), "not in the form", 0),
    "no gzip": ((message(1)[0], b"\x1f\x8b" + message(1)[1][-4:]), "damaged", 10),
    "snappy that is none": ((message(1, compression="sz")[0], b"\xff" * 9), "not in the form", 0),
    "no line": (message(1, body=b"no line\n" * 10, compression=""), "nothing in it can be read: ", 10),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("as_it_is", [True, False])
def test_what_nobody_can_read_is_kept_and_forgotten(
    rig: Callable[..., Rig], case: str, as_it_is: bool
) -> None:
    one = rig(as_it_is=as_it_is)
    for sink in one.sinks:
        # As a database does.
        sink.verdict = lambda payload: Verdict(Kind.REJECT, text="cannot read it") if payload else DELIVERED
    (told, data), reason, metrics = BAD[case]
    if case == "no line" and as_it_is:
        reason = ""
    one.take(7, (told, data))
    one.until(lambda: one.forgotten)
    assert one.forgotten == [7] and one.counters.in_flight_bytes == 0
    kept = one.kept()
    if not reason:
        # The database refused it, and has said why: its lines are kept with those that it refuses.
        assert not kept and one.counters.poisoned == 0
        return
    [(about, body)] = kept
    assert body == data and reason in about["reason"]
    assert (about["number"], about["listener"], about["metrics"]) == (7, "fleet", metrics)
    assert one.counters.poisoned == one.counters.messages == 1
    # By the ledger each is somewhere once: dropped before any ring, or rejected by every output.
    rejected = [flusher.counters.rejected for flusher in one.flushers]
    feed = one.feed.stats()["listeners"].get(3)
    dropped = one.counters.damaged + (sum(feed["dropped"].values()) if feed else 0)
    assert (dropped, rejected) == ((0, [metrics] * 2) if as_it_is else (metrics, [0, 0]))


def test_bad_lines_cost_only_themselves_where_they_are_read(rig: Callable[..., Rig]) -> None:
    one = rig(as_it_is=False)
    one.take(1, message(1, body=lines(1, 5) + b"no line\n" * 5, compression=""))
    one.until(lambda: one.forgotten)
    assert one.counters.poisoned == 0 and one.sinks[0].bodies == [lines(1, 5)]
    assert sum(one.feed.stats()["listeners"][3]["dropped"].values()) == 5


def test_a_large_body_is_read_in_pieces_as_the_rings_have_room(rig: Callable[..., Rig]) -> None:
    one = rig(as_it_is=False, capacity=64 << 10)
    one.sinks[1].gate.clear()
    for number in range(3):
        one.take(number, message(10_000 * number, 10_000))
    one.until(lambda: one.sinks[0].bodies)
    written = one.rings[1].stats()["written"]
    assert 0 < written < 10_000 and not one.forgotten
    one.sinks[1].gate.set()
    one.until(lambda: len(one.forgotten) == 3)
    # In order, and nothing missed.
    assert one.forgotten == [0, 1, 2]
    for sink, ring in zip(one.sinks, one.rings, strict=True):
        assert sorted(b"".join(sink.bodies).splitlines()) == sorted(lines(0, 30_000).splitlines())
        assert ring.stats()["missed"] == 0


def test_room_that_another_one_took_has_the_message_come_again(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig(as_it_is=False, capacity=64 << 10)
    for sink in one.sinks:
        sink.gate.clear()
    monkeypatch.setattr(type(one.source), "has_room", lambda *args, **options: True)
    one.take(1, message(0, 10_000))
    assert one.again == [1] and not one.forgotten and one.counters.in_flight == 0


def test_a_body_that_would_fill_the_memory_is_not_read(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.relay.reading.BODY_BYTES_MAX", 100)
    one = rig(as_it_is=False)
    one.take(1)
    one.until(lambda: one.forgotten)
    assert "are read at most" in one.kept()[0][0]["reason"] and one.counters.damaged == 10


def test_an_arrival_that_has_not_been_yet_counts_as_now(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.take(1, message(1, oldest=str(10**19 - 1)))
    one.until(lambda: one.forgotten)
    buckets, total = one.flushers[0].counters.histograms["delay_seconds"]
    assert sum(buckets) == 10 and total < 600


def test_the_window_forgets_the_oldest() -> None:
    window = Window(3)
    names = [f"{n:032x}-{n:08x}" for n in range(5)]
    for name in names:
        window.add(name)
        window.add(name)
    assert [name in window for name in names] == [False, False, True, True, True]


def outputs(*encodings: str, **settings: Any) -> list[tuple[Any, Output]]:
    return [(NullOutput(name=f"n{at}", **settings), Sink(one)) for at, one in enumerate(encodings)]


def test_a_body_goes_on_as_it_is_where_nothing_can_change_it() -> None:
    plain_config = Config()
    lp, pb = FORMS["lp"], FORMS["pb"]
    assert forms(plain_config, outputs("lp", "lp")) == lp and forms(plain_config, outputs("pb")) == pb
    assert parse(*message(1)).payload.compression == "gz" and ("lp", "gz") in lp
    for nothing in (
        forms(plain_config, []),
        forms(plain_config, outputs("lp", "pb")),
        # May hold no unsigned integers.
        forms(plain_config, outputs("lp_signed")),
        forms(plain_config, outputs("lp", filter=FilterTable(measurement=("a",)))),
        forms(plain_config, [*outputs("lp"), *outputs("lp", shard="series")]),
        forms(Config(agent=Agent(tags={"a": "b"})), outputs("lp")),
        forms(Config(cardinality=Cardinality()), outputs("lp")),
    ):
        assert nothing == frozenset()
    assert ("lp", "sz") not in lp | pb and ("pb", "gz") not in lp | pb


def test_outputs_say_what_their_rings_hold() -> None:
    """What is passed on by :data:`FORMS` hangs on it."""
    from agent.outputs import make

    influx = InfluxOutput(name="i", url="http://h", org="o", bucket="b", token="t")
    assert make(influx).encoding == "lp" and FileOutput(name="f", path="p").format == "line"
    assert module.MESSAGE_BYTES == 1024


def test_what_comes_to_the_inbox_from_no_stream_is_nobodys() -> None:
    session = Session(cast(Owner, SimpleNamespace(config=None)), cast(Intake[Delivered], None))
    for headers in (None, {"Status": "100"}):
        one = SimpleNamespace(headers=headers, reply="", subject="_INBOX.a.1", data=b"x")
        asyncio.run(session._came(one))
    assert session._failed is None


def test_a_message_that_has_another_place_is_not_let_go_with_the_first(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.sinks[0].gate.clear()
    one.take(1, message(10))
    one.take(2, message(10))
    one.intake.let_go(lambda spot: spot.number == 1)
    assert not one.again and one.counters.in_flight == 1
    one.sinks[0].gate.set()
    one.until(lambda: one.forgotten)
    assert one.forgotten == [2]
