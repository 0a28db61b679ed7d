"""A real NATS server with JetStream, for tests.

    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        ...
        assert [parse(one.headers, one.data) for one in server.messages("metrics")]

*config* is put into its configuration file, such as ``max_payload: 4KB``; *options* are those of nats-py's
``connect`` for the test itself, where the server asks who it is.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.servers import Server

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A message of a stream."""

    subject: str
    headers: dict[str, str]
    data: bytes
    seq: int


class NatsServer(Server):
    program = "nats-server"
    ready_path = ""

    def __init__(self, folder: Path, host: str = "127.0.0.1", config: str = "", **options: Any) -> None:
        super().__init__(folder, host)
        self.config = config
        self.options = options

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    def arguments(self) -> list[str]:
        path = self.folder / "nats.conf"
        path.write_text(
            f'listen: "{self.host}:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder / "jetstream"}" }}\n{self.config}\n'
        )
        return ["-c", str(path)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=2.0) as probe:
                return b'"jetstream":true' in probe.recv(4096)
        except OSError:
            return False

    def run(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """What *ask* makes of a connection's JetStream."""
        import nats

        async def asked() -> T:
            client = await nats.connect(self.url, **self.options)
            try:
                return await ask(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(asked())

    def add_stream(self, name: str, *subjects: str, **settings: Any) -> None:
        self.run(lambda stream: stream.add_stream(name=name, subjects=list(subjects), **settings))

    def delete_stream(self, name: str) -> None:
        self.run(lambda stream: stream.delete_stream(name))

    def messages(self, name: str) -> list[Stored]:
        """All that is in a stream, the oldest first."""

        async def read(stream: Any) -> list[Stored]:
            state = (await stream.stream_info(name)).state
            found = []
            for seq in range(state.first_seq, state.last_seq + 1):
                one = await stream.get_msg(name, seq)
                found.append(Stored(one.subject, dict(one.headers or {}), one.data or b"", seq))
            return found

        return self.run(read)

    def count(self, name: str) -> int:
        async def read(stream: Any) -> int:
            return int((await stream.stream_info(name)).state.messages)

        return self.run(read)


@contextmanager
def nats_server(folder: Path, config: str = "", **options: Any) -> Iterator[NatsServer]:
    """A server with one JetStream, stopped at the end. *options* are those of nats-py's ``connect``."""
    server = NatsServer(folder / "nats", config=config, **options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
