"""What a lane adds to the kernel's cost of a datagram, and whether it keeps up with a million a second."""

import socket

from tests.bench import receive
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target
from tests.bench.native import Lines
from tests.bench.receive import Load
from tests.bench.verify import verify_receiving

RATE = 1_000_000


def measure(run: Run) -> None:
    """Single-line datagrams of 64 bytes, with and without UDP_GRO on our side."""
    lines = Lines(shape=64)
    for gro in (True, False):
        verify_receiving(run, lines, pack=0, gro=gro)
    ports = {free_port(socket.SOCK_DGRAM): gro for gro in (True, False)}
    paced = Load(lines, count=run.size(3_000_000, 200_000), rate=RATE)
    flood = Load(lines, count=run.size(3_000_000, 200_000))
    with run.place() as folder, AgentRun(folder, receive.null_config(ports)) as agent:
        receive.warm_up(agent, ports)
        for kind, load in (("at 1 M/s", paced), ("flood", flood)):
            costs, losses = {}, {}
            for gro in (True, False):
                named = f"{kind}, UDP_GRO {'on' if gro else 'off'}"
                costs[gro] = run.figure(
                    f"lane CPU, {named}",
                    "ns/datagram",
                    baseline="bare recvmmsg(64), no UDP_GRO",
                    target=Target(1.35, at_least=False, of_ratio=True) if load.rate else None,
                )
                losses[gro] = run.figure(
                    f"lost, {named}",
                    "datagrams",
                    baseline="bare recvmmsg(64), no UDP_GRO",
                    target=Target(0, at_least=False) if load.rate else None,
                    note=f"of {load.count:,}",
                )
            bare_gro = run.figure(
                f"bare loop with UDP_GRO, {kind}", "ns/datagram", baseline="bare recvmmsg(64), no UDP_GRO"
            )
            rate = run.figure(
                f"sent to the agent, {kind}",
                "datagrams/s",
                baseline="to the bare loop",
                target=Target(0.99 * RATE, at_least=True) if load.rate else None,
                note="the slower of both",
            )
            for _ in run.rounds(kind):
                plain = receive.bare(load, gro=False)
                bare_gro.add(receive.bare(load, gro=True).cpu_ns_per_datagram, plain.cpu_ns_per_datagram)
                agents = {gro: receive.agent(load, agent, port, gro) for port, gro in ports.items()}
                for gro, got in agents.items():
                    costs[gro].add(got.cpu_ns_per_datagram, plain.cpu_ns_per_datagram)
                    losses[gro].add(got.lost, plain.lost)
                rate.add(min(got.rate for got in agents.values()), plain.rate)
