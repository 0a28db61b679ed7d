"""A topic of Kafka: each batch is one message, and delivered when all replicas that are in sync have it.

librdkafka sends in threads of its own, and one thread here polls what it says
(:mod:`agent.outputs.kafka_producer`). The producer is idempotent: what librdkafka sends anew by itself is
stored once. What it still has when an attempt is given up may be stored later, and by the next attempt, too.

============================================= ========= ==================================================
what happened                                 verdict   because
============================================= ========= ==================================================
all replicas in sync have it                  DELIVERED
larger than librdkafka or the topic takes     SPLIT     a smaller message may pass
no such topic; no permission; credentials     HOLD      a person can mend it
that are refused; records that the topic
does not take
no broker, no confirmation in time, too few   RETRY
replicas, a queue that is full, anything else
the producer's fatal error                    RETRY     by another producer
============================================= ========= ==================================================
"""

import contextlib
import threading
from typing import TYPE_CHECKING

from agent.config import KafkaOutput
from agent.config_broker_kinds import AGENT
from agent.errors import OutputError
from agent.outputs.broker import BrokerSink, Publication, hold
from agent.outputs.server import warn_unverified

if TYPE_CHECKING:
    from agent.outputs.kafka_producer import Client

Settings = dict[str, str | int | bool]

_CONNECT_MS_MIN = 1000
_REQUEST_MS_MAX = 900_000
"""librdkafka takes no less, and no more."""

DEFAULTS: Settings = {
    "client.id": "penstock",
    # A broker that comes back is noticed soon.
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1000,
    # A topic that was made a moment ago may not be known to all brokers.
    "topic.metadata.propagation.max.ms": 5000,
    # What attempts that were given up leave there.
    "queue.buffering.max.kbytes": 65_536,
}
"""What ``options`` may change."""


class KafkaSink(BrokerSink):
    """Publishes to a topic. Raises OutputError if librdkafka does not take an option or a certificate."""

    def __init__(self, config: KafkaOutput, agent: str) -> None:
        super().__init__(config, agent)
        self._config = config
        self._key = config.message_key.replace(AGENT, agent).encode()
        self._settings = settings(config)
        # Guards the next.
        self._lock = threading.Lock()
        self._client: Client | None = None
        if config.insecure_skip_verify:
            warn_unverified(config.name)
        if config.options or config.ca or config.cert:
            # What is wrong with them is told at once: librdkafka takes 30 ms to be asked.
            self._current()

    def warm_up(self) -> None:
        self._warm_up_at = None
        # What is wrong is a verdict on what is published.
        with contextlib.suppress(OutputError):
            self._current()

    def publish(self, publication: Publication) -> None:
        try:
            self._current().publish(publication)
        except OutputError as error:
            # A file that is not there any more.
            publication.decide(hold(str(error)))

    def give_up(self, publication: Publication) -> None:
        with self._lock:
            if self._client is not None:
                self._client.forget(publication, purge=self._aborted)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _current(self) -> "Client":
        """The client, or a new one in place of one that is spent. Raises OutputError."""
        with self._lock:
            if self._client is None or self._client.spent:
                from agent.outputs.kafka_producer import Client

                former, self._client = self._client, None
                if former is not None:
                    former.retire()
                config = self._config
                self._client = Client(
                    config.name, self._settings, config.topic, self._key, config.connect_timeout
                )
            return self._client


def settings(config: KafkaOutput) -> Settings:
    """What librdkafka is told."""
    response_ms = max(round(config.response_timeout * 1000), 1)
    ours: Settings = {
        "bootstrap.servers": ",".join(config.brokers),
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "none",
        # A message is a batch already. Two that go together would be measured together by the topic's limit.
        "linger.ms": 0,
        "batch.num.messages": 1,
        "message.timeout.ms": response_ms,
        "request.timeout.ms": min(response_ms, _REQUEST_MS_MAX),
        "socket.connection.setup.timeout.ms": max(round(config.connect_timeout * 1000), _CONNECT_MS_MIN),
    }
    names = {"ssl.ca.location": config.ca, "ssl.certificate.location": config.cert}
    tls: Settings = {name: path for name, path in names.items() if path}
    if config.cert:
        tls["ssl.key.location"] = config.key or config.cert
    if config.insecure_skip_verify:
        tls["enable.ssl.certificate.verification"] = False
    if tls and "security.protocol" not in config.options:
        tls["security.protocol"] = "ssl"
    return DEFAULTS | config.options | ours | tls
