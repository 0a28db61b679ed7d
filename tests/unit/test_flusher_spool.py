"""What goes to the spool instead of waiting for the network, and how it comes out of it again."""

import math
import random
import threading
import time

import pytest

from agent._core import Ring, Waker
from agent.config_schema import Flush, RejectedTable, SpoolTable
from agent.delivery.breaker import State
from agent.delivery.flusher import Flusher
from agent.delivery.relief import OLD_S
from agent.delivery.task import Resilience
from agent.outputs.base import Kind, Output, Payload, Refusal, Verdict, plain
from agent.store.rejected import Rejected
from agent.store.spool import Spool
from tests.conftest import wait_until

LINE = b"cpu,host=a v=1.5 %019d\n"
NEVER = 3600.0
NOW_NS = time.time_ns()

DELIVERED = Verdict(Kind.DELIVERED, status=204)
REFUSED = Verdict(Kind.RETRY, text="cannot connect: Connection refused")
BUSY = Verdict(Kind.RETRY, status=500, text="not now")
HOLD = Verdict(Kind.HOLD, status=401, text="who are you")


class Sink(Output):
    """Keeps the lines that it is sent; *verdict* says what becomes of a body, and while ``gate`` is not set,
    attempts hang in it until they are interrupted or aborted."""

    retry_min = 0.001
    retry_max = 0.02

    def __init__(self, verdict=lambda body: DELIVERED, concurrency=2):
        super().__init__("sink", "here")
        self.verdict = verdict
        self.max_concurrency = concurrency
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.bodies = []
        self.posts = 0
        self.deadlines = []
        self.began = {}
        self.cut_before = -math.inf
        self.aborted = False

    def post(self, payload, deadline):
        me, began = threading.get_ident(), time.monotonic()
        with self.lock:
            self.posts += 1
            self.began[me] = began
            self.deadlines.append(deadline - began)
        try:
            while not self.gate.wait(0.005):
                if self.aborted or began < self.cut_before or time.monotonic() > deadline:
                    return Verdict(Kind.RETRY, text="connection lost")
            body = bytes(plain(payload))
            verdict = self.verdict(body)
            if verdict.kind is Kind.DELIVERED:
                with self.lock:
                    self.bodies.append(body)
            return verdict
        finally:
            with self.lock:
                del self.began[me]

    def interrupt(self, before):
        self.cut_before = before

    def abort(self):
        self.aborted = True

    def lines(self):
        with self.lock:
            return b"".join(self.bodies).splitlines(keepends=True)


class Rig:
    """A flusher on a real ring and a real spool."""

    def __init__(
        self, folder, output=None, *, capacity=1 << 20, spool=True, settings=None, flush=None, **resilience
    ):
        self.output = output or Sink()
        self.waker = Waker()
        self.ring = Ring(None, capacity, self.waker, slot_bytes=64, slot_metrics=1)
        self.flush = Flush(**{"batch_lines": 10, "batch_bytes": 1 << 20, "interval": NEVER, **(flush or {})})
        self.folder = folder
        settings = {"min_free_space": 0, "sync": "never", **(settings or {})}
        self.spool = (
            Spool("sink", folder / "spool", SpoolTable(**settings), changed=self.changed) if spool else None
        )
        self.rejected = Rejected("sink", folder / "rejected", RejectedTable())
        self.flusher = Flusher(
            "test",
            self.output,
            self.waker,
            [self.ring],
            self.flush,
            Resilience(**resilience),
            spool=self.spool,
            rejected=self.rejected,
        )
        self.sent = 0
        self.flusher.start()

    def changed(self):
        if hasattr(self, "flusher"):
            self.flusher.spool_changed()

    def put(self, count=1):
        for _ in range(count):
            while not self.ring.put(LINE % self.sent, 1, NOW_NS + self.sent):
                time.sleep(0.001)
            self.sent += 1

    @property
    def counters(self):
        return self.flusher.counters

    @property
    def breaker(self):
        return self.flusher.delivery.attempts.breaker

    def account(self):
        """Every metric is somewhere, and once."""
        counters, ring = self.counters, self.ring.stats()
        known = counters.delivered + counters.rejected + sum(counters.dropped.values()) + ring["waiting"]
        restored = counters.restored
        if self.spool is not None:
            spool = self.spool.counters
            restored += spool.restored
            known += spool.metrics + sum(spool.dropped.values())
        return restored + ring["written"], known

    def at_rest(self):
        return not self.ring.stats()["waiting"] and (self.spool is None or not self.spool.counters.metrics)

    def all_lines(self):
        return [LINE % n for n in range(self.sent)]


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """While the breaker is open, what stays in the ring for a second stays for a moment here."""
    monkeypatch.setattr("agent.delivery.relief.YOUNG_S", 0.02)
    monkeypatch.setattr("agent.delivery.relief.YOUNG_POLL_S", 0.01)
    monkeypatch.setattr("agent.delivery.feed.MARK_S", 0.005)


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
        assert not one.flusher.alive
        if one.spool is not None:
            one.spool.close()
        expected, known = one.account()
        assert expected == known


