"""Ten million samples of known content through four lanes: every count, quantile and set against numpy.

The samples are lines of one length, made and summed up by numpy in phases. Four lanes in their threads share
a UDP port; a window keeps the kernel from dropping anything. Between the phases a tick empties the tables,
and all that it sent is compared. During one phase ticks run while samples come in: nobody knows which tick a
sample falls into then, so what is compared is the sum of all ticks. Settings change in the middle of a phase,
and series go silent, are forgotten, and come back.
"""

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from agent._core import Aggregator, Lane, Ring, Waker
from tests.conftest import missing, wait_until

try:
    import numpy as np
except ImportError:
    pytest.skip("needs numpy, which is not installed", allow_module_level=True)

LANES = 4
PHASES = 5
TICKED_PARTS = 8
"""The phase that ticks run into is sent in so many parts."""
PHASE_SAMPLES = 2_000_000
LINE_BYTES = 24
PACK_LINES = 59  # 1,416 bytes
RUN_DATAGRAMS = 45  # of one UDP_SEGMENT send
FLOWS = 64  # so many that the kernel's choice leaves no lane out
UDP_SEGMENT = 103
SECOND = 10**9

SET_ERROR = 0.0081
SET_SIGMAS = 4
SET_EXACT_MAX = 1024

EXPIRE = {
    "counter": 10.0,  # one tick
    "gauge": 3600.0,
    "set": 300.0,
    "timing": 300.0,
    "histogram": 300.0,
    "distribution": 300.0,
}
FIRST: dict[str, Any] = {"percentiles": (50, 90, 99.9), "relative_error": 0.01, "expire": EXPIRE}
THEN: dict[str, Any] = {"percentiles": (1, 25, 75, 99, 100), "relative_error": 0.002, "expire": EXPIRE}


class Shape(NamedTuple):
    """Lines of one kind. In *template* each run of ``#`` takes the digits of a number."""

    template: bytes
    type: str
    share: int  # of a hundred samples
    weight: int = 1  # 1 / rate


COUNTER = Shape(b"hits.####:###########|c\n", "counter", 40)
SAMPLED = Shape(b"half.####:######|c|@0.5\n", "counter", 10, 2)
TIMINGS = (
    Shape(b"took.###:#######.###|ms\n", "timing", 28),
    Shape(b"slow.#:####.###|ms|@0.1\n", "timing", 4, 10),
    Shape(b"size.####:#######.###|h\n", "histogram", 6),
    Shape(b"diff.###:-#######.###|d\n", "distribution", 4),
)
SET = Shape(b"user.##:m############|s\n", "set", 6)
FRACTION = Shape(b"part.####:#######.###|c\n", "counter", 0)
GAUGE = Shape(b"load.##:+############|g\n", "gauge", 2)


def lines_of(template: bytes, *columns: Any) -> Any:
    """A row of bytes for each line, with the numbers of *columns* in the places of *template*."""
    rows = np.tile(np.frombuffer(template, np.uint8), (len(columns[0]), 1))
    runs: list[list[int]] = []
    for at, byte in enumerate(template):
        if byte == ord("#"):
            if at and template[at - 1] == ord("#"):
                runs[-1].append(at)
            else:
                runs.append([at])
    for places, column in zip(runs, columns, strict=True):
        left = column.copy()
        for at in reversed(places):
            left, digit = np.divmod(left, 10)
            rows[:, at] = digit + ord("0")
        assert not left.any(), "a number has more digits than there is room for"
    return rows


@dataclass
class Phase:
    """Samples and what they add up to; the names are those of the points."""

    rows: Any
    sums: dict[str, int] = field(default_factory=dict)
    """Counters and changes of gauges."""
    values: dict[str, Any] = field(default_factory=dict)
    """Timings, sorted."""
    weights: dict[str, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)


def name_of(shape: Shape, series: int) -> str:
    head = shape.template.split(b":")[0].decode().replace(".", "_")
    digits = head.count("#")
    return head.replace("#" * digits, f"{series:0{digits}}")


