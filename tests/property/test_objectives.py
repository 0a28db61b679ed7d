"""Objectives agree with the reference, which keeps everything and adds it up at each question."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.objectives import Objective
from tests.reference import objectives as reference

HOUR = 3600.0

# (steps from the one before, due, how many of a thousand late)
moves = st.lists(
    st.tuples(
        # Up to the lengths of the spans, so that they begin beside what happened.
        st.one_of(
            st.integers(1, 5),
            st.integers(1, 900),
            st.sampled_from((60, 360, 720, 4320, 51_840, 518_400)).map(lambda steps: steps - 30),
        ),
        st.one_of(st.just(0), st.integers(1, 2000)),
        st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 1000)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=50)
@given(
    moves,
    st.sampled_from([6 * HOUR, 12 * HOUR, 144 * HOUR, 500.5 * HOUR, 720 * HOUR]),
    st.sampled_from([(9, 10), (999, 1000), (99999, 100_000)]),
)
def test_burn_rates_and_states_are_those_of_the_reference(
    moves: list[tuple[int, int, int]], window: float, share: tuple[int, int]
) -> None:
    ours = Objective(share[0] / share[1], 1.0, window, now=0.0)
    theirs = reference.Objective(Fraction(*share), window)
    assert ours.step == theirs.step
    index = due = late = 0
    state = "ok"
    for steps, arrived, permille in moves:
        index += steps
        late_now = arrived * permille // 1000
        due, late = due + arrived, late + late_now
        change = ours.sample((index + 0.25) * ours.step, due, late)
        wanted = theirs.add(index, arrived, late_now)
        parts = (1, 10, 120, 720, 1440, 8640)
        burns = [float(theirs.burn(part)) for part in parts]
        found = [1 - ours.budget_left, *(ours.burns()[ours.span(part)] for part in parts[1:])]
        assert all(abs(a - b) <= 1e-6 * max(1.0, b) for a, b in zip(found, burns, strict=True))
        # At a threshold itself, floats decide.
        if not any(abs(burn - factor) < 1e-6 for burn in burns for _, factor, _, _ in reference.ALARMS):
            assert ours.state == wanted
            assert (change.was, change.state) == (state, wanted) if change else state == wanted
        state = ours.state
