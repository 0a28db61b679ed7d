"""What is delivered in time: the delays of batches and files, and what waits in the spool and is not late."""

import threading
import time

import pytest

from agent._core import Delays, Histogram, Ring, Waker
from agent.accounts import BOUNDS
from agent.admin.metrics_delivery import SHOWN
from agent.config_schema import SpoolTable
from agent.delivery.delivery import Delivery
from agent.delivery.task import Resilience, Watching
from agent.delivery.work import Loose, Stored
from agent.outputs.base import Kind, Output, Payload, Refusal, Verdict
from agent.route import Tally
from agent.store import owed as owed_module
from agent.store.owed import Owed
from agent.store.spool import Spool
from tests.conftest import wait_until

DELIVERED = Verdict(Kind.DELIVERED, status=204)
RETRY = Verdict(Kind.RETRY, status=500, text="not now")
SPLIT = Verdict(Kind.SPLIT, status=413, text="too large")
FOREVER = 3600.0


class Sink(Output):
    """Gives *verdicts* in turn, then the last one for ever."""

    retry_min = retry_max = 0.001

    def __init__(self, *verdicts):
        super().__init__("out", "somewhere")
        self.verdicts = list(verdicts) or [DELIVERED]

    def post(self, payload, deadline):
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]


class Rig:
    """A ring, a delivery and a spool, and the arithmetic of what is late."""

    def __init__(self, folder, *verdicts, within=FOREVER, ring=None, **resilience):
        self.ring = ring or Ring(None, 1 << 20, Waker(), slot_metrics=1)
        self.spool = Spool("out", folder / "spool", SpoolTable(min_free_space=0, sync="never"))
        self.left = []
        self.within = within
        self.output = Sink(*verdicts)
        self.delivery = Delivery(
            self.output,
            Resilience(**{"retries": 0, **resilience}),
            spool=self.spool,
            watching=Watching(within=within),
            left=self.left.append,
        )

    def put(self, *ages_s):
        for age_s in ages_s:
            assert self.ring.put(b"m v=1i 1\n", 1, time.time_ns() - int(age_s * 1e9))

    def bring(self, *ages_s):
        self.put(*ages_s)
        work = self.delivery.live(self.ring.take(1 << 20, 5000, True))
        assert self.delivery.deliver(work)
        return work

    def replay(self):
        return self.delivery.deliver(Stored(self.spool.take()))

    @property
    def young(self):
        return self.ring.young(self.within) + self.spool.owed.young(self.within)

    @property
    def on_time(self):
        return self.delivery.counters.on_time

    @property
    def late(self):
        stats = self.ring.stats()
        young = self.young
        return stats["written"] + stats["missed"] - young - self.on_time

    @property
    def counted(self):
        buckets, _ = self.delivery.counters.histograms["delay_seconds"]
        return sum(buckets)


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(*verdicts, **settings):
        made.append(Rig(tmp_path, *verdicts, **settings))
        return made[-1]

    yield make
    for one in made:
        one.spool.close()


def test_what_is_confirmed_counts_with_its_delay_and_in_time_if_it_is(rig):
    one = rig(within=10.0)
    one.bring(20.0, 5.0, 0.0)
    assert (one.on_time, one.counted, one.late) == (2, 3, 1)
    buckets, total = one.delivery.counters.histograms["delay_seconds"]
    assert total == pytest.approx(25.0, abs=1.0)
    found = [bound for bound, count in zip(BOUNDS["delay_seconds"], buckets, strict=False) if count]
    assert found[-2:] == [6.3, 25.0]


def test_what_is_not_confirmed_is_late_when_its_time_is_over_and_not_before(rig):
    one = rig(within=10.0)
    one.put(9.9, 0.0)
    assert one.late == 0
    wait_until(lambda: one.late == 1)


