"""What becomes of a batch: the verdicts of an output, turned into repetitions, halves, pauses and counts."""

import gc
import gzip
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent._core import Ring, Waker
from agent.delivery.attempts import DRAIN_PAUSE_MAX
from agent.delivery.delivery import Delivery
from agent.delivery.task import DEFAULTS
from agent.outputs.base import Kind, Output, Payload, Refusal, Verdict
from tests.conftest import wait_until

DELIVERED = Verdict(Kind.DELIVERED, status=204)
RETRY = Verdict(Kind.RETRY, status=500, text="not now")
HOLD = Verdict(Kind.HOLD, status=401, text="who are you")
SPLIT = Verdict(Kind.SPLIT, status=413, text="too large")
REJECT = Verdict(Kind.REJECT, status=400, text="no")


class Lines(bytes):
    """A batch that is no ring's."""

    releases = 0
    encoding = "lp"
    marked = False
    oldest_ns = 1_600_000_000_000_000_000

    @property
    def metrics(self):
        return self.count(b"\n")

    def release(self, delays=None, delivered=0):
        self.releases += 1
        self.delivered = delivered


def refuse(count):
    return tuple(Refusal(line, "no") for line in range(count))


class Scripted(Output):
    """Gives the scripted verdicts in turn, then the last one for ever; an exception is raised."""

    retry_min = 0.001
    retry_max = 0.01

    def __init__(self, *verdicts, name="out"):
        super().__init__(name, "somewhere")
        self.verdicts = list(verdicts) or [DELIVERED]
        self.bodies = []
        self.times = []
        self.closed = self.aborted = False

    def encode(self, body, metrics, encoding="lp"):
        assert body.tobytes().count(b"\n") == metrics
        return Payload(gzip.compress(body, 1), metrics, len(body), compression="gz")

    def post(self, payload, deadline):
        body = gzip.decompress(payload.data)
        assert body.count(b"\n") == payload.metrics and not self.closed
        self.times.append(time.monotonic())
        self.bodies.append(body)
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        if callable(verdict):
            verdict = verdict(self.bodies[-1])
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def abort(self):
        self.aborted = True

    def close(self):
        self.closed = True


class Courier(Delivery):
    """A delivery with somebody who drops what comes back undecided."""

    def bring(self, batch):
        work = self.live(batch)
        if not self.deliver(work):
            self.drop(work, "drain_timeout")

    def replace(self, output):
        self.reconfigure(output, DEFAULTS, None)

    def calm(self, output, count=100):
        """So many successes that a few failures do not open the breaker."""
        verdicts, output.verdicts = output.verdicts, [DELIVERED]
        for _ in range(count):
            self.bring(lines(1))
        output.verdicts = verdicts
        output.bodies.clear()
        output.times.clear()
        return self


def lines(count):
    return Lines(b"".join(b"m v=%di %d\n" % (n, n + 1) for n in range(count)))


def deliver(*verdicts, count=10, **attributes):
    output = Scripted(*verdicts)
    for name, value in attributes.items():
        setattr(output, name, value)
    delivery = Courier(output)
    batch = lines(count)
    delivery.bring(batch)
    assert batch.releases == 1
    return output, delivery


def test_a_delivered_batch_is_counted_and_released():
    output, delivery = deliver(DELIVERED)
    counters = delivery.counters
    assert output.bodies == [lines(10)]
    assert (counters.delivered, counters.rejected, counters.dropped) == (10, 0, {})
    assert (counters.batches, counters.attempts, counters.retries, counters.splits) == (1, 1, 0, 0)
    assert (counters.bytes_raw, counters.bytes_sent) == (len(lines(10)), len(gzip.compress(lines(10), 1)))
    assert counters.requests == {"2xx": 1} and delivery.health.state == "ok"


def test_what_was_refused_of_a_delivered_batch_is_rejected(caplog):
    _, delivery = deliver(Verdict(Kind.DELIVERED, refuse(3), status=400, text="dropped=3"))
    assert (delivery.counters.delivered, delivery.counters.rejected) == (7, 3)
    (record,) = caplog.records
    assert (record.levelno, record.rejected, record.metrics, record.reason) == (
        logging.ERROR,
        3,
        10,
        "dropped=3",
    )


def test_a_rejected_batch_is_counted_and_told(caplog):
    output, delivery = deliver(REJECT)
    assert len(output.bodies) == 1 and delivery.counters.rejected == 10
    assert [record.reason for record in caplog.records] == ["no"]


