"""What the pipeline works out before it touches anything: numbers, slot limits, sums of counters."""

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest

from agent import rings
from agent._core import Ring, Waker
from agent.config import FileOutput, Flush, Listen, NullOutput
from agent.delivery.delivery import Counters
from agent.door import LISTENERS_MAX, number_listeners
from agent.outputs.base import Kind, Output, Payload, Verdict
from agent.outputs.null import NullSink
from agent.rings import Rings
from agent.route import Accounts, Route, Tally, slot_limits
from tests.conftest import wait_until


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
    tally.add("file", Counters(delivered=1, dropped={"a": 1}, requests={"2xx": 2}))
    tally.add("influxdb", Counters(delivered=2, dropped={"a": 2, "b": 3}, requests={"4xx": 1}))
    assert (tally.type, tally.delivered) == ("influxdb", 3)
    assert tally.dropped == {"a": 3, "b": 3}
    assert tally.requests == {"2xx": 2, "4xx": 1}


def open_route(folder: Path, name: str = "out", lanes: int = 2, **options: Any) -> Route:
    config = NullOutput(name=name, ring_bytes=1 << 20)
    return Route.open(config, NullSink(name), Flush(), lanes, Rings(folder), **options)


def leave(folder: Path, name: str, *lines: bytes) -> None:
    """A ring with *lines*, as a killed process leaves it."""
    waker = Waker()
    ring = Ring(str(folder / name), 1 << 20, waker)
    for line in lines:
        assert ring.put(line)
    ring.close(unlink=False)
    waker.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rings_of_one_name_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    first = open_route(tmp_path)
    second = open_route(tmp_path, in_use=first.paths)
    try:
        assert names(tmp_path) == ["out.0.ring", "out.0~1.ring", "out.1.ring", "out.1~1.ring"]
        assert first.paths | second.paths == {str(path) for path in tmp_path.iterdir()}
    finally:
        for one in (first, second):
            one.drain(0.0, keep=False)
            one.close()
    assert names(tmp_path) == []


def test_a_tick_ring_is_one_more_ring_of_the_route(tmp_path: Path) -> None:
    first = open_route(tmp_path, lanes=1)
    second = first.with_ring("tick", Flush(), Rings(tmp_path), first.paths)
    try:
        assert names(tmp_path) == ["out.0.ring", "out.tick.ring"]
        assert (list(first.writers), list(second.writers)) == (["lane-0"], ["lane-0", "tick"])
        second.settle(Flush())
        assert second.others["tick"].put(b"m v=1 1\n")
        second.drain(float("inf"), keep=False)
        accounts = Accounts()
        accounts.close(second)
        [reading] = accounts.readings([])
        assert {name: ring["written"] for name, ring in reading.rings.items()} == {"lane-0": 0, "tick": 1}
        assert reading.counters.delivered == 1
    finally:
        second.close()
    assert names(tmp_path) == []


def test_a_tick_ring_that_is_not_wanted_after_all_goes(tmp_path: Path) -> None:
    route = open_route(tmp_path, lanes=1)
    try:
        route.with_ring("tick", Flush(), Rings(tmp_path), route.paths).close_ring("tick")
        assert names(tmp_path) == ["out.0.ring"]
    finally:
        route.drain(0.0, keep=False)
        route.close()


def test_a_route_that_cannot_be_made_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        adopt = Ring.adopt

        def __new__(cls, path: str, *args: Any, **options: Any) -> Any:
            if path.endswith(".2.ring"):
                assert names(tmp_path) == ["out.0.ring", "out.1.ring"]
                raise OSError(errno.ENOSPC, "No space left on device")
            return Ring(path, *args, **options)

    leave(tmp_path, "out.0.ring", b"m v=1 1\n")
    monkeypatch.setattr(rings, "Ring", FullDisk)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space"):
        open_route(tmp_path, lanes=3)
    assert names(tmp_path) == ["out.0.ring"]
    assert os.listdir("/proc/self/fd") == before


