"""The spool: how fast batches get into it while the database is away, and out of it once that is back.

Written is what comes while the database refuses connections, by the thread of the spiller and with the group
commit of ``sync = "interval"``; beside it a loop that writes the same bodies to files, and syncs and renames
each as the spool does, in groups. Both write to the disk, not to memory.

Drained is all of it, from the moment in which the database is ready; beside it the bare loader, which posts
the same bodies from memory.
"""

import os
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.databases import InfluxDB
from tests.bench.harness import Run, Target, check_equal, poll
from tests.bench.native import Lines
from tests.bench.verify import BATCH_LINES, CONCURRENCY

LINES = Lines(series=1000)
SENDER_LINES_PER_S = 2_400_000
GROUP_S = 0.1
"""The group commit of ``sync = "interval"``."""


def _config(database_port: int, port: int, count: int) -> str:
    return f"""
[[listen]]
address = "udp://127.0.0.1:{port}"
receive_buffer = "64MiB"

[flush]
batch_lines = {BATCH_LINES}
batch_bytes = "1MiB"

[[output]]
name = "database"
type = "influxdb"
url = "http://127.0.0.1:{database_port}"
{InfluxDB.settings}
compression = "none"
max_concurrency = {CONCURRENCY}
# The database is there a moment before what it is to write to.
retry_max = "100ms"
ring_bytes = "{count * LINES.shape * 5 // 4 // 1024 + 1024}KiB"

[output.spool]
min_free_space = "0B"
"""


def _write_files(folder: Path, bodies: Path, count: int) -> float:
    """Lines a second of a loop that writes each body to a file of its own, safely."""
    parts = [body.data for body in native.read_bodies(bodies)]
    started = committed = time.monotonic()
    waiting: list[tuple[int, Path]] = []
    for number, data in enumerate(parts):
        path = folder / f"{number}.part"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, data)
        waiting.append((fd, path))
        if time.monotonic() >= committed + GROUP_S or number == len(parts) - 1:
            for fd, path in waiting:
                os.fsync(fd)
                os.close(fd)
                path.rename(path.with_suffix(".lp"))
            waiting.clear()
            parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(parent)
            os.close(parent)
            committed = time.monotonic()
    return count / (time.monotonic() - started)


def _loader(bodies: Path, count: int) -> float:
    """Lines a second of the bare loader."""
    with tempfile.TemporaryDirectory() as folder, InfluxDB(Path(folder)) as database:
        posted = native.run(
            "http_post", to=database.address, path=database.path, file=bodies, connections=CONCURRENCY
        )
        check_equal((posted["lines"], posted["failed"]), (count, 0), "lines of the bare loader")
        database.verify(count)
    return float(posted["lines_per_s"])


def _spooled(agent: AgentRun) -> int:
    [output] = agent.status()["outputs"]
    return int(output["ledger"]["spooled"])


def _agent(run: Run, count: int) -> tuple[float, float]:
    """The agent: lines a second into the spool, and out of it."""
    port, database_port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
    with run.place() as place, tempfile.TemporaryDirectory() as disk:
        config = _config(database_port, port, count)
        with AgentRun(place, config, state=Path(disk) / "state") as agent:
            before = agent.settled()
            written = _write(agent, port, count)
            with InfluxDB(Path(disk), database_port) as database:
                started = time.monotonic()
                agent.wait_delivered(before, count)
                drained = count / (time.monotonic() - started)
                database.verify(count)
            check_equal(agent.settled(before).since(before).dropped, 0, "lines dropped")
    return written, drained


def _write(agent: AgentRun, port: int, count: int) -> float:
    """Fill the spool; lines a second, between a tenth and nine tenths of them.

    The first batches are tried first, and the last second stays in the ring while the database is away.
    """
    before = agent.read()
    looks: list[tuple[float, int]] = []

    def look() -> bool:
        looks.append((time.monotonic(), _spooled(agent)))
        return looks[-1][1] >= count * 0.9

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(
            native.run,
            "udp_send",
            to=f"127.0.0.1:{port}",
            count=count // 12,
            rate=SENDER_LINES_PER_S // 12,
            pack=12 * LINES.shape,
            segment=True,
            **LINES.options,
        )
        poll(look, 120, "nine tenths in the spool")
        check_lossless(agent.wait_received(before, sending.result()).since(before), "filling the spool")
    first = next(number for number, (_, spooled) in enumerate(looks) if spooled >= count * 0.1)
    (began, least), (ended, most) = looks[max(first - 1, 0)], looks[-1]
    return (most - least) / (ended - began)


def measure(run: Run) -> None:
    """Into the spool and out of it, in one go, beside plain files and the bare loader."""
    count = run.size(2_400_000, 240_000)
    into = run.figure("written to the spool", "lines/s", baseline="plain files, synced in groups")
    out = run.figure(
        "drained into InfluxDB",
        "lines/s",
        baseline="bare loader, the same bodies from memory",
        target=Target(0.8, at_least=True, of_ratio=True),
    )
    with run.place() as folder:
        bodies = LINES.bodies(folder / "bodies", count, BATCH_LINES)
        for _ in run.rounds("spool"):
            with tempfile.TemporaryDirectory() as disk:
                plain = _write_files(Path(disk), bodies, count)
            loaded = _loader(bodies, count)
            written, drained = run.retry(partial(_agent, run, count))
            into.add(written, plain)
            out.add(drained, loaded)
