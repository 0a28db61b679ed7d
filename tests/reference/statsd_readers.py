"""What has to agree about StatsD: the reference, and whatever else is put beside it here.

An implementation takes datagrams and gives what is in the database afterwards: the points that passed
straight through, and those of one tick behind the last datagram.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.conftest import missing
from tests.reference.points import Point, parse
from tests.reference.statsd import TYPES, Options, read
from tests.reference.statsd_aggregate import EXPIRE_S, Aggregator, Timing, body_of
from tests.reference.statsd_parts import Point as SeriesPoint
from tests.reference.statsd_parts import Sample

NAMES = ("reference", "compiled")

ARRIVAL_NS = 1_600_000_000_000_000_000
TICK_NS = 1_600_000_010_000_000_000
RING_BYTES = 1 << 20


Key = tuple[bytes, tuple[tuple[bytes, bytes], ...]]
"""Name and sorted tags of a point."""


@dataclass(frozen=True)
class Settings:
    """The options of a listener, by their names in the configuration."""

    percentiles: tuple[float, ...] = (90.0,)
    relative_error: float = 0.01
    """Of quantiles; those of the reference are exact."""
    gauge_deltas: bool = True
    reset_gauges: bool = False
    expire: float | Mapping[str, float] = EXPIRE_S
    max_series: int = 1_000_000
    separator: str = "_"
    dialect: str = "auto"
    max_line: int = 65_536
    tags: tuple[tuple[bytes, bytes], ...] = ()
    """Of the agent, raw: put to points that have none of their key."""


@dataclass(frozen=True)
class Outcome:
    """What came of the datagrams. *dropped* holds only reasons that occurred."""

    passed: list[Point] = field(default_factory=list)
    """Not aggregated, in the order of arrival; those without a time of their own have that of arrival."""
    ticked: list[Point] = field(default_factory=list)
    """Of the tick, sorted by name and tags."""
    received: int = 0
    accepted: int = 0
    aggregated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    timings: dict[Key, Timing] = field(default_factory=dict)
    """Of the reference alone: all values of each timing, histogram and distribution."""
    turnover: dict[Key, float] = field(default_factory=dict)
    """Of the reference alone: the sum of the magnitudes that went into each counter and gauge."""


Reader = Callable[[Sequence[bytes], Settings], Outcome]


def reader(name: str) -> Reader:
    """The implementation of that name; skips the test where it is missing."""
    if name == "reference":
        return reference
    try:
        from agent import _core
    except ImportError as error:
        missing(f"needs the compiled core: {error}")

    lane = _core.Lane(0)

    def compiled(datagrams: Sequence[bytes], settings: Settings) -> Outcome:
        if "+" in settings.dialect:
            # Such sums of dialects are of tests alone: a listener has one, or all.
            return reference(datagrams, settings)
        expire = settings.expire
        aggregator = _core.Aggregator(
            1,
            percentiles=settings.percentiles,
            relative_error=settings.relative_error,
            gauge_deltas=settings.gauge_deltas,
            reset_gauges=settings.reset_gauges,
            expire=expire if isinstance(expire, Mapping) else dict.fromkeys(TYPES.values(), expire),
            max_series=settings.max_series,
            separator=settings.separator,
            dialect=settings.dialect,
        )
        results = [
            _core.read_statsd(
                datagram,
                aggregator,
                tags=settings.tags,
                now_ns=ARRIVAL_NS + number * 1_000,
                line_bytes_max=settings.max_line,
            )
            for number, datagram in enumerate(datagrams)
        ]
        dropped: Counter[str] = Counter()
        for result in results:
            dropped.update(result["dropped"])
        ring = _core.Ring(None, RING_BYTES, _core.Waker())
        written = aggregator.tick([lane], [ring], TICK_NS, tags=settings.tags)
        batch = ring.take(RING_BYTES, 1 << 30, True)
        body = bytes(batch) if batch is not None else b""
        ticked = parse(body)
        assert written == len(ticked)
        return Outcome(
            parse(b"".join(result["body"] for result in results)),
            sorted(ticked, key=key_of),
            sum(result["received"] for result in results),
            sum(result["accepted"] for result in results),
            sum(result["aggregated"] for result in results),
            {reason: count for reason, count in dropped.items() if count},
        )

    return compiled


def reference(datagrams: Sequence[bytes], settings: Settings) -> Outcome:
    options = Options(settings.dialect, settings.gauge_deltas, settings.separator.encode(), settings.max_line)
    aggregator = Aggregator(
        percentiles=settings.percentiles,
        reset_gauges=settings.reset_gauges,
        expire=settings.expire,
        max_series=settings.max_series,
    )
    passed = []
    received = 0
    dropped: Counter[str] = Counter()
    turnover: defaultdict[bytes, float] = defaultdict(float)
    for datagram in datagrams:
        result = read(datagram, options)
        received += result.received
        dropped.update(result.dropped)
        for one in result.found:
            if isinstance(one, Sample):
                if aggregator.add(one):
                    turnover[one.head] += abs(one.value)
            else:
                passed.append(one)
    if aggregator.series_full:
        dropped["series_full"] = aggregator.series_full

    def key(head: bytes) -> Key:
        """As the point of this series has it, the agent's tags and all."""
        return key_of(parse(body_of([SeriesPoint(head, ((b"value", b"0"),), 0)], settings.tags))[0])

    keys = {head: key(head) for head in aggregator.series}
    timings = {keys[head]: series.timing for head, series in aggregator.series.items()}
    return Outcome(
        parse(body_of(passed, settings.tags, ARRIVAL_NS)),
        sorted(parse(body_of(aggregator.tick(TICK_NS), settings.tags)), key=key_of),
        received,
        received - sum(dropped.values()),
        aggregator.aggregated,
        dict(dropped),
        timings,
        {keys[head]: value for head, value in turnover.items()},
    )


def key_of(point: Point) -> Key:
    return point.name, point.tags
