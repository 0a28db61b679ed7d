"""The folder of the rings: what is adopted, what leaves, what is set aside, and what a kill does then."""

import errno
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import rings
from agent._core import Ring, Waker
from agent.rings import ASIDE_MAX, Form, Rings, let_go

FORM = Form("out", 1 << 20, "lp", 65536, 256)
BOOT_ID, DATA = 32, 4096 + 65536 * 32  # offsets in a ring's file


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


def leave(
    folder: Path, name: str, waker: Waker, *lines: bytes, size: int = 1 << 20, encoding: str = "lp"
) -> Path:
    """A ring with *lines*, each in a run of its own, as a killed process leaves it."""
    path = folder / name
    ring = Ring(str(path), size, waker, encoding=encoding)
    for line in lines:
        assert ring.put(line)
    ring.close(unlink=False)
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def drain(ring: Ring) -> bytes:
    found = b""
    while (batch := ring.take(1 << 30, 1 << 30, True)) is not None:
        with memoryview(batch) as view:
            found += bytes(view)
        batch.release()
    return found


def test_names_are_read_back(tmp_path: Path) -> None:
    for name in (
        "a.0.ring",
        "a.b.12~3.ring",
        "a.tick.ring",
        "a.0.ring.torn",
        "a.0.ring.new",
        "x.ring",
        "~.txt",
    ):
        (tmp_path / name).touch()
    assert [(file.output, file.writer) for file in Rings(tmp_path).files()] == [
        ("a", "lane-0"),
        ("a.b", "lane-12"),
        ("a", "tick"),
    ]


def test_a_ring_that_fits_is_gone_on_with(tmp_path: Path, waker: Waker) -> None:
    path = leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n")
    ring = Rings(tmp_path).open(FORM, "lane-0", waker)
    assert ring.path == str(path) and ring.put(b"b v=2 2\n")
    assert drain(ring) == b"a v=1 1\nb v=2 2\n"
    assert names(tmp_path) == ["out.0.ring"]


@pytest.mark.parametrize(("size", "encoding"), [(1 << 21, "lp"), (1 << 20, "lp_signed"), (1 << 20, "pb")])
def test_a_ring_of_another_form_leaves(tmp_path: Path, waker: Waker, size: int, encoding: str) -> None:
    leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n", size=size, encoding=encoding)
    folder = Rings(tmp_path)
    ring = folder.open(FORM, "lane-0", waker)
    assert ring.path == str(tmp_path / "out.0~1.ring") and ring.stats()["restored"] == 0
    [(writer, former)] = folder.leaving(FORM, waker, {str(ring.path)})
    assert writer == "lane-0" and drain(former) == b"a v=1 1\n"
    assert not let_go(former)
    assert names(tmp_path) == ["out.0~1.ring"]


def test_a_size_that_is_rounded_up_to_pages_fits(tmp_path: Path, waker: Waker) -> None:
    form = Form("out", (1 << 20) - 7, "lp", 65536, 256)
    let_go(Rings(tmp_path).open(form, "lane-0", waker))
    path = leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n", size=form.capacity)
    assert Rings(tmp_path).open(form, "lane-0", waker).path == str(path)


def test_other_rings_of_the_output_leave_and_empty_ones_go(tmp_path: Path, waker: Waker) -> None:
    leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n")
    leave(tmp_path, "out.0~1.ring", waker, b"b v=1 1\n")
    leave(tmp_path, "out.3.ring", waker, b"c v=1 1\n")
    leave(tmp_path, "out.tick.ring", waker, b"d v=1 1\n")
    leave(tmp_path, "out.4.ring", waker)
    leave(tmp_path, "out.5.ring", waker, b"e v=1 1\n")
    leave(tmp_path, "other.0.ring", waker, b"f v=1 1\n")
    folder = Rings(tmp_path)
    ring = folder.open(FORM, "lane-0", waker)
    in_use = {str(ring.path), str(tmp_path / "out.5.ring")}
    found = {writer: drain(former) for writer, former in folder.leaving(FORM, waker, in_use)}
    assert found == {"lane-0": b"b v=1 1\n", "lane-3": b"c v=1 1\n", "tick": b"d v=1 1\n"}
    assert "out.4.ring" not in names(tmp_path)
    assert drain(ring) == b"a v=1 1\n"


