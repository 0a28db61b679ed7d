"""Every door into a ring of samples beside one of lines: both hold the same, whatever format it came in."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import _core
from agent._core import Feed, Graphite, Ring, Waker
from tests.conftest import examples
from tests.reference import lines, remote_write

texts = st.sampled_from(["a", "b.c", "é", "x y", "a,b=c", "9", "__name__", "value", 'q"', "back\\slash", ""])
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1), st.booleans()
)
points = st.lists(
    st.tuples(
        texts,
        st.dictionaries(texts, texts, max_size=4),
        st.dictionaries(texts, st.one_of(numbers, texts), max_size=4),
        st.one_of(st.none(), st.integers(-(2**62), 2**62)),
    ),
    max_size=4,
)
requests = st.lists(
    st.tuples(
        st.dictionaries(texts, texts, max_size=4),
        st.lists(st.tuples(st.floats(), st.integers(-(2**42), 2**42)), max_size=3),
    ),
    max_size=4,
)
paths = st.lists(
    st.tuples(
        st.sampled_from([b"a.b.c", b"a..b", b"x;t=v;u=w", b"host.cpu-0.idle", b"1.2"]),
        st.one_of(numbers.map(lambda number: b"%r" % number), st.sampled_from(lines.NUMBERS)),
        st.sampled_from([b"", b" 1700000000", b" -1", b" 1.5"]),
    ).map(lambda t: b"%b %b%b\n" % t),
    max_size=4,
).map(b"".join)


def write_request(series: list[tuple[dict[str, str], list[tuple[float, int]]]]) -> bytes:
    request = remote_write.WriteRequest()
    for labels, samples in series:
        one = request.timeseries.add()
        for name, value in labels.items():
            one.labels.add(name=name, value=value)
        for number, time_ms in samples:
            one.samples.add(value=number, timestamp=time_ms)
    return bytes(request.SerializeToString())


def taken(ring: Ring) -> tuple[bytes, int]:
    body, metrics = b"", 0
    while (batch := ring.take(1 << 24, 1 << 20, True)) is not None:
        body += bytes(memoryview(batch))
        metrics += batch.metrics
        batch.release()
    return body, metrics


def check(into: Callable[[Feed], Any]) -> None:
    """What *into* puts into a feed is the same as lines and as samples, and the accounts of both hold."""
    waker = Waker()
    of_lines, of_samples = Ring(None, 1 << 20, waker), Ring(None, 1 << 20, waker, encoding="pb")
    feed = Feed()
    feed.set_layout([(b"dc", b"eu 1"), (b"Z", b"z")], [of_lines, of_samples])
    into(feed)
    (text, count), (body, samples) = taken(of_lines), taken(of_samples)
    assert body == _core.samples_of_lines(text)
    assert (_core.count_lines(text), _core.count_samples(body)) == (count, samples)
    for ring, metrics in ((of_lines, count), (of_samples, samples)):
        stats = ring.stats()
        assert stats["accepted"] == stats["written"] + stats["missed"] == metrics
    waker.close()


@settings(max_examples=examples(60), deadline=None)
@given(data=lines.datagrams)
def test_lines(data: bytes) -> None:
    check(lambda feed: feed.read(0, data))


@settings(max_examples=examples(60), deadline=None)
@given(data=paths)
def test_graphite(data: bytes) -> None:
    check(lambda feed: feed.read(0, data, format="graphite", precision="s", graphite=Graphite()))


@settings(max_examples=examples(60), deadline=None)
@given(series=requests)
def test_remote_write(series: list[tuple[dict[str, str], list[tuple[float, int]]]]) -> None:
    check(lambda feed: feed.read(0, write_request(series), format="protobuf"))


@settings(max_examples=examples(60), deadline=None)
@given(metrics=points, as_written=st.booleans())
def test_decoded_metrics(metrics: list[Any], as_written: bool) -> None:
    check(lambda feed: feed.write(0, metrics, as_written=as_written))
