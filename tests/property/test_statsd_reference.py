"""Any datagrams: what comes out is safe, is counted, and is what the reference has."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import examples
from tests.reference import statsd_lines as make
from tests.reference.line_protocol import ReadResult
from tests.reference.line_protocol import read as read_lines
from tests.reference.statsd import Options, read
from tests.reference.statsd_aggregate import Aggregator, Timing, body_of
from tests.reference.statsd_compare import complaints
from tests.reference.statsd_parts import Point, Sample
from tests.reference.statsd_readers import NAMES, TICK_NS, Reader, Settings, reader, reference
from tests.reference.statsd_text import tag_key

hows = st.builds(
    Settings,
    percentiles=st.lists(
        st.sampled_from([0.1, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0]), max_size=3, unique=True
    ).map(tuple),
    gauge_deltas=st.booleans(),
    reset_gauges=st.booleans(),
    max_series=st.sampled_from([1, 2, 5, 1_000_000]),
    separator=st.sampled_from(["_", ".", "-", "__"]),
    dialect=make.dialects,
    max_line=st.sampled_from([65_536, 65_536, 40]),
    tags=st.sampled_from(
        [(), (), ((b"dc", b"eu 1"), (b"k k", b"a=b")), ((b"host", b"h"), (b"metric_type", b"m"))]
    ),
)


@pytest.fixture(scope="module", params=NAMES)
def implementation(request: pytest.FixtureRequest) -> Reader:
    return reader(request.param)


@settings(max_examples=examples(500), deadline=None)
@given(make.streams, hows)
def test_all_implementations_agree(implementation: Reader, stream: list[bytes], how: Settings) -> None:
    assert complaints(reference(stream, how), implementation(stream, how), how.relative_error) == []


@settings(deadline=None)
@given(make.datagrams, make.dialects)
def test_what_is_written_is_line_protocol_that_every_version_takes(datagram: bytes, dialect: str) -> None:
    result = read(datagram, Options(dialect))
    points = [one for one in result.found if isinstance(one, Point)]
    aggregator = Aggregator()
    for one in result.found:
        if isinstance(one, Sample):
            aggregator.add(one)
    points += aggregator.tick(TICK_NS)
    body = body_of(points)
    again = read_lines(body, line_bytes_max=2**20)
    assert again == ReadResult(body, len(points), len(points))


@settings(deadline=None)
@given(make.datagrams, make.dialects)
def test_received_is_accepted_and_dropped(datagram: bytes, dialect: str) -> None:
    result = read(datagram, Options(dialect))
    assert result.received == result.accepted + sum(result.dropped.values())
    assert result.accepted >= len(result.found)


@settings(deadline=None)
@given(st.lists(make.lines, max_size=5))
def test_a_line_does_not_touch_its_neighbours(lines: list[bytes]) -> None:
    whole = read(b"\n".join(lines))
    alone = [read(line) for line in lines]
    assert whole.found == [one for result in alone for one in result.found]
    assert whole.received == sum(result.received for result in alone)


tags_with_order = st.lists(
    st.tuples(make.keys, make.values).filter(lambda tag: b"," not in tag[0] + tag[1] and b":" not in tag[0]),
    unique_by=lambda tag: tag_key(tag[0].removeprefix(b"#")),
    max_size=6,
).flatmap(lambda tags: st.tuples(st.just(tags), st.permutations(tags)))


@settings(deadline=None)
@given(tags_with_order)
def test_the_order_of_tags_does_not_matter(tags: tuple[list[tuple[bytes, bytes]], ...]) -> None:
    one, other = (b"a:1|c|#" + b",".join(key + b":" + value for key, value in some) for some in tags)
    # Behind a comma nothing is stripped with the end of the line.
    assert read(one + b",") == read(other + b",")


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from([1.0, 2.0, 10.0, 1 / 0.3])), min_size=1))
def test_percentiles_rise_and_end_at_the_greatest(values: list[tuple[float, float]]) -> None:
    timing = Timing(values)
    found = [timing.percentile(p) for p in (0.1, 10, 25, 50, 75, 90, 99, 99.9, 100)]
    assert found == sorted(found)
    assert found[-1] == max(value for value, _ in values)
    low, high = timing.middle()
    assert min(values)[0] <= low <= high <= found[-1]


@settings(deadline=None)
@given(make.streams, hows)
def test_a_series_beyond_the_limit_costs_itself_only(stream: list[bytes], how: Settings) -> None:
    few, all_of_them = (
        reference(stream, replace(how, max_series=2)),
        reference(stream, replace(how, max_series=10**6)),
    )
    assert len(few.ticked) <= 2
    assert few.received == all_of_them.received
    assert few.passed == all_of_them.passed
    assert few.accepted + few.dropped.get("series_full", 0) == all_of_them.accepted
    assert all(point in all_of_them.ticked for point in few.ticked)
