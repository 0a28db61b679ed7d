"""Quantiles of histograms, and what came between two readings of one."""

from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Of values that are known by their buckets only: at most a bucket off, which is 25 % of the value."""

    count: int
    p50: float
    p99: float
    max: float
    """The upper end of the last bucket that has any."""


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float:
    """The value that *share* of the values do not exceed; nan if there are none.

    *bounds* are the upper ends of the buckets, inclusive; one more count is for what lies above the last.
    Within a bucket, values are taken to be spread evenly; those above the last bound are taken for it.
    """
    total = sum(counts)
    if not total:
        return float("nan")
    wanted, passed, lower = share * total, 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and passed + count >= wanted:
            return lower + (bound - lower) * max(wanted - passed, 0.0) / count
        passed, lower = passed + count, bound
    return bounds[-1]


def summary(bounds: Sequence[float], counts: Sequence[int]) -> Summary | None:
    """None if there are no values."""
    last = max((index for index, count in enumerate(counts) if count), default=None)
    if last is None:
        return None
    return Summary(
        count=sum(counts),
        p50=quantile(0.5, bounds, counts),
        p99=quantile(0.99, bounds, counts),
        max=bounds[min(last, len(bounds) - 1)],
    )


def between(before: Sequence[int], now: Sequence[int]) -> list[int]:
    """What came from one reading to the next; *before* may be empty, for nothing."""
    if not before:
        return list(now)
    return [after - earlier for earlier, after in zip(before, now, strict=True)]
