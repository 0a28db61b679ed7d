"""Sources over their rate: shown with their listener, and told of once."""

import logging
import socket

import pytest

from agent._core import Lane, Sources
from agent.config import Listen
from agent.door import Door
from agent.losers import SHOWN_MAX, LoserWatch, losers


class Rig:
    """A lane that is not run, with a socket for each of two listeners."""

    def __init__(self) -> None:
        self.lane = Lane(0)
        self.sockets: list[socket.socket] = []
        self.doors: list[Door] = []
        for number, name in enumerate(("one", "other")):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            sources = Sources(source_rate=1, burst=1.0)
            self.lane.add_socket(number, sock.fileno(), sources=sources)
            self.sockets.append(sock)
            self.doors.append(
                Door(Listen(address="udp://127.0.0.1:1", name=name), number, (), sources=sources)
            )

    def lose(self, number: int, address: str, count: int) -> None:
        """Have *address* lose *count* metrics, or one more if it is new."""
        sock = self.sockets[number]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((address, 0))
            for text in (b"m v=1\n" * 100, b"m v=1\n" * count):
                sender.sendto(text, sock.getsockname())
        self.lane.remove_socket(sock.fileno(), drain=True)
        self.lane.add_socket(number, sock.fileno(), sources=self.doors[number].sources)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    found = [
        (record.__dict__["listener"], record.__dict__["source"], record.__dict__["dropped"])
        for record in caplog.records
        if record.message == "a source sends more than its rate"
    ]
    caplog.clear()
    return found


def test_the_worst_is_told_once_a_minute_and_each_once_in_ten(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watch = LoserWatch()
    watch.look_after(rig.doors, 0.0)
    assert told(caplog) == []
    rig.lose(0, "127.0.0.2", 10)
    rig.lose(1, "127.0.0.3", 30)
    watch.look_after(rig.doors, 1.0)
    assert told(caplog) == [("other", "127.0.0.3", 30)]
    watch.look_after(rig.doors, 60.0)
    assert told(caplog) == []
    watch.look_after(rig.doors, 61.0)
    assert told(caplog) == [("one", "127.0.0.2", 10)]
    rig.lose(1, "127.0.0.3", 40)
    for now in (121.0, 400.0, 600.0):
        watch.look_after(rig.doors, now)
    assert told(caplog) == []
    watch.look_after(rig.doors, 601.0)
    # The first message of the second time was over the rate as well.
    assert told(caplog) == [("other", "127.0.0.3", 140)]
    watch.look_after(rig.doors, 2000.0)
    assert told(caplog) == [], "nothing was lost since"
    rig.close()


def test_the_account_has_those_who_lost_most(rig: Rig) -> None:
    for number in range(SHOWN_MAX + 4):
        rig.lose(0, f"127.0.1.{number}", number + 1)
    found = losers(rig.doors[0])
    assert [(one.source, one.reason, one.dropped) for one in found] == [
        (f"127.0.1.{number}", "rate_limited", number + 1) for number in range(SHOWN_MAX + 3, 3, -1)
    ]
    assert losers(rig.doors[1]) == ()
    assert losers(Door(rig.doors[0].config, 0, ())) == ()
    rig.close()
