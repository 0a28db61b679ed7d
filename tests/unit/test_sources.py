"""What a relay has seen of each agent: rates, delays, silence, what came again, and that all is bounded."""

import threading
from collections.abc import Iterator

import msgspec
import pytest

from agent.batch_id import Place, batch_id, chance_id
from agent.outputs.base import Payload
from agent.relay import sources as module
from agent.relay.fleet import Fleet, Source
from agent.relay.message import Message
from agent.relay.sources import AGENTS_MAX, INTERVALS_MAX, RINGS_MAX, Sources

S = 10**9
START = 1_800_000_000 * S
EPOCH = 1_799_999_000 * S
DAY = 86_400


def message(
    first: int | None,
    slots: int = 1,
    *,
    agent: str = "edge-1",
    epoch: int = EPOCH,
    oldest: float = 0.0,
    metrics: int = 100,
    data: bytes = b"m v=1 1\n",
) -> Message:
    """One whose oldest metric arrived *oldest* seconds after the start; of no ring without a *first* slot."""
    batch = batch_id(Place(epoch, first, slots)) if first is not None else chance_id()
    at = START + round(oldest * S)
    return Message(Payload(data, metrics, 800, oldest_ns=at), agent, batch, at)


class Relay:
    """One that was started at 0."""

    def __init__(self) -> None:
        self.sources = Sources(START)

    def see(self, second: float, first: int | None, slots: int = 1, **more: object) -> None:
        """A batch comes that was sent half a second before."""
        flags = {name: bool(more.pop(name, False)) for name in ("duplicate", "redelivered")}
        one = message(first, slots, oldest=second - 0.5, **more)  # type: ignore[arg-type]
        self.sources.seen(one, START + round(second * S), **flags)

    def view(self, second: float) -> Fleet:
        return self.sources.view(START + round(second * S))

    def source(self, second: float) -> Source:
        [found] = self.view(second).sources
        return found


@pytest.fixture
def relay() -> Relay:
    return Relay()


def test_an_agent_is_shown_with_its_rings(relay: Relay) -> None:
    for number in range(40):
        relay.see(20 + number, number * 3, 3)
        relay.see(20 + number, number, epoch=EPOCH + 1, metrics=50)
    one = relay.source(60)
    assert (one.agent, one.ring_count, len(one.rings)) == ("edge-1", 2, 2)
    assert (one.messages, one.metrics, one.bytes) == (80, 6000, 640)
    assert (one.missing, one.late, one.unsure, one.repeated, one.silent) == (0, 0, 0, 0, False)
    first, other = one.rings
    assert (first.epoch, first.messages, first.metrics) == (f"{EPOCH:016x}", 40, 4000)
    assert (first.first, first.next, len(first.seen)) == (0, 120, 1)
    assert (other.first, other.next, other.metrics) == (0, 40, 2000)
    assert (first.last_ns, one.last_ns, one.first_ns) == (START + 59 * S, START + 59 * S, START + 20 * S)
    without = relay.sources.view(START + 60 * S, rings=False).sources[0]
    assert without.ring_count == 2 and without.rings == ()


def test_rate_and_delay_are_of_the_last_minute(relay: Relay) -> None:
    for second in range(300):
        relay.see(second, second, metrics=1000 if second < 200 else 3000)
    one = relay.source(300)
    assert one.rate == pytest.approx(3000, rel=0.05)
    assert one.delay is not None and one.delay.count == pytest.approx(60, abs=5)
    assert 0.4 <= one.delay.p50 <= 0.5 and one.last_delay == 0.5
    # Nothing comes any more.
    assert relay.source(400).rate == 0 and relay.source(400).delay is None
    # Of one who has just come, the rate is over the time since then.
    relay.see(400, 0, agent="new", metrics=500)
    relay.see(402, 1, agent="new", metrics=500)
    assert relay.view(402).sources[1].rate == 500


