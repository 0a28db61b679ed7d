"""The trace of a batch: one id wherever it goes, times that leave nothing out, and what the log is told."""

import json
import logging
import random
import re
import time

import pytest

from agent._core import Ring, Waker
from agent.batch_id import chance_id
from agent.config_schema import RejectedTable, SpoolTable
from agent.delivery.delivery import Delivery
from agent.delivery.task import Resilience, Watching
from agent.delivery.trace import ATTEMPTS_MAX, STAGES, Trace, id_of_name, limit_of
from agent.delivery.work import Stored
from agent.outputs.base import Kind, Output, Payload, Refusal, Verdict
from agent.store.rejected import Rejected
from agent.store.spool import Spool
from agent.store.spool_file import file_name, parse
from tests.conftest import wait_until

DELIVERED = Verdict(Kind.DELIVERED, status=204)
RETRY = Verdict(Kind.RETRY, status=500, text="not now")
SPLIT = Verdict(Kind.SPLIT, status=400, text="some of it")
REFUSED_ONE = Verdict(Kind.DELIVERED, (Refusal(0, "too old"),), status=400, text="partial")

# https://www.w3.org/TR/trace-context/#traceparent-header-field-values
HEADER = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-(0[01])")

ALL, NONE = Watching(trace=1.0), Watching(trace=0.0)


class Sink(Output):
    """Gives *verdicts* in turn, then the last one for ever, each after *seconds*; keeps what it was told."""

    retry_min = retry_max = 0.01

    def __init__(self, *verdicts, seconds=0.0):
        super().__init__("out", "somewhere")
        self.verdicts = list(verdicts) or [DELIVERED]
        self.seconds = seconds
        self.traces = []

    def post(self, payload, deadline):
        self.traces.append(payload.trace)
        time.sleep(self.seconds)
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]


class Rig:
    """A delivery from a ring, with a spool in *folder* and a place for what is refused."""

    def __init__(self, folder, output, watching=NONE, spool=True, **resilience):
        self.output = output
        self.ring = Ring(None, 1 << 20, Waker())
        self.folder = folder
        settings = SpoolTable(min_free_space=0, sync="never")
        self.spool = Spool("out", folder / "spool", settings) if spool else None
        self.left = []
        self.delivery = Delivery(
            output,
            Resilience(**resilience),
            spool=self.spool,
            rejected=Rejected("out", folder / "rejected", RejectedTable()),
            watching=watching,
            left=self.left.append,
            jitter=lambda: 1.0,
        )

    def take(self, metrics=4, age_s=0.0):
        body = b"".join(b"m v=%di %d\n" % (n, n + 1) for n in range(metrics))
        assert self.ring.put(body, metrics, time.time_ns() - int(age_s * 1e9))
        return self.delivery.live(self.ring.take(1 << 20, 5000, True))

    def bring(self, **batch):
        work = self.take(**batch)
        assert self.delivery.deliver(work)
        return work

    def replay(self):
        work = Stored(self.spool.take())
        assert self.delivery.deliver(work)
        return work

    def spooled(self):
        return sorted(path.name for path in (self.folder / "spool").glob("*.lp"))

    def reasons(self):
        return [json.loads(path.read_bytes()) for path in (self.folder / "rejected").glob("*.json")]


@pytest.fixture
def told(caplog):
    """The events in the log, by their message."""
    caplog.set_level(logging.INFO, "agent.delivery")

    def events(message="a batch was traced"):
        return [record for record in caplog.records if record.message == message]

    return events


FAILED = "a batch failed on its way"


# ---- ids and headers ----


def test_a_header_is_one_of_the_w3c_with_a_new_span_each_time():
    trace = Trace()
    found = [HEADER.fullmatch(trace.header()) for _ in range(100)]
    assert all(found) and {one[1] for one in found} == {trace.id} and {one[3] for one in found} == {"00"}
    assert len({one[2] for one in found}) == 100
    trace.begin(limit_of(1.0))
    assert HEADER.fullmatch(trace.header())[3] == "01"


def test_ids_do_not_hang_on_the_common_generator():
    random.seed(7)
    first = chance_id()
    random.seed(7)
    assert first != chance_id() and re.fullmatch("[0-9a-f]{32}", first)


def test_the_wanted_share_of_batches_is_sampled_and_the_same_in_a_later_life():
    for share in (0.0, 0.001, 0.25, 0.9999999, 1.0):
        limit, sampled = limit_of(share), 0
        for _ in range(4000):
            trace = Trace()
            trace.begin(limit)
            again = Trace(trace.id)
            again.begin(limit)
            assert again.sampled == trace.sampled
            sampled += trace.sampled
        # Six standard deviations.
        assert abs(sampled - 4000 * share) <= 6 * (4000 * share * (1 - share)) ** 0.5 + 1


