"""The tick thread: when it ticks, with which stamps, and that nothing aggregated is lost on the way."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent._core import Lane, Ring, Waker
from agent.aggregation import Schedule, Source, Ticker, make_aggregator
from agent.config import Listen
from tests.conftest import wait_until

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
START = 1_700_000_000 * SECOND
"""A multiple of ten seconds, as all times in these tests are told from."""

LISTEN = Listen(address="udp://127.0.0.1:8125", format="statsd", interval=0.1)


# ---- when ----


def at(seconds: float) -> int:
    return START + round(seconds * 1e9)


def test_a_tick_comes_at_each_multiple_of_the_interval_and_once_only() -> None:
    schedule = Schedule(10.0, at(3))
    assert schedule.wait(at(3)) == 7.0
    assert schedule.take(at(9.999)) is None
    assert schedule.take(at(10)) == at(10)
    assert schedule.take(at(10)) is None
    assert schedule.take(at(20.5)) == at(20)
    assert schedule.wait(at(20.5)) == 9.5


def test_a_schedule_that_begins_at_a_multiple_ticks_at_the_next_one() -> None:
    schedule = Schedule(10.0, at(10))
    assert schedule.take(at(10)) is None
    assert schedule.take(at(20)) == at(20)


def test_one_tick_stands_for_all_that_were_missed() -> None:
    schedule = Schedule(10.0, at(3))
    assert schedule.take(at(77)) == at(70)
    assert schedule.take(at(77)) is None
    assert schedule.take(at(80)) == at(80)


def test_a_clock_set_forward_makes_one_tick() -> None:
    schedule = Schedule(1.0, at(0.5))
    assert schedule.take(at(0.5) + HOUR) == at(0) + HOUR
    assert schedule.take(at(0.6) + HOUR) is None


def test_a_clock_that_goes_back_a_little_does_not_repeat_a_tick() -> None:
    schedule = Schedule(10.0, at(3))
    assert schedule.take(at(10.001)) == at(10)
    for seconds in (9.9, 10.0, 10.1, 3.0, 19.9):
        assert schedule.take(at(seconds)) is None
    assert schedule.take(at(20)) == at(20)


def test_a_clock_set_back_ticks_by_the_new_time_and_repeats_no_stamp() -> None:
    schedule = Schedule(10.0, at(3))
    stamps = [schedule.take(at(seconds)) for seconds in (10, 20, 30)]
    assert schedule.take(at(3)) is None
    assert schedule.wait(at(3)) == 7.0
    again = [schedule.take(at(seconds)) for seconds in (10, 20, 30)]
    assert None not in again and not {*stamps} & {*again}
    assert [abs((one or 0) - (other or 0)) < 1000 for one, other in zip(stamps, again, strict=True)] == [
        True
    ] * 3


def test_a_shorter_interval_takes_effect_at_its_own_next_multiple() -> None:
    schedule = Schedule(3600.0, at(0))
    schedule.change(10.0, at(3))
    assert schedule.take(at(10)) == at(10)
    assert schedule.take(at(20)) == at(20)


def test_a_longer_interval_takes_effect_at_the_tick_that_was_due() -> None:
    schedule = Schedule(10.0, at(3))
    schedule.change(60.0, at(4))
    assert schedule.take(at(10)) == at(10)
    assert schedule.take(at(20)) is None
    due = at(10) - at(10) % (60 * SECOND) + 60 * SECOND
    assert schedule.take(due) == due


def test_the_same_interval_again_changes_nothing() -> None:
    schedule = Schedule(10.0, at(3))
    assert schedule.take(at(10)) == at(10)
    schedule.change(10.0, at(3))
    assert schedule.take(at(15)) is None


# ---- the thread ----


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = at(0.05)

    def __call__(self) -> int:
        return self.now


class Pipe:
    """A lane with two StatsD listeners, each of 100 ms, one ring, and a ticker with a clock of its own."""

    def __init__(self, ring_bytes: int = 1 << 20) -> None:
        self.clock = Clock()
        self.ticker = Ticker(self.clock)
        self.ring = Ring(None, ring_bytes, Waker())
        self.lane = Lane(0)
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        self.sources = []
        for number, sock in enumerate(self.sockets):
            sock.bind(("127.0.0.1", 0))
            aggregator = make_aggregator(LISTEN, 1)
            self.sources.append(Source(number, f"door {number}", 0.1, aggregator))
            self.lane.add_socket(number, sock.fileno(), format="statsd", aggregator=aggregator)
        self.thread = threading.Thread(target=self.lane.run)
        self.thread.start()

    def connect(self, *sources: Source) -> None:
        self.ticker.connect([self.lane], [self.ring], [(b"dc", b"eu1")], sources)

    def send(self, number: int, datagram: bytes) -> None:
        """Send and wait until it has been read."""

        def received() -> int:
            return self.lane.stats()["listeners"].get(number, {"datagrams": 0})["datagrams"]

        want = received() + 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.sendto(datagram, self.sockets[number].getsockname())
        wait_until(lambda: received() >= want)

    def points(self, count: int) -> list[bytes]:
        """The next points, as many as these; fails if they do not come."""
        wait_until(lambda: self.ring.pending()[0] >= count, what=f"{count} points")
        batch = self.ring.take(1 << 20, 1 << 20, True)
        assert batch is not None
        lines = bytes(memoryview(batch)).splitlines()
        batch.release()
        assert len(lines) == count
        return sorted(lines)

    def close(self) -> None:
        self.lane.stop(1.0)
        self.thread.join(20)
        self.ticker.stop(1.0)
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def stamp(line: bytes) -> int:
    return int(line.split(b" ")[-1])


def test_points_carry_the_time_of_their_tick_and_the_tags_of_the_agent(pipe: Pipe) -> None:
    pipe.connect(pipe.sources[0])
    pipe.send(0, b"hits:2|c\nhits:3|c")
    pipe.clock.now = at(0.123)
    [first] = pipe.points(1)
    assert stamp(first) == at(0.1)
    assert first.startswith(b"hits,") and b"dc=eu1" in first and b"metric_type=counter" in first
    assert b" value=5" in first
    pipe.send(0, b"hits:1|c")
    pipe.clock.now = at(0.2)
    [second] = pipe.points(1)
    assert stamp(second) == at(0.2) and b" value=1" in second


def test_two_listeners_may_see_the_same_series(pipe: Pipe) -> None:
    pipe.connect(*pipe.sources)
    for number in (0, 1):
        pipe.send(number, b"hits:1|c")
    pipe.clock.now = at(0.1)
    assert [stamp(line) for line in pipe.points(2)] == [at(0.1), at(0.1) + 1]


def tick_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("tick")


def test_there_is_a_thread_as_long_as_there_is_something_to_tick_for(pipe: Pipe) -> None:
    pipe.connect()
    assert tick_threads() == 0
    pipe.connect(pipe.sources[0])
    assert tick_threads() == 1
    pipe.connect(*pipe.sources)
    assert tick_threads() == 1
    pipe.connect()
    wait_until(lambda: tick_threads() == 0)
    pipe.connect(pipe.sources[1])
    assert tick_threads() == 1
    assert pipe.ticker.failure == ""


def test_a_listener_that_leaves_sends_what_it_has_and_stays_in_the_account(pipe: Pipe) -> None:
    pipe.connect(*pipe.sources)
    pipe.send(0, b"hits:4|c")
    pipe.connect(pipe.sources[1])
    assert pipe.ticker.readings()[0]["samples"] == 1
    pipe.lane.remove_socket(pipe.sockets[0].fileno(), drain=True)
    pipe.ticker.finish()
    [line] = pipe.points(1)
    assert b" value=4" in line
    reading = pipe.ticker.readings()[0]
    assert (reading["samples"], reading["points"]) == (1, 1)
    assert (reading["series"], reading["bytes"]) == (0, 0)
    # One that comes later under the same number counts on.
    aggregator = make_aggregator(LISTEN, 1)
    pipe.lane.add_socket(0, pipe.sockets[0].fileno(), format="statsd", aggregator=aggregator)
    pipe.connect(Source(0, "again", 0.1, aggregator))
    pipe.send(0, b"hits:1|c")
    pipe.ticker.stop(1.0)
    assert pipe.ticker.readings()[0]["points"] == 2


def test_a_stop_sends_what_was_aggregated_since_the_last_tick(pipe: Pipe) -> None:
    pipe.connect(*pipe.sources)
    pipe.send(0, b"one:1|c")
    pipe.send(1, b"two:1|c")
    pipe.lane.stop(1.0)
    pipe.thread.join(20)
    pipe.ticker.stop(1.0)
    assert [line.split(b",")[0] for line in pipe.points(2)] == [b"one", b"two"]
    assert tick_threads() == 0


def fill(pipe: Pipe) -> None:
    """Have 2,000 series aggregated, whose points do not fit into the smallest ring."""
    for part in range(100):
        pipe.send(0, b"\n".join(b"series_%d_%d:1|c" % (part, at) for at in range(20)))


def test_points_that_find_no_room_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(ring_bytes=64 << 10)
    try:
        pipe.connect(pipe.sources[0])
        fill(pipe)
        with caplog.at_level(logging.ERROR):
            pipe.clock.now = at(0.1)
            wait_until(lambda: pipe.ticker.readings()[0]["ring_full"] > 0 and caplog.records)
        reading, ring = pipe.ticker.readings()[0], pipe.ring.stats()
        assert reading["points"] + reading["ring_full"] == ring["accepted"] == 2000
        assert (ring["written"], ring["missed"]) == (reading["points"], reading["ring_full"])
        [record] = caplog.records
        assert vars(record)["points"] == reading["ring_full"]
    finally:
        pipe.close()


def patient(pipe: Pipe) -> Source:
    """The first listener with an interval for which a tick waits 5 s for room."""
    return replace(pipe.sources[0], interval=3600.0)


def test_a_tick_waits_for_a_ring_that_is_being_emptied() -> None:
    pipe = Pipe(ring_bytes=64 << 10)
    try:
        pipe.connect(patient(pipe))
        fill(pipe)
        ending = threading.Thread(target=pipe.ticker.stop, args=(10.0,))
        ending.start()
        found = 0
        while found < 2000:
            wait_until(lambda: pipe.ring.pending()[0], what=f"more than {found} points")
            batch = pipe.ring.take(4096, 1 << 20, True)
            assert batch is not None
            found += batch.metrics
            batch.release()
        ending.join(10)
        assert pipe.ticker.readings()[0]["ring_full"] == 0
    finally:
        pipe.close()


def test_a_tick_does_not_wait_for_a_ring_that_was_full_before() -> None:
    pipe = Pipe(ring_bytes=64 << 10)
    try:
        assert pipe.ring.put(b"x" * (40 << 10))
        pipe.connect(patient(pipe))
        fill(pipe)
        before = time.monotonic()
        pipe.ticker.stop(30.0)
        assert time.monotonic() - before < 10
        assert pipe.ticker.readings()[0]["ring_full"] > 0
    finally:
        pipe.close()


def test_a_thread_that_fails_says_why(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    # More lanes than the aggregator has tables for.
    pipe.ticker.connect([pipe.lane, Lane(1)], [pipe.ring], [], pipe.sources)
    pipe.clock.now = at(0.1)
    wait_until(lambda: caplog.records)  # the last thing that it does
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "tick thread" in pipe.ticker.failure
    pipe.connect(pipe.sources[0])
