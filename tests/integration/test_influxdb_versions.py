"""The influxdb output and its delivery against a strict server of each version, and all that can fail."""

import logging
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent._core import Ring, Waker
from agent.config import InfluxOutput
from agent.delivery.delivery import Delivery
from agent.delivery.task import DEFAULTS
from agent.errors import OutputError
from agent.outputs import make
from agent.outputs.base import Kind
from tests.conftest import wait_until
from tests.integration.fake_influxdb import Answer, FakeInfluxDB

VERSIONS = (1, 2, 3)

IDENTITY = {
    1: {"database": "metrics", "username": "writer", "password": "pa:ss"},
    2: {"org": "an org", "bucket": "metrics", "token": "t0ken=="},
    3: {"database": "metrics", "token": "t0ken=="},
}


def config(server, **settings):
    defaults = {"retry_min": 0.001, "retry_max": 0.02, "response_timeout": 10.0, "connect_timeout": 2.0}
    return InfluxOutput(
        name="influx",
        url=server if isinstance(server, str) else server.url,
        **{
            "version": getattr(server, "version", 2),
            **IDENTITY[settings.get("version") or getattr(server, "version", 2)],
            **defaults,
            **settings,
        },
    )


def some_lines(count, start=0):
    return [
        b'cpu,host=a\\ b,n=%d v=1.5,s="x\ny",i=3i %d\n' % (n % 7, 10**18 + n)
        for n in range(start, start + count)
    ]


def post(output, body, metrics=1):
    """One attempt."""
    return output.post(output.encode(memoryview(body), metrics))


class Bench:
    """A delivery to a fake server, fed with batches of a real ring."""

    def __init__(self, server, **settings):
        self.server = server
        self.output = make(config(server, **settings))
        self.delivery = Delivery(self.output)
        self.ring = Ring(None, 8 << 20, Waker(), encoding=self.output.encoding)

    def batch(self, lines):
        assert self.ring.put(b"".join(lines), len(lines))
        return self.ring.take(1 << 30, 1 << 30, True)

    def deliver(self, lines):
        batch = self.batch(lines)
        self.take(batch)
        assert batch.released
        return self.delivery.counters

    def take(self, batch):
        """Deliver one, whatever it takes."""
        assert self.delivery.deliver(self.delivery.live(batch))

    def close(self):
        self.output.close()

    def balance(self):
        """The third law of the ledger."""
        counters, ring = self.delivery.counters, self.ring.stats()
        decided = counters.delivered + counters.rejected + sum(counters.dropped.values())
        assert ring["written"] == decided + ring["waiting"]


@pytest.fixture(params=VERSIONS, ids=["v1", "v2", "v3"])
def server(request):
    with FakeInfluxDB(request.param) as server:
        yield server
        assert server.problems == []


@pytest.fixture
def bench(server):
    bench = Bench(server)
    yield bench
    bench.close()
    bench.balance()


@pytest.mark.parametrize("level", [None, 0, 1, 2, 3])
def test_a_batch_arrives_with_the_right_request(server, level):
    gzip = {"compression": "none"} if level is None else {"compression": "gzip", "compression_level": level}
    bench = Bench(server, **gzip)
    lines = some_lines(1000)
    counters = bench.deliver(lines)
    assert server.lines == set(lines)
    assert (counters.delivered, counters.batches, counters.attempts, counters.retries) == (1000, 1, 1, 0)
    assert counters.requests == {"2xx": 1} and counters.rejected == 0 and counters.dropped == {}
    assert counters.bytes_raw == len(b"".join(lines))
    assert counters.bytes_sent == len(server.requests[0].raw)
    assert (counters.bytes_sent < counters.bytes_raw / 4) == (level is not None)
    bench.close()


def test_connections_are_kept_and_used_again(server, bench):
    for n in range(20):
        bench.deliver(some_lines(3, n * 3))
    assert server.connections == 1 and bench.delivery.counters.delivered == 60