def test_a_hole_is_late_then_missing_and_filled_it_is_none(relay: Relay) -> None:
    relay.see(100, 0, 5)
    relay.see(101, 8, 2)
    assert (relay.source(105).late, relay.source(105).missing) == (3, 0)
    assert (relay.source(112).late, relay.source(112).missing) == (0, 3)
    assert relay.view(112).missing == 3 and relay.source(112).rings[0].missing == 3
    relay.see(113, 5, 3)
    assert (relay.source(130).late, relay.source(130).missing, relay.source(130).repeated) == (0, 0, 0)


def test_what_was_sent_before_it_was_started_may_have_been_seen_before(relay: Relay) -> None:
    relay.see(1, 0)
    relay.see(2, 5)
    one = relay.source(60)
    assert (one.missing, one.unsure) == (0, 4)


def test_repeated_is_what_was_cut_anew_and_no_part_no_duplicate_and_nothing_redelivered(relay: Relay) -> None:
    relay.see(100, 0, 10)
    # The other half of the same batch.
    relay.see(100, 0, 10, data=b"other v=1 1\n")
    relay.see(101, 0, 10, duplicate=True)
    one = relay.source(102)
    assert (one.repeated, one.duplicates, one.messages, one.metrics) == (0, 1, 2, 200)
    # Killed, and started again: it takes what it had not released in other pieces.
    relay.see(103, 7, 5)
    one = relay.source(104)
    assert (one.repeated, one.rings[0].repeated, one.rings[0].next) == (3, 3, 12)
    # Long after its batch was forgotten the broker gives one again.
    for number in range(100):
        relay.see(105, 12 + number)
    relay.see(106, 0, 10, redelivered=True)
    one = relay.source(107)
    assert (one.repeated, one.redelivered) == (3, 1)


def test_what_was_in_no_ring_is_counted(relay: Relay) -> None:
    relay.see(100, None)
    one = relay.source(100)
    assert (one.unplaced, one.ring_count, one.messages, one.metrics) == (1, 0, 1, 100)


def silent_at(relay: Relay, second: float) -> bool:
    return relay.source(second).silent


def test_silent_is_who_is_away_for_much_longer_than_usual(relay: Relay) -> None:
    for second in range(100):
        for part in range(10):
            relay.see(second + part / 10, second * 10 + part)
    assert not silent_at(relay, 129) and silent_at(relay, 131)
    assert relay.sources.summary(START + 131 * S) == (1, 1, 1000)
    assert relay.view(131).silent == 1
    relay.see(140, 1000)
    assert not silent_at(relay, 141)


def test_who_sends_seldom_is_silent_late(relay: Relay) -> None:
    for number in range(10):
        # A burst each minute.
        for part in range(100):
            relay.see(60 * number + part / 100, number * 100 + part)
    assert not silent_at(relay, 540 + 200) and silent_at(relay, 540 + 700)


def test_clocks_that_are_ahead_or_stepped_back_do_no_harm(relay: Relay) -> None:
    at = START + 100 * S
    one = message(0, oldest=200)
    relay.sources.seen(one, at)
    relay.sources.seen(message(1, oldest=0), at - 50 * S)
    found = relay.source(100)
    assert (found.messages, found.missing) == (2, 0)
    assert found.last_ns == at and not found.silent
    assert relay.source(60).rate >= 0


def test_a_message_that_does_not_know_its_age_has_no_delay(relay: Relay) -> None:
    batch = batch_id(Place(EPOCH, 0, 1))
    relay.sources.seen(Message(Payload(b"m v=1 1\n", 1, 8), "edge-1", batch, 0), START)
    one = relay.source(0)
    assert one.delay is None and one.last_delay is None


def test_agents_are_bounded_and_the_one_not_seen_for_longest_goes(relay: Relay) -> None:
    for number in range(AGENTS_MAX):
        relay.see(100, 0, agent=f"edge-{number}")
    relay.see(101, 1, agent="edge-0")
    relay.see(130, 0, agent="another")
    view = relay.view(131)
    names = {one.agent for one in view.sources}
    assert len(names) == AGENTS_MAX and {"edge-0", "another"} <= names and "edge-1" not in names
    assert view.forgotten_agents == 1
    # What was known of it is not: nobody is told to have missed what came before.
    assert view.since_ns == START + 130 * S
    relay.see(132, 9, agent="edge-0")
    assert [one.unsure for one in relay.view(150).sources if one.agent == "edge-0"] == [7]