def test_a_failed_attempt_is_repeated_with_the_same_body():
    no_answer = Verdict(Kind.RETRY, text="connection lost")
    output, delivery = deliver(RETRY, no_answer, RETRY, DELIVERED)
    assert output.bodies == [lines(10)] * 4
    assert (delivery.counters.attempts, delivery.counters.retries) == (4, 3)
    assert delivery.counters.requests == {"5xx": 2, "error": 1, "2xx": 1}


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_pauses_double_up_to_the_longest_with_full_jitter(monkeypatch, draw):
    output = Scripted(*[RETRY] * 12, DELIVERED)
    output.retry_min, output.retry_max = 0.1, 30.0
    delivery = Courier(output, jitter=lambda: draw).calm(output)
    pauses = []
    monkeypatch.setattr(delivery.attempts, "_pause", lambda *arguments: bool(pauses.append(arguments[2])))
    delivery.bring(lines(1))
    assert pauses == [draw * min(30.0, 0.1 * 2**n) for n in range(12)]


def test_pauses_are_really_waited():
    output = Scripted(RETRY, RETRY, DELIVERED)
    output.retry_min = output.retry_max = 0.05
    Courier(output, jitter=lambda: 1.0).bring(lines(1))
    assert all(
        0.05 <= later - sooner < 1 for sooner, later in zip(output.times, output.times[1:], strict=False)
    )


@pytest.mark.parametrize(
    "verdict",
    [Verdict(Kind.RETRY, status=429, retry_after=0.2), Verdict(Kind.RETRY, status=500, retry_after=0.2)],
)
def test_retry_after_is_obeyed_by_every_batch_of_the_output(verdict):
    output = Scripted(verdict, DELIVERED)
    delivery = Courier(output)
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(delivery.bring, lines(1))]
        wait_until(lambda: delivery.health.state == "retrying")
        futures += [threads.submit(delivery.bring, lines(1)) for _ in range(2)]
        [future.result(10) for future in futures]
    assert all(moment - output.times[0] >= 0.2 for moment in output.times[1:]) and len(output.times) == 4


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overloaded_server_is_spared_by_every_batch_without_being_told_for_how_long(status):
    output = Scripted(Verdict(Kind.RETRY, status=status), DELIVERED)
    output.retry_min = output.retry_max = 0.2
    delivery = Courier(output, jitter=lambda: 1.0)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(delivery.bring, lines(1))
        wait_until(lambda: delivery.health.state == "retrying")
        delivery.bring(lines(1))
        future.result(10)
    assert output.times[1] - output.times[0] >= 0.2


def test_a_server_that_asks_for_no_pause_at_all_is_not_hammered(caplog):
    output = Scripted(*[Verdict(Kind.RETRY, status=429, retry_after=0.0)] * 3, DELIVERED)
    output.retry_min = 0.05
    Courier(output, jitter=lambda: 0.0).bring(lines(1))
    assert all(later - sooner >= 0.05 for sooner, later in zip(output.times, output.times[1:], strict=False))


def test_a_failure_of_one_batch_does_not_hold_back_the_others():
    output = Scripted(RETRY, DELIVERED)
    output.retry_min = output.retry_max = 60.0
    delivery = Courier(output, jitter=lambda: 1.0)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(delivery.bring, lines(1))
        wait_until(lambda: delivery.health.state == "retrying")
        delivery.bring(lines(1))
        # And the success of the other shows that the server is back, so the first does not wait its minute.
        future.result(10)
    assert len(output.bodies) == 3


def test_a_batch_that_fails_by_itself_is_not_woken_by_each_success_of_others():
    poison = lines(3)
    output = Scripted(lambda body: RETRY if body == poison else DELIVERED)
    output.retry_min = output.retry_max = 60.0
    delivery = Courier(output, jitter=lambda: 1.0)
    thread = threading.Thread(target=delivery.bring, args=(poison,), daemon=True)
    thread.start()
    wait_until(lambda: output.bodies.count(poison) == 1)
    wait_until(lambda: delivery.bring(lines(1)) or output.bodies.count(poison) == 2)
    for _ in range(50):
        delivery.bring(lines(1))
    assert output.bodies.count(poison) == 2
    delivery.attempts.stop(time.monotonic())
    thread.join(10)
    assert delivery.counters.dropped == {"drain_timeout": 3}


def test_hold_waits_the_longest_pause_keeps_everything_and_is_an_error(caplog):
    output = Scripted(HOLD, HOLD, DELIVERED)
    output.retry_min, output.retry_max = 0.0001, 0.1
    delivery = Courier(output, jitter=lambda: 0.0)
    delivery.bring(lines(4))
    assert all(later - sooner >= 0.1 for sooner, later in zip(output.times, output.times[1:], strict=False))
    assert delivery.counters.delivered == 4
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.status, record.reason, record.output) for record in errors] == [
        (401, "who are you", "out")
    ] * 2


