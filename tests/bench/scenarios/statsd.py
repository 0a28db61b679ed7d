"""StatsD, aggregated: what a sample costs a lane, a series in memory, and a tick the receiver.

Listeners tick once a day here, so that a measurement has no tick in it, and once more when the agent stops.
That last tick goes into files, and the counters in them must add up to the samples that were taken.
"""

import math
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench import receive
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.harness import Run, Target, check, check_equal, poll
from tests.bench.native import Lines
from tests.bench.receive import RECEIVE_BUFFER_BYTES, RECEIVER, Load

PACK_BYTES = 1432
LINES_PER_S = 2_500_000
FILL_PER_S = 1_000_000
SINGLE_RATE = 1_000_000

COUNTER, TIMING = 25, 24
"""Shapes of lines, which are their lengths."""

SERIES_SAMPLES = 1000
RELATIVE_ERROR = 0.01

TICK_S = 4
PROBE_S = 0.001
WATCH_S = 1.0


class Point(NamedTuple):
    name: bytes
    fields: dict[bytes, float]
    stamp: int


def points(folder: Path) -> Iterator[Point]:
    """What a file output in *folder* has."""
    for file in sorted((folder / "out").iterdir()):
        for line in file.read_bytes().splitlines():
            head, fields, stamp = line.split(b" ")
            pairs = (one.split(b"=") for one in fields.split(b","))
            yield Point(
                head.split(b",")[0], {key: float(text.rstrip(b"i")) for key, text in pairs}, int(stamp)
            )


def _config(folder: Path, ports: dict[int, bool], interval: str = "1d", more: str = "") -> str:
    """StatsD listeners by port, each with or without UDP_GRO, into files."""
    listeners = "".join(
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nformat = "statsd"\ninterval = "{interval}"\n'
        f"relative_error = {RELATIVE_ERROR}\ngro = {str(gro).lower()}\n"
        f'receive_buffer = "{RECEIVE_BUFFER_BYTES}B"\n'
        for port, gro in ports.items()
    )
    sink = f'[[output]]\nname = "out"\ntype = "file"\npath = "{folder / "out"}"\nring_bytes = "256MiB"\n'
    return listeners + more + sink


def _each(lines: Lines) -> int:
    return PACK_BYTES // lines.shape