def make_phase(number: int) -> Phase:
    random = np.random.default_rng(20_000 + number)
    phase = Phase(None)
    parts = []
    # Counters of half the names go silent with each phase.
    for shape, low, high in ((COUNTER, number * 500, number * 500 + 1000), (SAMPLED, 0, 500)):
        count = PHASE_SAMPLES * shape.share // 100
        series = random.integers(low, high, count)
        amounts = random.integers(0, 10**5, count) if shape.weight > 1 else random.integers(0, 10**10, count)
        parts.append(lines_of(shape.template, series, amounts))
        # Below 2**53 throughout, so that a double holds each of them.
        totals = np.zeros(high, np.int64)
        np.add.at(totals, series, amounts * shape.weight)
        for one in range(low, high):
            phase.sums[name_of(shape, one)] = int(totals[one])
    for shape in TIMINGS:
        count = PHASE_SAMPLES * shape.share // 100
        several = 10 if shape is TIMINGS[1] else 30
        series = random.integers(0, several, count)
        limit = 10**7 if shape is TIMINGS[1] else 10**10
        # From microseconds to hours, each series around its own middle.
        drawn = random.lognormal(8 + series % 7, 1.5, count)
        thousandths = np.minimum(drawn.astype(np.int64), limit - 1)
        parts.append(lines_of(shape.template, series, thousandths // 1000, thousandths % 1000))
        numbers = thousandths / 1000
        if shape.type == "distribution":
            numbers = -numbers
        for one in range(several):
            name = name_of(shape, one)
            phase.values[name] = np.sort(numbers[series == one])
            phase.weights[name] = shape.weight
    count = PHASE_SAMPLES * SET.share // 100
    series = random.integers(0, 20, count)
    members = random.integers(0, 1 << 60, count) % (10 * 2**series)
    parts.append(lines_of(SET.template, series, members))
    for one in range(20):
        phase.members[name_of(SET, one)] = len(np.unique(members[series == one]))
    count = PHASE_SAMPLES * GAUGE.share // 100
    series = random.integers(0, 50, count)
    changes = random.integers(0, 10**6, count)
    parts.append(lines_of(GAUGE.template, series, changes))
    totals = np.zeros(50, np.int64)
    np.add.at(totals, series, changes)
    for one in range(50):
        phase.sums[name_of(GAUGE, one)] = int(totals[one])
    phase.rows = np.concatenate(parts)
    assert phase.rows.shape == (PHASE_SAMPLES, LINE_BYTES)
    random.shuffle(phase.rows)
    return phase


class Point(NamedTuple):
    type: str
    fields: dict[str, float]
    stamp: int


def read_point(line: str) -> tuple[str, Point]:
    head, fields, stamp = line.split(" ")
    name, tag = head.split(",")
    assert tag.startswith("metric_type=")
    pairs = (one.split("=") for one in fields.split(","))
    return name, Point(tag[12:], {key: float(text.removesuffix("i")) for key, text in pairs}, int(stamp))


class Server:
    """Four lanes on one port, one listener, and a ring for the ticks."""

    def __init__(self, stack: ExitStack) -> None:
        self.aggregator = Aggregator(LANES, interval=10.0, **FIRST)
        self.ring = Ring(None, 64 << 20, Waker())
        self.passed = [Ring(None, 1 << 20, Waker()) for _ in range(LANES)]
        self.lanes = [Lane(index) for index in range(LANES)]
        self.sent = 0
        self.ticks = 0
        self.points = 0
        port = 0
        for lane, ring in zip(self.lanes, self.passed, strict=True):
            lane.set_layout((), [ring])
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind(("127.0.0.1", port))
            port = sock.getsockname()[1]
            # What the kernel keeps of a datagram is more than its bytes, and all may go to one lane.
            self.window = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4
            lane.add_socket(0, sock.fileno(), format="statsd", aggregator=self.aggregator)
        self.threads = [threading.Thread(target=lane.run, daemon=True) for lane in self.lanes]
        for thread in self.threads:
            thread.start()
        self.senders = []
        for _ in range(FLOWS):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.connect(("127.0.0.1", port))
            try:
                sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, PACK_LINES * LINE_BYTES)
            except OSError:
                missing("no UDP_GRO or UDP_SEGMENT here")
            self.senders.append(sender)

    def counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for lane in self.lanes:
            counted = lane.stats()["listeners"][0]
            for key in ("received", "accepted", "aggregated", "kernel_drops", "datagrams", "bytes"):
                total[key] += counted[key]
            total["dropped"] += sum(counted["dropped"].values())
        return total

    def send(self, rows: Any) -> None:
        """Send all of *rows*, never more ahead of the lanes than a receive buffer holds."""
        data = memoryview(rows.reshape(-1))
        run = RUN_DATAGRAMS * PACK_LINES * LINE_BYTES
        read = self.sent
        for turn, at in enumerate(range(0, len(data), run)):
            part = data[at : at + run]
            deadline = time.monotonic() + 30
            while self.sent + len(part) - read > self.window:
                read = self.counters()["received"] * LINE_BYTES
                assert time.monotonic() < deadline, self.counters()
            self.senders[turn % FLOWS].send(part)
            self.sent += len(part)

    def received(self) -> None:
        """Wait until the lanes have counted all that was sent."""
        wait_until(
            lambda: self.counters()["received"] == self.sent // LINE_BYTES,
            timeout=30,
            what=f"{self.sent // LINE_BYTES} samples received",
        )

    def tick(self) -> dict[str, Point]:
        """One tick; what it sent, by name. No series comes twice."""
        self.ticks += 1
        stamp = self.ticks * 10 * SECOND
        points = self.aggregator.tick(self.lanes, [self.ring], stamp)
        self.points += points
        found = dict(read_point(line) for line in self.take())
        assert len(found) == points
        assert {point.stamp for point in found.values()} <= {stamp}
        return found

    def take(self) -> Iterator[str]:
        while (batch := self.ring.take(1 << 20, 1 << 20, True)) is not None:
            with memoryview(batch) as view:
                lines = bytes(view).decode().splitlines()
            batch.release()
            yield from lines

    def stop(self) -> None:
        for lane in self.lanes:
            lane.stop(5.0)
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


def percentile(values: Any, weight: int, p: float) -> float:
    """The least value up to which more than p % of the weight, less half a sample, lies."""
    total = weight * len(values)
    below = np.arange(1, len(values) + 1) * weight
    return float(values[min(np.searchsorted(below, p / 100 * total - 0.5, side="right"), len(values) - 1)])


def check_timing(name: str, point: Point, phase: Phase, settings: dict[str, Any]) -> None:
    values, weight = phase.values[name], phase.weights[name]
    error = settings["relative_error"]
    fields = dict(point.fields)
    assert fields.pop("count") == weight * len(values)
    assert (fields.pop("lower"), fields.pop("upper")) == (values[0], values[-1])
    total = math.fsum(values) * weight
    assert fields.pop("sum") == pytest.approx(total, rel=1e-14)
    assert fields.pop("mean") == pytest.approx(total / weight / len(values), rel=1e-12)
    assert fields.pop("stddev") == pytest.approx(float(np.std(values)), rel=1e-9)
    assert fields.pop("median") == pytest.approx(float(np.median(values)), rel=error * (1 + 1e-9))
    for p in settings["percentiles"]:
        found = fields.pop(f"{p:g}_percentile")
        assert found == pytest.approx(percentile(values, weight, p), rel=error * (1 + 1e-9)), (name, p)
        if p >= 50 and weight == 1:
            low = np.percentile(values, p, method="lower")
            high = np.percentile(values, p, method="higher")
            slack = error * (1 + 1e-9) * max(abs(low), abs(high))
            assert low - slack <= found <= high + slack, (name, p)
    assert not fields


def check_set(name: str, found: float, members: int) -> None:
    if members <= SET_EXACT_MAX:
        assert found == members, name
    else:
        assert found == pytest.approx(members, rel=SET_SIGMAS * SET_ERROR), name


def check_tick(found: dict[str, Point], phase: Phase, gauges: Counter[str], settings: dict[str, Any]) -> None:
    """All that a tick sent is what *phase* holds, no more and no less."""
    assert found.keys() == phase.sums.keys() | phase.values.keys() | phase.members.keys()
    for name, point in found.items():
        if name in phase.values:
            check_timing(name, point, phase, settings)
            continue
        assert point.fields.keys() == {"value"}
        value = point.fields["value"]
        if name in phase.members:
            check_set(name, value, phase.members[name])
        elif point.type == "gauge":
            assert value == gauges[name] + phase.sums[name], name
        else:
            assert value == phase.sums[name], name


def check_ticks(ticks: list[dict[str, Point]], phase: Phase, gauges: Counter[str]) -> None:
    """All *ticks* together hold what *phase* does."""
    names = phase.sums.keys() | phase.values.keys() | phase.members.keys()
    assert set().union(*ticks) == names
    for name in names:
        fields = [tick[name].fields for tick in ticks if name in tick]
        if name in phase.values:
            values, weight = phase.values[name], phase.weights[name]
            assert sum(one["count"] for one in fields) == weight * len(values)
            assert math.fsum(one["sum"] for one in fields) == pytest.approx(
                math.fsum(values) * weight, rel=1e-13
            )
            assert min(one["lower"] for one in fields) == values[0]
            assert max(one["upper"] for one in fields) == values[-1]
        elif name in phase.members:
            allowed = 1 + SET_SIGMAS * SET_ERROR * (phase.members[name] > SET_EXACT_MAX)
            assert max(one["value"] for one in fields) <= phase.members[name] * allowed
            assert sum(one["value"] for one in fields) * allowed >= phase.members[name]
        elif name.startswith("load"):
            assert fields[-1]["value"] == gauges[name] + phase.sums[name], name
        else:
            assert sum(one["value"] for one in fields) == phase.sums[name], name


def send_under_ticks(server: Server, rows: Any) -> list[dict[str, Point]]:
    """Send while another thread ticks as often as it can; every tick's points, one more at the end.

    The rows go in parts, each after one more tick, so that a machine of any speed has ticks among them.
    """
    ticks: list[dict[str, Point]] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def tick() -> None:
        try:
            while not over.wait(0.02):
                ticks.append(server.tick())
        except BaseException as error:
            failures.append(error)

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        for number, part in enumerate(np.array_split(rows, TICKED_PARTS)):
            wait_until(lambda least=number: len(ticks) >= least or failures, timeout=60, what="a tick")
            server.send(part)
        server.received()
    finally:
        over.set()
        ticking.join(60)
    assert not failures, failures
    assert not ticking.is_alive()
    ticks.append(server.tick())
    return ticks


@pytest.mark.slow
def test_ten_million_samples_over_four_lanes() -> None:
    gauges: Counter[str] = Counter()
    with ExitStack() as stack:
        server = Server(stack)
        stack.callback(server.stop)
        settings = FIRST
        for number in range(PHASES):
            phase = make_phase(number)
            if number == 2:
                ticks = send_under_ticks(server, phase.rows)
                assert len(ticks) >= TICKED_PARTS
                check_ticks(ticks, phase, gauges)
            elif number == 3:
                half = len(phase.rows) // 2
                server.send(phase.rows[:half])
                # The samples that are there already belong to the settings they came under, up to the tick.
                server.aggregator.configure(interval=10.0, **THEN)
                server.send(phase.rows[half:])
                server.received()
                check_tick(server.tick(), phase, gauges, settings)
                settings = THEN
            else:
                server.send(phase.rows)
                if number == PHASES - 1:
                    server.stop()
                else:
                    server.received()
                check_tick(server.tick(), phase, gauges, settings)
            for name, change in phase.sums.items():
                if name.startswith("load"):
                    gauges[name] += change
        samples = PHASES * PHASE_SAMPLES
        counted = server.counters()
        assert (counted["kernel_drops"], counted["dropped"]) == (0, 0)
        assert (counted["received"], counted["accepted"], counted["aggregated"]) == (samples,) * 3
        assert counted["bytes"] == samples * LINE_BYTES
        for lane in server.lanes:
            assert lane.stats()["listeners"][0]["received"] > samples // 100, "each lane has its part"
        stats = server.aggregator.stats()
        assert (stats["samples"], stats["points"], stats["ring_full"]) == (samples, server.points, 0)
        assert stats["expired"] > 0
        ring = server.ring.stats()
        assert ring["accepted"] == ring["written"] + ring["missed"] == server.points
        assert (ring["missed"], ring["waiting"]) == (0, 0)
        assert all(ring.stats()["accepted"] == 0 for ring in server.passed)


def test_fractions_are_summed_up_exactly_and_rounded_once() -> None:
    random = np.random.default_rng(1)
    with ExitStack() as stack:
        server = Server(stack)
        stack.callback(server.stop)
        count = PACK_LINES * RUN_DATAGRAMS * 16
        series, thousandths = random.integers(0, 20, count), random.integers(0, 10**8, count)
        server.send(lines_of(FRACTION.template, series, thousandths // 1000, thousandths % 1000))
        server.received()
        found = {name: point.fields["value"] for name, point in server.tick().items()}
    assert found == {
        name_of(FRACTION, one): math.fsum(thousandths[series == one] / 1000) for one in range(20)
    }
