"""What commands do with spools and rejected metrics: seen, checked, brought back, dropped."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import keeping
from agent.config import RejectedTable
from agent.errors import StoreError
from agent.keeping import (
    REJECTED,
    SPOOL,
    Keeper,
    body_of,
    oldest_in,
    outputs_in,
    pieces_of,
    totals_of,
    wrong_with,
)
from agent.outputs.base import plain
from agent.store.rejected import Rejected
from tests.unit.spool_folder import START_NS, Clocks, Rig, end_all, lines, payload


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / SPOOL / "influx")


@pytest.fixture
def kept(tmp_path: Path) -> Rejected:
    clocks = Clocks()
    return Rejected(
        "influx",
        tmp_path / REJECTED / "influx",
        RejectedTable(),
        wall=clocks.wall,
        monotonic=clocks.monotonic,
    )


def refuse(kept: Rejected, *texts: str) -> str:
    """Keep these lines; the name of their file."""
    before = set(os.listdir(kept.folder))
    kept.put([(text.encode(), "no") for text in texts], 400, "no", "a batch", START_NS - 5)
    (name,) = (one for one in set(os.listdir(kept.folder)) - before if one.endswith(".lp"))
    return name


# ---- looking ----


def test_a_folder_is_listed_and_added_up(rig: Rig, tmp_path: Path) -> None:
    for at in range(5):
        rig.put(metrics=at + 1, at=at)
    (rig.folder / "foreign").write_text("x")
    (rig.folder / rig.names()[4]).write_bytes(b"")
    rig.take_all()
    (rig.folder / "corrupt").mkdir()
    os.rename(rig.folder / rig.names()[4], rig.folder / "corrupt" / rig.names()[4])
    totals = totals_of(rig.folder, SPOOL)
    assert (totals.files, totals.metrics, totals.corrupt) == (4, 10, 1)
    assert (totals.oldest_ns, totals.newest_ns) == (START_NS, START_NS + 3 * 10**9)
    assert totals.bytes == sum(os.stat(rig.folder / name).st_size for name in rig.names())
    assert [one.name for one in oldest_in(rig.folder, SPOOL, 2)] == rig.names()[:2]
    assert outputs_in(tmp_path, SPOOL) == ["influx"] and outputs_in(tmp_path / "none", SPOOL) == []
    assert totals_of(tmp_path / "none", SPOOL).files == 0


@pytest.mark.parametrize("gz", [False, True])
def test_verify_finds_what_a_name_does_not_say(rig: Rig, gz: bool) -> None:
    rig.put(metrics=4, gz=gz)
    (name,) = rig.names()
    (found,) = oldest_in(rig.folder, SPOOL, 9)
    assert wrong_with(rig.folder, found) == ""
    other = name.replace("-4-ns-", "-5-ns-")
    os.rename(rig.folder / name, rig.folder / other)
    (found,) = oldest_in(rig.folder, SPOOL, 9)
    assert wrong_with(rig.folder, found) == "holds 4 lines, and its name says 5"
    (rig.folder / other).write_bytes(b"x")
    assert wrong_with(rig.folder, found) == "the checksum does not fit"
    (rig.folder / other).unlink()
    assert wrong_with(rig.folder, found) == ""


def test_the_lines_of_a_file_are_shown_whatever_it_is_called(rig: Rig, tmp_path: Path) -> None:
    rig.put(metrics=4, gz=True)
    assert body_of(rig.folder / rig.names()[0]) == lines(4)
    (tmp_path / "any.gz").write_bytes(gzip.compress(lines(2)))
    assert body_of(tmp_path / "any.gz") == lines(2)
    with pytest.raises(StoreError, match="No such file"):
        body_of(tmp_path / "missing")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(StoreError, match="damaged gzip"):
        body_of(tmp_path / "bad.gz")


# ---- what a person brings ----


def brought(path: Path) -> bytes:
    bodies = []
    for one, _ in pieces_of(path):
        assert one.metrics == bytes(plain(one)).count(b"\n") == len(one.data.splitlines())
        bodies.append(bytes(one.data))
    return b"".join(bodies)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("size", [1, 7, 40, 1 << 20])
def test_a_file_is_cut_between_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, gz: bool
) -> None:
    monkeypatch.setattr(keeping, "PIECE_BYTES", size)
    path = tmp_path / ("lines.lp.gz" if gz else "lines.lp")
    path.write_bytes(gzip.compress(lines(20)) if gz else lines(20))
    assert brought(path) == lines(20)


def test_a_newline_in_a_string_ends_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PIECE_BYTES", 5)
    path = tmp_path / "lines.lp"
    path.write_bytes(b'm s="a\nb",t="\n#" 1\nm v=2 2\n')
    assert [(one.metrics, one.data) for one, _ in pieces_of(path)] == [
        (1, b'm s="a\nb",t="\n#" 1\n'),
        (1, b"m v=2 2\n"),
    ]


def test_blank_lines_and_comments_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.lp"
    path.write_bytes(b"# why\nm v=1 1\r\n\n  \n#\nm v=2 2")
    assert brought(path) == b"m v=1 1\nm v=2 2\n"
    path.write_bytes(b"# nothing\n\n")
    assert brought(path) == b""
    path.write_bytes(b"")
    assert brought(path) == b""


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PIECE_BYTES", 10)
    monkeypatch.setattr(keeping, "LINE_BYTES_MAX", 100)
    path = tmp_path / "lines.lp"
    path.write_bytes(b"m v=1 1\n" + b"x" * 200)
    with pytest.raises(StoreError, match="a line of more than 100 bytes"):
        brought(path)


def test_a_file_of_a_spool_is_one_body_and_checked(rig: Rig, tmp_path: Path) -> None:
    rig.put(metrics=4, at=7, gz=True)
    path = rig.folder / rig.names()[0]
    assert list(pieces_of(path)) == [(payload(4, gz=True), START_NS + 7 * 10**9)]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="checksum"):
        list(pieces_of(path))
    truncated = tmp_path / "cut.lp.gz"
    truncated.write_bytes(gzip.compress(lines(1000))[:-20])
    with pytest.raises(StoreError, match=r"cut\.lp\.gz"):
        brought(truncated)


# ---- bringing back ----


def test_rejected_lines_go_back_into_the_spool(rig: Rig, kept: Rejected) -> None:
    name = refuse(kept, "m v=1 1", "m v=2 2")
    keeper = Keeper("influx", rig.spool, kept)
    assert keeper.retry(name) == 2
    assert os.listdir(kept.folder) == [] and kept.counters.removed == 2
    counters = rig.spool.counters
    assert (counters.restored, counters.stored, counters.oldest_ns) == (2, 0, START_NS - 5)
    assert rig.drain() == [b"m v=1 1\nm v=2 2\n"]
    rig.check()
    with pytest.raises(StoreError, match="there is no"):
        keeper.retry(name)


def test_what_a_person_has_changed_in_the_file_counts(rig: Rig, kept: Rejected) -> None:
    name = refuse(kept, "m v=1 1", "m v=2 2")
    (kept.folder / name).write_bytes(b"# mended\nm v=3 3")
    (kept.folder / name.replace(".lp", ".json")).write_text("no JSON")
    assert Keeper("influx", rig.spool, kept).retry(name) == 1
    assert rig.drain() == [b"m v=3 3\n"]
    rig.check()


def test_a_spool_that_takes_nothing_leaves_the_file(tmp_path: Path, kept: Rejected) -> None:
    rig = Rig(tmp_path / SPOOL, max_bytes=10)
    name = refuse(kept, "m v=1 1")
    with pytest.raises(StoreError, match="max_bytes"):
        Keeper("influx", rig.spool, kept).retry(name)
    assert kept.counters.files == 1 and kept.hold(name)


def test_without_a_spool_the_output_gets_them(kept: Rejected) -> None:
    name = refuse(kept, "m v=1 1")
    got: list[tuple[bytes, int, int]] = []
    decided: list[Callable[[], None]] = []

    def inject(body: bytes, metrics: int, oldest_ns: int, done: Callable[[], None]) -> bool:
        got.append((body, metrics, oldest_ns))
        decided.append(done)
        return len(got) > 1

    keeper = Keeper("influx", None, kept, inject)
    with pytest.raises(StoreError, match="try again later"):
        keeper.retry(name)
    assert keeper.retry(name) == 1
    assert got[1] == (b"m v=1 1\n", 1, START_NS - 5)
    # It is on its way, and stays until that has come to an end.
    with pytest.raises(StoreError, match="on its way already"):
        keeper.retry(name)
    assert kept.counters.files == 1
    decided[1]()
    assert kept.counters.files == 0 and os.listdir(kept.folder) == []
    name = refuse(kept, "m v=1 1")
    with pytest.raises(StoreError, match="an agent must be running"):
        Keeper("influx", None, kept).retry(name)
    assert kept.hold(name)


def test_files_are_dropped_by_name_and_by_age(rig: Rig, kept: Rejected) -> None:
    for at in range(4):
        rig.put(at=at)
    first, second = refuse(kept, "m v=1 1"), refuse(kept, "m v=2 2")
    keeper = Keeper("influx", rig.spool, kept)
    assert keeper.drop(SPOOL, [rig.names()[3]]) == 1
    assert keeper.drop(SPOOL, [], START_NS + 1.5e9) == 2
    assert keeper.drop(REJECTED, [first, first]) == 1
    assert keeper.drop(REJECTED, [], float("inf")) == 1
    assert len(rig.names()) == 1 and os.listdir(kept.folder) == [], second
    rig.check()
    for nothing in (Keeper("x", None, None),):
        for kind in (SPOOL, REJECTED):
            with pytest.raises(StoreError):
                nothing.drop(kind)
