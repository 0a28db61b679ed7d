"""Delays as a flusher has them: counted when a batch is released; and what is still young in a ring."""

import time
from decimal import Decimal
from pathlib import Path

import pytest

from agent._core import Delays, Histogram, Ring, Waker


def test_bounds_are_the_decimals_that_they_read_as() -> None:
    histogram = Histogram(1e-4, 9)
    assert len(histogram.bounds) == 91
    assert [Decimal(repr(bound)) for bound in histogram.bounds[:11]] == [
        Decimal(step).scaleb(-4)
        for step in ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8", "10")
    ]
    assert histogram.bounds[-1] == 100_000.0


def test_a_value_is_in_the_bucket_of_its_bound() -> None:
    histogram = Histogram(1.0, 1)
    for value, weight in ((0.0, 1), (1.0, 2), (1.1, 3), (10.0, 4), (10.1, 5)):
        histogram.observe(value, weight)
    buckets, total = histogram.read()
    assert {at: count for at, count in enumerate(buckets) if count} == {0: 3, 1: 3, 10: 4, 11: 5}
    assert total == 2 + 3.3000000000000003 + 40 + 50.5


@pytest.mark.parametrize(
    ("least", "decades"), [(2.0, 3), (0.0, 3), (-1.0, 3), (1e-11, 3), (1e11, 3), (1.0, 0), (1.0, 12)]
)
def test_bounds_that_would_not_be_exact_are_refused(least: float, decades: int) -> None:
    with pytest.raises(ValueError, match="power"):
        Histogram(least, decades)


def ring_with(*seconds_ago: float) -> Ring:
    ring = Ring(None, 1 << 20, Waker())
    now = time.time_ns()
    for ago in seconds_ago:
        assert ring.put(b"a v=1 1\n", 1, now - round(ago * 1e9))
    return ring


def counted(delays: Delays) -> dict[float, int]:
    """Metrics by the bound that they are under."""
    buckets, _ = delays.histogram.read()
    bounds = (*delays.histogram.bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, buckets, strict=True) if count}


def test_a_release_counts_what_was_delivered_and_leaves_out_the_oldest() -> None:
    ring = ring_with(450.0, 45.0, 4.5, 0.45)
    delays = Delays(60.0)
    batch = ring.take(1 << 20, 100, True)
    assert batch is not None
    batch.release(delays, 3)
    assert counted(delays) == {50.0: 1, 5.0: 1, 0.5: 1}
    assert delays.on_time == 3
    batch.release(delays, 3)  # a second time is harmless
    assert sum(counted(delays).values()) == 3


def test_a_release_without_delays_counts_nothing() -> None:
    ring, delays = ring_with(1.0), Delays(60.0)
    batch = ring.take(1 << 20, 100, True)
    assert batch is not None
    batch.release(delays)
    assert counted(delays) == {} and ring.stats()["freed"] == 1


def test_within_may_change_and_what_was_counted_stays() -> None:
    delays = Delays(1.0)
    arrived = time.time_ns() - 10**10
    delays.file(arrived, 2, True)
    delays.within = 60.0
    assert delays.within == 60.0
    delays.file(arrived, 3, True)
    delays.file(arrived, 5, False)
    assert delays.on_time == 3
    assert counted(delays) == {12.5: 10}


def test_young_is_what_waits_or_is_in_hand_and_came_lately() -> None:
    ring = ring_with(100.0, 10.0, 0.0)
    assert (ring.young(1.0), ring.young(60.0), ring.young(600.0)) == (1, 2, 3)
    batch = ring.take(1 << 20, 1, True)
    assert batch is not None and ring.young(600.0) == 3
    later = ring.take(1 << 20, 1, True)
    assert later is not None
    later.release()  # out of order: its space is not free yet, but it is decided
    assert ring.young(600.0) == 2
    batch.release()
    assert ring.young(600.0) == 1


def test_what_an_earlier_process_received_is_late_for_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ring")
    ring = Ring(path, 1 << 20, Waker())
    ring.put(b"a v=1 1\n", 1, time.time_ns())
    ring.close(unlink=False)
    ring = Ring.adopt(path, Waker())
    ring.put(b"b v=1 1\n", 1, time.time_ns())
    assert ring.young(600.0) == 1
    delays = Delays(600.0)
    batch = ring.take(1 << 20, 100, True)
    assert batch is not None and batch.metrics == 2
    batch.release(delays, 2)
    assert sum(counted(delays).values()) == 2 and delays.on_time == 1
