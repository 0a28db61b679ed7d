"""One part of a fleet after the other is gone for a while: what was sent gets to the database all the same.

The broker is gone: the edges keep their batches in their spools. The relay is gone: the broker keeps them.
The database is gone: the relay keeps a few, pauses, and the broker keeps the rest. Each has a fleet of its
own, and they go on side by side, so that a minute of each takes a minute.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent_process import assert_balanced, listener, output
from tests.integration.fleet import Fleet, InfluxDatabase
from tests.integration.nats_cluster import NatsCluster, nats_cluster
from tests.integration.servers import Influxd, influxd
from tests.integration.test_fleet_nats import STREAM, SUBJECT, listens
from tests.integration.test_fleet_nats import output as publishes

EDGES = 2
LINES_PER_S = 200


@contextmanager
def fleet_of(folder: Path, listen: str = "") -> Iterator[tuple[Fleet, NatsCluster, Influxd]]:
    folder.mkdir()
    with influxd(folder) as server, nats_cluster(folder) as cluster:
        cluster.add_stream(STREAM, [SUBJECT])
        with Fleet(
            folder,
            InfluxDatabase(server),
            edges=EDGES,
            relays=1,
            output=publishes(cluster),
            listener=f"{listens(cluster)}{listen}",
        ) as fleet:
            fleet.load(LINES_PER_S)
            fleet.go_on(LINES_PER_S)
            yield fleet, cluster, server
            fleet.go_on(LINES_PER_S)
            fleet.end_load()
            fleet.wait_stored()
            for agent in (*fleet.edges, *fleet.relays):
                assert_balanced(agent.status())
            fleet.check_view()
            assert relay(fleet)["expired"] == 0


def relay(fleet: Fleet) -> dict[str, Any]:
    """What the relay's listener says of its broker."""
    return dict(listener(fleet.relays[0].status(), "broker")["relay"])


def spooled(fleet: Fleet) -> list[int]:
    return [output(edge.status(), "broker")["spooled"] for edge in fleet.edges]


def lasts(fleet: Fleet, seconds: float) -> None:
    """Go on until each edge agent was sent what *seconds* bring."""
    wanted = [sent + int(seconds * LINES_PER_S) for sent in fleet.sent]
    fleet.wait_for(lambda: all(a >= b for a, b in zip(fleet.sent, wanted, strict=True)), "it lasts")


def broker_gone(folder: Path, seconds: float) -> None:
    with fleet_of(folder) as (fleet, cluster, _):
        cluster.servers[0].kill()
        lasts(fleet, seconds)
        fleet.wait_for(lambda: all(spooled(fleet)), "all edges keep something on disk")
        cluster.servers[0].start()
        fleet.wait_for(lambda: not any(spooled(fleet)), "the spools are empty again")


def relay_gone(folder: Path, seconds: float) -> None:
    with fleet_of(folder) as (fleet, cluster, _):
        assert fleet.relays[0].stop() == 0
        before = cluster.stream(STREAM).state.last_seq
        lasts(fleet, seconds)
        assert cluster.stream(STREAM).state.last_seq > before and spooled(fleet) == [0] * EDGES
        fleet.relays[0].start(60)


def database_gone(folder: Path, seconds: float) -> None:
    with fleet_of(folder, 'max_in_flight = "1MiB"\n') as (fleet, _, server):
        server.stop()
        lasts(fleet, seconds)
        fleet.wait_for(lambda: relay(fleet)["paused"], "the relay takes nothing more")
        assert 0 < relay(fleet)["in_flight_bytes"] <= 1 << 20 and spooled(fleet) == [0] * EDGES
        server.start()
        fleet.wait_for(lambda: not relay(fleet)["paused"], "the relay goes on")


OUTAGES: tuple[Callable[[Path, float], None], ...] = (broker_gone, relay_gone, database_gone)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_nothing_is_lost_while_a_part_is_gone(tmp_path: Path, seconds: float) -> None:
    with ThreadPoolExecutor(len(OUTAGES)) as threads:
        under_way = [threads.submit(one, tmp_path / one.__name__, seconds) for one in OUTAGES]
        for one in under_way:
            one.result()
