"""What lacks between slots seen: when it is late, when it is missing, when it is forgotten."""

from agent.relay.intervals import GRACE_NS, Intervals, Lacking, united

S = 10**9


def seen(*batches: tuple[int, int, int]) -> Intervals:
    """Of (first slot, the one behind the last, seconds when it was sent and seen)."""
    intervals = Intervals()
    for first, end, second in batches:
        intervals.add(first, end, second * S, second * S)
    return intervals


def test_a_hole_is_late_while_it_is_young_then_missing_and_none_once_it_is_filled() -> None:
    one = seen((0, 5, 100), (8, 10, 101))
    assert one.lacking(105 * S, 0) == Lacking(late=3)
    assert one.lacking(111 * S, 0) == Lacking(missing=3)
    # What fills a part of it leaves the rest as old as it was.
    one.add(6, 7, 111 * S, 101 * S)
    assert one.lacking(112 * S, 0) == Lacking(missing=2)
    one.add(5, 6, 113 * S, 101 * S)
    one.add(7, 8, 113 * S, 101 * S)
    assert one.lacking(200 * S, 0) == Lacking()
    assert one.rows() == [(0, 10, 100 * S, 101 * S)]


def test_what_may_have_been_seen_by_who_was_there_before_is_unsure() -> None:
    one = seen((0, 5, 100), (8, 10, 130), (12, 13, 150))
    assert one.lacking(300 * S, 100 * S - GRACE_NS) == Lacking(missing=5)
    # Of what was sent while it was not there nothing is known, but of what was sent later.
    assert one.lacking(300 * S, 105 * S) == Lacking(missing=2, unsure=3)
    assert one.lacking(300 * S, 200 * S) == Lacking(unsure=5)


def test_old_holes_are_forgotten() -> None:
    one = seen((0, 5, 100), (8, 10, 101), (12, 13, 500))
    assert one.forget(101 * S) == 0
    assert one.forget(102 * S) == 3
    assert (one.floor, one.lacking(600 * S, 0)) == (8, Lacking(missing=2))
    # What fills it comes too late to be told.
    assert one.add(5, 8, 600 * S, 101 * S) == 0
    assert one.rows()[0][:2] == (8, 10)
    assert one.add(6, 9, 600 * S, 101 * S) == 1


def test_what_one_has_seen_tells_another_since_when_a_hole_is_known() -> None:
    one, other = seen((0, 5, 100), (9, 10, 130)), seen((20, 30, 110))
    whole, shared = united((part.floor, part.rows()) for part in (one, other))
    assert shared == 0
    # Slot 20 came at 110, so what lacks below was known to, whatever came later.
    assert whole.lacking(121 * S, 0) == Lacking(missing=14)


def test_what_one_has_forgotten_nobody_can_tell() -> None:
    one = seen((0, 1, 20), (2, 3, 21), (4, 5, 22), (6, 7, 23))
    other = seen((1, 2, 20), (7, 8, 23), (9, 10, 24))
    whole, _ = united((part.floor, part.rows()) for part in (one, other))
    assert whole.lacking(100 * S, 0) == Lacking(missing=3)
    one.keep(2)
    whole, _ = united((part.floor, part.rows()) for part in (one, other))
    assert (whole.floor, whole.lacking(100 * S, 0)) == (4, Lacking(missing=2))
