"""Objectives raise and end their alarms to the second where calculation says so."""

import pytest

from agent.config import Slo
from agent.ledger import Ledger
from agent.objectives import STATES, Change, Objective, Objectives, Promised
from tests.unit.test_vitals import listener, output

DAY = 86_400.0
RATE = 1000
"""Metrics a second."""


class Clock:
    """An objective that is fed once a second: RATE metrics fall due, of which a share is late."""

    def __init__(self, share: float = 0.999, window: float = 30 * DAY, rate: int = RATE) -> None:
        self.objective = Objective(share, 1.0, window, now=0.0)
        self.now = 0
        self.rate = rate
        self.due = self.late = 0
        self.changes: list[tuple[int, Change]] = []

    def run(self, seconds: int, late: float = 0.0) -> "Clock":
        for _ in range(seconds):
            self.now += 1
            self.due += self.rate
            self.late += round(self.rate * late)
            change = self.objective.sample(self.now, self.due, self.late)
            if change is not None:
                self.changes.append((self.now, change))
        return self

    def states(self) -> list[tuple[int, str]]:
        return [(when, change.state) for when, change in self.changes]


def first_step(seconds: float, step: int) -> int:
    """When what holds from *seconds* on is seen."""
    return -int(-seconds // step) * step


def test_thirty_days_raise_each_alarm_when_calculation_says_so() -> None:
    # The thresholds, in seconds of everything late: 14.4 · 0.001 · 1 h, 6 · 0.001 · 6 h, 1 · 0.001 · 3 d.
    clock = Clock().run(600, late=1.0)
    assert clock.objective.step == 5.0
    assert clock.states() == [(first_step(51.84, 5), "fast")]
    change = clock.changes[0][1]
    assert (change.state, change.was) == ("fast", "ok")
    assert change.burn_long == pytest.approx(55 / 3600 / 0.001)
    # The short span holds 55 of its 300 seconds since the start; before, all were in time.
    assert change.burn_short == pytest.approx(55 / 300 / 0.001)


@pytest.mark.parametrize(("alarm", "factor", "long"), [("slow", 6, 120), ("trickle", 1, 10)])
def test_the_slower_alarms_are_raised_where_the_short_span_of_the_faster_ones_does_not_hold(
    alarm: str, factor: float, long: int
) -> None:
    # Late at just above the factor: the fast alarm's factor is never reached, this one's when its long
    # span has so much of it.
    share = factor * 0.001 * 1.3
    clock = Clock(rate=10_000)
    took = first_step(factor * 0.001 * 30 * DAY / long / share, 5)
    clock.run(took + 600, late=share)
    times = {state: when for when, state in clock.states()}
    # 120 steps of 5 s: the long span of the trickle begins so much early at most.
    assert took <= times[alarm] <= took + (600 if alarm == "trickle" else 0)
    assert "fast" not in times


def test_alarms_end_one_after_the_other_when_the_short_spans_are_clean() -> None:
    clock = Clock().run(4 * 3600).run(3600, late=1.0)
    began = 4 * 3600
    healthy_from = clock.now
    clock.run(8 * 3600)
    assert clock.states() == [
        (began + first_step(51.84, 5), "fast"),
        # What is left in a short span must be less than its factor: 300 - 4.32, 1800 - 10.8, 21600 - 21.6.
        (healthy_from + first_step(295.68, 5), "slow"),
        (healthy_from + first_step(1789.2, 5), "trickle"),
        (healthy_from + first_step(21_578.4, 5), "ok"),
    ]
    last = clock.changes[-1][1]
    assert (last.state, last.was) == ("ok", "trickle")


def test_half_a_day_has_steps_of_a_second() -> None:
    clock = Clock(window=0.5 * DAY).run(120)
    assert clock.objective.step == 1.0
    assert list(clock.objective.burns()) == [5, 30, 60, 360, 4320]
    clock.run(20, late=1.0).run(60)
    assert clock.states() == [
        (121, "fast"),  # 0.864 s
        (145, "slow"),  # 5 s of 14.4 ‰ are 0.072
        (170, "trickle"),
    ]


def test_a_moment_s_trouble_is_no_alarm() -> None:
    clock = Clock().run(3600).run(51, late=1.0).run(7200)
    assert clock.states() == []
    assert clock.objective.budget_left == pytest.approx(1 - 51 / (30 * DAY) / 0.001)


def test_a_month_of_just_within_the_objective_leaves_nothing_and_no_more_than_a_trickle() -> None:
    objective = Objective(0.999, 1.0, 30 * DAY, now=0.0)
    states = set()
    for step in range(1, int(31 * DAY / 5)):
        change = objective.sample(5.0 * step, step * 5000, step * 5)
        if change is not None:
            states.add(change.state)
    assert states <= {"trickle", "ok"}
    assert objective.budget_left == pytest.approx(0.0, abs=1e-9)


def test_after_a_month_an_incident_is_forgotten() -> None:
    objective = Objective(0.999, 1.0, 30 * DAY, now=0.0)
    late = 0
    for step in range(1, int(31 * DAY / 5)):
        late += 5000 if step <= 60 else 0
        objective.sample(5.0 * step, step * 5000, late)
        if step == 120:
            assert objective.budget_left < 0.9
    assert objective.budget_left == 1.0


def test_what_counts_is_the_share_of_what_is_due_at_changing_rates() -> None:
    busy, quiet = Clock(rate=100_000).run(3600), Clock(rate=10).run(3600)
    for clock in (busy, quiet):
        clock.run(100, late=1.0)
    assert busy.states() == quiet.states() == [(3655, "fast")]
    # Hardly anything was due in the trouble: an hour of 100,000 a second holds it.
    calm = Clock(rate=100_000).run(3600)
    calm.rate = 10
    calm.run(100, late=1.0)
    assert calm.states() == []


def test_nothing_due_burns_nothing_and_ends_an_alarm() -> None:
    clock = Clock(window=0.5 * DAY).run(100, late=1.0)
    clock.rate = 0
    clock.run(5000)
    assert [state for _, state in clock.states()] == ["fast", "slow", "trickle", "ok"]
    assert set(clock.objective.burns().values()) == {0.0}


def test_the_first_seconds_are_measured_against_what_would_have_come() -> None:
    # One late metric of sixty, in the first minute: no alarm, since an hour of as many would have 3,600.
    clock = Clock(rate=1).run(30)
    clock.late += 1
    clock.run(30)
    assert clock.states() == []


def test_counters_of_before_are_not_looked_at() -> None:
    objective = Objective(0.999, 1.0, 30 * DAY, now=1000.0, due=10**9, late=10**8)
    assert objective.sample(1005.0, 10**9 + 5000, 10**8) is None
    assert objective.budget_left == 1.0


def test_a_pause_of_the_agent_is_not_looked_at_twice() -> None:
    """Whoever stood still for an hour has then seen all of it in its last step."""
    objective = Objective(0.999, 1.0, 30 * DAY, now=0.0)
    due = 0
    for second in range(5, 36_000, 5):
        due += 5000
        assert objective.sample(second, due, 0) is None
    change = objective.sample(36_000 + 3600.0, due + 3_600_000, 3_600_000)
    assert change is not None
    assert change.state == "fast"
    assert change.burn_long == change.burn_short == pytest.approx(1000)
    assert objective.burns()[21_600] == pytest.approx(3600 / 21_600 / 0.001, rel=0.01)


def test_states_are_named_from_the_worst_on() -> None:
    assert STATES == ("fast", "slow", "trickle", "ok")


def test_a_long_span_begins_up_to_120_steps_early_and_not_more() -> None:
    objective = Objective(0.999, 1.0, 30 * DAY, now=0.0)
    objective.sample(5.0 * 130, 1000, 0)
    objective.sample(5.0 * 170, 2000, 1000)
    trickle = 51_840
    objective.sample(5.0 * (trickle + 239), 3000, 1000)
    assert objective.burns()[3 * 86_400] == pytest.approx(1000 / 3)
    objective.sample(5.0 * (trickle + 240), 3000, 1000)
    assert objective.burns()[3 * 86_400] == 0.0
    # The short ones begin exactly.
    objective.sample(5.0 * 60_000, 4000, 2000)
    objective.sample(5.0 * (60_000 + 4319), 5000, 2000)
    assert objective.burns()[21_600] == pytest.approx(500)
    objective.sample(5.0 * (60_000 + 4320), 5000, 2000)
    assert objective.burns()[21_600] == 0.0


# ---- of all outputs ----


def reading(written: int, missed: int = 0, kernel_drops: int = 0, **dropped: int) -> Ledger:
    accounts = (output("influx", written=written, missed=missed), output("gone", written=5))
    listeners = (listener(0, kernel_drops=kernel_drops, dropped=dropped),)
    return Ledger(listeners=listeners, lanes=(), outputs=accounts, problems=())


SLO = Slo(window=0.5 * DAY)


def test_what_has_no_time_left_and_was_not_delivered_in_time_is_late() -> None:
    objectives = Objectives()
    lost = {"ring_full": 3, "burst_torn": 4, "number": 100, "denied": 100}
    for now in (1.0, 2.0, 3.0, 4.0):
        found = {"influx": Promised(young=30, on_time=60)}
        objectives.look(now, SLO, reading(100, missed=5, kernel_drops=7, **lost), found)
    (account,) = objectives.accounts()
    # 100 + 5 were for the output, 3 + 4 + 7 were lost before; 30 of them have time left.
    assert (account.output, account.due, account.late) == ("influx", 89, 29)
    assert account.state == "fast" and account.burn["5"] > 14.4
    assert (account.share, account.within, account.window) == (0.999, 1.0, 43_200.0)


def test_the_log_tells_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="agent.objectives")
    objectives = Objectives()
    due = late = 0
    changes = []
    for second in range(500):
        due, late = due + 1000, late + (1000 if 100 <= second < 103 else 0)
        found = {"influx": Promised(young=0, on_time=due - late)}
        changes += objectives.look(float(second), SLO, reading(due), found)
    assert [(name, change.state) for name, change in changes] == [
        ("influx", state) for state in ("fast", "slow", "ok")
    ]
    told = [(one.levelname, one.getMessage(), vars(one)["state"], vars(one)["was"]) for one in caplog.records]
    assert told == [
        ("WARNING", "an error budget burns", "fast", "ok"),
        ("INFO", "an error budget burns less", "slow", "fast"),
        ("INFO", "an error budget burns no more", "ok", "slow"),
    ]
    first = vars(caplog.records[0])
    assert (first["output"], first["due"], first["late"]) == ("influx", 101_000, 1000)
    assert first["burn_short"] > first["burn_long"] > 14.4
    assert 0.9 < first["budget_left"] < 1.0


