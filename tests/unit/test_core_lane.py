"""A lane with real sockets: what it receives, counts and lets go."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from agent._core import Graphite, Lane, Ring, Waker
from tests.conftest import missing, wait_until
from tests.reference import wire

if TYPE_CHECKING:
    from agent._core import ListenerStats


class Running:
    """A lane in its thread, one ring, and helpers to look inside."""

    def __init__(self, rings: int = 1) -> None:
        self.waker = Waker()
        self.rings = [Ring(None, 1 << 20, self.waker) for _ in range(rings)]
        self.lane = Lane(0)
        self.lane.set_layout((), self.rings)
        self.thread = threading.Thread(target=self.lane.run, daemon=True)
        self.thread.start()

    def listener(self, number: int = 0) -> ListenerStats:
        return self.lane.stats()["listeners"][number]

    def received(self, count: int, number: int = 0) -> None:
        wait_until(lambda: self.listener(number)["received"] >= count)

    def written(self, ring: int = 0) -> bytes:
        out = b""
        while (batch := self.rings[ring].take(1 << 20, 100000, True)) is not None:
            out += bytes(memoryview(batch))
            batch.release()
        return out

    def stop(self) -> None:
        self.lane.stop(1.0)
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running()
    yield one
    if one.thread.is_alive():
        one.stop()


def udp() -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    return listening


def sender(to: socket.socket) -> socket.socket:
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect(to.getsockname())
    return sending


def test_lines_are_stamped_strictly_increasing(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno())
        before = time.time_ns()
        for _ in range(100):
            sending.send(b"m v=1\nm v=2")
        running.received(200)
        stamps = [int(line.split()[-1]) for line in running.written().splitlines()]
        assert len(stamps) == 200
        assert stamps == sorted(set(stamps))
        assert before <= stamps[0] and stamps[-1] <= time.time_ns()
        running.lane.remove_socket(listening.fileno())


def test_one_bad_line_costs_itself_only(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(3, listening.fileno())
        sending.send(b"a v=1 1\nbad\nb v=1 2\n\n# a comment\nc v=x 3\n")
        running.received(4, 3)
        assert running.written() == b"a v=1 1\nb v=1 2\n"
        stats = running.listener(3)
        assert (stats["datagrams"], stats["received"], stats["accepted"]) == (1, 4, 2)
        assert sum(stats["dropped"].values()) == 2
        listener, reason, text = running.lane.sample() or (0, "", b"")
        assert (listener, reason in stats["dropped"], text.strip()) == (3, True, b"bad")
        assert running.lane.sample() is None
        running.lane.remove_socket(listening.fileno())


def test_datagrams_over_the_limit_are_counted_by_their_lines(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno(), datagram_bytes_max=20)
        sending.send(b"a v=1 1\nb v=1 2\nc v=1 3\n")
        sending.send(b"d v=1 4\n")
        running.received(4)
        assert running.listener()["dropped"] == {"datagram_too_large": 3}
        assert running.written() == b"d v=1 4\n"
        running.lane.remove_socket(listening.fileno())


def test_glued_datagrams_are_told_apart(running: Running) -> None:
    """UDP_SEGMENT on the sender, UDP_GRO here: one message, many datagrams, no newline at their ends."""
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno(), gro=True)
        try:
            sending.setsockopt(17, 103, 7)
        except OSError:
            missing("no UDP_GRO: this kernel cannot segment UDP either")
        sending.send(b"".join(b"m v=%d 1" % i for i in range(10))[: 7 * 10])
        running.received(10)
        stats = running.listener()
        assert stats["datagrams"] == 10 and stats["received"] == 10
        running.lane.remove_socket(listening.fileno())


def test_settings_of_a_socket_change_in_place(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno(), precision="s")
        sending.send(b"a v=1 1")
        running.received(1)
        running.lane.add_socket(0, listening.fileno(), precision="ms")
        sending.send(b"a v=1 1")
        running.received(2)
        assert running.written() == b"a v=1 1000000000\na v=1 1000000\n"
        assert running.listener()["sockets"] == 1
        running.lane.remove_socket(listening.fileno())


def test_a_removed_socket_is_read_empty_first() -> None:
    lane = Running()
    with udp() as listening, sender(listening) as sending:
        lane.lane.add_socket(0, listening.fileno())
        for i in range(200):  # fewer than the smallest usual receive buffer holds
            sending.send(b"a v=%d 1\n" % i)
        lane.lane.remove_socket(listening.fileno(), drain=True)
        assert lane.listener()["received"] == 200
        assert lane.listener()["sockets"] == 0
        sending.send(b"late v=1 1\n")
        lane.stop()
        assert lane.listener()["received"] == 200


def test_stop_reads_what_the_kernel_still_holds() -> None:
    lane = Running()
    with udp() as listening, sender(listening) as sending:
        for i in range(200):
            sending.send(b"a v=%d 1\n" % i)
        lane.lane.add_socket(0, listening.fileno())
        lane.stop()
        assert lane.listener()["received"] == 200


def test_a_full_ring_drops_the_newest_and_counts_it(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno())
        line = b"m f=" + b"1" * 200 + b" 1\n"
        sent = 0
        while sent < 8000:
            sending.send(line)
            sent += 1
            if sent % 100 == 0:
                running.received(sent)
        running.received(sent)
        stats, ring = running.listener(), running.rings[0].stats()
        assert stats["received"] == sent
        assert stats["dropped"] == {"ring_full": sent - stats["accepted"]}
        assert ring["written"] == stats["accepted"] == ring["accepted"]
        assert ring["missed"] == 0
        assert running.written() == line * stats["accepted"]
        running.lane.remove_socket(listening.fileno())


@pytest.mark.slow
def test_bursts_of_one_metric_do_not_use_up_the_slots(running: Running) -> None:
    """A ring has 65,536 slots; without a reader it still takes metrics until its bytes are full."""
    ring = Ring(None, 4 << 20, running.waker)
    running.lane.set_layout((), [ring])
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno())
        count = 80_000
        for sent in range(1, count + 1):
            sending.send(b"m v=1i 1\n")
            if sent % 50 == 0:
                running.received(sent)
        running.received(count)
        assert running.listener()["dropped"] == {}
        wait_until(lambda: ring.stats()["written"] == count, what="the open run was published")
        assert ring.stats()["slots_used"] < 65_536
        taken = 0
        while (batch := ring.take(1 << 20, 5000, True)) is not None:
            assert bytes(memoryview(batch)) == b"m v=1i 1\n" * batch.metrics
            taken += batch.metrics
            batch.release()
        assert taken == count
        running.lane.remove_socket(listening.fileno())


def test_each_ring_gets_every_metric_and_misses_are_its_own() -> None:
    lane = Running(rings=2)
    small = Ring(None, 65536, lane.waker)
    lane.rings.append(small)
    lane.lane.set_layout((), lane.rings)
    with udp() as listening, sender(listening) as sending:
        lane.lane.add_socket(0, listening.fileno())
        for i in range(1, 1001):
            sending.send(b"m f=" + b"1" * 100 + b" 1\n")
            if i % 100 == 0:
                lane.received(i)
        stats = [ring.stats() for ring in lane.rings]
        lane.stop()
        assert [s["written"] for s in stats[:2]] == [1000, 1000]
        assert stats[2]["missed"] > 0
        assert stats[2]["written"] + stats[2]["missed"] == 1000 == stats[2]["accepted"]
        assert lane.listener()["accepted"] == 1000


def test_kernel_drops_are_seen(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        for _ in range(1000):
            sending.send(b"m v=1 1\n")
        running.lane.add_socket(0, listening.fileno(), gro=False)
        wait_until(lambda: running.listener()["queue_bytes"] == 0)
        stats = running.listener()
        assert stats["kernel_drops"] > 0
        wait_until(lambda: running.listener()["datagrams"] + running.listener()["kernel_drops"] == 1000)
        running.lane.remove_socket(listening.fileno())


def test_unix_datagrams(running: Running, tmp_path: object) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        path = f"{tmp_path}/in.sock"
        listening.bind(path)
        running.lane.add_socket(0, listening.fileno())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.connect(path)
            sending.send(b"a v=1 1\n")
            sending.send(b"b v=1 1\n" * 9000)  # larger than a receive buffer of the lane
            running.received(2)
        assert running.written() == b"a v=1 1\n"
        assert running.listener()["dropped"].keys() == {"datagram_too_large"}
        running.lane.remove_socket(listening.fileno())


def test_an_idle_lane_beats(running: Running) -> None:
    before = running.lane.stats()["beats"]
    wait_until(lambda: running.lane.stats()["beats"] > before)


def test_wrong_calls_raise(running: Running) -> None:
    with pytest.raises(ValueError, match="listener 64"):
        running.lane.add_socket(64, 0)
    with pytest.raises(OSError):
        running.lane.add_socket(0, 9999)
    with pytest.raises(OSError):
        running.lane.remove_socket(9999)
    with pytest.raises(ValueError, match="precision"):
        running.lane.add_socket(0, 0, precision="d")
    with pytest.raises(ValueError, match="at most"):
        running.lane.set_layout((), running.rings * 17)
    for bad in [(b"", b"v"), (b"k", b""), (b"time", b"v"), (b"k", b"v\\"), (b"k", b"a\nb")]:
        with pytest.raises(ValueError):
            running.lane.set_layout([bad], running.rings)


def test_graphite_is_read_by_templates_that_may_change(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno(), format="graphite", precision="s")
        sending.send(b"servers.web1.cpu;dc=eu 1.5 1700000000\nbad\r\n\nx 2 -1")
        running.received(3)
        templates = Graphite([((b"servers",), (b"", b"host", b"measurement"), ())])
        running.lane.add_socket(0, listening.fileno(), format="graphite", precision="s", graphite=templates)
        del templates
        sending.send(b"servers.web1.cpu 2.5 1700000001")
        running.received(4)
        first, second, third = running.written().splitlines()
        assert first == b"servers.web1.cpu,dc=eu value=1.5 1700000000000000000"
        assert second.startswith(b"x value=2 1") and len(second) == len(b"x value=2 ") + 19
        assert third == b"cpu,host=web1 value=2.5 1700000001000000000"
        assert running.listener()["dropped"] == {"value": 1}
        assert running.lane.sample() == (0, "value", b"bad\r")
        with pytest.raises(ValueError, match="only a socket of format graphite has templates"):
            running.lane.add_socket(1, listening.fileno(), graphite=Graphite())


def test_each_datagram_is_a_write_request(running: Running) -> None:
    with udp() as listening, sender(listening) as sending:
        running.lane.add_socket(0, listening.fileno(), format="protobuf")
        good = wire.series({b"__name__": b"up", b"job": b"a"}, wire.sample(1.5, 1000), wire.sample(2.5, 2000))
        sending.send(good)
        sending.send(b"\x0a\x7f")
        sending.send(good)
        running.received(5)
        assert (
            running.written().splitlines()
            == [
                b"up,job=a value=1.5 1000000000",
                b"up,job=a value=2.5 2000000000",
            ]
            * 2
        )
        assert running.listener()["dropped"] == {"protobuf": 1}
        assert running.lane.sample() == (0, "protobuf", b"\x0a\x7f")
