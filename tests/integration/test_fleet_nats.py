"""A fleet through a cluster of NATS: whatever is killed of it, what was sent gets to the database."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.agent_process import AgentProcess, assert_balanced, listener
from tests.integration.fleet import Database, Fleet, InfluxDatabase, VictoriaDatabase, start_again
from tests.integration.nats_cluster import NatsCluster, NatsServer, nats_cluster
from tests.integration.servers import influxd, victoria_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EDGES, RELAYS = 20, 3
LINES_PER_S = 200
"""To each edge agent."""

STREAM, SUBJECT = "metrics", "penstock.lines"


def publishes(cluster: NatsCluster) -> str:
    return f'type = "nats"\nservers = {cluster.urls}\nsubject = "{SUBJECT}"\n'


def listens(cluster: NatsCluster) -> str:
    hosts = ",".join(url.removeprefix("nats://") for url in cluster.urls)
    return f'address = "nats://{hosts}"\nstream = "{STREAM}"\nsubject = "{SUBJECT}"\n'


def kill_agent(fleet: Fleet, agent: AgentProcess) -> None:
    """As a host does that loses its power but not its disk; the others go on, then it is back."""
    agent.signal(signal.SIGKILL)
    agent.wait()
    fleet.go_on(EDGES * LINES_PER_S // 2)
    start_again(agent)
    fleet.go_on(EDGES * LINES_PER_S // 2)


def kill_broker(fleet: Fleet, cluster: NatsCluster, server: NatsServer) -> None:
    server.kill()
    fleet.go_on(EDGES * LINES_PER_S // 2)
    server.start()
    fleet.wait_for(lambda: cluster.is_current(STREAM), "all servers have all of the stream again")


@contextmanager
def database(kind: str, folder: Path) -> Iterator[Database]:
    if kind == "read":
        with influxd(folder) as server:
            yield InfluxDatabase(server)
    else:
        with victoria_metrics(folder, "-dedup.minScrapeInterval=1ms") as victoria:
            yield VictoriaDatabase(victoria)


@pytest.mark.parametrize("kind", ["as it is", "read"])
def test_whatever_is_killed_every_line_arrives(tmp_path: Path, kind: str) -> None:
    with database(kind, tmp_path) as server, nats_cluster(tmp_path, 3) as cluster:
        cluster.add_stream(STREAM, ["penstock.>"], replicas=3)
        with Fleet(
            tmp_path,
            server,
            edges=EDGES,
            relays=RELAYS,
            output=publishes(cluster),
            listener=listens(cluster),
        ) as fleet:
            fleet.load(LINES_PER_S)
            fleet.go_on(EDGES * LINES_PER_S)
            for turn in range(2):
                leader = cluster.leader(STREAM)
                kill_broker(fleet, cluster, next(one for one in cluster.servers if one is not leader))
                kill_broker(fleet, cluster, cluster.leader(STREAM))
                kill_agent(fleet, fleet.relays[turn])
                kill_agent(fleet, fleet.edges[turn])
            fleet.end_load()
            fleet.wait_stored()
            print(f"{sum(fleet.sent)} lines of {EDGES} agents, every one stored")
            for agent in (*fleet.edges, *fleet.relays):
                assert_balanced(agent.status())
            relays = [listener(agent.status(), "broker")["relay"] for agent in fleet.relays]
            read, carried = (sum(one[key] for one in relays) for key in ("metrics", "carried"))
            assert read > 0 and carried == (read if kind == "as it is" else 0)
            fleet.check_view()
