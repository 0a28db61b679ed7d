"""Intervals of slots: against sets, whatever comes in whichever order, and by several."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.relay.intervals import Intervals, Lacking, united

GRACE = 10
Batch = tuple[int, int]

batches = st.tuples(st.integers(0, 60), st.integers(1, 9))


def held(one: Intervals) -> set[int]:
    """What is in it; it is in order, and nothing touches."""
    rows = one.rows()
    assert all(start < end for start, end, _, _ in rows)
    assert all(before[1] < after[0] for before, after in pairwise(rows))
    sinces = [since for _, _, since, _ in rows]
    assert sinces == sorted(sinces)
    return {slot for start, end, _, _ in rows for slot in range(start, end)}


def holes(seen: set[int], floor: int = 0) -> set[int]:
    left = {slot for slot in seen if slot >= floor}
    return set(range(min(left), max(left))) - left if left else set()


@settings(deadline=None)
@given(st.lists(batches, max_size=40))
def test_what_was_seen_is_known_and_what_comes_again_is_counted(many: list[Batch]) -> None:
    intervals, seen = Intervals(), set[int]()
    for now, (first, slots) in enumerate(many):
        batch = set(range(first, first + slots))
        assert intervals.add(first, first + slots, now, now) == len(batch & seen)
        seen |= batch
        assert held(intervals) == seen
        assert sum(intervals.lacking(now, 0, 0)) == len(holes(seen))


@settings(deadline=None)
@given(st.lists(batches, min_size=1, max_size=40), st.integers(1, 4))
def test_only_the_newest_are_kept_and_what_lacked_below_is_told(many: list[Batch], most: int) -> None:
    intervals, forgotten = Intervals(), 0
    for now, (first, slots) in enumerate(many):
        intervals.add(first, first + slots, now, now)
        lacked = len(holes(held(intervals)))
        left = intervals.keep(most)
        assert len(intervals) <= most
        assert lacked == left + len(holes(held(intervals)))
        assert min(held(intervals)) >= intervals.floor
        forgotten += left
    assert not forgotten or intervals.floor > 0


@settings(deadline=None)
@given(st.lists(st.tuples(batches, st.integers(0, 2)), min_size=1, max_size=40), st.integers(1, 40))
def test_together_they_have_seen_what_any_has_above_what_one_has_forgotten(
    many: list[tuple[Batch, int]], most: int
) -> None:
    relays = [Intervals() for _ in range(3)]
    for now, ((first, slots), which) in enumerate(many):
        relays[which].add(first, first + slots, now, now)
    for one in relays:
        one.keep(most)
    floor = max(one.floor for one in relays)
    each = [{slot for slot in held(one) if slot >= floor} for one in relays]
    whole, shared = united((one.floor, one.rows()) for one in relays)
    seen = set[int]().union(*each)
    assert held(whole) == seen
    assert shared == sum(map(len, each)) - len(seen)
    assert sum(whole.lacking(len(many), 0, 0)) == len(holes(seen))


@settings(deadline=None)
@given(st.lists(st.tuples(batches, st.integers(0, 30)), max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_each_hole_is_missing_late_or_unsure(many: list[tuple[Batch, int]], there: int, wait: int) -> None:
    """Batches come in any order; the sender's clock is the number of the first slot.

    What lacks is known to lack since anything above it was seen.
    """
    intervals, now, seen, above = Intervals(), 0, set[int](), dict[int, int]()
    for (first, slots), pause in many:
        now += pause
        intervals.add(first, first + slots, now, first)
        seen |= set(range(first, first + slots))
        above = dict.fromkeys(range(first + slots - 1), now) | above
    known = {slot: above[slot] for slot in holes(seen)}
    now += wait
    found = intervals.lacking(now, there, GRACE)
    assert sum(found) == len(known)
    late = {slot for slot, since in known.items() if since > now - GRACE}
    # Who was there in time can tell of all.
    assert intervals.lacking(now, -GRACE, GRACE) == Lacking(len(known) - len(late), len(late), 0)
    # Nothing that lies below what was sent earlier than that is told of.
    assert found.unsure >= len({slot for slot in known if slot < there and all(one < there for one in seen)})
    if not known or there + GRACE <= 0:
        assert found.unsure == 0