def test_the_memory_of_attempts_is_bounded():
    trace = Trace()
    for number in range(100):
        trace.header()
        trace.tried(500, str(number), 10, 5)
    assert [text for *_, text in trace.attempts] == [str(n) for n in range(100 - ATTEMPTS_MAX, 100)]
    assert (trace.attempts_left_out, trace.bytes_raw, trace.bytes_sent) == (100 - ATTEMPTS_MAX, 1000, 500)
    assert trace.fields()["attempts_left_out"] == 100 - ATTEMPTS_MAX


# ---- one id, wherever it goes ----


def test_repetitions_and_parts_have_the_id_of_their_batch_and_no_other_has(tmp_path):
    output = Sink(RETRY, SPLIT, DELIVERED, DELIVERED)
    rig = Rig(tmp_path, output, spool=False)
    first, other = rig.bring(), rig.bring()
    found = [HEADER.fullmatch(one) for one in output.traces]
    assert [one[1] for one in found] == 4 * [first.trace.id] + [other.trace.id]
    assert len({one[2] for one in found}) == 5 and first.trace.id != other.trace.id


def test_an_id_lives_on_in_the_spool_and_over_a_restart(tmp_path, told):
    rig = Rig(tmp_path, Sink(RETRY), retries=0)
    work = rig.bring()
    wait_until(rig.spooled)
    (name,) = rig.spooled()
    assert parse(name).batch == work.trace.id and name.endswith(f"-{work.trace.id}.lp")
    rig.spool.close()
    output = Sink(REFUSED_ONE)
    later = Rig(tmp_path, output)
    later.replay()
    assert [one[3:35] for one in output.traces] == [work.trace.id]
    assert [one["batch"] for one in later.reasons()] == [work.trace.id]
    assert [record.batch for record in told(FAILED)] == [work.trace.id] * 2
    later.spool.close()


def test_what_is_left_of_a_file_goes_back_under_its_id(tmp_path):
    rig = Rig(tmp_path, Sink(RETRY), retries=0)
    work = rig.bring()
    # The first half of it is delivered, the other one is not.
    rig.output.verdicts = [SPLIT, DELIVERED, RETRY]
    wait_until(rig.spooled)
    stored = Stored(rig.spool.take())
    assert rig.delivery.deliver(stored)
    (name,) = rig.spooled()
    assert parse(name).batch == work.trace.id and parse(name).metrics == 2
    rig.spool.close()


def test_a_file_of_before_has_an_id_made_of_its_name(tmp_path):
    payload = Payload(b"m v=1i 1\n", 1, 9)
    name = file_name(payload, 10**18, 1)
    entry = parse(name)
    assert name.count("-") == 4 and entry.batch == "" and entry.metrics == 1
    assert Stored(entry).trace.id == Stored(entry).trace.id == id_of_name(name)
    assert re.fullmatch("[0-9a-f]{32}", id_of_name(name)) and id_of_name(name) != id_of_name(name + "x")
    # And it is delivered like any other.
    rig = Rig(tmp_path, Sink())
    assert rig.spool.add(payload, 10**18)
    rig.replay()
    assert rig.delivery.counters.delivered == 1 and HEADER.fullmatch(rig.output.traces[0])
    rig.spool.close()


@pytest.mark.parametrize("batch", ["1a2b3c4d", "G" * 32, "A" * 32, "0" * 33])
def test_what_is_no_id_makes_no_name(batch):
    name = file_name(Payload(b"m v=1i 1\n", 1, 9), 10**18, 1, batch)
    assert parse(name) is None


def test_lines_of_the_log_about_a_batch_name_it(tmp_path, caplog):
    verdicts = [RETRY, SPLIT, Verdict(Kind.REJECT, status=400, text="no"), DELIVERED]
    work = Rig(tmp_path, Sink(*verdicts), spool=False).bring(metrics=2)
    assert len(caplog.records) == 3 and {record.batch for record in caplog.records} == {work.trace.id}


# ---- stages ----


def test_stages_sum_to_the_time_from_the_arrival_to_the_end(tmp_path, told):
    rig = Rig(tmp_path, Sink(RETRY, SPLIT, DELIVERED, seconds=0.02), ALL, spool=False)
    before = time.time()
    rig.bring(age_s=1.5)
    total = 1.5 + time.time() - before
    (record,) = told(FAILED)
    stages = record.stages
    assert set(stages) == {"ring", "queue", "encode", "turn", "request", "pause"}
    assert list(stages) == [stage for stage in STAGES if stage in stages]
    # Whatever came before and after is in the total only.
    assert total - 0.02 <= sum(stages.values()) / 1e3 <= total + 0.001
    assert stages["ring"] >= 1500 and stages["request"] >= 80 and 10 <= stages["pause"] < 80
    assert stages["request"] == pytest.approx(sum(one["ms"] for one in record.attempts), abs=5)


