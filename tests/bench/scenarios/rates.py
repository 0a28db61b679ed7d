"""Rates: what it costs to ask whom a datagram comes from, and to drop one that is over its rate.

Two agents, as with the guards, take the same load by turns on the same processor: one with rates that
nobody exceeds, and one without.
"""

import socket
from pathlib import Path

from tests.bench import receive
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target, check_equal
from tests.bench.native import Lines
from tests.bench.receive import RECEIVE_BUFFER_BYTES, Load
from tests.bench.scenarios.guards import (
    SHAPES,
    SINGLE_PER_S,
    Keys,
    Pair,
    check_untouched,
    known,
    packed,
)

SOURCE_RATE = Keys(listen="source_rate = 1_000_000_000\n")
ALL = Keys(
    listen='rate = 1_000_000_000\nsource_rate = 1_000_000_000\nsources = ["127.0.0.0/8", "10.0.0.0/8"]\n'
)


def _passing(run: Run, folder: Path) -> None:
    """What nobody is stopped by."""
    count = run.size(3_000_000, 200_000)
    single = Load(Lines(shape=64), count=count // 6, rate=SINGLE_PER_S)
    for name, keys in (("source_rate", SOURCE_RATE), ("rate, source_rate and sources", ALL)):
        place = folder / name.split(",")[0]
        place.mkdir()
        with Pair(place, keys=keys) as pair:
            for gro in (True, False):
                known(run, pair, f"{name}: 117-byte lines, packed", packed(Lines(), count), gro, 0.95)
                known(run, pair, f"{name}: 64-byte lines, one in a datagram", single, gro, 0.9)
            check_untouched(pair)
    place = folder / "statsd"
    place.mkdir()
    with Pair(place, "statsd", SOURCE_RATE) as pair:
        lines = Lines(shape=SHAPES["statsd"])
        load = Load(lines, count=count // 6, rate=SINGLE_PER_S)
        for gro in (True, False):
            known(run, pair, "source_rate: StatsD, one in a datagram", load, gro, 0.9)
            known(run, pair, "source_rate: StatsD, packed", packed(lines, count), gro, 0.95)
        check_untouched(pair)


def _dropping(run: Run, folder: Path) -> None:
    """A flood: what is dropped costs less than what is read."""
    ports = {gro: free_port(socket.SOCK_DGRAM) for gro in (True, False)}
    plain = {gro: free_port(socket.SOCK_DGRAM) for gro in (True, False)}
    config = "".join(
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\ngro = {str(gro).lower()}\n'
        f'receive_buffer = "{RECEIVE_BUFFER_BYTES}B"\n{keys}'
        for some, keys in ((ports, "source_rate = 1\n"), (plain, ""))
        for gro, port in some.items()
    )
    load = Load(Lines(shape=64), count=run.size(2_000_000, 200_000), rate=SINGLE_PER_S)
    with AgentRun(folder, f'{config}[[output]]\nname = "null"\ntype = "null"\n') as agent:
        for port, gro in ((port, gro) for some in (ports, plain) for gro, port in some.items()):
            receive.agent(Load(Lines(), 30_000, 100_000, pack=1432), agent, port, gro)
        for gro in (True, False):
            cost = run.figure(
                f"64-byte lines, one in a datagram, over the rate, UDP_GRO {'on' if gro else 'off'}",
                "ns/datagram",
                baseline="the same without a rate",
                target=Target(1.1, at_least=False, of_ratio=True),
            )
            for _ in run.rounds(f"flood, UDP_GRO {'on' if gro else 'off'}"):
                dropped = receive.agent(load, agent, ports[gro], gro)
                passed = receive.agent(load, agent, plain[gro], gro)
                cost.add(dropped.cpu_ns_per_datagram, passed.cpu_ns_per_datagram)
        reasons = {reason for one in agent.status()["listeners"] for reason in one["dropped"]}
        check_equal(reasons, {"rate_limited"}, "reasons for drops")


def measure(run: Run) -> None:
    """What passes, and what does not."""
    for part in (_passing, _dropping):
        with run.place() as folder:
            part(run, folder)
