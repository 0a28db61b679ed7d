"""Outputs that publish to a broker: what is decided when, and what errors that are rare there mean."""

import asyncio
import math
import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException
from nats.js.errors import APIError

from agent.config import KafkaOutput, NatsOutput
from agent.errors import OutputError
from agent.outputs import kafka, kafka_producer, make, nats_connection
from agent.outputs.base import Kind, Payload, Verdict
from agent.outputs.broker import BrokerSink, Publication, retry
from tests.conftest import wait_until

DELIVERED = Verdict(Kind.DELIVERED)
HEADERS = {"Penstock-Batch": "8" * 32}


class Sink(BrokerSink):
    """Publishes nothing; *answer* is what is decided at once, if anything."""

    def __init__(self, answer=None, **settings):
        super().__init__(NatsOutput(name="n", subject="s", **settings), "edge-1")
        self.answer = answer
        self.published, self.given_up, self.warm = [], [], 0

    def warm_up(self):
        self.warm += 1

    def publish(self, publication):
        self.published.append(publication)
        if self.answer is not None:
            publication.decide(self.answer)

    def give_up(self, publication):
        self.given_up.append(publication)


def payload(data=b"m v=1 1\n"):
    return Payload(memoryview(data), 1, len(data))


def test_the_first_verdict_counts() -> None:
    publication = Publication(b"x", HEADERS, math.inf)
    publication.decide(DELIVERED)
    publication.end("interrupted")
    assert publication.wait() == DELIVERED and not publication.ended
    publication = Publication(b"x", HEADERS, math.inf)
    publication.end("interrupted")
    publication.decide(DELIVERED)
    assert publication.wait() == retry("interrupted") and publication.ended


def test_what_is_not_decided_in_time_is_given_up() -> None:
    sink = Sink()
    verdict = sink.post(payload(), time.monotonic() + 0.05)
    assert verdict == retry("timed out while waiting for a connection")
    assert sink.given_up == [sink.published[0]] and not sink._under_way
    # The output's own limits, where there is no deadline.
    sink = Sink(connect_timeout=0.01, response_timeout=0.01)
    sink._longest = 0.02
    assert sink.post(payload()).kind is Kind.RETRY and len(sink.given_up) == 1


def test_what_is_published_has_its_headers_and_memory_of_its_own() -> None:
    sink = Sink(DELIVERED)
    data = bytearray(b"m v=1 1\n")
    assert sink.post(payload(data)) == DELIVERED and not sink.given_up
    # No view is left of it: it may change its size.
    data.append(0)
    (publication,) = sink.published
    assert publication.body == b"m v=1 1\n" and publication.headers["Penstock-Agent"] == "edge-1"
    assert publication.identity.startswith(publication.headers["Penstock-Batch"] + "-")


@pytest.mark.parametrize("how", ["abort", "interrupt"])
def test_attempts_that_began_before_are_ended(how) -> None:
    sink = Sink()
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(sink.post(payload())))
    thread.start()
    wait_until(lambda: sink._under_way)
    if how == "interrupt":
        sink.interrupt(sink.published[0].began)
        assert sink._under_way and not verdicts
        sink.interrupt(math.inf)
    else:
        sink.abort()
        assert sink.post(payload()) == retry("aborted")
    thread.join(10)
    assert verdicts == [retry(f"{how}ed")] and len(sink.given_up) == 1


def test_the_client_is_brought_in_soon_after_the_start_or_by_the_first_batch() -> None:
    sink = Sink(DELIVERED)
    due = sink.due()
    assert due is not None and due > time.monotonic() - 60
    sink.tick()
    assert sink.warm == 1 and sink.due() is None


@pytest.mark.parametrize(
    ("format", "encoding", "compression"),
    [("line", "lp", "gz"), ("line", "pb", "sz"), ("protobuf", "pb", "sz"), ("protobuf", "lp", "gz")],
)
def test_lines_are_in_gzip_and_samples_in_snappy(format, encoding, compression) -> None:
    made = Sink(format=format).encode(memoryview(b"x"), 1, encoding)
    assert (made.encoding, made.compression) == (encoding, compression)


# ---- NATS ----


def judged(error: APIError, **settings) -> Verdict:
    client = nats_connection.Client(NatsOutput(name="n", subject="s", **settings), "s", "a", None)
    return client._judge(error)


@pytest.mark.parametrize(
    ("code", "err_code", "kind"),
    [
        (400, 10054, Kind.SPLIT),
        (400, 10060, Kind.HOLD),
        (503, 10039, Kind.HOLD),
        (503, 10076, Kind.HOLD),
        (503, 10008, Kind.RETRY),
        (503, 10077, Kind.RETRY),
        (500, 10023, Kind.RETRY),
        (400, 10071, Kind.RETRY),
        (None, None, Kind.RETRY),
    ],
)
def test_what_jetstream_refuses_is_judged_by_its_code(code, err_code, kind) -> None:
    verdict = judged(APIError(code=code, err_code=err_code, description="no\nway"))
    assert verdict.kind is kind and "no way" in verdict.text and verdict.status == (code or 0)


