"""The way to a topic of Kafka: confluent-kafka's producer, and the thread that polls it. Imports the library.

A producer is *spent* after a fatal error, and where what it remembers would keep it from seeing that somebody
has mended something: it goes on saying for minutes that there is no topic which was made meanwhile.
"""

import logging
import math
import threading
import time
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from agent.errors import OutputError
from agent.outputs.base import Kind, Verdict
from agent.outputs.broker import Publication, hold, retry, split

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""So long ending the thread may take: whatever happens wakes it."""

_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_NOT_ALLOWED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_UNKNOWN_WHO = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
_NOT_TAKEN = (
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError.INVALID_RECORD,
)


class Client:
    """One producer. Raises OutputError if librdkafka does not take *settings*.

    A message that waits for a connection is given back after *patience* seconds.
    """

    def __init__(
        self, name: str, settings: dict[str, Any], topic: str, key: bytes, patience: float = math.inf
    ) -> None:
        self._name = name
        self._patience = patience
        self._topic = topic
        self._key = key or None
        self._under_way: set[Publication] = set()
        self._purge = False
        self._anew: list[Publication] = []
        """Purged by mistake: they came between a failure and the purge that it led to."""
        self._trouble = ""
        """What was said of the connections last."""
        self._trouble_at = self._heard_at = -math.inf
        """When that was, and when a message was confirmed last (monotonic)."""
        self._ending = False
        self.spent = False
        """Another one is to take its place."""
        try:
            self._producer = Producer({**settings, "error_cb": self._fails}, logger=_Log(name))
        except KafkaException as error:
            raise OutputError(f"librdkafka does not take the settings: {error.args[0].str()}") from error
        self._thread = threading.Thread(target=self._run, name=f"kafka-{name}", daemon=True)
        self._thread.start()

    def publish(self, publication: Publication) -> None:
        publication.phase = "waiting for the confirmation"
        self._under_way.add(publication)
        self._produce(publication)

    def _produce(self, publication: Publication) -> None:
        try:
            self._producer.produce(
                self._topic,
                publication.body,
                key=self._key,
                headers=[(name, text.encode()) for name, text in publication.headers.items()],
                on_delivery=partial(self._delivered, publication),
            )
        except BufferError:
            self._under_way.discard(publication)
            publication.decide(retry("the queue of librdkafka is full"))
        except KafkaException as error:
            self._delivered(publication, error.args[0], None)

    def forget(self, publication: Publication, purge: bool) -> None:
        """It is of no more interest; with *purge* nothing is that is still to be sent."""
        self._under_way.discard(publication)
        self._purge |= purge

    def retire(self) -> None:
        """End without waiting for it."""
        self._ending = True

    def close(self) -> None:
        """End: what is still to be sent is dropped."""
        self._ending = True
        if self._thread is not threading.current_thread():
            self._thread.join(2 * POLL_S + 1.0)

    def _run(self) -> None:
        producer = self._producer
        while not self._ending:
            self._poll(POLL_S)
            self._despair()
            anew, self._anew = self._anew, []
            for publication in anew:
                # Unless it was given up meanwhile.
                if publication in self._under_way:
                    self._produce(publication)
            if self._purge:
                self._purge = False
                producer.purge()
        self._give_back(retry("the producer was ended"))
        producer.purge()
        self._poll(0.0)

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            # As fatal ones are told.
            self._fails(error.args[0])

    def _despair(self) -> None:
        """Give back what has waited for long while no broker was heard of.

        librdkafka does not tell each time that all brokers are down, and says the same trouble once only.
        """
        if self._trouble_at > self._heard_at:
            began = min((one.began for one in tuple(self._under_way)), default=math.inf)
            if time.monotonic() - began > self._patience:
                self._give_back(retry(f"no broker can be reached: {self._trouble}"))

    # ---- called by librdkafka, in the thread that polls, and by publish ----

    def _delivered(self, publication: Publication, error: KafkaError | None, message: object) -> None:
        if error is not None and error.code() in _PURGED and publication in self._under_way:
            self._anew.append(publication)
            return
        self._under_way.discard(publication)
        if error is None:
            self._heard_at = time.monotonic()
        publication.decide(Verdict(Kind.DELIVERED) if error is None else self._judge(error))

    def _fails(self, error: KafkaError) -> None:
        """Something is wrong with a connection, with all of them, or with the producer."""
        code = error.code()
        if error.fatal():
            self.spent = True
            self._give_back(self._judge(error))
        elif code in _UNKNOWN_WHO:
            self._give_back(self._judge(error))
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self._give_back(retry(f"no broker can be reached: {self._trouble or error.str()}"))
        else:
            self._trouble, self._trouble_at = error.str(), time.monotonic()

    def _give_back(self, verdict: Verdict) -> None:
        """Nothing that is under way comes through for now: it is not to wait for its time to be over."""
        for publication in tuple(self._under_way):
            self._under_way.discard(publication)
            publication.decide(verdict)
            self._purge = True

    def _judge(self, error: KafkaError) -> Verdict:
        """What an error means."""
        code, text = error.code(), error.str()
        if code in _TOO_LARGE:
            return split(f'the message is larger than the topic "{self._topic}" or librdkafka takes: {text}')
        if code in _NO_TOPIC:
            self.spent = True
            return hold(f'there is no topic "{self._topic}": make it, or let this user see it: {text}')
        if code in _NOT_ALLOWED:
            self.spent = True
            return hold(f'this user may not write to the topic "{self._topic}": {text}')
        if code in _UNKNOWN_WHO:
            return hold(
                f"the broker refuses us: {text}; see sasl.username, sasl.password and the like in options"
            )
        if code in _NOT_TAKEN:
            return hold(f'the topic "{self._topic}" does not take such messages: {text}')
        if error.fatal():
            self.spent = True
            return retry(f"the producer has failed: {text}")
        if code in _PURGED:
            return retry(f"no broker can be reached: {self._trouble or text}")
        return retry(text)


class _Log:
    """What librdkafka says goes to our log, and not to standard error. The verdicts tell what matters."""

    def __init__(self, name: str) -> None:
        self._name = name

    def log(self, level: int, message: str, *details: object) -> None:
        text = message % details if details else message
        logger.debug("librdkafka says something", extra={"output": self._name, "text": text})
