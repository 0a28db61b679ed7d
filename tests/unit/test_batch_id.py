"""Ids of batches: the place of a batch in its ring, and back."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent._core import Ring, Waker
from agent.batch_id import Place, batch_id, chance_id, place_of


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**47 - 1), st.integers(0, 65_536))
def test_an_id_says_where_the_batch_lay(epoch, first, slots):
    assert place_of(batch_id(Place(epoch, first, slots))) == (epoch, first, slots)


def test_an_id_of_chance_says_of_no_place():
    ids = {chance_id() for _ in range(1000)}
    assert len(ids) == 1000 and {place_of(one) for one in ids} == {None}


@pytest.mark.parametrize(
    "text",
    ["", "12", "g" * 32, "-" + "1" * 31, "1" * 33, "1_" * 16, "0x" + "1" * 30, "A" * 32, "\u0661" * 32],
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ValueError):
        place_of(text)


def test_ids_of_batches_that_follow_each_other_are_spread_for_those_who_sample_by_them():
    epoch = 1_800_000_000_000_000_000
    seen = Counter(batch_id(Place(epoch, first, 16))[16] for first in range(0, 16_000, 16))
    assert len(seen) == 16 and min(seen.values()) > 30


def test_the_slots_of_a_ring_are_counted_through_the_processes_that_have_it(tmp_path):
    path = str(tmp_path / "ring")
    ring = Ring(path, 65536, Waker())
    for _ in range(3):
        assert ring.put(b"m v=1 1\n")
    first = ring.take(1 << 20, 1, True)
    made = first.place[0]
    assert first.place == (made, 0, 1) and made > 1_700_000_000_000_000_000
    first.release()
    second = ring.take(1 << 20, 100, True)
    assert second.place == (made, 1, 2)
    ring.close(unlink=False)
    del first, second, ring
    again = Ring.adopt(path, Waker())
    assert again.put(b"m v=1 1\n")
    assert again.take(1 << 20, 100, True).place == (made, 1, 3)
    assert Ring(str(tmp_path / "other"), 65536, Waker()).put(b"m v=1 1\n")