def test_several_requests_are_under_way_at_once_and_batches_come_back_in_any_order(server, bench):
    gates = [threading.Event() for _ in range(4)]
    server.script(*(Answer(gate=gate) for gate in gates))
    batches = [bench.batch(some_lines(10, n * 10)) for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        done = []
        for n, batch in enumerate(batches):
            done.append(threads.submit(bench.take, batch))
            wait_until(lambda n=n: len(server._script) == 3 - n, what="the request to arrive")
        for gate, future in reversed(list(zip(gates, done, strict=True))):
            gate.set()
            future.result(10)
    assert all(batch.released for batch in batches) and len(server.lines) == 40


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_what_a_person_can_mend_is_held_and_said_loudly(server, bench, caplog, status):
    server.script(*[Answer(status, '{"error": "no such thing"}')] * 3)
    counters = bench.deliver(some_lines(5))
    assert (counters.delivered, counters.attempts, counters.retries) == (5, 4, 3)
    assert counters.requests == {f"{status // 100}xx": 3, "2xx": 1}
    held = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(held) == 3 and held[0].status == status and held[0].reason == "no such thing"
    assert bench.delivery.health.state == "ok" and bench.delivery.health.last_error == "no such thing"


def test_a_wrong_token_is_mended_by_a_new_output_without_waiting(server, caplog):
    bench = Bench(
        server, **({"password": "wrong"} if server.version == 1 else {"token": "wrong"}), retry_max=600
    )
    batch = bench.batch(some_lines(5))
    thread = threading.Thread(target=bench.take, args=(batch,))
    thread.start()
    wait_until(lambda: bench.delivery.health.state == "holding")
    assert not batch.released and bench.delivery.counters.delivered == 0
    bench.delivery.reconfigure(mended := make(config(server)), DEFAULTS, None)
    thread.join(10)
    assert batch.released and bench.delivery.counters.delivered == 5
    mended.close()


def test_a_body_that_is_too_large_is_halved_until_it_fits(server, bench):
    lines = some_lines(1000)
    server.body_bytes_max = len(b"".join(lines)) // 3
    counters = bench.deliver(lines)
    assert server.lines == set(lines) and counters.delivered == 1000
    # 1000 → 500, 500 → 250 each, all but the first three of which pass.
    assert (counters.splits, counters.requests) == (3, {"4xx": 3, "2xx": 4})


def test_one_line_that_is_too_large_is_rejected_alone(server, bench, caplog):
    lines = some_lines(20)
    giant = b'cpu v="%s" 5\n' % (b"x" * 5000)
    server.body_bytes_max = 3000
    counters = bench.deliver([*lines[:7], giant, *lines[7:]])
    assert server.lines == set(lines)
    assert (counters.delivered, counters.rejected) == (20, 1)
    rejected = [record for record in caplog.records if "rejected" in record.message]
    assert len(rejected) == 1 and rejected[0].status == 413 and rejected[0].line.startswith('cpu v="xxx')


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retry_after_holds_back_all_batches(server, bench, status):
    server.script(Answer(status, headers={"Retry-After": "0.3"}))
    times = []
    server.rule = lambda: times.append(time.monotonic())
    started = time.monotonic()
    first, second = bench.batch(some_lines(2)), bench.batch(some_lines(2, 2))
    thread = threading.Thread(target=bench.take, args=(first,))
    thread.start()
    wait_until(lambda: bench.delivery.health.state == "retrying")
    bench.take(second)
    thread.join(10)
    assert len(times) == 2 and min(times) - started >= 0.3
    assert bench.delivery.counters.requests == {f"{status // 100}xx": 1, "2xx": 2}


def test_retry_after_as_a_date_is_measured_by_the_servers_clock(server, bench):
    date = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT", "Retry-After": "Thu, 01 Jan 2026 00:00:01 GMT"}
    server.script(Answer(503, headers=date))
    verdict = post(bench.output, b"".join(some_lines(1)))
    assert (verdict.kind, verdict.retry_after) == (Kind.RETRY, 1.0)


@pytest.mark.parametrize("status", [408, 500, 507])
def test_a_fault_of_the_server_is_tried_again(server, bench, status):
    server.script(*[Answer(status, "full")] * 5)
    counters = bench.deliver(some_lines(5))
    assert (counters.delivered, counters.retries) == (5, 5)


@pytest.mark.parametrize("why", ["parse", "conflict"])
def test_bad_lines_cost_themselves_only(server, bench, caplog, why):
    lines = some_lines(100)
    bad = set(lines[10:11] + lines[50:53])
    server.refuse = lambda line: why if line in bad else ""
    counters = bench.deliver(lines)
    assert server.lines == set(lines) - bad
    assert (counters.delivered, counters.rejected) == (96, 4)
    # Only these two name the lines that they refuse and write the others.
    named = server.version == 3 or (server.version == 1 and why == "parse")
    assert (counters.splits == 0) == named and (counters.attempts == 1) == named
    logged = [record for record in caplog.records if "rejected" in record.message]
    assert sum(record.rejected for record in logged) == 4 and all(record.reason for record in logged)


@pytest.mark.parametrize("why", ["parse", "conflict"])
def test_a_batch_of_bad_lines_is_rejected_whole(server, bench, why):
    server.refuse = lambda line: why
    counters = bench.deliver(some_lines(16))
    assert (counters.delivered, counters.rejected) == (0, 16) and not server.lines


@pytest.mark.parametrize("cut", ["early", "reset", "late", "half"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_cut_connection_loses_nothing_and_counts_nothing_twice(server, cut, compression):
    bench = Bench(server, compression=compression)
    server.script(*[Answer(500 if cut == "half" else None, "half of it", cut=cut)] * 2)
    lines = some_lines(20_000)
    counters = bench.deliver(lines)
    assert server.lines == set(lines)
    assert (counters.delivered, counters.requests["2xx"]) == (20_000, 1)
    assert counters.requests["error"] == counters.retries > 0
    bench.close()


@pytest.mark.parametrize("cut", ["early", "reset", "late"])
def test_a_dead_connection_costs_another_try_at_once_and_no_failure(server, cut):
    """The server closes a kept connection just as the next request goes out on it."""
    bench = Bench(server, retry_min=60, retry_max=60)
    bench.deliver(some_lines(2))
    server.script(Answer(cut=cut))
    counters = bench.deliver(some_lines(2, 2))
    assert (counters.delivered, counters.attempts, counters.retries) == (4, 2, 0)
    assert len(server.requests) == 3 and bench.delivery.health.state == "ok"
    bench.close()


def test_a_pool_of_dead_connections_is_no_failure_either(server):
    bench = Bench(server, retry_min=60, retry_max=60, max_concurrency=3)
    gate = threading.Event()
    server.script(*[Answer(gate=gate)] * 3)
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(bench.take, bench.batch(some_lines(2, 2 * n))) for n in range(3)]
        wait_until(lambda: not server._script)
        gate.set()
        [future.result(10) for future in futures]
    assert server.connections == 3
    server.script(Answer(cut="reset"))
    counters = bench.deliver(some_lines(2, 6))
    assert (counters.delivered, counters.retries, server.connections) == (8, 0, 4)
    server.drop_connections()
    batches = [bench.batch(some_lines(2, 8 + 2 * n)) for n in range(9)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(bench.take, batches))
    counters = bench.delivery.counters
    assert (counters.delivered, counters.retries) == (26, 0) and server.connections <= 7
    bench.close()


def test_a_fresh_connection_that_breaks_is_a_failure(server, bench):
    server.script(Answer(cut="reset"))
    verdict = post(bench.output, b"".join(some_lines(1)))
    assert (verdict.kind, verdict.status) == (Kind.RETRY, None)
    assert verdict.text.startswith("connection lost: ") and len(server.requests) == 1


def test_no_answer_in_time_is_tried_again(server):
    bench = Bench(server, response_timeout=0.1)
    gate = threading.Event()
    server.script(Answer(gate=gate))
    verdict = post(bench.output, b"".join(some_lines(1)))
    assert (verdict.kind, verdict.text) == (Kind.RETRY, "timed out while waiting for the answer")
    gate.set()
    assert bench.deliver(some_lines(1)).delivered == 1
    bench.close()


def test_a_server_that_is_not_there_and_then_is():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    output = make(config(address, response_timeout=1.0))
    verdict = post(output, b"m v=1 1\n")
    assert (verdict.kind, verdict.text) == (Kind.RETRY, "cannot connect: Connection refused")
    output.close()


def test_a_server_that_does_not_accept_times_out():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        waiting = []
        # The kernel completes connections up to its backlog; behind that they hang.
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(sock.getsockname())
        output = make(config(f"http://127.0.0.1:{sock.getsockname()[1]}", connect_timeout=0.1))
        verdict = post(output, b"m v=1 1\n")
        assert (verdict.kind, verdict.text) == (Kind.RETRY, "timed out while connecting")
        for one in waiting:
            one.close()


def test_a_name_that_does_not_resolve():
    output = make(config("http://no.such.host.invalid:8086", compression="none"))
    verdict = post(output, b"m v=1 1\n")
    assert verdict.kind is Kind.RETRY and verdict.text.startswith("cannot resolve the name of the host: ")


def test_a_slow_reader_has_the_response_timeout_to_take_the_body():
    """Not the connect timeout, which urllib3 would apply to the sending as well."""
    body = b"m v=1 1\n" * (2 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        output = make(config(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.1))
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(post, output, body, 2 << 20)
            sock, _ = listener.accept()
            with sock:
                # The buffers of both ends are full long before; nothing moves for three connect timeouts.
                assert not threading.Event().wait(0.3) and not future.done()
                head, _, rest = sock.recv(4096, socket.MSG_WAITALL).partition(b"\r\n\r\n")
                assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
                left = len(body) - len(rest)
                while left:
                    left -= len(sock.recv(1 << 20))
                sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert future.result(10).kind is Kind.DELIVERED
    output.close()


def test_an_endless_answer_is_read_to_a_limit(monkeypatch):
    from agent.outputs import exchange

    monkeypatch.setattr(exchange, "ANSWER_BYTES_MAX", 10_000)
    with FakeInfluxDB(2) as server:
        server.script(Answer(500, b"x" * 1_000_000))
        bench = Bench(server)
        counters = bench.deliver(some_lines(3))
        assert (counters.delivered, counters.retries, server.connections) == (3, 1, 2)
        assert len(bench.delivery.health.last_error) == 512
        bench.close()


def test_abort_ends_what_is_under_way(server):
    bench = Bench(server)
    gate = threading.Event()
    server.script(Answer(gate=gate))
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(post, bench.output, b"".join(some_lines(1)))
        wait_until(lambda: not server._script)
        bench.output.abort()
        assert future.result(5).kind is Kind.RETRY
    gate.set()
    assert post(bench.output, b"".join(some_lines(1))).text == "aborted"
    bench.close()


def test_a_url_with_a_path(server):
    server.prefix = "/influx"
    bench = Bench(server)
    assert bench.deliver(some_lines(3)).delivered == 3
    assert bench.output.target == server.url
    bench.close()


def test_optional_parameters_of_version_1_and_no_login():
    with FakeInfluxDB(1) as server:
        bench = Bench(server, username="", password="", retention_policy="a week", consistency="all")
        verdict = post(bench.output, b"".join(some_lines(1)))
        assert (verdict.kind, verdict.status) == (Kind.HOLD, 401)
        assert "Authorization" not in server.requests[0].headers
        assert server.requests[0].query == {
            "db": "metrics",
            "precision": "n",
            "rp": "a week",
            "consistency": "all",
        }
        bench.close()


def test_a_token_that_no_header_can_carry_is_refused_at_once():
    with pytest.raises(OutputError, match="token"):
        make(config("http://127.0.0.1:1", token="abc\n"))


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_balances_under_random_faults(server, seed):
    """Four senders, every fault that the server knows, lines that it refuses: each metric is decided once."""
    chance = random.Random(seed)
    faults = [
        Answer(500),
        Answer(503, headers={"Retry-After": "0.01"}),
        Answer(429),
        Answer(401),
        Answer(404),
        Answer(413),
        Answer(400, "a proxy's words"),
        *(Answer(cut=cut) for cut in ("early", "reset", "late", "half")),
        Answer(200),
    ]
    stolen = []

    def rule():
        fault = chance.choice(faults) if chance.random() < 0.4 else None
        stolen.append(fault is not None and fault.status == 200)
        return fault

    bad = {line for line in some_lines(4000) if chance.random() < 0.002}
    server.refuse = lambda line: "parse" if line in bad else ""
    server.rule = rule
    bench = Bench(server, retry_max=0.005, compression=chance.choice(["gzip", "none"]))
    batches = [bench.batch(some_lines(100, start)) for start in range(0, 4000, 100)]
    chance.shuffle(batches)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(bench.take, batches))
    counters, ring = bench.delivery.counters, bench.ring.stats()
    assert ring["waiting"] == 0 and counters.batches == 40
    assert counters.delivered + counters.rejected == 4000
    # Of what the server said it took, it has all that is good; the random 200 answers stored nothing.
    assert not server.lines & bad and len(server.lines) <= counters.delivered
    if not any(stolen):
        assert len(server.lines) == counters.delivered
    bench.close()
    bench.balance()


def test_nothing_heavy_is_imported_before_the_first_use():
    code = """
import sys
from agent.config import InfluxOutput
from agent.outputs import make
output = make(InfluxOutput(name="a", url="http://127.0.0.1:1", org="o", bucket="b", token="t"))
assert not {"urllib3", "influxdb_client", "http.client"} & sys.modules.keys()
assert output.due() is not None
output.tick()
assert output.due() is None and "influxdb_client" in sys.modules
assert not {"numpy", "pandas"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