def test_rejected_metrics_are_late_at_once_and_in_no_histogram(rig):
    one = rig(Verdict(Kind.DELIVERED, (Refusal(0, "no"), Refusal(1, "no")), status=400))
    one.bring(0.0, 0.0, 0.0)
    assert (one.on_time, one.counted, one.late) == (1, 1, 2)


def test_a_file_has_its_time_in_the_spool_and_counts_when_it_is_confirmed(rig):
    one = rig(RETRY)
    one.bring(0.0, 3.0)
    wait_until(lambda: one.spool.counters.metrics == 2)
    assert (one.young, one.on_time, one.late, one.counted) == (2, 0, 0, 0)
    one.output.verdicts = [DELIVERED]
    one.replay()
    assert (one.young, one.on_time, one.late, one.counted) == (0, 2, 0, 2)


def test_a_file_whose_time_is_over_is_late_though_it_still_waits(rig):
    one = rig(RETRY, within=0.05)
    one.bring(0.0)
    wait_until(lambda: one.late == 1)
    assert one.spool.counters.metrics == 1
    one.output.verdicts = [DELIVERED]
    one.replay()
    assert (one.on_time, one.late, one.counted) == (0, 1, 1)


def test_what_is_left_of_a_batch_and_of_a_file_keeps_its_time(rig):
    one = rig(SPLIT, DELIVERED, RETRY)
    one.bring(*[0.0] * 8)
    wait_until(lambda: one.spool.counters.metrics == 4)
    assert (one.young, one.on_time, one.late) == (4, 4, 0)
    one.output.verdicts = [SPLIT, DELIVERED, RETRY]
    one.replay()
    wait_until(lambda: one.spool.counters.metrics == 2)
    assert (one.young, one.on_time, one.late) == (2, 6, 0)
    one.output.verdicts = [DELIVERED]
    one.replay()
    assert (one.young, one.on_time, one.late, one.counted) == (0, 8, 0, 8)


def test_a_file_that_comes_back_whole_keeps_its_time(rig):
    one = rig(RETRY)
    one.bring(0.0)
    wait_until(lambda: one.spool.counters.metrics == 1)
    stored = Stored(one.spool.take())
    assert not one.delivery.deliver(stored)
    one.spool.put_back(stored.entry)
    assert (one.young, one.on_time, one.late) == (1, 0, 0)


def test_what_the_spool_refuses_has_its_time_in_the_ring_only(rig):
    one = rig(RETRY)
    one.spool.close()
    one.bring(0.0, 0.0)
    assert len(one.left) == 1 and one.spool.owed.young(FOREVER) == 0
    assert (one.young, one.late) == (2, 0)


def test_what_an_earlier_process_or_a_command_left_is_nobodys_promise(rig):
    one = rig()
    assert one.spool.add(Payload(b"m v=1i 1\n", 1, 9), time.time_ns())
    one.replay()
    released = []
    loose = Loose(b"m v=1i 1\n", 1, time.time_ns(), lambda: released.append(True))
    assert one.delivery.deliver(one.delivery.live(loose)) and released == [True]
    # They are in the histogram like all that is confirmed.
    assert (one.young, one.on_time, one.late, one.counted) == (0, 0, 0, 2)


def test_of_an_adopted_ring_only_what_was_written_since_is_owed(tmp_path, rig):
    path = str(tmp_path / "ring")
    former = Ring(path, 1 << 20, Waker(), slot_metrics=1)
    assert former.put(b"m v=1i 1\n", 1, time.time_ns()) and former.put(b"m v=2i 1\n", 1, time.time_ns())
    former.close(unlink=False)
    one = rig(RETRY, ring=Ring.adopt(path, Waker()))
    one.put(0.0, 0.0, 0.0)
    batch = one.ring.take(1 << 20, 5000, True)
    assert (batch.metrics, batch.own) == (5, 3)
    work = one.delivery.live(batch)
    one.delivery.deliver(work)
    wait_until(lambda: one.spool.counters.metrics == 5)
    assert (one.young, one.late) == (3, 0)
    one.output.verdicts = [DELIVERED]
    one.replay()
    assert (one.young, one.on_time, one.late, one.counted) == (0, 3, 0, 5)


