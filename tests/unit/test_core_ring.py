"""The ring as a flusher sees it: batches, views, wake-ups, limits."""

import gc
import os
import threading
from pathlib import Path

import pytest

from agent._core import Batch, Ring, Waker


@pytest.fixture
def waker() -> Waker:
    return Waker()


def test_a_batch_is_the_bytes_that_were_put(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker)
    assert ring.put(b"a v=1 1\n", 1, 500)
    assert ring.put(b"b v=1 2\n", 1, 400)
    batch = ring.take(1000, 1000, True)
    assert batch is not None
    with memoryview(batch) as view:
        assert bytes(view) == b"a v=1 1\nb v=1 2\n"
        assert view.readonly
    assert (batch.metrics, batch.nbytes, batch.oldest_ns) == (2, 16, 400)
    batch.release()
    assert ring.stats()["waiting"] == 0


def test_a_view_never_outlives_its_batch(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker)
    ring.put(b"a v=1 1\n")
    batch = ring.take(1000, 1000, True)
    assert batch is not None
    view = memoryview(batch)
    part = view[2:5]
    view.release()
    with pytest.raises(BufferError, match="still open"):
        batch.release()
    assert bytes(part) == b"v=1"
    part.release()
    batch.release()
    assert batch.released
    with pytest.raises(ValueError, match="released"):
        memoryview(batch)
    batch.release()  # a second time is harmless
    assert ring.stats()["freed"] == 1


def test_a_forgotten_batch_gives_its_space_back(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker)
    ring.put(b"a v=1 1\n")
    batch = ring.take(1000, 1000, True)
    del batch
    gc.collect()
    assert ring.stats()["freed"] == 1


def test_a_batch_keeps_a_closed_ring_mapped(waker: Waker, tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "a.ring"), 1 << 20, waker)
    ring.put(b"a v=1 1\n")
    batch = ring.take(1000, 1000, True)
    assert batch is not None
    ring.close(unlink=True)
    del ring
    gc.collect()
    assert bytes(memoryview(batch)) == b"a v=1 1\n"
    assert not (tmp_path / "a.ring").exists()


def test_batches_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Batch()


def test_space_is_freed_in_the_order_of_taking(waker: Waker) -> None:
    ring = Ring(None, 65536, waker, slot_metrics=1)
    line = b"x" * 1000
    while ring.put(line):
        pass
    first = ring.take(1000, 1, True)
    second = ring.take(1000, 1, True)
    assert first is not None and second is not None
    second.release()
    assert not ring.put(line), "the space of the second batch lies behind that of the first"
    first.release()
    assert ring.put(line) and ring.put(line)


def test_every_byte_survives_many_wraps(waker: Waker) -> None:
    ring = Ring(None, 65536, waker, slot_metrics=3)
    expected, got = [], []
    keep = None
    for number in range(5000):
        line = b"%d," % number * (1 + number % 50)
        while not ring.put(line):
            batch = ring.take(10000, 1000, True)
            assert batch is not None
            got.append(bytes(memoryview(batch)))
            keep = batch  # one is always out, so the ring never gets empty and never restarts
        expected.append(line)
    while (batch := ring.take(10000, 1000, True)) is not None:
        got.append(bytes(memoryview(batch)))
    del keep
    assert b"".join(got) == b"".join(expected)


def test_take_waits_for_a_full_batch_unless_partial_is_asked_for(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker, slot_metrics=1)
    for _ in range(9):
        ring.put(b"a v=1 1\n")
    assert ring.take(1000, 10, False) is None
    ring.put(b"a v=1 1\n")
    batch = ring.take(1000, 10, False)
    assert batch is not None and batch.metrics == 10
    assert ring.take(1000, 10, True) is None


def test_arm_wakes_at_the_threshold_and_not_before(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker)
    assert not ring.arm(1000, 2)
    ring.put(b"a v=1 1\n")
    assert not waker.wait(0)
    ring.put(b"a v=1 1\n")
    assert waker.wait(0)
    assert not waker.wait(0), "the signal is consumed"
    ring.put(b"a v=1 1\n")
    assert not waker.wait(0), "one signal for one arming"
    assert ring.arm(1000, 2), "it is there already"


def test_a_waiting_thread_is_woken(waker: Waker) -> None:
    ring = Ring(None, 1 << 20, waker)
    ring.arm(1, 1)
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(waker.wait(30)))
    thread.start()
    ring.put(b"a v=1 1\n")
    thread.join(30)
    assert woken == [True]


def test_a_ring_file_is_allocated_in_full_and_private(waker: Waker, tmp_path: Path) -> None:
    path = tmp_path / "a.ring"
    ring = Ring(str(path), 1 << 20, waker)
    status = os.stat(path)
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 >= 1 << 20
    with pytest.raises(FileExistsError):
        Ring(str(path), 1 << 20, waker)
    ring.close()


def test_pages_are_mapped_when_that_is_asked_for_and_keep_what_they_hold(
    waker: Waker, tmp_path: Path
) -> None:
    path = tmp_path / "a.ring"
    ring = Ring(str(path), 1 << 20, waker)
    assert ring.put(b"a v=1 1\n")

    def mapped() -> int:
        """Bytes of the ring's data that are mapped to pages, in the first of its two places."""
        lines = Path("/proc/self/smaps").read_text().splitlines()
        sizes = [
            int(lines[at + 4].removeprefix("Rss:").split()[0]) * 1024
            for at, line in enumerate(lines)
            if line.endswith(str(path)) and "1024 kB" in lines[at + 1]
        ]
        return max(sizes)

    # Some kernels map a few neighbours of a page that is touched.
    assert mapped() < 1 << 19
    ring.populate(1 << 19)
    assert 1 << 19 <= mapped() < 1 << 20
    ring.populate(1 << 30)
    assert mapped() == 1 << 20
    batch = ring.take(1000, 1000, True)
    assert batch is not None and bytes(batch) == b"a v=1 1\n"


def test_a_ring_that_cannot_be_made_says_why_and_leaves_nothing(waker: Waker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 KiB"):
        Ring(None, 100, waker)
    with pytest.raises(FileNotFoundError):
        Ring(str(tmp_path / "absent" / "a.ring"), 1 << 20, waker)
    with pytest.raises(OSError):
        Ring(str(tmp_path / "huge.ring"), 1 << 40, waker)
    assert list(tmp_path.iterdir()) == []
