"""A cluster of real NATS servers with JetStream: started from a test's folder on free loopback ports.

    with nats_cluster(tmp_path, 3) as cluster:
        cluster.add_stream("metrics", ["penstock.>"], replicas=3)
        cluster.leader("metrics").kill()

Each server keeps its ports and its folder when it is started again, so it comes back as the one that it was.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import wait_until
from tests.integration.nats_server import NatsServer
from tests.integration.servers import free_tcp_port

T = TypeVar("T")

ELECTION_S = 60.0
"""A stream has a leader again within, on a busy machine, too."""


class Member(NatsServer):
    """A server that knows the others by *routes*, ports of which the first is its own."""

    def __init__(self, folder: Path, name: str, routes: Sequence[int]) -> None:
        listens = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes[1:])
        cluster = (
            f'cluster {{ name: "test", listen: "127.0.0.1:{routes[0]}", routes: [{listens}] }}\n'
            if listens
            else ""
        )
        super().__init__(folder, config=f'server_name: "{name}"\n{cluster}')
        self.name = name


class NatsCluster:
    """Servers that know each other."""

    def __init__(self, servers: Sequence[Member]) -> None:
        self.servers = tuple(servers)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def ask(self, what: "Callable[[Any], Coroutine[Any, Any, T]]") -> T:
        """Do *what* with a JetStream context, on a connection of its own to whichever server answers."""
        import nats

        async def run() -> T:
            client = await nats.connect(
                self.urls, connect_timeout=5, max_reconnect_attempts=3, error_cb=_say_nothing
            )
            try:
                return await what(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(run())

    def add_stream(self, name: str, subjects: Sequence[str], *, replicas: int = 1) -> None:
        """Make a stream, as soon as the cluster has a leader that can."""

        def made() -> bool:
            try:
                self.ask(
                    lambda context: context.add_stream(
                        name=name, subjects=list(subjects), num_replicas=replicas
                    )
                )
            except Exception as error:
                # Without a leader, or with too few servers yet.
                if "not available" in str(error) or "no suitable peers" in str(error) or not str(error):
                    return False
                if "timeout" in str(error).lower() or "no response" in str(error).lower():
                    return False
                raise
            return True

        wait_until(made, ELECTION_S, f"stream {name} is made")

    def stream(self, name: str) -> Any:
        """What is in a stream, and who leads it."""
        return self.ask(lambda context: context.stream_info(name))

    def leader(self, name: str) -> Member:
        """The server that leads a stream, as soon as there is one that runs."""
        found: list[Member] = []

        def leads() -> bool:
            try:
                info = self.stream(name)
            except Exception:
                return False
            found[:] = [one for one in self.servers if info.cluster and info.cluster.leader == one.name]
            return bool(found)

        wait_until(leads, ELECTION_S, f"stream {name} has a leader")
        return found[0]

    def is_current(self, name: str) -> bool:
        """Whether all replicas of a stream have all of it."""
        try:
            info = self.stream(name)
        except Exception:
            return False
        replicas = (info.cluster.replicas or []) if info.cluster else []
        return all(one.current and not one.offline for one in replicas)


async def _say_nothing(error: Exception) -> None:
    """A server that is down is expected here, and what fails in the end is raised."""


@contextmanager
def nats_cluster(folder: Path, size: int = 1) -> Iterator[NatsCluster]:
    """A running cluster, or one server, with JetStream."""
    ports = [free_tcp_port() for _ in range(size)]
    servers = [
        Member(folder / f"nats-{number}", f"nats-{number}", [*ports[number:], *ports[:number]])
        for number in range(size)
    ]
    try:
        for server in servers:
            server.start()
        yield NatsCluster(servers)
    finally:
        for server in servers:
            server.stop()
