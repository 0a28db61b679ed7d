"""Collisions: what becomes of lines of one series and time from ring to output, and who counts them."""

import random
import time
from pathlib import Path

import pytest

from agent._core import Book, Feed, Guard, Lane, Ring, Waker, read_statsd
from agent.aggregation import make_aggregator
from agent.config import Collisions, Config, FileOutput, Flush, Listen, Map, RejectedTable, SpoolTable
from agent.delivery.delivery import Delivery
from agent.delivery.flusher import Flusher
from agent.delivery.task import DEFAULTS, Resilience
from agent.guards import Guards
from agent.outputs.base import Kind, Output, Payload, Refusal, Verdict, plain
from agent.store.rejected import Rejected
from agent.store.spool import Spool
from tests.conftest import wait_until

BODY = b"cpu v=1 1\ncpu w=2 1\ncpu v=3 1\nmem v=1 1\nmem v=1 2\n"
LAST = b"cpu v=3,w=2 1\nmem v=1 1\nmem v=1 2\n"
NUDGED = b"cpu v=1,w=2 1\ncpu v=3 2\nmem v=1 1\nmem v=1 2\n"
RISING = b"cpu v=1 1\ncpu v=1 2\n"
DELIVERED = Verdict(Kind.DELIVERED, status=204)
RETRY = Verdict(Kind.RETRY, status=500, text="not now")
SPLIT = Verdict(Kind.SPLIT, status=413, text="too large")
REJECT = Verdict(Kind.REJECT, status=400, text="no")


class Scripted(Output):
    """Gives the scripted verdicts in turn, then the last one for ever."""

    retry_min = 0.0001
    retry_max = 0.001

    def __init__(self, *verdicts: Verdict) -> None:
        super().__init__("out", "somewhere")
        self.verdicts = list(verdicts) or [DELIVERED]
        self.bodies: list[bytes] = []
        self.views: list[bool] = []

    def post(self, payload: Payload, deadline: float = 0.0) -> Verdict:
        body = bytes(plain(payload))
        assert body.count(b"\n") == payload.metrics
        self.bodies.append(body)
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]


class Bench:
    """A delivery with a ring, and a spool and a folder for what is rejected if they are asked for."""

    def __init__(
        self, *verdicts: Verdict, same_field: str = "last", folder: Path | None = None, retries: int = 0
    ) -> None:
        self.output = Scripted(*verdicts)
        self.spool = self.rejected = None
        self.left: list[object] = []
        self.brought = 0
        if folder is not None:
            self.spool = Spool("out", folder / "spool", SpoolTable(min_free_space=0, sync="never"))
            self.rejected = Rejected("out", folder / "rejected", RejectedTable())
        self.delivery = Delivery(
            self.output,
            Resilience(retries=retries) if folder is not None else DEFAULTS,
            spool=self.spool,
            rejected=self.rejected,
            same_field=same_field,
            left=self.left.append,
        )
        self.ring = Ring(None, 1 << 20, Waker())

    def bring(self, body: bytes = BODY, marked: bool = True, encoding: str = "lp") -> None:
        self.ring = Ring(None, 1 << 20, Waker(), encoding=encoding)
        metrics = body.count(b"\n")
        self.ring.put(body, metrics, time.time_ns(), marked=marked)
        batch = self.ring.take(1 << 20, 1 << 20, True)
        assert batch is not None and batch.marked == marked
        work = self.delivery.live(batch)
        if not self.delivery.deliver(work):
            self.delivery.drop(work, "drain_timeout")
        wait_until(lambda: not self.delivery.storing and not self.ring.stats()["waiting"])
        self.brought += metrics
        counters = self.delivery.counters
        decided = counters.delivered + counters.rejected + counters.merged + counters.spooled
        assert decided + sum(counters.dropped.values()) == self.brought


@pytest.mark.parametrize(("same_field", "sent"), [("last", LAST), ("nudge", NUDGED), ("", BODY)])
def test_a_marked_batch_is_merged_before_it_is_sent(same_field: str, sent: bytes) -> None:
    bench = Bench(RETRY, RETRY, DELIVERED, same_field=same_field)
    bench.bring()
    assert bench.output.bodies == [sent] * 3
    counters = bench.delivery.counters
    assert (counters.delivered, counters.merged) == (sent.count(b"\n"), BODY.count(b"\n") - sent.count(b"\n"))


