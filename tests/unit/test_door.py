"""Doors: which lane reads which socket, and whose samples go on into the same tables after a reload."""

import socket

import pytest
from msgspec.structs import replace

from agent.config import Listen
from agent.door import Door, aggregated, aggregator_for, place
from agent.listeners import BoundSocket

STATSD = Listen(address="udp://127.0.0.1:8125", name="door", format="statsd", interval=3.0)


def door(listen: Listen, number: int = 0) -> Door:
    return Door(listen, number, (), aggregator_for(listen, (), 2))


def test_line_protocol_is_not_aggregated() -> None:
    assert door(replace(STATSD, format="line")).aggregator is None


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "udp://127.0.0.1:8126"},
        {"interval": 5.0, "percentiles": (), "relative_error": 0.1},
        {"gauge_deltas": False, "reset_gauges": True},
        {"max_line": 64, "gro": False},
    ],
)
def test_an_aggregator_stays_as_long_as_it_can(changes: dict[str, object]) -> None:
    old = door(STATSD)
    assert old.aggregator is not None
    assert aggregator_for(replace(STATSD, **changes), [old], 2) is old.aggregator


@pytest.mark.parametrize(
    "changes", [{"name": "other"}, {"separator": "."}, {"dialect": "none"}, {"max_series": 10}]
)
def test_another_name_or_meaning_of_series_takes_another_aggregator(changes: dict[str, object]) -> None:
    old = door(STATSD)
    assert aggregator_for(replace(STATSD, **changes), [old], 2) not in (None, old.aggregator)


def test_what_must_be_told_to_a_lane() -> None:
    old = door(STATSD)
    same = Door(replace(STATSD, percentiles=(1.0,), receive_buffer=1 << 20), 0, (), old.aggregator)
    assert same.reading == old.reading
    for other in (
        Door(STATSD, 1, (), old.aggregator),
        Door(replace(STATSD, max_line=64), 0, (), old.aggregator),
        door(STATSD),
    ):
        assert other.reading != old.reading


def test_only_what_aggregates_is_a_source() -> None:
    doors = [door(replace(STATSD, format="line")), door(STATSD, 7)]
    [source] = aggregated(doors)
    assert (source.number, source.name, source.interval) == (7, "door", 3.0)
    assert source.aggregator is doors[1].aggregator


def test_sockets_are_spread_over_the_lanes() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        sockets = [BoundSocket(one), BoundSocket(two)]
        assert [placed.lane for placed in place(0, sockets, 2)] == [0, 1]
        assert [placed.lane for placed in place(3, sockets[:1], 2)] == [1]


def test_every_lane_accepts_where_there_are_fewer_sockets_than_lanes() -> None:
    with socket.socket() as one, socket.socket() as two:
        sockets = [BoundSocket(one), BoundSocket(two)]
        assert [placed.lane for placed in place(0, sockets, 2)] == [0, 1]
        spread = place(1, sockets[:1], 3)
        assert [placed.lane for placed in spread] == [0, 1, 2]
        assert Door(Listen(address="unix:///s"), 1, spread).sockets == sockets[:1]