def down(rig):
    """A rig whose server is gone, and whose breaker is open."""
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: state["verdict"]))
    one.state = state
    one.put(60)
    wait_until(lambda: one.breaker is not State.CLOSED and not one.ring.pending()[0])
    return one


def test_live_batches_of_a_healthy_server_do_not_touch_the_spool(rig):
    one = rig()
    one.put(1000)
    wait_until(lambda: one.counters.delivered == 1000)
    assert one.spool.counters.stored == 0 and not list((one.folder / "spool").iterdir())


def test_a_batch_whose_retries_are_used_up_goes_to_the_spool_and_is_delivered_later(rig):
    poison = LINE % 0
    mended = threading.Event()
    one = rig(Sink(lambda body: DELIVERED if mended.is_set() or poison not in body else BUSY), retries=2)
    # So that one batch that fails does not open the breaker.
    one.put(10)
    wait_until(lambda: one.counters.spooled == 10)
    wait_until(lambda: one.ring.stats()["waiting"] == 0)
    assert one.spool.counters.stored == 10
    assert one.counters.attempts >= 3
    mended.set()
    wait_until(lambda: one.counters.delivered == 10)
    wait_until(lambda: one.spool.counters.files == 0)
    assert one.output.lines() == one.all_lines() and one.counters.replayed == 1


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_a_batch_is_repeated_as_often_as_the_config_says(rig, retries):
    one = rig(Sink(lambda body: BUSY if len(body) == 10 * len(LINE % 0) else DELIVERED), retries=retries)
    # Single lines pass, and keep the breaker closed.
    one.flusher.reconfigure(Flush(batch_lines=1, batch_bytes=1 << 20, interval=NEVER))
    one.put(100)
    wait_until(lambda: one.counters.delivered == 100)
    one.flusher.reconfigure(one.flush)
    attempts = one.counters.attempts
    one.output.retry_min = one.output.retry_max = NEVER
    one.output.retry_max = 0.001
    one.put(10)
    wait_until(lambda: one.spool.counters.stored == 10)
    assert one.counters.attempts - attempts >= 1 + retries
    one.output.verdict = lambda body: DELIVERED


def test_the_deadline_of_an_attempt_is_what_is_left_of_its_batch_s(rig):
    output = Sink(lambda body: BUSY)
    output.retry_min = output.retry_max = 0.05
    one = rig(output, batch_timeout=0.3, retries=1000)
    one.put(10)
    wait_until(lambda: one.spool.counters.stored == 10)
    # Until it was stored, each attempt had less time than the one before it, and never a fresh one.
    first = output.deadlines[
        : 1
        + next(
            (
                at
                for at, (a, b) in enumerate(zip(output.deadlines, output.deadlines[1:], strict=False))
                if b > a
            ),
            len(output.deadlines) - 1,
        )
    ]
    assert first[0] <= 0.3 and sorted(first, reverse=True) == first
    one.output.verdict = lambda body: DELIVERED


