"""What StatsD clients are told to send, and the check of what a database holds of it afterwards.

The samples of a series are numbered by the order in which they were sent. Wherever a tick falls between
them, the `count` of each point says which of them are in it, so that every statistic of every point is known
without the clock; counters are summed over all ticks, and of a gauge the last point counts.
"""

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from tests.integration.mixed_lines import Point, Tags
from tests.integration.read_back import Samples

PERCENTILES = (50, 90, 99)
RELATIVE_ERROR = 0.01
STAMP = 1_700_000_000
STATISTICS = ("timing", "histogram", "distribution")
STATUS_TEXTS = ("ok", "warning", "critical", "unknown")


@dataclass(frozen=True)
class Sample:
    """One call of a client. *tags* are as a client takes them, *at* is in seconds since 1970."""

    kind: str
    name: str
    value: float | str
    tags: tuple[str, ...] = ()
    rate: float = 1.0
    at: int | None = None

    def wants(self) -> set[str]:
        """What a client must know to send it."""
        wants = {self.kind}
        if self.tags:
            wants.add("tags")
        if self.rate != 1.0:
            wants.add("rates")
        if self.at is not None:
            wants.add("timestamps")
        elif self.kind == "gauge" and self.value < 0:
            wants.add("negative gauges")
        return wants


@dataclass(frozen=True)
class Event:
    title: str
    text: str
    tags: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    """By the names that all clients use: hostname, date_happened, alert_type and so on."""

    def wants(self) -> set[str]:
        return {"events"} if (self.title + self.text).isascii() else {"events", "lengths in bytes"}


@dataclass(frozen=True)
class Check:
    name: str
    status: int
    tags: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    def wants(self) -> set[str]:
        return {"checks"}


Call = Sample | Event | Check


def calls(known: Iterable[str]) -> list[Call]:
    """One round of everything that a client which knows so much can send."""
    draw = random.Random(8125)
    cart = ("route:/cart", "zone:eu-1")
    took = [draw.randrange(1, 40_000) / 64 for _ in range(200)]
    every: list[Call] = [
        *[Sample("counter", "app.hits", value) for value in (1, 1, 5, -3, 1, 2)],
        *[Sample("counter", "app.bytes", value) for value in (1.5, 1024.25, 3e9)],
        *[Sample("counter", "app.sampled", 1, rate=0.25) for _ in range(20)],
        *[Sample("counter", "app.requests", 3, tags) for tags in (cart, cart[::-1])],
        Sample("counter", "app.requests", 5, ("zone:us-2", "route:/")),
        Sample(
            "counter", "app.requests", 7, ("zone:us-2", "city:Z\N{LATIN SMALL LETTER U WITH DIAERESIS}rich")
        ),
        Sample("counter", "app.requests", 4, ("route:/", "zone:us-2", "status:200"), rate=0.5),
        Sample("counter", "app.past", 12, at=STAMP),
        *[Sample("gauge", "app.temperature", value) for value in (21, 20.5, 19.25)],
        *[Sample("gauge", "app.temperature", value, cart) for value in (30, 31.75)],
        *[Sample("gauge", "app.balance", value) for value in (10, -7.5)],
        Sample("gauge", "app.past.level", -2.5, ("zone:eu-1",), at=STAMP + 60),
        Sample("gauge", "app.queue", 10),
        *[Sample("gauge_delta", "app.queue", value) for value in (5, -3, 0.5)],
        *[Sample("gauge_delta", "app.drift", value) for value in (-4, 1)],
        # The same members stand side by side: a tick between them adds one, wherever else it falls none.
        *[Sample("set", "app.users", member) for member in ("anna", "anna", "bert", "bert", "carl", "anna2")],
        *[Sample("set", "app.ids", member, cart) for member in (17, 17, 18)],
        *[Sample("timing", "app.took", value) for value in took],
        *[Sample("timing", "app.took", value, ("zone:eu-1",), rate=0.5) for value in took[:60]],
        *[Sample("timing", "app.took.rarely", value, rate=0.25) for value in took[:33]],
        *[Sample("histogram", "app.size", value * 1_000, cart) for value in took[:101]],
        *[Sample("distribution", "app.spread", value - 200) for value in took[:51]],
        *[Sample("distribution", "app.zeros", value, rate=0.5) for value in (0, 0, 7)],
        Event("Deploy of web", "done"),
        Event("Queue is full", 'a \N{GREEK SMALL LETTER ALPHA}: "quoted"\nand a second line', ("zone:eu-1",)),
        Event(
            "restart",
            "of everything, a = b\nand back",
            ("zone:eu-1", "route:/a/b:c"),
            {
                "hostname": "web-7",
                "date_happened": STAMP,
                "alert_type": "error",
                "priority": "low",
                "aggregation_key": "restarts",
                "source_type_name": "deployer",
            },
        ),
        Check("disk.space", 0),
        Check(
            "disk.space",
            2,
            ("zone:eu-1",),
            {"hostname": "db-1", "date_happened": STAMP, "message": "99 % full: \N{SNOWMAN}"},
        ),
        Check("api", 3, options={"message": "no answer"}),
    ]
    known = set(known)
    return [call for call in every if call.wants() <= known]


