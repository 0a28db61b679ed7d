"""Finished bodies that a broker's messages bring: sent as they are, beside the rings, and told of once."""

import gzip
import threading
import time

import pytest

from agent.delivery.breaker import State
from agent.outputs.base import Kind, Payload, Refusal, Verdict
from tests.conftest import wait_until
from tests.unit.test_flusher_spool import BUSY, DELIVERED, LINE, NOW_NS, REFUSED, Rig, Sink

BATCH = f"{1 << 127 | 7:032x}"


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(*args, **kwargs):
        made.append(Rig(tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.output.gate.set()
        one.flusher.drain(time.monotonic() + 5)
        if one.spool is not None:
            one.spool.close()
        restored, known = one.account()
        assert restored + one.counters.carried == known


class Told:
    """What became of bodies."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ends = []
        self.works = []

    def __call__(self, work, decided):
        with self.lock:
            self.ends.append(decided)
            self.works.append(work)


def body(first, count):
    return b"".join(LINE % n for n in range(first, first + count))


def payload(first=0, count=10, compressed=True):
    lines = body(first, count)
    data = gzip.compress(lines) if compressed else lines
    return Payload(data, count, len(lines), "lp", "gz" if compressed else "", oldest_ns=NOW_NS)


def bring(one, told, *args, **kwargs):
    return one.flusher.carry(payload(*args, **kwargs), BATCH, told)


def test_a_body_is_sent_as_it_is_under_the_id_of_its_batch(rig):
    seen = []

    class Bare(Sink):
        def encode(self, body, metrics, encoding="lp"):
            raise AssertionError("it is finished")

        def post(self, payload, deadline):
            seen.append((payload.data, payload.compression, payload.batch, payload.oldest_ns))
            return super().post(payload, deadline)

    one, told = rig(Bare(), spool=False), Told()
    sent = payload()
    assert one.flusher.carry(sent, BATCH, told) is not None
    wait_until(lambda: told.ends)
    assert told.ends == [True] and seen == [(sent.data, "gz", BATCH, NOW_NS)]
    counters = one.counters
    assert (counters.delivered, counters.carried, counters.restored, counters.batches) == (10, 10, 0, 1)
    assert one.flusher.delivery.promise.delays.on_time == 0
    assert sum(counters.histograms["delay_seconds"][0]) == 10


def test_bodies_and_rings_take_turns(rig):
    one, told = rig(Sink(concurrency=1), spool=False, flush={"interval": 0.001}), Told()
    one.output.gate.clear()
    bring(one, told, 1000, 1)
    wait_until(lambda: one.output.began)
    for n in range(1001, 1021):
        bring(one, told, n, 1)
    one.put(20)
    one.output.gate.set()
    wait_until(lambda: len(told.ends) == 21 and not one.ring.stats()["waiting"])
    lines = [int(line.split()[-1]) for line in one.output.lines()]
    # The ring's did not wait for all that was brought before them.
    assert max(lines.index(n) for n in range(10)) < len(lines) - 5


def test_one_that_is_refused_in_parts_keeps_the_account_exact(rig):
    def verdict(lines):
        if lines.count(b"\n") > 2:
            return Verdict(Kind.SPLIT, status=413)
        refused = (Refusal(0, "no"),) if LINE % 3 in lines else ()
        return Verdict(Kind.DELIVERED, refused, status=400)

    one, told = rig(Sink(verdict), spool=False), Told()
    bring(one, told)
    wait_until(lambda: told.ends)
    assert told.ends == [True] and not told.works[0].damaged
    assert (one.counters.delivered, one.counters.rejected, one.counters.carried) == (9, 1, 10)
    assert one.rejected.counters.metrics == 1


def test_what_says_nothing_true_of_itself_is_rejected_and_told_apart(rig):
    one, told = rig(Sink(lambda lines: DELIVERED), spool=False), Told()
    one.output.post = lambda payload, deadline: Verdict(Kind.REJECT, status=400, text="no gzip")
    one.flusher.carry(Payload(b"no gzip", 10, 100, "lp", "gz", oldest_ns=NOW_NS), BATCH, told)
    wait_until(lambda: told.ends)
    assert told.ends == [True] and told.works[0].damaged and one.counters.rejected == 10


def test_it_goes_to_the_spool_as_it_is_and_is_told_of_then(rig):
    one, told = rig(Sink(lambda body: REFUSED), retries=0), Told()
    sent = payload()
    one.flusher.carry(sent, BATCH, told)
    wait_until(lambda: told.ends)
    assert told.ends == [True] and one.spool.counters.metrics == 10
    [path] = (one.folder / "spool").glob("*.lp.gz")
    assert path.read_bytes() == sent.data and BATCH in path.name
    assert (one.counters.carried, one.counters.delivered) == (10, 0)


def test_it_pushes_nothing_out_of_the_spool_but_waits(rig):
    state = {"verdict": BUSY}
    # Each file takes 4 KiB.
    one = rig(Sink(lambda body: state["verdict"]), settings={"max_bytes": 12 << 10}, retries=0)
    told = Told()
    works = [bring(one, told, 10 * n) for n in range(20)]
    wait_until(lambda: len(told.ends) == 3)
    posts = one.output.posts
    wait_until(lambda: one.output.posts > posts + 20)
    assert len(told.ends) == 3 and one.spool.counters.files == 3
    state["verdict"] = DELIVERED
    wait_until(lambda: len(told.ends) == len(works) and not one.spool.counters.metrics, 60)
    assert told.ends == [True] * len(works) and one.spool.counters.dropped == {}
    assert sorted(one.output.lines()) == sorted(body(0, 200).splitlines(keepends=True))


def test_without_a_spool_it_waits_for_as_long_as_it_takes(rig):
    state = {"verdict": BUSY}
    one = rig(Sink(lambda body: state["verdict"]), spool=False, retries=0, batch_timeout=0.001)
    told = Told()
    bring(one, told)
    wait_until(lambda: one.output.posts > 5)
    assert not told.ends
    state["verdict"] = DELIVERED
    wait_until(lambda: told.ends)
    assert told.ends == [True] and one.counters.delivered == 10


def test_what_is_let_go_is_attempted_no_more_and_counted_nowhere(rig):
    one, told = rig(Sink(lambda body: BUSY), spool=False, retries=0), Told()
    works = [bring(one, told, 10 * n) for n in range(20)]
    wait_until(lambda: one.output.posts > 5)
    one.flusher.let_go(works)
    wait_until(lambda: len(told.ends) == 20)
    assert told.ends == [False] * 20
    assert (one.counters.carried, one.counters.delivered, one.counters.dropped) == (0, 0, {})


def test_one_that_is_delivered_while_it_is_let_go_is_told_of_as_delivered(rig):
    one, told = rig(spool=False), Told()
    one.output.gate.clear()
    work = bring(one, told)
    wait_until(lambda: one.output.began)
    one.flusher.let_go([work])
    assert not told.ends
    one.output.gate.set()
    wait_until(lambda: told.ends)
    assert told.ends == [True] and one.counters.carried == 10


@pytest.mark.parametrize("spool", [False, True])
def test_at_the_end_what_is_undecided_is_let_go_and_no_more_is_taken(rig, spool):
    one, told = rig(Sink(lambda body: BUSY), spool=spool, settings={"max_bytes": 64 << 10}), Told()
    works = [bring(one, told, 10 * n) for n in range(30)]
    wait_until(lambda: one.output.posts > 3)
    one.flusher.drain(time.monotonic() + 0.1)
    wait_until(lambda: len(told.ends) == len(works))
    assert bring(one, told, 1000) is None
    stored = one.spool.counters.metrics if spool else 0
    assert 10 * told.ends.count(True) == stored == one.counters.carried


def test_an_attempt_that_outlives_its_output_is_told_of_all_the_same(rig):
    one, told = rig(spool=False), Told()
    one.output.gate.clear()
    one.output.abort = lambda: None
    bring(one, told)
    wait_until(lambda: one.output.began)
    thread = threading.Thread(target=one.flusher.drain, args=(time.monotonic(),))
    thread.start()
    thread.join(30)
    assert not told.ends
    one.output.verdict = lambda body: BUSY
    one.output.gate.set()
    wait_until(lambda: told.ends)
    assert told.ends == [False] and one.counters.carried == 0


def test_an_open_breaker_tries_with_what_waits(rig):
    state = {"verdict": REFUSED}
    one, told = rig(Sink(lambda body: state["verdict"]), spool=False), Told()
    for n in range(40):
        bring(one, told, 10 * n)
    wait_until(lambda: one.breaker is not State.CLOSED)
    state["verdict"] = DELIVERED
    wait_until(lambda: len(told.ends) == 40)
    assert one.counters.delivered == one.counters.carried == 400
