"""A fleet through Kafka: whatever is killed of it, and whoever comes and goes, what was sent is stored."""

from pathlib import Path

import pytest

from tests.integration.agent_process import assert_balanced, listener
from tests.integration.fleet import Fleet, VictoriaDatabase, start_again
from tests.integration.kafka_broker import KafkaBroker, kafka_broker
from tests.integration.servers import victoria_metrics
from tests.integration.test_fleet_nats import EDGES, LINES_PER_S, RELAYS, kill_agent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOPIC = "metrics"
PARTITIONS = 6


def publishes(broker: KafkaBroker) -> str:
    return f'type = "kafka"\nbrokers = ["{broker.address}"]\ntopic = "{TOPIC}"\n'


def listens(broker: KafkaBroker) -> str:
    return (
        f'address = "kafka://{broker.address}"\ntopic = "{TOPIC}"\n'
        # Of a relay that died the group hears nothing for so long, then the others get its partitions.
        '[listen.options]\n"session.timeout.ms" = "6000"\n'
    )


def test_whatever_is_killed_and_whoever_comes_and_goes_every_line_arrives(tmp_path: Path) -> None:
    with (
        victoria_metrics(tmp_path, "-dedup.minScrapeInterval=1ms") as server,
        kafka_broker(tmp_path) as broker,
    ):
        broker.add_topic(TOPIC, PARTITIONS)
        with Fleet(
            tmp_path,
            VictoriaDatabase(server),
            edges=EDGES,
            relays=RELAYS,
            output=publishes(broker),
            listener=listens(broker),
        ) as fleet:
            fleet.load(LINES_PER_S)
            fleet.go_on(EDGES * LINES_PER_S)
            for turn in range(2):
                broker.kill()
                broker.start()
                fleet.go_on(EDGES * LINES_PER_S)
                kill_agent(fleet, fleet.relays[turn])
                kill_agent(fleet, fleet.edges[turn])
                # One relay fewer, two fewer, and all of them again: partitions move each time.
                for relay in fleet.relays[1:]:
                    assert relay.stop() == 0
                    fleet.go_on(EDGES * LINES_PER_S // 2)
                for relay in fleet.relays[1:]:
                    start_again(relay)
                    fleet.go_on(EDGES * LINES_PER_S // 2)
            fleet.end_load()
            fleet.wait_stored()
            print(f"{sum(fleet.sent)} lines of {EDGES} agents, every one stored")
            for agent in (*fleet.edges, *fleet.relays):
                assert_balanced(agent.status())
            relays = [listener(agent.status(), "broker")["relay"] for agent in fleet.relays]
            assert sum(one["metrics"] for one in relays) == sum(one["carried"] for one in relays) > 0
            assert sum(one["expired"] for one in relays) == 0
            fleet.check_view()
