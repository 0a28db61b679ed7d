"""Through a broker: what it costs the edge beside direct delivery, and how much a relay passes on.

All on one machine, the broker too, and the database is a server that forgets; what is compared is the
processor time of the agents alone, so it matters little that they take turns.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.brokers import BROKERS, Broker
from tests.bench.harness import Run, Target, check, check_equal, poll
from tests.bench.native import Beside, Lines

LINES = Lines(series=1000)
BATCH_LINES = 5000
RATE = 200_000
"""Lines a second: two agents, a broker, a sender and a sink have room for it on two processors."""

_FLUSH = f'[flush]\nbatch_lines = {BATCH_LINES}\nbatch_bytes = "1MiB"\n'


def _edge(port: int, output: str) -> str:
    return (
        f'id = "edge"\n[[listen]]\naddress = "udp://127.0.0.1:{port}"\nreceive_buffer = "64MiB"\n'
        f'{_FLUSH}[[output]]\nname = "out"\nmax_concurrency = 4\n{output}\nspool = false\n'
    )


def _relay(listener: str, address: str) -> str:
    return (
        f'id = "relay"\n[[listen]]\nname = "broker"\n{listener}\n'
        f'[[output]]\nname = "out"\n{_direct(address)}spool = false\n'
    )


def _direct(address: str) -> str:
    return (
        f'type = "influxdb"\nurl = "http://{address}"\norg = "o"\nbucket = "b"\ntoken = "t"\n'
        f'compression = "gzip"\n'
    )


def _send(agent: AgentRun, port: int, count: int) -> None:
    before = agent.read()
    sent = native.run(
        "udp_send",
        to=f"127.0.0.1:{port}",
        count=count // 12,
        rate=RATE // 12,
        pack=12 * LINES.shape,
        segment=True,
        **LINES.options,
    )
    check_lossless(agent.wait_received(before, sent).since(before), "the edge")


def _delivered(agents: Sequence[AgentRun]) -> int:
    return sum(one["ledger"]["delivered"] for agent in agents for one in agent.status()["outputs"])


def _cost_direct(run: Run, count: int) -> float:
    """CPU seconds of an agent for a million lines, into a server."""
    port = free_port(socket.SOCK_DGRAM)
    with run.place() as folder, Beside("http_null") as sink:
        with AgentRun(folder, _edge(port, _direct(sink.address))) as agent:
            _send(agent, port, 12_000)
            before, cpu_ns = agent.settled(), agent.cpu_ns()
            _send(agent, port, count)
            agent.wait_delivered(before, count)
            cpu_ns = agent.cpu_ns() - cpu_ns
            check_equal(agent.settled(before).since(before).retries, 0, "attempts that failed")
    return cpu_ns / count / 1e3


def _cost(run: Run, kind: type[Broker], count: int) -> tuple[float, float]:
    """The same of the edge and of the relay, through a broker."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind(stack.enter_context(run.place())))
        broker.prepare(1)
        sink = stack.enter_context(Beside("http_null"))
        relay = stack.enter_context(
            AgentRun(stack.enter_context(run.place()), _relay(broker.listener, sink.address))
        )
        port = free_port(socket.SOCK_DGRAM)
        edge = stack.enter_context(AgentRun(stack.enter_context(run.place()), _edge(port, broker.output)))
        _send(edge, port, 12_000)
        poll(lambda: _delivered([relay]) == 12_000, 60, "the first lines are through")
        before, edge_ns, relay_ns = edge.settled(), edge.cpu_ns(), relay.cpu_ns()
        _send(edge, port, count)
        edge.wait_delivered(before, count)
        edge_ns = edge.cpu_ns() - edge_ns
        poll(lambda: _delivered([relay]) >= count + 12_000, 60, "all lines are through")
        relay_ns = relay.cpu_ns() - relay_ns
        check_equal(_delivered([relay]), count + 12_000, "lines behind the broker")
        check_equal(edge.settled(before).since(before).retries, 0, "attempts that failed")
    return edge_ns / count / 1e3, relay_ns / count / 1e3


def _throughput(run: Run, kind: type[Broker], count: int, relays: int) -> float:
    """Lines a second from finished messages to the sinks, with so many partitions and relays."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind(stack.enter_context(run.place())))
        broker.prepare(relays)
        sink = stack.enter_context(Beside("http_null"))
        agents = [
            stack.enter_context(
                AgentRun(stack.enter_context(run.place()), _relay(broker.listener, sink.address))
            )
            for _ in range(relays)
        ]
        broker.publish(broker.messages(LINES, 8 * BATCH_LINES, BATCH_LINES))
        poll(lambda: _delivered(agents) == 8 * BATCH_LINES, 60, "the first lines are through")
        messages = broker.messages(LINES, count, BATCH_LINES)
        began = time.monotonic()
        broker.publish(messages)
        wanted = count + 8 * BATCH_LINES
        poll(lambda: _delivered(agents) >= wanted, 120, "all lines are through", pause=0.05)
        took = time.monotonic() - began
        check_equal(_delivered(agents), wanted, "lines behind the broker")
    return count / took


def _measure(run: Run, kind: type[Broker]) -> None:
    count = run.size(2_400_000, 120_000)
    edge = run.figure(
        f"edge to {kind.title}",
        "CPU-s/M lines",
        baseline="direct to the database",
        target=Target(1.2, at_least=False, of_ratio=True),
    )
    relay = run.figure(f"relay from {kind.title}", "M lines/core-s", target=Target(3.0, at_least=True))
    for number in run.rounds(kind.title):
        sides = [partial(_cost_direct, run, count), partial(_cost, run, kind, count)]
        results = {side: run.retry(sides[side]) for side in ((0, 1) if number % 2 == 0 else (1, 0))}
        direct, through = results[0], results[1]
        assert isinstance(direct, float) and isinstance(through, tuple)
        edge.add(through[0], direct)
        relay.add(1 / through[1])
        check(through[1] > 0, "the relay did something")
    for relays in (1, 2, 4):
        figure = run.figure(f"{kind.title}, {relays} relays", "M lines/s")
        for _ in run.rounds(f"{kind.title}, {relays} relays", runs=min(run.runs, 3)):
            figure.add(_throughput(run, kind, 2 * count, relays) / 1e6)


def measure(run: Run) -> None:
    """Each broker that is here."""
    for kind in BROKERS:
        _measure(run, kind)