def test_health_tells_since_when_and_why():
    output = Scripted(HOLD)
    output.retry_max = 60.0
    delivery = Courier(output)
    started = time.time()
    thread = threading.Thread(target=delivery.bring, args=(lines(1),), daemon=True)
    thread.start()
    wait_until(lambda: delivery.health.state == "holding")
    held = delivery.health
    assert held.last_error == "who are you" and started <= held.since <= time.time()
    delivery.replace(Scripted(DELIVERED))
    thread.join(10)
    assert delivery.health.state == "ok" and delivery.health.since >= held.since


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_a_body_is_halved_by_lines_until_it_fits(count, limit):
    output, delivery = deliver(lambda body: SPLIT if body.count(b"\n") > limit else DELIVERED, count=count)
    taken = [body for body in output.bodies if body.count(b"\n") <= limit]
    # In order, complete, and nothing twice.
    assert b"".join(taken) == lines(count) and delivery.counters.delivered == count
    assert delivery.counters.splits == len(taken) - 1


def test_one_line_that_cannot_be_split_is_rejected_and_shown(caplog):
    bad = b"m v=5i 6\n"
    output, delivery = deliver(lambda body: SPLIT if bad in body else DELIVERED, count=64)
    counters = delivery.counters
    assert (counters.delivered, counters.rejected) == (63, 1)
    assert b"".join(body for body in output.bodies if bad not in body) == lines(64).replace(bad, b"")
    shown = [record.line for record in caplog.records if hasattr(record, "line")]
    assert shown == ["m v=5i 6"]


def test_a_newline_in_a_string_is_no_place_to_split():
    body = b'm v="a\nb" 1\nm v="c\n\\"d\n" 2\nm v=3 3\n'

    class Quoted(Lines):
        metrics = 3

    class Sink(Scripted):
        def encode(self, body, metrics, encoding="lp"):
            return Payload(body, metrics, len(body))

        def post(self, payload, deadline):
            self.bodies.append(bytes(payload.data))
            return SPLIT if payload.metrics > 1 else DELIVERED

    output = Sink()
    Courier(output).bring(Quoted(body))
    assert [
        one for one in output.bodies if one in (b'm v="a\nb" 1\n', b'm v="c\n\\"d\n" 2\n', b"m v=3 3\n")
    ] == [
        b'm v="a\nb" 1\n',
        b'm v="c\n\\"d\n" 2\n',
        b"m v=3 3\n",
    ]


def test_an_output_that_raises_is_a_bug_that_loses_nothing(caplog):
    _, delivery = deliver(ValueError("oops"), DELIVERED)
    assert delivery.counters.delivered == 10 and delivery.counters.retries == 1
    assert any(record.exc_info for record in caplog.records)
    assert delivery.health.last_error == "ValueError: oops"


def test_stop_lets_attempts_go_on_until_the_deadline_and_drops_what_is_left():
    output = Scripted(RETRY)
    output.retry_min = output.retry_max = 60.0
    delivery = Courier(output, jitter=lambda: 1.0)
    batch = lines(5)
    thread = threading.Thread(target=delivery.bring, args=(batch,))
    thread.start()
    wait_until(lambda: len(output.times) == 1)
    stopped = time.monotonic()
    delivery.attempts.stop(stopped + 0.2)
    # It is tried once more at once, not after its minute.
    wait_until(lambda: len(output.times) == 2)
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - stopped >= 0.2
    assert delivery.counters.dropped == {"drain_timeout": 5} and batch.releases == 1
    delivery.bring(lines(2))
    assert delivery.counters.dropped == {"drain_timeout": 7} and len(output.times) == 2


def test_while_draining_pauses_are_short(monkeypatch):
    output = Scripted(*[RETRY] * 12, DELIVERED)
    output.retry_min, output.retry_max = 5.0, 30.0
    delivery = Courier(output, jitter=lambda: 1.0).calm(output)
    delivery.attempts.stop(time.monotonic() + 60)
    pauses = []
    monkeypatch.setattr(delivery.attempts, "_pause", lambda *arguments: bool(pauses.append(arguments[2])))
    delivery.bring(lines(1))
    assert set(pauses) == {DRAIN_PAUSE_MAX}


def test_while_draining_even_a_server_that_refuses_is_asked_every_second():
    output = Scripted(HOLD, DELIVERED)
    output.retry_min = output.retry_max = 600.0
    delivery = Courier(output)
    delivery.attempts.stop(time.monotonic() + 60)
    delivery.bring(lines(1))
    assert output.times[1] - output.times[0] <= DRAIN_PAUSE_MAX + 0.5


