"""An agent that publishes to Kafka: the broker goes and comes back, and what a user sees of bad input."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from agent.relay.message import Message, parse
from tests.integration.agent_process import AgentProcess, assert_balanced, at_rest, output
from tests.integration.edge import HELD, REJECTED, assert_whole, decided, edge_config, lines, lines_of, send
from tests.integration.kafka_broker import KafkaBroker, kafka_broker

pytestmark = pytest.mark.needs("java", "mvn")

TOPICS = (f"topic-{number}" for number in count())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as started:
        yield started


def sasl(user: str, password: str) -> str:
    return (
        'options = { "security.protocol" = "SASL_PLAINTEXT", "sasl.mechanism" = "PLAIN", '
        f'"sasl.username" = "{user}", "sasl.password" = "{password}" }}'
    )


def config(topic: str, address: str, more: str = "") -> str:
    return edge_config(f'type = "kafka"\nbrokers = ["{address}"]\ntopic = "{topic}"\n{more}\n')


def found(broker: KafkaBroker, topic: str) -> list[Message]:
    return [parse(one.headers, one.data) for one in broker.messages(topic)]


def test_a_broker_that_goes_and_comes_back(broker: KafkaBroker, tmp_path: Path) -> None:
    """What is sent meanwhile is in the spool, and comes out of it; each batch is known by its place."""
    topic = next(TOPICS)
    broker.add_topic(topic, partitions=2)
    with AgentProcess(tmp_path, config(topic, broker.address)) as agent:
        send(agent, lines(0, 100))
        agent.wait_for(lambda status: output(status, "stream")["delivered"] == 100)
        broker.kill()
        send(agent, lines(100, 2000))
        agent.wait_for(lambda status: output(status, "stream")["spooled"] > 0, timeout=40)
        broker.start()
        send(agent, lines(2100, 100))
        status = agent.wait_for(
            lambda status: output(status, "stream")["delivered"] == 2200 and at_rest(status), timeout=40
        )
        assert_balanced(status)
        assert agent.stop() == EXIT_OK
    messages = found(broker, topic)
    # What was under way when the broker went may be there twice, and is known by its identity.
    once = list({one.identity: one for one in messages}.values())
    assert sorted(lines_of(once)) == sorted(lines(0, 2200))
    assert_whole(messages)


# What is set, what the log and the status say, and where the lines are then: 10 that are good, and one that
# is larger than the topic takes where that is the point.
BAD = {
    "unknown topic": ("", HELD, 'there is no topic "{topic}": make it', {"spooled": 10}),
    "no permission": (
        sasl("reader", "right"),
        HELD,
        'this user may not write to the topic "{topic}": ',
        {"spooled": 10},
    ),
    "wrong credentials": (sasl("writer", "wrong"), HELD, "the broker refuses us: ", {"spooled": 10}),
    "message too large": (
        "",
        REJECTED,
        'the message is larger than the topic "{topic}" or librdkafka takes: ',
        {"delivered": 10, "rejected": 1},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_counted_and_kept(broker: KafkaBroker, tmp_path: Path, case: str) -> None:
    more, message, text, where = BAD[case]
    topic = next(TOPICS)
    text = text.format(topic=topic)
    if case != "unknown topic":
        broker.add_topic(topic, max_message_bytes="8000")
    good = lines(0, 10)
    sent = [*good[:5], *lines(10, 1, 10_000), *good[5:]] if "rejected" in where else good
    address = broker.sasl_address if more else broker.address
    with AgentProcess(tmp_path, config(topic, address, more)) as agent:
        send(agent, sent)
        status = agent.wait_for(
            lambda status: decided(agent, status, message, where),
            timeout=40,
            what=message,
        )
        assert_balanced(status)
        assert text in str(agent.log(message)) and "wrong" not in agent.log_text()
        ledger = output(status, "stream")
        assert not any(ledger[name] for name in {"delivered", "rejected", "spooled"} - set(where))
        assert not any(ledger["dropped"].values())
        if "rejected" in where:
            assert len(list((tmp_path / "state" / "rejected" / "stream").glob("*.lp*"))) == 1
        else:
            (state,) = status["outputs"]
            assert text in state["last_error"]
            # Mended, everything arrives.
            if case == "unknown topic":
                broker.add_topic(topic)
            else:
                assert agent.reload(config(topic, broker.address))["applied"]
            status = agent.wait_for(
                lambda status: output(status, "stream")["delivered"] == 10, timeout=40, what="all arrive"
            )
            assert_balanced(status)
    assert sorted(lines_of(found(broker, topic))) == sorted(good)


def test_an_option_that_librdkafka_does_not_know_is_told_at_the_start_and_at_a_reload(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    topic = next(TOPICS)
    broker.add_topic(topic)
    wrong = config(topic, broker.address, 'options = { "no.such.thing" = "1" }')
    with AgentProcess(tmp_path, config(topic, broker.address)) as agent:
        answer = agent.reload(wrong)
        assert not answer["applied"]
        assert 'No such configuration property: "no.such.thing"' in str(answer["problems"])
        # The former configuration goes on.
        send(agent, lines(0, 10))
        agent.wait_for(lambda status: output(status, "stream")["delivered"] == 10)


def test_batches_larger_than_the_topic_takes_are_delivered_in_parts(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    topic = next(TOPICS)
    broker.add_topic(topic, max_message_bytes="8000")
    with AgentProcess(tmp_path, config(topic, broker.address)) as agent:
        sent = lines(0, 500, 200)
        send(agent, sent)
        status = agent.wait_for(lambda status: output(status, "stream")["delivered"] == 500)
        assert_balanced(status)
    messages = found(broker, topic)
    assert sorted(lines_of(messages)) == sorted(sent)
    assert len({one.identity for one in messages}) == len(messages) > len({one.batch for one in messages})