def test_a_batch_that_is_released_does_not_know_its_own_any_more(rig):
    one = rig()
    one.put(0.0)
    batch = one.ring.take(1 << 20, 5000, True)
    batch.release()
    with pytest.raises(ValueError, match="released"):
        _ = batch.own


def test_within_may_be_changed(rig):
    one = rig(within=10.0)
    one.bring(5.0)
    one.delivery.reconfigure(one.output, Resilience(), one.spool, watching=Watching(within=1.0))
    one.bring(5.0)
    assert one.on_time == 1 and one.counted == 2


def test_the_memory_of_files_is_bounded(monkeypatch):
    monkeypatch.setattr(owed_module, "FILES_MAX", 3)
    one = Owed()
    for number in range(5):
        one.add(str(number), 10, time.time_ns(), 10)
    assert one.young(FOREVER) == 30 and one.own("1", 10) == 0 and one.own("2", 10) == 10
    # What is late is forgotten.
    assert one.young(-1.0) == 0 and one._files == {}


def test_nothing_is_late_for_being_on_its_way(rig):
    """Whoever reads rings, spool and what was in time, in this order, misses no metric."""
    one, ended, wrong = rig(DELIVERED), threading.Event(), []

    def look():
        while not ended.is_set():
            written = one.ring.stats()["written"]
            young = one.ring.young(FOREVER)
            young += one.spool.owed.young(FOREVER)
            if written - young - one.delivery.promise.delays.on_time > 0:
                wrong.append((written, young))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(300):
        one.output.verdicts = [DELIVERED] if number % 3 else [SPLIT, DELIVERED, RETRY]
        one.bring(0.0, 0.0, 0.0)
        one.output.verdicts = [DELIVERED]
        while (entry := one.spool.take()) is not None:
            assert one.delivery.deliver(Stored(entry))
    ended.set()
    thread.join()
    assert wrong == [] and one.late == 0 and one.on_time == 900


# ---- histograms ----


def test_the_bounds_of_the_accounts_are_those_of_the_core():
    rulers = {
        "delay_seconds": Delays(1.0).histogram,
        "request_seconds": Histogram(1e-4, 9),
        "batch_metrics": Histogram(1.0, 8),
        "request_bytes": Histogram(1.0, 9),
        "compression_ratio": Histogram(1.0, 2),
    }
    assert {name: one.bounds for name, one in rulers.items()} == BOUNDS
    # What is shown is a bound, or there would be nothing to show.
    assert all(shown <= set(BOUNDS[name]) for name, shown in SHOWN.items() if name != "batch_metrics")


def test_requests_and_batches_are_measured(rig):
    one = rig(RETRY, retries=5)
    one.output.verdicts = [RETRY, DELIVERED]
    one.output.encode = lambda body, metrics, encoding: Payload(b"x" * 9, metrics, 36, encoding, "gz")
    one.bring(*[0.0] * 4)
    found = one.delivery.counters.histograms

    def sums(name):
        buckets, total = found[name]
        return sum(buckets), total

    assert sums("batch_metrics") == (1, 4.0)
    assert sums("request_bytes") == (2, 18.0) and sums("compression_ratio") == (2, 8.0)
    assert sums("request_seconds")[0] == 2


def test_what_routes_of_one_name_have_counted_adds_up(rig):
    one, total = rig(), Tally()
    one.bring(0.0, 0.0)
    counters = one.delivery.counters
    total.add("null", counters)
    total.add("null", counters)
    assert total.on_time == 4 and total.traced == 0
    buckets, seconds = counters.histograms["delay_seconds"]
    assert total.histograms["delay_seconds"] == ([2 * count for count in buckets], 2 * seconds)
    assert total.stages == {stage: 2 * spent for stage, spent in counters.stages.items()}
