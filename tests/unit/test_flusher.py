"""When batches leave: at a number of lines, of bytes, or at an age; and what is left of them at the end."""

import math
import random
import threading
import time
import weakref
from pathlib import Path

import pytest

from agent._core import Ring, Waker
from agent.config import FileOutput, Flush
from agent.delivery.delivery import Health
from agent.delivery.flusher import Flusher
from agent.outputs import make
from agent.outputs.base import Kind, Output, Refusal, Verdict
from tests.conftest import wait_until

LINE = b"cpu,host=a v=1.5 %019d\n"
NEVER = 3600.0


class Sink(Output):
    """Keeps what it is sent. While ``gate`` is not set, attempts wait in it."""

    retry_min = 0.001
    retry_max = 0.01

    def __init__(self, concurrency=1, verdict=None):
        super().__init__("sink", "here")
        self.max_concurrency = concurrency
        self.verdict = verdict or (lambda body: Verdict(Kind.DELIVERED, status=204))
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.bodies = []
        self.entered = 0
        self.inside = self.inside_max = 0
        self.times = []
        self.closed = self.aborted = False

    def post(self, payload, deadline):
        body = payload.data
        with self.lock:
            self.entered += 1
            self.inside += 1
            self.inside_max = max(self.inside, self.inside_max)
        while not self.gate.wait(0.01) and not self.aborted:
            pass
        verdict = Verdict(Kind.RETRY, text="aborted") if self.aborted else self.verdict(bytes(body))
        with self.lock:
            self.inside -= 1
            if verdict.kind is Kind.DELIVERED:
                self.bodies.append(bytes(body))
                self.times.append(time.monotonic())
        return verdict

    def abort(self):
        self.aborted = True

    def close(self):
        self.closed = True

    def counts(self):
        with self.lock:
            return [body.count(b"\n") for body in self.bodies]


class Rig:
    """A flusher on real rings."""

    def __init__(self, output=None, rings=1, capacity=1 << 22, **flush):
        self.output = output or Sink()
        self.waker = Waker()
        self.rings = [Ring(None, capacity, self.waker, slot_bytes=64, slot_metrics=1) for _ in range(rings)]
        self.flush = Flush(**{"batch_lines": 100, "batch_bytes": 1 << 20, "interval": NEVER, **flush})
        self.flusher = Flusher("test", self.output, self.waker, self.rings, self.flush)
        self.sent = 0

    def put(self, count=1, ring=0):
        for _ in range(count):
            assert self.rings[ring].put(LINE % self.sent, 1)
            self.sent += 1

    def decided(self):
        counters = self.flusher.counters
        return counters.delivered + counters.rejected + sum(counters.dropped.values())

    def balance(self):
        stats = [ring.stats() for ring in self.rings]
        assert sum(one["written"] for one in stats) == self.sent
        assert self.sent == self.decided() + sum(one["waiting"] for one in stats)


@pytest.fixture
def rig():
    made = []

    def make(*args, start=True, **kwargs):
        made.append(Rig(*args, **kwargs))
        if start:
            made[-1].flusher.start()
        return made[-1]

    yield make
    for one in made:
        one.flusher.drain(time.monotonic())
        assert not one.flusher.alive
        one.balance()


def test_a_batch_leaves_when_it_has_enough_lines(rig):
    one = rig(batch_lines=100)
    one.put(99)
    assert_quiet(one)
    one.put(1)
    wait_until(lambda: one.output.counts() == [100])
    one.put(250)
    wait_until(lambda: sum(one.output.counts()) == 300)
    assert_quiet(one)
    assert one.flusher.counters.delivered == 300 and one.rings[0].stats()["waiting"] == 50


def test_a_batch_leaves_when_it_has_enough_bytes(rig):
    size = len(LINE % 0)
    one = rig(batch_bytes=50 * size, batch_lines=10_000)
    one.put(49)
    assert_quiet(one)
    one.put(1)
    wait_until(lambda: one.output.counts() == [50])


def assert_quiet(one, seconds=0.05):
    """Nothing is sent for a while."""
    before = one.output.entered
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert one.output.entered == before
        time.sleep(0.005)


def test_a_batch_leaves_when_its_first_line_is_old_enough(rig):
    one = rig(interval=0.15)
    for _ in range(3):
        started = time.monotonic()
        one.put(1)
        wait_until(lambda started=started: time.monotonic() - started > 0.05)
        one.put(1)
        wait_until(lambda: one.output.inside == 0 and one.rings[0].pending()[0] == 0)
        wait_until(lambda: one.rings[0].stats()["waiting"] == 0)
        assert 0.14 <= one.output.times[-1] - started < 1.0
    assert one.output.counts() == [2, 2, 2]