def test_an_attempt_that_hangs_is_given_up_when_the_time_of_its_batch_is_over(rig):
    one = rig(batch_timeout=0.2)
    one.output.gate.clear()
    started = time.monotonic()
    one.put(10)
    wait_until(lambda: one.spool.counters.stored == 10)
    assert 0.15 < time.monotonic() - started < 2


def test_while_the_breaker_is_open_full_batches_go_to_the_spool_and_others_wait(rig):
    one = down(rig)
    wait_until(lambda: one.spool.counters.metrics == 60)
    one.put(25)
    wait_until(lambda: one.spool.counters.metrics == 80)
    assert one.ring.pending()[0] == 5
    posts = one.output.posts
    one.put(5)
    wait_until(lambda: one.spool.counters.metrics == 90)
    assert one.output.posts - posts < 20
    one.state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 90)
    assert sorted(one.output.lines()) == one.all_lines()


def test_what_arrived_just_now_is_not_spilled_and_is_delivered_before_the_backlog(rig, monkeypatch):
    one = down(rig)
    wait_until(lambda: one.spool.counters.metrics == 60)
    monkeypatch.setattr("agent.delivery.relief.YOUNG_S", NEVER)
    posts = one.output.posts
    one.put(200)
    wait_until(lambda: one.output.posts > posts + 20)
    assert one.spool.counters.metrics == 60 and one.ring.pending()[0] == 200
    # One file is the probe; what is in the ring comes next, beside at most one file at a time.
    one.state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 260)
    lines = one.output.lines()
    assert lines.index(LINE % 60) <= 30
    assert sorted(lines) == one.all_lines()


def test_what_arrived_just_now_is_spilled_all_the_same_if_the_ring_runs_full(rig, monkeypatch):
    monkeypatch.setattr("agent.delivery.relief.YOUNG_S", NEVER)
    one = rig(Sink(lambda body: REFUSED), capacity=1 << 16)
    one.put(5000)
    assert one.spool.counters.stored > 2500


def test_what_has_waited_for_long_goes_to_the_spool_even_if_it_is_little(rig, monkeypatch):
    monkeypatch.setattr("agent.delivery.relief.OLD_S", 0.2)
    output = Sink(lambda body: HOLD)
    output.retry_max = NEVER
    one = rig(output)
    one.put(10)
    wait_until(lambda: one.spool.counters.metrics == 10)
    started = time.monotonic()
    one.put(3)
    wait_until(lambda: one.spool.counters.metrics == 13)
    assert 0.15 < time.monotonic() - started and OLD_S == 10.0
    assert output.posts == 1


def test_an_outage_makes_few_small_files(rig):
    """The breaker is tried with what is in the spool already: a probe that fails makes no new file."""
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: state["verdict"]), flush={"interval": 0.001})
    for _ in range(300):
        one.put(1)
        time.sleep(0.002)
    wait_until(lambda: one.output.posts > 60)
    assert one.spool.counters.files <= 40
    state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 300)
    assert sorted(one.output.lines()) == one.all_lines()


def test_a_refused_output_keeps_everything_in_the_spool(rig):
    state = {"verdict": HOLD}
    output = Sink(lambda body: state["verdict"])
    output.retry_max = 0.05
    one = rig(output)
    one.put(200)
    wait_until(lambda: one.spool.counters.metrics == 200)
    assert one.flusher.health.state == "holding" and one.counters.opened >= 1
    state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 200)
    assert one.flusher.health.state == "ok"


def test_live_batches_pass_a_backlog_that_hangs(rig):
    """Of several places the backlog leaves one free, whatever becomes of the others."""
    hanging, release = [], threading.Event()
    state = {"up": False}

    def verdict(body):
        if not state["up"]:
            return REFUSED
        if int(body.split()[2]) < 100:
            time.sleep(0.005)
            if one.flusher.delivery.attempts.limit > 2:
                hanging.append(body)
                assert release.wait(30)
        return DELIVERED

    one = rig(Sink(verdict, concurrency=4), flush={"batch_lines": 1})
    one.put(100)
    wait_until(lambda: one.spool.counters.metrics == 100)
    state["up"] = True
    wait_until(lambda: len(hanging) >= 2)
    assert one.spool.counters.metrics > 50
    one.put(20)
    wait_until(lambda: all(LINE % n in one.output.lines() for n in range(100, 120)))
    assert len(hanging) < 4
    release.set()
    wait_until(lambda: one.counters.delivered == 120)