def test_what_is_stored_and_read_again_is_a_stage_too(tmp_path, told):
    rig = Rig(tmp_path, Sink(RETRY), ALL, retries=0)
    rig.bring()
    wait_until(rig.spooled)
    rig.output.verdicts = [DELIVERED]
    rig.replay()
    (failed,), (traced,) = told(FAILED), told()
    assert (failed.outcome, traced.outcome, failed.batch) == ("spooled", "delivered", traced.batch)
    assert failed.stages["store"] > 0 and traced.stages["store"] > 0 and "ring" not in traced.stages
    rig.spool.close()


def test_the_stages_of_all_batches_are_counted(tmp_path):
    rig = Rig(tmp_path, Sink(seconds=0.01), spool=False)
    for _ in range(3):
        rig.bring(age_s=2.0)
    stages = rig.delivery.counters.stages
    assert {one for one in stages if stages[one]} == {"ring", "queue", "encode", "turn", "request"}
    assert 6.0 <= stages["ring"] < 7.0 and stages["request"] >= 0.03


# ---- what is told ----


def test_a_sampled_batch_is_told_with_all_there_is_to_know(tmp_path, told):
    rig = Rig(tmp_path, Sink(), ALL, spool=False)
    work = rig.bring()
    (record,) = told()
    assert (record.batch, record.output, record.metrics, record.outcome) == (
        work.trace.id,
        "out",
        4,
        "delivered",
    )
    (attempt,) = record.attempts
    assert (attempt["status"], attempt["text"]) == (204, "") and attempt["span"] in rig.output.traces[0]
    assert record.bytes_raw == record.bytes_sent == 36 and rig.output.traces[0].endswith("-01")
    assert rig.delivery.counters.traced == 1 and told(FAILED) == []


def test_a_batch_that_is_not_sampled_and_fails_nowhere_is_not_told(tmp_path, told):
    rig = Rig(tmp_path, Sink(), NONE, spool=False)
    rig.bring()
    assert told() == told(FAILED) == [] and rig.delivery.counters.traced == 0
    assert rig.output.traces[0].endswith("-00")


@pytest.mark.parametrize(
    ("verdicts", "outcome", "statuses"),
    [
        ([RETRY, DELIVERED], "delivered", [500, 204]),
        ([REFUSED_ONE], "mixed", [400]),
        ([Verdict(Kind.REJECT, status=400, text="no")], "rejected", [400]),
        ([SPLIT, DELIVERED], "delivered", [400, 204, 204]),
        ([RETRY], "spooled", [500]),
        ([SPLIT, DELIVERED, RETRY], "mixed", [400, 204, 500]),
    ],
)
def test_every_batch_that_fails_on_its_way_is_told(tmp_path, told, verdicts, outcome, statuses):
    rig = Rig(tmp_path, Sink(*verdicts), NONE, retries=verdicts.count(DELIVERED) and 1)
    if verdicts[-1] is RETRY:
        rig.delivery.attempts.resilience = Resilience(retries=0)
    rig.bring()
    wait_until(lambda: told(FAILED))
    (record,) = told(FAILED)
    assert record.outcome == outcome and [one["status"] for one in record.attempts] == statuses
    assert rig.delivery.counters.traced == 1 and told() == []
    rig.spool.close()


def test_what_goes_to_the_spool_without_an_attempt_and_what_is_dropped_is_told(tmp_path, told):
    rig = Rig(tmp_path, Sink())
    rig.delivery.store(rig.take())
    wait_until(rig.spooled)
    rig.delivery.drop(rig.take(), "drain_timeout")
    wait_until(lambda: len(told(FAILED)) == 2)
    assert [record.outcome for record in told(FAILED)] == ["spooled", "dropped"]
    assert [record.attempts for record in told(FAILED)] == [[], []]
    rig.spool.close()


def test_a_changed_share_counts_from_the_next_batch(tmp_path, told):
    rig = Rig(tmp_path, Sink(), NONE, spool=False)
    rig.bring()
    rig.delivery.reconfigure(rig.output, Resilience(), None, watching=ALL)
    rig.bring()
    assert len(told()) == 1


@pytest.mark.parametrize(("watching", "events"), [(NONE, 0), (ALL, 1)])
def test_a_file_that_goes_back_is_told_only_if_it_is_sampled(tmp_path, told, watching, events):
    rig = Rig(tmp_path, Sink(RETRY), watching, retries=0)
    assert rig.spool.add(Payload(b"m v=1i 1\n", 1, 9), time.time_ns())
    work = Stored(rig.spool.take())
    assert not rig.delivery.deliver(work)
    assert [record.outcome for record in told(FAILED)] == events * ["spooled"]
    assert rig.delivery.counters.traced == events and rig.delivery.counters.stages["request"] > 0
    rig.spool.close()
