"""End to end into a real database, beside a bare loader that posts the same bodies.

Fair to both: a fresh database for each round, the same bodies' worth of lines, the same number of requests in
flight, the agent's ring large enough for the whole burst and not for the spool to be needed, the first
datagram starts the clock and the last line delivered stops it, and what is sent lies ready on both sides: the
processors are the database's. Both warm the database up, and the agent its
client, with a few lines of another measurement. Then the database is asked for what it holds.

Rings and bodies lie in memory: 1.5 GB of it with VictoriaMetrics, whose rounds are long.
"""

import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.databases import Database, InfluxDB, VictoriaMetrics
from tests.bench.harness import Run, Target, check_equal
from tests.bench.native import Lines
from tests.bench.verify import BATCH_LINES, CONCURRENCY

LINES = Lines(series=1000)
WARM_UP = Lines(shape=64)
WARM_UP_LINES = 2000
SENDER_LINES_PER_S = 1_500_000
"""Past what either database takes, and slow enough for the lane not to lose any."""

INTERVAL_MS = 50
"""Only the last batch waits for it; short, because a burst of seconds stands for a stream without end."""


def _config(database: Database, port: int, count: int) -> str:
    return f"""
[[listen]]
address = "udp://127.0.0.1:{port}"
receive_buffer = "64MiB"

[flush]
batch_lines = {BATCH_LINES}
batch_bytes = "1MiB"
interval = "{INTERVAL_MS}ms"

[[output]]
name = "database"
type = "influxdb"
url = "http://{database.address}"
{database.settings}
compression = "none"
max_concurrency = {CONCURRENCY}
ring_bytes = "{count * LINES.shape * 8 // 5 // 1024 + 1024}KiB"
"""


def _loader(kind: type[Database], bodies: Path, warm_up: Path, count: int) -> float:
    """Lines a second of the bare loader."""
    # The data lies on the disk, as a database's does.
    with tempfile.TemporaryDirectory() as folder, kind(Path(folder)) as database:
        options: dict[str, Any] = {
            "to": database.address,
            "path": database.path,
            "header": ["Authorization: Token t"],
        }
        native.run("http_post", file=warm_up, **options)
        posted = native.run("http_post", file=bodies, connections=CONCURRENCY, **options)
        check_equal((posted["lines"], posted["failed"]), (count, 0), "lines of the bare loader")
        database.verify(count)
    return float(posted["lines_per_s"])


def _agent(run: Run, kind: type[Database], count: int) -> float:
    """Lines a second of the agent, from the first datagram to the last line delivered."""
    port = free_port(socket.SOCK_DGRAM)
    with (
        run.place() as place,
        tempfile.TemporaryDirectory() as folder,
        kind(Path(folder)) as database,
        AgentRun(place, _config(database, port, count)) as agent,
    ):
        start = agent.read()
        native.run("udp_send", to=f"127.0.0.1:{port}", count=WARM_UP_LINES, rate=100_000, **WARM_UP.options)
        agent.wait_delivered(start, WARM_UP_LINES)
        before = agent.settled()
        sent = native.run(
            "udp_send",
            to=f"127.0.0.1:{port}",
            count=count // 12,
            rate=SENDER_LINES_PER_S // 12,
            pack=12 * LINES.shape,
            segment=True,
            asleep=True,
            ready=True,
            **LINES.options,
        )
        check_lossless(agent.wait_received(before, sent).since(before), "end to end")
        agent.wait_delivered(before, count)
        end_ns = time.monotonic_ns()
        new = agent.settled(before).since(before)
        check_equal(new.retries, 0, "attempts that failed")
        database.verify(count)
    return float(count / (end_ns - sent["start_ns"]) * 1e9)


def _measure(kind: type[Database], full: int, run: Run) -> None:
    count = run.size(full, 120_000)
    figure = run.figure(
        f"end to end into {kind.__name__}",
        "lines/s",
        baseline="bare loader, the same bodies ready-made",
        target=Target(0.9, at_least=True, of_ratio=True),
        note=f"{count:,} lines of three fields, {LINES.series:,} hosts",
    )
    with run.place() as folder:
        bodies = LINES.bodies(folder / "bodies", count, BATCH_LINES)
        warm_up = WARM_UP.bodies(folder / "warm-up", WARM_UP_LINES, WARM_UP_LINES)
        for number in run.rounds(kind.__name__):
            sides = [
                partial(_loader, kind, bodies, warm_up, count),
                partial(run.retry, partial(_agent, run, kind, count)),
            ]
            # Each side goes first in turn, so that neither always has the quieter disk.
            order = (0, 1) if number % 2 == 0 else (1, 0)
            rates = {side: sides[side]() for side in order}
            figure.add(rates[1], rates[0])


def measure_influxdb(run: Run) -> None:
    """Version 1, a real InfluxDB 1.6.7."""
    _measure(InfluxDB, 1_200_000, run)


def measure_victoriametrics(run: Run) -> None:
    """Version 2, a real VictoriaMetrics."""
    _measure(VictoriaMetrics, 4_800_000, run)
