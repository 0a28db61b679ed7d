"""From an edge to a database through a real broker: every line that was accepted arrives."""

from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, free_port, send_udp
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.kafka_broker import kafka_broker
from tests.integration.nats_server import nats_server
from tests.integration.relay import lines
from tests.integration.test_relay_kafka import relay as kafka_relay
from tests.integration.test_relay_nats import fleet, relay

EDGE = """
[agent]
id = "{id}"
[flush]
interval = "20ms"
[[listen]]
address = "udp://127.0.0.1:{port}"
[[output]]
name = "broker"
type = "nats"
servers = ["{url}"]
subject = "metrics.{agent}"
"""


KAFKA = """
[agent]
id = "edge-k"
[flush]
interval = "20ms"
[[listen]]
address = "udp://127.0.0.1:{port}"
[[output]]
name = "broker"
type = "kafka"
brokers = ["{broker}"]
topic = "metrics"
"""


@pytest.mark.needs("java", "mvn")
def test_every_line_gets_to_the_database_through_kafka(tmp_path: Path) -> None:
    for folder in ("edge", "one", "two"):
        (tmp_path / folder).mkdir()
    with kafka_broker(tmp_path) as broker, FakeInfluxDB(2) as database:
        broker.add_topic("metrics", partitions=4)
        port = free_port()
        edge = KAFKA.replace("{port}", str(port)).replace("{broker}", broker.address)
        config = kafka_relay(broker.address, "metrics", database)
        with (
            AgentProcess(tmp_path / "edge", edge) as edge_agent,
            AgentProcess(tmp_path / "one", config) as one,
            AgentProcess(tmp_path / "two", config) as two,
        ):
            for at in range(0, 3000, 20):
                send_udp(port, lines(at, 20))
            edge_agent.wait_for(
                lambda status: status["outputs"][0]["ledger"]["delivered"] == 3000, timeout=60
            )
            wait_until(lambda: len(database.lines) == 3000, 60)
            assert database.lines == set(lines(0, 3000).splitlines(keepends=True))
            for agent in (edge_agent, one, two):
                agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
                assert agent.stop() == 0
        assert not database.problems


@pytest.mark.needs("nats-server")
@pytest.mark.parametrize("read", [False, True])
def test_every_line_gets_from_the_edges_to_the_database(tmp_path: Path, read: bool) -> None:
    for folder in ("a", "b", "relay"):
        (tmp_path / folder).mkdir()
    with nats_server(tmp_path) as server, FakeInfluxDB(2) as database:
        server.add_stream("metrics", "metrics.>")
        ports = [free_port(), free_port()]
        configs = [
            EDGE.replace("{id}", name).replace("{port}", str(port)).replace("{url}", server.url)
            for name, port in zip("ab", ports, strict=True)
        ]
        config = relay(server, database)
        if read:
            config += '[output.filter]\nmeasurement = ["m"]\n'
        with (
            AgentProcess(tmp_path / "a", configs[0]) as one,
            AgentProcess(tmp_path / "b", configs[1]) as two,
            AgentProcess(tmp_path / "relay", config) as behind,
        ):
            for at in range(0, 2000, 20):
                send_udp(ports[0], lines(at, 20))
                send_udp(ports[1], lines(10_000 + at, 20))
            for edge in (one, two):
                edge.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 2000)
            status = behind.wait_for(lambda status: fleet(status)["relay"]["metrics"] == 4000)
            assert fleet(status)["relay"]["carried"] == (0 if read else 4000)
            assert database.lines == set((lines(0, 2000) + lines(10_000, 2000)).splitlines(keepends=True))
            behind.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
            # While the database is gone, nothing is lost either.
            database.rule = lambda: Answer(503)
            for at in range(0, 2000, 20):
                send_udp(ports[0], lines(20_000 + at, 20))
            one.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 4000)
            database.rule = lambda: None
            behind.wait_for(lambda status: fleet(status)["relay"]["metrics"] == 6000)
            wait_until(lambda: len(database.lines) == 6000)
            for agent in (one, two, behind):
                assert agent.stop() == 0
        assert not database.problems