def test_rings_are_read_in_turn_and_each_has_its_own_age(rig):
    one = rig(rings=3, interval=0.1)
    for ring in range(3):
        one.put(5, ring)
    wait_until(lambda: one.output.counts() == [5, 5, 5])
    one.put(100, ring=2)
    one.put(1, ring=0)
    wait_until(lambda: sorted(one.output.counts()) == [1, 5, 5, 5, 100])


def test_a_ring_with_much_in_it_does_not_keep_another_waiting(rig):
    one = rig(Sink(concurrency=1), rings=2, batch_lines=10, start=False)
    one.put(500, ring=0)
    one.put(10, ring=1)
    one.flusher.start()
    wait_until(lambda: one.flusher.counters.delivered == 510)
    [at] = [index for index, body in enumerate(one.output.bodies) if LINE % 500 in body]
    assert at < 5


def test_so_many_attempts_are_under_way_at_once_and_no_more(rig):
    output = Sink(concurrency=3)
    output.gate.clear()
    one = rig(output, batch_lines=10)
    one.put(100)
    wait_until(lambda: output.inside == 3)
    assert_quiet(one)
    # What cannot be sent yet stays in the ring.
    assert one.rings[0].pending()[0] == 70
    output.gate.set()
    wait_until(lambda: one.flusher.counters.delivered == 100)
    assert output.inside_max == 3 and len(output.counts()) == 10


def test_senders_are_started_only_when_they_are_needed(rig):
    one = rig(Sink(concurrency=8), batch_lines=10)

    def senders():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("send-test-")]

    assert senders() == []
    for _ in range(20):
        one.put(10)
        wait_until(lambda: one.rings[0].stats()["waiting"] == 0 and one.flusher._senders.busy == 0)
    assert senders() == ["send-test-1"]


def test_batches_get_fuller_while_the_destination_is_slow(rig):
    output = Sink()
    output.gate.clear()
    one = rig(output, batch_lines=100, interval=0.01)
    one.put(1)
    wait_until(lambda: output.inside == 1)
    for _ in range(10):
        one.put(30)
        assert_quiet(one, 0.015)
    output.gate.set()
    wait_until(lambda: one.flusher.counters.delivered == 301)
    assert output.counts() == [1, 100, 100, 100]


def test_batches_come_back_in_any_order(rig):
    """A batch that fails for long does not keep others from being sent; nothing is lost or sent twice."""
    first = LINE % 0

    def verdict(body):
        stuck = body.startswith(first) and not freed.is_set()
        return Verdict(Kind.RETRY if stuck else Kind.DELIVERED, status=500 if stuck else 204)

    freed = threading.Event()
    one = rig(Sink(concurrency=2, verdict=verdict), batch_lines=10)
    one.put(1000)
    wait_until(lambda: one.flusher.counters.delivered == 990)
    assert one.rings[0].stats()["waiting"] == 10
    freed.set()
    wait_until(lambda: one.flusher.counters.delivered == 1000)
    assert sorted(b"".join(one.output.bodies).splitlines()) == [(LINE % n).rstrip() for n in range(1000)]


def test_a_ring_that_lets_no_more_batches_out_is_no_busy_loop(rig):
    """One batch is stuck while 255 behind it are done: the ring then gives no more until it is freed."""
    first = LINE % 0
    freed = threading.Event()

    def verdict(body):
        stuck = body.startswith(first) and not freed.is_set()
        return Verdict(Kind.RETRY if stuck else Kind.DELIVERED, status=500 if stuck else 204)

    output = Sink(concurrency=2, verdict=verdict)
    output.retry_min = output.retry_max = 0.05
    one = rig(output, batch_lines=1)
    one.put(400)
    wait_until(lambda: one.flusher.counters.delivered == 255)
    before, started = time.process_time(), time.monotonic()
    wait_until(lambda: time.monotonic() - started > 0.3)
    # The poll of this test itself costs the most.
    assert time.process_time() - before < 0.2
    freed.set()
    wait_until(lambda: one.flusher.counters.delivered == 400)


def test_an_idle_flusher_sleeps(rig):
    """No wake-up at all, so no processor time: context switches of its thread do not rise."""
    one = rig(interval=0.01)
    one.put(3)
    wait_until(lambda: one.rings[0].stats()["waiting"] == 0 and one.flusher._senders.busy == 0)

    def switches():
        status = Path(f"/proc/self/task/{one.flusher._thread.native_id}/status").read_text()
        return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    # It comes to rest a moment after the last batch, and after it has mapped the ring.
    wait_until(lambda: one.flusher._warm_up_at == math.inf)
    last = [-1]
    wait_until(lambda: last[-1] == switches() or last.append(switches()))
    assert_quiet(one, 0.2)
    before = switches()
    assert_quiet(one, 0.3)
    assert switches() == before


