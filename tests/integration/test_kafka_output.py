"""The kafka output against a real broker: what is published, and what each thing that goes wrong means."""

import itertools
import threading
import time

import pytest

from agent.config import KafkaOutput
from agent.errors import OutputError
from agent.outputs import make
from agent.outputs.base import Kind, Payload, plain
from agent.relay.message import parse
from tests.conftest import wait_until
from tests.integration.certificates import make_certificates
from tests.integration.kafka_broker import kafka_broker

pytestmark = pytest.mark.needs("java", "mvn", "openssl")

BODY = b"cpu,host=a v=1.5 1000000000000000000\ncpu,host=b v=2 1000000000000000001\n"
NUMBERS = itertools.count(1 << 60)


def another_trace():
    return f"00-{next(NUMBERS):032x}-1b2c3d4e5f607182-01"


def body(count=2, size=0):
    return b"".join(b'm,n=%d s="%s" %d\n' % (n, b"x" * size, n + 1) for n in range(count))


def post(output, data=BODY, trace="", seconds=60.0):
    payload = output.encode(memoryview(data), data.count(b"\n"))
    payload.trace, payload.oldest_ns = trace or another_trace(), 1_700_000_000_000_000_000
    return output.post(payload, time.monotonic() + seconds)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory, certificates):
    with kafka_broker(tmp_path_factory.mktemp("kafka"), certificates) as started:
        started.add_topic("metrics")
        # The first producer of a broker waits for what gives out their ids.
        output = sink(started)
        assert post(output).kind is Kind.DELIVERED
        output.close()
        yield started


@pytest.fixture
def opened():
    """What is closed at the end of the test, in its place."""
    outputs = []
    yield lambda output: outputs.append(output) or output
    for output in outputs:
        output.close()


def sink(broker, topic="metrics", agent="edge-1", **settings):
    settings.setdefault("brokers", (broker.address,))
    return make(KafkaOutput(name="k", topic=topic, **settings), agent)


@pytest.mark.parametrize(
    ("settings", "compression", "key"),
    [
        ({}, "gz", b"edge-1"),
        ({"compression": "none", "message_key": ""}, "", None),
        ({"format": "protobuf", "message_key": "a-{agent}"}, "gz", b"a-edge-1"),
    ],
    ids=["gzip", "none", "lines of before"],
)
def test_a_batch_is_a_message_that_says_what_it_is(broker, opened, settings, compression, key):
    output = opened(sink(broker, **settings))
    assert output.encoding == ("pb" if "format" in settings else "lp")
    before, trace = broker.count("metrics"), another_trace()
    assert post(output, trace=trace).kind is Kind.DELIVERED
    (one,) = broker.messages("metrics")[before:]
    message = parse(one.headers, one.data)
    assert one.key == key and message.agent == "edge-1"
    assert message.payload == Payload(one.data, 2, len(BODY), "lp", compression)
    assert plain(message.payload) == BODY and message.oldest_ns == 1_700_000_000_000_000_000
    assert message.batch == trace[3:35] and one.headers["traceparent"] == trace


def test_samples_are_published_as_samples(broker, opened):
    from agent._core import samples_of_lines

    output = opened(sink(broker, format="protobuf"))
    samples = samples_of_lines(BODY)
    before = broker.count("metrics")
    assert output.post(output.encode(memoryview(samples), 2, "pb")).kind is Kind.DELIVERED
    (one,) = broker.messages("metrics")[before:]
    message = parse(one.headers, one.data)
    assert (message.payload.encoding, message.payload.compression) == ("pb", "sz")
    assert plain(message.payload) == samples and message.place is None


def test_messages_with_one_key_are_in_one_partition(broker, opened):
    broker.add_topic("parts", partitions=4)
    for agent in ("a", "b", "c", "d", "e", "f"):
        output = opened(sink(broker, topic="parts", agent=agent))
        assert [post(output).kind for _ in range(5)] == [Kind.DELIVERED] * 5
    found = broker.messages("parts")
    where = {(one.key, one.partition) for one in found}
    assert len(found) == 30 and len(where) == 6 and len({partition for _, partition in where}) > 1


