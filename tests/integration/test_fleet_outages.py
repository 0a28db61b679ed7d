"""One part of a fleet after the other is gone for a while: what was sent gets to the database all the same.

The broker is gone: the edges keep their batches in their spools. The relay is gone: the broker keeps them.
The database is gone: the relay keeps a few, pauses, and the broker keeps the rest. Each has a fleet of its
own, and they go on side by side, so that a minute of each takes a minute.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import test_fleet_kafka as by_kafka
from tests.integration import test_fleet_nats as by_nats
from tests.integration.agent_process import assert_balanced, listener, output
from tests.integration.fleet import Fleet, InfluxDatabase, start_again
from tests.integration.kafka_broker import kafka_broker
from tests.integration.nats_cluster import nats_cluster
from tests.integration.servers import Influxd, Server, influxd

EDGES = 2
LINES_PER_S = 200


@dataclass(frozen=True)
class Bus:
    """A broker with one stream or topic: what both ends say of it, and how many messages it ever had."""

    server: Server
    output: str
    listener: str
    count: Callable[[], int]


@contextmanager
def nats(folder: Path) -> Iterator[Bus]:
    with nats_cluster(folder) as cluster:
        cluster.add_stream(by_nats.STREAM, [by_nats.SUBJECT])
        yield Bus(
            cluster.servers[0],
            by_nats.publishes(cluster),
            by_nats.listens(cluster),
            lambda: int(cluster.stream(by_nats.STREAM).state.last_seq),
        )


@contextmanager
def kafka(folder: Path) -> Iterator[Bus]:
    with kafka_broker(folder) as broker:
        broker.add_topic(by_kafka.TOPIC, 2)
        yield Bus(
            broker,
            by_kafka.publishes(broker),
            by_kafka.listens(broker),
            lambda: broker.count(by_kafka.TOPIC),
        )


BUSES = {"nats": nats, "kafka": kafka}


@contextmanager
def fleet_of(
    kind: str, folder: Path, listen: str = "", publish: str = "", rate: int = LINES_PER_S
) -> Iterator[tuple[Fleet, Bus, Influxd]]:
    folder.mkdir()
    with influxd(folder) as server, BUSES[kind](folder) as bus:
        with Fleet(
            folder,
            InfluxDatabase(server),
            edges=EDGES,
            relays=1,
            output=f"{publish}{bus.output}",
            listener=f"{listen}{bus.listener}",
        ) as fleet:
            fleet.load(rate)
            fleet.go_on(rate)
            yield fleet, bus, server
            fleet.go_on(rate)
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
    wanted = [sent + int(seconds * fleet.rate) for sent in fleet.sent]
    fleet.wait_for(lambda: all(a >= b for a, b in zip(fleet.sent, wanted, strict=True)), "it lasts")


def broker_gone(kind: str, folder: Path, seconds: float) -> None:
    with fleet_of(kind, folder) as (fleet, bus, _):
        bus.server.kill()
        lasts(fleet, seconds)
        fleet.wait_for(lambda: all(spooled(fleet)), "all edges keep something on disk")
        bus.server.start()
        fleet.wait_for(lambda: not any(spooled(fleet)), "the spools are empty again")


def relay_gone(kind: str, folder: Path, seconds: float) -> None:
    with fleet_of(kind, folder) as (fleet, bus, _):
        assert fleet.relays[0].stop() == 0
        before = bus.count()
        lasts(fleet, seconds)
        assert bus.count() > before and spooled(fleet) == [0] * EDGES
        start_again(fleet.relays[0])


def database_gone(kind: str, folder: Path, seconds: float) -> None:
    few, large = 'max_in_flight = "2MiB"\n', 'compression = "none"\n'
    with fleet_of(kind, folder, few, large, 10 * LINES_PER_S) as (fleet, _, server):
        server.stop()
        lasts(fleet, seconds)
        fleet.wait_for(lambda: relay(fleet)["paused"], "the relay takes nothing more")
        assert 0 < relay(fleet)["in_flight_bytes"] < 3 << 20 and spooled(fleet) == [0] * EDGES
        server.start()
        fleet.wait_for(lambda: not relay(fleet)["paused"], "the relay goes on")


OUTAGES: tuple[Callable[[str, Path, float], None], ...] = (broker_gone, relay_gone, database_gone)

_SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("nats", 3), pytest.param("nats", 60, marks=_SLOW), pytest.param("kafka", 60, marks=_SLOW)],
)
def test_nothing_is_lost_while_a_part_is_gone(tmp_path: Path, kind: str, seconds: float) -> None:
    with ThreadPoolExecutor(len(OUTAGES)) as threads:
        under_way = [threads.submit(one, kind, tmp_path / one.__name__, seconds) for one in OUTAGES]
        for one in under_way:
            one.result()