def test_with_one_place_only_a_live_batch_waits_for_one_file_and_not_for_all(rig):
    state = {"verdict": REFUSED}
    entered, release = threading.Event(), threading.Event()

    def verdict(body):
        # The first success closes the breaker.
        if one.output.bodies:
            entered.set()
            assert release.wait(30)
        return state["verdict"]

    one = rig(Sink(verdict, concurrency=1))
    one.put(200)
    wait_until(lambda: one.spool.counters.metrics == 200)
    state["verdict"] = DELIVERED
    assert entered.wait(10)
    one.put(10)
    release.set()
    wait_until(lambda: one.counters.delivered == 210)
    [place] = [at for at, body in enumerate(one.output.bodies) if body.startswith(LINE % 200)]
    assert place == 2


def test_oldest_first_keeps_live_batches_back_until_the_backlog_is_delivered(rig):
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: state["verdict"], concurrency=1), order="oldest_first")
    one.put(100)
    wait_until(lambda: one.spool.counters.metrics == 100)
    one.put(9)
    state["verdict"] = DELIVERED
    one.put(1)
    wait_until(lambda: one.counters.delivered == 110)
    order = [int(line.split()[2]) for line in one.output.lines()]
    assert order == list(range(110))


def test_a_ring_that_fills_up_is_spilled_while_all_senders_are_busy(rig):
    one = rig(Sink(concurrency=1), capacity=1 << 16)
    one.output.gate.clear()
    one.put(1500)
    wait_until(lambda: one.spool.counters.stored > 0)
    assert one.breaker is State.CLOSED and one.output.posts == 1
    one.output.gate.set()
    one.put(2500)
    wait_until(lambda: one.counters.delivered == 4000, timeout=30)
    assert sorted(one.output.lines()) == one.all_lines()


def test_attempts_that_hang_are_interrupted_where_they_hold_up_a_full_ring(rig, monkeypatch):
    monkeypatch.setattr("agent.delivery.relief.STUCK_S", 0.2)
    monkeypatch.setattr("agent.delivery.relief.FULL_POLL_S", 0.05)
    one = rig(capacity=1 << 16)
    one.output.gate.clear()
    # More than fits into the ring: while the first two batches hang, none of its space is freed.
    one.put(5000)
    assert one.output.cut_before > 0
    wait_until(lambda: one.spool.counters.metrics > 4000)
    one.output.gate.set()
    wait_until(lambda: one.counters.delivered == 5000, timeout=30)
    assert sorted(set(one.output.lines())) == one.all_lines()


def test_attempts_that_hang_are_interrupted_all_at_once_and_go_to_the_spool(rig, monkeypatch):
    """What is behind the first one would hold up the ring next: there is no time for one after the other."""
    monkeypatch.setattr("agent.delivery.relief.STUCK_S", 0.2)
    monkeypatch.setattr("agent.delivery.relief.FULL_POLL_S", 0.05)
    capacity, batch = 1 << 16, 10_000 // len(LINE % 0)
    flush = {"batch_lines": batch, "interval": 0.05}
    one = rig(Sink(concurrency=4), capacity=capacity, flush=flush, spill_at=0.7)
    one.output.gate.clear()
    one.put(4 * batch)
    wait_until(lambda: one.output.posts == 4)
    # Just enough for the first one to hold up too much; less than a batch is behind the four.
    one.put(batch - 1)
    wait_until(lambda: one.spool.counters.metrics >= 4 * batch)
    one.output.gate.set()
    wait_until(one.at_rest, timeout=30)
    assert sorted(set(one.output.lines())) == one.all_lines()