def test_many_senders_share_a_producer(broker, opened):
    output = opened(sink(broker))
    before = broker.count("metrics")
    kinds = []
    threads = [
        threading.Thread(target=lambda: kinds.extend(post(output).kind for _ in range(25))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(kinds) == {Kind.DELIVERED} and len(kinds) == 200
    assert broker.count("metrics") == before + 200


def test_what_is_larger_than_librdkafka_takes_is_split_before_it_is_sent(broker, opened):
    output = opened(sink(broker, compression="none"))
    before = broker.count("metrics")
    verdict = post(output, body(200, 6000))
    assert verdict.kind is Kind.SPLIT
    assert verdict.text.startswith('the message is larger than the topic "metrics" or librdkafka takes')
    assert broker.count("metrics") == before
    # What may be larger is the user's to say.
    options = {"message.max.bytes": "10000"}
    assert post(opened(sink(broker, compression="none", options=options)), body(3, 6000)).kind is Kind.SPLIT


def test_what_is_larger_than_the_topic_takes_is_split(broker, opened):
    broker.add_topic("small", max_message_bytes="3000")
    output = opened(sink(broker, topic="small", compression="none"))
    assert post(output, body(10, 1000)).kind is Kind.SPLIT
    # Two that would be too large together go by themselves.
    kinds = []
    threads = [
        threading.Thread(target=lambda: kinds.append(post(output, body(1, 2000)).kind)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kinds == [Kind.DELIVERED] * 4


def test_a_topic_that_is_not_there_is_held_until_it_is(broker, opened):
    options = {"topic.metadata.propagation.max.ms": "300"}
    output = opened(sink(broker, topic="late", options=options))
    for _ in range(2):
        verdict = post(output)
        assert verdict.kind is Kind.HOLD, verdict
        assert verdict.text.startswith('there is no topic "late": make it, or let this user see it')
    broker.add_topic("late")
    wait_until(lambda: post(output).kind is Kind.DELIVERED)


def test_too_few_replicas_are_waited_for(broker, opened):
    broker.add_topic("lonely", min_insync_replicas="2")
    verdict = post(opened(sink(broker, topic="lonely", response_timeout=0.5)))
    assert verdict.kind is Kind.RETRY and "timed out" in verdict.text.lower()


def test_a_topic_that_wants_keys_holds_messages_without_one(broker, opened):
    broker.add_topic("compacted", cleanup_policy="compact")
    verdict = post(opened(sink(broker, topic="compacted", message_key="")))
    assert verdict.kind is Kind.HOLD
    assert verdict.text.startswith('the topic "compacted" does not take such messages')


def sasl(user, password):
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": password,
    }


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (sasl("writer", "right"), Kind.DELIVERED, ""),
        (sasl("writer", "wrong"), Kind.HOLD, "the broker refuses us: "),
        (sasl("reader", "right"), Kind.HOLD, 'this user may not write to the topic "metrics": '),
        ({}, Kind.RETRY, "no broker can be reached: "),
    ],
    ids=["writer", "wrong", "reader", "none"],
)
def test_who_may_publish(broker, opened, options, kind, text):
    output = opened(sink(broker, brokers=(broker.sasl_address,), options=options))
    before = broker.count("metrics")
    for _ in range(2):
        verdict = post(output)
        assert verdict.kind is kind and verdict.text.startswith(text), verdict
        assert "wrong" not in verdict.text
    assert broker.count("metrics") == before + 2 * (kind is Kind.DELIVERED)


def test_tls(broker, opened, certificates):
    def secure(**settings):
        for key in ("ca", "cert", "key"):
            if key in settings:
                settings[key] = str(certificates / settings[key])
        return opened(sink(broker, brokers=(broker.tls_address,), **settings))

    ours = {"cert": "client.pem", "key": "client.key"}
    for settings in ({"ca": "ca.pem"}, {"ca": "ca.pem", **ours}, {"insecure_skip_verify": True}):
        verdict = post(secure(**settings))
        assert verdict.kind is Kind.DELIVERED, (settings, verdict)
    verdict = post(secure(ca="other.pem"))
    assert verdict.kind is Kind.RETRY and "certificate verify failed" in verdict.text
    # Whoever does not speak TLS is cut off.
    assert post(secure()).kind is Kind.RETRY


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"options": {"no.such.thing": "1"}}, 'No such configuration property: "no.such.thing"'),
        ({"options": {"message.max.bytes": "many"}}, 'Invalid value for configuration property "message.max'),
        ({"ca": "/nonexistent"}, "ssl.ca.location failed"),
    ],
)
def test_what_librdkafka_does_not_take_is_told_when_the_output_is_made(settings, text):
    with pytest.raises(OutputError, match=r"librdkafka does not take the settings: ") as raised:
        make(KafkaOutput(name="k", topic="t", **settings), "a")
    assert text in str(raised.value)


