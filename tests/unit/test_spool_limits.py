"""What a spool may cost: bytes, age and free space. The oldest go first, counted, whatever the clock does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.outputs.base import Payload
from agent.store import disk, stock
from agent.store.ages import SLACK_S, AgeClock
from tests.unit.spool_folder import DAY_S, START_NS, Clocks, Rig, end_all


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_all()


def ages(rig: Rig) -> list[float]:
    """The times of all files, in seconds after the start."""
    return [(entry.oldest_ns - START_NS) / 1e9 for entry in rig.take_all()]


def test_beyond_max_bytes_the_oldest_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_bytes=3 * 4096)
    for at in (2, 0, 1, 3):
        rig.put(metrics=1 + at, at=at)
    assert rig.said == [True] * 4
    assert rig.spool.counters.dropped == {"spool_full": 1}
    rig.check()
    assert ages(rig) == [1, 2, 3]


def test_the_real_size_counts_in_blocks(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_bytes=3 * 4096)
    rig.put()
    rig.spool.put(Payload(b"x" * 4097, 1, 4097), START_NS, rig.said.append)
    assert rig.spool.counters.bytes == 3 * 4096 and rig.spool.counters.dropped == {}


def test_what_is_being_sent_is_not_removed_under_its_sender(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_bytes=2 * 4096)
    rig.put(at=0)
    rig.put(at=1)
    out = rig.spool.take()
    assert out is not None
    rig.put(at=2)
    assert rig.said[-1] and rig.spool.load(out) is not None
    second = rig.spool.take()
    assert second is not None and second.oldest_ns == START_NS + 2 * 10**9
    # Now nothing is left that could be removed.
    rig.put(at=3)
    assert not rig.said[-1] and "max_bytes" in rig.spool.counters.failing and not rig.spool.writable
    assert rig.spool.counters.errors == {}
    rig.spool.remove(out)
    rig.put(at=3)
    assert rig.said[-1] and rig.spool.counters.failing == ""
    rig.check()


def test_a_body_that_never_fits_is_refused_and_costs_the_others_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_bytes=2 * 4096)
    rig.put()
    rig.spool.put(Payload(b"x" * 9000, 1, 9000), START_NS, rig.said.append)
    assert rig.said == [True, False]
    assert rig.spool.counters.files == 1 and rig.spool.counters.dropped == {}


def test_a_lower_limit_takes_effect_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool")
    for at in range(5):
        rig.put(at=at)
    rig.spool.reconfigure(rig.table(max_bytes=2 * 4096))
    rig.spool.tick()
    assert rig.spool.counters.dropped == {"spool_full": 9}
    rig.check()
    assert ages(rig) == [3, 4]


def test_more_than_one_look_is_taken_where_much_must_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "REMOVALS_MAX", 2)
    rig = Rig(tmp_path / "spool", max_age=60)
    for at in range(5):
        rig.put(at=at)
    rig.spool._committer.close(10)
    rig.clocks.go_on(1000)
    assert [rig.spool.tick(), rig.spool.tick(), rig.spool.tick()] == [0.0, 0.0, None]
    assert rig.spool.counters.dropped == {"spool_age": 15}
    rig.check()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What is free on the file system, as far as the spool knows."""
    known = {"bytes": 1 << 30}
    monkeypatch.setattr(disk, "free_bytes", lambda path: known["bytes"])
    return known


def test_space_is_left_free_for_others(tmp_path: Path, free: dict[str, int]) -> None:
    rig = Rig(tmp_path / "spool", min_free_space=1 << 20)
    for at in range(6):
        rig.put(at=at)
    free["bytes"] = (1 << 20) - 5000
    rig.spool.tick()
    # Two blocks were lacking, and no more than that is taken.
    assert rig.spool.counters.dropped == {"spool_space": 6}
    assert rig.spool.counters.failing == ""
    free["bytes"] = 1 << 20
    rig.put(at=6)
    assert rig.said[-1] and rig.spool.counters.dropped == {"spool_space": 9}
    rig.check()
    assert ages(rig) == [3, 4, 5, 6]


