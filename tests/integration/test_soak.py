"""A soak: changing load, random faults of the server and the network, reloads; at the end an exact account.

Every line has a number of its own. At the end each is either at the server or, where the server refuses it,
in a file of rejected metrics with its reason; the ledger says the same; and the agent has no more memory,
threads or descriptors than before. Everything that is random comes from a seed, which is printed.
"""

import json
import os
import random
import re
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from agent.store.spool import PENDING_MAX
from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, assert_balanced, output
from tests.integration.fault_proxy import Fault, FaultProxy

LINES_PER_S_MAX = 20_000
DATAGRAM_LINES = 50
BAD_EACH = 997
"""One line of so many is refused by the server for good."""

GROWTH_KIB_MAX = 24 << 10
GROWTH_THREADS_MAX = 4
GROWTH_DESCRIPTORS_MAX = 12
REST_S = 120.0

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
ASKS_FOR_PEACE = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nslow"
STRANGER = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops"

FAULTS = [
    Fault(stall=True),
    Fault(stall=True, forget=True),
    Fault(delay_s=0.05),
    Fault(cut_after=0),
    Fault(cut_after=5000),
    Fault(cut_after=5000, reset=True),
    Fault(truncate_after=10),
    *(Fault(answer=answer) for answer in (UNAVAILABLE, ASKS_FOR_PEACE, STRANGER, BROKEN)),
]

CONFIG = """
[flush]
batch_lines = {batch_lines}
interval = "{interval}ms"

[[listen]]
name = "door"
address = "unixgram://{folder}/door.sock"

[[output]]
name = "stormy"
type = "influxdb"
version = 3
url = "{url}"
database = "d"
token = "t"
ring_bytes = "8MiB"
response_timeout = "2s"
batch_timeout = "5s"
retry_max = "1s"
max_concurrency = {concurrency}
order = "{order}"
compression = "{compression}"
{spool}

[[output]]
name = "calm"
type = "null"
"""


def is_bad(number: int) -> bool:
    return number % BAD_EACH == 0


class Server(ThreadingHTTPServer):
    """Takes what version 3 takes, refuses each bad line by its number, and notes which lines it has."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.has = bytearray()
        self.lock = threading.Lock()
        self.posts = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error here."""

    def note(self, numbers: list[int]) -> None:
        with self.lock:
            self.posts += 1
            missing = max(numbers, default=-1) + 1 - len(self.has)
            self.has.extend(bytes(max(missing, 0)))
            for number in numbers:
                self.has[number] = 1

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        if self.headers["Content-Encoding"] == "gzip":
            from isal import isal_zlib

            body = isal_zlib.decompress(body, 31)
        numbers = [int(number) for number in re.findall(rb"v=(\d+)i", body)]
        bad = [
            {"line_number": at, "error_message": f"bad {number}", "original_line": ""}
            for at, number in enumerate(numbers, 1)
            if is_bad(number)
        ]
        self.server.note([number for number in numbers if not is_bad(number)])
        if not bad:
            self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        text = json.dumps({"error": "partial write of line protocol occurred", "data": bad}).encode()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


