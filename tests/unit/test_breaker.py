"""When an output is left alone, and when it is tried again."""

import math

import pytest

from agent.delivery.breaker import BASELINE_S, PROBE_PAUSE_MAX, UNANSWERED_PAUSE_MAX, WINDOW_S, Breaker, State


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig(Breaker):
    """A breaker with a clock to turn, and attempts in one call."""

    def __init__(self, retry_min=0.1, retry_max=30.0, sensitivity=10.0, draw=1.0):
        self.clock = Clock()
        self.draw = draw
        super().__init__(retry_min, retry_max, sensitivity, clock=self.clock, jitter=lambda: self.draw)

    def succeed(self, round_trip=0.01, count=1):
        for _ in range(count):
            ticket = self.admit()
            assert ticket is not None
            self.succeeded(ticket, round_trip)

    def fail(self, count=1, answered=True, pause=None):
        for _ in range(count):
            ticket = self.admit()
            assert ticket is not None
            self.failed(ticket, answered=answered, pause=pause)

    def turn(self, seconds):
        self.clock.now += seconds

    @property
    def left(self):
        return self.ready_at() - self.clock.now


def opened(**more):
    rig = Rig(**more)
    rig.fail(5)
    assert rig.state is State.OPEN
    return rig


def test_closed_it_admits_any_number_of_attempts_at_once():
    rig = Rig()
    assert None not in [rig.admit() for _ in range(100)] and rig.state is State.CLOSED


def test_it_opens_when_half_of_at_least_five_attempts_failed():
    rig = Rig()
    rig.fail(4)
    assert rig.state is State.CLOSED
    rig.fail(1)
    assert rig.state is State.OPEN and rig.opened == 1 and rig.admit() is None


def test_a_smaller_share_of_failures_leaves_it_closed():
    rig = Rig()
    rig.succeed(count=51)
    rig.fail(50)
    assert rig.state is State.CLOSED
    rig.fail(1)
    assert rig.state is State.OPEN


def test_failures_are_forgotten_after_their_window():
    rig = Rig()
    rig.fail(4)
    rig.turn(WINDOW_S)
    rig.fail(4)
    assert rig.state is State.CLOSED
    rig.fail(1)
    assert rig.state is State.OPEN


def test_attempts_that_succeeded_long_ago_do_not_hide_failures_of_now():
    rig = Rig()
    rig.succeed(count=10_000)
    rig.turn(WINDOW_S)
    rig.fail(5)
    assert rig.state is State.OPEN


def test_open_it_admits_nothing_until_its_pause_is_over_and_then_one():
    rig = opened(retry_min=2.0)
    assert rig.left == 2.0
    rig.turn(1.999)
    assert rig.admit() is None
    rig.turn(0.001)
    ticket = rig.admit()
    assert ticket is not None and rig.state is State.HALF_OPEN
    assert rig.admit() is None and rig.ready_at() == math.inf
    rig.turn(1000)
    assert rig.admit() is None
    rig.succeeded(ticket, 0.01)
    assert rig.state is State.CLOSED and rig.admit() is not None


def test_one_success_of_the_probe_forgets_the_failures_before():
    rig = opened()
    rig.turn(1)
    rig.succeed()
    rig.fail(3)
    assert rig.state is State.CLOSED


@pytest.mark.parametrize("draw", [0.25, 0.5, 1.0])
def test_pauses_double_up_to_the_longest_with_full_jitter(draw):
    rig = opened(retry_min=0.01, draw=draw)
    pauses = [rig.left]
    for _ in range(11):
        rig.turn(60)
        rig.fail()
        assert rig.state is State.OPEN
        pauses.append(rig.left)
    expected = [max(draw * min(PROBE_PAUSE_MAX, 0.01 * 2**n), 0.01) for n in range(12)]
    assert pauses == pytest.approx(expected)
    assert rig.opened == 1


def test_after_a_success_the_pauses_begin_again_at_the_shortest():
    rig = opened()
    for _ in range(5):
        rig.turn(60)
        rig.fail()
    rig.turn(60)
    rig.succeed()
    rig.fail(4)
    assert rig.state is State.OPEN and rig.left == pytest.approx(0.1) and rig.opened == 2


def test_while_nothing_answers_at_all_it_is_tried_more_often():
    rig = Rig()
    rig.fail(5, answered=False)
    for _ in range(10):
        assert rig.left <= UNANSWERED_PAUSE_MAX + 1e-9
        rig.turn(1)
        rig.fail(answered=False)
    assert rig.left == pytest.approx(UNANSWERED_PAUSE_MAX)
    # A server that answers again, if only that it cannot, is spared more.
    rig.turn(1)
    rig.fail(answered=True)
    assert rig.left == PROBE_PAUSE_MAX


@pytest.mark.parametrize("retry_max", [0.01, 30.0])
def test_no_draw_makes_a_pause_shorter_than_the_shortest(retry_max):
    rig = opened(retry_min=0.05, retry_max=retry_max, draw=0.0)
    assert rig.left == pytest.approx(min(0.05, retry_max))


def test_a_server_that_asks_for_a_pause_gets_it_at_once():
    rig = Rig()
    rig.succeed(count=100)
    rig.fail(pause=7.0)
    assert rig.state is State.OPEN and rig.left == 7.0


def test_a_pause_of_nothing_is_the_shortest_one():
    rig = Rig()
    rig.fail(pause=0.0)
    assert rig.left == pytest.approx(0.1)


