"""The delay of a line, from the socket to the acknowledgement, at a steady load.

The lines come without timestamps, so the agent stamps each with its arrival. A recorder between agent and
database notes when the database has answered for each body; what lies between the stamp of a line and that
answer is its delay. So the recorder's own time counts as the agent's.
"""

import http.client
import socket
import tempfile
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.databases import InfluxDB
from tests.bench.harness import Run, Target, check_equal
from tests.bench.native import Beside, Lines
from tests.bench.verify import CONCURRENCY

LINES = Lines(series=1000, no_timestamps=True)
LINES_PER_S = 100_000
INTERVAL_MS = 200
OVERHEAD_MS = 20
"""What the agent may add to the interval and to the database's own time."""

WARM_UP_S = 2


class Post(NamedTuple):
    """One body, when it was answered (ns since 1970), and how long the database took for it."""

    body: bytes
    answered_ns: int
    took_s: float


class Recorder(ThreadingHTTPServer):
    """Passes each body on to *target*, and keeps it with the times."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.posts: list[Post] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.upstream = http.client.HTTPConnection(self.server.target)

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        began = time.monotonic()
        self.upstream.request("POST", self.path, body)
        answer = self.upstream.getresponse()
        answer.read()
        took = time.monotonic() - began
        self.server.posts.append(Post(body, time.time_ns(), took))
        self.wfile.write(b"HTTP/1.1 %d Answer\r\nContent-Length: 0\r\n\r\n" % answer.status)


def _config(port: int, recorder: int) -> str:
    return f"""
[[listen]]
address = "udp://127.0.0.1:{port}"
receive_buffer = "64MiB"

[flush]
interval = "{INTERVAL_MS}ms"

[[output]]
name = "recorder"
type = "influxdb"
url = "http://127.0.0.1:{recorder}"
{InfluxDB.settings}
compression = "none"
max_concurrency = {CONCURRENCY}
"""


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _measure(run: Run, target: str, seconds: int) -> tuple[float, float, float]:
    """(median, 99th percentile, the database's own 99th percentile), all in milliseconds by lines."""
    port = free_port(socket.SOCK_DGRAM)
    with run.place() as folder, Recorder(target) as recorder:
        with AgentRun(folder, _config(port, recorder.server_port)) as agent:
            before = agent.settled()
            sent = native.run(
                "udp_send",
                to=f"127.0.0.1:{port}",
                seconds=WARM_UP_S + seconds,
                rate=LINES_PER_S,
                segment=True,
                burst=LINES_PER_S // 1000,
                **LINES.options,
            )
            check_lossless(agent.wait_received(before, sent).since(before), "a steady load")
            agent.wait_delivered(before, sent["lines"])
            new = agent.settled(before).since(before)
            check_equal(new.retries, 0, "attempts that failed")
        posts = recorder.posts
    delays: list[float] = []
    own: list[float] = []
    starts = min(_stamps(posts[0].body)) + WARM_UP_S * 10**9
    count = 0
    for post in posts:
        stamps = _stamps(post.body)
        count += len(stamps)
        late = [(post.answered_ns - stamp) / 1e6 for stamp in stamps if stamp >= starts]
        delays += late
        own += [post.took_s * 1e3] * len(late)
    check_equal(count, sent["lines"], "lines at the database")
    return _percentile(delays, 0.5), _percentile(delays, 0.99), _percentile(own, 0.99)


def _stamps(body: bytes) -> list[int]:
    return [int(line.rpartition(b" ")[2]) for line in body.splitlines()]


def measure(run: Run) -> None:
    """Into a server that forgets, and into a real database."""
    seconds = run.size(10, 2)
    for kind in ("nowhere", "InfluxDB"):
        median = run.figure(f"delay into {kind}, median", "ms")
        high = run.figure(
            f"delay into {kind}, 99th percentile",
            "ms",
            baseline=f"interval, and the 99th percentile of {kind} alone",
            note=f"{LINES_PER_S:,} lines/s, interval {INTERVAL_MS} ms; at most {OVERHEAD_MS} ms above it",
        )
        above = run.figure(
            f"delay into {kind}, above the baseline", "ms", target=Target(OVERHEAD_MS, at_least=False)
        )
        for _ in run.rounds(kind):
            if kind == "nowhere":
                with Beside("http_null") as sink:
                    found = run.retry(partial(_measure, run, sink.address, seconds))
            else:
                with tempfile.TemporaryDirectory() as folder, InfluxDB(Path(folder)) as database:
                    found = run.retry(partial(_measure, run, database.address, seconds))
            p50, p99, own = found
            median.add(p50)
            high.add(p99, INTERVAL_MS + own)
            above.add(p99 - own - INTERVAL_MS)
