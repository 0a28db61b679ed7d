"""Kafka as a listener: one member of a consumer group.

Messages of a partition come in order and are decided in any; what is committed is the offset of the oldest
that is undecided, so that whoever gets the partition next begins there. Nothing is committed by librdkafka
itself. A partition that goes to another member gets some seconds for what is under way; what is undecided
then is let go, and comes to that member again. While too much is undecided, all partitions are paused.

Options: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from agent.config import Listen
from agent.config_values import parse_listen_address
from agent.inputs.base import Source
from agent.inputs.broker import RETRY_MAX_S, RETRY_MIN_S, BrokerError, BrokerInput
from agent.outputs.base import one_line
from agent.relay.intake import Intake
from agent.relay.offsets import Partition, Spot

POLL_S = 0.1
READ_ON_S = 0.02
COMMIT_S = 0.5
"""Offsets are committed so often."""

REVOKE_S = 5.0
"""What is under way of a partition that goes to another member has so long."""

ASK_S = 5.0
LOOK_S = 2.0

SETTINGS = {
    "session.timeout.ms": 10_000,
    "topic.metadata.refresh.interval.ms": 10_000,
    "queued.max.messages.kbytes": 16_384,
}
"""Where the options say nothing else."""

OURS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "client.id": "penstock",
    # What it would write to standard error comes as errors, too.
    "log_level": 0,
}


class KafkaInput(BrokerInput):
    """One listener of scheme ``kafka``."""

    scheme = "kafka"

    def __init__(self, config: Listen, source: Source) -> None:
        super().__init__(config, source)
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        """What is to be done in the thread."""

    def wake(self) -> None:
        self._calls.put(lambda: None)

    def serve(self) -> None:
        intake: Intake[Spot] = Intake(
            self.config.name,
            self.relay,
            self.source,
            call=self._calls.put,
            forget=lambda spot: spot.partition.decided(spot.offset),
            bring_again=lambda spot: self._again.append(spot),
        )
        self._again: list[Spot] = []
        pause = RETRY_MIN_S
        try:
            while not self.stopping:
                self.take_change()
                began = time.monotonic()
                try:
                    _Session(self, intake, self._again).run()
                except BrokerError as error:
                    self.failed(str(error))
                pause = RETRY_MIN_S if time.monotonic() - began > RETRY_MAX_S else min(2 * pause, RETRY_MAX_S)
                if not self.ending:
                    self.work(pause)
        finally:
            intake.close()

    def work(self, seconds: float) -> None:
        """Do what is asked of the thread; wait for it *seconds* at most."""
        self.turns += 1
        with suppress(Empty):
            self._calls.get(timeout=max(seconds, 0.001))()
            while True:
                self._calls.get_nowait()()

    @property
    def has_work(self) -> bool:
        return not self._calls.empty()


class _Session:
    """One membership of the group."""

    def __init__(self, owner: KafkaInput, intake: Intake[Spot], again: list[Spot]) -> None:
        self._owner = owner
        self._config = owner.config
        self._intake = intake
        self._again = again
        self._partitions: dict[int, Partition] = {}
        self._paused = False
        self._consumer: Any = None

    def run(self) -> None:
        """Take messages until it is to end. Raises BrokerError."""
        from confluent_kafka import Consumer, KafkaException

        try:
            told = {"error_cb": self._complained, "on_commit": self._committed}
            self._consumer = Consumer({**_settings(self._config), **told})
            self._consumer.subscribe(
                [self._config.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            try:
                self._work()
                self._finish()
            finally:
                with self._patience():
                    self._consumer.close()
                self._intake.let_go()
                self._again.clear()
        except KafkaException as error:
            raise BrokerError(_reason(error.args[0], self._config)) from error
        except ValueError as error:
            raise BrokerError(one_line(str(error))) from error

    def _work(self) -> None:
        owner, intake = self._owner, self._intake
        commit_at = look_at = time.monotonic() + COMMIT_S
        while not owner.ending:
            if owner.has_work:
                owner.work(0)
            if self._again:
                self._rewind()
            self._pause(owner.room() <= 0)
            if intake.reads:
                intake.read_on()
            if self._paused:
                owner.work(READ_ON_S)
            # A rebalance is told within it, and asks the broker things.
            with self._patience():
                message = self._consumer.poll(self._poll_s)
            owner.turns += 1
            if message is not None:
                self._came(message)
            now = time.monotonic()
            if now >= commit_at:
                commit_at = now + COMMIT_S
                self._commit(list(self._partitions.values()), wait=False)
            if owner.counters.failing and now >= look_at:
                look_at = now + LOOK_S
                self._look()

    @property
    def _poll_s(self) -> float:
        return 0 if self._paused else READ_ON_S if self._intake.reads else POLL_S

    @contextmanager
    def _patience(self) -> Iterator[None]:
        self._owner.waiting = True
        try:
            yield
        finally:
            self._owner.waiting = False

    def _look(self) -> None:
        """librdkafka says when something fails, and not when it works again."""
        from confluent_kafka import KafkaException

        topic = self._config.topic
        try:
            with self._patience():
                found = self._consumer.list_topics(topic, timeout=LOOK_S)
        except KafkaException:
            return
        if self._partitions and found.topics[topic].error is None:
            self._owner.connected()

    def _finish(self) -> None:
        """Take nothing more, and give what is under way its time."""
        self._pause(True)
        self._wait(list(self._partitions.values()), self._owner.stop_at)

    # ---- messages ----

    def _came(self, message: Any) -> None:
        if (error := message.error()) is not None:
            self._complained(error)
            return
        partition = self._partitions.get(message.partition())
        if partition is None:
            return
        offset = message.offset()
        if 0 <= partition.next < offset:
            self._look_for_expired(partition, offset)
        spot = Spot(partition, offset)
        again = not partition.took(offset)
        headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers() or ()}
        self._owner.connected()
        self._intake.take(headers, message.value() or b"", spot, redelivered=again)

    def _look_for_expired(self, partition: Partition, offset: int) -> None:
        """Some offsets were skipped: by the log's own records, or since it has dropped them."""
        low = self._low(partition)
        if low > partition.next:
            self._expired(partition, min(low, offset) - partition.next)

    def _expired(self, partition: Partition, messages: int) -> None:
        self._owner.expired(messages, topic=partition.topic, partition=partition.number)

    def _low(self, partition: Partition) -> int:
        """The oldest offset that there is; -1 if that cannot be found out."""
        from confluent_kafka import KafkaException, TopicPartition

        place = TopicPartition(partition.topic, partition.number)
        try:
            low, _ = self._consumer.get_watermark_offsets(place, timeout=ASK_S)
        except KafkaException:
            return -1
        return int(low)

    def _rewind(self) -> None:
        """Have what was let go brought again, where the partition is still ours."""
        from confluent_kafka import KafkaException, TopicPartition

        oldest: dict[int, int] = {}
        for spot in self._again:
            if not spot.partition.gone:
                number = spot.partition.number
                oldest[number] = min(oldest.get(number, spot.offset), spot.offset)
        self._again.clear()
        for number, offset in oldest.items():
            try:
                self._consumer.seek(TopicPartition(self._config.topic, number, offset))
            except KafkaException as error:
                raise BrokerError(_reason(error.args[0], self._config)) from error

    def _pause(self, paused: bool) -> None:
        from confluent_kafka import TopicPartition

        if paused == self._paused:
            return
        self._paused = paused
        places = [TopicPartition(one.topic, one.number) for one in self._partitions.values()]
        if places:
            (self._consumer.pause if paused else self._consumer.resume)(places)

    # ---- partitions ----

    def _assigned(self, consumer: Any, places: Sequence[Any]) -> None:
        """Partitions have come: begin where the group is, and see whether that is there still."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException

        try:
            places = consumer.committed(list(places), timeout=ASK_S)
        except KafkaException:
            # It finds out by itself where to begin.
            pass
        for place in places:
            partition = Partition(place.topic, place.partition)
            self._partitions[place.partition] = partition
            if place.offset >= 0:
                partition.next = partition.committed = place.offset
                low = self._low(partition)
                if low > place.offset:
                    self._expired(partition, low - place.offset)
                    partition.next = place.offset = low
            elif place.offset == -1001:
                place.offset = OFFSET_BEGINNING
        consumer.incremental_assign(list(places))
        if self._paused:
            consumer.pause(list(places))
        self._owner.connected()

    def _revoked(self, consumer: Any, places: Sequence[Any]) -> None:
        """Partitions go to others: finish what can be, commit it, and let go of the rest."""
        going = [self._partitions.pop(one.partition) for one in places if one.partition in self._partitions]
        self._wait(going, time.monotonic() + REVOKE_S)
        self._commit(going, wait=True)
        self._forget(going)

    def _lost(self, consumer: Any, places: Sequence[Any]) -> None:
        """Others have them already: nothing may be committed."""
        self._forget(
            [self._partitions.pop(one.partition) for one in places if one.partition in self._partitions]
        )

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            partition.gone = True
        self._intake.let_go(lambda spot: spot.partition.gone)

    def _wait(self, partitions: Sequence[Partition], until: float) -> None:
        """Until all that was taken of *partitions* is decided, or it is *until* (monotonic)."""
        until = min(until, self._owner.stop_at) if self._owner.stopping else until
        while any(one.position < one.next for one in partitions) and time.monotonic() < until:
            self._intake.read_on()
            self._owner.work(READ_ON_S)

    def _commit(self, partitions: Sequence[Partition], wait: bool) -> None:
        """Tell the group how far we are."""
        from confluent_kafka import KafkaException, TopicPartition

        moved = [one for one in partitions if one.position > one.committed]
        if not moved:
            return
        places = [TopicPartition(one.topic, one.number, one.position) for one in moved]
        for one, place in zip(moved, places, strict=True):
            one.committed = place.offset
        try:
            self._consumer.commit(offsets=places, asynchronous=not wait)
        except KafkaException as error:
            self._committed(error.args[0], places)

    def _committed(self, error: Any, places: Sequence[Any]) -> None:
        """The group was told, or not: then what is not committed is told once more, or comes again."""
        for place in places:
            if (error or place.error) and (partition := self._partitions.get(place.partition)) is not None:
                partition.committed = -1
        if error is not None and not _in_a_rebalance(error):
            self._complained(error)

    # ---- what goes wrong ----

    def _complained(self, error: Any) -> None:
        """librdkafka goes on by itself, whatever it is, unless it says that this is the end."""
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._PARTITION_EOF or _in_a_rebalance(error):
            return
        reason = _reason(error, self._config)
        if error.fatal() or error.code() == KafkaError._MAX_POLL_EXCEEDED:
            raise BrokerError(reason)
        # What is known better is not told over, and one broker of several that is away keeps nothing back.
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN) and (
            self._owner.counters.failing or (error.code() == KafkaError._TRANSPORT and self._partitions)
        ):
            return
        self._owner.failed(reason)


def _in_a_rebalance(error: Any) -> bool:
    """Whether the group has another generation by now, which is no fault of anybody's."""
    from confluent_kafka import KafkaError

    return error.code() in (
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._NO_OFFSET,
    )


def _settings(config: Listen) -> dict[str, Any]:
    brokers = parse_listen_address(config.address).brokers
    servers = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in brokers)
    found: dict[str, Any] = {**SETTINGS, **config.options, **OURS}
    found |= {"bootstrap.servers": servers, "group.id": config.group}
    files = {
        "ssl.ca.location": config.ca,
        "ssl.certificate.location": config.cert,
        "ssl.key.location": config.key,
    }
    found |= {name: path for name, path in files.items() if path}
    if config.insecure_skip_verify:
        found["enable.ssl.certificate.verification"] = False
    if config.ca or config.cert or config.insecure_skip_verify:
        found.setdefault("security.protocol", "SSL")
    return found


def _reason(error: Any, config: Listen) -> str:
    from confluent_kafka import KafkaError

    code = error.code()
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return f"there is no topic {config.topic}: make it, or correct topic"
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return f"the user may not read the topic {config.topic}"
    if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return f"the user may not be in the group {config.group}"
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return one_line(f"the brokers refuse the credentials: correct those in options ({error.str()})")
    return one_line(error.str())
