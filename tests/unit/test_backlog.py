"""The order in which the spool is emptied, and what becomes of files that fail."""

import time

import pytest

from agent.config_schema import SpoolTable
from agent.delivery.backlog import PASSED_AFTER, Backlog
from agent.outputs.base import Payload
from agent.outputs.null import NullSink
from agent.store.spool import Spool
from tests.conftest import wait_until

NOW_NS = time.time_ns()


@pytest.fixture
def spool(tmp_path):
    made = Spool("out", tmp_path / "spool", SpoolTable(min_free_space=0, sync="never"))
    yield made
    made.close()


def fill(spool, count):
    for number in range(count):
        body = b"m v=%di 1\n" % number
        assert spool.add(Payload(body, 1, len(body)), NOW_NS + number)


def output(retry_min=0.05, retry_max=30.0):
    sink = NullSink("out")
    sink.retry_min, sink.retry_max = retry_min, retry_max
    return sink


def numbers(works):
    return [work.oldest_ns - NOW_NS for work in works]


def fail(backlog, work, sink, in_outage=False):
    work.failures = 1
    backlog.give_back(work, sink, in_outage)


def test_the_oldest_goes_first_and_each_to_one_only(spool):
    fill(spool, 5)
    backlog = Backlog(spool)
    assert backlog.is_waiting(time.monotonic())
    works = [backlog.take() for _ in range(5)]
    assert numbers(works) == [0, 1, 2, 3, 4]
    assert backlog.take() is None and not backlog.is_waiting(time.monotonic())


def test_what_is_stored_later_is_waited_for(spool):
    backlog = Backlog(spool)
    assert backlog.take() is None and not backlog.is_waiting(time.monotonic())
    fill(spool, 1)
    backlog.changed()
    assert backlog.is_waiting(time.monotonic()) and backlog.take() is not None


def test_a_file_that_was_not_tried_is_the_next_one_again(spool):
    fill(spool, 3)
    backlog = Backlog(spool)
    first = backlog.take()
    backlog.give_back(first, output(), in_outage=False)
    assert numbers([backlog.take()]) == [0]


def test_a_file_that_failed_lets_the_others_pass_and_comes_back_after_its_pause(spool):
    fill(spool, 3)
    backlog = Backlog(spool)
    failed_at = time.monotonic()
    fail(backlog, backlog.take(), output(retry_min=0.1))
    assert numbers([backlog.take(), backlog.take()]) == [1, 2]
    assert backlog.take() is None
    assert 0.1 <= backlog.wakes_at - failed_at < 0.2
    wait_until(lambda: backlog.is_waiting(time.monotonic()))
    assert time.monotonic() >= failed_at + 0.1 and numbers([backlog.take()]) == [0]


def test_pauses_double_up_to_the_longest_and_begin_anew_once_a_file_is_decided(spool):
    fill(spool, 1)
    backlog = Backlog(spool)
    pauses = []
    for _ in range(6):
        work = backlog.take()
        fail(backlog, work, output(retry_min=1.0, retry_max=10.0))
        pauses.append(round(backlog.wakes_at - time.monotonic()))
        backlog.close()
    assert pauses == [1, 2, 4, 8, 10, 10]
    work = backlog.take()
    backlog.decided(work)
    fail(backlog, work, output(retry_min=1.0))
    assert round(backlog.wakes_at - time.monotonic()) == 1


def test_after_an_outage_those_that_failed_in_it_need_no_rest_and_the_others_do(spool):
    fill(spool, 3)
    backlog = Backlog(spool)
    works = [backlog.take() for _ in range(3)]
    for work in works:
        fail(backlog, work, output(retry_min=30.0), in_outage=work is not works[1])
    assert backlog.take() is None
    backlog.outage_over()
    assert numbers([backlog.take(), backlog.take()]) == [0, 2]
    assert backlog.take() is None


def test_only_so_many_rest_at_once_and_then_one_of_them_is_the_next(spool, monkeypatch):
    monkeypatch.setattr("agent.delivery.backlog.RESTING_MAX", 3)
    fill(spool, 5)
    backlog = Backlog(spool)
    for number in range(3):
        fail(backlog, backlog.take(), output(retry_min=0.1 + 10 * number))
    assert backlog.take() is None and not backlog.is_waiting(time.monotonic())
    wait_until(lambda: backlog.is_waiting(time.monotonic()))
    assert numbers([backlog.take(), backlog.take(), backlog.take()]) == [0, 3, 4]


def test_what_is_known_of_files_is_bounded(spool, monkeypatch):
    monkeypatch.setattr("agent.delivery.backlog.REMEMBERED_MAX", 2)
    fill(spool, 5)
    backlog = Backlog(spool)
    for _ in range(5):
        fail(backlog, backlog.take(), output())
    assert len(backlog._failures) == 2


def test_at_the_end_everything_is_the_spool_s_again(spool):
    fill(spool, 3)
    backlog = Backlog(spool)
    for _ in range(3):
        fail(backlog, backlog.take(), output(retry_min=30.0))
    assert spool.take() is None
    backlog.close()
    assert [spool.take().oldest_ns - NOW_NS for _ in range(3)] == [0, 1, 2]


def test_in_order_nothing_passes_a_file_that_failed_in_an_outage(spool):
    fill(spool, 2)
    backlog = Backlog(spool)
    backlog.ordered = True
    for _ in range(20):
        work = backlog.take()
        assert numbers([work]) == [0]
        fail(backlog, work, output(retry_min=30.0), in_outage=True)
        assert backlog.is_waiting(time.monotonic())
    assert numbers([backlog.take(), backlog.take()]) == [0, 1]


def test_in_order_a_file_that_fails_by_itself_lets_others_pass_after_some_times(spool, monkeypatch):
    monkeypatch.setattr("agent.delivery.backlog.REST_IN_ORDER_S", 0.01)
    fill(spool, 2)
    backlog = Backlog(spool)
    backlog.ordered = True
    sink = output(retry_min=30.0)
    for _ in range(PASSED_AFTER):
        wait_until(lambda: backlog.is_waiting(time.monotonic()))
        work = backlog.take()
        assert numbers([work]) == [0]
        fail(backlog, work, sink)
        assert backlog.take() is None and backlog.holds_up(time.monotonic())
    wait_until(lambda: backlog.is_waiting(time.monotonic()))
    fail(backlog, backlog.take(), sink)
    assert numbers([backlog.take()]) == [1]
    assert backlog.take() is None and not backlog.holds_up(time.monotonic())
