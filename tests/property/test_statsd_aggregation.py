"""The rules of the aggregation of StatsD samples, each shown by an example."""

from dataclasses import replace
from typing import Any

import pytest

from tests.reference.points import Point
from tests.reference.statsd_aggregate import Aggregator, body_of
from tests.reference.statsd_parts import Sample
from tests.reference.statsd_readers import NAMES, Outcome, Reader, Settings, reader

PLAIN = Settings()
S = 1_000_000_000
"""Nanoseconds."""


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


def only(outcome: Outcome) -> Point:
    """The one point that came of it; nothing was dropped."""
    assert not outcome.dropped
    (point,) = [*outcome.passed, *outcome.ticked]
    return point


def fields_of(point: Point) -> dict[bytes, Any]:
    return {key: value for key, _, value in point.fields}


def values_of(outcome: Outcome) -> dict[bytes, float]:
    """Of series with a single field: its value, by the type of the metric."""
    return {dict(point.tags)[b"metric_type"]: fields_of(point)[b"value"] for point in outcome.ticked}


def test_counters_are_exact(read: Reader) -> None:
    lines = [b"a:9007199254740991|c", b"a:1|c|@0.1", *[b"a:-1|c"] * 10, b"a:0.1|c", b"a:0.2|c", b"a:-0.3|c"]
    (point,) = read(lines, PLAIN).ticked
    assert fields_of(point)[b"value"] == 9007199254740991.0


def test_many_fractions_add_up_without_drifting(read: Reader) -> None:
    (point,) = read([b"a" + b":0.1" * 16_000 + b"|c"] * 5, PLAIN).ticked
    # Added one by one to a plain double they come to 8000.000000001.
    assert fields_of(point)[b"value"] == pytest.approx(8_000, rel=0, abs=1e-11)


def test_sets_count_their_members_by_their_bytes(read: Reader) -> None:
    outcome = read([b"a:x|s", b"a:x|s", b"a:x:y|s", b"a:\xff\0|s", b"a: x|s|@0.1"], PLAIN)
    assert fields_of(only(outcome)) == {b"value": 4.0}


def test_gauges_hold_the_last_value_and_deltas_change_it(read: Reader) -> None:
    lines = [b"a:100|g", b"a:-10|g", b"a:+30|g|@0.1", b"b:+5|g", b"c:1:2:-1|g", b"d:1|g:+1|g"]
    outcome = read(lines, PLAIN)
    assert {point.name: fields_of(point)[b"value"] for point in outcome.ticked} == {
        b"a": 120.0,
        b"b": 5.0,
        b"c": 1.0,
        b"d": 2.0,
    }
    plain = read(lines, replace(PLAIN, gauge_deltas=False))
    assert [fields_of(point)[b"value"] for point in plain.ticked] == [30.0, 5.0, -1.0, 1.0]


def test_types_are_series_of_their_own_with_one_type_of_field(read: Reader) -> None:
    outcome = read([b"a:2|c:3|g:x|s:4|ms:5|h:6|d"], PLAIN)
    assert outcome.accepted == 6
    kinds = {dict(point.tags)[b"metric_type"]: point.fields for point in outcome.ticked}
    assert {kind: kinds[kind] for kind in (b"counter", b"gauge", b"set")} == {
        b"counter": ((b"value", "f", 2.0),),
        b"gauge": ((b"value", "f", 3.0),),
        b"set": ((b"value", "f", 1.0),),
    }
    assert kinds.keys() >= {b"timing", b"histogram", b"distribution"}
    assert {key: kind for key, kind, _ in kinds[b"timing"]} == {
        b"mean": "f",
        b"median": "f",
        b"stddev": "f",
        b"sum": "f",
        b"upper": "f",
        b"lower": "f",
        b"count": "i",
        b"90_percentile": "f",
    }


def test_timings_weigh_their_values_by_the_rate(read: Reader) -> None:
    outcome = read(
        [b"a:10|ms|@0.1", b"a:20|ms|@0.1", b"a:30:-5|ms"], replace(PLAIN, percentiles=(50.0, 100.0))
    )
    assert fields_of(only(outcome)) == {
        b"mean": pytest.approx(325 / 22),
        b"median": pytest.approx(15.0, rel=0.01),
        b"stddev": pytest.approx((5925 / 22 - (325 / 22) ** 2) ** 0.5),
        b"sum": pytest.approx(325.0),
        b"upper": 30.0,
        b"lower": -5.0,
        b"count": 22,
        b"50_percentile": pytest.approx(10.0, rel=0.01),
        b"100_percentile": 30.0,
    }


