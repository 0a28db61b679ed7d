"""Reference aggregation of StatsD samples: exact sums, exact quantiles, exact sets.

:class:`Aggregator` is the oracle of the compiled one, whose quantiles and large sets are estimates: where an
estimate is allowed to be is said by :meth:`Timing.percentile` and :meth:`Timing.middle` with a *slack*.
The shape of the points is Telegraf's. Arithmetic is in fractions and is rounded once, at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tests.reference.line_protocol import TAG_COUNTS_FATAL, agent_tags
from tests.reference.statsd_parts import Point, Sample
from tests.reference.statsd_text import FLOAT_MAX, float_field, integer_field, percentile_field

TIMINGS = frozenset({"timing", "histogram", "distribution"})
EXPIRE_S = 300.0


def rounded(value: Fraction) -> float:
    """The double next to *value*; beyond the greatest, that."""
    try:
        return float(value)
    except OverflowError:
        return FLOAT_MAX if value > 0 else -FLOAT_MAX


def root(value: Fraction) -> float:
    """The square root of *value*, which may itself be too great or too small for a double."""
    shift = (value.numerator.bit_length() - value.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(value / Fraction(4) ** shift), shift)
    except OverflowError:
        return FLOAT_MAX


@dataclass
class Timing:
    """The values of one timing, histogram or distribution in one interval, each with its weight."""

    values: list[tuple[float, float]] = field(default_factory=list)

    @property
    def weight(self) -> float:
        return rounded(sum((Fraction(weight) for _, weight in self.values), Fraction()))

    def beyond(self, rank: float, *, at_least: bool = False) -> float:
        """The smallest value whose cumulative weight is more than *rank* (*at_least*: or as much)."""
        passed = 0.0
        ordered = sorted(self.values)
        for value, weight in ordered:
            passed += weight
            if passed > rank or (at_least and passed == rank):
                return value
        return ordered[-1][0]

    def percentile(self, percentile: float, slack: float = 0.0) -> float:
        """The value of the rank that is next to *percentile* / 100 of the weight, as etsy's server has it.

        For weights of one that is number round(*percentile* / 100 * n) of the sorted values, with halves
        rounded up, and the first if that is 0. With *slack*, of a rank that is off by so much of the weight.
        """
        weight = self.weight
        return self.beyond(percentile / 100 * weight - 0.5 + slack * weight)

    def middle(self, slack: float = 0.0) -> tuple[float, float]:
        """The two values in the middle, or twice the one that is there."""
        half = self.weight * (0.5 + slack)
        return self.beyond(half, at_least=True), self.beyond(half)

    def fields(self, percentiles: Sequence[float]) -> dict[bytes, bytes]:
        total = sum((Fraction(weight) for _, weight in self.values), Fraction())
        summed = sum((Fraction(value) * Fraction(weight) for value, weight in self.values), Fraction())
        mean = summed / total
        squares = sum(
            (Fraction(weight) * (Fraction(value) - mean) ** 2 for value, weight in self.values), Fraction()
        )
        return {
            b"mean": float_field(rounded(mean)),
            b"median": float_field(rounded(sum(map(Fraction, self.middle()), Fraction()) / 2)),
            b"stddev": float_field(root(squares / total)),
            b"sum": float_field(rounded(summed)),
            b"upper": float_field(max(value for value, _ in self.values)),
            b"lower": float_field(min(value for value, _ in self.values)),
            b"count": integer_field(round(total)),
            **{percentile_field(p): float_field(self.percentile(p)) for p in percentiles},
        }


@dataclass
class Series:
    """One series. What it has is of the running interval, except a gauge's value, which stays."""

    type: str
    touched: bool = False
    last_ns: int = 0
    """The tick that ended the interval of its last sample."""
    sums: list[float] = field(default_factory=list)
    gauge: float = 0.0
    members: set[bytes] = field(default_factory=set)
    timing: Timing = field(default_factory=Timing)

    def add(self, sample: Sample) -> None:
        self.touched = True
        if self.type == "counter":
            self.sums.append(sample.value)
        elif self.type == "gauge":
            # A gauge is changed in the order of arrival; each step rounds.
            changed = (
                Fraction(self.gauge) + Fraction(sample.value) if sample.delta else Fraction(sample.value)
            )
            self.gauge = rounded(changed)
        elif self.type == "set":
            self.members.add(sample.member)
        else:
            self.timing.values.append((sample.value, sample.weight))

    def fields(self, percentiles: Sequence[float]) -> dict[bytes, bytes]:
        if self.type in TIMINGS:
            return self.timing.fields(percentiles)
        if self.type == "counter":
            value = rounded(sum(map(Fraction, self.sums), Fraction()))
        else:
            value = self.gauge if self.type == "gauge" else float(len(self.members))
        return {b"value": float_field(value)}

    def clear(self) -> None:
        self.touched = False
        self.sums, self.members, self.timing = [], set(), Timing()


