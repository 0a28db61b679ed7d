"""What may be committed of a partition: everything before the oldest message that is undecided."""

from hypothesis import given
from hypothesis import strategies as st

from agent.relay.offsets import Partition, Spot


def test_nothing_is_known_before_the_first_message() -> None:
    assert Partition("t", 0).position == -1


def test_the_oldest_that_is_undecided_holds_all_behind_it() -> None:
    one = Partition("t", 3)
    for offset in (5, 6, 7):
        assert one.took(offset)
    for offset, position in ((6, 5), (5, 7), (7, 8)):
        one.decided(offset)
        assert one.position == position
    assert Spot(one, 6).about() == {"topic": "t", "partition": 3, "offset": 6}


def test_what_is_read_once_more_is_known() -> None:
    one = Partition("t", 0)
    for offset in (0, 1, 2):
        one.took(offset)
    one.decided(0)
    one.decided(2)
    assert not one.took(1) and not one.took(2)
    one.decided(1)
    assert one.position == 3
    one.decided(1)
    assert one.position == 3 and one.took(3)


@given(st.lists(st.integers(0, 3), max_size=60), st.randoms())
def test_the_position_is_that_of_a_list_that_is_gone_through(gaps: list[int], random: object) -> None:
    """Offsets may have holes: of the log's own records, and of what was compacted."""
    one = Partition("t", 0)
    offsets: list[int] = []
    for gap in gaps:
        offsets.append((offsets[-1] + 1 if offsets else 0) + gap)
    undecided: list[int] = []
    todo = [*offsets]
    while todo or undecided:
        if todo and random.random() < 0.6:  # type: ignore[attr-defined]
            undecided.append(todo.pop(0))
            assert one.took(undecided[-1])
        elif undecided:
            gone = undecided.pop(random.randrange(len(undecided)))  # type: ignore[attr-defined]
            one.decided(gone)
        taken = offsets[: len(offsets) - len(todo)]
        expected = min(undecided) if undecided else taken[-1] + 1 if taken else -1
        assert one.position == expected
