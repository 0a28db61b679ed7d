"""What a server refused for good: in a file, with the reasons beside it, within limits, or counted."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from agent.config import RejectedTable
from agent.store import disk, rejected, trouble
from agent.store.rejected import REASONS, Rejected, metrics_of
from tests.unit.spool_folder import DAY_S, START_NS, Clocks, failing

LINES = [(b"m,t=a v=1 1\n", "field type conflict"), (b"m,t=b v=x 2", "invalid boolean")]


class Rig:
    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.clocks = Clocks()
        self.settings = settings
        self.open()

    def open(self) -> Rejected:
        self.rejected = Rejected(
            "influx",
            self.folder,
            RejectedTable(**self.settings),  # type: ignore[arg-type]
            target="http://db:8086",
            wall=self.clocks.wall,
            monotonic=self.clocks.monotonic,
        )
        return self.rejected

    def put(self, lines: list[tuple[bytes, str]] = LINES, text: str = "partial write") -> None:
        self.rejected.put(lines, 400, text, "a batch of 5000", START_NS - 10**9)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def check(self) -> None:
        """What the counters say is there, in pairs."""
        counters = self.rejected.counters
        names = [name for name in self.names() if metrics_of(name) is not None]
        assert [name.removesuffix(".lp") + REASONS for name in names] == [
            name for name in self.names() if name.endswith(REASONS)
        ]
        assert counters.files == len(names)
        assert counters.metrics == sum(metrics_of(name) or 0 for name in names)
        assert counters.bytes == sum(
            -(-os.stat(self.folder / name).st_size // 4096) * 4096 for name in self.names()
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "rejected" / "influx")


def test_lines_and_reasons_stand_side_by_side(rig: Rig) -> None:
    rig.put()
    assert rig.names() == [
        "20260101T000000.000000000Z-00000001-2.json",
        "20260101T000000.000000000Z-00000001-2.lp",
    ]
    assert (rig.folder / rig.names()[1]).read_bytes() == b"m,t=a v=1 1\nm,t=b v=x 2\n"
    assert json.loads((rig.folder / rig.names()[0]).read_text()) == {
        "output": "influx",
        "target": "http://db:8086",
        "batch": "a batch of 5000",
        "time": "20260101T000000.000000000Z",
        "oldest": "20251231T235959.000000000Z",
        "oldest_ns": START_NS - 10**9,
        "metrics": 2,
        "status": 400,
        "text": "partial write",
        "reasons": [
            {"reason": "field type conflict", "lines": [0]},
            {"reason": "invalid boolean", "lines": [1]},
        ],
        "reasons_omitted": 0,
    }
    rig.check()
    assert rig.rejected.counters.metrics == 2


def test_nothing_makes_no_file(rig: Rig) -> None:
    rig.put([])
    assert rig.names() == []


def test_the_same_reason_is_told_once(rig: Rig) -> None:
    rig.put([(b"m v=%d\n" % one, "no" if one % 2 else "never") for one in range(5000)])
    about = json.loads((rig.folder / rig.names()[0]).read_text())
    assert [len(one["lines"]) for one in about["reasons"]] == [2500, 2500]
    assert about["reasons"][1]["lines"][:3] == [1, 3, 5]


def test_the_text_of_reasons_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejected, "REASON_CHARS_MAX", 10)
    rig.put([(b"m v=1\n", "12345"), (b"m v=2\n", "67890"), (b"m v=3\n", "more"), (b"m v=4\n", "12345")])
    about = json.loads((rig.folder / rig.names()[0]).read_text())
    assert about["reasons"] == [{"reason": "12345", "lines": [0, 3]}, {"reason": "67890", "lines": [1]}]
    assert about["reasons_omitted"] == 1
    assert (rig.folder / rig.names()[1]).read_bytes().count(b"\n") == 4


def test_text_that_is_no_unicode_costs_nothing(rig: Rig) -> None:
    rig.put([(b"m v=\xff\n", "bad \ud800 byte")], text="\udcff")
    assert rig.rejected.counters.unsaved == 0
    rig.check()


def test_a_start_finds_what_was_kept(rig: Rig) -> None:
    rig.put()
    rig.put()
    before = rig.rejected.counters
    rig.open()
    assert rig.rejected.counters == before
    rig.put()
    rig.check()
    assert rig.rejected.counters.files == 3


def test_reasons_without_lines_and_half_files_are_removed_at_the_start(rig: Rig) -> None:
    rig.put()
    names = rig.names()
    (rig.folder / names[0].replace("-00000001-", "-00000002-")).write_text("{}")
    (rig.folder / (names[0].replace("-00000001-", "-00000003-") + ".part")).write_text("{}")
    (rig.folder / (names[1].replace("-00000001-", "-00000003-") + ".part")).write_text("")
    (rig.folder / "notes.json").write_text("{}")
    rig.open()
    assert rig.names() == [*names, "notes.json"]


def test_beyond_max_bytes_the_oldest_go(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rejected", max_bytes=5 * 4096)
    for _ in range(3):
        rig.clocks.go_on(1)
        rig.put()
    counters = rig.rejected.counters
    assert (counters.files, counters.removed, counters.unsaved) == (2, 2, 0)
    rig.check()
    assert rig.names()[0].startswith("20260101T000002")


def test_what_does_not_fit_at_all_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rejected", max_bytes=2 * 4096)
    rig.put()
    rig.put([(b"m v=%d\n" % one, "no") for one in range(2000)])
    counters = rig.rejected.counters
    assert (counters.files, counters.removed, counters.unsaved) == (1, 0, 2000)


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rejected", max_age=DAY_S)
    rig.put()
    rig.clocks.go_on(DAY_S / 2)
    rig.put()
    due = rig.rejected.due()
    assert due is not None and due <= rig.clocks.monotonic() + rejected.LOOK_S
    rig.clocks.step(DAY_S)
    rig.clocks.go_on(DAY_S / 2 - rejected.LOOK_S)
    rig.rejected.tick()
    assert rig.rejected.counters.files == 2
    rig.clocks.go_on(2 * rejected.LOOK_S)
    rig.rejected.tick()
    counters = rig.rejected.counters
    assert (counters.files, counters.removed) == (1, 2)
    rig.check()
    rig.clocks.go_on(DAY_S)
    rig.rejected.tick()
    assert rig.names() == [] and rig.rejected.due() is None


def test_a_lower_limit_takes_effect(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rejected")
    for _ in range(3):
        rig.put()
    rig.rejected.reconfigure(RejectedTable(max_bytes=2 * 4096))
    rig.rejected.tick()
    assert rig.rejected.counters.files == 1
    rig.check()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["create", "fsync", "rename", "sync_folder", "make_folder"])
def test_a_disk_that_refuses_costs_the_file_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    rig.put()
    where = os if call in ("fsync", "rename") else disk
    with monkeypatch.context() as patch:
        patch.setattr(where, call, failing(error, getattr(where, call), lambda path: True))
        rig.put()
        # Left alone for a while.
        rig.put()
    counters = rig.rejected.counters
    assert (counters.metrics, counters.unsaved) == (2, 4)
    assert counters.errors == {errno.errorcode[error]: 1} and counters.failing == os.strerror(error)
    assert len(rig.names()) == 2
    rig.clocks.go_on(trouble.PAUSE_MIN_S)
    rig.put()
    assert rig.rejected.counters.metrics == 4 and rig.rejected.counters.failing == ""
    rig.check()


def test_the_second_name_that_fails_takes_back_the_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing(errno.EIO, os.rename, lambda path: path.endswith(".lp.part")))
        rig.put()
    assert rig.names() == [] and rig.rejected.counters.unsaved == 2


def test_a_command_removes_a_pair(rig: Rig) -> None:
    rig.put()
    rig.put()
    name = rig.names()[1]
    assert not rig.rejected.remove(rig.names()[0]) and not rig.rejected.remove("../x")
    assert rig.rejected.remove(name) and not rig.rejected.remove(name)
    rig.check()
    assert rig.rejected.counters.removed == 2


def test_a_bug_is_counted_and_never_raised(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.rejected.put([("no bytes", "x")], 400, "", "", 0)  # type: ignore[list-item]
    assert rig.rejected.counters.unsaved == 1
    assert "could not be kept" in caplog.text
    rig.put()
    rig.check()


def test_a_folder_that_a_person_must_mend_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Rejected("influx", tmp_path / "file", RejectedTable())


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rejected", max_bytes=40 * 4096)
    threads = [threading.Thread(target=lambda: [rig.put() for _ in range(30)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = rig.rejected.counters
    assert counters.metrics + counters.removed + counters.unsaved == 240
    assert counters.bytes <= 40 * 4096 and counters.unsaved == 0
    rig.check()


def test_what_is_no_lines_is_kept_as_it_came(rig: Rig) -> None:
    rig.rejected.keep(b"\x00\x01\n", 7, {"reason": "who knows", "sequence": 5})
    [name] = [name for name in rig.names() if name.endswith(".msg")]
    assert metrics_of(name) == 7 and (rig.folder / name).read_bytes() == b"\x00\x01\n"
    about = json.loads((rig.folder / name.replace(".msg", REASONS)).read_bytes())
    assert (about["reason"], about["sequence"], about["metrics"]) == ("who knows", 5, 7)
    assert rig.rejected.counters.metrics == 7 and rig.rejected.counters.files == 1
    # It is found again, and goes like any other.
    assert rig.open().counters.metrics == 7 and len(rig.names()) == 2
    assert rig.rejected.remove(name) and rig.names() == []


def test_a_message_that_no_disk_takes_is_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "create", failing(errno.EIO, disk.create, lambda path: True))
    rig.rejected.keep(b"x", 3, {})
    assert rig.rejected.counters.unsaved == 3 and rig.rejected.counters.errors