def test_a_count_is_rounded(read: Reader) -> None:
    assert fields_of(only(read([b"a:1:2:3|ms|@0.3"], PLAIN)))[b"count"] == 10
    assert fields_of(only(read([b"a:1|ms|@0.3"], PLAIN)))[b"count"] == 3


def test_percentiles_are_named_as_they_are_written(read: Reader) -> None:
    outcome = read([b"a:1|h"], replace(PLAIN, percentiles=(50.0, 99.9, 99.95)))
    assert {b"50_percentile", b"99.9_percentile", b"99.95_percentile"} <= fields_of(only(outcome)).keys()


def test_what_is_beyond_a_double_is_the_greatest(read: Reader) -> None:
    outcome = read([b"a:1e308|c|@0.001", b"b:1.7e308:1.7e308|ms", b"c:1.7e308|g", b"c:+1.7e308|g"], PLAIN)
    most = 1.7976931348623157e308
    fields = [fields_of(point) for point in outcome.ticked]
    assert (fields[0][b"value"], fields[1][b"sum"], fields[2][b"value"]) == (most, most, most)


def test_a_series_beyond_the_limit_is_counted_by_its_values(read: Reader) -> None:
    outcome = read([b"a:1|c", b"b:1:2|c:3|g", b"a:2|c:x|s", b"a:4|c|T5"], replace(PLAIN, max_series=1))
    assert outcome.dropped == {"series_full": 4}
    assert (outcome.received, outcome.accepted, outcome.aggregated) == (7, 3, 2)
    assert values_of(outcome) == {b"counter": 3.0}


def sample(name: bytes, kind: str, value: float, **more: Any) -> Sample:
    return Sample(name + b",metric_type=" + kind.encode(), kind, value, **more)


def names(aggregator: Aggregator, at_s: int) -> list[bytes]:
    return [point.head.partition(b",")[0] for point in aggregator.tick(at_s * S)]


def test_silent_series_are_not_sent_and_gauges_are_until_they_expire() -> None:
    aggregator = Aggregator(expire=20)
    for kind in ("counter", "gauge", "set", "timing"):
        aggregator.add(sample(kind.encode(), kind, 1.0))
    assert names(aggregator, 10) == [b"counter", b"gauge", b"set", b"timing"]
    assert names(aggregator, 20) == [b"gauge"]
    assert len(aggregator.series) == 4
    assert names(aggregator, 30) == []
    assert len(aggregator.series) == 0


def test_a_gauge_that_was_kept_takes_deltas_and_one_that_was_reset_starts_from_zero() -> None:
    for reset, value in ((False, b"8.0"), (True, b"3.0")):
        aggregator = Aggregator(reset_gauges=reset)
        aggregator.add(sample(b"g", "gauge", 5.0))
        aggregator.tick(10 * S)
        assert names(aggregator, 20) == ([] if reset else [b"g"])
        aggregator.add(sample(b"g", "gauge", 3.0, delta=True))
        assert aggregator.tick(30 * S)[0].fields == ((b"value", value),)


def test_an_interval_has_its_own_samples_only() -> None:
    aggregator = Aggregator(percentiles=())
    for at, value in ((10, 1.0), (20, 7.0)):
        aggregator.add(sample(b"c", "counter", value))
        aggregator.add(sample(b"t", "timing", value))
        counter, timing = aggregator.tick(at * S)
        assert counter.fields == ((b"value", repr(value).encode()),)
        assert dict(timing.fields)[b"count"] == b"1i"


def test_tags_of_the_agent_go_to_those_that_have_no_such_tag() -> None:
    aggregator = Aggregator()
    aggregator.add(sample(b"a,dc=x", "gauge", 1.0))
    aggregator.add(sample(b"b,x=\\,dc\\=y", "gauge", 1.0))
    assert body_of(aggregator.tick(S), [(b"dc", b"eu 1"), (b"metric_type", b"q")]) == (
        b"a,dc=x,metric_type=gauge value=1.0 1000000000\n"
        b"b,x=\\,dc\\=y,metric_type=gauge,dc=eu\\ 1 value=1.0 1000000000\n"
    )