def test_a_ring_that_cannot_be_opened_and_is_not_needed_stays(
    tmp_path: Path, waker: Waker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, "out.3.ring", waker, b"a v=1 1\n")
    leave(tmp_path, "out.4.ring", waker, b"b v=1 1\n")
    real = rings.Ring

    class Broken:
        @staticmethod
        def adopt(path: str, waker: Waker, **options: Any) -> Ring:
            if path.endswith(".3.ring"):
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            return real.adopt(path, waker, **options)

    monkeypatch.setattr(rings, "Ring", Broken)
    assert [writer for writer, _ in Rings(tmp_path).leaving(FORM, waker, ())] == ["lane-4"]
    assert names(tmp_path) == ["out.3.ring", "out.4.ring"]
    assert "cannot be opened" in caplog.records[0].message


def test_a_ring_in_use_is_not_adopted_by_its_own_process(tmp_path: Path, waker: Waker) -> None:
    folder = Rings(tmp_path)
    first = folder.open(FORM, "lane-0", waker)
    first.put(b"a v=1 1\n")
    second = folder.open(FORM, "lane-0", waker, {str(first.path)})
    assert second.path == str(tmp_path / "out.0~1.ring")
    assert list(folder.leaving(FORM, waker, {str(first.path), str(second.path)})) == []