def test_rings_of_an_agent_are_bounded(relay: Relay) -> None:
    for number in range(RINGS_MAX + 3):
        relay.see(100, 0, epoch=EPOCH + number)
    one = relay.source(101)
    assert one.ring_count == RINGS_MAX and one.rings[0].epoch == f"{EPOCH + 3:016x}"
    assert relay.view(101).forgotten_rings == 3 and one.since_ns == START + 100 * S


def test_intervals_of_a_ring_are_bounded_the_newest_stay(relay: Relay) -> None:
    for number in range(INTERVALS_MAX + 100):
        relay.see(100 + number / 100, 2 * number)
    view = relay.view(1000)
    [ring] = view.sources[0].rings
    assert len(ring.seen) == INTERVALS_MAX
    assert (ring.first, ring.floor, ring.next) == (200, 200, 2 * (INTERVALS_MAX + 100) - 1)
    assert ring.missing == INTERVALS_MAX - 1
    assert view.forgotten_slots == 100


def test_intervals_of_all_rings_together_are_bounded(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVALS_TOTAL", 4 * INTERVALS_MAX)
    for number in range(200):
        relay.see(100, 2 * number)
    for agent in range(300):
        relay.see(101, 0, agent=f"other-{agent}")
        relay.see(101, 2, agent=f"other-{agent}")
    for number in range(200, 400):
        relay.see(102, 2 * number)
    view = relay.view(103)
    assert sum(len(ring.seen) for one in view.sources for ring in one.rings) <= 4 * INTERVALS_MAX
    [one] = [one for one in view.sources if one.agent == "edge-1"]
    assert 1 < len(one.rings[0].seen) <= 4 * INTERVALS_MAX / 301 and one.rings[0].next == 799


def test_what_is_a_day_old_is_forgotten(relay: Relay) -> None:
    relay.see(100, 0, agent="gone")
    relay.see(100, 0)
    relay.see(101, 5)
    assert [one.missing for one in relay.view(200).sources] == [4, 0]
    relay.see(100 + DAY, 6)
    assert [one.agent for one in relay.view(100 + DAY).sources] == ["edge-1", "gone"]
    view = relay.view(102 + DAY)
    assert [one.agent for one in view.sources] == ["edge-1"] and view.missing == 0
    assert (view.forgotten_agents, view.forgotten_slots) == (1, 4)
    # Nobody has to doubt what is known of others for that.
    assert view.since_ns == START


def test_the_view_is_json_and_back(relay: Relay) -> None:
    relay.see(100, 0)
    relay.see(101, 5)
    view = relay.view(112)
    assert msgspec.json.decode(msgspec.json.encode(view), type=Fleet) == view


def test_any_thread_tells_and_looks(relay: Relay) -> None:
    """Each slot once, of two agents, by four threads, while another one looks."""
    over = threading.Event()
    failures: list[BaseException] = []

    def tell(numbers: Iterator[int]) -> None:
        try:
            for number in numbers:
                relay.see(100, number, agent=f"edge-{number % 2}")
        except BaseException as error:
            failures.append(error)

    def look() -> None:
        try:
            while not over.is_set():
                relay.view(100)
        except BaseException as error:
            failures.append(error)

    tellers = [threading.Thread(target=tell, args=(iter(range(at, 4000, 4)),)) for at in range(4)]
    looker = threading.Thread(target=look)
    for thread in (looker, *tellers):
        thread.start()
    for thread in tellers:
        thread.join()
    over.set()
    looker.join()
    assert failures == []
    view = relay.view(101)
    assert [one.messages for one in view.sources] == [2000, 2000]
    assert [one.repeated for one in view.sources] == [0, 0]
    for one in view.sources:
        assert sum(end - start for start, end, _, _ in one.rings[0].seen) == 2000
