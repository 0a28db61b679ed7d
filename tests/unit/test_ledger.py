"""The ledger adds up what lanes, rings and deliveries counted, and names the law that does not hold."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from agent import ledger
from agent._core import Lane, Ring, Waker
from agent.accounts import AggregationAccount, OutputReading, RingAccount
from agent.ledger import Ledger
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters
from tests.conftest import wait_until


@dataclass
class Counters:
    """What a delivery counts."""

    delivered: int = 0
    rejected: int = 0
    merged: int = 0
    restored: int = 0
    carried: int = 0
    batches: int = 0
    replayed: int = 0
    attempts: int = 0
    retries: int = 0
    splits: int = 0
    bytes_raw: int = 0
    bytes_sent: int = 0
    opened: int = 0
    traced: int = 3
    on_time: int = 0
    histograms: dict[str, tuple[list[int], float]] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=lambda: {"request": 1.5})
    dropped: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)


class Pipe:
    """A lane with one UDP socket (listener 3) and two rings, of which the second one is small."""

    def __init__(self) -> None:
        self.waker = Waker()
        self.rings = [Ring(None, 1 << 20, self.waker), Ring(None, 64 << 10, self.waker)]
        self.lane = Lane(0)
        self.lane.set_layout((), self.rings)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.lane.add_socket(3, self.socket.fileno())
        self.counters = [Counters(), Counters()]
        self.thread = threading.Thread(target=self.lane.run)
        self.thread.start()

    def read(self) -> Ledger:
        outputs = [
            OutputReading(name, "null", counters, {"lane-0": ring.stats()})
            for name, counters, ring in zip(("roomy", "tight"), self.counters, self.rings, strict=True)
        ]
        return ledger.read({3: ("door", "udp://127.0.0.1:8089")}, [self.lane.stats()], outputs)

    def send(self, *datagrams: bytes) -> None:
        """Send and wait until the lane has read them."""
        want = self.read().listeners[0].datagrams + len(datagrams)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for datagram in datagrams:
                sending.sendto(datagram, self.socket.getsockname())
        wait_until(lambda: self.read().listeners[0].datagrams >= want)

    def deliver(self, output: int) -> int:
        """Take one batch and count it as delivered."""
        batch = self.rings[output].take(1 << 20, 100_000, True)
        assert batch is not None
        self.counters[output].delivered += batch.metrics
        self.counters[output].batches += 1
        metrics = batch.metrics
        batch.release()
        return metrics

    def stop(self) -> None:
        self.lane.stop(1.0)
        self.thread.join(20)
        self.socket.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.stop()


def test_a_lane_and_its_rings_balance_at_every_stage(pipe: Pipe) -> None:
    assert pipe.read().balance() == []
    # 200 metrics of 1,000 bytes: too much for 64 KiB.
    for _ in range(10):
        pipe.send(*[b"m,t=%s v=1\nm,t=%s v=2\nbroken" % (b"a" * 1000, b"b" * 1000)] * 10)
    read = pipe.read()
    assert read.balance() == []
    (door,) = read.listeners
    assert (door.name, door.address, door.sockets) == ("door", "udp://127.0.0.1:8089", 1)
    assert (door.datagrams, door.received, door.accepted) == (100, 300, 200)
    assert sum(door.dropped.values()) == 100
    roomy, tight = read.outputs
    assert (roomy.written, roomy.missed, roomy.waiting) == (200, 0, 200)
    assert tight.written + tight.missed == 200 and tight.missed > 0
    assert pipe.deliver(0) == 200
    pipe.deliver(1)
    read = pipe.read()
    assert read.balance() == []
    assert (read.outputs[0].delivered, read.outputs[0].waiting) == (200, 0)


def test_a_delivery_that_forgets_a_metric_breaks_the_third_law(pipe: Pipe) -> None:
    pipe.send(b"m v=1\nm v=2")
    pipe.deliver(0)
    pipe.counters[0].delivered -= 1
    assert pipe.read().balance() == [
        "output roomy: 0 restored + 2 written, "
        "but 1 delivered + 0 rejected + 0 merged + 0 spooled + 0 waiting + 0 dropped"
    ]
    pipe.counters[0].rejected += 1
    assert pipe.read().balance() == []
    pipe.counters[0].rejected -= 1
    pipe.counters[0].merged += 1
    assert pipe.read().balance() == [] and pipe.read().outputs[0].merged == 1
    pipe.counters[0].dropped["drain_timeout"] = 1
    assert len(pipe.read().balance()) == 1


def edited(pipe: Pipe, **changes: int) -> list[str]:
    """The balance after a lane's own counters were changed behind its back."""
    stats: Any = pipe.lane.stats()
    ring: Any = pipe.rings[0].stats()
    for name, change in changes.items():
        kind, _, key = name.partition("_")
        {"lane": stats, "listener": stats["listeners"][3], "ring": ring}[kind][key] += change
    output = OutputReading("o", "null", Counters(), {"lane-0": ring})
    return ledger.read({3: ("door", "")}, [stats], [output]).balance()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"listener_received": 1}, "listener door, lane 0: 3 received, but 2 accepted + 0 dropped"),
        ({"lane_accepted": -1}, "lane 0: 1 accepted, but 2 by its listeners"),
        ({"ring_missed": 1}, "output o, ring of lane-0: 2 accepted, but 2 written + 1 missed"),
        (
            {"ring_waiting": -2},
            "output o: 0 restored + 2 written, "
            "but 0 delivered + 0 rejected + 0 merged + 0 spooled + 0 waiting + 0 dropped",
        ),
    ],
)
def test_each_law_is_checked(pipe: Pipe, changes: dict[str, int], problem: str) -> None:
    pipe.send(b"m v=1\nm v=2")
    assert edited(pipe) == []
    assert edited(pipe, **changes) == [problem]


