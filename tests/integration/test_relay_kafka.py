"""A relay behind a real Kafka broker: what it takes, passes on, commits, and does not."""

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.kafka_broker import KafkaBroker, kafka_broker
from tests.integration.relay import lines, message, publish_kafka
from tests.integration.test_relay_nats import OUTPUT, Gate, fleet, kept, settled

pytestmark = pytest.mark.needs("java", "mvn")

TOPICS = (f"relay-{number}" for number in count())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as started:
        yield started


@pytest.fixture
def topic(broker: KafkaBroker) -> str:
    name = next(TOPICS)
    broker.add_topic(name, partitions=2)
    return name


@pytest.fixture
def database() -> Iterator[FakeInfluxDB]:
    with FakeInfluxDB(2) as database:
        yield database
        assert not database.problems


def relay(address: str, topic: str, database: FakeInfluxDB, listen: str = "") -> str:
    output = OUTPUT.replace("{url}", database.url).replace("{spool}", "false")
    return f"""
[agent]
drain_timeout = "5s"
[[listen]]
name = "fleet"
address = "kafka://{address}"
topic = "{topic}"
group = "{topic}"
{listen}
{output}
"""


def committed(broker: KafkaBroker, topic: str, partitions: int = 2) -> dict[int, int]:
    """Where the group of that name is; -1 where it never was."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": topic, "log_level": 0})
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        return {one.partition: max(one.offset, -1) for one in consumer.committed(places, timeout=30)}
    finally:
        consumer.close()


def folders(tmp_path: Path, *names: str) -> list[Path]:
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


def test_messages_go_through_as_bytes_and_their_offsets_are_committed(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    sent = [message(10 * n) for n in range(60)]
    publish_kafka(broker, topic, sent[:40], 0)
    publish_kafka(broker, topic, sent[40:], 1)
    with AgentProcess(tmp_path, relay(broker.address, topic, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 60)
        one = fleet(status)
        assert (one["received"], one["accepted"], one["datagrams"]) == (600, 600, 60)
        assert one["relay"]["carried"] == 600 and one["relay"]["connected"]
        assert {request.raw for request in database.requests} == {data for _, data in sent}
        wait_until(lambda: committed(broker, topic) == {0: 40, 1: 20}, 30)
        assert agent.stop() == 0
    assert database.lines == set(lines(0, 600).splitlines(keepends=True))


def test_what_is_behind_an_undecided_message_is_not_committed(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    publish_kafka(broker, topic, [message(10 * n) for n in range(20)])
    late = lines(50, 10)
    refused = {"on": True}
    rule = database.write

    def write(body: bytes) -> tuple[int, bytes]:
        return (503, b"{}") if refused["on"] and body == late else rule(body)

    database.write = write  # type: ignore[method-assign]
    one, two = folders(tmp_path, "one", "two")
    with AgentProcess(one, relay(broker.address, topic, database)) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["messages"] == 19, timeout=60)
        wait_until(lambda: committed(broker, topic)[0] == 5, 30)
        agent.signal(signal.SIGKILL)
        agent.wait()
    refused["on"] = False
    with AgentProcess(two, relay(broker.address, topic, database)) as agent:
        # The fourteen behind it come again with it: they were sent, and nobody could say so.
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 15)
        wait_until(lambda: committed(broker, topic)[0] == 20, 30)
    assert database.lines == set(lines(0, 200).splitlines(keepends=True))


def test_with_a_database_that_is_gone_it_pauses_and_stays_in_the_group(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    database.rule = lambda: Answer(503)
    big = [message(1000 * n, 1000, compression="") for n in range(40)]
    publish_kafka(broker, topic, big)
    with AgentProcess(tmp_path, relay(broker.address, topic, database, 'max_in_flight = "128KiB"')) as agent:
        status = agent.wait_for(lambda status: fleet(status)["relay"]["paused"])
        size = len(big[0][1]) + 1024
        assert 0 < fleet(status)["relay"]["in_flight_bytes"] <= (128 << 10) + size
        assert committed(broker, topic)[0] in (-1, 0)
        database.rule = lambda: None
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 40)
        assert fleet(status)["relay"]["duplicates"] == 0 and not fleet(status)["relay"]["paused"]
        wait_until(lambda: committed(broker, topic)[0] == 40, 30)
        assert len(database.lines) == 40_000


def test_partitions_move_to_relays_that_come_and_from_those_that_go(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    one, two = folders(tmp_path, "one", "two")
    config = relay(broker.address, topic, database)
    batch = 0

    def publish(number: int) -> None:
        nonlocal batch
        for partition in (0, 1):
            publish_kafka(broker, topic, [message(10 * (batch + n)) for n in range(number)], partition)
            batch += number

    def messages(*agents: AgentProcess) -> int:
        return sum(fleet(agent.status())["relay"]["messages"] for agent in agents)

    with AgentProcess(one, config) as first:
        publish(20)
        wait_until(lambda: messages(first) >= 40, 60)
        with AgentProcess(two, config) as second:
            # Both have one by now.
            agents = (first, second)

            def shared() -> bool:
                publish(5)
                return all(fleet(agent.status())["relay"]["messages"] for agent in agents)

            wait_until(shared, 60)
            publish(20)
            wait_until(lambda: messages(*agents) >= batch, 60)
            publish(20)
            assert second.stop() == 0
        publish(20)
        wait_until(lambda: len(database.lines) == 10 * batch, 60)
        wait_until(lambda: sum(committed(broker, topic).values()) == batch, 60)
        settled(first, lambda status: True)
    assert database.lines == set(lines(0, 10 * batch).splitlines(keepends=True))


def test_what_is_under_way_of_a_partition_that_goes_is_finished_first(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    one, two = folders(tmp_path, "one", "two")
    config = relay(broker.address, topic, database)
    publish_kafka(broker, topic, [message(0)], 0)
    publish_kafka(broker, topic, [message(10)], 1)
    gate = Gate(database)
    with AgentProcess(one, config) as first:
        first.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 2)
        with AgentProcess(two, config) as second:
            wait_until(lambda: second.status()["state"] == "running")
            gate.open()
            first.wait_for(lambda status: fleet(status)["relay"]["messages"] == 2, timeout=60)
            wait_until(lambda: committed(broker, topic) == {0: 1, 1: 1}, 60)
            assert fleet(second.status())["relay"]["messages"] == 0


def test_what_nobody_can_read_is_kept_and_passed(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    told, data = message(50)
    bad = [({}, b"hello"), ({}, b""), (told, data[:-3]), message(10, encoding="xx")]
    publish_kafka(broker, topic, [message(0), *bad, message(90)])
    with AgentProcess(tmp_path, relay(broker.address, topic, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 6)
        assert fleet(status)["relay"]["poisoned"] == 4 and fleet(status)["received"] == 20
        wait_until(lambda: committed(broker, topic)[0] == 6, 30)
        files = kept(agent)
        assert sorted(body for _, body in files) == sorted(body for _, body in bad)
        assert sorted((about["topic"], about["partition"], about["offset"]) for about, _ in files) == [
            (topic, 0, offset) for offset in (1, 2, 3, 4)
        ]


def test_what_comes_twice_is_sent_once(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    sent = [message(10 * n) for n in range(10)]
    publish_kafka(broker, topic, sent)
    publish_kafka(broker, topic, sent, 1)
    with AgentProcess(tmp_path, relay(broker.address, topic, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 20)
        assert fleet(status)["relay"]["duplicates"] == 10 and fleet(status)["received"] == 100
        assert len(database.requests) == 10
        wait_until(lambda: committed(broker, topic) == {0: 10, 1: 10}, 30)


def test_what_an_output_that_left_has_not_got_is_read_again(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    with FakeInfluxDB(2) as second:
        second.rule = lambda: Answer(503)
        one = relay(broker.address, topic, database).replace('"5s"', '"200ms"')
        other = OUTPUT.replace('influx"\ntype', 'second"\ntype').replace("{url}", second.url)
        publish_kafka(broker, topic, [message(10 * n) for n in range(5)])
        with AgentProcess(tmp_path, one + other.replace("{spool}", "false")) as agent:
            agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 50)
            assert agent.reload(one)["applied"]
            status = settled(agent, lambda status: fleet(status)["relay"]["metrics"] == 50)
            assert fleet(status)["received"] == 50
            wait_until(lambda: committed(broker, topic)[0] == 5, 30)


def test_what_the_topic_has_dropped_unread_is_told(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    from confluent_kafka import TopicPartition

    one, two = folders(tmp_path, "one", "two")
    publish_kafka(broker, topic, [message(0)])
    with AgentProcess(one, relay(broker.address, topic, database)) as agent:
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        wait_until(lambda: committed(broker, topic)[0] == 1, 30)
        assert agent.stop() == 0
    publish_kafka(broker, topic, [message(10 * n) for n in range(1, 10)])
    admin: Any = broker.admin()
    for done in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        done.result(60)
    with AgentProcess(two, relay(broker.address, topic, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
        assert fleet(status)["relay"]["expired"] == 4
        assert "dropped messages before they were read" in agent.log_text()


def sasl(user: str, password: str) -> str:
    return (
        'options = { "security.protocol" = "SASL_PLAINTEXT", "sasl.mechanism" = "PLAIN", '
        f'"sasl.username" = "{user}", "sasl.password" = "{password}" }}'
    )


BAD = {
    "unknown topic": ("{address}", "nobody-made-this", "", "there is no topic nobody-made-this: make it"),
    "no permission": (
        "{sasl}",
        "{topic}",
        sasl("reader", "right"),
        "the user may not read the topic {topic}",
    ),
    "wrong credentials": (
        "{sasl}",
        "{topic}",
        sasl("writer", "wrong"),
        "the brokers refuse the credentials: correct those in options",
    ),
    "nobody there": ("127.0.0.1:1", "{topic}", "", "Connect to"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_seen_where_nothing_can_be_read(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB, case: str
) -> None:
    address, named, listen, reason = (
        text.replace("{address}", broker.address)
        .replace("{sasl}", broker.sasl_address)
        .replace("{topic}", topic)
        for text in BAD[case]
    )
    publish_kafka(broker, topic, [message(0)])
    with AgentProcess(tmp_path, relay(address, named, database, listen)) as agent:
        status = agent.wait_for(lambda status: reason in fleet(status)["relay"]["failing"], timeout=60)
        assert status["ready"] and status["detail"] == [
            f"listener fleet: {fleet(status)['relay']['failing']}"
        ]
        assert fleet(status)["relay"]["messages"] == 0 and not fleet(status)["relay"]["connected"]
        records = agent.log("a broker cannot be read; it is tried again")
        assert records and reason in records[-1]["reason"]
        # Mended, it goes on by itself.
        assert agent.reload(relay(broker.address, topic, database))["applied"]
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        assert agent.stop() == 0


def test_a_broker_that_goes_and_comes_back_loses_nothing(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    publish_kafka(broker, topic, [message(10 * n) for n in range(5)])
    gate = Gate(database)
    with AgentProcess(tmp_path, relay(broker.address, topic, database)) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 5)
        broker.kill()
        agent.wait_for(lambda status: fleet(status)["relay"]["failing"], timeout=60)
        gate.open()
        agent.wait_for(lambda status: fleet(status)["relay"]["messages"] == 5)
        broker.start()
        # Without a message, too, it notices that all is well.
        agent.wait_for(lambda status: fleet(status)["relay"]["connected"], timeout=60)
        wait_until(lambda: committed(broker, topic)[0] == 5, 60)
        publish_kafka(broker, topic, [message(10 * n) for n in range(5, 10)])
        settled(agent, lambda status: fleet(status)["relay"]["metrics"] == 100)
        wait_until(lambda: committed(broker, topic)[0] == 10, 60)
        assert agent.status()["detail"] == [] and len(database.lines) == 100


def test_a_relay_that_was_away_for_too_long_commits_nothing_of_what_others_have(
    tmp_path: Path, broker: KafkaBroker, topic: str, database: FakeInfluxDB
) -> None:
    one, two = folders(tmp_path, "one", "two")
    short = 'options = { "session.timeout.ms" = 6000, "heartbeat.interval.ms" = 500 }'
    config = relay(broker.address, topic, database, short)
    publish_kafka(broker, topic, [message(10 * n) for n in range(4)])
    with FakeInfluxDB(2) as slow:
        slow.rule = lambda: Answer(503)
        with AgentProcess(one, config.replace(database.url, slow.url)) as first:
            first.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 4)
            first.signal(signal.SIGSTOP)
            with AgentProcess(two, config) as second:
                second.wait_for(lambda status: fleet(status)["relay"]["messages"] == 4, timeout=60)
                wait_until(lambda: committed(broker, topic)[0] == 4, 30)
                first.signal(signal.SIGCONT)
                first.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 0, timeout=60)
                slow.rule = lambda: None
                publish_kafka(broker, topic, [message(10 * n) for n in range(4, 14)], 0)
                publish_kafka(broker, topic, [message(10 * n) for n in range(14, 24)], 1)
                wait_until(lambda: len(database.lines | slow.lines) == 240, 60)
                wait_until(lambda: committed(broker, topic) == {0: 14, 1: 10}, 60)
                for agent in (first, second):
                    settled(agent, lambda status: fleet(status)["relay"]["in_flight"] == 0)