def test_with_nothing_to_remove_what_comes_stays_with_its_owner(tmp_path: Path, free: dict[str, int]) -> None:
    rig = Rig(tmp_path / "spool", min_free_space=1 << 20)
    free["bytes"] = 1 << 19
    rig.put()
    assert rig.said == [False] and rig.names() == rig.parts() == []
    assert "min_free_space (1MiB)" in rig.spool.counters.failing
    assert rig.spool.counters.errors == {} and not rig.spool.writable
    free["bytes"] = 1 << 30
    changes = rig.changes
    rig.spool.tick()
    assert rig.spool.counters.failing == "" and rig.spool.writable and rig.changes > changes
    rig.put()
    assert rig.said == [False, True]


# ---- ages ----


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_age=3600)
    for at in (0, 1800):
        rig.put(at=at)
    rig.clocks.go_on(3599)
    rig.spool.tick()
    assert rig.spool.counters.files == 2
    rig.clocks.go_on(2)
    rig.spool.tick()
    assert rig.spool.counters.dropped == {"spool_age": 3}
    rig.check()
    assert ages(rig) == [1800]


@pytest.mark.parametrize("max_age", [3600.0, 7 * DAY_S])
@pytest.mark.parametrize("step", [DAY_S, -DAY_S, 56 * 365 * DAY_S])
def test_a_clock_that_is_stepped_removes_neither_everything_nor_nothing(
    tmp_path: Path, step: float, max_age: float
) -> None:
    rig = Rig(tmp_path / "spool", max_age=max_age)
    rig.put(at=0)
    rig.clocks.go_on(max_age / 2)
    rig.spool.tick()
    rig.clocks.step(step)
    rig.spool.tick()
    # What comes now has the time of the stepped clock.
    rig.put(at=max_age / 2 + step)
    rig.spool.tick()
    assert rig.spool.counters.files == 2, "a step removed something"
    rig.clocks.go_on(max_age / 2 - 1)
    rig.spool.tick()
    assert rig.spool.counters.files == 2, "something was removed too early"
    # Whatever the clock did, nothing outlives its time by more than its time again and the step backward.
    rig.clocks.go_on(max_age + max(-step, 0) + 2)
    rig.spool.tick()
    assert rig.spool.counters.files == 0
    assert rig.spool.counters.dropped == {"spool_age": 6}
    rig.check()


@pytest.mark.parametrize("step", [DAY_S, -DAY_S])
def test_a_step_that_is_taken_back_was_none(tmp_path: Path, step: float) -> None:
    rig = Rig(tmp_path / "spool", max_age=3600)
    rig.put(at=0)
    for _ in range(5):
        rig.clocks.step(step)
        rig.spool.tick()
        rig.clocks.go_on(600)
        rig.clocks.step(-step)
        rig.spool.tick()
    assert rig.spool.counters.files == 1
    rig.clocks.go_on(601)
    rig.spool.tick()
    assert rig.spool.counters.dropped == {"spool_age": 3}


@pytest.mark.parametrize("away", [DAY_S, -DAY_S])
def test_a_start_with_another_clock_removes_nothing_at_once(tmp_path: Path, away: float) -> None:
    rig = Rig(tmp_path / "spool", max_age=3600)
    for at in (0, 1800):
        rig.put(at=at)
    rig.clocks.go_on(1800)
    rig.spool.close()
    rig.clocks.step(away)
    rig.open()
    rig.spool.tick()
    assert rig.spool.counters.files == 2
    # For what is left the time goes on from when the last file was written.
    rig.clocks.go_on(1801 + max(-away, 0))
    rig.spool.tick()
    assert ages(rig) == [1800]


def test_an_age_clock_believes_small_corrections() -> None:
    clocks = Clocks()
    clock = AgeClock(wall=clocks.wall, monotonic=clocks.monotonic)
    start = clocks.wall()
    clocks.step(SLACK_S - 1)
    assert clock.now(3600) == start + SLACK_S - 1
    clocks.step(SLACK_S + 1)
    assert clock.now(3600) == start + SLACK_S - 1
    clocks.step(-SLACK_S)
    assert clock.now(3600) == start + SLACK_S


def test_an_empty_folder_and_an_age_are_no_work(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_age=1)
    assert rig.spool.tick() is None
    assert os.listdir(rig.folder) == []