def left_ring(folder: Path, *lines: bytes) -> Ring:
    """A ring in which an earlier process has left *lines*."""
    path = str(folder / "left.ring")
    before = Ring(path, 1 << 20, Waker())
    for line in lines:
        assert before.put(line)
    before.close(unlink=False)
    return Ring.adopt(path, Waker(), torn=3)


def test_what_is_restored_counts_like_what_is_written(tmp_path: Path) -> None:
    ring = left_ring(tmp_path, b"m v=1 1\n", b"m v=2 2\n")
    assert ring.put(b"m v=3 3\n")
    spool = SpoolCounters(restored=10, stored=5, decided=2, dropped={"spool_full": 4}, metrics=9, files=2)
    # In the ring 3 metrics wait and 3 are torn; the spool got 5 out of a ring that is gone; 1 was brought.
    gone: Any = dict.fromkeys(RingAccount.__struct_fields__, 0) | {"accepted": 5, "written": 5}
    counters = Counters(delivered=3, restored=1)
    rings: Any = {"lane-0": ring.stats(), "lane-1": gone}
    read = ledger.read({}, [], [OutputReading("o", "influxdb", counters, rings, spool, RejectedCounters())])
    assert read.balance() == []
    [output] = read.outputs
    assert (output.restored, output.written, output.waiting, output.spooled) == (16, 6, 3, 9)
    assert output.dropped == {"ring_torn": 3, "spool_full": 4}
    assert output.spool is not None and (output.spool.files, output.spool.metrics) == (2, 9)
    assert output.refused is not None and output.refused.files == 0
    assert (output.rings[0].restored, output.rings[0].torn) == (5, 3)


def test_a_spool_that_forgets_a_metric_breaks_the_fourth_law() -> None:
    spool = SpoolCounters(restored=2, stored=1, decided=1, metrics=1)
    counters = Counters(delivered=1)
    reading = OutputReading("o", "influxdb", counters, {}, spool)
    assert ledger.read({}, [], [reading]).balance() == [
        "spool of output o: 2 restored + 1 stored, but 1 decided + 0 dropped + 1 in it"
    ]


def test_lanes_and_rings_are_added_up_by_listener_and_output(pipe: Pipe) -> None:
    pipe.send(b"m v=1\nbroken")
    one, ring = pipe.lane.stats(), pipe.rings[0].stats()
    output = OutputReading("o", "null", Counters(), {"lane-0": ring, "lane-1": ring})
    read = ledger.read({3: ("door", "")}, [one, one], [output])
    assert read.balance() == []
    (door,), (total,) = read.listeners, read.outputs
    assert (door.received, door.accepted, sum(door.dropped.values())) == (4, 2, 2)
    assert (total.written, total.waiting, len(total.rings)) == (2, 2, 2)


def test_what_was_aggregated_stands_beside_the_listener(pipe: Pipe) -> None:
    stats: Any = {
        "series": 1,
        "samples": 2,
        "points": 3,
        "ring_full": 4,
        "unrouted": 7,
        "expired": 5,
        "bytes": 6,
    }
    lanes = [pipe.lane.stats()]
    with_it = ledger.read({3: ("door", "")}, lanes, [], {3: stats})
    assert with_it.listeners[0].aggregation == AggregationAccount(**stats)
    # Points are other metrics than the samples that they stand for: no law puts them beside each other.
    assert with_it.balance() == []
    assert ledger.read({3: ("door", "")}, lanes, []).listeners[0].aggregation is None


def test_a_listener_without_a_name_is_shown_by_its_number(pipe: Pipe) -> None:
    assert [door.name for door in ledger.read({}, [pipe.lane.stats()], []).listeners] == ["#3"]
    # And one that no lane knows yet is there with zeros, so that it does not seem to be missing.
    assert [door.received for door in ledger.read({7: ("new", "")}, [], []).listeners] == [0]


def unbalanced(written: int) -> Ledger:
    ring: Any = dict.fromkeys(RingAccount.__struct_fields__, 0)
    ring |= {"accepted": written, "written": written}
    return ledger.read({}, [], [OutputReading("o", "null", Counters(), {"lane-0": ring})])


def test_settle_waits_for_what_is_under_way() -> None:
    readings = chain([unbalanced(5), unbalanced(5), unbalanced(4)], repeat(unbalanced(0)))
    last, final = asyncio.run(ledger.settle(lambda: next(readings), pause=0.001))
    assert (last.balance(), final) == ([], True)


def test_settle_believes_what_does_not_move() -> None:
    last, final = asyncio.run(ledger.settle(lambda: unbalanced(5), pause=0.001))
    assert (len(last.balance()), final) == (1, True)


def test_settle_gives_no_verdict_while_everything_moves() -> None:
    count = iter(range(1, 1_000_000))
    last, final = asyncio.run(ledger.settle(lambda: unbalanced(next(count)), patience=0.05, pause=0.001))
    assert (len(last.balance()), final) == (1, False)
