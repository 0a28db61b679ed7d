"""What a disk does to a spool: nothing raises, nothing is lost unseen, and it goes on by itself."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store import disk, spool_file, trouble
from agent.store.spool import ASIDE_MAX, REST_S
from tests.unit.spool_folder import Rig, end_all, failing, lines


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "spool" / "influx")


def name_of(error: int) -> str:
    return errno.errorcode[error]


# ---- files that are not what they were ----


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "longer"])
def test_a_damaged_file_is_set_aside_and_blocks_nothing(rig: Rig, damage: str) -> None:
    for at in range(3):
        rig.put(metrics=1 + at, at=at)
    name = rig.names()[1]
    path = rig.folder / name
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[:-1],
            "empty": b"",
            "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
            "longer": data + b"\n",
        }[damage]
    )
    assert rig.drain() == [lines(1), lines(3)]
    assert rig.names("corrupt") == [name] and rig.names() == []
    assert rig.spool.counters.dropped == {"spool_corrupt": 2}
    rig.check()
    # It stays there, and is none of ours any more.
    spool = rig.reopen()
    assert spool.counters.files == spool.counters.foreign == 0
    assert rig.names("corrupt") == [name]


def test_a_file_longer_than_any_body_is_not_read(rig: Rig) -> None:
    rig.put()
    os.truncate(rig.folder / rig.names()[0], spool_file.PLAIN_BYTES_MAX + 1)
    assert rig.drain() == [] and rig.spool.counters.dropped == {"spool_corrupt": 3}


def test_what_is_set_aside_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_file, "CORRUPT_MAX", 3)
    for at in range(5):
        rig.put(at=at)
    names = rig.names()
    for name in names:
        (rig.folder / name).write_bytes(b"")
    assert rig.drain() == []
    (rig.folder / "corrupt" / "of-a-person").write_text("stays")
    assert rig.names("corrupt") == names[2:]
    assert rig.spool.counters.dropped == {"spool_corrupt": 15}
    rig.check()


def test_a_file_that_vanished_is_missing(rig: Rig) -> None:
    for at in range(3):
        rig.put(metrics=1 + at, at=at)
    (rig.folder / rig.names()[0]).unlink()
    assert rig.drain() == [lines(2), lines(3)]
    assert rig.spool.counters.dropped == {"spool_missing": 1}
    rig.check()


def test_a_folder_that_vanished_is_made_again(rig: Rig) -> None:
    for at in range(3):
        rig.put(at=at)
    shutil.rmtree(rig.folder.parent)
    rig.put(at=4)
    assert rig.said == [True] * 4
    assert rig.drain() == [lines(3)]
    assert rig.spool.counters.dropped == {"spool_missing": 9}
    rig.check()


# ---- a disk that hangs ----


def test_counters_are_told_while_the_disk_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.spool.READING_S", 0.01)
    rig.put()
    entry = rig.spool.take()
    assert entry is not None
    before = rig.spool.counters
    hangs, reached, real = threading.Event(), threading.Event(), os.unlink

    def unlink(path: str) -> None:
        reached.set()
        hangs.wait()
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    remover = threading.Thread(target=rig.spool.remove, args=(entry,))
    remover.start()
    reached.wait()
    assert rig.spool.counters == before
    hangs.set()
    remover.join()
    assert rig.spool.counters.files == 0


# ---- a disk that does not take files ----


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize(
    ("sync", "call"),
    [
        *((sync, call) for sync in ("interval", "always") for call in ("create", "fsync", "sync_folder")),
        *((sync, "rename") for sync in ("interval", "always", "never")),
        ("never", "create"),
    ],
)
def test_what_cannot_be_stored_stays_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, sync: str, error: int
) -> None:
    rig = Rig(tmp_path / "spool", sync=sync)
    rig.put(at=0)
    assert rig.spool.flush(10)
    where = os if call in ("fsync", "rename") else disk
    with monkeypatch.context() as patch:
        patch.setattr(where, call, failing(error, getattr(where, call), lambda path: True))
        rig.put(at=1)
        assert rig.spool.flush(10)
    assert rig.said == [True, False]
    assert (len(rig.names()), rig.parts()) == (1, [])
    counters = rig.spool.counters
    assert counters.errors == {name_of(error): 1} and counters.failing == os.strerror(error)
    assert not rig.spool.writable
    rig.check()
    # Nothing is tried for a while, and so nothing is counted.
    rig.put(at=1)
    assert rig.said == [True, False, False] and rig.spool.counters.errors == {name_of(error): 1}
    # It finds out by itself that the disk works again.
    rig.clocks.go_on(trouble.PAUSE_MIN_S)
    rig.spool.tick()
    assert rig.spool.counters.failing == "" and rig.spool.writable
    rig.put(at=1)
    assert rig.spool.flush(10) and rig.said[-1]
    rig.check()


def test_pauses_grow_and_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.spool._committer.close(10)
    monkeypatch.setattr(disk, "create", failing(errno.EIO, disk.create, lambda path: True))
    monkeypatch.setattr(disk, "probe", failing(errno.EIO, disk.probe, lambda path: True))
    rig.put()
    waited = []
    for _ in range(8):
        start = rig.clocks.monotonic()
        while not rig.spool.writable:
            rig.clocks.go_on(0.5)
        waited.append(rig.clocks.monotonic() - start)
        rig.put()
    assert waited == [1, 2, 4, 8, 16, 30, 30, 30]
    assert rig.spool.counters.errors == {"EIO": 9} and rig.said == [False] * 9
    monkeypatch.undo()
    rig.clocks.go_on(30)
    rig.put()
    assert rig.said[-1] and rig.spool.counters.failing == ""


def test_the_view_of_a_batch_is_not_kept_by_a_failure_either(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.outputs.base import Payload

    memory = bytearray(b"m v=1 1\n")
    view = memoryview(memory)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: _no_space() if len(data) < 8 else real(fd, data[:5]))
        rig.spool.put(Payload(view, 1, 8), 0, rig.said.append)
    assert rig.said == [False] and rig.spool.counters.errors == {"ENOSPC": 1}
    view.release()
    memory.clear()
    assert rig.parts() == []


def _no_space() -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_can_be_neither_synced_nor_removed_counts_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path / "spool", sync="always")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_folder", failing(errno.EIO, disk.sync_folder, lambda path: True))
        patch.setattr(os, "unlink", failing(errno.EIO, os.unlink, lambda path: True))
        rig.put()
    # It is there under its name and the next start would find it: so it is stored.
    assert rig.said == [True] and len(rig.names()) == 1
    rig.check()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_start_without_a_disk_goes_on_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(disk, "make_folder", failing(error, disk.make_folder, lambda path: True))
        rig = Rig(tmp_path / "spool" / "influx")
        rig.put()
        assert rig.said == [False] and rig.spool.take() is None
        assert rig.spool.counters.failing == os.strerror(error)
    rig.clocks.go_on(trouble.PAUSE_MIN_S)
    rig.spool.tick()
    assert rig.spool.counters.failing == "" and rig.changes > 0
    rig.put()
    assert rig.said == [False, True] and len(rig.drain()) == 1


def test_a_disk_that_is_read_only_from_the_start_is_still_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.put()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "probe", failing(errno.EROFS, disk.probe, lambda path: True))
        patch.setattr(disk, "create", failing(errno.EROFS, disk.create, lambda path: True))
        spool = rig.reopen()
        assert spool.counters.metrics == 3 and spool.counters.failing == os.strerror(errno.EROFS)
        entry = spool.take()
        assert entry is not None and spool.load(entry) is not None
        rig.put()
        assert rig.said == [True, False]


# ---- a disk that does not give up files ----


def test_what_was_delivered_is_not_sent_again_though_it_cannot_be_removed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(3):
        rig.put(at=at)
    rig.spool._committer.close(10)
    first = rig.names()[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EROFS, os.unlink, lambda path: path.endswith(first)))
        assert len(rig.drain()) == 3
        assert rig.names() == [first] and rig.spool.take() is None
        counters = rig.spool.counters
        assert (counters.decided, counters.metrics, counters.files) == (9, 0, 0)
        assert counters.errors == {"EROFS": 1} and counters.failing == os.strerror(errno.EROFS)
        rig.check()
        rig.clocks.go_on(1)
        assert rig.spool.tick() is not None
        assert rig.spool.counters.errors == {"EROFS": 2}
    rig.clocks.go_on(30)
    assert rig.spool.tick() is None
    assert rig.names() == [] and rig.spool.counters.failing == ""
    rig.check()


def test_limits_wait_for_a_disk_that_does_not_remove(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        rig.put(at=at)
    rig.spool._committer.close(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EROFS, os.unlink, lambda path: True))
        rig.spool.reconfigure(rig.table(max_bytes=4096))
        rig.spool.tick()
        assert rig.spool.counters.dropped == {} and rig.spool.counters.errors == {"EROFS": 1}
    rig.clocks.go_on(1)
    rig.spool.tick()
    assert rig.spool.counters.dropped == {"spool_full": 6} and rig.spool.counters.failing == ""
    rig.check()


def test_no_more_is_taken_when_too_much_cannot_be_removed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.spool.ASIDE_MAX", 2)
    assert ASIDE_MAX > 2
    for at in range(5):
        rig.put(at=at)
    rig.spool._committer.close(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EROFS, os.unlink, lambda path: True))
        assert len(rig.drain()) == 2
    rig.clocks.go_on(1)
    rig.spool.tick()
    assert len(rig.drain()) == 3
    rig.check()


# ---- a disk that does not let files be read ----


def reading(patch: pytest.MonkeyPatch, error: int, name: str) -> None:
    patch.setattr(os, "open", failing(error, os.open, lambda path: path.endswith(name)))


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_set_aside(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    for at in range(3):
        rig.put(metrics=1 + at, at=at)
    name = rig.names()[0]
    reading(monkeypatch, error, name)
    assert rig.drain() == [lines(2), lines(3)]
    assert rig.names("corrupt") == [name]
    counters = rig.spool.counters
    assert (counters.dropped, counters.errors) == ({"spool_corrupt": 1}, {name_of(error): 1})
    rig.check()


def test_a_file_that_can_be_neither_read_nor_moved_rests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        rig.put(metrics=1 + at, at=at)
    rig.spool._committer.close(10)
    with monkeypatch.context() as patch:
        reading(patch, errno.EIO, rig.names()[0])
        patch.setattr(os, "rename", failing(errno.EROFS, os.rename, lambda path: True))
        assert rig.drain() == [lines(2), lines(3)]
        # It may be the disk: nothing is decided.
        counters = rig.spool.counters
        assert (counters.metrics, counters.dropped) == (1, {})
        assert counters.errors == {"EIO": 1, "EROFS": 1}
        rig.check()
    rig.clocks.go_on(REST_S - 1)
    rig.spool.tick()
    assert rig.spool.take() is None
    rig.clocks.go_on(1)
    changes = rig.changes
    rig.spool.tick()
    assert rig.changes == changes + 1
    assert rig.drain() == [lines(1)]
    rig.check()


def test_a_damaged_file_that_cannot_be_moved_is_not_taken_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(2):
        rig.put(metrics=1 + at, at=at)
    (rig.folder / rig.names()[0]).write_bytes(b"")
    monkeypatch.setattr(os, "rename", failing(errno.EROFS, os.rename, lambda path: True))
    assert rig.drain() == [lines(2)]
    assert rig.spool.counters.dropped == {"spool_corrupt": 1}


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
def test_a_shortage_is_not_the_files_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    rig.put()
    (name,) = rig.names()
    with monkeypatch.context() as patch:
        reading(patch, error, name)
        entry = rig.spool.take()
        assert entry is not None and rig.spool.load(entry) is None
    assert rig.spool.take() is None
    assert rig.spool.counters.failing == os.strerror(error)
    rig.spool._committer.close(10)
    rig.clocks.go_on(trouble.PAUSE_MIN_S)
    changes = rig.changes
    rig.spool.tick()
    assert rig.changes == changes + 1
    assert rig.drain() == [lines(3)]
    assert rig.spool.counters.failing == "" and rig.spool.counters.dropped == {}
    rig.check()