def test_attempts_that_hang_are_left_in_peace_while_the_ring_has_room(rig, monkeypatch):
    monkeypatch.setattr("agent.delivery.relief.STUCK_S", 0.05)
    monkeypatch.setattr("agent.delivery.relief.FULL_POLL_S", 0.01)
    one = rig()
    one.output.gate.clear()
    one.put(40)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert one.output.cut_before < 0 and one.spool.counters.stored == 0
        time.sleep(0.01)


def test_a_file_that_always_fails_blocks_neither_live_batches_nor_files(rig):
    poison = LINE % 5
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: BUSY if poison in body else state["verdict"], concurrency=1))
    one.put(100)
    wait_until(lambda: one.spool.counters.metrics == 100)
    state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 90)
    one.put(50)
    wait_until(lambda: one.counters.delivered == 140)
    assert one.spool.counters.metrics == 10
    poison = b"nothing\n"
    wait_until(lambda: one.counters.delivered == 150)


def test_what_was_refused_is_kept_with_its_reasons_once_its_batch_is_decided(rig):
    def verdict(body):
        bad = [at for at, line in enumerate(body.splitlines()) if b"7 " in line or line.endswith(b"7")]
        return Verdict(
            Kind.DELIVERED, tuple(Refusal(at, f"bad {at}") for at in bad), status=400, text="partial"
        )

    one = rig(Sink(verdict))
    one.put(20)
    wait_until(lambda: one.counters.rejected == 2)
    assert one.counters.delivered == 18
    files = sorted((one.folder / "rejected").glob("*.lp"))
    assert sorted(b"".join(file.read_bytes() for file in files).splitlines(keepends=True)) == [
        LINE % 7,
        LINE % 17,
    ]
    assert all("bad 7" in file.with_suffix(".json").read_text() for file in files)


def test_a_batch_that_is_given_up_in_the_middle_leaves_only_the_rest_to_the_spool(rig):
    """In parts: the first half was delivered, one line rejected, and then the server is gone."""
    state = {"gone": False}
    bad = LINE % 2

    def verdict(body):
        if state["gone"]:
            return REFUSED
        if body.count(b"\n") == 10:
            return Verdict(Kind.SPLIT, status=400, text="something is bad")
        if bad in body:
            return Verdict(Kind.SPLIT if body.count(b"\n") > 1 else Kind.REJECT, status=400, text="bad")
        if LINE % 3 in body:
            state["gone"] = True
        return DELIVERED

    one = rig(Sink(verdict, concurrency=1))
    one.put(10)
    wait_until(lambda: one.counters.rejected == 1)
    counters = one.counters
    assert counters.rejected == 1 and 3 <= counters.delivered < 9
    assert counters.delivered + 1 + one.spool.counters.metrics == 10
    [file] = (one.folder / "rejected").glob("*.lp")
    assert file.read_bytes() == bad
    one.output.verdict = lambda body: DELIVERED
    wait_until(lambda: one.counters.delivered == 9)
    lines = one.output.lines()
    assert sorted(lines) == [line for line in one.all_lines() if line != bad]


def test_a_file_that_is_given_up_in_the_middle_is_replaced_by_its_rest(rig):
    state = {"verdict": REFUSED, "gone": True}
    one = rig(Sink(lambda body: REFUSED, concurrency=1))
    one.put(10)
    wait_until(lambda: one.spool.counters.metrics == 10)

    def verdict(body):
        if body.count(b"\n") == 10:
            return Verdict(Kind.SPLIT, status=413, text="too large")
        if LINE % 0 in body:
            return DELIVERED
        return REFUSED if state["gone"] else DELIVERED

    one.output.verdict = verdict
    wait_until(lambda: one.counters.delivered == 5)
    wait_until(lambda: one.spool.counters.metrics == 5)
    state["gone"] = False
    wait_until(lambda: one.counters.delivered == 10)
    assert one.output.lines() == one.all_lines()


def test_a_spool_that_refuses_leaves_batches_in_the_ring_and_attempts_go_on(rig):
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: state["verdict"]), settings={"min_free_space": 1 << 60})
    one.put(100)
    wait_until(lambda: one.output.posts > 20)
    assert one.spool.counters.stored == 0 and one.ring.stats()["waiting"] == 100
    state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 100)
    assert sorted(one.output.lines()) == one.all_lines()