def test_a_broker_that_goes_and_comes_back(tmp_path, opened):
    with kafka_broker(tmp_path) as broker:
        broker.add_topic("metrics")
        output = opened(sink(broker))
        assert post(output).kind is Kind.DELIVERED
        broker.kill()
        for number in range(3):
            began = time.monotonic()
            verdict = post(output, body(number + 3))
            assert verdict.kind is Kind.RETRY and verdict.text.startswith("no broker can be reached: "), (
                verdict
            )
            # It does not take until the time for a confirmation is over.
            assert time.monotonic() - began < 15
        assert "Connection refused" in verdict.text
        broker.start()
        wait_until(lambda: post(output, body(7)).kind is Kind.DELIVERED, 60)
        # What was given up is not sent behind our back.
        assert {parse(one.headers, one.data).payload.metrics for one in broker.messages("metrics")} == {2, 7}

        # A silent one costs the time that there is and no more.
        broker.freeze()
        began = time.monotonic()
        verdict = post(output, seconds=0.3)
        assert verdict.text == "timed out while waiting for the confirmation"
        assert time.monotonic() - began < 10
        output_2 = opened(sink(broker, connect_timeout=1.0, response_timeout=0.5))
        verdict = post(output_2)
        # Which it is hangs on what librdkafka says first.
        said = ("timed out", "no broker can be reached: ")
        assert verdict.kind is Kind.RETRY and any(one in verdict.text.lower() for one in said), verdict

        # An attempt can be ended.
        for how in ("interrupt", "abort"):
            verdicts = []
            thread = threading.Thread(target=lambda into=verdicts: into.append(post(output, body(9))))
            thread.start()
            wait_until(lambda: output._under_way)
            if how == "abort":
                output.abort()
            else:
                output.interrupt(0.0)
                assert output._under_way
                output.interrupt(time.monotonic())
            thread.join(10)
            assert [(one.kind, one.text) for one in verdicts] == [(Kind.RETRY, f"{how}ed")]
        assert post(output).text == "aborted"
        broker.thaw()


def test_closing_ends_the_threads(broker):
    before = set(threading.enumerate())
    output = sink(broker)
    output.tick()
    assert output.due() is None
    (thread,) = set(threading.enumerate()) - before
    assert thread.name == "kafka-k"
    assert post(output).kind is Kind.DELIVERED
    output.close()
    output.close()
    assert not thread.is_alive()


def test_a_producer_that_has_failed_is_replaced(broker, opened):
    output = opened(sink(broker))
    assert post(output).kind is Kind.DELIVERED
    former = output._client

    class Fatal:
        def code(self):
            return -150

        def fatal(self):
            return True

        def str(self):
            return "out of sequence"

    former._fails(Fatal())
    assert former.spent
    before = broker.count("metrics")
    assert post(output).kind is Kind.DELIVERED and broker.count("metrics") == before + 1
    assert output._client is not former
    wait_until(lambda: not former._thread.is_alive())


def test_what_another_output_has_left_is_published_as_it_is(broker, opened):
    output = opened(sink(broker))
    with memoryview(BODY) as view:
        assert output.post(Payload(view, 2, len(BODY))).kind is Kind.DELIVERED
    # Nothing holds the view any more: it could be released.