def test_a_state_that_is_worse_than_the_last_one_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="agent.objectives")
    objectives = Objectives()
    due = late = 0
    for second in range(2600):
        due, late = due + 1000, late + (1000 if second >= 2500 else 3 if second >= 600 else 0)
        objectives.look(float(second), SLO, reading(due), {"influx": Promised(0, due - late)})
    states = [vars(one)["state"] for one in caplog.records]
    assert states == ["trickle", "fast"]
    assert {one.levelname for one in caplog.records} == {"WARNING"}


def test_counters_never_fall_and_go_on_under_another_objective() -> None:
    objectives = Objectives()
    objectives.look(1.0, SLO, reading(100), {"influx": Promised(0, 40)})
    # With more time, some that were late would not be.
    objectives.look(2.0, Slo(within=10.0), reading(100), {"influx": Promised(50, 40)})
    (account,) = objectives.accounts()
    assert (account.due, account.late, account.within) == (100, 60, 10.0)
    objectives.look(4000.0, Slo(within=10.0), reading(200), {"influx": Promised(0, 140)})
    (account,) = objectives.accounts()
    assert (account.due, account.late) == (200, 60)
    # What was late by the former objective burns nothing of this one's budget.
    assert account.budget_left == 1.0


def test_without_an_objective_there_is_none() -> None:
    objectives = Objectives()
    objectives.look(1.0, SLO, reading(100), {"influx": Promised(0, 40)})
    objectives.look(2.0, Slo(share=0.0), reading(100), {})
    assert objectives.accounts() == ()


def test_an_output_that_is_added_is_not_charged_with_what_was_lost_before() -> None:
    objectives = Objectives()
    objectives.look(1.0, SLO, reading(0, ring_full=50), {"influx": Promised(0, 0)})
    objectives.look(2.0, SLO, reading(0, ring_full=60), {"influx": Promised(0, 0), "gone": Promised(0, 5)})
    objectives.look(3.0, SLO, reading(0, ring_full=61), {"influx": Promised(0, 0), "gone": Promised(0, 5)})
    assert {one.output: (one.due, one.late) for one in objectives.accounts()} == {
        "influx": (61, 61),
        "gone": (6, 1),
    }
