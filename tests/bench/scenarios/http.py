"""The HTTP door: lines per second of the processor time of the whole agent, in bodies of 5,000 lines."""

import gzip
import socket
from pathlib import Path
from typing import Any

from agent._core import bench_reader
from tests.bench import native
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target, check_equal, processors
from tests.bench.native import Body, Lines

BODY_LINES = 5000
CONNECTIONS = 4
LINES = Lines()
PATH = "/write?db=d"

RECEIVER, SENDER = processors()


def _config(port: int, output: str) -> str:
    return f'[[listen]]\naddress = "http://127.0.0.1:{port}"\n[[output]]\nname = "sink"\n{output}\n'


def _bodies(folder: Path, count: int) -> dict[str, Path]:
    """Files of bodies, as they are and gzipped."""
    plain = LINES.bodies(folder / "plain", count, BODY_LINES)
    packed = [Body(gzip.compress(one.data, 6), one.lines, True) for one in native.read_bodies(plain)]
    return {"plain": plain, "gzip": native.write_bodies(folder / "gzip", packed)}


def _post(port: int, bodies: Path, repeat: int = 1) -> dict[str, Any]:
    sent = native.run(
        "http_post",
        cpus=SENDER,
        to=f"127.0.0.1:{port}",
        path=PATH,
        file=bodies,
        connections=CONNECTIONS,
        repeat=repeat,
    )
    check_equal(sent["failed"], 0, "requests that failed")
    return sent


def _verify(run: Run) -> None:
    """What is posted comes out of the agent line by line, plain and gzipped."""
    count = 4 * BODY_LINES
    expected = sorted(LINES.text(count).splitlines())
    for kind in ("plain", "gzip"):
        with run.place() as folder:
            port, out = free_port(socket.SOCK_STREAM), folder / "out"
            with AgentRun(folder, _config(port, f'type = "file"\npath = "{out}"')) as agent:
                before = agent.read()
                _post(port, _bodies(folder, count)[kind])
                agent.settled(before)
            found = [line for file in sorted(out.iterdir()) for line in file.read_bytes().splitlines()]
            check_equal(sorted(found) == expected, True, f"what arrived is what was posted, {kind}")


def measure(run: Run) -> None:
    """Keep-alive connections, 117-byte lines, into an output that forgets."""
    _verify(run)
    count = run.size(500_000, 50_000)
    with run.place() as folder:
        bodies = _bodies(folder, count)
        text = LINES.text(BODY_LINES)
        port = free_port(socket.SOCK_STREAM)
        config = _config(port, 'type = "null"')
        with AgentRun(folder, config, cpus=RECEIVER) as agent:
            figures = {
                kind: run.figure(
                    f"{kind}, {BODY_LINES:,}-line bodies",
                    "lines/core-s",
                    baseline="the reader alone, from memory",
                    target=Target(3_000_000, at_least=True) if kind == "plain" else None,
                    note="processor time of the whole agent, the kernel's included",
                )
                for kind in bodies
            }
            for _ in run.rounds("posting"):
                alone = bench_reader(text, 0.3)
                for kind, file in bodies.items():
                    before, cpu = agent.read(), agent.cpu_ns()
                    sent = _post(port, file, run.size(6, 1))
                    new = agent.settled(before).since(before)
                    check_equal(new.received, sent["lines"], "lines received")
                    check_equal(new.accepted, sent["lines"], "lines accepted")
                    cpu = agent.cpu_ns() - cpu
                    figures[kind].add(sent["lines"] / cpu * 1e9, alone["lines"] / alone["cpu_ns"] * 1e9)
