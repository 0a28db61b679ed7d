"""Rings that outlive their process, as Python sees them; the bytes are tested in C."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent._core import Batch, Ring, Waker, salvage_ring
from agent.errors import RingError

LAYOUT, CAPACITY, BOOT_ID, HEAD = 8, 16, 32, 128  # offsets in the header
SLOTS, DATA = 4096, 4096 + 65536 * 32


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "out.0.ring")


def left_ring(path: str, waker: Waker, *lines: bytes) -> None:
    """A ring with *lines*, each in a run of its own, as a killed process leaves it."""
    ring = Ring(path, 1 << 20, waker)
    for at, line in enumerate(lines):
        assert ring.put(line, arrival_ns=1000 + at)
    ring.close(unlink=False)


def patch(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def drain(ring: Ring) -> bytes:
    found = b""
    while (batch := ring.take(1 << 30, 1 << 30, True)) is not None:
        with memoryview(batch) as view:
            found += bytes(view)
        batch.release()
    return found


def test_a_ring_goes_on_where_another_process_left_it(path: str, waker: Waker) -> None:
    left_ring(path, waker, b"a v=1 1\n", b"b v=2 2\n")
    ring = Ring.adopt(path, waker)
    assert (ring.path, ring.capacity, ring.encoding) == (path, 1 << 20, "lp")
    assert ring.pending() == (2, 16)
    assert ring.put(b"c v=3 3\n")
    stats = ring.stats()
    assert (stats["restored"], stats["written"], stats["waiting"], stats["torn"]) == (2, 1, 3, 0)
    assert (stats["accepted"], stats["waiting_bytes"]) == (1, 24)
    batch = ring.take(1 << 30, 1 << 30, True)
    assert batch is not None and (batch.metrics, batch.oldest_ns) == (3, 0)
    batch.release()
    assert ring.stats()["waiting"] == 0
    # It starts again at its beginning, as every empty ring does.
    assert ring.put(b"d v=4 4\n")
    assert drain(ring) == b"d v=4 4\n"
    assert ring.stats()["restarts"] == 1


@pytest.mark.parametrize("encoding", ["lp", "lp_signed", "pb"])
def test_the_encoding_stays_that_of_the_ring(path: str, waker: Waker, encoding: str) -> None:
    Ring(path, 1 << 20, waker, encoding=encoding).close(unlink=False)
    assert Ring.adopt(path, waker).encoding == encoding


def test_what_is_delivered_and_not_released_is_there_again(path: str, waker: Waker) -> None:
    ring = Ring(path, 1 << 20, waker, slot_metrics=1)
    for line in (b"a v=1 1\n", b"b v=2 2\n", b"c v=3 3\n"):
        assert ring.put(line)
    batches = [ring.take(1, 1, True) for _ in range(3)]
    kept, released, lost = batches
    assert kept is not None and released is not None
    released.release()
    ring.close(unlink=False)
    kept.keep()
    kept.release()  # too late, and no error
    del lost, batches  # collected after the ring was closed: not freed
    assert drain(Ring.adopt(path, waker)) == b"a v=1 1\nb v=2 2\nc v=3 3\n"


def test_a_batch_that_is_looked_at_cannot_be_kept(path: str, waker: Waker) -> None:
    ring = Ring(path, 1 << 20, waker)
    ring.put(b"a v=1 1\n")
    batch = ring.take(1, 1, True)
    assert isinstance(batch, Batch)
    with memoryview(batch), pytest.raises(BufferError):
        batch.keep()
    batch.keep()
    assert batch.released and ring.stats()["waiting"] == 1


def test_as_long_as_a_ring_is_open_a_lost_batch_is_released(path: str, waker: Waker) -> None:
    ring = Ring(path, 1 << 20, waker)
    ring.put(b"a v=1 1\n")
    assert ring.take(1, 1, True) is not None
    assert ring.stats()["waiting"] == 0


@pytest.mark.parametrize(
    ("offset", "data", "kind"),
    [
        (0, b"PNSRING2", "foreign"),
        (LAYOUT, struct.pack("<Q", 1), "older"),
        (BOOT_ID, bytes(16), "older"),
        (CAPACITY, struct.pack("<Q", 1 << 30), "torn"),
        (HEAD, struct.pack("<Q", 1 << 40), "torn"),
        (SLOTS + 8, struct.pack("<I", 1 << 31), "torn"),
        (DATA + 3, b"?", "torn"),
        (0, bytes(4096), "unfinished"),
    ],
)
def test_what_cannot_be_trusted_is_named(
    path: str, waker: Waker, offset: int, data: bytes, kind: str
) -> None:
    left_ring(path, waker, b"a v=1 1\n", b"b v=2 2\n")
    patch(path, offset, data)
    before = Path(path).read_bytes()
    with pytest.raises(RingError) as error:
        Ring.adopt(path, waker)
    assert error.value.kind == kind and str(error.value).startswith(f"{path}: ")
    assert error.value.salvageable == (offset >= SLOTS)
    assert Path(path).read_bytes() == before, "looked at, not touched"


def test_what_is_no_file_is_foreign_and_not_opened(tmp_path: Path, waker: Waker) -> None:
    target = tmp_path / "target"
    left_ring(str(target), waker, b"a v=1 1\n")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "folder", "fifo"):
        with pytest.raises(RingError, match="it is not a file") as error:
            Ring.adopt(str(tmp_path / name), waker)
        assert error.value.kind == "foreign"
    (tmp_path / "empty").touch()
    with pytest.raises(RingError, match="killed before it was a ring"):
        Ring.adopt(str(tmp_path / "empty"), waker)
    (tmp_path / "text").write_bytes(b"hello" * 1000)
    with pytest.raises(RingError, match="it is not a ring"):
        Ring.adopt(str(tmp_path / "text"), waker)
    with pytest.raises(FileNotFoundError):
        Ring.adopt(str(tmp_path / "absent"), waker)


def test_nothing_stays_open_of_what_was_refused(path: str, waker: Waker) -> None:
    left_ring(path, waker, b"a v=1 1\n")
    patch(path, DATA, b"?")
    before = os.listdir("/proc/self/fd"), Path("/proc/self/maps").read_text().count(path)
    for _ in range(3):
        with pytest.raises(RingError):
            Ring.adopt(path, waker)
    assert (os.listdir("/proc/self/fd"), Path("/proc/self/maps").read_text().count(path)) == before


def test_whole_runs_are_saved_from_a_torn_ring(path: str, waker: Waker) -> None:
    left_ring(path, waker, b"a v=1 1\n", b"b v=2 2\n", b"c v=3 3\n")
    patch(path, DATA + 8 + 4, b"9")
    with pytest.raises(RingError, match="1 of its 3 runs are damaged"):
        Ring.adopt(path, waker)
    assert salvage_ring(path, path + ".new") == (2, 1)
    ring = Ring.adopt(path + ".new", waker, torn=1)
    stats = ring.stats()
    assert (stats["restored"], stats["torn"], stats["waiting"]) == (3, 1, 2)
    assert drain(ring) == b"a v=1 1\nc v=3 3\n"
    with pytest.raises(FileExistsError):
        salvage_ring(path, path + ".new")
    patch(path, BOOT_ID, bytes(16))
    with pytest.raises(RingError):
        salvage_ring(path, path + ".other")
    assert not Path(path + ".other").exists()


def test_a_ring_in_memory_takes_no_sums(waker: Waker) -> None:
    # Nobody could look at them; the benchmark compares with this.
    ring = Ring(None, 1 << 20, waker)
    assert ring.put(b"a v=1 1\n") and drain(ring) == b"a v=1 1\n"