# ---- what must be there ----


def split_tags(tags: Iterable[str]) -> Tags:
    return frozenset((key, value) for key, _, value in (tag.partition(":") for tag in tags))


def passed(sent: Iterable[Call], extra: Tags) -> list[Point]:
    """The points of events and checks, without their times, which are the agent's."""
    points = []
    for call in sent:
        if isinstance(call, Sample):
            continue
        options = dict(call.options)
        tags = set(split_tags(call.tags) | extra)
        fields: dict[str, bool | int | float | str] = {}
        if "hostname" in options:
            tags.add(("source", str(options["hostname"])))
        if "date_happened" in options:
            fields["ts"] = int(str(options["date_happened"]))
        if isinstance(call, Event):
            name = call.title
            fields["text"] = call.text
            fields["alert_type"] = str(options.get("alert_type", "info"))
            fields["priority"] = str(options.get("priority", "normal"))
            if "aggregation_key" in options:
                tags.add(("aggregation_key", str(options["aggregation_key"])))
            if "source_type_name" in options:
                fields["source_type_name"] = str(options["source_type_name"])
        else:
            name = "statsd_service_check"
            tags.add(("check_name", call.name))
            fields |= {"status": call.status, "status_text": STATUS_TEXTS[call.status]}
            if "message" in options:
                fields["message"] = str(options["message"])
        points.append(Point(name, frozenset(tags), fields, None))
    return points


def check_samples(stored: Samples, sent: Sequence[Call], extra: Tags, rounds: int) -> None:
    """*stored* is what came of *sent*, which holds all *rounds*, and nothing else; events aside."""
    series: dict[tuple[str, str, Tags], list[Sample]] = defaultdict(list)
    for call in sent:
        if isinstance(call, Sample):
            kind = call.kind.removesuffix("_delta")
            tags = split_tags(call.tags) | extra | {("metric_type", kind)}
            series[kind, call.name.replace(".", "_"), tags].append(call)
    known = set()
    for (kind, name, tags), samples in series.items():
        fields = ["value"]
        if kind in STATISTICS:
            fields = ["count", "sum", "mean", "median", "stddev", "lower", "upper"]
            fields += [f"{percentile}_percentile" for percentile in PERCENTILES]
        found = {}
        for key in fields:
            head = tags | {("__name__", f"{name}_{key}")}
            known.add(head)
            assert stored.get(head), f"no {name}_{key} of {sorted(tags)}"
            found[key] = stored[head]
        if kind in STATISTICS:
            _check_statistics(name, samples, found)
        else:
            _check_values(kind, samples, found["value"], rounds)
    strange = set(stored) - known
    assert not strange, f"not sent: {[sorted(one) for one in strange]}"


def _check_values(
    kind: str, samples: Sequence[Sample], found: Sequence[tuple[int, float]], rounds: int
) -> None:
    what = f"{kind} {samples[0].name}: {found}"
    values = [value for _, value in found]
    if samples[0].at is not None:
        # Each round writes the same point; VictoriaMetrics keeps both, InfluxDB the last.
        assert set(found) == {(samples[0].at * 1_000, samples[0].value)}, what
    elif kind == "counter":
        assert math.fsum(values) == math.fsum(one.value / one.rate for one in samples), what
    elif kind == "gauge":
        level = 0.0
        for one in samples:
            level = level + one.value if one.kind == "gauge_delta" else one.value
        assert values[-1] == level, what
    else:
        # Every round is in ticks of its own; a tick within a round may part two equal members.
        distinct = rounds * len({one.value for one in samples})
        assert distinct <= sum(values) <= distinct + len(values) - rounds, what


def _check_statistics(
    name: str, samples: Sequence[Sample], found: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    rate = samples[0].rate
    values = [float(one.value) for one in samples]
    times = [at for at, _ in found["count"]]
    assert all([at for at, _ in points] == times for points in found.values()), name
    for tick in range(len(times)):
        got = {key: points[tick][1] for key, points in found.items()}
        count = round(got["count"] * rate)
        part, values = values[:count], values[count:]
        assert len(part) == count == got["count"] * rate, f"{name}: {got}, and only {len(part)} left"
        exact = {
            "sum": math.fsum(part) / rate,
            "mean": statistics.fmean(part),
            "stddev": statistics.pstdev(part),
            "lower": min(part),
            "upper": max(part),
        }
        near = {"median": statistics.median(part)}
        for percentile in PERCENTILES:
            near[f"{percentile}_percentile"] = _percentile(sorted(part), percentile, 1 / rate)
        for key, value in exact.items():
            assert got[key] == pytest.approx(value, rel=1e-9, abs=1e-9), (name, key)
        for key, value in near.items():
            assert got[key] == pytest.approx(value, rel=RELATIVE_ERROR * 1.000_001, abs=1e-9), (name, key)
    assert not values, f"{name}: {len(values)} of {len(samples)} samples are absent"


def _percentile(ordered: Sequence[float], percentile: float, weight: float) -> float:
    """The smallest value whose share reaches the percentile; the rank is rounded as StatsD's is."""
    rank = percentile / 100 * len(ordered) * weight - 0.5
    return next(value for at, value in enumerate(ordered, 1) if at * weight > rank)