def test_what_an_earlier_process_left_is_delivered_and_accounted_for(tmp_path: Path) -> None:
    leave(tmp_path, "out.0.ring", b"a v=1 1\n", b"b v=1 1\n")
    leave(tmp_path, "out.0~1.ring", b"c v=1 1\n")
    leave(tmp_path, "out.7.ring", b"d v=1 1\n")
    leave(tmp_path, "out.tick.ring", b"e v=1 1\n")
    route = open_route(tmp_path, lanes=1, others=["tick"])
    accounts = Accounts()
    try:
        route.settle(Flush())
        assert {name: ring.stats()["restored"] for name, ring in route.writers.items()} == {
            "lane-0": 2,
            "tick": 1,
        }
        wait_until(lambda: route.flusher.counters.delivered == 5)
        [reading] = accounts.readings([route])
        assert {
            name: (one["restored"], one["written"], one["waiting"]) for name, one in reading.rings.items()
        } == {
            "lane-0": (3, 0, 0),
            "lane-7": (1, 0, 0),
            "tick": (1, 0, 0),
        }
        route.leaving.sweep()
        assert route.leaving.rings == []
        assert names(tmp_path) == ["out.0.ring", "out.tick.ring"]
        [reading] = accounts.readings([route])
        assert {name: one["restored"] for name, one in reading.rings.items()} == {
            "lane-0": 3,
            "lane-7": 1,
            "tick": 1,
        }
        assert reading.rings["lane-7"]["capacity_bytes"] == 0
    finally:
        route.drain(0.0, keep=False)
        route.close()
    accounts.close(route)
    [reading] = accounts.readings([])
    assert sum(one["restored"] for one in reading.rings.values()) == reading.counters.delivered == 5
    assert names(tmp_path) == []


class Refusing(NullSink):
    """Takes nothing."""

    def post(self, payload: Payload, deadline: float) -> Verdict:
        return Verdict(Kind.RETRY, text="not now")


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_not_delivered_at_the_end_stays_only_if_it_is_to_be_kept(tmp_path: Path, keep: bool) -> None:
    leave(tmp_path, "out.0.ring", b"a v=1 1\n")
    leave(tmp_path, "out.5.ring", b"b v=1 1\n")
    config = NullOutput(name="out", ring_bytes=1 << 20)
    route = Route.open(config, Refusing("out"), Flush(), 1, Rings(tmp_path))
    route.settle(Flush())
    assert route.rings[0].put(b"c v=1 1\n")
    wait_until(lambda: route.flusher.counters.attempts)
    route.drain(0.0, keep=keep)
    accounts = Accounts()
    accounts.close(route)
    route.close()
    [reading] = accounts.readings([])
    waiting = sum(one["waiting"] for one in reading.rings.values())
    if keep:
        assert (waiting, dict(reading.counters.dropped)) == (3, {})
        assert names(tmp_path) == ["out.0.ring", "out.5.ring"]
        again = open_route(tmp_path, lanes=1)
        again.drain(float("inf"), keep=True)
        assert again.flusher.counters.delivered == 3
        again.close()
    else:
        assert (waiting, dict(reading.counters.dropped)) == (0, {"drain_timeout": 3})
    assert names(tmp_path) == []


def test_a_route_fits_an_output_of_the_same_encoding_and_ring_size(tmp_path: Path) -> None:
    class Signed(NullSink):
        encoding = "lp_signed"

    one = open_route(tmp_path)
    try:
        same = FileOutput(name="out", path="/nowhere", ring_bytes=1 << 20)
        larger = FileOutput(name="out", path="/nowhere", ring_bytes=2 << 20)
        assert one.fits(same, NullSink("out"))
        assert not one.fits(same, cast(Output, Signed("out")))
        assert not one.fits(larger, NullSink("out"))
    finally:
        one.drain(0.0, keep=False)
        one.close()


def test_what_ended_stays_in_the_accounts_beside_what_runs(tmp_path: Path) -> None:
    accounts = Accounts()
    ended, unused = open_route(tmp_path), open_route(tmp_path, "unused")
    running = open_route(tmp_path, in_use=ended.paths)
    try:
        for one, count in ((ended, 3), (running, 2)):
            for _ in range(count):
                assert one.rings[0].put(b"m v=1 1\n")
        for one in (ended, unused):
            one.drain(float("inf"), keep=False)
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
        running.drain(0.0, keep=False)
        for one in (ended, running, unused):
            one.close()
