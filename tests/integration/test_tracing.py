"""One id of a batch in all places: requests, log, files of the spool, reasons of rejected lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.store.spool_file import metrics_of, parse
from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, free_port, send_udp
from tests.integration.fake_influxdb import Answer, FakeInfluxDB, Request

CONFIG = """
[log]
trace = {trace}
[[listen]]
address = "udp://127.0.0.1:{port}"
[flush]
interval = "20ms"
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
org = "an org"
bucket = "metrics"
token = "t0ken=="
retries = 0
retry_min = "10ms"
retry_max = "50ms"
[output.spool]
min_free_space = "0B"
"""
FAILED, TRACED = "a batch failed on its way", "a batch was traced"


class Bench:
    """An agent and its server."""

    def __init__(self, folder: Path, trace: float) -> None:
        self.server = FakeInfluxDB(2)
        self.port = free_port()
        config = CONFIG.replace("{trace}", str(trace)).replace("{port}", str(self.port))
        self.config = config.replace("{url}", self.server.url)
        self.agent = AgentProcess(folder, self.config)
        self.spool = self.agent.state_dir / "spool" / "influx"
        self.rejected = self.agent.state_dir / "rejected" / "influx"

    def send(self, *lines: bytes) -> None:
        """One batch."""
        send_udp(self.port, b"\n".join(lines))

    def files(self) -> list[str]:
        names = [path.name for path in self.spool.iterdir()] if self.spool.exists() else []
        return [name for name in names if metrics_of(name) is not None]

    def log(self, message: str = "") -> list[dict[str, Any]]:
        """Lines of the log, those of *message* if one is given."""
        lines = [json.loads(line) for line in self.agent.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if message in ("", line["message"])]

    def requests(self, batch: str) -> list[Request]:
        return [one for one in self.server.requests if batch_of(one) == batch]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path, 0.0)
    with one.server:
        yield one
    assert one.server.problems == []


def batch_of(request: Request) -> str:
    """The id that a request tells, in both of its headers."""
    parent = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]", request.headers["traceparent"])
    assert parent is not None and request.headers["User-Agent"].endswith(f" batch/{parent[1]}")
    return parent[1]


def test_one_id_from_the_first_attempt_to_the_rejected_line_over_a_restart(bench: Bench) -> None:
    server = bench.server
    with bench.agent:
        bench.send(b"other v=1 1")
        wait_until(lambda: len(server.requests) == 1)
        other = batch_of(server.requests[0])
        # The server is away: the batch goes to the spool, and the agent stops.
        server.rule = lambda: Answer(503)
        bench.send(b"m v=1 1", b"m bad=1 2", b"m v=1 3")
        wait_until(lambda: len(bench.files()) == 1)
        entry = parse(bench.files()[0])
        assert entry is not None
        batch = entry.batch
        assert bench.agent.stop() == 0
        before = len(bench.requests(batch))
        assert before >= 1 and batch != other
        # The next one finds a server that refuses a line of it, and does not say which.
        server.rule = lambda: None
        server.refuse = lambda line: "conflict" if b"bad=" in line else ""
        bench.agent.start()
        wait_until(lambda: not bench.files() and bench.rejected.exists(), what=bench.agent.log_text())
        wait_until(lambda: len(bench.log(FAILED)) >= 2)
        assert bench.agent.stop() == 0
    later = bench.requests(batch)[before:]
    assert len(later) > 1, "it was to be sent in parts"
    spans = [request.headers["traceparent"] for request in server.requests]
    assert len(set(spans)) == len(spans)
    (reasons,) = [json.loads(path.read_bytes()) for path in bench.rejected.glob("*.json")]
    assert (reasons["batch"], reasons["metrics"]) == (batch, 1)
    # In the log: why it failed, what went wrong with it, what became of it; and of the other one nothing.
    lines = [line for line in bench.log() if line.get("batch") == batch]
    assert {line["message"] for line in lines} == {
        "a delivery failed and will be tried again",
        "a body was refused as a whole and is sent in parts to find why",
        "metrics were rejected for good",
        FAILED,
    }
    assert [line["outcome"] for line in lines if line["message"] == FAILED] == ["spooled", "mixed"]
    last = lines[-1]
    assert len(last["attempts"]) == len(later)
    assert [one["span"] for one in last["attempts"]] == [
        one.headers["traceparent"].split("-")[2] for one in later
    ]
    assert [line for line in bench.log() if line.get("batch") == other] == []
    assert {batch_of(request) for request in server.requests} == {batch, other}


def test_batches_are_logged_with_all_their_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1.0)
    with bench.server as server, bench.agent:
        for number in range(3):
            bench.send(b"m v=1 %d" % number)
            wait_until(lambda number=number: len(bench.log(TRACED)) == number + 1)
        events = bench.log(TRACED)
        assert [event["batch"] for event in events] == [batch_of(request) for request in server.requests]
        for event in events:
            stages = event["stages"]
            assert set(stages) == {"ring", "queue", "encode", "turn", "request"}
            # The interval is waited out in the ring; the attempt is the request, but for reading its answer.
            assert 15 < stages["ring"] < 2000 and event["outcome"] == "delivered"
            (attempt,) = event["attempts"]
            assert attempt["status"] == 204 and 0 <= stages["request"] - attempt["ms"] < 50
            assert (event["metrics"], event["bytes_raw"]) == (1, 8)
        bench.agent.wait_for(lambda status: status["outputs"][0]["ledger"]["batches"] == 3)
        ledger = bench.agent.status()["outputs"][0]["ledger"]
        assert ledger["traced"] == 3 and ledger["on_time"] == 3 and "histograms" not in ledger
        counted = sum(sum(event["stages"].values()) for event in events) / 1e3
        assert sum(ledger["stages"].values()) == pytest.approx(counted, abs=0.001)


def test_the_share_is_changed_by_a_reload(bench: Bench) -> None:
    with bench.agent:
        bench.send(b"m v=1 1")
        wait_until(lambda: len(bench.server.requests) == 1)
        assert bench.agent.reload(bench.config.replace("trace = 0.0", "trace = 1.0"))["applied"]
        bench.send(b"m v=1 2")
        wait_until(lambda: bench.log(TRACED))
        (event,) = bench.log(TRACED)
        assert event["batch"] == batch_of(bench.server.requests[1])
        flags = [request.headers["traceparent"][-2:] for request in bench.server.requests]
        assert flags == ["00", "01"]