class Traffic(threading.Thread):
    """Numbered lines into a Unix socket, at a rate that changes."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        super().__init__(name="traffic", daemon=True)
        self._path = str(path)
        self._chance = chance
        self._over = threading.Event()
        self.sent = 0
        self.failure: OSError | None = None

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(self._path)
            rate, until, due = 1000.0, 0.0, time.monotonic()
            while not self._over.wait(max(due - time.monotonic(), 0.0)):
                if time.monotonic() >= until:
                    rate = self._chance.choice([200, 2000, 8000, LINES_PER_S_MAX])
                    until = time.monotonic() + self._chance.uniform(0.2, 2.0)
                due = max(due, time.monotonic() - 0.1) + DATAGRAM_LINES / rate
                numbers = range(self.sent, self.sent + DATAGRAM_LINES)
                try:
                    sock.send(b"".join(b"m,t=%d v=%di %d\n" % (n % 7, n, n + 1) for n in numbers))
                except OSError as error:
                    self.failure = error
                    return
                self.sent += DATAGRAM_LINES

    def finish(self) -> int:
        self._over.set()
        self.join(10)
        assert self.failure is None, self.failure
        return self.sent


@dataclass
class Possessions:
    """The most that a process had at any time, beside the files that it has mapped."""

    memory_kib: int = 0
    threads: int = 0
    descriptors: int = 0

    def look(self, pid: int) -> None:
        process = psutil.Process(pid)
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        [memory] = [line.split()[1] for line in status if line.startswith("RssAnon:")]
        self.memory_kib = max(self.memory_kib, int(memory))
        self.threads = max(self.threads, process.num_threads())
        self.descriptors = max(self.descriptors, process.num_fds())


def settings(chance: random.Random, url: str) -> str:
    """Some configuration, now and then without a spool, but never for so long that the ring runs over."""
    values = {
        "url": url,
        "batch_lines": chance.choice([50, 500, 5000]),
        "interval": chance.choice([10, 100]),
        "concurrency": chance.choice([1, 2, 4]),
        "order": chance.choice(["fresh_first", "fresh_first", "oldest_first"]),
        "compression": chance.choice(["none", "gzip"]),
        "sync": chance.choice(["interval", "never", "always"]),
        "spill_at": chance.choice([0.01, 0.1, 0.7]),
    }
    spool = 'min_free_space = "0B"\nsync = "{sync}"\nspill_at = {spill_at}'
    text = CONFIG.replace("{spool}", f"[output.spool]\n{spool}" if chance.random() < 0.8 else "spool = false")
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def first_settings(url: str) -> str:
    """What it begins and ends with, so that the spool is there to be emptied."""
    return settings(random.Random(3), url)


def storm(chance: random.Random, agent: AgentProcess, proxy: FaultProxy) -> None:
    """One thing that happens."""
    kind = chance.choices(["fault", "refuse", "drop", "reload", "calm"], [8, 2, 2, 3, 3])[0]
    if kind == "fault":
        proxy.fault = chance.choice(FAULTS)
    elif kind == "refuse":
        proxy.refuse()
    elif kind == "drop":
        proxy.drop_connections(reset=chance.random() < 0.5)
    elif kind == "reload":
        assert agent.reload(settings(chance, proxy.url))["applied"], agent.log_text()
    else:
        proxy.heal()


def weather(chance: random.Random, agent: AgentProcess, proxy: FaultProxy, seconds: float) -> Possessions:
    """So many seconds of storms; what the agent had meanwhile."""
    has = Possessions()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        storm(chance, agent, proxy)
        time.sleep(chance.uniform(0.1, 1.5))
        has.look(agent.pid)
    return has


@pytest.mark.parametrize(
    "seconds",
    [12, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["short", "long"],
)
def test_a_soak_ends_with_an_exact_account(tmp_path: Path, seconds: int) -> None:
    seed = int(os.environ.get("PENSTOCK_SOAK_SEED", "0")) or random.randrange(1, 1 << 30)
    print(f"PENSTOCK_SOAK_SEED={seed}")
    chance = random.Random(seed)
    with Server() as server, FaultProxy("127.0.0.1", server.server_port) as proxy:
        with AgentProcess(tmp_path, first_settings(proxy.url)) as agent:
            traffic = Traffic(tmp_path / "door.sock", random.Random(seed + 1))
            traffic.start()
            # A storm of its own first: threads start when they are first needed, and memory is taken.
            at_first = psutil.Process(agent.pid).num_fds()
            before = weather(chance, agent, proxy, seconds * 0.3)
            after = weather(chance, agent, proxy, seconds * 0.7)
            proxy.heal()
            assert agent.reload(first_settings(proxy.url))["applied"]
            sent = traffic.finish()
            settle(agent, sent)
            check(agent, server, sent, tmp_path)
            print(f"{sent} lines, {server.posts} posts; {before}, then {after}")
            assert after.memory_kib - before.memory_kib < GROWTH_KIB_MAX
            assert after.threads - before.threads <= GROWTH_THREADS_MAX
            # A spool has a file open for each body that waits for its commit.
            assert after.descriptors - at_first <= PENDING_MAX + GROWTH_DESCRIPTORS_MAX
            assert psutil.Process(agent.pid).num_fds() - at_first <= GROWTH_DESCRIPTORS_MAX
            assert agent.stop(60) == 0


def settle(agent: AgentProcess, sent: int) -> None:
    """Wait until all that was sent is decided."""

    def decided() -> bool:
        status = agent.status()
        account = output(status, "stormy")
        done = account["delivered"] + account["rejected"] + sum(account["dropped"].values())
        return bool(account["written"] == sent == done and status["ledger"]["balance"] == "balanced")

    wait_until(decided, REST_S, "everything decided")


def check(agent: AgentProcess, server: Server, sent: int, folder: Path) -> None:
    """The account, and what is really there."""
    status = agent.status()
    assert_balanced(status)
    account = output(status, "stormy")
    bad = [number for number in range(sent) if is_bad(number)]
    assert (account["missed"], account["dropped"], account["restored"]) == (0, {}, 0)
    assert (account["delivered"], account["rejected"]) == (sent - len(bad), len(bad))
    assert output(status, "calm")["delivered"] == sent
    absent = [number for number in range(sent) if not is_bad(number) and not server.has[number : number + 1]]
    absent += [number for number, has in enumerate(server.has) if not has and not is_bad(number)]
    assert absent == []
    rejected: list[int] = []
    for file in (folder / "state" / "rejected" / "stormy").glob("*.lp"):
        numbers = [int(number) for number in re.findall(rb"v=(\d+)i", file.read_bytes())]
        reasons = file.with_suffix(".json").read_text()
        assert all(f"bad {number}" in reasons for number in numbers), reasons
        rejected += numbers
    assert sorted(rejected) == bad
    assert not list((folder / "state" / "spool" / "stormy").glob("*.lp*"))