class ColdRing:
    """A ring that notes what is asked of its pages; all else is a real one's."""

    def __init__(self, waker):
        self.ring = Ring(None, 1 << 20, waker)
        self.populated = 0

    def populate(self, bytes_max):
        self.populated += 1

    def __getattr__(self, name):
        return getattr(self.ring, name)


def test_rings_are_mapped_a_while_after_they_came(monkeypatch):
    monkeypatch.setattr("agent.delivery.flusher.WARM_UP_S", 0.01)
    waker = Waker()
    rings = [ColdRing(waker) for _ in range(3)]
    flusher = Flusher("test", Sink(), waker, rings[:2], Flush())
    assert [ring.populated for ring in rings] == [0, 0, 0]
    flusher.start()
    wait_until(lambda: [ring.populated for ring in rings] == [1, 1, 0])
    flusher.set_rings(rings)
    wait_until(lambda: [ring.populated for ring in rings] == [1, 1, 1])
    flusher.drain(time.monotonic())


def test_a_flusher_that_has_ended_keeps_no_ring():
    waker = Waker()
    ring = ColdRing(waker)
    flusher = Flusher("test", Sink(), waker, [ring], Flush())
    gone = weakref.ref(ring)
    del ring
    flusher.drain(time.monotonic())
    assert gone() is None


def test_settings_change_while_metrics_wait(rig):
    one = rig(batch_lines=1000)
    one.put(20)
    assert_quiet(one)
    one.flusher.reconfigure(Flush(batch_lines=10, batch_bytes=1 << 20, interval=NEVER))
    wait_until(lambda: one.output.counts() == [10, 10])
    one.put(5)
    assert_quiet(one)
    one.flusher.reconfigure(Flush(batch_lines=10, batch_bytes=1 << 20, interval=0.01))
    wait_until(lambda: one.output.counts() == [10, 10, 5])


def test_a_new_output_gets_what_waits_and_what_is_repeated(rig):
    old = Sink(verdict=lambda body: Verdict(Kind.HOLD, status=401, text="no"))
    old.retry_max = 600.0
    one = rig(old, batch_lines=10)
    one.put(15)
    wait_until(lambda: one.flusher.health.state == "holding")
    new = Sink(concurrency=2)
    one.flusher.reconfigure(one.flush, new)
    wait_until(lambda: new.counts() == [10])
    one.put(5)
    wait_until(lambda: new.counts() == [10, 10])
    assert old.closed and not new.closed and one.flusher.delivery.output is new


def test_rings_that_leave_are_emptied_and_new_ones_are_read(rig):
    one = rig(rings=2, batch_lines=10)
    one.put(25, ring=0)
    wait_until(lambda: one.flusher.counters.delivered == 20)
    one.rings.append(Ring(None, 1 << 20, one.waker, slot_metrics=1))
    one.flusher.set_rings(one.rings[1:])
    one.put(10, ring=2)
    one.put(10, ring=1)
    wait_until(lambda: one.flusher.counters.delivered == 40)
    assert one.rings[0].stats()["waiting"] == 5
    one.flusher.reconfigure(Flush(batch_lines=10, batch_bytes=1 << 20, interval=0.001))
    wait_until(lambda: one.flusher.counters.delivered == 45)
    wait_until(lambda: len(one.flusher._feeds) == 2)


def test_drain_flushes_everything_at_once_and_ends(rig):
    one = rig(rings=2, batch_lines=1000)
    one.put(150, ring=0)
    one.put(70, ring=1)
    started = time.monotonic()
    assert one.flusher.drain(started + 30) is True
    assert time.monotonic() - started < 5 and not one.flusher.alive
    assert sorted(one.output.counts()) == [70, 150] and one.flusher.counters.dropped == {}
    assert not [thread for thread in threading.enumerate() if "-test" in thread.name]


def test_drain_waits_for_what_is_under_way(rig):
    output = Sink(concurrency=2)
    output.gate.clear()
    one = rig(output, batch_lines=10)
    one.put(45)
    wait_until(lambda: output.inside == 2)
    one.flusher.retire(time.monotonic() + 30)
    assert_quiet(one)
    assert one.flusher.alive
    output.gate.set()
    wait_until(lambda: not one.flusher.alive)
    assert one.flusher.counters.delivered == 45


def test_what_is_left_at_the_deadline_is_dropped_and_counted(rig):
    output = Sink(concurrency=2)
    output.gate.clear()
    one = rig(output, batch_lines=10)
    one.put(100)
    wait_until(lambda: output.inside == 2)
    started = time.monotonic()
    assert one.flusher.drain(started + 0.2) is False
    assert 0.2 <= time.monotonic() - started < 2 and output.aborted
    assert one.flusher.counters.dropped == {"drain_timeout": 100}
    assert one.rings[0].stats()["waiting"] == 0