def test_of_several_pauses_the_longest_holds_and_none_adds_up():
    rig = Rig()
    tickets = [rig.admit() for _ in range(3)]
    for ticket, pause in zip(tickets, [2.0, 9.0, 5.0], strict=True):
        rig.failed(ticket, answered=True, pause=pause)
    assert rig.left == 9.0 and rig.opened == 1


def test_what_was_admitted_before_it_opened_neither_closes_it_nor_makes_its_pause_longer():
    rig = Rig(retry_min=1.0)
    late = [rig.admit() for _ in range(4)]
    rig.fail(5)
    rig.succeeded(late[0], 0.01)
    rig.failed(late[1], answered=True)
    assert rig.state is State.OPEN and rig.left == 1.0
    rig.turn(1)
    probe = rig.admit()
    rig.succeeded(late[2], 0.01)
    rig.failed(late[3], answered=True)
    assert rig.state is State.HALF_OPEN
    rig.succeeded(probe, 0.01)
    assert rig.state is State.CLOSED


def test_a_pause_asked_for_by_an_attempt_of_before_does_not_open_it_again():
    rig = Rig()
    late = rig.admit()
    rig.fail(5)
    rig.turn(1)
    rig.succeed()
    rig.failed(late, answered=True, pause=60.0)
    assert rig.state is State.CLOSED and rig.admit() is not None


def test_an_overloaded_answer_holds_all_off_and_opens_nothing():
    rig = Rig()
    ticket = rig.admit()
    rig.hold_off(ticket, 0.5)
    assert rig.state is State.CLOSED and rig.admit() is None and rig.left == 0.5
    rig.hold_off(ticket, 0.1)
    assert rig.left == 0.5
    rig.turn(0.5)
    assert rig.admit() is not None


def test_holding_off_is_nothing_to_an_open_breaker():
    rig = Rig()
    ticket = rig.admit()
    rig.fail(5)
    rig.hold_off(ticket, 60.0)
    assert rig.left == pytest.approx(0.1)


def test_a_hurry_ends_the_pause_but_the_next_attempt_is_a_probe_still():
    rig = opened(retry_min=20.0)
    rig.hurry()
    assert rig.admit() is not None
    assert rig.state is State.HALF_OPEN and rig.admit() is None


def test_another_destination_begins_with_nothing_held_against_it():
    rig = opened()
    before = rig.admit()
    rig.reset()
    assert rig.state is State.CLOSED and before is None and rig.admit() is not None
    rig.fail(4)
    assert rig.state is State.CLOSED


def test_other_settings_hold_from_the_next_judgement_on():
    rig = opened()
    rig.configure(3.0, 5.0, 10.0)
    assert rig.left == pytest.approx(0.1)
    rig.turn(1)
    rig.fail()
    assert rig.left == 3.0


# ---- answers that get slow ----


def usual(rig, round_trip, seconds=BASELINE_S, count=5):
    for _ in range(seconds):
        rig.turn(1)
        rig.succeed(round_trip, count)


def test_it_opens_when_answers_take_ten_times_as_long_as_usual():
    rig = Rig()
    usual(rig, 0.2)
    rig.turn(WINDOW_S)
    rig.succeed(2.9, 4)
    assert rig.state is State.CLOSED
    rig.succeed(2.9)
    assert rig.state is State.OPEN


def test_a_few_slow_answers_among_many_are_no_trouble():
    rig = Rig()
    usual(rig, 0.1)
    rig.succeed(5.0, 2)
    assert rig.state is State.CLOSED


@pytest.mark.parametrize(("before", "now"), [(0.2, 1.5), (0.001, 0.99), (3.0, 20.0)])
def test_what_is_slow_depends_on_what_is_usual_and_is_never_less_than_a_second(before, now):
    rig = Rig()
    usual(rig, before)
    rig.turn(WINDOW_S)
    rig.succeed(now, 100)
    assert rig.state is State.CLOSED


def test_a_server_of_which_nothing_is_known_is_not_slow():
    rig = Rig()
    rig.succeed(25.0, 100)
    rig.turn(WINDOW_S + BASELINE_S)
    rig.succeed(250.0, 100)
    assert rig.state is State.CLOSED


def test_sensitivity_is_how_many_times_the_usual_is_too_slow():
    for sensitivity, state in ((3.0, State.OPEN), (30.0, State.CLOSED)):
        rig = Rig(sensitivity=sensitivity)
        usual(rig, 0.5)
        rig.turn(WINDOW_S)
        for _ in range(5):
            if rig.state is State.CLOSED:
                rig.succeed(4.0)
        assert rig.state is state


def test_a_server_that_stays_slow_becomes_usual_and_is_left_in_peace():
    rig = Rig()
    usual(rig, 0.05)
    openings = []
    for _ in range(600):
        rig.turn(0.5)
        if rig.admit() is not None:
            rig.succeeded(rig._epoch, 2.0)
        openings.append(rig.opened)
    assert openings[-1] > 1 and openings[-1] == openings[300]


def test_the_memory_of_a_breaker_is_bounded():
    rig = Rig()
    for n in range(10_000):
        rig.turn(0.5)
        rig.succeed(1e-6 * 1.01 ** (n % 2000))
        rig.reset() if n % 3000 == 0 else None
    assert len(rig._seconds) <= WINDOW_S + BASELINE_S
    assert max(len(second.trips) for second in rig._seconds) <= 2
