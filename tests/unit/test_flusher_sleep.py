"""While nothing can leave, a flusher sleeps, however many files wait and have rested enough."""

import os
import threading
import time
from functools import partial

import pytest

from agent._core import Ring, Waker
from agent.config_schema import Flush, SpoolTable
from agent.delivery.breaker import State
from agent.delivery.flusher import Flusher
from agent.delivery.task import Resilience
from agent.outputs.base import Kind, Output, Payload, Verdict
from agent.store import disk
from agent.store.folder import Index
from agent.store.spool import Spool
from tests.conftest import wait_until

FILES = 2000
WINDOW = 500
"""Names of files that the spool knows here; of the others it has the totals only."""

NEVER = 3600.0
NOW_NS = time.time_ns()

DELIVERED = Verdict(Kind.DELIVERED, status=204)
REFUSED = Verdict(Kind.RETRY, text="cannot connect: Connection refused")
BUSY = Verdict(Kind.RETRY, status=500, text="not now")
OVERLOADED = Verdict(Kind.RETRY, status=503, text="come back in an hour", retry_after=NEVER)


class Sink(Output):
    """Says to a body what *verdict* says. A file that failed rests for some milliseconds only."""

    retry_min = 0.001
    retry_max = 0.02

    def __init__(self, verdict, concurrency=2):
        super().__init__("sink", "here")
        self.verdict = verdict
        self.max_concurrency = concurrency
        self.posts = 0

    def post(self, payload, deadline):
        self.posts += 1
        return self.verdict(bytes(payload.data))


class CountedWaker:
    """A waker that tells for how many seconds it was waited, each time: one for each round of a flusher."""

    def __init__(self):
        self.waker = Waker()
        self.waits = []

    def wake(self):
        self.waker.wake()

    def wait(self, seconds):
        self.waits.append(seconds)
        self.waker.wait(seconds)


class Rig:
    """A flusher with nothing in its ring, and with *files* in its spool, of one line each."""

    def __init__(self, folder, output, files, **resilience):
        self.output = output
        self.spool = Spool("sink", folder, SpoolTable(min_free_space=0, sync="never"))
        for number in range(files):
            body = b"m v=%di\n" % number
            assert self.spool.add(Payload(body, 1, len(body)), NOW_NS + number)
        self.waker = CountedWaker()
        ring = Ring(None, 1 << 16, self.waker.waker, slot_bytes=64, slot_metrics=1)
        flush = Flush(batch_lines=10, batch_bytes=1 << 20, interval=NEVER)
        self.flusher = Flusher(
            "test", output, self.waker, [ring], flush, Resilience(**resilience), spool=self.spool
        )
        self.flusher.start()

    @property
    def breaker(self):
        return self.flusher.delivery.attempts.breaker

    def rounds(self, count=10):
        """Wake it so often, one after the other; for how long it wanted to sleep since, each time."""
        before = len(self.waker.waits)
        for _ in range(count):
            seen = len(self.waker.waits)
            self.flusher.beat()
            wait_until(lambda seen=seen: len(self.waker.waits) > seen)
        return self.waker.waits[before:]


@pytest.fixture
def rig(tmp_path, monkeypatch):
    # The rings want to be looked after once, which would wake it, too.
    monkeypatch.setattr("agent.delivery.flusher.WARM_UP_S", NEVER)
    monkeypatch.setattr("agent.store.spool.Index", partial(Index, window_max=WINDOW))
    made = []

    def make(*args, **kwargs):
        made.append(Rig(tmp_path / "spool", *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.flusher.drain(time.monotonic() + 5)
        assert not one.flusher.alive
        one.spool.close()


def test_files_that_have_rested_keep_nobody_awake_while_the_breaker_is_open(rig):
    one = rig(Sink(lambda body: OVERLOADED), FILES)
    wait_until(lambda: one.breaker is State.OPEN)
    # The one that failed rests for a millisecond, and the breaker pauses for an hour.
    one.rounds(1)
    assert 0.0 not in one.rounds()
    assert one.output.posts == 1


@pytest.mark.parametrize("concurrency", [1, 2])
def test_files_that_have_rested_keep_nobody_awake_while_the_place_for_files_is_taken(rig, concurrency):
    first, asked, answers, delivered = b"m v=0i\n", threading.Event(), threading.Event(), []

    def verdict(body):
        if body == first and not asked.is_set():
            return BUSY
        asked.set()
        assert answers.wait(10)
        delivered.append(body)
        return DELIVERED

    one = rig(Sink(verdict, concurrency), 2, retries=0)
    assert asked.wait(10)
    try:
        one.rounds(1)
        # The attempt that is under way wakes it when it ends.
        assert 0.0 not in one.rounds()
    finally:
        answers.set()
    # And then the one that has rested has its turn.
    wait_until(lambda: one.flusher.counters.replayed == 2)
    assert delivered == [b"m v=1i\n", first]


def test_a_file_that_has_rested_is_tried_again_while_another_hangs_and_nothing_else_happens(rig):
    first, answers, tried = b"m v=0i\n", threading.Event(), []

    def verdict(body):
        if body != first:
            assert answers.wait(10)
            return DELIVERED
        tried.append(body)
        return BUSY if len(tried) < 4 else DELIVERED

    one = rig(Sink(verdict, concurrency=4), 2, retries=0)
    try:
        wait_until(lambda: one.flusher.counters.replayed == 1)
    finally:
        answers.set()
    wait_until(lambda: one.flusher.counters.replayed == 2)


def test_a_probe_takes_some_rounds_and_one_file_however_many_wait(rig, monkeypatch):
    looked, read = [], []
    one = rig(Sink(lambda body: REFUSED), FILES)
    wait_until(lambda: one.breaker is not State.CLOSED)

    def counted(what, calls):
        def call(*args, **kwargs):
            calls.append(args)
            return what(*args, **kwargs)

        return call

    for name in ("scandir", "listdir", "stat"):
        monkeypatch.setattr(os, name, counted(getattr(os, name), looked))
    monkeypatch.setattr("agent.store.disk.read", counted(disk.read, read))
    posts, rounds = one.output.posts, len(one.waker.waits)
    wait_until(lambda: one.output.posts >= posts + 50)
    assert one.spool.tick() is not None and one.spool.counters.files == FILES
    probes = one.output.posts - posts
    assert not looked
    assert len(read) <= probes + 2
    assert len(one.waker.waits) - rounds <= 5 * (probes + 2)
