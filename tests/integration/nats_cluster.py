"""A cluster of real NATS servers with JetStream: started from a test's folder on free loopback ports.

    with nats_cluster(tmp_path, 3) as cluster:
        cluster.add_stream("metrics", ["penstock.>"], replicas=3)
        cluster.leader("metrics").kill()

Each server keeps its ports and its folder when it is started again, so it comes back as the one that it was.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import wait_until
from tests.integration.servers import Server, free_tcp_port

T = TypeVar("T")

ELECTION_S = 30.0
"""A stream has a leader again within, on a busy machine, too."""


class NatsServer(Server):
    """One server; :attr:`port` is the one of its monitor, which speaks HTTP."""

    program = "nats-server"
    ready_path = "/healthz"

    def __init__(self, folder: Path, name: str, settings: dict[str, object]) -> None:
        super().__init__(folder, "127.0.0.1")
        self.name = name
        self.client_port = free_tcp_port()
        self.route_port = free_tcp_port()
        self.routes: list[int] = []
        """The route ports of the whole cluster; none where it is alone."""
        self.settings = settings

    @property
    def nats_url(self) -> str:
        return f"nats://127.0.0.1:{self.client_port}"

    def arguments(self) -> list[str]:
        config: dict[str, object] = {
            "server_name": self.name,
            "listen": f"127.0.0.1:{self.client_port}",
            "http": f"127.0.0.1:{self.port}",
            "jetstream": {"store_dir": str(self.folder / "store"), "max_mem": 64 << 20, "max_file": 8 << 30},
            **self.settings,
        }
        if self.routes:
            config["cluster"] = {
                "name": "test",
                "listen": f"127.0.0.1:{self.route_port}",
                "routes": [f"nats://127.0.0.1:{port}" for port in self.routes],
            }
        path = self.folder / "nats.conf"
        # JSON is what the server's own format understands, too.
        path.write_text(json.dumps(config))
        return ["-c", str(path)]

    def _answers(self) -> bool:
        # A server of a cluster is healthy when the others are there.
        try:
            answer = self.request("GET", "/varz" if self.routes else self.ready_path, seconds_max=2.0)
        except OSError:
            return False
        return answer.status == 200


async def _say_nothing(error: Exception) -> None:
    """A server that is down is expected here, and what fails in the end is raised."""


class NatsCluster:
    """Servers that know each other."""

    def __init__(self, servers: Sequence[NatsServer]) -> None:
        self.servers = tuple(servers)

    @property
    def urls(self) -> list[str]:
        return [server.nats_url for server in self.servers]

    def start(self) -> None:
        for server in self.servers:
            server.start()
        wait_until(self._is_whole, ELECTION_S, "the cluster has a leader")

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def _is_whole(self) -> bool:
        found = [server.request("GET", "/jsz").json() for server in self.servers]
        # Alone, there is nobody to elect.
        return len(found) == 1 or any(
            one.get("meta_cluster", {}).get("cluster_size") == len(self.servers)
            and one["meta_cluster"].get("leader")
            for one in found
        )

    def ask(self, what: "Callable[[Any], Coroutine[Any, Any, T]]") -> T:
        """Do *what* with a JetStream context, on a connection of its own."""
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

    def add_stream(self, name: str, subjects: Sequence[str], **settings: Any) -> None:
        """Make a stream; *settings* are nats-py's. Waits as long as the cluster is not ready for it."""
        replicas = {"num_replicas": settings.pop("replicas", 1)}

        def made() -> bool:
            try:
                self.ask(
                    lambda context: context.add_stream(
                        name=name, subjects=list(subjects), **replicas, **settings
                    )
                )
            except Exception as error:
                # 10008: JetStream is not ready yet, for a moment after an election.
                if "10008" in str(error) or "timeout" in str(error).lower() or not str(error):
                    return False
                raise
            return True

        wait_until(made, ELECTION_S, f"stream {name} is made")

    def stream(self, name: str) -> Any:
        """What is in a stream, and who leads it."""
        return self.ask(lambda context: context.stream_info(name))

    def leader(self, name: str) -> NatsServer:
        """The server that leads a stream, as soon as there is one."""
        found: list[NatsServer] = []

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


@contextmanager
def nats_cluster(folder: Path, size: int = 1, **settings: object) -> Iterator[NatsCluster]:
    """A running cluster, or one server, with JetStream; *settings* are added to each server's config."""
    servers = [NatsServer(folder / f"nats-{number}", f"nats-{number}", settings) for number in range(size)]
    if size > 1:
        for server in servers:
            server.routes = [one.route_port for one in servers]
    cluster = NatsCluster(servers)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
