"""Taps: what they show, who may have one, and when they end."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent._core import Ring, Tap, Waker
from agent.capture_file import taken_apart
from agent.captures import CaptureSession
from agent.errors import ControlError
from agent.patterns import compile_glob
from agent.pipeline import Pipeline
from agent.sessions import TAPS_MAX, Sessions, TapSession
from tests.conftest import wait_until
from tests.unit.config_folder import Folder

CONFIG = """
[agent]
lanes = 1
admin = ""
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
[flush]
interval = "10ms"
[[listen]]
name = "one"
address = "unixgram://{folder}/one"
[[listen]]
name = "two"
address = "unixgram://{folder}/two"
[[output]]
name = "main"
type = "null"
[[output]]
name = "second"
type = "null"
"""


class Rig:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = Folder(path)
        self.text = CONFIG.replace("{folder}", str(path))
        self.pipeline = Pipeline()
        self.pipeline.apply(self.folder.load(self.text))

    @property
    def sessions(self) -> Sessions:
        return self.pipeline.sessions

    def reload(self, before: str, after: str, last: bool = False) -> None:
        """With the last *before* replaced, or all of them."""
        assert before in self.text
        self.text = after.join(self.text.rsplit(before, 1 if last else -1))
        self.pipeline.apply(self.folder.load(self.text))

    def send(self, listener: str, *lines: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for line in lines:
                sender.sendto(line, str(self.path / listener))

    def wait_received(self, datagrams: int) -> None:
        """Until the lanes have taken so many."""
        wait_until(lambda: sum(one.datagrams for one in self.pipeline.ledger().listeners) == datagrams)

    def shown(self, session: TapSession, passed: int) -> list[bytes]:
        """The measurements that are shown once so many metrics have passed."""
        lines = b""

        def arrived() -> bool:
            nonlocal lines
            frame = session.take()
            lines += frame.lines
            return frame.passed >= passed

        wait_until(arrived)
        return [line.split(b" ")[0] for line in lines.splitlines()]


@contextmanager
def started(path: Path) -> Iterator[Rig]:
    rig = Rig(path)
    try:
        yield rig
    finally:
        rig.pipeline.stop(5.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with started(tmp_path) as one:
        yield one


def test_what_passes_is_shown_and_only_while_somebody_looks(rig: Rig) -> None:
    session = rig.sessions.open_tap()
    rig.send("one", b"cpu,host=a v=1 1", b"mem v=1 1")
    assert rig.shown(session, 2) == [b"cpu,host=a", b"mem"]
    rig.sessions.close_tap(session)
    [route, _] = rig.pipeline.layout.routes
    assert route.flusher.delivery.taps == ()
    rig.sessions.close_tap(session)


def test_only_what_matches_is_shown(rig: Rig) -> None:
    name = rig.sessions.open_tap(match="c*")
    head = rig.sessions.open_tap(match="*,host=b")
    rig.send("one", b"cpu,host=a v=1 1", b"cpu,host=b v=1 1", b"mem,host=b v=1 1")
    assert rig.shown(name, 3) == [b"cpu,host=a", b"cpu,host=b"]
    assert rig.shown(head, 3) == [b"cpu,host=b", b"mem,host=b"]


@pytest.mark.parametrize("wanted", ["two", "2", "unixgram://{folder}/two"])
def test_only_one_listener_is_shown(rig: Rig, wanted: str) -> None:
    session = rig.sessions.open_tap(listeners=[wanted.replace("{folder}", str(rig.path))])
    rig.send("one", b"a v=1 1")
    rig.send("two", b"b v=1 1")
    assert rig.shown(session, 1) == [b"b"]


def test_an_output_is_chosen_by_its_name(rig: Rig) -> None:
    rig.reload('type = "null"\n', 'type = "null"\n[output.filter]\nmeasurement = ["b"]\n', last=True)
    first, second = rig.sessions.open_tap(), rig.sessions.open_tap(output="second")
    rig.send("one", b"a v=1 1", b"b v=1 1")
    assert rig.shown(first, 2) == [b"a", b"b"]
    assert rig.shown(second, 1) == [b"b"]


def test_what_cannot_be_shown_is_refused(rig: Rig) -> None:
    for options, problem in (
        ({"output": "third"}, "no output is named 'third'; there are main, second"),
        ({"listeners": ["three"]}, "no listener is named 'three'; there are one, two"),
        ({"listeners": ["3"]}, "no listener"),
        ({"listeners": ["0"]}, "no listener"),
        ({"match": "[a"}, "match"),
        ({"rate": 0}, "rate"),
        ({"rate": 100_001}, "rate"),
    ):
        with pytest.raises(ControlError, match=problem):
            rig.sessions.open_tap(**options)  # type: ignore[arg-type]
    sessions = [rig.sessions.open_tap() for _ in range(TAPS_MAX)]
    with pytest.raises(ControlError, match="cannot be more"):
        rig.sessions.open_tap()
    rig.sessions.close_tap(sessions[0])
    rig.sessions.open_tap()


def test_a_reload_ends_what_has_lost_its_subject_and_nothing_else(rig: Rig) -> None:
    kept = rig.sessions.open_tap(listeners=["one"])
    second = rig.sessions.open_tap(output="second")
    two = rig.sessions.open_tap(listeners=["two"])
    rig.reload('"10ms"', '"20ms"')
    assert (kept.ended, second.ended, two.ended) == ("", "", "")
    rig.reload('name = "second"', 'name = "third"')
    assert (kept.ended, second.ended, two.ended) == ("", "reload", "")
    rig.reload('name = "two"', 'name = "zwei"')
    assert (kept.ended, two.ended) == ("", "reload")
    rig.send("one", b"a v=1 1")
    assert rig.shown(kept, 1) == [b"a"]


def test_a_stop_ends_all(tmp_path: Path) -> None:
    with started(tmp_path) as rig:
        session = rig.sessions.open_tap()
    assert session.ended == "stopped"
    with pytest.raises(ControlError, match="there are none"):
        rig.sessions.open_tap()


# ---- captures ----


def captured(session: CaptureSession, count: int) -> list[bytes]:
    """The datagrams that come, until there are so many."""
    found: list[bytes] = []

    def there() -> bool:
        while (block := session.take()) is not None:
            found.extend(one.text for one in taken_apart(block, len(session.header.listeners)))
        return len(found) >= count and not session.waiting

    wait_until(there)
    return found


def test_datagrams_are_kept_while_somebody_captures_and_no_longer(rig: Rig) -> None:
    rig.send("one", b"before")
    rig.wait_received(1)
    session = rig.sessions.open_capture()
    assert [one["name"] for one in session.header.listeners] == ["one", "two"]
    rig.send("one", b"a v=1", b"nonsense")
    rig.send("two", b"b v=1")
    assert sorted(captured(session, 3)) == [b"a v=1", b"b v=1", b"nonsense"]
    with pytest.raises(ControlError, match="one at a time"):
        rig.sessions.open_capture()
    rig.sessions.close_capture(session)
    rig.send("one", b"after")
    rig.wait_received(5)
    assert session.waiting == 0
    rig.sessions.close_capture(session)
    other = rig.sessions.open_capture(listeners=["two"])
    rig.send("one", b"c v=1")
    rig.send("two", b"d v=1")
    assert captured(other, 1) == [b"d v=1"]


def test_a_capture_goes_on_over_a_reload_and_ends_with_a_stop(tmp_path: Path) -> None:
    with started(tmp_path) as rig:
        session = rig.sessions.open_capture()
        rig.reload('name = "two"', 'name = "zwei"')
        rig.send("one", b"a v=1")
        assert captured(session, 1) == [b"a v=1"]
        rig.reload("lanes = 1", 'lanes = 1\ncapture_ring = "4MiB"')
        rig.send("one", b"b v=1")
        assert captured(session, 1) == [b"b v=1"]
        rig.sessions.close_capture(session)
        rig.send("one", b"c v=1")
        rig.wait_received(3)
        last = rig.sessions.open_capture(last=60.0)
        assert captured(last, 1) == [b"c v=1"]
        wait_until(lambda: last.take() is None and last.ended)
        assert last.ended == "time"
        rig.sessions.close_capture(last)
        running = rig.sessions.open_capture()
    assert running.ended == "stopped" and running.take() is None


def test_what_was_missed_is_counted_and_told(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    session = rig.sessions.open_capture()
    large = bytes(60_000)
    for _ in range(400):  # 24 MB, where there is room for 16
        rig.send("one", large)
    rig.wait_received(400)
    found = captured(session, 200)
    assert len(found) + session.missed == 400 and rig.sessions.capture_missed == session.missed > 0
    rig.sessions.close_capture(session)
    assert rig.sessions.capture_missed == 400 - len(found)
    assert "a capture could not keep up" in caplog.text


# ---- a tap by itself ----


def ring_of(count: int) -> Ring:
    ring = Ring(None, 1 << 20, Waker())
    assert ring.put(b"cpu,host=a v=1 1\n" * count, count)
    return ring


def test_numbers_of_a_tap_add_up() -> None:
    ring = ring_of(1000)
    batch = ring.take(1 << 20, 1 << 20, True)
    assert batch is not None
    tap = Tap(rate=10)
    tap.offer(batch)
    lines, *numbers = tap.take()
    assert lines == b"cpu,host=a v=1 1\n" * 10
    assert numbers == [1000, 1000, 10, 0]
    nothing = Tap(share=0.0)
    nothing.offer(batch)
    assert nothing.take() == (b"", 1000, 0, 0, 1000)
    batch.release()
    with pytest.raises(ValueError, match="released"):
        tap.offer(batch)


def test_a_run_of_nobody_in_particular_is_not_shown_as_somebodys() -> None:
    batch = ring_of(3).take(1 << 20, 1 << 20, True)
    assert batch is not None
    tap = Tap(compile_glob("cpu"), listeners=[0])
    tap.offer(batch)
    assert tap.take() == (b"", 3, 0, 0, 3)


@pytest.mark.parametrize("options", [{"rate": 0}, {"share": 2.0}, {"listeners": [64]}, {"listeners": [-1]}])
def test_a_tap_has_limits(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))[:4]):
        Tap(**options)  # type: ignore[arg-type]


def test_what_taps_did_not_look_at_stays_counted_when_they_are_gone(rig: Rig) -> None:
    session = rig.sessions.open_tap()
    assert (rig.sessions.taps, rig.sessions.skipped) == (1, 0)
    session.limit(0.0)
    rig.send("one", b"cpu v=1 1", b"mem v=1 1")
    rig.shown(session, 2)
    assert rig.sessions.skipped == 2
    rig.sessions.close_tap(session)
    assert (rig.sessions.taps, rig.sessions.skipped) == (0, 2)
