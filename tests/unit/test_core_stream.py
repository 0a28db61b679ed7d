"""A lane with connections: lines however they come in pieces, frames, limits, push back, ends."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from agent._core import Aggregator, Connections, Lane, Ring, Sources, Waker
from tests.conftest import wait_until

if TYPE_CHECKING:
    from agent._core import ListenerStats


class Running:
    """A lane in its thread with one ring, and a listening socket."""

    def __init__(self, ring_bytes: int = 1 << 20) -> None:
        self.ring = Ring(None, ring_bytes, Waker(), slot_bytes=4096, slot_metrics=64)
        self.lane = Lane(0)
        self.lane.set_layout((), [self.ring])
        self.thread = threading.Thread(target=self.lane.run, daemon=True)
        self.thread.start()
        self.connections = Connections(64)
        self.listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(64)
        self.listening.setblocking(False)
        self.open = ExitStack()

    def listen(self, **settings: object) -> None:
        self.lane.add_socket(0, self.listening.fileno(), connections=self.connections, **settings)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        return self.open.enter_context(socket.create_connection(self.listening.getsockname()))

    @property
    def stats(self) -> "ListenerStats":
        return self.lane.stats()["listeners"][0]

    def received(self, count: int) -> None:
        wait_until(lambda: self.stats["received"] >= count)

    def written(self) -> bytes:
        out = b""
        while (batch := self.ring.take(1 << 20, 100000, True)) is not None:
            out += bytes(memoryview(batch))
            batch.release()
        return out

    def closed(self, reason: str, count: int = 1) -> None:
        wait_until(lambda: self.stats["connections_closed"].get(reason, 0) >= count)

    def stop(self, drain: float = 1.0) -> None:
        if self.thread.is_alive():
            self.lane.stop(drain)
            self.thread.join(20)
            assert not self.thread.is_alive()
        self.open.close()
        self.listening.close()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running()
    yield one
    one.stop()


@pytest.fixture
def cramped() -> Iterator[Running]:
    """With as little room as there can be."""
    one = Running(ring_bytes=65536)
    yield one
    one.stop(0.1)


def test_lines_of_a_connection_are_read(running: Running) -> None:
    running.listen()
    client = running.connect()
    client.sendall(b"a v=1 1\nb v=2 2\nc v")
    running.received(2)
    assert running.written() == b"a v=1 1\nb v=2 2\n"
    client.sendall(b"=3 3\n")
    running.received(3)
    assert running.written() == b"c v=3 3\n"
    assert running.stats["connections"] == 1
    assert running.connections.open == 1
    client.close()
    running.closed("ended")
    assert (running.stats["connections"], running.stats["connections_accepted"]) == (0, 1)
    assert running.connections.open == 0


def test_a_last_line_needs_no_line_feed_if_the_client_ends_the_stream(running: Running) -> None:
    running.listen()
    client = running.connect()
    client.sendall(b"a v=1 1\nb v=2 2")
    client.shutdown(socket.SHUT_WR)
    running.closed("ended")
    assert running.written() == b"a v=1 1\nb v=2 2\n"


def test_a_line_that_was_cut_off_is_not_read(running: Running) -> None:
    running.listen()
    client = running.connect()
    client.sendall(b"a v=1 1\nb v=12")
    running.received(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    running.closed("reset")
    assert running.stats["dropped"] == {"unfinished": 1}
    assert (running.stats["received"], running.stats["accepted"]) == (2, 1)
    assert running.written() == b"a v=1 1\n"


def test_a_line_feed_in_a_string_ends_nothing(running: Running) -> None:
    running.listen()
    client = running.connect()
    text = b'a s="one\ntwo",t="\\"\n" 1\nb v=1 2\n'
    for at in range(len(text)):
        client.sendall(text[at : at + 1])
        time.sleep(0)
    running.received(2)
    assert running.written() == text
    assert running.stats["dropped"] == {}


def test_a_quote_that_is_never_closed_costs_its_own_line(running: Running) -> None:
    running.listen()
    client = running.connect()
    client.sendall(b'a s="open 1\n' + b"b v=1 2\n" * 10)
    client.sendall(b"c v=1 3\n" * 10000)
    running.received(10011)
    assert running.stats["dropped"] == {"string": 1}
    assert running.stats["accepted"] == 10010


def test_a_line_that_is_too_long_is_skipped_to_its_end(running: Running) -> None:
    running.listen(line_bytes_max=1000)
    client = running.connect()
    for length in (1001, 70_000, 300_000):
        client.sendall(b"a v=1 1\n" + b"x" * length + b" v=1 2\nb v=1 3\n")
    running.received(9)
    assert running.stats["dropped"] == {"line_too_long": 3}
    assert running.written() == b"a v=1 1\nb v=1 3\n" * 3


def test_more_connections_than_allowed_are_closed_at_once(running: Running) -> None:
    running.connections.most = 2
    running.listen()
    first, second = running.connect(), running.connect()
    wait_until(lambda: running.stats["connections"] == 2)
    third = running.connect()
    assert third.recv(1) == b""
    assert running.stats["connections_refused"] == 1
    first.close()
    running.closed("ended")
    fourth = running.connect()
    for client in (second, fourth):
        client.sendall(b"a v=1 1\n")
    running.received(2)


def test_a_silent_connection_is_closed(running: Running) -> None:
    running.listen(idle_timeout=0.5)
    client = running.connect()
    running.closed("idle")
    assert client.recv(1) == b""


def test_a_line_that_never_ends_is_closed_however_it_trickles(running: Running) -> None:
    running.listen(idle_timeout=1.0)
    trickle, steady = running.connect(), running.connect()
    deadline = time.monotonic() + 20
    trickle.sendall(b"a ")
    while not running.stats["connections_closed"]:
        assert time.monotonic() < deadline
        steady.sendall(b"b v=1 1\nc")
        steady.sendall(b" v=1 1\nb")
        steady.sendall(b" v=1 1\n")
        try:
            trickle.sendall(b"v")
        except OSError:
            break
        time.sleep(0.05)
    running.closed("slow")
    assert running.stats["connections_closed"] == {"slow": 1}
    assert running.stats["dropped"] == {"unfinished": 1}
    assert running.stats["connections"] == 1


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def test_frames_are_told_from_text(running: Running) -> None:
    aggregator = Aggregator(1)
    running.listen(format="statsd", aggregator=aggregator, framed=True, datagram_bytes_max=1000)
    framed, text, large = running.connect(), running.connect(), running.connect()
    stream = frame(b"a:1|c\nb:1|c") + frame(b"") + frame(b"c:1|c")
    for at in range(len(stream)):
        framed.sendall(stream[at : at + 1])
    text.sendall(b"d:1|c\ne:1|c\nf:1")
    text.shutdown(socket.SHUT_WR)
    running.received(5)
    wait_until(lambda: aggregator.stats()["samples"] == 5)
    assert running.stats["datagrams"] == 3
    large.sendall(frame(b"x" * 1001))
    running.closed("frame_too_large")
    dropped = running.stats["dropped"]
    assert dropped["datagram_too_large"] == 1
    assert sum(dropped.values()) + running.stats["accepted"] == running.stats["received"]


def test_nothing_is_dropped_while_no_ring_has_room(cramped: Running) -> None:
    running = cramped
    running.listen()
    lines = [b"m,t=%06d v=%d %d\n" % (number, number, number) for number in range(1, 60001)]
    client = running.connect()
    sender = threading.Thread(target=client.sendall, args=(b"".join(lines),))
    sender.start()
    out = b""
    wait_until(lambda: running.lane.stats()["paused"])
    paused_at = running.stats["accepted"]
    assert paused_at < 4000
    while out.count(b"\n") < len(lines):
        out += running.written()
    sender.join(20)
    assert out == b"".join(lines)
    stats = running.stats
    assert (stats["received"], stats["accepted"], stats["dropped"]) == (60000, 60000, {})


def test_datagrams_go_on_while_streams_wait(cramped: Running) -> None:
    running = cramped
    running.listen()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        running.lane.add_socket(1, udp.fileno())
        client = running.connect()
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                client.send(b"m,t=1 v=1 1\n" * 1000)
        wait_until(lambda: running.lane.stats()["paused"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"late v=1 1\n" * 100, udp.getsockname())
        wait_until(lambda: running.lane.stats()["listeners"][1]["received"] == 100)
        assert running.stats["dropped"] == {}
        running.lane.remove_socket(udp.fileno())
    running.lane.stop(0.1)
    running.thread.join(20)
    # What was received and found no room to the end is counted.
    stats = running.stats
    assert stats["received"] == stats["accepted"] + sum(stats["dropped"].values())


def test_a_line_that_fits_into_no_ring_is_dropped_and_holds_nobody_up(cramped: Running) -> None:
    running = cramped
    running.listen()
    running.lane.set_layout([(b"t%d" % i, b"x" * 1000) for i in range(10)], [running.ring])
    client = running.connect()
    client.sendall(b"a v=1 1\n" + b'b s="%s" 1\n' % (b"y" * 60000) + b"c v=1 2\n")
    running.received(1)
    out = b""
    while running.stats["received"] < 3:
        out += running.written()
    out += running.written()
    assert [line[:1] for line in out.splitlines()] == [b"a", b"c"]
    assert running.stats["dropped"] == {"ring_full": 1}


def test_what_the_kernel_holds_is_read_before_a_listener_leaves(running: Running) -> None:
    running.listen()
    clients = [running.connect() for _ in range(5)]
    for client in clients:
        client.sendall(b"a v=1 1\n" * 5000 + b"b v=1")
    running.lane.remove_socket(running.listening.fileno(), drain=True)
    assert running.stats["accepted"] == 25000
    assert running.stats["connections_closed"] == {"stopped": 5}
    assert running.stats["dropped"] == {"unfinished": 5}
    assert running.connections.open == 0


def test_stop_reads_what_the_kernel_holds_and_what_waits_to_be_accepted() -> None:
    running = Running()
    running.listen()
    clients = [running.connect() for _ in range(20)]
    for client in clients:
        client.sendall(b"a v=1 1\n" * 100)
        client.close()
    running.lane.stop(2.0)
    running.thread.join(20)
    assert running.stats["accepted"] == 2000
    assert running.stats["connections"] == 0
    running.stop()


def test_connections_follow_their_listener_to_another_number(running: Running) -> None:
    running.listen()
    client = running.connect()
    client.sendall(b"a v=1 1\n")
    running.received(1)
    running.lane.add_socket(7, running.listening.fileno(), connections=running.connections, precision="s")
    client.sendall(b"a v=1 1\n")
    wait_until(
        lambda: (
            7 in running.lane.stats()["listeners"] and running.lane.stats()["listeners"][7]["received"] == 1
        )
    )
    assert running.stats["connections"] == 0
    assert running.lane.stats()["listeners"][7]["connections"] == 1
    assert running.written() == b"a v=1 1\na v=1 1000000000\n"


def test_a_connection_can_be_brought(running: Running) -> None:
    running.listen(accepts=False)
    ours, theirs = socket.socketpair()
    with ours:
        running.lane.add_connection(running.listening.fileno(), theirs.detach())
        ours.sendall(b"a v=1 1\n")
        running.received(1)
    running.closed("ended")
    running.connections.most = 0
    ours, theirs = socket.socketpair()
    with ours, pytest.raises(OSError):
        running.lane.add_connection(running.listening.fileno(), theirs.detach())


def test_a_source_in_debt_is_not_read_and_not_called_silent(running: Running) -> None:
    slow = Sources(source_rate=1000, burst=0.05)
    running.listen(sources=slow, idle_timeout=0.5)
    client, other = running.connect(), running.connect()
    client.sendall(b"a v=1 1\n" * 3000)
    running.received(3000)
    other.sendall(b"b v=1 1\n")
    client.sendall(b"c v=1 1\n")
    started = time.monotonic()
    running.received(3002)
    # Three seconds of its rate, and longer than it may be silent; all have the same address.
    assert time.monotonic() - started > 2.0
    assert running.stats["connections_closed"] == {}
    written = running.written()
    assert written.count(b"a v=1 1\n") == 3000 and b"b v=1 1\n" in written and b"c v=1 1\n" in written


def test_what_is_held_goes_on_when_nobody_asks_any_more_and_ends_with_its_listener(running: Running) -> None:
    owes = Sources(source_rate=1, burst=0.05)
    running.listen(sources=owes)
    client = running.connect()
    client.sendall(b"a v=1 1\n" * 100)
    running.received(100)
    client.sendall(b"b v=1 1\n")
    other = running.connect()
    other.sendall(b"c v=1 1\n")
    wait_until(lambda: running.stats["connections_accepted"] == 2)
    assert running.stats["received"] == 100
    running.listen()
    running.received(102)
    running.listen(sources=owes)
    client.sendall(b"d v=1 1\n")
    other.close()
    wait_until(lambda: owes.wait("127.0.0.1") > 1)
    running.lane.remove_socket(running.listening.fileno(), drain=True)
    assert running.stats["received"] == 103, "what had come is read all the same"
    assert running.stats["connections"] == 0 and running.connections.open == 0


def test_who_is_behind_a_connection_that_is_brought_is_told(running: Running) -> None:
    running.listen(accepts=False, sources=Sources(source_rate=1, burst=0.05))
    ours, theirs = socket.socketpair()
    again, their_own = socket.socketpair()
    with ours, again:
        running.lane.add_connection(running.listening.fileno(), theirs.detach(), "10.0.0.1")
        running.lane.add_connection(running.listening.fileno(), their_own.detach(), "10.0.0.2")
        ours.sendall(b"a v=1 1\n" * 100)
        running.received(100)
        ours.sendall(b"a v=1 1\n")
        again.sendall(b"b v=1 1\n")
        running.received(101)
        assert running.written().endswith(b"b v=1 1\n")
