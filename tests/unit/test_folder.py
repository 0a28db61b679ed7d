"""The index of a folder: whatever happens in it, totals and order are those of an index that knows it all."""

import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store.folder import Index
from agent.store.spool_file import metrics_of
from tests.conftest import QUIET
from tests.unit.spool_folder import Rig, end_all


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_all()


def file(number: int, metrics: int = 3) -> str:
    return f"20260101T000000.{number:09d}Z-00000001-{metrics}-ns-00000000.lp"


class Model:
    """A folder, an index with a small window, and a set that knows every name."""

    def __init__(self, folder: Path, window: int) -> None:
        self.folder = folder
        self.index = Index(str(folder), metrics_of, window_max=window)
        self.index.open()
        self.waiting: set[str] = set()
        self.out: set[str] = set()

    def write(self, name: str, size: int) -> None:
        (self.folder / name).write_bytes(b"x" * size)

    def add(self, number: int, size: int) -> None:
        name = file(number, 1 + number % 7)
        if name not in self.waiting | self.out:
            self.write(name, size)
            self.index.add(name, size)
            self.waiting.add(name)

    def take(self) -> None:
        if self.index.used_up:
            self.index.refill(())
        item = self.index.take()
        assert (item[0] if item else None) == min(self.waiting, default=None)
        if item is not None:
            assert item[1] == (self.folder / item[0]).stat().st_size
            self.waiting.remove(item[0])
            self.out.add(item[0])

    def hold(self, name: str) -> None:
        if self.index.hold(name):
            self.waiting.remove(name)
            self.out.add(name)
        else:
            assert name not in self.waiting

    def give_back(self, name: str) -> None:
        self.index.give_back(name)
        self.out.remove(name)
        self.waiting.add(name)

    def forget(self, name: str) -> None:
        (self.folder / name).unlink()
        assert self.index.forget(name) == metrics_of(name)
        self.out.remove(name)

    def check(self) -> None:
        there = self.waiting | self.out
        assert self.index.files == len(there)
        assert self.index.metrics == sum(metrics_of(name) or 0 for name in there)
        assert self.index.bytes == sum(4096 * bool((self.folder / name).stat().st_size) for name in there)
        assert self.index.held_bytes <= self.index.bytes
        assert (self.index.appeared, self.index.vanished) == (0, 0)


@pytest.mark.parametrize("window", [1, 2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_a_small_window_changes_nothing(tmp_path: Path, window: int, seed: int) -> None:
    chance = random.Random(seed)
    model = Model(tmp_path, window)
    for _ in range(600):
        match chance.choice("aaaaattthgff"):
            case "a":
                model.add(chance.randrange(400), chance.randrange(3))
            case "t":
                model.take()
            case "h":
                model.hold(file(number := chance.randrange(400), 1 + number % 7))
            case "g" if model.out:
                model.give_back(chance.choice(sorted(model.out)))
            case "f" if model.out:
                model.forget(chance.choice(sorted(model.out)))
        model.check()
    again = Index(str(tmp_path), metrics_of, window_max=window)
    again.open()
    assert (again.files, again.bytes, again.metrics) == (
        model.index.files,
        model.index.bytes,
        model.index.metrics,
    )
    while model.waiting:
        model.take()
    model.take()


def test_what_others_took_away_or_brought_is_noticed_with_the_next_pass(tmp_path: Path) -> None:
    model = Model(tmp_path, 2)
    for number in range(8):
        model.add(number, 1)
    for name in (file(5, 6), file(6, 7)):
        (tmp_path / name).unlink()
    model.write(file(100, 1), 1)
    index = model.index
    for _ in range(2):
        model.take()
    index.refill(())
    assert (index.appeared, index.vanished) == (0, 12)
    assert (index.files, index.metrics, index.bytes) == (7, 1 + 2 + 3 + 4 + 5 + 1 + 1, 7 * 4096)
    names = [item[0] for _ in range(2) if (item := index.take())]
    assert names == [file(2, 3), file(3, 4)]
    model.write(file(101, 4), 5000)
    index.refill(())
    assert (index.appeared, index.files, index.bytes) == (4, 8, 9 * 4096)


def test_names_on_their_way_are_not_found_twice(tmp_path: Path) -> None:
    model = Model(tmp_path, 1)
    for number in (1, 2):
        model.add(number, 1)
    model.write(file(0), 1)
    model.take()
    model.index.refill({file(0)})
    assert (model.index.files, model.index.appeared) == (2, 0)
    assert model.index.peek() == (file(2, 3), 1)


def test_a_pass_that_fails_changes_nothing(tmp_path: Path) -> None:
    model = Model(tmp_path, 1)
    for number in (1, 2):
        model.add(number, 1)
    model.take()
    index = Index(str(tmp_path / "missing"), metrics_of)
    with pytest.raises(FileNotFoundError):
        index.open()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError):
        model.index.refill(())
    assert (model.index.files, model.index.metrics) == (2, 5)
    tmp_path.with_name("elsewhere").rename(tmp_path)
    model.take()
    model.check()


MANY = 100_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        os.close(os.open(folder / file(number * 7 % MANY), os.O_CREAT | os.O_WRONLY))
    return folder


def test_a_hundred_thousand_files_take_less_than_two_seconds(many: Path) -> None:
    # On a machine with other work only the processor's time counts.
    clock = time.perf_counter if QUIET else time.process_time
    start = clock()
    rig = Rig(many)
    took = clock() - start
    counters = rig.spool.counters
    assert (counters.files, counters.metrics, counters.restored) == (MANY, 3 * MANY, 3 * MANY)
    assert took < 2.0
    entry = rig.spool.take()
    assert entry is not None and entry.name == file(0)


def test_memory_does_not_grow_with_the_number_of_files(many: Path, tmp_path: Path) -> None:
    def peak(folder: Path, window: int) -> int:
        index = Index(str(folder), metrics_of, window_max=window)
        tracemalloc.start()
        index.open()
        index.refill(())
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    window = 1000
    for number in range(2 * window):
        (tmp_path / file(number)).write_bytes(b"")
    few, all_of_them = peak(tmp_path, window), peak(many, window)
    assert all_of_them < 1.2 * few + 50_000, (few, all_of_them)
