"""The feed: messages of threads go into its rings, and each is told what became of its own."""

from __future__ import annotations

import threading

import pytest

from agent._core import Feed, Ring, Waker


def rings(count: int = 1, capacity: int = 1 << 20) -> list[Ring]:
    waker = Waker()
    return [Ring(None, capacity, waker) for _ in range(count)]


def feeding(*targets: Ring) -> Feed:
    feed = Feed()
    feed.set_layout((), targets)
    return feed


def written(ring: Ring) -> bytes:
    out = b""
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        out += bytes(memoryview(batch))
        batch.release()
    return out


def test_what_was_accepted_is_in_every_ring_when_it_returns() -> None:
    one, two = rings(2)
    feed = feeding(one, two)
    feed.set_layout([(b"dc", b"eu 1")], [one, two])
    result = feed.read(3, b"a v=1 1\nb,dc=us v=2 2\n")
    assert result == {
        "received": 2,
        "accepted": 2,
        "rewritten": 0,
        "clamped": 0,
        "dropped": {},
        "full": False,
        "errors": [],
    }
    assert written(one) == written(two) == b"a,dc=eu\\ 1 v=1 1\nb,dc=us v=2 2\n"
    stats = feed.stats()
    assert (stats["lane"], stats["receives"], stats["accepted"]) == (-1, 1, 2)
    assert list(stats["listeners"]) == [3]
    listener = stats["listeners"][3]
    assert (listener["datagrams"], listener["bytes"], listener["received"]) == (1, 22, 2)
    assert [ring.stats()["accepted"] for ring in (one, two)] == [2, 2]


def test_bad_lines_are_named_by_their_numbers_among_the_lines() -> None:
    [ring] = rings()
    feed = feeding(ring)
    text = b"# a comment\n\na v=1 1\n  \nbad\nb v=1 2\nc v=x 3\nd v= 4"
    result = feed.read(0, text, errors_max=2)
    assert (result["received"], result["accepted"]) == (5, 2)
    assert sum(result["dropped"].values()) == 3
    assert [(number, line) for number, _, line in result["errors"]] == [(2, b"bad\n"), (4, b"c v=x 3\n")]
    assert {reason for _, reason, _ in result["errors"]} <= set(result["dropped"])
    assert feed.read(0, b"bad")["errors"] == []
    long = feed.read(0, b"a v=1\n" * 5000 + b"x" * 1000, errors_max=9)["errors"]
    assert [(number, len(line)) for number, _, line in long] == [(5001, 256)]
    listener, _, line = feed.sample() or (9, "", b"")
    assert (listener, line) == (0, b"bad\n")


def test_a_message_may_have_tags_of_its_own() -> None:
    [ring] = rings()
    feed = feeding(ring)
    feed.set_layout([(b"dc", b"eu"), (b"db", b"none")], [ring])
    assert feed.read(0, b"a v=1 1\na,db=x v=2 1\n", tags=[(b"db", b"d 1")])["accepted"] == 2
    assert feed.read(0, b"a v=3 1\n")["accepted"] == 1
    assert written(ring) == b"a,db=d\\ 1,dc=eu v=1 1\na,db=x,dc=eu v=2 1\na,dc=eu,db=none v=3 1\n"
    with pytest.raises(ValueError, match="tag value"):
        feed.read(0, b"a v=1 1\n", tags=[(b"db", b"\n")])


def test_a_message_may_be_taken_whole_or_not_at_all() -> None:
    [ring] = rings()
    feed = feeding(ring)
    bad = feed.read(0, b"a v=1 1\nbad\nb v=1 2\n", errors_max=5, whole=True)
    assert (bad["received"], bad["accepted"], bad["dropped"]["body_refused"]) == (3, 0, 2)
    assert sum(bad["dropped"].values()) == 3
    assert [number for number, _, _ in bad["errors"]] == [2]
    assert not bad["full"]
    assert written(ring) == b""
    good = feed.read(0, b"a v=1 1\n\nb v=1 2\n", whole=True)
    assert (good["received"], good["accepted"], good["dropped"]) == (2, 2, {})
    assert written(ring) == b"a v=1 1\nb v=1 2\n"
    assert feed.stats()["accepted"] == 2


