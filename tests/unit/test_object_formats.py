"""Datagrams of JSON and MessagePack: what they hold, what is malformed, and that neighbours are kept."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest

from agent._core import AsIs, Feed, Receiver, Ring, Waker, split_json
from agent.inputs.object_formats import (
    ARRAY_MAX,
    EXACT_DATAGRAMS,
    GIVE_WAY_FACTOR,
    GIVE_WAY_S_MAX,
    MALFORMED_MAX,
    GiveWay,
    JsonDecoder,
    Malformed,
    MsgpackDecoder,
)
from tests.conftest import missing

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpora" / "msgpack_time.json"

METRIC = {"name": "cpu", "tags": {"host": "a"}, "fields": {"idle": 1.5}, "timestamp": 17}
TEXT = orjson.dumps(METRIC)


def json_values(*datagrams: bytes) -> tuple[list[object], list[Malformed]]:
    malformed: list[Malformed] = []
    return list(JsonDecoder().decode(datagrams, malformed)), malformed


def texts(what: Any) -> Any:
    """The same with str in place of bytes that are texts."""
    match what:
        case AsIs():
            return what.message
        case bytes():
            return what.decode(errors="surrogateescape")
        case dict():
            return {texts(key): texts(value) for key, value in what.items()}
        case list():
            return [texts(one) for one in what]
    return what


def msgpack_values(*datagrams: bytes) -> tuple[list[object], list[Malformed]]:
    malformed: list[Malformed] = []
    return [texts(one) for one in MsgpackDecoder().decode(datagrams, malformed)], malformed


@pytest.mark.parametrize(
    ("datagram", "values"),
    [
        (TEXT, [METRIC]),
        (TEXT + b"\n", [METRIC]),
        (TEXT + TEXT, [METRIC, METRIC]),
        (TEXT + b"\n" + TEXT + b"\r\n", [METRIC, METRIC]),
        (TEXT + b" \t " + TEXT, [METRIC, METRIC]),
        (b"[" + TEXT + b"," + TEXT + b"]", [[METRIC, METRIC]]),
        (b"[" + TEXT + b",\n" + TEXT + b"]\n" + TEXT, [[METRIC, METRIC], METRIC]),
        (b'{"metrics":[' + TEXT + b"]}", [{"metrics": [METRIC]}]),
        (json.dumps(METRIC, indent=2).encode() + b"\n" + json.dumps(METRIC, indent=1).encode(), [METRIC] * 2),
        (b'{"a":"}{\\"[\\\\"}{"b":"\\n{"}', [{"a": '}{"[\\'}, {"b": "\n{"}]),
    ],
)
def test_json_may_be_one_or_several_behind_each_other(datagram: bytes, values: list[object]) -> None:
    assert json_values(datagram) == (values, [])


@pytest.mark.parametrize("blank", [b"", b" ", b"\n\r\n"])
def test_a_blank_datagram_holds_nothing(blank: bytes) -> None:
    found, malformed = json_values(blank, TEXT)
    assert (found, malformed) == ([METRIC], [])
    assert msgpack_values(b"") == ([], [])


@pytest.mark.parametrize(
    ("bad", "pieces"),
    [
        (b"junk", [b"junk"]),
        (b'{"name":"a"', [b'{"name":"a"']),
        (b'{"name":"a', [b'{"name":"a']),
        (b'{"name":nan}', [b'{"name":nan}']),
        (b'{"name":"a"}}', [b"}"]),
        (b'{"name":"\xff"}', [b'{"name":"\xff"}']),
        (b'{"name":"\\ud800"}', [b'{"name":"\\ud800"}']),
        (b"[" * 2000 + b"]" * 2000, [(b"[" * 2000)[:256]]),
        (b"[" * 60_000, [b"[" * 256]),
        (b'{"a":' * 10_000, [(b'{"a":' * 60)[:256]]),
        (b"\x00\x01\x02", [b"\x00\x01\x02"]),
    ],
)
def test_malformed_json_costs_itself_only(bad: bytes, pieces: list[bytes]) -> None:
    found, malformed = json_values(TEXT, TEXT + b"\n" + bad + b"\n" + TEXT, TEXT)
    assert malformed == [("json", piece) for piece in pieces]
    assert [value for value in found if value != {"name": "a"}] == [METRIC] * 4


def test_a_flood_of_malformed_values_in_one_datagram_is_cut_off() -> None:
    found, malformed = json_values(b"{\n" * 30_000, TEXT)
    assert len(malformed) == MALFORMED_MAX
    assert found == [METRIC]


def test_values_are_told_apart_in_linear_time() -> None:
    def seconds(text: bytes) -> float:
        start = time.thread_time()
        split_json(text)
        return time.thread_time() - start

    for part in (b"{\n", b'{"\n', b"[", b'{"a":"\\\n', b"x\n", b"{}", b'["'):
        small = min(seconds(part * 2_000) for _ in range(3))
        large = min(seconds(part * 64_000) for _ in range(3))
        assert large < 32 * 8 * small + 0.005, part


def test_random_cuts_of_json_never_lose_a_whole_line() -> None:
    random.seed(7)
    for _ in range(500):
        lines = [TEXT] * 5
        spoiled = random.randrange(5)
        at = random.randrange(len(TEXT))
        lines[spoiled] = TEXT[:at] + random.choice([b"", b'"', b"{", b"}", b"]", b"\\"]) + TEXT[at + 1 :]
        found, _ = json_values(b"\n".join(lines))
        assert found.count(METRIC) >= 4, lines[spoiled]


PACKED = msgpack.packb(METRIC)


@pytest.mark.parametrize(
    ("datagram", "values"),
    [
        (PACKED, [METRIC]),
        (PACKED * 3, [METRIC] * 3),
        (msgpack.packb([METRIC, METRIC]) + PACKED, [[METRIC, METRIC], METRIC]),
        (msgpack.packb({"metrics": [METRIC]}), [{"metrics": [METRIC]}]),
    ],
)
def test_messagepack_may_be_one_or_several_behind_each_other(datagram: bytes, values: list[object]) -> None:
    assert msgpack_values(datagram) == (values, [])


@pytest.mark.parametrize("cut", range(1, len(PACKED)))
def test_messagepack_that_is_cut_off_costs_the_rest_of_its_datagram(cut: int) -> None:
    found, malformed = msgpack_values(PACKED, PACKED + PACKED[:cut], PACKED[:cut], PACKED)
    assert found == [METRIC] * 3
    assert malformed == [("msgpack", PACKED[:cut])] * 2


@pytest.mark.parametrize(
    "bad",
    [
        b"\xc1",  # a byte that is none
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\xdc" + struct.pack(">H", ARRAY_MAX + 1),
        b"\xdf\xff\xff\xff\xff",  # a map of four billion
        b"\xdb\xff\xff\xff\xff",  # a text of four billion bytes
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\xff",
        b"\x91" * 60_000,  # depth
        b"\x81\x01\x02",  # a key that is no text
        b"\x81\x91\x01\x02",  # a key that no dict takes
        b"\xc7\x05\xff12345",  # a time of five bytes
        b"\xd4\xff\x00",  # a time of one byte
    ],
)
def test_malformed_messagepack_costs_the_rest_of_its_datagram(bad: bytes) -> None:
    found, malformed = msgpack_values(PACKED + bad + PACKED, PACKED)
    assert found == [METRIC] * 2
    assert [reason for reason, _ in malformed] == ["msgpack"]


def test_a_bomb_of_nested_arrays_costs_little_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    msgpack_values(*[(b"\xdc\x0f\xff" * 20_000)[:65_000]] * 4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_text_that_is_no_utf8_costs_its_metric_only() -> None:
    bad = b"\x82\xa4name\xa2a\xff\xa6fields\x81\xa1f\x01"
    found, malformed = msgpack_values(PACKED + bad + PACKED)
    assert (len(found), malformed) == (3, [])
    feed, ring = Feed(), Ring(None, 1 << 16, Waker())
    feed.set_layout((), [ring])
    assert feed.write(0, found)["dropped"] == {"utf8": 1}


def written(*datagrams: bytes) -> tuple[bytes, dict[str, int]]:
    """The lines that datagrams of MessagePack become, and what is dropped of them."""
    feed, ring, malformed = Feed(), Ring(None, 1 << 16, Waker()), []
    feed.set_layout((), [ring])
    result = feed.write(0, MsgpackDecoder().decode(datagrams, malformed), malformed=malformed)
    batch = ring.take(1 << 20, 1 << 20, True)
    return b"" if batch is None else bytes(memoryview(batch)), result["dropped"]


LINE = b"cpu,host=a idle=1.5 17\n"


@pytest.mark.parametrize(
    ("changed", "line", "dropped"),
    [
        ({"fields": {"idle": 1.5, "b": b"x", "empty": b""}}, LINE, {}),
        ({"fields": {"idle": 1.5, b"b": 1}}, b"", {"field": 1}),
        ({"fields": {"idle": 1.5, "idle\n": 1, b"idle": 2}}, b"", {"field": 1}),
        ({"tags": {"host": b"a"}}, b"", {"tag": 1}),
        ({"tags": {"host": b""}}, b"", {"tag": 1}),
        ({"tags": {b"host": "a"}}, b"", {"tag": 1}),
        ({"tags": b""}, b"", {"tag": 1}),
        ({"name": b"cpu"}, b"", {"measurement": 1}),
        ({"fields": b"f"}, b"", {"field": 1}),
        ({"timestamp": b"17"}, b"", {"timestamp": 1}),
        ({b"name": "mem", "more": [b"x", [b"y"], {b"z": b"z"}]}, LINE, {}),
    ],
)
def test_binary_data_is_no_text(changed: dict[Any, Any], line: bytes, dropped: dict[str, int]) -> None:
    odd = msgpack.packb({**METRIC, **changed})
    lines, counts = written(PACKED, PACKED + odd + PACKED + odd, PACKED, odd, PACKED)
    assert lines == LINE * 2 + line + LINE + line + LINE + line + LINE
    assert counts == {reason: 3 * count for reason, count in dropped.items()}


@pytest.mark.parametrize("odd", [b"\xc4\x00", b"\xc4\x01x", b"\xc5\x00\x01x", b"\xc6\x00\x00\x00\x01x"])
def test_binary_data_alone_is_no_metric(odd: bytes) -> None:
    assert written(PACKED + odd + PACKED + b"\x91" + odd + PACKED) == (LINE * 3, {"object": 2})


@pytest.mark.parametrize("apart", [0, 1, EXACT_DATAGRAMS - 1, EXACT_DATAGRAMS, EXACT_DATAGRAMS + 1])
def test_texts_are_texts_again_some_datagrams_behind_binary_data(apart: int) -> None:
    odd = msgpack.packb({**METRIC, "more": b"x"})
    bad = PACKED + odd[:-1]
    lines, counts = written(odd, *[PACKED] * apart, bad, odd, *[PACKED] * apart, PACKED)
    assert lines == LINE * (2 * apart + 4)
    assert counts == {"msgpack": 1}


def test_what_is_malformed_behind_binary_data_is_counted_once() -> None:
    odd = msgpack.packb({**METRIC, "more": b"x"})
    assert written(odd + b"\xc1" + PACKED, PACKED) == (LINE * 2, {"msgpack": 1})
    assert written(b"\x92" + odd + b"\xc1", odd + PACKED + b"\x81", PACKED) == (LINE * 3, {"msgpack": 2})


def test_a_key_that_comes_twice_has_its_last_value() -> None:
    head = b"\x83\xa4name\xa1m\xa4time\x01\xa6fields"
    assert written(head + b"\x83\xa1f\x01\xa1g\x02\xa1f\x03") == (b"m f=3i,g=2i 1\n", {})
    assert written(b"\x84\xa4name\xa1n" + head[1:] + b"\x81\xa1f\x01") == (b"m f=1i 1\n", {})


def test_other_extensions_are_left_out() -> None:
    head = b"\x83\xa4name\xa1m\xa4time\x01\xa6fields\x82\xa1f\x01\xa1e"
    assert written(head + b"\xd4\x05x") == (b"m f=1i 1\n", {})
    assert written(PACKED + head + b"\xd4\xfex" + PACKED) == (LINE, {"msgpack": 1})  # a type below zero
    assert written(PACKED + b"\xd4\x05x" + PACKED) == (LINE * 2, {"object": 1})


def test_the_log_shows_texts_as_texts() -> None:
    shown = []
    for more in ({}, {"more": b"x"}):
        feed, ring, malformed = Feed(), Ring(None, 1 << 16, Waker()), []
        feed.set_layout((), [ring])
        odd = msgpack.packb({"name": "m", "tags": {"a": ["b"]}, **more})
        feed.write(0, MsgpackDecoder().decode([odd], malformed), malformed=malformed)
        shown.append(feed.sample())
    assert shown == [
        (0, "tag", b"{'name': 'm', 'tags': {'a': ['b']}}"),
        (0, "tag", b"{'name': 'm', 'tags': {'a': ['b']}, 'more': b'x'}"),
    ]


def cases() -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(CORPUS.read_text())["cases"]
    except FileNotFoundError:
        missing(f"no corpus at {CORPUS}")
    return found


def test_the_times_of_the_corpus_are_read_or_out_of_range() -> None:
    for case in cases():
        head = b"\x83\xa4name\xa1m\xa6fields\x81\xa1f\x01\xa4time"
        found, malformed = msgpack_values(head + bytes.fromhex(case["hex"]))
        assert malformed == []
        feed, ring = Feed(), Ring(None, 1 << 16, Waker())
        feed.set_layout((), [ring])
        result = feed.write(0, found)
        ns = case["sec"] * 10**9 + case["nsec"]
        if not -(2**63) + 2 <= ns <= 2**63 - 2:
            assert result["dropped"] == {"timestamp_range": 1}, case
            continue
        batch = ring.take(1 << 20, 1 << 20, True)
        assert batch is not None
        assert bytes(memoryview(batch)) == f"m f=1i {ns}\n".encode()


def test_a_receiver_takes_many_datagrams_at_once_and_tells_the_large_ones() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
        receiver = Receiver(ours.fileno())
        assert receiver.receive(0.0) == ([], [])
        receiver.wake()
        assert receiver.receive(60.0) == ([], [])
        for number in range(70):
            theirs.send(b"%d" % number)
        theirs.send(b"x" * 101)
        found = [receiver.receive(1.0, 100) for _ in range(2)]
        assert [len(good) for good, _ in found] == [64, 6]
        assert [int(one) for good, _ in found for one in good] == list(range(70))
        assert found[1][1] == [b"x" * 101]
        feed = Feed()
        feed.watch(5, receiver)
        feed.set_sockets(5, 1)
        theirs.send(b"y" * 1000)
        stats = feed.stats()["listeners"][5]
        assert stats["queue_bytes"] >= 1000
        assert stats["receive_buffer_bytes"] > 0
        feed.unwatch(receiver)
        assert feed.stats()["listeners"][5]["queue_bytes"] == 0


@pytest.mark.parametrize("gro", [False, True])
def test_glued_datagrams_are_told_apart_and_given_out_by_their_bytes(gro: bool) -> None:
    segment = [(17, 103, struct.pack("=H", 100))]  # UDP_SEGMENT
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
        receiver = Receiver(ours.fileno(), gro=gro)
        sent = [b"%099d," % number for number in range(20)] + [b"the rest"]
        theirs.sendmsg([b"".join(sent)], segment)
        theirs.send(b"")
        theirs.send(b"alone")
        taken = []
        for left in (True, True, False):
            taken.append(receiver.receive(1.0, 99, 1_000))
            assert receiver.holds is left
        assert [len(good) + len(large) for good, large in taken] == [10, 10, 3]
        assert [one for _, large in taken for one in large] == sent[:20]
        assert [one for good, _ in taken for one in good] == [b"the rest", b"", b"alone"]
        receiver.set_gro(not gro)
        theirs.sendmsg([b"".join(sent)], segment)
        assert receiver.receive(1.0) == (sent, [])
        for _ in range(70):  # 64 messages of the kernel are taken at once
            theirs.sendmsg([b"".join(sent)], segment)
        assert len(receiver.receive(1.0, nbytes=1 << 30)[0]) == (64 if gro else 64 * 21)


def test_what_the_kernel_drops_is_counted_once() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
        receiver, feed = Receiver(ours.fileno()), Feed()
        feed.watch(1, receiver)
        for _ in range(200):
            theirs.send(b"z" * 1000)
        first = feed.stats()["listeners"][1]["kernel_drops"]
        kept = sum(len(receiver.receive(0.0)[0]) for _ in range(10))
        assert (first + kept, feed.stats()["listeners"][1]["kernel_drops"]) == (200, first)


@pytest.mark.parametrize(
    ("used", "waited", "others", "rest"),
    [
        (0.004, 0.002, 0.009, 0.004 * GIVE_WAY_FACTOR),  # the processors are scarce, and the lanes busy
        (2.0, 1.0, 3.0, GIVE_WAY_S_MAX),  # one slice took that long
        (0.004, 0.002, 0.001, 0.0),  # scarce because of other programs
        (0.004, 0.0005, 0.009, 0.0),  # there are processors enough
        (0.001, 0.002, 0.009, 0.0),  # too early to tell
    ],
)
def test_a_decoding_thread_rests_where_lanes_want_the_processor(
    monkeypatch: pytest.MonkeyPatch, used: float, waited: float, others: float, rest: float
) -> None:
    readings = [(0.0, 0.0, 0.0, 0.0), (used, waited, used + others, 0.01)]
    monkeypatch.setattr(GiveWay, "_read", lambda _: tuple(round(one * 1e9) for one in readings.pop(0)))
    monkeypatch.setattr(time, "thread_time_ns", lambda: round(used * 1e9))
    with closing(GiveWay()) as way:
        assert way.look() == pytest.approx(rest)


def test_what_the_kernel_says_of_a_thread_is_read() -> None:
    with closing(GiveWay()) as way:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        assert way.look() >= 0.0
        used, _, together, passed = way._last
        assert 10_000_000 <= used <= together
        assert passed <= time.monotonic_ns()
