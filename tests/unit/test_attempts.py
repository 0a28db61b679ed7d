"""One body through attempts: who may try, when it is given up, and what a former output has to say."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.delivery.attempts import Attempts
from agent.delivery.breaker import State
from agent.delivery.task import Resilience, Task
from agent.outputs.base import Kind, Output, Payload, Verdict
from tests.conftest import wait_until

DELIVERED = Verdict(Kind.DELIVERED, status=204)
BUSY = Verdict(Kind.RETRY, status=500, text="not now")
BODY = Payload(b"m v=1 1\n", 1, 8)


class Leaver(Task):
    """May go elsewhere as long as ``open`` is set."""

    has_spool = True
    open = True

    def may_leave(self):
        return self.open


class Sink(Output):
    """Answers with *verdict*; while ``gate`` is not set, attempts wait in it."""

    retry_min = 0.001
    retry_max = 0.01

    def __init__(self, verdict=DELIVERED, concurrency=4):
        super().__init__("sink", "here")
        self.verdict = verdict
        self.max_concurrency = concurrency
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.posts = self.inside = self.inside_max = 0
        self.deadlines = []
        self.cut = False

    def post(self, payload, deadline):
        with self.lock:
            self.posts += 1
            self.inside += 1
            self.inside_max = max(self.inside, self.inside_max)
            self.deadlines.append(deadline)
        while not self.gate.wait(0.002) and not self.cut:
            pass
        with self.lock:
            self.inside -= 1
        return Verdict(Kind.RETRY, text="cut") if self.cut else self.verdict

    def interrupt(self, before):
        self.cut = True


def attempts(sink, **resilience):
    return Attempts(sink, Resilience(**resilience), jitter=lambda: 1.0)


def opened(sink):
    one = attempts(sink, retries=100)
    sink.verdict = BUSY
    assert one.decide(Leaver(), BODY) is None and one.breaker is not State.CLOSED
    return one


def test_a_task_that_may_leave_is_given_up_after_its_retries():
    sink = Sink(BUSY)
    assert attempts(sink, retries=2).decide(Leaver(), BODY) is None
    assert sink.posts == 3


def test_a_task_that_may_not_leave_is_tried_for_ever():
    sink = Sink(BUSY)
    one = attempts(sink, retries=0, batch_timeout=0.01)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(one.decide, Task(), BODY)
        wait_until(lambda: sink.posts > 20)
        sink.verdict = DELIVERED
        assert future.result(10) is DELIVERED
    # What has nowhere to go has no deadline either.
    assert set(sink.deadlines) == {math.inf}


def test_a_task_is_given_up_when_its_time_would_be_over_before_the_next_attempt():
    sink = Sink(BUSY)
    sink.retry_min = sink.retry_max = 60.0
    started = time.monotonic()
    assert attempts(sink, batch_timeout=5.0).decide(Leaver(), BODY) is None
    assert time.monotonic() - started < 2 and sink.posts == 1


def test_the_time_of_a_task_goes_on_over_its_bodies():
    sink = Sink()
    one, task = attempts(sink, batch_timeout=10.0), Leaver()
    assert one.decide(task, BODY) is DELIVERED and one.decide(task, BODY) is DELIVERED
    assert len(set(sink.deadlines)) == 1
    assert sink.deadlines[0] - time.monotonic() <= 10.0


def test_a_task_is_given_up_when_the_breaker_opens_and_not_tried_while_it_is():
    sink = Sink()
    one = opened(sink)
    posts = sink.posts
    assert posts == 5
    one.reconfigure(sink, Resilience(retries=100))
    with one._changed:
        one._breaker._until = math.inf
    assert one.decide(Leaver(), BODY) is None and sink.posts == posts


def test_half_open_one_attempt_is_made_and_its_success_lets_all_others_in():
    sink = Sink(concurrency=3)
    one = opened(sink)
    sink.verdict = DELIVERED
    sink.gate.clear()
    posts = sink.posts
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(one.decide, Task(), BODY) for _ in range(3)]
        wait_until(lambda: one.breaker is State.HALF_OPEN)
        wait_until(lambda: one._sleepers == 2)
        assert sink.posts == posts + 1
        sink.gate.set()
        assert [future.result(10) for future in futures] == [DELIVERED] * 3
    assert one.breaker is State.CLOSED


def test_no_more_attempts_are_under_way_than_the_limit_says():
    sink = Sink(concurrency=8)
    one = attempts(sink)
    one._limiter.restart()
    sink.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(one.decide, Task(), BODY) for _ in range(8)]
        wait_until(lambda: one._sleepers == 7)
        assert sink.inside == 1
        sink.gate.set()
        assert [future.result(10) for future in futures] == [DELIVERED] * 8


def test_after_an_outage_the_limit_begins_at_one():
    one = opened(Sink(concurrency=8))
    assert one.limit == 1


@pytest.mark.parametrize("status", [429, 503, 408])
def test_a_refusal_halves_the_limit(status):
    sink = Sink(Verdict(Kind.RETRY, status=status), concurrency=8)
    one = attempts(sink, retries=0)
    assert one.decide(Leaver(), BODY) is None and one.limit == 4


def test_a_failure_that_says_nothing_of_load_leaves_the_limit():
    one = attempts(Sink(BUSY, concurrency=8), retries=0)
    assert one.decide(Leaver(), BODY) is None and one.limit == 8


def test_a_short_retry_after_is_waited_out_and_a_long_one_opens_the_breaker():
    sink = Sink(Verdict(Kind.RETRY, status=503, retry_after=0.2))
    one = attempts(sink, retries=1)
    started = time.monotonic()
    assert one.decide(Leaver(), BODY) is None and time.monotonic() - started >= 0.2
    assert one.breaker is State.CLOSED
    sink.verdict = Verdict(Kind.RETRY, status=503, retry_after=20.0)
    posts = sink.posts
    assert one.decide(Leaver(), BODY) is None and sink.posts == posts + 1
    assert one.breaker is State.OPEN


def test_a_task_whose_place_is_needed_is_interrupted_and_given_up():
    sink = Sink()
    sink.gate.clear()
    one, task = attempts(sink), Leaver()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(one.decide, task, BODY)
        wait_until(lambda: task.began is not None and sink.inside)
        task.hurried = True
        one.interrupt(time.monotonic())
        assert future.result(10) is None
    assert sink.posts == 1 and task.began is None


def test_a_task_in_a_pause_whose_place_is_needed_is_given_up_at_once():
    sink = Sink(BUSY)
    sink.retry_min = sink.retry_max = 60.0
    one, task = attempts(sink, batch_timeout=3600.0), Leaver()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(one.decide, task, BODY)
        wait_until(lambda: one._sleepers == 1)
        task.hurried = True
        one.interrupt(0.0)
        assert future.result(10) is None


def test_room_is_what_the_limit_leaves_and_pauses_take_none_of_it():
    sink = Sink(BUSY, concurrency=4)
    sink.retry_min = sink.retry_max = 60.0
    one = attempts(sink)
    assert one.room(0, lambda: True) == (4, math.inf)
    assert one.room(3, lambda: True) == (1, math.inf)
    assert one.room(9, lambda: True) == (0, math.inf)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(one.decide, Task(), BODY)
        wait_until(lambda: one._sleepers == 1)
        one._limiter.restart()
        # The limit is one, and the only one in hand is asleep.
        assert one.room(1, lambda: True) == (1, math.inf)
        assert one.room(2, lambda: True) == (0, math.inf)
        one.stop(time.monotonic())
        assert future.result(10) is None


def test_there_is_room_for_one_when_the_pause_of_the_breaker_is_over():
    one = opened(Sink(concurrency=4))
    with one._changed:
        one._breaker._until = until = time.monotonic() + 60
    assert one.room(0, lambda: True) == (0, until)
    # What cannot go elsewhere may wait for it in the hands of a sender.
    assert one.room(0, lambda: False) == (1, math.inf)
    with one._changed:
        one._breaker.hurry()
    assert one.room(0, lambda: True) == (1, math.inf)
    assert one.room(1, lambda: True) == (0, math.inf)


def test_what_a_former_output_did_says_nothing_about_the_new_one():
    old, new = Sink(Verdict(Kind.HOLD, status=401)), Sink()
    old.gate.clear()
    one = attempts(old)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(one.decide, Task(), BODY)
        wait_until(lambda: old.inside)
        one.reconfigure(new, Resilience())
        old.gate.set()
        assert future.result(10) is DELIVERED
    assert one.breaker is State.CLOSED and one.counters.opened == 0 and new.posts == 1


def test_other_settings_of_the_same_output_hold_at_once():
    sink = Sink(BUSY)
    one = attempts(sink, retries=0)
    one.reconfigure(sink, Resilience(retries=2))
    assert one.decide(Leaver(), BODY) is None and sink.posts == 3