@pytest.mark.parametrize(
    ("precision", "time", "ns"),
    [
        ("m", 5, 300_000_000_000),
        ("h", -2, -7_200_000_000_000),
        ("auto", 1_700_000_000, 1_700_000_000_000_000_000),
        ("auto", 4_999_999_999, 4_999_999_999_000_000_000),
        ("auto", 5_000_000_000, 5_000_000_000_000_000),
        ("auto", 1_700_000_000_123, 1_700_000_000_123_000_000),
        ("auto", 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        ("auto", 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        ("auto", -1_700_000_000_123, -1_700_000_000_123_000_000),
    ],
)
def test_precisions(precision: str, time: int, ns: int) -> None:
    [ring] = rings()
    feed = feeding(ring)
    # The second line is one for the general path.
    assert feed.read(0, b"a v=1 %d\n b  v=1 %d" % (time, time), precision=precision)["accepted"] == 2
    assert written(ring) == b"a v=1 %d\nb v=1 %d\n" % (ns, ns)


def test_a_timestamp_beyond_the_range_is_dropped_in_any_precision() -> None:
    [ring] = rings()
    feed = feeding(ring)
    assert feed.read(0, b"a v=1 %d\n" % (1 << 60), precision="h")["dropped"] == {"timestamp_range": 1}


def test_a_full_ring_is_told_and_one_with_room_is_enough() -> None:
    small, large = *rings(1, 1 << 16), *rings(1, 1 << 20)
    text = b"measurement field=1 1\n" * 5000
    feed = feeding(small)
    assert feed.has_room(len(text)) and feed.has_room(1 << 30), "an empty ring is enough for a start"
    result = feed.read(0, text)
    assert result["full"]
    assert result["accepted"] + result["dropped"]["ring_full"] == result["received"] == 5000
    assert not feed.has_room(len(text))
    feed.set_layout((), [small, large])
    assert feed.has_room(len(text))
    result = feed.read(0, text)
    assert (result["full"], result["accepted"]) == (False, 5000)
    stats = small.stats()
    assert stats["missed"] and stats["accepted"] == stats["written"] + stats["missed"]
    written(small)
    feed.set_layout((), [small])
    assert feed.has_room(len(text))
    feed.set_layout((), [])
    assert not feed.has_room(0)


def test_a_ring_of_samples_balances_in_samples() -> None:
    lines, samples = Ring(None, 1 << 20, Waker()), Ring(None, 1 << 20, Waker(), encoding="pb")
    feed = feeding(lines, samples)
    text = b'm a=1,b=2i,c=t,d="text" 1\nm d="text" 2\nm a=1 3\n'
    assert feed.read(0, text)["accepted"] == 3
    assert feed.read(0, text + b"bad", whole=True)["accepted"] == 0
    assert feed.read(0, text, whole=True)["accepted"] == 3
    assert [ring.stats()["accepted"] for ring in (lines, samples)] == [6, 8]
    for ring in (lines, samples):
        stats = ring.stats()
        assert stats["accepted"] == stats["written"] + stats["missed"]
    assert feed.has_room(1000)


def test_threads_take_turns() -> None:
    [ring] = rings(1, 1 << 24)
    feed = feeding(ring)
    text = b"".join(b"m,thread=%%d v=1 %d\n" % at for at in range(2000))
    accepted = []

    def work(number: int) -> None:
        mine = text.replace(b"%d", b"%d" % number)
        accepted.append(sum(feed.read(number, mine)["accepted"] for _ in range(20)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted == [40_000] * 4
    lines = written(ring).splitlines()
    assert len(lines) == 160_000
    # Each message is one piece.
    numbers = [line[9:10] for line in lines[::2000]]
    assert [line[9:10] for line in lines[1999::2000]] == numbers
    stats = feed.stats()
    assert stats["accepted"] == ring.stats()["accepted"] == ring.stats()["written"] == 160_000
    assert {number: part["accepted"] for number, part in stats["listeners"].items()} == dict.fromkeys(
        range(4), 40_000
    )


def test_small_messages_are_published_though_half_of_the_slots_wait() -> None:
    [ring] = rings(1, 1 << 22)
    feed = feeding(ring)
    for _ in range(40_000):
        feed.read(0, b"m v=1 1")
    assert ring.stats()["waiting"] < 40_000, "a run stays open"
    feed.publish()
    assert ring.stats()["waiting"] == 40_000
    feed.read(0, b"m v=1 1")
    feed.set_layout((), [])
    assert ring.stats()["waiting"] == 40_001


def test_what_it_does_not_know_is_refused() -> None:
    feed = Feed()
    with pytest.raises(ValueError, match="format"):
        feed.read(0, b"", format="xml")
    with pytest.raises(ValueError, match="listener"):
        feed.read(64, b"")
    with pytest.raises(ValueError, match="precision"):
        feed.read(0, b"", precision="d")
    with pytest.raises(ValueError, match="at most 16"):
        feed.set_layout((), rings(17, 1 << 16))
    assert feed.read(0, b"m v=1")["dropped"] == {"ring_full": 1}