def test_a_spool_that_works_again_is_used_again(rig):
    one = rig(Sink(lambda body: REFUSED), settings={"min_free_space": 1 << 60})
    one.put(100)
    wait_until(lambda: one.output.posts > 10)
    one.spool.reconfigure(SpoolTable(min_free_space=0, sync="never"))
    wait_until(lambda: one.spool.counters.metrics == 100, timeout=20)
    assert one.ring.stats()["waiting"] == 0
    one.output.verdict = lambda body: DELIVERED


def test_what_an_earlier_process_spooled_is_delivered(tmp_path, rig):
    spool = Spool("sink", tmp_path / "spool", SpoolTable(min_free_space=0))
    body = b"".join(LINE % n for n in range(7))
    assert spool.add(Payload(body, 7, len(body)), NOW_NS)
    spool.close()
    one = rig()
    wait_until(lambda: one.counters.delivered == 7)
    assert one.spool.counters.restored == 7 and one.output.lines() == [LINE % n for n in range(7)]


def test_a_file_that_is_damaged_blocks_nothing(tmp_path, rig):
    state = {"verdict": REFUSED}
    one = rig(Sink(lambda body: state["verdict"], concurrency=1))
    one.put(100)
    wait_until(lambda: one.spool.counters.files == 10)
    names = sorted(path for path in (tmp_path / "spool").iterdir() if path.suffix == ".lp")
    names[0].write_bytes(b"")
    names[4].write_bytes(names[4].read_bytes()[:-1] + b"x")
    names[9].unlink()
    state["verdict"] = DELIVERED
    wait_until(lambda: one.counters.delivered == 70)
    wait_until(lambda: one.spool.counters.metrics == 0)
    assert one.spool.counters.dropped == {"spool_corrupt": 20, "spool_missing": 10}


# ---- the end ----


def test_at_the_deadline_of_a_drain_the_rest_goes_to_the_spool(rig):
    one = rig()
    one.output.gate.clear()
    one.put(105)
    wait_until(lambda: one.output.posts == 2)
    assert one.flusher.drain(time.monotonic() + 0.2) is True
    assert one.counters.dropped == {} and one.spool.counters.metrics == 105
    assert one.ring.stats()["waiting"] == 0 and one.output.aborted


def test_a_drain_while_the_breaker_is_open_does_not_wait_for_its_deadline(rig):
    one = down(rig)
    one.put(5)
    started = time.monotonic()
    assert one.flusher.drain(started + 30) is True
    assert time.monotonic() - started < 5 and one.spool.counters.metrics == 65


def test_a_drain_leaves_the_backlog_where_it_is(rig):
    one = down(rig)
    one.state["verdict"] = DELIVERED
    one.flusher.retire(time.monotonic() + 30)
    wait_until(lambda: not one.flusher.alive)
    assert one.counters.delivered + one.spool.counters.metrics == 60 and one.spool.counters.metrics > 0


@pytest.mark.parametrize("keep", [True, False])
def test_what_neither_server_nor_spool_takes_stays_in_the_ring_or_is_dropped(rig, keep):
    one = rig(Sink(lambda body: REFUSED), settings={"min_free_space": 1 << 60})
    one.put(105)
    wait_until(lambda: one.output.posts > 10)
    assert one.flusher.drain(time.monotonic() + 0.1, keep=keep) is False
    waiting = one.ring.stats()["waiting"]
    assert (waiting, one.counters.dropped) == ((105, {}) if keep else (0, {"drain_timeout": 105}))


def test_an_output_without_a_spool_keeps_what_is_left_too(rig):
    one = rig(Sink(lambda body: REFUSED), spool=False)
    one.put(105)
    wait_until(lambda: one.output.posts > 10)
    assert one.flusher.drain(time.monotonic() + 0.1, keep=True) is False
    assert one.ring.stats()["waiting"] == 105 and one.counters.dropped == {}


# ---- settings, and what commands bring ----


