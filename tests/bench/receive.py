"""One round of receiving, by an agent that keeps nothing and by the bare loop, fed by the same sender."""

from dataclasses import dataclass
from typing import Any

from tests.bench import native
from tests.bench.agent_run import AgentRun
from tests.bench.harness import check, check_equal, processors
from tests.bench.native import Beside, Lines

RECEIVE_BUFFER_BYTES = 8 << 20
"""The default of the agent; the bare loop gets the same."""

RECEIVER, SENDER = processors()


@dataclass(frozen=True)
class Load:
    """What is sent: *count* datagrams, *rate* a second (0: as fast as possible)."""

    lines: Lines
    count: int
    rate: int = 0
    pack: int = 0

    def send(self, to: str) -> dict[str, Any]:
        """Send it, in UDP_SEGMENT runs, from a processor of its own."""
        sent = native.run(
            "udp_send",
            cpus=SENDER,
            to=to,
            count=self.count,
            rate=self.rate,
            pack=self.pack,
            segment=True,
            **self.lines.options,
        )
        check_equal(sent["datagrams"], self.count, "datagrams sent")
        return sent


@dataclass(frozen=True)
class Received:
    """What one receiver made of a load."""

    datagrams: int
    lines: int
    cpu_ns: int
    """Of the thread that receives, kernel time included."""
    lost: int
    """Datagrams that were dropped, wherever."""
    rate: float
    """Datagrams a second, as the sender found them."""

    @property
    def cpu_ns_per_datagram(self) -> float:
        return self.cpu_ns / self.datagrams

    @property
    def lines_per_core_s(self) -> float:
        return self.lines / self.cpu_ns * 1e9


def bare(load: Load, gro: bool) -> Received:
    """The baseline: recvmmsg of 64, and nothing more."""
    with Beside("udp_discard", cpus=RECEIVER, gro=gro, rcvbuf=RECEIVE_BUFFER_BYTES) as sink:
        sent = load.send(sink.address)
        got = sink.stop()
    if gro:
        check(got["datagrams"] <= load.count, "the bare loop got no more than was sent")
        check(got["kernel_drops"] or got["datagrams"] == load.count, "what the bare loop missed was dropped")
    else:
        check_equal(
            got["datagrams"] + got["kernel_drops"], load.count, "datagrams and drops of the bare loop"
        )
    check_equal(got["bytes"], got["datagrams"] * sent["datagram_bytes"], "bytes of the bare loop")
    each = sent["lines"] // sent["datagrams"]
    return Received(
        got["datagrams"],
        got["datagrams"] * each,
        got["cpu_ns"],
        load.count - got["datagrams"],
        sent["rate"],
    )


def agent(load: Load, agent: AgentRun, port: int, gro: bool) -> Received:
    """The agent's listener at *port*; its only output is a null. Each line is accounted for."""
    before = agent.settled(port=port)
    sent = load.send(f"127.0.0.1:{port}")
    agent.wait_received(before, sent, port, gro=gro)
    new = agent.settled(before, port).since(before)
    check(new.received > 0, "something was received")
    each = sent["lines"] // sent["datagrams"]
    lost = load.count - new.datagrams + (new.dropped + each - 1) // each
    return Received(new.datagrams, new.received, new.lane_cpu_ns, lost, sent["rate"])


def null_config(ports: dict[int, bool]) -> str:
    """Listeners by port, each with or without UDP_GRO, into a null."""
    listeners = "".join(
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\ngro = {str(gro).lower()}\n'
        f'receive_buffer = "{RECEIVE_BUFFER_BYTES}B"\n'
        for port, gro in ports.items()
    )
    return f'{listeners}[[output]]\nname = "null"\ntype = "null"\n'


def warm_up(agent_run: AgentRun, ports: dict[int, bool]) -> None:
    """Fault the ring's pages in and find the lane's thread, which gets the receiver's processor."""
    for port, gro in ports.items():
        agent(Load(Lines(), count=30_000, rate=100_000, pack=1432), agent_run, port, gro)
    for cpu in RECEIVER:
        agent_run.pin_lane(cpu)