def _packed(lines: Lines, count: int, rate: int = LINES_PER_S) -> Load:
    """*count* lines, a few more to fill the last datagram, and *rate* of them a second."""
    return Load(lines, count=math.ceil(count / _each(lines)), rate=rate // _each(lines), pack=PACK_BYTES)


def _check_last_tick(folder: Path, samples: int, series: int) -> None:
    """Counters of value 1, in the files of an agent that has stopped, add up to *samples*."""
    found = list(points(folder))
    check_equal(len({point.name for point in found}), series, "series")
    check_equal(sum(int(point.fields[b"value"]) for point in found), samples, "sum of all counters")


def _fill(run: Run, agent: AgentRun, port: int, lines: Lines, count: int) -> None:
    """Have all series known to the listener, so that none is new in what is measured."""
    run.retry(partial(_send_all, agent, port, _packed(lines, count, FILL_PER_S)))


def _send_all(agent: AgentRun, port: int, load: Load) -> int:
    """Send *load* and see that none of it was lost; returns the lines."""
    before = agent.read(port)
    sent = load.send(f"127.0.0.1:{port}")
    new = agent.wait_received(before, sent, port).since(before)
    check_lossless(new, "filling the tables")
    check_equal(new.aggregated, sent["lines"], "samples aggregated")
    return int(sent["lines"])


# ---- what arrives ----


def _expected(lines: Lines, count: int) -> dict[bytes, list[float]]:
    """Values by name, of the first *count* lines."""
    values: dict[bytes, list[float]] = {}
    for line in lines.text(count).splitlines():
        name, value = line.split(b"|")[0].split(b":")
        values.setdefault(name.replace(b".", b"_"), []).append(float(value))
    return values


def _check_timing(found: dict[bytes, float], values: list[float]) -> None:
    values.sort()
    check_equal(found[b"count"], len(values), "samples of a timing")
    check_equal((found[b"lower"], found[b"upper"]), (values[0], values[-1]), "least and most of a timing")
    check(math.isclose(found[b"sum"], math.fsum(values), rel_tol=1e-14), "sum of a timing")
    true = values[math.floor(0.9 * len(values) - 0.5)]
    check(
        math.isclose(found[b"90_percentile"], true, rel_tol=RELATIVE_ERROR * 1.001), "percentile of a timing"
    )


def _verify(run: Run, lines: Lines, pack: int) -> None:
    """Send some lines, slowly enough that none is lost, and compare the last tick with what was sent."""

    def attempt() -> None:
        port = free_port(socket.SOCK_DGRAM)
        load = Load(lines, count=10_000, rate=10_000, pack=pack)
        with run.place() as folder:
            with AgentRun(folder, _config(folder, {port: True})) as agent:
                sent = _send_all(agent, port, load)
            expected = _expected(lines, sent)
            found = list(points(folder))
        check_equal({point.name for point in found} == expected.keys(), True, "names of the series")
        check_equal(len(found), len(expected), "points of a tick")
        for point in found:
            if lines.shape == TIMING:
                _check_timing(point.fields, expected[point.name])
            else:
                check_equal(point.fields, {b"value": len(expected[point.name])}, "a counter")

    run.say(f"checking what a tick sends, {lines.shape}-byte lines")
    run.retry(attempt)


# ---- time ----


def _pin(agent: AgentRun) -> None:
    for cpu in RECEIVER:
        agent.pin_lane(cpu)


def _single(run: Run) -> None:
    """Datagrams of one counter each, beside the bare loop."""
    lines = Lines(shape=COUNTER, series=1000)
    load = Load(lines, count=run.size(3_000_000, 200_000), rate=SINGLE_RATE)
    ports = {free_port(socket.SOCK_DGRAM): gro for gro in (True, False)}
    baseline = "bare recvmmsg(64), no UDP_GRO"
    with run.place() as folder:
        with AgentRun(folder, _config(folder, ports)) as agent:
            for port in ports:
                _fill(run, agent, port, lines, 100_000)
            _pin(agent)
            costs, losses = {}, {}
            for gro in (True, False):
                named = f"single counters at 1 M/s, UDP_GRO {'on' if gro else 'off'}"
                costs[gro] = run.figure(
                    f"lane CPU, {named}",
                    "ns/datagram",
                    baseline=baseline,
                    target=Target(1.35, at_least=False, of_ratio=True),
                )
                losses[gro] = run.figure("  lost", "datagrams", baseline=baseline, note=f"of {load.count:,}")
            for _ in run.rounds("single counters"):
                plain = receive.bare(load, gro=False)
                for port, gro in ports.items():
                    got = receive.agent(load, agent, port, gro)
                    costs[gro].add(got.cpu_ns_per_datagram, plain.cpu_ns_per_datagram)
                    losses[gro].add(got.lost, plain.lost)
            taken = sum(agent.read(port).aggregated for port in ports)
        _check_last_tick(folder, taken, lines.series)


def _speed(run: Run, what: str, lines: Lines, million: float) -> None:
    """Samples per second of the lane's CPU, every series known before and drawn at random."""
    load = _packed(lines._replace(scatter=True), run.size(5_000_000, 400_000))
    ports = {free_port(socket.SOCK_DGRAM): gro for gro in (True, False)}
    with run.place() as folder:
        with AgentRun(folder, _config(folder, ports)) as agent:
            for port in ports:
                _fill(run, agent, port, lines, max(lines.series, 200_000))
            _pin(agent)
            figures = {}
            for gro in (True, False):
                state = f"UDP_GRO {'on' if gro else 'off'}"
                figures[gro] = (
                    run.figure(
                        f"{what}, {lines.series:,} series, {_each(lines)} in a datagram, {state}",
                        "M samples/core-s",
                        baseline=f"bare recvmmsg(64), {state}",
                        target=Target(million, at_least=True),
                    ),
                    run.figure("  lost", "datagrams", baseline="the same", note=f"of {load.count:,}"),
                )
            for _ in run.rounds(f"{what}, {lines.series:,} series"):
                for port, gro in ports.items():
                    plain, got = receive.bare(load, gro), receive.agent(load, agent, port, gro)
                    speed, lost = figures[gro]
                    speed.add(got.lines_per_core_s / 1e6, plain.lines_per_core_s / 1e6)
                    lost.add(got.lost, plain.lost)
            taken = sum(agent.read(port).aggregated for port in ports)
        if lines.shape == COUNTER:
            _check_last_tick(folder, taken, lines.series)
        else:
            check_equal(
                sum(int(point.fields[b"count"]) for point in points(folder)), taken, "samples of timings"
            )


def _growth(run: Run) -> None:
    """The same load over 1,000 and over 100,000 series, each at a listener of its own."""
    few, many = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    series = {few: 1000, many: 100_000}
    figures = {
        scatter: run.figure(
            f"packed counters, 100,000 series {order}",
            "ns/sample",
            baseline="1,000 series",
            target=Target(1.3, at_least=False, of_ratio=True),
        )
        for scatter, order in ((False, "in turn"), (True, "at random"))
    }
    with run.place() as folder:
        with AgentRun(folder, _config(folder, {few: True, many: True})) as agent:
            for port, number in series.items():
                _fill(run, agent, port, Lines(shape=COUNTER, series=number), 200_000)
            _pin(agent)
            for _ in run.rounds("1,000 and 100,000 series"):
                for scatter, figure in figures.items():
                    cost = {}
                    for port, number in series.items():
                        lines = Lines(shape=COUNTER, series=number, scatter=scatter)
                        load = _packed(lines, run.size(5_000_000, 400_000))
                        cost[port] = 1e9 / receive.agent(load, agent, port, True).lines_per_core_s
                    figure.add(cost[many], cost[few])
            taken = sum(agent.read(port).aggregated for port in series)
        # The fewer are among the more.
        _check_last_tick(folder, taken, series[many])


# ---- memory ----


def _wait_for_tick(agent: AgentRun, port: int, points: int) -> None:
    """Wait until the ticks have sent *points* in all."""
    poll(lambda: agent.read(port).points >= points, 60, f"{points} points of ticks", pause=0.1)


def _wait_for_multiple(seconds: int) -> None:
    """Sleep until just behind the time of a tick, so that the whole interval is left until the next."""
    time.sleep(seconds - time.time() % seconds + 0.05)


def _growth_of_rss(run: Run, lines: Lines, samples: int) -> tuple[float, float]:
    """Bytes that an agent grows by for each series: (in the first interval, when there was one before it)."""
    port = free_port(socket.SOCK_DGRAM)
    interval = 2 + 3 * samples // FILL_PER_S // 2
    with run.place() as folder, AgentRun(folder, _config(folder, {port: True}, f"{interval}s")) as agent:
        _send_all(agent, port, _packed(lines._replace(series=1), 100_000))
        _wait_for_tick(agent, port, 1)
        sizes = [agent.memory()[0]]
        for _ in range(2):
            _wait_for_multiple(interval)
            before = agent.read(port).points
            _send_all(agent, port, _packed(lines, samples, FILL_PER_S))
            sizes.append(agent.memory()[0])
            check_equal(agent.read(port).points, before, "points before all was sent")
            _wait_for_tick(agent, port, before + lines.series)
    return (sizes[1] - sizes[0]) / lines.series, (sizes[2] - sizes[0]) / lines.series


def _memory(run: Run) -> None:
    """Resident bytes of the whole agent; its own account knows nothing of the allocator."""
    counters = Lines(shape=COUNTER, series=run.size(1_000_000, 200_000))
    timings = Lines(shape=TIMING, series=run.size(10_000, 1000))
    for what, lines, samples, bound in (
        (f"counter, {counters.series:,} of them", counters, counters.series, 120),
        (f"timing of {SERIES_SAMPLES:,} samples", timings, timings.series * SERIES_SAMPLES, 2048),
    ):
        figures = [
            run.figure(f"RSS per {what}, {when}", "bytes", target=Target(bound, at_least=False))
            for when in ("first interval", "second interval")
        ]
        for _ in run.rounds(f"memory per {what}", 1):
            sizes = run.retry(partial(_growth_of_rss, run, lines, samples))
            for figure, size in zip(figures, sizes, strict=True):
                figure.add(size)


# ---- pauses ----


class Probes:
    """A thread that sends a line each millisecond, which the lane stamps when it reads it.

    Of each the time behind its sending is kept: the wait until the stamp is then no sender's fault.
    """

    def __init__(self, port: int) -> None:
        self.sent: list[int] = []
        self._over = threading.Event()
        self._to = ("127.0.0.1", port)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Probes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not self._over.wait(PROBE_S):
                sender.sendto(b"probe id=%d" % len(self.sent), self._to)
                self.sent.append(time.time_ns())

    def longest(self, stamps: dict[int, int], from_ns: int, until_ns: int) -> float:
        """The longest wait of a probe sent in that time, in seconds."""
        waits = [stamps[number] - at for number, at in enumerate(self.sent) if from_ns <= at < until_ns]
        check(len(waits) > (until_ns - from_ns) / 1e9 / PROBE_S / 10, "only few probes were sent")
        return max(0, *waits) / 1e9


def _pause(run: Run, series: int) -> tuple[float, float]:
    """(the longest pause while a tick sends *series* counters, and that in as long a time before it)."""
    port, probed = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    probe_listener = f'[[listen]]\naddress = "udp://127.0.0.1:{probed}"\n'
    lines = Lines(shape=COUNTER, series=series)
    with run.place() as folder:
        config = _config(folder, {port: True}, f"{TICK_S}s", probe_listener)
        with AgentRun(folder, config) as agent:
            # The series are known before, so that a tick and the table's growth are not mixed up.
            _send_all(agent, port, _packed(lines, series, FILL_PER_S))
            _wait_for_tick(agent, port, series)
            _wait_for_multiple(TICK_S)
            before = agent.read(port)
            _send_all(agent, port, _packed(lines, series, FILL_PER_S))
            check(agent.read(port).points == before.points, "all was sent between two ticks")
            with Probes(probed) as probes:
                _wait_for_tick(agent, port, series + before.points)
                time.sleep(WATCH_S)
            agent.settled(port=port)
        stamps, ticks = {}, []
        for point in points(folder):
            if point.name == b"probe":
                stamps[int(point.fields[b"id"])] = point.stamp
            else:
                ticks.append(point.stamp)
    check_equal(len(stamps), len(probes.sent), "probes that arrived")
    tick = max(ticks)
    check_equal(ticks.count(tick), series, "points of a tick")
    after = tick + int(WATCH_S * 1e9)
    return probes.longest(stamps, tick, after), probes.longest(stamps, tick - int(WATCH_S * 1e9), tick)


def _pauses(run: Run) -> None:
    series = run.size(1_000_000, 100_000)
    figure = run.figure(
        f"longest pause of the receiver while {series:,} series are sent",
        "ms",
        baseline="as long before that",
        target=Target(5, at_least=False),
        note="probes of another listener of the lane",
    )
    for _ in run.rounds("pause", run.size(min(run.runs, 3), 1)):
        during, idle = run.retry(partial(_pause, run, series))
        figure.add(during * 1e3, idle * 1e3)


def measure(run: Run) -> None:
    """What arrives, then time, memory and pauses."""
    for shape, pack in ((COUNTER, 0), (COUNTER, PACK_BYTES), (TIMING, PACK_BYTES)):
        _verify(run, Lines(shape=shape, series=1000, scatter=True), pack)
    _single(run)
    _speed(run, "counters", Lines(shape=COUNTER, series=10_000), 16)
    _speed(run, "counters", Lines(shape=COUNTER, series=1_000_000), 7)
    _speed(run, "timings", Lines(shape=TIMING, series=1000), 10)
    _growth(run)
    _memory(run)
    _pauses(run)