@pytest.mark.parametrize(
    ("status", "data", "kind"),
    [
        ("", b'{"stream": "m", "seq": 7}', Kind.DELIVERED),
        ("", b'{"stream": "m", "seq": 7, "duplicate": true}', Kind.DELIVERED),
        ("", b'{"error": {"code": 400, "err_code": 10054, "description": "large"}}', Kind.SPLIT),
        ("503", b"", Kind.RETRY),
        *(
            ("", data, Kind.HOLD)
            for data in (b"", b"+ACK", b"7", b"{}", b'{"error": 7}', b"\xff", b'{"seq": 7}')
        ),
    ],
)
def test_what_answers_is_judged(status, data, kind) -> None:
    client = nats_connection.Client(NatsOutput(name="n", subject="s"), "s", "a", None)
    verdict = client._answered(status, data)
    assert verdict.kind is kind
    assert (kind is Kind.HOLD) == ("something that is no stream" in verdict.text)


def test_without_a_loop_there_is_nothing_to_close() -> None:
    output = make(NatsOutput(name="n", subject="s"), "a")
    output.close()
    output.close()


def test_a_client_that_fails_in_a_way_that_it_should_not_is_a_verdict(monkeypatch) -> None:
    client = nats_connection.Client(NatsOutput(name="n", subject="s"), "s", "a", None)

    async def fail():
        raise RuntimeError("oh")

    monkeypatch.setattr(client, "_connected", fail)
    publication = Publication(b"x", HEADERS, math.inf)
    asyncio.run(client.publish(publication))
    assert publication.wait() == retry("RuntimeError: oh")


# ---- Kafka ----


class Error:
    """What librdkafka says, as confluent-kafka shows it."""

    def __init__(self, code: int, text: str = "no way", fatal: bool = False) -> None:
        self._code, self._text, self._fatal = code, text, fatal

    def code(self) -> int:
        return self._code

    def str(self) -> str:
        return self._text

    def fatal(self) -> bool:
        return self._fatal


class Producer:
    """One that takes everything and says nothing."""

    def __init__(self, settings, logger=None) -> None:
        self.purged, self.produced, self.raises = 0, 0, None

    def produce(self, topic, value, **more) -> None:
        self.produced += 1
        if self.raises is not None:
            raise self.raises

    def poll(self, seconds) -> None:
        time.sleep(min(seconds, 0.01))

    def purge(self) -> None:
        self.purged += 1


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(kafka_producer, "Producer", Producer)
    made = kafka_producer.Client("k", {}, "topic", b"key")
    yield made
    made.close()
    assert not made._thread.is_alive()


@pytest.mark.parametrize(
    ("code", "kind", "spent"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, Kind.SPLIT, False),
        (KafkaError.RECORD_LIST_TOO_LARGE, Kind.SPLIT, False),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Kind.HOLD, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Kind.HOLD, True),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, Kind.HOLD, True),
        (KafkaError.SASL_AUTHENTICATION_FAILED, Kind.HOLD, False),
        (KafkaError.POLICY_VIOLATION, Kind.HOLD, False),
        (KafkaError.INVALID_RECORD, Kind.HOLD, False),
        (KafkaError.NOT_ENOUGH_REPLICAS, Kind.RETRY, False),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Kind.RETRY, False),
        (KafkaError.KAFKA_STORAGE_ERROR, Kind.RETRY, False),
        (KafkaError._MSG_TIMED_OUT, Kind.RETRY, False),
    ],
)
def test_what_kafka_refuses_is_judged_by_its_code(client, code, kind, spent) -> None:
    publication = Publication(b"x", HEADERS, math.inf)
    client.publish(publication)
    client._delivered(publication, Error(code), None)
    verdict = publication.wait()
    assert verdict.kind is kind and "no way" in verdict.text and client.spent is spent


def test_a_queue_that_is_full_is_waited_for(client) -> None:
    client._producer.raises = BufferError("full")
    publication = Publication(b"x", HEADERS, math.inf)
    client.publish(publication)
    assert publication.wait() == retry("the queue of librdkafka is full") and not client._under_way


def test_what_came_before_the_purge_of_others_is_produced_anew(client) -> None:
    late, given_up = (Publication(b"x", HEADERS, math.inf) for _ in range(2))
    client.publish(late)
    assert client._producer.produced == 1
    client._delivered(late, Error(KafkaError._PURGE_QUEUE), None)
    wait_until(lambda: client._producer.produced == 2)
    assert late.verdict is None
    client._delivered(late, None, None)
    assert late.wait().kind is Kind.DELIVERED
    client._delivered(given_up, Error(KafkaError._PURGE_QUEUE), None)
    assert given_up.wait().kind is Kind.RETRY
    # Given up after it was purged: it is not sent behind our back.
    client._anew = [given_up]
    wait_until(lambda: not client._anew)
    client.close()
    assert client._producer.produced == 2


