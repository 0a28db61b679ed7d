"""Feed.write: what decoded JSON and MessagePack become in the rings, and what is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent._core import REASONS, Feed, Ring, Waker


def writing(capacity: int = 1 << 20) -> tuple[Feed, Ring]:
    feed, ring = Feed(), Ring(None, capacity, Waker(), slot_bytes=1 << 30, slot_metrics=1 << 30)
    feed.set_layout((), [ring])
    return feed, ring


def written(ring: Ring) -> bytes:
    out = b""
    while (batch := ring.take(1 << 30, 1 << 30, True)) is not None:
        out += bytes(memoryview(batch))
        batch.release()
    return out


def line(metric: Any, **options: Any) -> bytes:
    feed, ring = writing()
    feed.write(0, [metric], **options)
    return written(ring)


def reason(metric: Any, **options: Any) -> str:
    feed, ring = writing()
    result = feed.write(0, [metric], **options)
    assert (result["received"], result["accepted"]) == (1, 0)
    assert written(ring) == b""
    [only] = result["dropped"]
    return only


def test_a_metric_is_a_tuple_or_a_dict_in_telegrafs_shape() -> None:
    assert line(("cpu", {"host": "a"}, {"idle": 1.5}, 17)) == b"cpu,host=a idle=1.5 17\n"
    told = {"name": "cpu", "tags": {"host": "a"}, "fields": {"idle": 1.5}}
    assert line({**told, "timestamp": 17}, precision="s") == b"cpu,host=a idle=1.5 17000000000\n"
    assert line({**told, "time": 17}, precision="s") == b"cpu,host=a idle=1.5 17\n"
    assert line(told).startswith(b"cpu,host=a idle=1.5 1")
    assert line({"metrics": [told, told]}).count(b"\n") == 2
    assert line([told, told, told]).count(b"\n") == 3


def test_values_are_written_by_their_types() -> None:
    fields = {"i": -3, "f": 0.1, "b": True, "c": False, "s": 'a"b\\c\n', "u": 2**64 - 1}
    text = b'i=-3i,f=0.1,b=true,c=false,s="a\\"b\\\\c\n",u=18446744073709551615u'
    assert line(("m", {}, fields, 1)) == b"m " + text + b" 1\n"
    floats = line(("m", {}, {"i": -3, "u": 2**64 - 1}, 1), as_written=False)
    assert floats == b"m i=-3,u=18446744073709551615 1\n"


def test_a_field_that_cannot_be_said_is_left_out() -> None:
    odd = {"nan": float("nan"), "inf": float("inf"), "none": None, "list": [1], "big": 2**64}
    odd["bytes"] = bytearray(b"x")
    feed, ring = writing()
    result = feed.write(0, [("m", {"t": ""}, {**odd, "f": 1}, 1)])
    assert (result["accepted"], result["rewritten"]) == (1, 1)
    assert written(ring) == b"m f=1i 1\n"
    assert reason(("m", {}, odd, 1)) == "field"


def test_tags_that_are_no_text_become_text() -> None:
    tags = {"i": 7, "f": 0.5, "b": True, "none": None}
    assert line(("m", tags, {"f": 1}, 1)) == b"m,i=7,f=0.5,b=true f=1i 1\n"
    assert reason(("m", {"t": [1]}, {"f": 1}, 1)) == "tag"


def test_bytes_from_outside_never_become_structure() -> None:
    evil = "x y,z=w\nfake v=1 1\r\t"
    assert line((evil, {evil: evil}, {evil: 1}, 1)).count(b"\n") == 1
    assert reason(("m", {"t": "a\\ b"}, {"f": 1}, 1)) == "backslash"
    assert reason(("m", {"t": "a\x00b"}, {"f": 1}, 1)) == "control_character"
    assert reason(("m", {"t": "\ud800"}, {"f": 1}, 1)) == "utf8"
    assert reason(("#m", {}, {"f": 1}, 1)) == "measurement"
    assert line(("m\\", {"t\\": "C:\\"}, {"f\\\\": 1}, 1)) == b"m,t=C: f=1i 1\n"


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (5, "object"),
        (None, "object"),
        ("cpu", "object"),
        ({}, "object"),
        ({"a": 1}, "object"),
        ({"metrics": 5}, "object"),
        ({"metrics": {"name": "m"}}, "field"),
        ([[]], "object"),
        (("m", {}, {}), "object"),
        ({"name": "m"}, "field"),
        ({"name": "m", "fields": []}, "field"),
        ({"name": "m", "fields": {}}, "field"),
        ({"fields": {"f": 1}}, "measurement"),
        ({"name": 5, "fields": {"f": 1}}, "measurement"),
        ({"name": "", "fields": {"f": 1}}, "measurement"),
        ({"name": "m", "tags": [], "fields": {"f": 1}}, "tag"),
        ({"name": "m", "tags": {5: "a"}, "fields": {"f": 1}}, "tag"),
        ({"name": "m", "tags": {"time": "a"}, "fields": {"f": 1}}, "tag_reserved"),
        ({"name": "m", "fields": {5: 1}}, "field"),
        ({"name": "m", "fields": {"time": 1}}, "field"),
        ({"name": "m", "fields": {"f": 1}, "timestamp": "now"}, "timestamp"),
        ({"name": "m", "fields": {"f": 1}, "timestamp": True}, "timestamp"),
        ({"name": "m", "fields": {"f": 1}, "timestamp": 2**64}, "timestamp_range"),
        ({"name": "m", "fields": {"f": 1}, "timestamp": 1e300}, "timestamp_range"),
        ({"name": "m" * 70_000, "fields": {"f": 1}}, "line_too_long"),
        ({"name": "m" * 300_000, "fields": {"f": 1}}, "line_too_long"),
        ({"name": "m", "fields": {"f": "x" * 70_000}}, "line_too_long"),
        ({"name": "m" * 40_000, "fields": {"f" * 25_600: 1}}, "key_too_long"),
        ({"name": "m", "tags": {f"t{n}": "x" for n in range(100)}, "fields": {"f": 1}}, "tag"),
    ],
)
def test_what_is_no_metric_is_dropped_by_its_reason(metric: Any, why: str) -> None:
    assert reason(metric, line_bytes_max=65_536 if why != "key_too_long" else 100_000) == why


def test_neighbours_of_a_bad_metric_are_kept_and_it_is_named_by_its_place() -> None:
    good = {"name": "m", "fields": {"f": 1}, "time": 1}
    feed, ring = writing()
    result = feed.write(
        2,
        [good, [good, {"name": "bad"}], 7],
        errors_max=9,
        malformed=[("json", b"{x")],
        datagrams=3,
        nbytes=90,
    )
    assert (result["received"], result["accepted"]) == (5, 2)
    assert result["dropped"] == {"json": 1, "field": 1, "object": 1}
    assert result["errors"] == [(1, "json", b"{x"), (4, "field", b"{'name': 'bad'}"), (5, "object", b"7")]
    assert written(ring) == b"m f=1i 1\n" * 2
    stats = feed.stats()["listeners"][2]
    assert (stats["datagrams"], stats["bytes"]) == (3, 90)
    assert (stats["received"], stats["accepted"], stats["dropped"]) == (5, 2, result["dropped"])
    assert feed.sample() == (2, "json", b"{x")


def test_what_turns_out_malformed_while_points_are_taken_is_counted_behind_them() -> None:
    malformed = [("json", b"{x")]

    def decoded() -> Iterator[object]:
        yield {"name": "m", "fields": {"f": 1}, "time": 1}
        malformed.append(("msgpack", b"\xc1"))
        yield {"name": "m", "fields": {"f": 2}, "time": 1}

    feed, ring = writing()
    result = feed.write(2, decoded(), errors_max=9, malformed=malformed)
    assert (result["received"], result["accepted"]) == (4, 2)
    assert result["errors"] == [(1, "json", b"{x"), (4, "msgpack", b"\xc1")]
    assert written(ring) == b"m f=1i 1\nm f=2i 1\n"


def test_tags_of_the_agent_are_added_where_they_are_missing() -> None:
    feed, ring = writing()
    feed.set_layout([(b"dc", b"eu 1"), (b"host", b"h")], [ring])
    feed.write(0, [("m", {"host": "own"}, {"f": 1}, 1), ("m", None, {"f": 1}, 2)])
    assert written(ring) == b"m,host=own,dc=eu\\ 1 f=1i 1\nm,dc=eu\\ 1,host=h f=1i 2\n"


def test_unsigned_numbers_are_clamped_for_rings_that_hold_none() -> None:
    waker = Waker()
    signed, unsigned = Ring(None, 1 << 16, waker, encoding="lp_signed"), Ring(None, 1 << 16, waker)
    feed = Feed()
    feed.set_layout((), [signed, unsigned])
    result = feed.write(0, [("m", {}, {"a": 1, "u": 2**63, "z": "s"}, 1)])
    assert (result["clamped"], result["rewritten"]) == (1, 1)
    assert written(signed) == b'm a=1i,u=9223372036854775807i,z="s" 1\n'
    assert written(unsigned) == b'm a=1i,u=9223372036854775808u,z="s" 1\n'


def test_a_full_ring_drops_the_newest_and_the_ledger_holds() -> None:
    feed, ring = writing(65_536)
    result = feed.write(0, [("m", {}, {"f": n}, n) for n in range(20_000)])
    assert result["full"]
    assert result["accepted"] + result["dropped"]["ring_full"] == result["received"] == 20_000
    assert written(ring).count(b"\n") == result["accepted"]


def test_many_points_are_written_in_parts_and_counted_once() -> None:
    feed, ring = writing(1 << 23)
    result = feed.write(0, [{"metrics": [("m", {}, {"f": "x" * 100}, n) for n in range(20_000)]}], nbytes=5)
    assert result["accepted"] == 20_000
    stats = feed.stats()
    assert stats["listeners"][0]["datagrams"] == stats["receives"] == 1
    assert stats["listeners"][0]["bytes"] == 5
    assert written(ring).count(b"\n") == 20_000


def test_objects_of_other_classes_are_not_looked_into() -> None:
    class Evil(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: object) -> object:
            raise AssertionError

        def __repr__(self) -> str:
            return "evil"

    assert reason(Evil(name="m", fields={"f": 1})) == "object"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert reason([deep]) == "object"


def test_threads_take_turns() -> None:
    feed, ring = writing(1 << 24)

    def write(number: int) -> None:
        for _ in range(50):
            feed.write(number, [(f"m{number}", {"t": "x"}, {"f": n}, n) for n in range(100)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = written(ring).splitlines()
    assert len(lines) == 20_000
    assert {text.count(b" ") for text in lines} == {2}


def test_wrong_arguments_are_refused() -> None:
    feed, _ = writing()
    with pytest.raises(ValueError, match="listener 64"):
        feed.write(64, [])
    with pytest.raises(ValueError, match="precision"):
        feed.write(0, [], precision="days")
    assert {"json", "msgpack", "object"} <= set(REASONS)
