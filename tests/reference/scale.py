"""The model of docs/scale.md: what a fleet of agents needs, and the tables that it prints.

    python -m tests.reference.scale                  the tables, which a test holds the page to
    python -m tests.reference.scale --compression    bytes of a metric once compressed, measured

Whoever has measured a figure anew changes it in FIGURES, and puts the tables that come out into the page.
"""

import math
import random
import sys
from dataclasses import dataclass

AGENTS = (10, 100, 1000)


@dataclass(frozen=True)
class Figures:
    """What is put in."""

    metrics_per_agent: float = 1e6
    """A second."""
    batch_metrics: int = 5000
    wire_bytes: float = 30.0
    """Of a metric, in a compressed message."""
    replicas: int = 3
    groups: int = 1
    """Of relays, each of which reads everything."""
    relay_metrics: float = 6e6
    """A second, of a relay that passes through, on one processor."""
    spare: float = 2.0
    """What relays can do, of what comes."""
    broker_disk: float = 300e6
    """Bytes a second that one broker writes for hours."""
    broker_network: float = 1.25e9 / 2
    """Bytes a second in each direction, of a broker: half of 10 Gbit/s."""
    stream_bytes: float = 100e6
    """A second, that one stream of JetStream takes with its replicas."""
    stream_messages: float = 10_000.0
    partition_bytes: float = 20e6
    retention_hours: float = 6.0
    spool_bytes: float = 10 * 2**30


FIGURES = Figures()


@dataclass(frozen=True)
class Sizes:
    """What comes out, for so many agents."""

    figures: Figures
    agents: int

    @property
    def metrics(self) -> float:
        return self.agents * self.figures.metrics_per_agent

    @property
    def messages(self) -> float:
        return self.metrics / self.figures.batch_metrics

    @property
    def wire(self) -> float:
        """Bytes a second that the agents send."""
        return self.metrics * self.figures.wire_bytes

    @property
    def replication(self) -> float:
        """Between brokers."""
        return self.wire * (self.figures.replicas - 1)

    @property
    def disk(self) -> float:
        """Written by all brokers together."""
        return self.wire * self.figures.replicas

    @property
    def brokers_by_disk(self) -> int:
        return math.ceil(self.disk / self.figures.broker_disk)

    @property
    def brokers_by_network(self) -> int:
        """Each gets its share of what comes and of copies, and sends copies and what relays read."""
        into = self.wire * self.figures.replicas
        out = self.wire * (self.figures.replicas - 1 + self.figures.groups)
        return math.ceil(max(into, out) / self.figures.broker_network)

    @property
    def brokers(self) -> int:
        return max(self.figures.replicas, self.brokers_by_disk, self.brokers_by_network)

    @property
    def relays(self) -> int:
        return math.ceil(self.metrics * self.figures.spare / self.figures.relay_metrics)

    @property
    def streams(self) -> int:
        bytes_, messages = self.figures.stream_bytes, self.figures.stream_messages
        return math.ceil(max(self.wire / bytes_, self.messages / messages))

    @property
    def partitions(self) -> int:
        """So many that each relay has two, and none gets more than it can take."""
        return max(2 * self.relays, math.ceil(self.wire / self.figures.partition_bytes))

    @property
    def kept(self) -> float:
        """Bytes on the disks of all brokers."""
        return self.disk * self.figures.retention_hours * 3600


def rounded(value: float, unit: str) -> str:
    """In the unit that leaves up to three digits: ``300 MB/s``."""
    prefixes = iter("kMGTP")
    prefix = ""
    while value >= 999.5:
        value, prefix = value / 1000, next(prefixes)
    digits = f"{value:.0f}" if value >= 99.5 or value == round(value) else f"{value:.1f}"
    return f"{digits} {prefix}{unit}".strip()


def bits(bytes_: float) -> str:
    return rounded(bytes_ * 8, "bit/s")


