"""A relay behind a real NATS server: what it takes, passes on, acknowledges, and does not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess
from tests.integration.fake_influxdb import FakeInfluxDB
from tests.integration.nats_server import NatsServer, nats_server
from tests.integration.relay import lines, message, publish_nats

pytestmark = pytest.mark.needs("nats-server")

OUTPUT = """
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
version = 2
org = "an org"
bucket = "metrics"
token = "t0ken=="
retry_max = "200ms"
spool = {spool}
"""


def relay(server: NatsServer, database: FakeInfluxDB, *, listen: str = "", spool: str = "false") -> str:
    output = OUTPUT.replace("{url}", database.url).replace("{spool}", spool)
    return f"""
[agent]
drain_timeout = "5s"
[[listen]]
name = "fleet"
address = "{server.url}"
subject = "metrics.>"
{listen}
{output}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        yield server


@pytest.fixture
def database() -> Iterator[FakeInfluxDB]:
    with FakeInfluxDB(2) as database:
        yield database
        assert not database.problems


def fleet(status: dict[str, Any]) -> dict[str, Any]:
    [listener] = [one for one in status["listeners"] if one["name"] == "fleet"]
    return listener


def undecided(server: NatsServer, durable: str = "penstock") -> int:
    """Messages that the server would bring (again)."""

    async def ask(stream: Any) -> int:
        info = await stream.consumer_info("metrics", durable)
        return int(info.num_pending + info.num_ack_pending)

    return server.run(ask)


def settled(agent: AgentProcess, check: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    status = agent.wait_for(lambda status: check(status))
    assert agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
    return status


def test_messages_go_through_as_bytes_and_are_forgotten(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    sent = [message(10 * n) for n in range(50)]
    publish_nats(server, "metrics.edge-1", sent)
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 50)
        one = fleet(status)
        assert (one["received"], one["accepted"], one["datagrams"]) == (500, 500, 50)
        assert (one["relay"]["metrics"], one["relay"]["carried"]) == (500, 500)
        assert one["relay"]["bytes"] == sum(len(data) for _, data in sent)
        assert one["relay"]["in_flight_bytes"] == 0 and one["relay"]["connected"]
        ledger = status["outputs"][0]["ledger"]
        assert (ledger["carried"], ledger["delivered"], ledger["written"]) == (500, 500, 0)
        assert {request.raw for request in database.requests} == {data for _, data in sent}
        wait_until(lambda: undecided(server) == 0)
        assert database.lines == set(lines(0, 500).splitlines(keepends=True))
        assert agent.stop() == 0