def test_what_produce_refuses_is_judged_like_what_the_broker_does(client) -> None:
    client._producer.raises = KafkaException(Error(KafkaError.MSG_SIZE_TOO_LARGE))
    publication = Publication(b"x", HEADERS, math.inf)
    client.publish(publication)
    assert publication.wait().kind is Kind.SPLIT and not client._under_way


def test_what_waits_for_a_connection_is_given_back_in_time(client) -> None:
    """librdkafka says once that a connection failed, and not always that all of them have."""
    client._patience = 0.05
    early = Publication(b"x", HEADERS, time.monotonic() + 10)
    client._fails(Error(KafkaError._TRANSPORT, "refused"))
    client.publish(early)
    assert early.wait() == retry("no broker can be reached: refused") and not client._under_way
    wait_until(lambda: client._producer.purged)
    heard = Publication(b"x", HEADERS, math.inf)
    client.publish(heard)
    client._delivered(heard, None, None)
    slow = Publication(b"x", HEADERS, time.monotonic() + 0.3)
    client.publish(slow)
    assert slow.wait().text.startswith("timed out") and slow.ended


@pytest.mark.parametrize(
    ("error", "kind", "text", "spent"),
    [
        (Error(KafkaError._ALL_BROKERS_DOWN), Kind.RETRY, "no broker can be reached: refused", False),
        (Error(KafkaError._AUTHENTICATION), Kind.HOLD, "the broker refuses us: no way; see", False),
        (Error(KafkaError._FATAL, fatal=True), Kind.RETRY, "the producer has failed: no way", True),
        (Error(KafkaError.CLUSTER_AUTHORIZATION_FAILED, fatal=True), Kind.HOLD, "this user may not", True),
    ],
)
def test_what_is_under_way_does_not_wait_for_what_will_not_come(client, error, kind, text, spent) -> None:
    publications = [Publication(b"x", HEADERS, math.inf) for _ in range(3)]
    for one in publications:
        client.publish(one)
    client._fails(Error(KafkaError._TRANSPORT, "refused"))
    assert not any(one.verdict for one in publications)
    client._fails(error)
    for one in publications:
        verdict = one.wait()
        assert verdict.kind is kind and verdict.text.startswith(text)
    assert client.spent is spent and not client._under_way
    wait_until(lambda: client._producer.purged)


def test_the_settings_of_the_user_are_between_ours_and_what_we_would_choose() -> None:
    options = {"reconnect.backoff.ms": "7", "security.protocol": "SASL_SSL"}
    config = KafkaOutput(
        name="k",
        topic="t",
        brokers=("a:1", "b:2"),
        options=options,
        connect_timeout=0.001,
        response_timeout=3600.0,
        ca="/ca",
        cert="/cert",
        insecure_skip_verify=True,
    )
    found = kafka.settings(config)
    assert found["bootstrap.servers"] == "a:1,b:2" and found["acks"] == "all" and found["enable.idempotence"]
    assert found["reconnect.backoff.ms"] == "7" and found["reconnect.backoff.max.ms"] == 1000
    assert found["socket.connection.setup.timeout.ms"] == 1000
    assert (found["message.timeout.ms"], found["request.timeout.ms"]) == (3_600_000, 900_000)
    assert found["security.protocol"] == "SASL_SSL" and found["enable.ssl.certificate.verification"] is False
    assert (found["ssl.certificate.location"], found["ssl.key.location"]) == ("/cert", "/cert")
    plain = kafka.settings(KafkaOutput(name="k", topic="t"))
    assert not [name for name in plain if name.startswith("ssl") or name == "security.protocol"]
    assert kafka.settings(KafkaOutput(name="k", topic="t", ca="/ca"))["security.protocol"] == "ssl"


def test_whatever_time_limits_are_allowed_librdkafka_takes(tmp_path) -> None:
    for seconds in (0.001, 3600.0):
        output = make(
            KafkaOutput(
                name="k",
                topic="t",
                brokers=("127.0.0.1:1",),
                connect_timeout=min(seconds, 600.0),
                response_timeout=seconds,
                options={"client.id": "x"},
            ),
            "a",
        )
        output.close()


def test_settings_that_are_not_taken_any_more_are_held(monkeypatch) -> None:
    output = make(KafkaOutput(name="k", topic="t"), "a")

    def fail(*arguments):
        raise OutputError("librdkafka does not take the settings: gone")

    monkeypatch.setattr(kafka_producer, "Client", fail)
    output.tick()
    assert output.post(payload()).kind is Kind.HOLD
    output.close()