class Aggregator:
    """All series of a listener.

    *expire* is in seconds, for all types or by type. *max_series* bounds the series that are not expired.
    """

    def __init__(
        self,
        *,
        percentiles: Sequence[float] = (90.0,),
        reset_gauges: bool = False,
        expire: float | Mapping[str, float] = EXPIRE_S,
        max_series: int = 1_000_000,
    ) -> None:
        self.percentiles = tuple(percentiles)
        self.reset_gauges = reset_gauges
        self.expire = expire
        self.max_series = max_series
        self.series: dict[bytes, Series] = {}
        self.aggregated = 0
        self.series_full = 0

    def add(self, sample: Sample) -> bool:
        """Whether there was room for it: a sample of a new series beyond *max_series* is dropped."""
        series = self.series.get(sample.head)
        if series is None:
            if len(self.series) >= self.max_series:
                self.series_full += 1
                return False
            series = self.series[sample.head] = Series(sample.type)
        series.add(sample)
        self.aggregated += 1
        return True

    def expire_ns(self, type_name: str) -> int:
        seconds = self.expire if isinstance(self.expire, int | float) else self.expire[type_name]
        return round(seconds * 1e9)

    def tick(self, at_ns: int) -> list[Point]:
        """End the interval: the points of all series that are to be sent, stamped *at_ns*.

        A series is sent if a sample came, and a gauge also without one until it expires, unless gauges are
        reset. What has expired is forgotten, behind its last point.
        """
        points = []
        for head, series in list(self.series.items()):
            if series.touched:
                series.last_ns = at_ns
            expired = at_ns - series.last_ns >= self.expire_ns(series.type)
            if series.touched or (series.type == "gauge" and not expired):
                points.append(Point(head, tuple(series.fields(self.percentiles).items()), at_ns))
            series.clear()
            if expired or (series.type == "gauge" and self.reset_gauges):
                del self.series[head]
        return points


def body_of(points: Sequence[Point], tags: Sequence[tuple[bytes, bytes]] = (), now_ns: int = 0) -> bytes:
    """Line protocol for *points*. *tags* are raw; each is added to the points that have none of its key.

    With a number of tags that InfluxDB cannot bear, a point goes without the first that would be added.
    Points without a time get *now_ns*, *now_ns* + 1, ... in their order.
    """
    escaped = agent_tags(tags)
    lines = []
    stamped = 0
    for point in points:
        time_ns = point.time_ns
        if time_ns is None:
            time_ns = now_ns + stamped
            stamped += 1
        own = {re.split(rb"(?<!\\)=", tag)[0] for tag in re.split(rb"(?<!\\),", point.head)[1:]}
        added = [b",%s=%s" % tag for tag in escaped if tag[0] not in own]
        if added and len(own) + len(added) in TAG_COUNTS_FATAL:
            del added[0]
        fields = b",".join(key + b"=" + value for key, value in point.fields)
        lines.append(b"%s%s %s %d\n" % (point.head, b"".join(added), fields, time_ns))
    return b"".join(lines)
