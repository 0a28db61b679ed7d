"""The queue on disk: what is put comes out again, oldest first, exactly once, across restarts."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.outputs.base import Payload, plain
from agent.store import commit
from agent.store.spool import PENDING_MAX, Spool
from agent.store.spool_file import file_name, parse
from tests.conftest import wait_until
from tests.unit.spool_folder import START_NS, Clocks, Rig, end_all, lines, payload


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "spool" / "influx")


def test_a_name_says_all_there_is_to_know() -> None:
    name = file_name(payload(5, gz=True), START_NS + 1_500_000_000, 7)
    checksum = name[-14:-6]
    assert name == f"20260101T000001.500000000Z-00000007-5-ns-{checksum}.lp.gz"
    entry = parse(name, 99)
    assert entry is not None
    assert (entry.metrics, entry.encoding, entry.compression, entry.size) == (5, "lp", "gz", 99)
    assert entry.oldest_ns == START_NS + 1_500_000_000
    assert file_name(payload(5), START_NS, 7).endswith(".lp") and entry.batch == ""
    batch = "4bf92f3577b34da6a3ce929d0e0e4736"
    named = parse(name := file_name(payload(5, gz=True), START_NS, 7, batch))
    assert named is not None and name.endswith(f"-{checksum}-{batch}.lp.gz")
    assert (named.batch, named.metrics, named.compression) == (batch, 5, "gz")


@pytest.mark.parametrize(
    "name",
    [
        "20260101T000000.000000000Z-00000001-5-ns-1a2b3c4d.lp.gz.part",
        "20260101T000000.000000000Z-00000001-5-ns-1a2b3c4d.lp.xz",
        "20260101T000000.000000000Z-00000001-5-ns-1A2B3C4D.lp",
        "20260101T000000.000000000Z-00000001-5-ms-1a2b3c4d.lp",
        "20260101T000000.000000000Z-1-5-ns-1a2b3c4d.lp",
        "20260101T000000.000000000Z-00000001-\u0665-ns-1a2b3c4d.lp",
        " 20260101T000000.000000000Z-00000001-5-ns-1a2b3c4d.lp",
        "20260101T000000.000000000Z-00000001-5-ns-1a2b3c4d.lp\n",
        "",
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert parse(name) is None


@pytest.mark.parametrize("at_ns", [-5, 0, 1, START_NS, 1 << 62, 1 << 70])
def test_any_time_makes_a_name(at_ns: int) -> None:
    entry = parse(file_name(payload(), at_ns, 1))
    assert entry is not None and entry.oldest_ns == min(max(at_ns, 0), entry.oldest_ns)
    assert entry.oldest_ns == at_ns or not 0 <= at_ns < 1 << 62


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("sync", ["interval", "always", "never"])
def test_what_is_put_comes_out_as_it_was(tmp_path: Path, sync: str, gz: bool) -> None:
    rig = Rig(tmp_path / "spool", sync=sync)
    body = payload(4, gz=gz)
    rig.spool.put(body, START_NS, rig.said.append)
    assert rig.spool.flush(10) and rig.said == [True]
    entry = rig.spool.take()
    assert entry is not None and (entry.metrics, entry.size) == (4, len(body.data))
    assert rig.spool.load(entry) == body
    assert plain(body) == lines(4)
    rig.check()
    rig.spool.remove(entry)
    assert rig.names() == rig.parts() == [] and rig.spool.take() is None
    rig.check()
    assert rig.spool.counters.decided == 4


def test_the_view_of_a_batch_is_not_kept(rig: Rig) -> None:
    memory = bytearray(lines(2))
    view = memoryview(memory)
    rig.spool.put(Payload(view, 2, len(view)), START_NS, rig.said.append)
    view.release()
    memory.clear()
    assert rig.said == [True] and rig.drain() == [lines(2)]


def test_the_oldest_comes_first_and_what_is_put_back_before_all_younger(rig: Rig) -> None:
    for at in (3, 1, 2, 1):
        rig.put(at=at, mark=f"m{at}")
    entries = rig.take_all()
    assert [entry.oldest_ns - START_NS for entry in entries] == [10**9, 10**9, 2 * 10**9, 3 * 10**9]
    for entry in reversed(entries):
        rig.spool.put_back(entry)
    rig.put(at=0.5)
    assert [entry.name for entry in rig.take_all()] == rig.names()
    rig.check()


def test_an_entry_is_out_for_one_only_and_decided_once(rig: Rig) -> None:
    rig.put()
    entry = rig.spool.take()
    assert entry is not None and rig.spool.take() is None
    rig.spool.remove(entry)
    rig.spool.remove(entry)
    rig.spool.put_back(entry)
    assert rig.spool.take() is None
    rig.check()
    assert rig.spool.counters.decided == 3


def test_a_start_finds_what_was_left(rig: Rig) -> None:
    for at in range(5):
        rig.put(metrics=at + 1, at=at)
    out = rig.spool.take()
    assert out is not None
    spool = rig.reopen()
    assert spool.counters.restored == spool.counters.metrics == 15
    assert spool.counters.oldest_ns == START_NS
    rig.check()
    # Numbers begin anew, and no file is overwritten by one of the same time.
    rig.put(metrics=1, at=0)
    assert spool.counters.files == 6
    assert len(rig.drain()) == 6
    rig.check()


def test_what_others_have_put_there_is_left_alone_and_told(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.put()
    (name,) = rig.names()
    for foreign in ("readme.txt", name + ".bak", "x.part", name.replace(".lp", ".json")):
        (rig.folder / foreign).write_text("hands off")
    os.mkfifo(rig.folder / name.replace("-00000001-", "-00000002-"))
    os.symlink(rig.folder / name, rig.folder / name.replace("-00000001-", "-00000003-"))
    (rig.folder / name.replace("-00000001-", "-00000004-")).mkdir()
    before = sorted(os.listdir(rig.folder))
    spool = rig.reopen()
    assert spool.counters.files == 1 and spool.counters.foreign == 6
    (record,) = [one for one in caplog.records if "left alone" in one.message]
    assert record.files == 6
    assert len(rig.drain()) == 1
    assert sorted(os.listdir(rig.folder)) == [one for one in before if one != name]


def test_a_temporary_file_of_a_killed_process_is_removed(rig: Rig) -> None:
    rig.put()
    (name,) = rig.names()
    (rig.folder / f"{name.replace('-00000001-', '-00000002-')}.part").write_bytes(b"half of")
    (rig.folder / "probe.part").write_bytes(b"")
    rig.reopen()
    assert os.listdir(rig.folder) == [name]


def test_the_order_of_a_commit_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    calls: list[str] = []

    def note(call: str) -> None:
        real = getattr(os, call)

        def noting(what: object, *others: object) -> object:
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
            if path.startswith(str(rig.folder)):
                calls.append(f"{call} {'folder' if path == str(rig.folder) else path[-8:]}")
            return real(what, *others)

        monkeypatch.setattr(os, call, noting)

    note("fsync")
    note("rename")
    rig.spool.put(payload(1), START_NS, lambda stored: calls.append(f"told {stored}"))
    rig.spool.put(payload(2), START_NS, lambda stored: calls.append(f"told {stored}"))
    assert rig.spool.flush(10)
    file = ["fsync .lp.part", "rename .lp.part"]
    assert calls == [*file, *file, "fsync folder", "told True", "told True"]


def test_never_means_no_sync_at_all(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("synced"))
    rig.put()
    assert rig.said == [True] and len(rig.names()) == 1


def test_a_file_counts_from_when_it_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    monkeypatch.setattr(commit, "INTERVAL_S", 3600.0)
    rig.put()
    assert (rig.said, rig.names(), len(rig.parts())) == ([], [], 1)
    assert rig.spool.take() is None and rig.spool.counters.stored == 0
    assert rig.spool.flush(10)
    assert (rig.said, len(rig.names()), rig.parts()) == ([True], 1, [])
    assert rig.spool.counters.stored == 3 and rig.changes > 0


def test_the_interval_commits_by_itself(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    rig.put()
    wait_until(lambda: rig.said == [True])


def test_a_group_that_is_large_enough_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    monkeypatch.setattr(commit, "INTERVAL_S", 3600.0)
    for at in range(commit.GROUP_MAX):
        rig.put(at=at)
    wait_until(lambda: rig.said == [True] * commit.GROUP_MAX)


def test_a_disk_that_is_slow_to_sync_holds_up_writers_and_no_one_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    rig.put()
    assert rig.spool.flush(10)
    hangs, real = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (hangs.wait(), real(fd))[1])

    def write() -> None:
        for at in range(PENDING_MAX + 10):
            rig.put(at=1 + at)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(rig.parts()) == PENDING_MAX)
    assert not rig.spool.flush(0.01)
    entry = rig.spool.take()
    assert entry is not None and rig.spool.load(entry) is not None
    rig.spool.put_back(entry)
    assert rig.spool.counters.files == 1 and len(rig.parts()) == PENDING_MAX and writer.is_alive()
    hangs.set()
    writer.join()
    assert rig.spool.flush(10)
    assert rig.said == [True] * (PENDING_MAX + 11)
    rig.check()


def test_a_close_commits_what_is_pending_and_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    monkeypatch.setattr(commit, "INTERVAL_S", 3600.0)
    rig.put()
    rig.spool.close()
    assert rig.said == [True] and len(rig.names()) == 1
    rig.put()
    assert rig.said == [True, False]
    assert rig.spool.take() is None and not rig.spool.writable
    assert rig.spool.flush(0)
    rig.spool.close()


def test_who_fails_to_take_note_harms_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fail(stored: bool) -> None:
        raise RuntimeError("a bug")

    rig.spool.put(payload(), START_NS, fail)
    rig.put()
    assert rig.said == [True] and rig.spool.counters.files == 2
    assert "not accounted for" in caplog.text


def test_many_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", sync="interval")
    got: list[bytes] = []
    stop = threading.Event()

    def write(number: int) -> None:
        for at in range(60):
            rig.put(metrics=2, at=at, mark=f"m{number}_{at}")

    def read() -> None:
        turn = 0
        while not stop.is_set():
            entry = rig.spool.take()
            if entry is None:
                time.sleep(0.001)
                continue
            turn += 1
            if turn % 3 == 0:
                rig.spool.put_back(entry)
                continue
            body = rig.spool.load(entry)
            assert body is not None
            got.append(bytes(body.data))
            rig.spool.remove(entry)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    wait_until(lambda: len(got) >= 240)
    stop.set()
    for thread in readers:
        thread.join()
    assert sorted(got) == sorted(lines(2, f"m{number}_{at}") for number in range(4) for at in range(60))
    rig.check()
    assert rig.spool.counters.decided == rig.spool.counters.stored == 480


def test_a_command_adds_and_drops(rig: Rig) -> None:
    for at in range(4):
        rig.put(at=at)
    assert rig.spool.add(payload(5, gz=True), START_NS + 10**10)
    assert rig.spool.counters.restored == 5 and rig.spool.counters.stored == 12
    out = rig.spool.take()
    assert out is not None
    names = rig.names()
    assert rig.spool.drop([names[3], names[3], "no such", f"../{names[1]}"]) == 1
    assert rig.names() == [*names[:3], names[4]]
    rig.check()
    assert rig.spool.drop_before(START_NS + 1.5e9) == 2
    assert rig.names() == [names[0], names[2], names[4]]
    assert rig.spool.drop_before(float("inf")) == 2
    rig.spool.remove(out)
    rig.check()
    assert rig.spool.counters.dropped == {"spool_dropped": 14}
    assert rig.spool.counters.decided == 3


@pytest.mark.parametrize("end", ["put_back", "load", "remove"])
def test_what_is_out_is_dropped_unless_it_is_delivered_first(rig: Rig, end: str) -> None:
    rig.put()
    entry = rig.spool.take()
    assert entry is not None
    assert (rig.spool.drop([entry.name]), rig.spool.drop([entry.name])) == (1, 0)
    assert rig.spool.drop_before(float("inf")) == 0 and len(rig.names()) == 1
    rig.check()
    getattr(rig.spool, end)(entry)
    assert rig.names() == [] and rig.spool.take() is None
    assert rig.spool.counters.dropped == ({} if end == "remove" else {"spool_dropped": 3})
    rig.check()
    # Nothing is left of it: another file of that name is another file.
    rig.put()
    assert len(rig.drain()) == 1


def test_an_idle_spool_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    rig = Rig(tmp_path / "spool", sync="interval")
    assert threading.active_count() == before and rig.spool.tick() is None and rig.spool.due() is None
    rig.put()
    assert rig.spool.flush(10) and threading.active_count() == before + 1
    rig.spool.close()
    assert threading.active_count() == before


def test_a_folder_that_a_person_must_mend_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "influx"):
        with pytest.raises(OSError):
            Spool("influx", folder, Rig.table(), monotonic=Clocks().monotonic)
