"""What the agent costs when it does nothing: time to start, memory, processor time while idle."""

import socket
import subprocess
import sys
import time

import psutil  # type: ignore[import-untyped,unused-ignore]

from tests.bench import native
from tests.bench.agent_run import AgentRun, free_port, process_cpu_ns
from tests.bench.harness import Run, Target, check_equal
from tests.bench.native import Beside
from tests.bench.verify import sink_config

MB = 1_000_000


def _interpreter_start() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - started


def _idle_share(pid: int, seconds: float) -> float:
    """Per cent of one processor that a process takes over *seconds*."""
    cpu_ns, started = process_cpu_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (process_cpu_ns(pid) - cpu_ns) / (time.monotonic() - started) / 1e7


def _load(agent: AgentRun, port: int, lines: int) -> None:
    before = agent.read()
    sent = native.run(
        "udp_send", to=f"127.0.0.1:{port}", count=lines // 12, rate=50_000, pack=1432, segment=True
    )
    check_equal(sent["lines"], lines, "lines sent")
    agent.wait_delivered(before, agent.wait_received(before, sent).since(before).accepted)
    agent.settled(before)


def measure(run: Run) -> None:
    """One listener, one InfluxDB output with its client loaded."""
    ready = run.figure("start to ready", "s", baseline="python -c pass", target=Target(0.5, at_least=False))
    fresh = run.figure("RSS beside the rings, warmed up", "MB", baseline="an idle interpreter")
    loaded = run.figure(
        "RSS beside the rings, after load",
        "MB",
        baseline="an idle interpreter",
        target=Target(80, at_least=False),
    )
    idle = run.figure(
        "idle CPU",
        "%",
        baseline="an idle interpreter",
        target=Target(0.5, at_least=False),
        note="of one processor",
    )
    rings = run.figure("RSS of the rings, after load", "MB", note="of 64 MiB, each mapping counted")
    idle_seconds = run.size(10, 2)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        for _ in run.rounds("start, load, idle"):
            port = free_port(socket.SOCK_DGRAM)
            bare_start = _interpreter_start()
            with run.place() as folder, Beside("http_null") as sink:
                with AgentRun(folder, sink_config(port, sink.address)) as agent:
                    ready.add(agent.ready_s, bare_start)
                    _load(agent, port, 12 * 100)
                    bare_memory = psutil.Process(sleeper.pid).memory_info().rss
                    fresh.add(agent.memory()[0] / MB, bare_memory / MB)
                    _load(agent, port, run.size(1_200_000, 120_000))
                    beside, ring = agent.memory()
                    loaded.add(beside / MB, bare_memory / MB)
                    rings.add(ring / MB)
                    idle.add(_idle_share(agent.pid, idle_seconds), _idle_share(sleeper.pid, 0.5))
                sink.stop()
    finally:
        sleeper.kill()
        sleeper.wait()
