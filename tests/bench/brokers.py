"""Brokers for the benchmarks: started in a folder on loopback, filled with finished messages, ended."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from isal import isal_zlib

from agent.batch_id import Place, batch_id
from agent.outputs.base import Payload
from agent.relay.message import headers, identity
from tests.bench.agent_run import free_port
from tests.bench.databases import start
from tests.bench.harness import NotHere, check_equal, poll
from tests.bench.native import Lines, read_bodies
from tests.integration.kafka_broker import KafkaBroker

SUBJECT = "penstock.lines"

Message = tuple[bytes, dict[str, str]]
"""Body and headers."""


class Broker:
    """A broker with its data in *folder*; a context manager."""

    title: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def output(self) -> str:
        """The keys of an output to it."""
        raise NotImplementedError

    @property
    def listener(self) -> str:
        """The keys of a listener on it."""
        raise NotImplementedError

    def __enter__(self) -> "Broker":
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        raise NotImplementedError

    def prepare(self, partitions: int) -> None:
        """Make the stream or topic."""
        raise NotImplementedError

    def publish(self, messages: list[Message]) -> None:
        """Put them into it, as fast as it takes them."""
        raise NotImplementedError

    def messages(self, lines: Lines, count: int, batch_lines: int) -> list[Message]:
        """*count* lines as an edge agent would send them, each message with an identity of its own."""
        found = []
        self._batches = getattr(self, "_batches", 0)
        for body in read_bodies(lines.bodies(self.folder / "bodies", count, batch_lines)):
            data = isal_zlib.compress(body.data, 2, 31)
            payload = Payload(data, body.lines, len(body.data), "lp", "gz", oldest_ns=1)
            batch = batch_id(Place(1, self._batches, 1))
            self._batches += 1
            payload.trace = f"00-{batch}-00f067aa0ba902b7-00"
            told = headers(payload, "bench")
            found.append((data, {**told, "Nats-Msg-Id": identity(batch, data)}))
        return found


class Nats(Broker):
    """One nats-server with a stream on its disk."""

    title = "NATS"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            import nats
        except ImportError as error:
            raise NotHere("nats-py is not installed") from error
        self._connect = nats.connect
        self.port = free_port(socket.SOCK_STREAM)
        config = folder / "nats.conf"
        store = {"store_dir": str(folder / "store"), "max_file": 16 << 30, "max_mem": 64 << 20}
        config.write_text(json.dumps({"listen": f"127.0.0.1:{self.port}", "jetstream": store}))
        self._process = start("nats-server", folder, "-c", str(config))

    @property
    def output(self) -> str:
        return f'type = "nats"\nservers = ["nats://127.0.0.1:{self.port}"]\nsubject = "{SUBJECT}"\n'

    @property
    def listener(self) -> str:
        return f'address = "nats://127.0.0.1:{self.port}"\nstream = "penstock"\nsubject = "{SUBJECT}"\n'

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise NotHere(f"nats-server ended: {(self.folder / 'server.log').read_text()[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> "Nats":
        try:
            poll(self._is_up, 30, "nats-server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, what: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            client = await self._connect(f"nats://127.0.0.1:{self.port}")
            try:
                await what(client.jetstream(timeout=30))
            finally:
                await client.close()

        asyncio.run(run())

    def prepare(self, partitions: int) -> None:
        self._ask(lambda stream: stream.add_stream(name="penstock", subjects=[SUBJECT]))

    def publish(self, messages: list[Message]) -> None:
        async def put(stream: Any) -> None:
            for at in range(0, len(messages), 32):
                part = messages[at : at + 32]
                await asyncio.gather(*(stream.publish(SUBJECT, body, headers=told) for body, told in part))

        self._ask(put)


class Kafka(Broker):
    """One node in KRaft mode, as the tests have it."""

    title = "Kafka"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            self._broker = KafkaBroker(folder / "kafka")
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            raise NotHere(str(error)) from error

    @property
    def output(self) -> str:
        return f'type = "kafka"\nbrokers = ["{self._broker.address}"]\ntopic = "penstock"\n'

    @property
    def listener(self) -> str:
        return f'address = "kafka://{self._broker.address}"\ntopic = "penstock"\n'

    def __enter__(self) -> "Kafka":
        self._broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.kill()

    def prepare(self, partitions: int) -> None:
        self._broker.add_topic("penstock", partitions)

    def publish(self, messages: list[Message]) -> None:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self._broker.address, "linger.ms": 0})
        for body, told in messages:
            producer.produce("penstock", body, headers=list(told.items()))
            producer.poll(0)
        check_equal(producer.flush(60), 0, "messages that the broker did not take")


BROKERS: tuple[type[Broker], ...] = (Nats, Kafka)