def test_parts_of_a_batch_that_were_delivered_before_the_deadline_are_not_dropped():
    def verdict(body):
        if body.count(b"\n") == 8:
            return SPLIT
        return DELIVERED if body.startswith(b"m v=0i") else RETRY

    output = Scripted(verdict)
    delivery = Courier(output)
    thread = threading.Thread(target=delivery.bring, args=(batch := lines(8),))
    thread.start()
    wait_until(lambda: len(output.bodies) > 3)
    delivery.attempts.stop(time.monotonic())
    thread.join(10)
    assert (delivery.counters.delivered, delivery.counters.dropped) == (4, {"drain_timeout": 4})
    assert batch.releases == 1


def test_a_new_output_takes_over_and_the_old_one_is_closed_after_its_last_attempt():
    entered, gate = threading.Event(), threading.Event()

    def wait(body):
        entered.set()
        assert gate.wait(10)
        return RETRY

    old, new = Scripted(wait), Scripted(DELIVERED)
    delivery = Courier(old)
    thread = threading.Thread(target=delivery.bring, args=(lines(3),))
    thread.start()
    assert entered.wait(10)
    delivery.replace(new)
    assert delivery.output is new and not old.closed
    delivery.attempts.abort()
    assert old.aborted and new.aborted
    gate.set()
    thread.join(10)
    assert old.closed and not new.closed and new.bodies == [lines(3)]
    delivery.replace(new)
    assert not new.closed
    delivery.replace(Scripted())
    assert new.closed


def test_a_verdict_on_the_old_output_does_not_pause_the_new_one():
    entered, gate = threading.Event(), threading.Event()

    def wait(body):
        entered.set()
        assert gate.wait(10)
        return Verdict(Kind.RETRY, status=503, retry_after=60.0)

    delivery = Courier(Scripted(wait))
    thread = threading.Thread(target=delivery.bring, args=(lines(3),))
    thread.start()
    assert entered.wait(10)
    delivery.replace(Scripted(DELIVERED))
    gate.set()
    thread.join(10)
    assert delivery.counters.delivered == 3


def test_drop_counts_and_releases():
    delivery = Courier(Scripted())
    delivery.drop(delivery.live(batch := lines(3)), "drain_timeout")
    assert delivery.counters.dropped == {"drain_timeout": 3} and batch.releases == 1
    assert delivery.counters.batches == 1


def test_a_ring_s_batch_can_be_released_whatever_the_attempt_left_behind():
    """An exception that holds itself keeps its frames, and they keep what they looked at."""

    class Leaky(Scripted):
        def encode(self, body, metrics, encoding="lp"):
            return Payload(body, metrics, len(body))

        def post(self, payload, deadline):
            try:
                raise OSError("broken")
            except OSError as error:
                self.kept = error, payload
                me = error  # noqa: F841
            if not self.bodies:
                self.bodies.append(1)
                raise self.kept[0]
            return DELIVERED

    gc.disable()
    try:
        ring = Ring(None, 1 << 16, Waker())
        assert ring.put(lines(10), 10)
        delivery = Courier(Leaky())
        batch = ring.take(1 << 20, 1000, True)
        delivery.bring(batch)
        assert batch.released and ring.stats()["waiting"] == 0
    finally:
        gc.enable()


def test_every_metric_is_decided_once_whatever_happens():
    """Random verdicts in four threads, with reloads and a stop in the middle of it."""
    for seed in range(5):
        chance = random.Random(seed)

        def verdict(body, chance=chance):
            metrics = body.count(b"\n")
            return chance.choice(
                [
                    DELIVERED,
                    Verdict(Kind.DELIVERED, refuse(chance.randrange(metrics + 1)), status=400),
                    RETRY,
                    HOLD,
                    SPLIT,
                    REJECT,
                    Verdict(Kind.RETRY, status=503, retry_after=0.001),
                    OSError("a bug"),
                ]
            )

        def output(verdict=verdict):
            made = Scripted(verdict)
            made.retry_max = 0.002
            return made

        delivery = Courier(output())
        batches = [lines(chance.randrange(1, 40)) for _ in range(200)]
        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(delivery.bring, batch) for batch in batches]
            wait_until(lambda delivery=delivery: delivery.counters.batches > 50)
            delivery.replace(output())
            wait_until(lambda delivery=delivery: delivery.counters.batches > 100)
            delivery.attempts.stop(time.monotonic() + 0.02)
            [future.result(20) for future in futures]
        counters = delivery.counters
        decided = counters.delivered + counters.rejected + sum(counters.dropped.values())
        assert decided == sum(batch.metrics for batch in batches)
        assert all(batch.releases == 1 for batch in batches) and counters.batches == 200
