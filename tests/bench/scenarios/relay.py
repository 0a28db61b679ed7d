"""Through a broker: what it costs the edge beside direct delivery, and how much a relay passes on.

All on one machine, the broker too, and the database is a server that forgets; what is compared is the
processor time of the agents alone, so it matters little that they take turns.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

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


def _relay(listener: str, address: str, more: str = "") -> str:
    return (
        f'id = "relay"\n{more}[[listen]]\nname = "broker"\n{listener}\n'
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


def _cost(run: Run, kind: type[Broker], count: int) -> float:
    """The same through a broker.

    The relay begins when that is measured: on two processors it would take the edge's caches meanwhile, as
    nobody does where they are two machines.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(kind(stack.enter_context(run.place())))
        broker.prepare(1)
        port = free_port(socket.SOCK_DGRAM)
        edge = stack.enter_context(AgentRun(stack.enter_context(run.place()), _edge(port, broker.output)))
        _send(edge, port, 12_000)
        before, cpu_ns = edge.settled(), edge.cpu_ns()
        _send(edge, port, count)
        edge.wait_delivered(before, count)
        cpu_ns = edge.cpu_ns() - cpu_ns
        check_equal(edge.settled(before).since(before).retries, 0, "attempts that failed")
        sink = stack.enter_context(Beside("http_null"))
        relay = stack.enter_context(
            AgentRun(stack.enter_context(run.place()), _relay(broker.listener, sink.address))
        )
        poll(lambda: _delivered([relay]) >= count + 12_000, 60, "all lines are through")
        check_equal(_delivered([relay]), count + 12_000, "lines behind the broker")
    return cpu_ns / count / 1e3


def _delay(run: Run, kind: type[Broker], count: int) -> tuple[float, float]:
    """Milliseconds from the edge's socket to the answer behind the relay: median and 99th percentile."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind(stack.enter_context(run.place())))
        broker.prepare(1)
        sink = stack.enter_context(Beside("http_null"))
        relay = stack.enter_context(
            AgentRun(stack.enter_context(run.place()), _relay(broker.listener, sink.address))
        )
        port = free_port(socket.SOCK_DGRAM)
        edge = stack.enter_context(AgentRun(stack.enter_context(run.place()), _edge(port, broker.output)))
        # Before a relay has joined its group, what comes has to wait for that: too few to be among 1 %.
        few = count // 200 // 12 * 12
        _send(edge, port, few)
        poll(lambda: _delivered([relay]) >= few, 60, "the first lines are through")
        _send(edge, port, count)

        def delay() -> dict[str, float]:
            return relay.status()["delay"].get("out") or {"count": 0}

        # It is of the last minute, and reckoned each second.
        poll(lambda: delay()["count"] >= count, 60, "all lines are through, and timed")
        found = delay()
    return found["p50"] * 1e3, found["p99"] * 1e3


class Throughput(NamedTuple):
    rate: float
    """Lines a second."""
    per_core: float
    """Lines a second of the relays' processor time."""


def _throughput(
    run: Run, kind: type[Broker], count: int, relays: int = 1, latency_ms: int = 0, more: str = ""
) -> Throughput:
    """From finished messages to a sink, with so many partitions and relays."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind(stack.enter_context(run.place())))
        broker.prepare(relays)
        sink = stack.enter_context(Beside("http_null", latency_ms=latency_ms))
        agents = [
            stack.enter_context(
                AgentRun(stack.enter_context(run.place()), _relay(broker.listener, sink.address, more))
            )
            for _ in range(relays)
        ]
        before = 0
        # Kafka gives a new member its partition when the others have heard of it, after seconds.
        for _ in range(200):
            broker.publish(broker.messages(LINES, 4 * relays * BATCH_LINES, BATCH_LINES))
            before += 4 * relays * BATCH_LINES
            poll(lambda: _delivered(agents) == before, 60, "the first lines are through")  # noqa: B023
            if all(_delivered([agent]) for agent in agents):
                break
        check(all(_delivered([agent]) for agent in agents), "every relay has some of it")
        messages = broker.messages(LINES, count, BATCH_LINES)
        began, cpu_ns = time.monotonic(), sum(agent.cpu_ns() for agent in agents)
        broker.publish(messages)
        poll(lambda: _delivered(agents) >= before + count, 120, "all lines are through", pause=0.05)
        took, cpu_ns = time.monotonic() - began, sum(agent.cpu_ns() for agent in agents) - cpu_ns
        check_equal(_delivered(agents), before + count, "lines behind the broker")
    return Throughput(count / took, count / cpu_ns * 1e9)


def _measure(run: Run, kind: type[Broker]) -> None:
    count = run.size(2_400_000, 120_000)
    edge = run.figure(
        f"edge to {kind.title}",
        "CPU-s/M lines",
        baseline="direct to the database",
        target=Target(1.2, at_least=False, of_ratio=True),
    )
    for number in run.rounds(kind.title):
        sides = [partial(_cost_direct, run, count), partial(_cost, run, kind, count)]
        results = {side: run.retry(sides[side]) for side in ((0, 1) if number % 2 == 0 else (1, 0))}
        edge.add(results[1], results[0])
    passed = run.figure(f"relay from {kind.title}", "M lines/core-s", target=Target(3.0, at_least=True))
    # Without a latency one relay takes all the processors that there are here. With one it does not, and
    # what more relays add is seen.
    for latency_ms in (0, 20):
        for relays in (1, 2, 4):
            who = f"{relays} relays" if relays > 1 else "1 relay"
            name = f"{kind.title}, {who}, answers after {latency_ms} ms"
            figure = run.figure(name, "M lines/s")
            for _ in run.rounds(name, runs=min(run.runs, 3)):
                found = _throughput(run, kind, 2 * count, relays, latency_ms)
                figure.add(found.rate / 1e6)
                if relays == 1 and not latency_ms:
                    passed.add(found.per_core / 1e6)
    name = f"relay from {kind.title}, which reads"
    reads = run.figure(name, "M lines/core-s", note="lines get a tag")
    for _ in run.rounds(name, runs=min(run.runs, 3)):
        reads.add(_throughput(run, kind, count, more='tags = { dc = "eu1" }\n').per_core / 1e6)
    name = f"delay through {kind.title}"
    median, high = (
        run.figure(f"{name}, {what}", "ms", note="40 batches a second")
        for what in ("median", "99th percentile")
    )
    for _ in run.rounds(name, runs=min(run.runs, 3)):
        for figure, value in zip((median, high), _delay(run, kind, count), strict=True):
            figure.add(value)


def measure(run: Run) -> None:
    """Each broker that is here."""
    for kind in BROKERS:
        _measure(run, kind)
