"""The way from a full ring to a server that forgets: lines a second and processor time.

The server is stopped (SIGSTOP) while the ring fills, so receiving and flushing do not share the clock. When
it goes on, each of the agent's connections has one body under way already; those lines are not counted.
"""

import signal
import socket
import time
from functools import partial
from pathlib import Path

from isal import isal_zlib

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.harness import Run, check, check_equal
from tests.bench.native import Beside, Body, Lines
from tests.bench.verify import BATCH_LINES, CONCURRENCY, sink_config, verify_receiving

GZIP_LEVEL = 2  # the agent's default


def _compressed(path: Path, bodies: Path) -> tuple[Path, float]:
    """(the bodies compressed by isal, its CPU seconds)."""
    started = time.thread_time()
    packed = [
        Body(isal_zlib.compress(body.data, GZIP_LEVEL, 31), body.lines, True)
        for body in native.read_bodies(bodies)
    ]
    cpu_s = time.thread_time() - started
    return native.write_bodies(path, packed), cpu_s


def _post(bodies: Path, count: int) -> tuple[float, float]:
    """The bare loader: (lines a second, CPU seconds)."""
    with Beside("http_null") as sink:
        posted = native.run(
            "http_post", to=sink.address, path="/api/v2/write", file=bodies, connections=CONCURRENCY
        )
        sink.stop()
    check_equal((posted["lines"], posted["failed"]), (count, 0), "lines of the bare loader")
    return posted["lines_per_s"], posted["cpu_ns"] / 1e9


def _flush(run: Run, lines: Lines, count: int, gzip: bool) -> tuple[float, float]:
    """The agent: (lines a second, CPU seconds for a million lines)."""
    port = free_port(socket.SOCK_DGRAM)
    ring = f"{count * lines.shape * 5 // 4 // 1024 + 1024}KiB"
    with run.place() as folder, Beside("http_null") as sink:
        with AgentRun(folder, sink_config(port, sink.address, gzip=gzip, ring=ring)) as agent:
            _send(agent, port, lines, 12_000)
            before = agent.settled()
            sink.process.send_signal(signal.SIGSTOP)
            _send(agent, port, lines, count)
            check(agent.read().since(before).delivered == 0, "nothing is delivered while the sink stands")
            started_ns, cpu_ns = time.monotonic_ns(), agent.cpu_ns()
            sink.process.send_signal(signal.SIGCONT)
            agent.wait_delivered(before, count)
            cpu_ns = agent.cpu_ns() - cpu_ns
            new = agent.settled(before).since(before)
        counted = sink.stop()
    check_equal(new.retries, 0, "attempts that failed")
    if not gzip:
        check_equal(counted["lines"], count + 12_000, "lines at the sink")
        check_equal(counted["body_bytes"], (count + 12_000) * lines.shape, "bytes at the sink")
    seconds = (counted["last_ns"] - started_ns) / 1e9
    flushed = count - CONCURRENCY * BATCH_LINES
    return flushed / seconds, cpu_ns / flushed / 1e3


def _send(agent: AgentRun, port: int, lines: Lines, count: int) -> None:
    """Send *count* lines, a multiple of twelve, and see each of them received."""
    before = agent.read()
    sent = native.run(
        "udp_send",
        to=f"127.0.0.1:{port}",
        count=count // 12,
        rate=100_000,
        pack=12 * lines.shape,
        segment=True,
        **lines.options,
    )
    check_equal(sent["lines"], count, "lines sent")
    check_lossless(agent.wait_received(before, sent).since(before), "filling the ring")


def measure(run: Run) -> None:
    """With and without gzip, beside a loader that posts the same bodies, ready-made."""
    lines = Lines()
    count = run.size(2_400_000, 240_000)
    for gzip in (False, True):
        verify_receiving(run, lines, pack=1432, gzip=gzip)
    with run.place() as folder:
        bodies = lines.bodies(folder / "bodies", count, BATCH_LINES)
        for gzip in (False, True):
            kind = f"gzip {GZIP_LEVEL}" if gzip else "no gzip"
            speed = run.figure(f"flush, {kind}", "lines/s", baseline="bare loader, ready-made bodies")
            cost = run.figure(
                f"CPU, {kind}",
                "s/M lines",
                baseline="isal alone, and the bare loader" if gzip else "bare loader",
            )
            for _ in run.rounds(kind):
                isal_s, file = 0.0, bodies
                if gzip:
                    file, isal_s = _compressed(folder / "packed", bodies)
                post_rate, post_s = _post(file, count)
                flushed, spent_s = run.retry(partial(_flush, run, lines, count, gzip))
                speed.add(flushed, post_rate)
                cost.add(spent_s, (isal_s + post_s) / count * 1e6)
