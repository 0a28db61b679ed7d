"""A fleet through a cluster of NATS: whatever is killed of it, what the edges were sent gets to the database."""

import signal
from pathlib import Path

import pytest

from tests.integration.agent_process import AgentProcess, assert_balanced
from tests.integration.fleet import Fleet
from tests.integration.nats_cluster import NatsCluster, NatsServer, nats_cluster
from tests.integration.servers import influxd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EDGES, RELAYS = 20, 3
LINES_PER_S = 200
"""To each edge agent."""

STREAM, SUBJECT = "metrics", "penstock.lines"


def output(cluster: NatsCluster) -> str:
    return f'type = "nats"\nservers = {cluster.urls}\nsubject = "{SUBJECT}"\n'


def listener(cluster: NatsCluster) -> str:
    hosts = ",".join(url.removeprefix("nats://") for url in cluster.urls)
    return f'address = "nats://{hosts}"\nstream = "{STREAM}"\nsubject = "{SUBJECT}"\n'


def kill_agent(fleet: Fleet, agent: AgentProcess) -> None:
    """As a host does that loses its power but not its disk; the others go on, then it is back."""
    agent.signal(signal.SIGKILL)
    agent.wait()
    fleet.go_on(EDGES * LINES_PER_S // 2)
    agent.start(60)
    fleet.go_on(EDGES * LINES_PER_S // 2)


def kill_broker(fleet: Fleet, cluster: NatsCluster, server: NatsServer) -> None:
    server.kill()
    fleet.go_on(EDGES * LINES_PER_S // 2)
    server.start()
    fleet.wait_for(lambda: cluster.is_current(STREAM), "all servers have all of the stream again")


def test_whatever_is_killed_every_line_arrives(tmp_path: Path) -> None:
    with influxd(tmp_path) as server, nats_cluster(tmp_path, 3) as cluster:
        cluster.add_stream(STREAM, ["penstock.>"], replicas=3)
        with Fleet(
            tmp_path,
            server,
            edges=EDGES,
            relays=RELAYS,
            output=output(cluster),
            listener=listener(cluster),
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
            fleet.check_view()
