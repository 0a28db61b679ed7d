"""Guards: what a line costs more that passes them, what a new series costs, and the memory of a known one.

Two agents, one with guards and one without, take the same load by turns on the same processor. Every series
is known and passes, but where it says otherwise; none of them may be over a limit.
"""

import itertools
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.bench import receive
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target, check_equal
from tests.bench.native import Lines
from tests.bench.receive import RECEIVE_BUFFER_BYTES, Load

PACK_BYTES = 1432
LINES_PER_S = 2_500_000
FILL_PER_S = 400_000
SINGLE_PER_S = 700_000
MILLION = 1_000_000
SHAPES = {"line": 117, "statsd": 25, "graphite": 46}
RULES = 1000


OTHERS = """
[cardinality]
max_series = 4_000_000
[types]
"""


class Keys(NamedTuple):
    """What the guarded one has and the plain one has not."""

    tables: str = ""
    listen: str = ""
    output: str = ""


NOTHING = Keys()
GUARDS = Keys(
    tables=f"{OTHERS}[collisions]\n",
    output="""
[output.filter]
measurement = ["*", "!nothing*"]
""",
)

MATCHING = """
[[map]]
match = "web.requests.*"
measurement = "requests"
tags = { host = "$1" }
[[map]]
match = "web.requests.*.*"
measurement = "requests"
tags = { host = "$1" }
field = "$2"
"""
"""For StatsD and Graphite."""

Ports = dict[bool, int]
"""By whether UDP_GRO is on."""


def _rules(count: int) -> str:
    """So many for other names, and those that match."""
    others = (f'[[map]]\nmatch = "web.request{n}.*"\nmeasurement = "other{n}"\n' for n in range(count))
    return "".join(others) + MATCHING


def _config(ports: Ports, format: str, keys: Keys) -> str:
    listeners = "".join(
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\ngro = {str(gro).lower()}\nformat = "{format}"\n'
        f'receive_buffer = "{RECEIVE_BUFFER_BYTES}B"\n{keys.listen}'
        + ('interval = "1d"\n' if format == "statsd" else "")
        for gro, port in ports.items()
    )
    null = '[[output]]\nname = "null"\ntype = "null"\n'
    return f"{keys.tables}{listeners}{null}{keys.output}"


class Pair:
    """The two agents: one has *keys*, the other one *plain*. A context manager."""

    def __init__(
        self, folder: Path, format: str = "line", keys: Keys = GUARDS, plain: Keys = NOTHING
    ) -> None:
        self.folder = folder
        self.format = format
        self.keys = {False: plain, True: keys}
        self.agents: dict[bool, tuple[AgentRun, Ports]] = {}
        """By whether it has guards."""
        self._stack = ExitStack()

    def __enter__(self) -> "Pair":
        for guarded in (False, True):
            ports = {gro: free_port(socket.SOCK_DGRAM) for gro in (True, False)}
            folder = self.folder / ("guarded" if guarded else "plain")
            folder.mkdir()
            run = AgentRun(folder, _config(ports, self.format, self.keys[guarded]))
            self.agents[guarded] = (self._stack.enter_context(run), ports)
            lines = Lines(shape=SHAPES[self.format])
            for gro, port in ports.items():
                receive.agent(Load(lines, 30_000, 100_000, pack=PACK_BYTES), run, port, gro)
            for cpu in receive.RECEIVER:
                run.pin_lane(cpu)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, lines: Lines, rate: int = FILL_PER_S) -> None:
        """Have both know every series."""
        for run, ports in self.agents.values():
            receive.agent(packed(lines, lines.series, rate), run, ports[True], True)

    def measure(self, load: Load, gro: bool) -> tuple[receive.Received, receive.Received]:
        """What the plain one and the guarded one make of it, in this order."""
        plain, guarded = (receive.agent(load, run, ports[gro], gro) for run, ports in self.agents.values())
        return plain, guarded