def test_rings_of_strangers_stay_and_are_named(
    tmp_path: Path, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave(tmp_path, "gone.0.ring", waker, b"a v=1 1\n")
    Rings(tmp_path).warn_of_strangers({"out"})
    [record] = caplog.records
    assert record.levelno == logging.WARNING and vars(record)["file"] == str(path)
    assert path.exists()


def test_what_cannot_be_trusted_is_set_aside_under_a_name_that_says_so(
    tmp_path: Path, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out.0.ring").write_bytes(b"hello" * 1000)
    patch(leave(tmp_path, "out.1.ring", waker, b"a v=1 1\n"), BOOT_ID, bytes(16))
    patch(leave(tmp_path, "out.2.ring", waker, b"a v=1 1\n"), 128, b"\xff" * 8)
    (tmp_path / "out.3.ring").touch()
    (tmp_path / "out.4.ring").mkdir()
    folder = Rings(tmp_path)
    for lane in range(5):
        assert folder.open(FORM, f"lane-{lane}", waker).stats()["restored"] == 0
    assert names(tmp_path) == [
        "out.0.ring",
        "out.0.ring.foreign",
        "out.1.ring",
        "out.1.ring.older",
        "out.2.ring",
        "out.2.ring.torn",
        "out.3.ring",
        "out.4.ring",
        "out.4.ring.foreign",
    ]
    assert [r.levelname for r in caplog.records if "set aside" in r.message] == ["WARNING"] * 4


def test_a_file_that_belongs_to_somebody_else_is_set_aside(
    tmp_path: Path, waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rings.Ring

    class NotOurs:
        def __new__(cls, *args: Any, **options: Any) -> Any:
            return real(*args, **options)

        @staticmethod
        def adopt(path: str, waker: Waker, **options: Any) -> Ring:
            if Path(path).read_bytes() == b"theirs":
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real.adopt(path, waker, **options)

    (tmp_path / "out.0.ring").write_bytes(b"theirs")
    monkeypatch.setattr(rings, "Ring", NotOurs)
    Rings(tmp_path).open(FORM, "lane-0", waker)
    assert names(tmp_path) == ["out.0.ring", "out.0.ring.foreign"]


def test_what_is_whole_in_a_torn_ring_is_saved_and_the_rest_is_counted(tmp_path: Path, waker: Waker) -> None:
    path = leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n", b"b v=2 2\n", b"c v=3 3\n")
    patch(path, DATA + 8 + 4, b"9")
    damaged = path.read_bytes()
    ring = Rings(tmp_path).open(FORM, "lane-0", waker)
    stats = ring.stats()
    assert (stats["restored"], stats["torn"], stats["waiting"]) == (3, 1, 2)
    assert drain(ring) == b"a v=1 1\nc v=3 3\n"
    assert names(tmp_path) == ["out.0.ring", "out.0.ring.torn"]
    assert (tmp_path / "out.0.ring.torn").read_bytes() == damaged


def test_the_damage_is_counted_once_where_the_ring_does_not_fit_either(tmp_path: Path, waker: Waker) -> None:
    path = leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n", b"b v=2 2\n", size=1 << 21)
    patch(path, DATA + 4, b"9")
    folder = Rings(tmp_path)
    ring = folder.open(FORM, "lane-0", waker)
    [(_, former)] = folder.leaving(FORM, waker, {str(ring.path)})
    assert (former.stats()["restored"], former.stats()["torn"]) == (2, 1)
    assert names(tmp_path) == ["out.0.ring", "out.0.ring.torn", "out.0~1.ring"]


def test_a_kill_while_a_torn_ring_is_saved_loses_nothing(tmp_path: Path, waker: Waker) -> None:
    """Killed before each call that changes the folder, until one process comes through."""
    path = leave(tmp_path, "out.0.ring", waker, b"a v=1 1\n", b"b v=2 2\n", b"c v=3 3\n")
    patch(path, DATA + 8 + 4, b"9")
    kills = 0
    for steps in range(20):
        child = os.fork()
        if not child:
            left = iter(range(steps))

            def killed(real: Any, left: Iterator[int] = left) -> Any:
                def call(*args: Any, **options: Any) -> Any:
                    if next(left, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **options)

                return call

            for module, name in ((rings.os, "link"), (rings.os, "rename"), (rings, "salvage_ring")):
                setattr(module, name, killed(getattr(module, name)))
            Rings(tmp_path).open(FORM, "lane-0", waker)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
    assert kills == 3
    assert drain(Rings(tmp_path).open(FORM, "lane-0", waker)) == b"a v=1 1\nc v=3 3\n"


def test_only_so_many_are_kept_and_the_oldest_go_first(tmp_path: Path, waker: Waker) -> None:
    for number in range(ASIDE_MAX + 3):
        (tmp_path / "out.0.ring").write_bytes(b"%d" % number)
        let_go(Rings(tmp_path).open(FORM, "lane-0", waker))
    kept = {path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == {b"%d" % number for number in range(3, ASIDE_MAX + 3)}


def test_a_full_disk_takes_back_what_was_set_aside(
    tmp_path: Path, waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rings.Ring
    (tmp_path / "out.9.ring.torn").touch()

    class Full:
        adopt = real.adopt

        def __new__(cls, *args: Any, **options: Any) -> Any:
            if any(name.endswith(".torn") for name in names(tmp_path)):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

    monkeypatch.setattr(rings, "Ring", Full)
    Rings(tmp_path).open(FORM, "lane-0", waker)
    assert names(tmp_path) == ["out.0.ring"]


def test_a_ring_with_something_in_it_is_left_to_the_next_process(tmp_path: Path, waker: Waker) -> None:
    folder = Rings(tmp_path)
    ring, empty = folder.open(FORM, "lane-0", waker), folder.open(FORM, "lane-1", waker)
    ring.put(b"a v=1 1\n")
    assert let_go(ring) and not let_go(empty)
    assert names(tmp_path) == ["out.0.ring"]
    assert drain(folder.open(FORM, "lane-0", waker)) == b"a v=1 1\n"
