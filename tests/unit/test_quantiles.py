"""Quantiles of histograms are those of the values, but for the width of a bucket."""

import math
import random

import pytest

from agent.quantiles import Summary, between, quantile, summary

BOUNDS = tuple(
    float(f"{step}e{power}") for power in range(-4, 5) for step in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
)


def counted(values: list[float]) -> list[int]:
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[next((i for i, bound in enumerate(BOUNDS) if value <= bound), len(BOUNDS))] += 1
    return counts


@pytest.mark.parametrize("seed", range(20))
def test_a_quantile_is_within_its_bucket(seed: int) -> None:
    draw = random.Random(seed)
    values = sorted(draw.lognormvariate(-2, 2) for _ in range(draw.choice((1, 2, 10, 1000))))
    for share in (0.0, 0.5, 0.99, 1.0):
        real = values[max(math.ceil(share * len(values)) - 1, 0)]
        found = quantile(share, BOUNDS, counted(values))
        lower = max((bound for bound in BOUNDS if bound < real), default=0.0)
        upper = min(bound for bound in BOUNDS if bound >= real)
        assert lower <= found <= upper


def test_values_in_a_bucket_are_taken_to_be_spread_evenly() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    counts[BOUNDS.index(2.0)] = 4
    assert quantile(0.5, BOUNDS, counts) == pytest.approx(1.8)
    assert quantile(1.0, BOUNDS, counts) == 2.0


def test_what_is_above_all_bounds_is_taken_for_the_last() -> None:
    counts = [0] * len(BOUNDS) + [3]
    assert quantile(0.5, BOUNDS, counts) == BOUNDS[-1]
    assert summary(BOUNDS, counts) == Summary(count=3, p50=BOUNDS[-1], p99=BOUNDS[-1], max=BOUNDS[-1])


def test_nothing_has_no_quantile() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    assert math.isnan(quantile(0.5, BOUNDS, counts))
    assert summary(BOUNDS, counts) is None


def test_what_came_between_two_readings() -> None:
    assert between([1, 2, 3], [1, 5, 4]) == [0, 3, 1]
    assert between((), [1, 5, 4]) == [1, 5, 4]
