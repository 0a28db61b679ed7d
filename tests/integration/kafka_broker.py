"""A real Kafka broker for tests: one node in KRaft mode, brought by Maven, run by Java.

    with kafka_broker(tmp_path) as broker:
        broker.add_topic("metrics", partitions=2)
        ...
        assert [parse(one.headers, one.data) for one in broker.messages("metrics")]

It listens three times: :attr:`address` without a password, where whoever comes may do everything;
:attr:`sasl_address` where "writer" may do everything and "reader" nothing, their passwords being "right"; and
with *certificates* (:mod:`tests.integration.certificates`) :attr:`tls_address`, where everything is allowed.
Topics are not made by themselves.

Maven is run once, and what it brought is in build/kafka from then on. It takes seconds to start a broker:
tests share one where they can.
"""

import fcntl
import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import missing, need
from tests.integration.servers import Server, free_tcp_port

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).with_name("kafka_pom.xml")
BUILD = ROOT / "build" / "kafka"

FETCH_SECONDS_MAX = 600.0
FORMAT_SECONDS_MAX = 120.0
ASK_SECONDS_MAX = 60.0

_MEMORY = ("-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


@cache
def libraries() -> Path:
    """The folder of Kafka's libraries, which Maven fills once. Skips, or fails, where it cannot be had."""
    folder = BUILD / "libs"
    wanted = POM.read_bytes()
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        # Several runs of tests may want it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_of = BUILD / "pom.xml"
        if made_of.exists() and made_of.read_bytes() == wanted:
            return folder
        command = [need("mvn"), "-q", "-B", "-ntp", "-f", str(POM), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            missing(f"needs Kafka, which Maven did not bring in {FETCH_SECONDS_MAX:g} s")
        if done.returncode:
            missing(f"needs Kafka, which Maven could not bring: {done.stdout[-500:]}{done.stderr[-500:]}")
        made_of.write_bytes(wanted)
    return folder


@dataclass(frozen=True)
class Stored:
    """A message of a topic."""

    key: bytes | None
    headers: dict[str, str]
    data: bytes
    partition: int
    offset: int


class KafkaBroker(Server):
    program = "java"
    ready_path = ""
    start_seconds_max = 120.0

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        certificates: Path | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, host)
        self._libraries = libraries()
        self._certificates = certificates
        self._settings = settings or {}
        self._ports: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def sasl_address(self) -> str:
        return f"{self.host}:{self._ports['SASL']}"

    @property
    def tls_address(self) -> str:
        return f"{self.host}:{self._ports['TLS']}"

    def arguments(self) -> list[str]:
        properties = self.folder / "server.properties"
        if not self._ports:
            for name in ("CONTROLLER", "SASL", *(["TLS"] if self._certificates else [])):
                self._ports[name] = free_tcp_port(self.host)
        self._ports["PLAIN"] = self.port
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self.folder / "data" / "meta.properties").exists():
            self._run("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties))
        return [*self._java(), "kafka.Kafka", str(properties)]

    def _properties(self) -> dict[str, str]:
        names = ("PLAIN", "SASL", *(["TLS"] if self._certificates else []))
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        own = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.host}:{self._ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(
                f"{name}://{self.host}:{self._ports[name]}" for name in (*names, "CONTROLLER")
            ),
            "advertised.listeners": ",".join(f"{name}://{self.host}:{self._ports[name]}" for name in names),
            "listener.security.protocol.map": (
                "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL"
            ),
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'{login} user_writer="right" user_reader="right";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:writer;User:CN=client",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        if self._certificates:
            store = self.folder / "server-with-key.pem"
            names_of = ("server.key", "server.pem")
            store.write_text("".join((self._certificates / name).read_text() for name in names_of))
            own |= {
                "listener.name.tls.ssl.keystore.type": "PEM",
                "listener.name.tls.ssl.keystore.location": str(store),
                "listener.name.tls.ssl.truststore.type": "PEM",
                "listener.name.tls.ssl.truststore.location": str(self._certificates / "ca.pem"),
                "listener.name.tls.ssl.client.auth": "requested",
            }
        return own | self._settings

    def _java(self) -> list[str]:
        return [*_MEMORY, "-cp", f"{self._libraries}/*"]

    def _run(self, *arguments: str) -> None:
        command = [self._executable, *self._java(), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS_MAX)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException

        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def admin(self) -> Any:
        """confluent-kafka's AdminClient."""
        from confluent_kafka.admin import AdminClient

        return AdminClient(self._client())

    def _client(self) -> dict[str, Any]:
        # What it logs would be on standard error.
        return {"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200}

    def add_topic(self, name: str, partitions: int = 1, **settings: str) -> None:
        """*settings* with underscores for dots, such as ``max_message_bytes="2000"``."""
        from confluent_kafka.admin import NewTopic

        config = {key.replace("_", "."): value for key, value in settings.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        # The client must be there until it is done.
        admin = self.admin()
        for done in admin.create_topics([topic]).values():
            done.result(ASK_SECONDS_MAX)

    def delete_topic(self, name: str) -> None:
        admin = self.admin()
        for done in admin.delete_topics([name]).values():
            done.result(ASK_SECONDS_MAX)

    def messages(self, topic: str) -> list[Stored]:
        """All that is in a topic, partition by partition."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer(
            self._client() | {"group.id": f"test-{uuid.uuid4()}", "enable.auto.commit": False}
        )
        try:
            found = []
            partitions = consumer.list_topics(topic, timeout=ASK_SECONDS_MAX).topics[topic].partitions
            for partition in sorted(partitions):
                place = TopicPartition(topic, partition, OFFSET_BEGINNING)
                _, high = consumer.get_watermark_offsets(place, timeout=ASK_SECONDS_MAX)
                consumer.assign([place])
                while high and (not found or found[-1].partition != partition or found[-1].offset < high - 1):
                    one = consumer.poll(ASK_SECONDS_MAX)
                    assert one is not None and one.error() is None, one and one.error()
                    headers = {name: value.decode() for name, value in one.headers() or ()}
                    found.append(Stored(one.key(), headers, one.value(), partition, one.offset()))
            return found
        finally:
            consumer.close()

    def count(self, topic: str) -> int:
        """How many messages a topic ever had, where none was taken out of it."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(self._client() | {"group.id": "count"})
        try:
            partitions = consumer.list_topics(topic, timeout=ASK_SECONDS_MAX).topics[topic].partitions
            places = [TopicPartition(topic, partition) for partition in partitions]
            return sum(consumer.get_watermark_offsets(one, timeout=ASK_SECONDS_MAX)[1] for one in places)
        finally:
            consumer.close()


def _cluster_id() -> str:
    return urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


@contextmanager
def kafka_broker(
    folder: Path, certificates: Path | None = None, settings: dict[str, str] | None = None
) -> Iterator[KafkaBroker]:
    """A broker, stopped at the end. *settings* are put into its configuration."""
    broker = KafkaBroker(folder / "kafka", certificates=certificates, settings=settings)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
