"""Whether another implementation of StatsD has what the reference has, where it need not be bit for bit.

Counts, minima, maxima, small sets and all counters of whole numbers are exact. Sums may be off by the
rounding of their additions, quantiles by the guaranteed relative error, large sets by that of HyperLogLog.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.reference.points import Point
from tests.reference.statsd_aggregate import Timing
from tests.reference.statsd_readers import ARRIVAL_NS, Key, Outcome, key_of
from tests.reference.statsd_text import FLOAT_MAX

ROUNDING = 1e-12
"""Relative to the sum of the magnitudes that were added."""
SPREAD_ROUNDING = 1e-7
"""Of the standard deviation, relative to the greatest magnitude: squares that cancel keep half the digits."""
RANK_SLACK = 1e-9
"""Weights that are not whole may add up to a rank beside the one meant; relative to all weight."""
SQUARES_MIN, SQUARES_MAX = 1e-150, 1e150
"""The squares of smaller values are 0; those of greater ones infinite, and what comes of them just finite."""
SUM_MAX = FLOAT_MAX / 4
"""Beyond it a sum may pass the greatest double on its way, and must be finite, no more."""
TINY, HUGE = 1e-300, 1.7e308
"""Values too small for a bucket of their own; values in the last bucket, whose end is beyond a double."""
SET_EXACT_MAX = 1_000
SET_ERROR = 0.05
"""More than six times the standard error of HyperLogLog with 2^14 registers, 0.81 %."""


def complaints(expected: Outcome, found: Outcome, relative_error: float) -> list[str]:
    """What is wrong with *found*, in words; *expected* is the reference's outcome of the same datagrams."""
    return list(_complaints(expected, found, relative_error))


def _complaints(expected: Outcome, found: Outcome, relative_error: float) -> Iterator[str]:
    for name in ("received", "accepted", "aggregated", "dropped"):
        if getattr(expected, name) != getattr(found, name):
            yield f"{name}: {getattr(found, name)}, not {getattr(expected, name)}"
    if len(expected.passed) != len(found.passed):
        yield f"passed: {len(found.passed)} points, not {len(expected.passed)}"
    for ours, theirs in zip(expected.passed, found.passed, strict=False):
        if key_of(ours) != key_of(theirs):
            yield f"passed: {key_of(theirs)}, not {key_of(ours)}"
        else:
            yield from _fields(ours, theirs, expected, relative_error)
            if ours.time_ns != theirs.time_ns and ours.time_ns < ARRIVAL_NS:
                yield f"{key_of(ours)}: time {theirs.time_ns}, not {ours.time_ns}"
    mine = {key_of(point): point for point in expected.ticked}
    other = {key_of(point): point for point in found.ticked}
    if len(other) != len(found.ticked):
        yield "a series came twice in one tick"
    for key in mine.keys() ^ other.keys():
        yield f"{key}: only {'in the reference' if key in mine else 'found'}"
    for key in mine.keys() & other.keys():
        yield from _fields(mine[key], other[key], expected, relative_error)
        if mine[key].time_ns != other[key].time_ns:
            yield f"{key}: time {other[key].time_ns}, not {mine[key].time_ns}"


def _fields(ours: Point, theirs: Point, expected: Outcome, relative_error: float) -> Iterator[str]:
    key = key_of(ours)
    wanted = {name: (kind, value) for name, kind, value in ours.fields}
    got = {name: (kind, value) for name, kind, value in theirs.fields}
    if wanted.keys() != got.keys():
        yield f"{key}: fields {sorted(got)}, not {sorted(wanted)}"
        return
    for name, (kind, value) in wanted.items():
        if got[name][0] != kind:
            yield f"{key} {name!r}: type {got[name][0]}, not {kind}"
        elif not _near(name, value, got[name][1], key, expected, relative_error):
            yield f"{key} {name!r}: {got[name][1]!r}, not {value!r}"


def _near(
    name: bytes, wanted: object, got: object, key: Key, expected: Outcome, relative_error: float
) -> bool:
    if not isinstance(wanted, float) or not isinstance(got, float):
        return wanted == got
    timing = expected.timings.get(key)
    if timing is not None and timing.values:
        return _near_timing(name, wanted, got, timing, relative_error)
    if (b"metric_type", b"set") in key[1] and wanted > SET_EXACT_MAX:
        return abs(got - wanted) <= SET_ERROR * wanted
    return abs(got - wanted) <= ROUNDING * max(expected.turnover.get(key, 0.0), abs(wanted))


def _near_timing(name: bytes, wanted: float, got: float, timing: Timing, relative_error: float) -> bool:
    most = max(abs(value) for value, _ in timing.values)
    if name in (b"upper", b"lower"):
        return got == wanted
    if name == b"stddev":
        if most > SQUARES_MAX:
            return 0 <= got <= FLOAT_MAX
        return math.isclose(
            got, wanted, rel_tol=SPREAD_ROUNDING, abs_tol=SPREAD_ROUNDING * most + SQUARES_MIN
        )
    if name in (b"sum", b"mean"):
        if most * timing.weight > SUM_MAX:
            return abs(got) <= FLOAT_MAX
        weight = timing.weight if name == b"sum" else 1.0
        return abs(got - wanted) <= max(ROUNDING * most * weight, ROUNDING * abs(wanted)) + TINY
    if name == b"median":
        ends = [timing.middle(-RANK_SLACK), timing.middle(RANK_SLACK)]
        error = (
            relative_error
            * (2 if most > HUGE else 1)
            * max(abs(low) / 2 + abs(high) / 2 for low, high in ends)
            + TINY
        )
        return ends[0][0] / 2 + ends[0][1] / 2 - error <= got <= ends[1][0] / 2 + ends[1][1] / 2 + error
    percentile = float(name.removesuffix(b"_percentile"))
    low, high = timing.percentile(percentile, -RANK_SLACK), timing.percentile(percentile, RANK_SLACK)
    slack = relative_error * (2 if max(abs(low), abs(high)) > HUGE else 1 + 1e-9)
    return low - slack * abs(low) - TINY <= got <= high + slack * abs(high) + TINY