def sizes_table(figures: Figures = FIGURES) -> str:
    """What each number of agents needs."""
    columns = [Sizes(figures, agents) for agents in AGENTS]
    hours = f"{figures.retention_hours:g}"
    rows = [
        ("metrics a second", [rounded(one.metrics, "") for one in columns]),
        ("messages a second", [f"{one.messages:,.0f}" for one in columns]),
        (
            "from agents to brokers",
            [f"{rounded(one.wire, 'B/s')}, {bits(one.wire)}" for one in columns],
        ),
        ("between brokers", [f"{rounded(one.replication, 'B/s')}" for one in columns]),
        ("from brokers to relays", [rounded(one.wire * figures.groups, "B/s") for one in columns]),
        ("written to the brokers' disks", [rounded(one.disk, "B/s") for one in columns]),
        (f"kept there for {hours} hours", [rounded(one.kept, "B") for one in columns]),
        ("brokers by their disks", [f"{one.brokers_by_disk:,}" for one in columns]),
        ("brokers by their network", [f"{one.brokers_by_network:,}" for one in columns]),
        ("streams of NATS", [f"{one.streams:,}" for one in columns]),
        ("partitions of Kafka", [f"{one.partitions:,}" for one in columns]),
        ("relays, with a processor each", [f"{one.relays:,}" for one in columns]),
        ("lines a second into databases", [rounded(one.metrics, "") for one in columns]),
    ]
    head = "| | " + " | ".join(f"{agents:,} agents" for agents in AGENTS) + " |"
    lines = [head, "|---|" + "---:|" * len(AGENTS)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    return "\n".join(lines)


def busiest(agents: int, partitions: int, rounds: int = 200) -> float:
    """How many agents the busiest partition gets, if chance spreads their ids: the mean of many draws."""
    draw = random.Random(1)
    most = 0
    for _ in range(rounds):
        counts = [0] * partitions
        for _ in range(agents):
            counts[draw.randrange(partitions)] += 1
        most += max(counts)
    return most / rounds


def keys_table(figures: Figures = FIGURES) -> str:
    """How evenly the agents' ids are spread over partitions."""
    lines = ["| agents | partitions | metrics a second each | of the busiest |", "|---:|---:|---:|---:|"]
    for agents in AGENTS:
        sizes = Sizes(figures, agents)
        for partitions in (sizes.partitions, 10 * agents):
            even = rounded(sizes.metrics / partitions, "")
            most = rounded(busiest(agents, partitions) * figures.metrics_per_agent, "")
            lines.append(f"| {agents:,} | {partitions:,} | {even} | {most} |")
    return "\n".join(lines)


def compression() -> None:
    """Bytes of a line in a batch of 5,000, compressed as the agent does it by default."""
    from isal import igzip

    draw, now = random.Random(1), 1_800_000_000 * 10**9

    def gauge() -> str:
        tags = f"cpu=cpu{draw.randrange(8)},dc=eu1,host=web-{draw.randrange(1000):04d}.example.org"
        used = ",".join(f"usage_{name}={draw.random() * 100:.6f}" for name in ("user", "system", "idle"))
        return f"cpu,{tags} {used} {now + draw.randrange(10**8)}\n"

    def counter() -> str:
        tags = f"service=svc{draw.randrange(30)},method=GET,status=200,host=web-{draw.randrange(50):03d}"
        return f"requests,{tags} count={draw.randrange(1000)}i {now + draw.randrange(10**8)}\n"

    for name, line in (("gauges with random digits", gauge), ("counters", counter)):
        body = "".join(line() for _ in range(FIGURES.batch_metrics)).encode()
        packed = igzip.compress(body, compresslevel=2)
        each = len(body) / FIGURES.batch_metrics, len(packed) / FIGURES.batch_metrics
        print(f"{name}: {each[0]:.0f} bytes a line, {each[1]:.0f} compressed")


if __name__ == "__main__":
    if "--compression" in sys.argv:
        compression()
    else:
        print(sizes_table(), keys_table(), sep="\n\n")