def test_a_refused_output_does_not_hold_up_the_end_beyond_the_deadline(rig):
    output = Sink(verdict=lambda body: Verdict(Kind.HOLD, status=403))
    output.retry_max = 600.0
    one = rig(output, batch_lines=10)
    one.put(30)
    wait_until(lambda: one.flusher.health.state == "holding")
    assert one.flusher.drain(time.monotonic() + 0.2) is False
    assert one.flusher.counters.dropped == {"drain_timeout": 30}


def test_a_server_that_comes_back_while_draining_gets_everything(rig):
    down = threading.Event()
    down.set()
    verdicts = {True: Verdict(Kind.RETRY, text="refused"), False: Verdict(Kind.DELIVERED)}
    output = Sink(verdict=lambda body: verdicts[down.is_set()])
    output.retry_min = output.retry_max = 600.0
    one = rig(output, batch_lines=10)
    one.put(30)
    wait_until(lambda: one.flusher.health.state == "retrying")
    one.flusher.retire(time.monotonic() + 30)
    down.clear()
    wait_until(lambda: not one.flusher.alive)
    assert one.flusher.counters.delivered == 30


def test_a_sender_that_does_not_come_back_leaves_its_batch_waiting_in_the_ledger(rig):
    """An output that ignores abort: the end comes, and the batch is neither delivered nor dropped."""
    output = Sink()
    output.gate.clear()
    output.abort = lambda: None
    one = rig(output, batch_lines=10)
    one.put(25)
    wait_until(lambda: output.inside == 1)
    assert one.flusher.drain(time.monotonic()) is False
    assert one.flusher.counters.dropped == {"drain_timeout": 15}
    one.balance()
    output.gate.set()
    wait_until(lambda: one.decided() == 25)


def test_a_flusher_that_was_never_started_drains_all_the_same(rig):
    one = rig(start=False)
    one.put(5)
    assert not one.flusher.alive
    assert one.flusher.drain(time.monotonic() + 30) is True
    assert one.output.counts() == [5]


def test_an_output_s_timer_is_served_while_nothing_arrives(rig, tmp_path):
    one = rig(make(FileOutput(name="f", path=str(tmp_path), rotate_interval=0.2)), interval=0.01)
    one.put(3)
    wait_until(lambda: [path.suffix for path in tmp_path.iterdir()] == [".part"])
    wait_until(lambda: [path.suffix for path in tmp_path.iterdir()] == [".lp"])
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"".join(LINE % n for n in range(3))


def test_health_is_the_delivery_s(rig):
    one = rig()
    assert isinstance(one.flusher.health, Health) and one.flusher.health.state == "ok"


@pytest.mark.parametrize("seed", range(3))
def test_all_that_is_written_is_accounted_for_whatever_happens(rig, seed):
    """Two writers, random verdicts, reloads of settings and output meanwhile, and a hard end."""
    chance = random.Random(seed)

    def verdict(body):
        metrics = body.count(b"\n")
        return chance.choice(
            [
                *[Verdict(Kind.DELIVERED, status=204)] * 6,
                Verdict(
                    Kind.DELIVERED,
                    tuple(Refusal(line, "no") for line in range(chance.randrange(metrics + 1))),
                    status=400,
                ),
                Verdict(Kind.RETRY, status=500),
                Verdict(Kind.HOLD, status=401),
                Verdict(Kind.SPLIT, status=413),
                Verdict(Kind.REJECT, status=400),
                Verdict(Kind.RETRY, status=503, retry_after=0.001),
            ]
        )

    def output():
        made = Sink(concurrency=chance.randrange(1, 5), verdict=verdict)
        made.retry_max = 0.002
        return made

    one = rig(output(), rings=2, batch_lines=50, interval=0.005)
    written = [0, 0]

    def write(ring):
        for n in range(5000):
            while not one.rings[ring].put(LINE % n, 1):
                pass
            written[ring] += 1

    writers = [threading.Thread(target=write, args=(ring,)) for ring in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        flush = Flush(batch_lines=chance.randrange(1, 200), batch_bytes=1 << 14, interval=0.002)
        one.flusher.reconfigure(flush, output() if chance.random() < 0.3 else None)
        writers[0].join(0.02)
    writers[1].join()
    one.sent = sum(written)
    one.flusher.drain(time.monotonic() + chance.choice([0.0, 0.05, 10.0]))
    assert one.decided() == one.sent == 10_000
    assert sum(ring.stats()["waiting"] for ring in one.rings) == 0
