"""Limits of series as writers keep them: of lines, of samples, of several writers; and counts survive."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent._core import Aggregator, Book, Feed, Guard, Lane, Ring, Waker
from agent.aggregation import make_aggregator
from agent.config import FileOutput, Listen
from agent.guards import compiled, rules
from tests.conftest import wait_until
from tests.reference.points import parse

PLAN = compiled(rules([FileOutput(name="one", path="one")]))
STATSD = Listen(address="udp://127.0.0.1:8125", format="statsd")


def book(max_series: int, **settings: object) -> Book:
    made = Book()
    made.configure(max_series, 3600.0, **{"reserve": 0.0, **settings})  # type: ignore[arg-type]
    return made


def ring() -> Ring:
    return Ring(None, 16 << 20, Waker())


def lines(ring: Ring) -> list[bytes]:
    found: list[bytes] = []
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        found += bytes(memoryview(batch)).splitlines()
        batch.release()
    return found


def feeding(book: Book, max_series: int) -> tuple[Feed, Ring]:
    feed, target = Feed(), ring()
    feed.set_layout((), [target], Guard(PLAN, book, max_series))
    return feed, target


@contextmanager
def statsd(
    book: Book, max_series: int, tags: list[tuple[bytes, bytes]]
) -> Iterator[tuple[Lane, Aggregator, socket.socket]]:
    """A lane that aggregates what a socket sends."""
    lane, aggregator = Lane(0), make_aggregator(STATSD, 1)
    lane.set_layout(tags, [ring()], Guard(PLAN, book, max_series))
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    sender.connect(receiver.getsockname())
    lane.add_socket(0, receiver.fileno(), format="statsd", aggregator=aggregator)
    thread = threading.Thread(target=lane.run)
    thread.start()
    try:
        yield lane, aggregator, sender
    finally:
        lane.stop()
        thread.join()
        lane.remove_socket(receiver.fileno())
        receiver.close()
        sender.close()


def received(lane: Lane, count: int) -> dict[str, object]:
    """The counters of the listener when it has received so many metrics."""
    wait_until(lambda: lane.stats()["listeners"].get(0, {"received": 0})["received"] == count)
    return dict(lane.stats()["listeners"][0])


# ---- lines ----


def test_what_is_over_the_limit_comes_together_and_every_line_survives() -> None:
    feed, target = feeding(book(10), 10)
    body = b"".join(b"http,host=h1,id=%d v=1 1700000000000000000\n" % i for i in range(500))
    result = feed.read(0, body)
    assert (result["accepted"], result["dropped"]) == (500, {})
    points = parse(b"".join(line + b"\n" for line in lines(target)))
    own = [point for point in points if dict(point.tags)[b"id"] != b"__overflow__"]
    assert len(own) == 10
    over = [point for point in points if point not in own]
    assert {point.tags for point in over} == {((b"host", b"h1"), (b"id", b"__overflow__"))}
    # Each has a time of its own, or a database would keep one of them.
    assert len({point.time_ns for point in over}) == 490
    assert feed.stats()["listeners"][0]["overflowed"] == 490
    # What is known is never stopped.
    assert feed.read(0, body[: body.index(b"\n") + 1])["accepted"] == 1
    assert feed.stats()["listeners"][0]["overflowed"] == 490


def test_a_series_that_one_writer_knows_all_know() -> None:
    shared = book(10)
    (one, first), (two, second) = feeding(shared, 10), feeding(shared, 10)
    body = b"".join(b"cpu,host=%d v=1 1\n" % i for i in range(10))
    one.read(0, body)
    two.read(0, body)
    assert lines(first) == lines(second) == body.splitlines()
    two.read(0, b"cpu,host=new v=1 1\n")
    assert lines(second) == [b"cpu,host=__overflow__ v=1 1"]
    # A writer that begins anew, as all do at a reload, stops nobody.
    two.set_layout((), [second], Guard(PLAN, shared, 10))
    two.read(0, body)
    assert lines(second) == body.splitlines()


@pytest.mark.parametrize(
    ("policy", "becomes"),
    [("overflow", b"cpu,host=__overflow__,dc=eu v=1 1"), ("drop_tag", b"cpu,dc=eu v=1 1"), ("drop", None)],
)
def test_each_policy_in_lines_and_samples(policy: str, becomes: bytes | None) -> None:
    feed, target = Feed(), Ring(None, 1 << 20, Waker(), encoding="pb")
    plain = ring()
    two = compiled(rules([FileOutput(name=name, path=name) for name in ("a", "b")]))
    feed.set_layout([(b"dc", b"eu")], [plain, target], Guard(two, book(1, policy=policy), 1))
    result = feed.read(0, b"cpu,host=a v=1 1\ncpu,host=b v=1 1\n")
    assert lines(plain) == [b"cpu,host=a,dc=eu v=1 1", *([becomes] if becomes else [])]
    assert result["dropped"] == ({} if becomes else {"cardinality": 1})
    batch = target.take(1 << 20, 1 << 20, True)
    assert batch is not None and batch.metrics == (2 if becomes else 1)
    assert (b"__overflow__" in bytes(memoryview(batch))) == (policy == "overflow")
    batch.release()


def test_observed_is_only_counted() -> None:
    feed, target = feeding(book(1, observe=True), 1)
    body = b"cpu,host=a v=1 1\ncpu,host=b v=1 1\ncpu,host=b v=1 1\n"
    feed.read(0, body)
    assert lines(target) == body.splitlines()
    stats = feed.stats()["listeners"][0]
    assert (stats["observed"], stats["overflowed"], stats["dropped"]) == (2, 0, {})


# ---- StatsD ----


@pytest.mark.parametrize("tags", [[], [(b"dc", b"eu")]])
def test_counts_survive_in_the_overflow_series(tags: list[tuple[bytes, bytes]]) -> None:
    sent = 5000
    shared = book(20)
    with statsd(shared, 20, tags) as (lane, aggregator, sender):
        for first in range(0, sent, 50):
            sender.send(b"\n".join(b"hits:2|c|#id:%d,host:h" % i for i in range(first, first + 50)))
            received(lane, first + 50)
        # The same again: known ones by themselves, all others where they were.
        sender.send(b"hits:2|c|#id:0,host:h\nhits:2|c|#id:4999,host:h\nhits:2|c|#id:4999,host:h")
        counted = received(lane, sent + 3)
        assert counted["accepted"] == counted["aggregated"] == sent + 3
        assert counted["overflowed"] == sent - 20 + 2
        target = ring()
        guard = Guard(PLAN, shared, 20)
        assert aggregator.tick([lane], [target], 1, tags=tags, guard=guard) == 21
        found = lines(target)
        values = [int(float(re.findall(rb"value=(\S+)", line)[0])) for line in found]
        assert sum(values) == 2 * (sent + 3)
        [over] = [line for line in found if b"__overflow__" in line]
        assert over.startswith(
            b"hits,host=h,id=__overflow__,metric_type=counter" + (b",dc=eu " if tags else b" ")
        )
        assert over.count(b"dc=eu") == len(tags)
        # A few aliases, not one for each name that came once.
        assert aggregator.stats()["series"] == 21
        assert aggregator.stats()["bytes"] < 4 << 20
        # And at the next tick the same again: what is aggregated is not looked at twice.
        sender.send(b"hits:1|c|#id:4999,host:h\nhits:1|c|#id:0,host:h")
        received(lane, sent + 5)
        assert aggregator.tick([lane], [target], 2, tags=tags, guard=guard) == 2
    assert shared.stats()["series"] == 20 and shared.stats()["overflow_series"] == 1


def test_a_sample_over_the_limit_may_be_dropped() -> None:
    with statsd(book(1, policy="drop"), 1, []) as (lane, _, sender):
        sender.send(b"a:1|c\nb:1|c\nb:1|c\na:1|c")
        counted = received(lane, 4)
        assert (counted["accepted"], counted["dropped"]) == (2, {"cardinality": 2})


def test_series_that_were_aggregated_before_are_counted_from_their_next_tick_on() -> None:
    """Turned on at a reload: what is in the tables stays there, and takes its part of the limit."""
    shared, target = book(10), ring()
    with statsd(book(10), 10, []) as (lane, aggregator, sender):
        sender.send(b"a:1|g\nb:1|g")
        received(lane, 2)
        lane.set_layout((), [target], Guard(PLAN, shared, 10))
        assert aggregator.tick([lane], [target], 1, guard=Guard(PLAN, shared, 10)) == 2
        assert shared.stats()["series"] == 2
