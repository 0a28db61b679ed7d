"""What a process had in hand: left in a file, found, looked at, and read by whom it was for."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent import bursts
from agent._core import Aggregator, Burst, Feed, Lane, LeftBurst, Receiver, Ring, Waker
from agent.bursts import Bursts
from agent.config import Listen
from agent.door import Door, Placed
from agent.inputs.base import Source
from agent.inputs.object_formats import ObjectInput
from agent.listeners import BoundSocket
from agent.rings import ASIDE_MAX

LISTENER_AT = 128
"""Where the header says whose the burst is; before it stands what never changes."""


@pytest.fixture
def waker() -> Iterator[Waker]:
    with closing(Waker()) as one:
        yield one


def udp(stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def leave(path: Path, *datagrams: bytes, name: str = "door", address: str = "udp://127.0.0.1:1") -> Path:
    """Make a file as a process leaves it that was killed with *datagrams* in hand."""
    with ExitStack() as stack:
        ours, theirs = udp(stack), udp(stack)
        burst = Burst(str(path.with_suffix(".made")))
        burst.name(0, name, address)
        receiver = Receiver(ours.fileno(), burst)
        for one in datagrams:
            theirs.sendto(one, ours.getsockname())
        if datagrams:
            good, large = receiver.receive(5.0)
            assert len(good) + len(large) == len(datagrams)
        shutil.copy(path.with_suffix(".made"), path)
        receiver.done()
        burst.remove()
    return path


class Running:
    """A lane that does not run yet, with a listener "door", and what it writes."""

    def __init__(self, stack: ExitStack, waker: Waker, format: str = "line", number: int = 0) -> None:
        self.ring = Ring(None, 1 << 20, waker)
        self.lane = Lane(0)
        self.lane.set_layout((), [self.ring])
        self.number = number
        self.sock = udp(stack)
        config = Listen(name="door", address="udp://127.0.0.1:1", format=format)
        aggregator = Aggregator(1) if format == "statsd" else None
        self.door = Door(config, number, (Placed(0, BoundSocket(self.sock)),), aggregator)
        self.door.read_socket(self.lane, BoundSocket(self.sock))

    def written(self) -> list[bytes]:
        lines = []
        while (batch := self.ring.take(1 << 20, 1000, True)) is not None:
            lines += bytes(memoryview(batch)).splitlines()
            batch.release()
        return lines

    def stats(self) -> dict[str, object]:
        return dict(self.lane.stats()["listeners"][self.number])


def nobody(name: str, address: str) -> int | None:
    return None


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# ---- the file ----


def test_what_was_received_is_in_hand_until_it_is_done(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ours, theirs = udp(stack), udp(stack)
        burst = Burst(str(tmp_path / "a.burst"))
        burst.name(0, "näme", "udp://there:1")
        receiver = Receiver(ours.fileno(), burst)
        assert LeftBurst(str(tmp_path / "a.burst")).messages == 0
        theirs.sendto(b"one", ours.getsockname())
        theirs.sendto(b"two", ours.getsockname())
        assert receiver.receive(5.0) == ([b"one", b"two"], [])
        left = LeftBurst(str(tmp_path / "a.burst"))
        assert (left.state, left.readable, left.known) == ("whole", True, True)
        assert (left.messages, left.datagrams, left.name, left.address) == (2, 2, "näme", "udp://there:1")
        assert left.parts() == ([b"one", b"two"], []) and left.parts(2) == ([], [b"one", b"two"])
        receiver.done()
        after = LeftBurst(str(tmp_path / "a.burst"))
        assert (after.messages, after.name, after.readable) == (0, "", True)
        # Whoever receives again has published what he had.
        theirs.sendto(b"three", ours.getsockname())
        receiver.receive(5.0)
        assert receiver.receive(0.0) == ([], [])
        assert LeftBurst(str(tmp_path / "a.burst")).messages == 0
        burst.remove()
        assert names(tmp_path) == []


def test_names_are_compared_as_far_as_they_are_kept(tmp_path: Path) -> None:
    name = "ä" * 256
    left = LeftBurst(str(leave(tmp_path / "a.burst", b"m", name=name, address="unixgram:///a")))
    assert left.name == "ä" * 127
    assert left.named(name, "unixgram:///b") == (True, False)
    assert left.named("ä" * 126, "unixgram:///a") == (False, True)


def test_who_reads_it_again_gives_the_same_stamps(tmp_path: Path, waker: Waker) -> None:
    path = leave(tmp_path / "a.burst", b"m v=1\nm v=2", b"m v=3")
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            running = Running(stack, waker)
            running.lane.replay(running.sock.fileno(), LeftBurst(str(path)))
            found.append(running.written())
        assert found[0] == found[1] and len({line.split()[-1] for line in found[0]}) == 3


def test_a_burst_without_a_note_is_stamped_once_and_for_all(tmp_path: Path, waker: Waker) -> None:
    path = leave(tmp_path / "a.burst", b"m v=1")
    with path.open("r+b") as file:
        file.seek(LISTENER_AT + 8)
        file.write(bytes(24))
    with ExitStack() as stack:
        found = []
        for _ in range(2):
            running = Running(stack, waker)
            running.lane.replay(running.sock.fileno(), LeftBurst(str(path)))
            found += running.written()
        assert found[0] == found[1]


def test_decoded_points_have_the_stamps_of_their_burst(tmp_path: Path, waker: Waker) -> None:
    """Whatever else the feed was given meanwhile."""
    path = leave(tmp_path / "a.burst", b'{"name":"m","fields":{"v":1}}' * 2)
    found = []
    for other in range(2):
        feed, ring = Feed(), Ring(None, 1 << 20, waker)
        feed.set_layout((), [ring])
        if other:
            feed.write(0, [("x", {}, {"v": 1.0}, 4_000_000_000_000_000_000), ("x", {}, {"v": 1.0}, None)])
        one = ObjectInput(Listen(address="udp://127.0.0.1:1", format="json"), Source(feed, 1), [])
        assert one.replay(LeftBurst(str(path)))
        feed.write(0, [("y", {}, {"v": 1.0}, None)])
        batch = ring.take(1 << 20, 1000, True)
        assert batch is not None
        found.append([line for line in bytes(memoryview(batch)).splitlines() if line.startswith(b"m ")])
        batch.release()
    assert found[0] == found[1] and len(set(found[0])) == 2


def test_a_file_is_not_read_again_and_again(tmp_path: Path) -> None:
    path = leave(tmp_path / "a.burst", b"m v=1")
    for _ in range(8):
        assert LeftBurst(str(path)).readable
    left = LeftBurst(str(path))
    assert (left.state, left.readable, left.messages) == ("fatal", False, 1)
    with pytest.raises(ValueError):
        left.parts()
    with pytest.raises(ValueError):
        Lane(0).replay(0, left)


# ---- the folder ----


def test_a_burst_gets_a_name_of_its_own(tmp_path: Path) -> None:
    leave(tmp_path / "lane-0.burst")
    folder = Bursts(tmp_path)
    one = folder.open("lane-0")
    assert one.path == str(tmp_path / "lane-0~1.burst")
    folder.read_left([], [], nobody)
    assert names(tmp_path) == ["lane-0~1.burst"]
    one.remove()
    one.remove()


def test_without_room_the_memory_must_do(
    tmp_path: Path, waker: Waker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: str | None = None) -> Burst:
        if path is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return Burst()

    monkeypatch.setattr(bursts, "Burst", full)
    burst = Bursts(tmp_path).open("lane-0")
    [warning] = caplog.records
    assert burst.path is None and warning.levelname == "WARNING" and "a kill now would lose it" in warning.msg
    assert Lane(0, burst).index == 0 and names(tmp_path) == []


def test_lanes_that_are_gone_are_read_too(tmp_path: Path, waker: Waker) -> None:
    for at in range(3):
        leave(tmp_path / f"lane-{at}.burst", b"m v=%d 1" % at)
    leave(tmp_path / "json-5-1~2.burst", b"m v=3 1")
    leave(tmp_path / "lane-9.burst")
    (tmp_path / "lane.burst").touch()
    with ExitStack() as stack:
        running = Running(stack, waker, number=4)
        Bursts(tmp_path).read_left([running.door], [running.lane], nobody)
        assert sorted(running.written()) == [b"m v=%d 1" % at for at in range(4)]
        stats = running.stats()
        assert (stats["datagrams"], stats["received"], stats["accepted"]) == (4, 4, 4)
    assert names(tmp_path) == ["lane.burst"]


@pytest.mark.parametrize(
    ("name", "address", "read"),
    [
        ("door", "udp://127.0.0.1:2", True),
        ("other", "udp://127.0.0.1:1", True),
        ("other", "udp://127.0.0.1:2", False),
    ],
)
def test_the_name_counts_and_then_the_address(
    tmp_path: Path, waker: Waker, caplog: pytest.LogCaptureFixture, name: str, address: str, read: bool
) -> None:
    leave(tmp_path / "lane-0.burst", b"m v=1 1\nm v=2 2", b"m v=3 3", name=name, address=address)
    with ExitStack() as stack:
        running = Running(stack, waker)
        asked = []

        def number_of(name: str, address: str) -> int:
            asked.append((name, address))
            return 7

        Bursts(tmp_path).read_left([running.door], [running.lane], number_of)
        assert len(running.written()) == (3 if read else 0)
        assert asked == ([] if read else [(name, address)])
        if not read:
            gone = running.lane.stats()["listeners"][7]
            assert (gone["received"], gone["dropped"]) == (3, {"listener_gone": 3})
            assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert names(tmp_path) == []


def test_samples_are_counted_once(tmp_path: Path, waker: Waker) -> None:
    leave(tmp_path / "lane-0.burst", b"hits:1|c\nhits:2|c", b"hits:4|c")
    with ExitStack() as stack:
        running = Running(stack, waker, "statsd")
        Bursts(tmp_path).read_left([running.door], [running.lane], nobody)
        assert running.door.aggregator is not None
        running.door.aggregator.tick([running.lane], [running.ring], 1_000_000_000)
        assert running.written() == [b"hits,metric_type=counter value=7 1000000000"]
        assert running.stats()["aggregated"] == 3


def test_what_cannot_be_trusted_is_set_aside_and_counted(
    tmp_path: Path, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    torn = leave(tmp_path / "lane-0.burst", b"m v=1", b"m v=2")
    os.truncate(torn, torn.stat().st_size - 1)
    lost = leave(tmp_path / "lane-1.burst", b"m v=1")
    with lost.open("r+b") as file:
        file.seek(LISTENER_AT)
        file.write(struct.pack("I", 64))  # a number that no listener has
    (tmp_path / "lane-2.burst").write_bytes(os.urandom(100_000))
    (tmp_path / "lane-3.burst").symlink_to(torn)
    (tmp_path / "lane-4.burst").write_bytes(b"")
    (tmp_path / "lane-5.burst").mkdir()
    with ExitStack() as stack:
        running = Running(stack, waker)
        Bursts(tmp_path).read_left([running.door], [running.lane], lambda name, address: 7)
        assert running.written() == []
        assert running.lane.stats()["listeners"][7]["dropped"] == {"burst_torn": 2}
    assert names(tmp_path) == [
        "lane-0.burst.foreign",
        "lane-1.burst.torn",
        "lane-2.burst.foreign",
        "lane-3.burst.foreign",
        "lane-5.burst.foreign",
    ]
    warned = {Path(vars(record)["file"]).name: vars(record)["datagrams"] for record in caplog.records}
    assert warned == {
        "lane-0.burst": 2,
        "lane-1.burst": 1,
        "lane-2.burst": "unknown",
        "lane-3.burst": "unknown",
        "lane-5.burst": "unknown",
    }


def test_no_more_than_some_are_kept_aside(tmp_path: Path) -> None:
    for at in range(ASIDE_MAX + 3):
        (tmp_path / f"lane-{at}.burst").write_bytes(os.urandom(1000))
    Bursts(tmp_path).read_left([], [Lane(0)], nobody)
    assert len(names(tmp_path)) == ASIDE_MAX


def test_what_cannot_be_read_now_stays_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path / "lane-0.burst", b"m v=1")

    def refuse(path: str) -> LeftBurst:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(bursts, "LeftBurst", refuse)
    Bursts(tmp_path).read_left([], [Lane(0)], nobody)
    assert names(tmp_path) == ["lane-0.burst"]
    [warning] = caplog.records
    assert warning.levelname == "WARNING" and "it stays" in warning.msg
