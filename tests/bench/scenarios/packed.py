"""Datagrams of 1,432 bytes packed with lines: lines per second of the lane's processor time."""

import socket

from tests.bench import receive
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target
from tests.bench.native import Lines
from tests.bench.receive import Load
from tests.bench.verify import verify_receiving

PACK_BYTES = 1432
LINES_PER_S = 2_500_000


def measure(run: Run) -> None:
    """Both lengths of line, with and without UDP_GRO on our side; kernel time included."""
    for shape in (64, 117):
        verify_receiving(run, Lines(shape=shape), pack=PACK_BYTES, gro=True)
    ports = {free_port(socket.SOCK_DGRAM): gro for gro in (True, False)}
    with run.place() as folder, AgentRun(folder, receive.null_config(ports)) as agent:
        receive.warm_up(agent, ports)
        for shape in (64, 117):
            each = PACK_BYTES // shape
            load = Load(
                Lines(shape=shape),
                count=run.size(5_000_000, 400_000) // each,
                rate=LINES_PER_S // each,
                pack=PACK_BYTES,
            )
            figures = {}
            for gro in (True, False):
                named = f"{shape}-byte lines, {each} in a datagram, UDP_GRO {'on' if gro else 'off'}"
                figures[gro] = (
                    run.figure(
                        named,
                        "M lines/core-s",
                        baseline=f"bare recvmmsg(64), UDP_GRO {'on' if gro else 'off'}",
                        target=Target(6, at_least=True),
                    ),
                    run.figure("  lost", "datagrams", baseline="the same", note=f"of {load.count:,}"),
                )
            for _ in run.rounds(f"{shape}-byte lines"):
                for port, gro in ports.items():
                    plain, got = receive.bare(load, gro), receive.agent(load, agent, port, gro)
                    speed, lost = figures[gro]
                    speed.add(got.lines_per_core_s / 1e6, plain.lines_per_core_s / 1e6)
                    lost.add(got.lost, plain.lost)