@pytest.mark.parametrize(
    ("body", "marked", "encoding"), [(BODY, False, "lp"), (RISING, True, "lp"), (BODY, True, "pb")]
)
def test_what_needs_no_merging_goes_as_it_is(body: bytes, marked: bool, encoding: str) -> None:
    bench = Bench()
    bench.bring(body, marked, encoding)
    assert bench.output.bodies == [body] and bench.delivery.counters.merged == 0


def test_lines_of_an_output_without_unsigned_integers_are_merged_too() -> None:
    bench = Bench()
    bench.bring(encoding="lp_signed")
    assert bench.output.bodies == [LAST]


def test_parts_of_a_merged_batch_are_judged_line_by_line(tmp_path: Path) -> None:
    # Three lines: all, then two of them, of which the second one is refused, then the third one.
    refused = Verdict(Kind.DELIVERED, (Refusal(1, "no"),), status=400, text="partial")
    bench = Bench(SPLIT, DELIVERED, refused, folder=tmp_path)
    bench.bring()
    assert bench.output.bodies == [LAST, b"cpu v=3,w=2 1\n", b"mem v=1 1\nmem v=1 2\n"]
    counters = bench.delivery.counters
    assert (counters.delivered, counters.rejected, counters.merged) == (2, 1, 2)
    (file,) = (tmp_path / "rejected").glob("*.lp")
    assert file.read_bytes() == b"mem v=1 2\n"


def test_a_merged_batch_that_is_refused_is_rejected_as_it_was_sent(tmp_path: Path) -> None:
    bench = Bench(REJECT, folder=tmp_path)
    bench.bring()
    assert (bench.delivery.counters.rejected, bench.delivery.counters.merged) == (3, 2)
    (file,) = (tmp_path / "rejected").glob("*.lp")
    assert file.read_bytes() == LAST


def test_the_spool_holds_what_was_merged(tmp_path: Path) -> None:
    bench = Bench(RETRY, folder=tmp_path)
    bench.bring()
    assert bench.spool is not None
    assert (bench.delivery.counters.spooled, bench.delivery.counters.merged) == (3, 2)
    assert bench.spool.counters.metrics == 3
    entry = bench.spool.take()
    assert entry is not None
    payload = bench.spool.load(entry)
    assert payload is not None and (bytes(plain(payload)), payload.metrics) == (LAST, 3)


def test_so_it_does_without_an_attempt(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path)
    bench.ring.put(BODY, 5, time.time_ns(), marked=True)
    batch = bench.ring.take(1 << 20, 1 << 20, True)
    assert batch is not None and bench.spool is not None
    bench.delivery.store(bench.delivery.live(batch))
    wait_until(lambda: not bench.delivery.storing)
    assert bench.output.bodies == [] and bench.spool.counters.metrics == 3
    assert (bench.delivery.counters.spooled, bench.delivery.counters.merged) == (3, 2)


def test_part_of_a_merged_batch_goes_to_the_spool(tmp_path: Path) -> None:
    bench = Bench(SPLIT, DELIVERED, RETRY, folder=tmp_path)
    bench.bring()
    counters = bench.delivery.counters
    assert (counters.delivered, counters.spooled, counters.merged) == (1, 2, 2)


def test_what_is_dropped_of_a_merged_batch_is_what_was_not_delivered() -> None:
    bench = Bench(SPLIT, DELIVERED, RETRY)
    bench.delivery.attempts.stop(time.monotonic() + 0.05)
    bench.bring()
    counters = bench.delivery.counters
    assert (counters.delivered, counters.merged, counters.dropped) == (1, 2, {"drain_timeout": 2})


def test_a_batch_is_looked_at_once() -> None:
    """What comes back undecided stays as it is, whatever the configuration says by then."""
    bench = Bench(same_field="")
    bench.ring.put(BODY, 5, time.time_ns(), marked=True)
    batch = bench.ring.take(1 << 20, 1 << 20, True)
    assert batch is not None
    work = bench.delivery.live(batch)
    work.merge("")
    work.merge("last")
    with work.whole[0] as whole:
        assert (bytes(whole), work.whole[1]) == (BODY, 5)
    bench.delivery.reconfigure(bench.output, DEFAULTS, None, same_field="nudge")
    assert bench.delivery.deliver(work) and bench.output.bodies == [BODY]
    bench.brought = 5
    bench.bring(BODY[: BODY.index(b"mem")])
    assert bench.output.bodies[1:] == [NUDGED[: NUDGED.index(b"mem")]]


# ---- with all that is around it ----


