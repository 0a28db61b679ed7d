"""How many attempts may be under way at once: more while that helps, fewer when it hurts."""

import heapq
import random

import pytest

from agent.delivery.limiter import Limiter


class Rig(Limiter):
    """A limiter with a clock to turn."""

    def __init__(self, maximum=8):
        self.now = 1000.0
        super().__init__(maximum, clock=lambda: self.now)

    def windows(self, count, round_trip, under_way=None):
        """So many windows in which all answers took *round_trip*, as many under way as are allowed."""
        for _ in range(count):
            self.now += max(self.round_trip, round_trip, 0.2)
            self.answered(round_trip, self.limit if under_way is None else under_way)


def settled(maximum=8, round_trip=0.05):
    rig = Rig(maximum)
    rig.windows(50, round_trip)
    return rig


def test_it_begins_at_the_maximum_and_knows_no_round_trip():
    rig = Rig()
    assert (rig.limit, rig.round_trip) == (8, 0.0)


def test_after_an_outage_it_begins_at_one_and_grows_by_one_a_round_trip():
    rig = settled()
    rig.restart()
    limits = []
    for _ in range(9):
        limits.append(rig.limit)
        rig.windows(1, 0.05)
    assert limits == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_it_does_not_grow_while_it_is_not_reached():
    rig = settled()
    rig.restart()
    rig.windows(20, 0.05, under_way=0)
    assert rig.limit == 1


def test_round_trips_far_above_the_average_make_it_smaller_by_a_tenth():
    rig = settled(maximum=20)
    rig.windows(1, 0.5)
    assert rig.limit == 18


def test_what_is_slow_for_good_is_the_average_after_a_while():
    rig = settled()
    rig.windows(2, 0.5)
    smallest = rig.limit
    rig.windows(60, 0.5)
    assert smallest < 8 and rig.limit == 8
    assert rig.round_trip == pytest.approx(0.5, rel=0.02)


def test_a_quick_server_may_be_slower_by_a_few_milliseconds():
    rig = settled(round_trip=0.0005)
    rig.windows(1, 0.008)
    assert rig.limit == 8


def test_round_trips_that_spread_widely_are_told_from_ones_that_grow():
    chance = random.Random(1)
    rig = Rig(maximum=10)
    rig.windows(20, 0.1)
    rig.restart()
    for _ in range(300):
        rig.windows(1, chance.uniform(0.02, 0.18))
    assert rig.limit == 10


def test_a_refusal_halves_it_down_to_one():
    rig = settled(maximum=9)
    limits = []
    for _ in range(5):
        rig.now += 1
        rig.refused()
        limits.append(rig.limit)
    assert limits == [4, 2, 1, 1, 1]


@pytest.mark.parametrize("known", [True, False])
def test_refusals_of_one_moment_count_once(known):
    rig = settled(maximum=16) if known else Rig(maximum=16)
    rig.now += 1
    for _ in range(16):
        rig.refused()
    assert rig.limit == 8


def test_of_a_window_it_is_the_mean_that_counts():
    rig = settled()
    for round_trip in (0.01, 0.01, 0.01, 0.09):
        rig.answered(round_trip, 8)
    rig.windows(1, 0.01)
    assert rig.limit == 8
    assert rig.round_trip == pytest.approx(0.05 + 0.1 * (0.13 / 5 - 0.05))


def test_a_maximum_of_one_is_one_whatever_happens():
    rig = Rig(maximum=1)
    rig.windows(20, 0.01)
    rig.windows(5, 5.0)
    rig.refused()
    rig.windows(20, 0.01)
    assert rig.limit == 1


def test_another_maximum_holds_at_once():
    rig = settled(maximum=8)
    rig.resize(3)
    assert rig.limit == 3
    rig.resize(6)
    assert rig.limit == 6
    rig.now += 1
    rig.refused()
    rig.resize(8)
    assert rig.limit == 3
    rig.windows(10, 0.05)
    assert rig.limit == 8


def served(workers, maximum, seconds=60.0, work=0.1):
    """A server of so many workers, always as many attempts under way as are allowed: (limit, per second)."""
    chance = random.Random(3)
    rig = Rig(maximum)
    rig.windows(5, work)
    rig.restart()
    started = rig.now
    free = [rig.now] * workers
    under_way: list[tuple[float, float, int]] = []
    done, limits = 0, []
    while rig.now < started + seconds:
        while len(under_way) < rig.limit:
            begins = max(heapq.heappop(free), rig.now)
            ends = begins + work * chance.uniform(0.8, 1.2)
            heapq.heappush(free, ends)
            heapq.heappush(under_way, (ends, rig.now, len(under_way) + 1))
        rig.now, began, count = heapq.heappop(under_way)
        rig.answered(rig.now - began, count)
        limits.append(rig.limit)
        done += 1
    return sum(limits[len(limits) // 2 :]) / (len(limits) // 2), done / seconds


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_a_server_gets_as_many_as_keep_it_busy(workers):
    limit, rate = served(workers, 32)
    assert rate > 0.9 * workers / 0.1
    assert workers * 0.9 <= limit and (limit < 20 or workers == 16)