def packed(lines: Lines, count: int, rate: int = LINES_PER_S) -> Load:
    each = PACK_BYTES // lines.shape
    return Load(lines, count=-(-count // each), rate=rate // each, pack=PACK_BYTES)


def known(
    run: Run,
    pair: Pair,
    what: str,
    load: Load,
    gro: bool,
    bound: float | None,
    without: str = "without guards",
) -> None:
    """A load of known series through both, of later times in each round."""
    speed = run.figure(
        f"{what}, UDP_GRO {'on' if gro else 'off'}",
        "M lines/core-s",
        baseline=f"the same {without}",
        target=Target(bound, at_least=True, of_ratio=True) if bound is not None else None,
    )
    for _ in run.rounds(what):
        plain, guarded = pair.measure(_later(load), gro)
        speed.add(guarded.lines_per_core_s / 1e6, plain.lines_per_core_s / 1e6)


def _lines(run: Run, folder: Path) -> None:
    count = run.size(3_000_000, 200_000)
    with Pair(folder) as pair:
        for shape, series in ((64, 100), (117, 100), (117, 10_000)):
            lines = Lines(shape=shape, series=series)
            pair.fill(lines)
            for gro in (True, False):
                what = f"{shape}-byte lines, packed, {series:,} series"
                known(run, pair, what, packed(lines, count), gro, 0.85)
        single = Load(Lines(shape=64), count=count // 6, rate=SINGLE_PER_S)
        known(run, pair, "64-byte lines, one in a datagram, 100 series", single, False, 0.85)
        check_untouched(pair)


_times = itertools.count(1)


def _later(load: Load) -> Load:
    """The same behind all that came before."""
    step_ns = load.lines.step_ns * 10 * MILLION
    lines = load.lines._replace(time_ns=load.lines.time_ns + next(_times) * step_ns)
    return replace(load, lines=lines)


def _collisions(run: Run, folder: Path) -> None:
    """What it costs beside the other guards to know which batches may hold lines of one series and time."""
    count = run.size(3_000_000, 200_000)
    with Pair(folder, plain=GUARDS._replace(tables=OTHERS)) as pair:
        for shape, series in ((64, 100), (117, 100), (117, 10_000)):
            lines = Lines(shape=shape, series=series)
            pair.fill(lines)
            for gro in (True, False):
                what = f"times of {shape}-byte lines watched, {series:,} series"
                load = packed(lines, count)
                known(run, pair, what, load, gro, None, "without [collisions]")
        check_untouched(pair)
        check_equal(pair.agents[True][0].status()["outputs"][0]["ledger"]["merged"], 0, "lines merged")


def check_untouched(pair: Pair) -> None:
    """Nothing was over a limit, and all of it went to the output."""
    run, _ = pair.agents[True]
    for one in run.status()["listeners"]:
        check_equal((one["overflowed"], one["dropped"]), (0, {}), "metrics that were stopped")


def _many(run: Run, folder: Path) -> None:
    """A million series: new at first, known then."""
    series = run.size(MILLION, 20_000)
    lines = Lines(series=series)
    cold = run.figure("new series", "M/core-s", target=Target(0.8, at_least=True))
    memory = run.figure(f"memory of {series:,} known series", "B/series", target=Target(64, at_least=False))
    with Pair(folder) as pair:
        before = {guarded: _resident(one) for guarded, (one, _) in pair.agents.items()}
        for guarded, (one, ports) in pair.agents.items():
            got = receive.agent(packed(lines, series, FILL_PER_S), one, ports[True], True)
            if guarded:
                cold.add(got.lines_per_core_s / 1e6)
        grown = {guarded: _resident(one) - before[guarded] for guarded, (one, _) in pair.agents.items()}
        memory.add((grown[True] - grown[False]) / series)
        for gro in (True, False):
            load = packed(lines, run.size(3 * MILLION, 200_000))
            known(run, pair, f"117-byte lines, packed, {series:,} series", load, gro, 0.85)
        check_untouched(pair)


def _resident(run: AgentRun) -> int:
    """Memory but for the rings."""
    return run.memory()[0]


def _statsd(run: Run, folder: Path) -> None:
    count = run.size(3_000_000, 200_000)
    with Pair(folder, "statsd") as pair:
        lines = Lines(shape=SHAPES["statsd"], series=10_000)
        pair.fill(lines)
        for gro in (True, False):
            known(run, pair, "StatsD, packed, 10,000 series", packed(lines, count), gro, 0.95)
        single = Load(lines, count=count // 6, rate=SINGLE_PER_S)
        known(run, pair, "StatsD, one in a datagram, 10,000 series", single, False, 0.95)
        check_untouched(pair)


def _mapped(run: Run, folder: Path) -> None:
    """Names that are known, with a thousand rules and with those alone that match them."""
    count = run.size(3_000_000, 200_000)
    for format, shape in (("statsd", SHAPES["statsd"]), ("graphite", SHAPES["graphite"])):
        sub = folder / format
        sub.mkdir()
        with Pair(sub, format, Keys(_rules(RULES)), Keys(_rules(0))) as pair:
            lines = Lines(shape=shape, series=10_000)
            unknown = [0, 0]
            while (now := [_unknown(agent) for agent, _ in pair.agents.values()]) != unknown:
                unknown = now
                pair.fill(lines, 50_000)
            what = f"{format}, packed, 10,000 names, {RULES:,} rules"
            known(run, pair, what, packed(lines, count), True, 0.98, "with the two that match")
            now = [_unknown(agent) for agent, _ in pair.agents.values()]
            check_equal(now, unknown, "names that were decided when all were known")


def _unknown(agent: AgentRun) -> int:
    """Names and heads that had to be decided."""
    return int(agent.status()["guards"]["decided"])


def measure(run: Run) -> None:
    """Lines, collisions, a million series, StatsD, and names."""
    for part in (_lines, _collisions, _many, _statsd, _mapped):
        with run.place() as folder:
            part(run, folder)