def test_the_ledger_is_exact_whatever_becomes_of_merged_batches(tmp_path: Path) -> None:
    chance = random.Random(7)
    seen: list[bytes] = []

    class Chance(Output):
        retry_min, retry_max, max_concurrency = 0.0001, 0.001, 3

        def post(self, payload: Payload, deadline: float = 0.0) -> Verdict:
            body = bytes(plain(payload))
            verdict = chance.choice([DELIVERED, DELIVERED, RETRY, SPLIT, REJECT])
            if verdict is DELIVERED:
                seen.append(body)
            return verdict

    waker = Waker()
    ring = Ring(None, 1 << 20, waker, slot_metrics=4)
    spool = Spool("out", tmp_path / "spool", SpoolTable(min_free_space=0, sync="never"))
    rejected = Rejected("out", tmp_path / "rejected", RejectedTable())
    flusher = Flusher(
        "out",
        Chance("out", "here"),
        waker,
        [ring],
        Flush(batch_lines=40, batch_bytes=1 << 20, interval=0.001),
        Resilience(retries=1),
        spool=spool,
        rejected=rejected,
        same_field="last",
    )
    feed = Feed()
    guards = Guards(Config(output=(FileOutput(name="out", path="x"),), collisions=Collisions()), Book(), {})
    feed.set_layout((), [ring], guards.of("feed", (), [ring]))
    flusher.start()
    for number in range(300):
        lines = [
            f"m,h={chance.randrange(3)} f{chance.randrange(3)}={number} {number // 4}" for _ in range(20)
        ]
        while feed.read(0, "\n".join(lines).encode())["dropped"]:
            time.sleep(0.001)
        feed.publish()
    wait_until(lambda: not ring.stats()["waiting"] and not spool.counters.metrics, 20)
    assert flusher.drain(time.monotonic() + 10)
    counters, kept = flusher.counters, spool.counters
    assert counters.merged > 1000
    decided = counters.delivered + counters.rejected + counters.merged + sum(counters.dropped.values())
    assert ring.stats()["written"] == decided + sum(kept.dropped.values()) + kept.metrics
    assert counters.delivered == sum(body.count(b"\n") for body in seen)
    assert counters.rejected == rejected.counters.metrics + rejected.counters.unsaved


def test_names_that_become_fields_of_one_series_are_one_line_of_a_tick() -> None:
    config = Config(
        map=(
            Map(match="web.*.ms", measurement="web", tags={"host": "$1"}, field="ms", types=("gauge",)),
            Map(match="web.*.load", measurement="web", tags={"host": "$1"}, field="load", types=("gauge",)),
        ),
        output=(FileOutput(name="out", path="x"),),
        collisions=Collisions(),
    )
    guards, ring = Guards(config, Book(), {}), Ring(None, 1 << 20, Waker())
    aggregator = make_aggregator(Listen(address="udp://127.0.0.1:1", format="statsd"), 1)
    read_statsd(
        b"web.a.ms:1|g\nweb.a.load:2|g\nweb.b.load:3|g\n", aggregator, guard=guards.of("lane-0", (), [ring])
    )
    assert aggregator.tick([Lane(0)], [ring], 5, guard=guards.of("tick", (), [ring])) == 3
    batch = ring.take(1 << 20, 1 << 20, True)
    assert batch is not None and batch.marked
    assert batch.merge(False) == (
        b"web,host=a,metric_type=gauge ms=1,load=2 5\nweb,host=b,metric_type=gauge load=3 5\n",
        2,
    )
    batch.release()


def test_what_an_earlier_process_left_is_looked_at(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "ring"), 1 << 20, Waker())
    ring.put(BODY, 5)
    ring.close(unlink=False)
    adopted = Ring.adopt(str(tmp_path / "ring"), Waker())
    adopted.put(RISING, 2)
    batch = adopted.take(1, 1, True)
    assert batch is not None and batch.marked and batch.merge(False) == (LAST, 3)
    batch.release()
    batch = adopted.take(1, 1, True)
    assert batch is not None and not batch.marked
    batch.release()


def test_a_guard_is_made_where_the_table_is() -> None:
    output = (FileOutput(name="out", path="x"),)
    ring = Ring(None, 1 << 20, Waker())
    off = Guards(Config(output=output), Book(), {})
    assert off.of("lane-0", (), [ring]) is None
    last = Guards(Config(output=output, collisions=Collisions()), Book(), {}, off)
    guard = last.of("lane-0", (), [ring])
    assert isinstance(guard, Guard)
    nudge = Guards(Config(output=output, collisions=Collisions(same_field="nudge")), Book(), {}, last)
    assert nudge.of("lane-0", (), [ring]) is guard, "what the writers do is the same"
