"""What the pipeline works out before it touches anything: numbers, slot limits, sums of counters."""

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest

from agent import route
from agent._core import Ring
from agent.config import FileOutput, Flush, Listen, NullOutput
from agent.delivery import Counters
from agent.door import LISTENERS_MAX, number_listeners
from agent.outputs.base import Output
from agent.outputs.null import NullSink
from agent.route import Accounts, Route, Tally, slot_limits


def listens(*names: str) -> list[Listen]:
    return [Listen(address=f"unixgram:///run/{name}", name=name) for name in names]


def test_a_listener_keeps_its_number_and_nobody_else_gets_it() -> None:
    first = number_listeners(listens("a", "b"), {})
    assert {name: number for number, (name, _) in first.items()} == {"a": 0, "b": 1}
    second = number_listeners(listens("c", "b"), dict(first))
    # "a" has gone, but its counters stay in the ledger under its name.
    assert {name: number for number, (name, _) in second.items()} == {"a": 0, "b": 1, "c": 2}
    third = number_listeners(listens("a"), dict(second))
    assert third == second


def test_a_moved_listener_keeps_its_number() -> None:
    first = number_listeners([Listen(address="udp://127.0.0.1:1", name="a")], {})
    second = number_listeners([Listen(address="udp://127.0.0.1:2", name="a")], first)
    assert second == {0: ("a", "udp://127.0.0.1:2")}


def test_numbers_are_given_on_once_all_have_been_used() -> None:
    names: dict[int, tuple[str, str]] = {}
    for at in range(LISTENERS_MAX * 3):
        names = number_listeners(listens("stays", f"n{at}"), names)
        assert len(names) <= LISTENERS_MAX
        numbers = {name: number for number, (name, _) in names.items()}
        assert numbers["stays"] == 0
        assert 0 < numbers[f"n{at}"] < LISTENERS_MAX
    full = number_listeners(listens(*(f"x{at}" for at in range(LISTENERS_MAX))), names)
    assert sorted(full) == list(range(LISTENERS_MAX))


@pytest.mark.parametrize(
    ("lines", "size", "expected"),
    [
        (5000, 1 << 20, (64 << 10, 256)),
        (1, 1 << 10, (4 << 10, 1)),
        (160, 160 << 10, (10 << 10, 10)),
        (10_000_000, 1 << 30, (64 << 10, 256)),
    ],
)
def test_a_batch_has_room_for_sixteen_slots(lines: int, size: int, expected: tuple[int, int]) -> None:
    assert slot_limits(Flush(batch_lines=lines, batch_bytes=size)) == expected


def test_tallies_add_up() -> None:
    tally = Tally()
    tally.add("file", Counters(delivered=1, dropped={"a": 1}, requests={"2xx": 2}), {})
    tally.add("influxdb", Counters(delivered=2, dropped={"a": 2, "b": 3}, requests={"4xx": 1}), {})
    assert (tally.type, tally.delivered) == ("influxdb", 3)
    assert tally.dropped == {"a": 3, "b": 3}
    assert tally.requests == {"2xx": 2, "4xx": 1}


def open_route(folder: Path, name: str = "out", lanes: int = 2) -> Route:
    return Route.open(NullOutput(name=name, ring_bytes=1 << 20), NullSink(name), Flush(), lanes, folder)


def test_rings_of_one_name_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    first, second = open_route(tmp_path), open_route(tmp_path)
    try:
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "out.0.ring",
            "out.0~1.ring",
            "out.1.ring",
            "out.1~1.ring",
        ]
    finally:
        for one in (first, second):
            one.drain(0.0)
            one.close()
    assert list(tmp_path.iterdir()) == []


def test_a_tick_ring_is_one_more_ring_of_the_route(tmp_path: Path) -> None:
    first = open_route(tmp_path, lanes=1)
    second = first.with_tick(Flush(), tmp_path)
    try:
        assert sorted(file.name for file in tmp_path.iterdir()) == ["out.0.ring", "out.tick.ring"]
        assert (list(first.writers), list(second.writers)) == (["lane-0"], ["lane-0", "tick"])
        second.settle(Flush())
        assert second.tick is not None and second.tick.put(b"m v=1 1\n")
        second.drain(float("inf"))
        accounts = Accounts()
        accounts.close(second)
        [reading] = accounts.readings([])
        assert {name: ring["written"] for name, ring in reading.rings.items()} == {"lane-0": 0, "tick": 1}
        assert reading.counters.delivered == 1
    finally:
        second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_tick_ring_that_is_not_wanted_after_all_goes(tmp_path: Path) -> None:
    route = open_route(tmp_path, lanes=1)
    try:
        route.with_tick(Flush(), tmp_path).close_tick()
        assert [file.name for file in tmp_path.iterdir()] == ["out.0.ring"]
    finally:
        route.drain(0.0)
        route.close()


def test_a_route_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ring = route._make_ring

    def full_disk(*args: Any) -> Ring:
        if args[3] == 1:
            assert list(tmp_path.iterdir()) == [tmp_path / "out.0.ring"]
            raise OSError(errno.ENOSPC, "No space left on device")
        return make_ring(*args)

    monkeypatch.setattr(route, "_make_ring", full_disk)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space"):
        open_route(tmp_path, lanes=2)
    assert list(tmp_path.iterdir()) == []
    assert os.listdir("/proc/self/fd") == before


def test_a_route_fits_an_output_of_the_same_encoding_and_ring_size(tmp_path: Path) -> None:
    class Signed(NullSink):
        unsigned = False

    one = open_route(tmp_path)
    try:
        same = FileOutput(name="out", path="/nowhere", ring_bytes=1 << 20)
        larger = FileOutput(name="out", path="/nowhere", ring_bytes=2 << 20)
        assert one.fits(same, NullSink("out"))
        assert not one.fits(same, cast(Output, Signed("out")))
        assert not one.fits(larger, NullSink("out"))
    finally:
        one.drain(0.0)
        one.close()


def test_what_ended_stays_in_the_accounts_beside_what_runs(tmp_path: Path) -> None:
    accounts = Accounts()
    ended, running, unused = open_route(tmp_path), open_route(tmp_path), open_route(tmp_path, "unused")
    try:
        for one, count in ((ended, 3), (running, 2)):
            for _ in range(count):
                assert one.rings[0].put(b"m v=1 1\n")
        for one in (ended, unused):
            one.drain(float("inf"))
            accounts.close(one)
        [reading] = accounts.readings([running])
        assert reading.name == "out"
        assert reading.rings["lane-0"]["written"] == 5
        # Space is that of the rings that are there.
        assert reading.rings["lane-0"]["capacity_bytes"] == running.rings[0].capacity
        [alone] = accounts.readings([])
        assert (
            alone.counters.delivered,
            alone.rings["lane-0"]["written"],
            alone.rings["lane-0"]["waiting"],
        ) == (3, 3, 0)
        # Reading does not add anything to the accounts.
        assert [one.rings["lane-0"]["written"] for one in accounts.readings([])] == [3]
    finally:
        running.drain(0.0)
        for one in (ended, running, unused):
            one.close()