def test_a_spool_may_come_and_go_while_metrics_flow(rig, tmp_path):
    one = rig(Sink(lambda body: REFUSED), spool=False)
    one.put(50)
    wait_until(lambda: one.output.posts > 10)
    one.spool = Spool(
        "sink", tmp_path / "spool", SpoolTable(min_free_space=0, sync="never"), changed=one.changed
    )
    one.flusher.reconfigure(one.flush, spool=one.spool)
    one.put(50)
    wait_until(lambda: one.spool.counters.metrics > 0)
    one.flusher.reconfigure(one.flush, spooling=False)
    stored = one.spool.counters.stored
    one.put(50)
    posts = one.output.posts
    wait_until(lambda: one.output.posts > posts + 5)
    assert one.spool.counters.stored <= stored + 20
    # It is emptied all the same.
    one.output.verdict = lambda body: DELIVERED
    wait_until(lambda: one.counters.delivered == 150)
    assert sorted(set(one.output.lines())) == one.all_lines()


def test_a_body_that_a_command_brings_is_delivered_like_any_other(rig):
    one = rig(spool=False)
    decided = threading.Event()
    body = b"".join(LINE % n for n in range(5))
    assert one.flusher.inject(body, 5, NOW_NS, decided.set)
    assert decided.wait(10)
    assert one.output.bodies == [body]
    assert (one.counters.delivered, one.counters.restored) == (5, 5)


def test_only_so_many_bodies_of_commands_wait_at_once(rig):
    one = rig(Sink(lambda body: REFUSED), spool=False)
    taken = [one.flusher.inject(LINE % n, 1, NOW_NS, lambda: None) for n in range(100)]
    assert sum(taken) == 16 and not any(taken[16:])
    assert one.counters.restored == 0
    one.output.verdict = lambda body: DELIVERED
    wait_until(lambda: one.counters.delivered == 16)
    assert one.flusher.inject(LINE % 0, 1, NOW_NS, lambda: None)
    wait_until(lambda: one.counters.delivered == 17)


@pytest.mark.parametrize("order", ["fresh_first", "oldest_first"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_every_metric_is_somewhere_and_once(rig, seed, order):
    """Random verdicts, outages, a spool that refuses now and then, reloads, and a hard end."""
    chance = random.Random(seed)
    weather = {"down": False}

    def verdict(body):
        metrics = body.count(b"\n")
        if weather["down"]:
            return chance.choice([REFUSED, BUSY, HOLD, Verdict(Kind.RETRY, status=503, retry_after=0.01)])
        return chance.choice(
            [
                *[DELIVERED] * 8,
                Verdict(
                    Kind.DELIVERED, tuple(Refusal(n, "no") for n in range(chance.randrange(metrics + 1)))
                ),
                Verdict(Kind.SPLIT, status=413),
                Verdict(Kind.SPLIT, status=400, suspects=(chance.randrange(metrics),)),
                Verdict(Kind.REJECT, status=400, text="never"),
                BUSY,
                OSError("a bug"),
            ]
        )

    def checked(body):
        answer = verdict(body)
        if isinstance(answer, Exception):
            raise answer
        return answer

    one = rig(Sink(checked, concurrency=3), capacity=1 << 16, order=order, flush={"interval": 0.002})
    for _ in range(40):
        one.put(chance.randrange(1, 200))
        weather["down"] = chance.random() < 0.4
        # With neither a server nor a spool nothing would move, and the ring be full for ever.
        free = chance.choice([0, 1 << 60]) if not weather["down"] else 0
        one.spool.reconfigure(SpoolTable(min_free_space=free, sync=chance.choice(["never", "interval"])))
        if chance.random() < 0.2:
            lines = chance.randrange(1, 60)
            one.flusher.reconfigure(Flush(batch_lines=lines, batch_bytes=1 << 14, interval=0.002))
        time.sleep(0.005)
    one.spool.reconfigure(SpoolTable(min_free_space=0, sync="never"))
    weather["down"] = chance.random() < 0.5
    one.flusher.drain(time.monotonic() + chance.choice([0.0, 0.2, 2.0]), keep=True)
    expected, known = one.account()
    assert expected == known == one.sent
