"""Remote write as it is read: what Google's protobuf runtime writes becomes what the reference says."""

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent._core import read_format
from tests.conftest import examples
from tests.reference import remote_read, wire
from tests.reference.remote_read import TimeSeries, is_number, number
from tests.reference.remote_write import WriteRequest

NAMES = st.sampled_from(["job", "a b", "x=y", "time", "é", "", "c\\", "k,", "instance", "_field", "n" * 200])
NAMED = st.sampled_from(["up", "http_requests:rate5m", "#x", "m n", "é", "", "a\\ b", "x" * 300])
TEXTS = st.text(max_size=8) | st.sampled_from(["a b", "", "c\\", "\n", "x" * 130, '"', "\x7f", "a,b=c"])
LABELS = st.lists(st.tuples(NAMES, TEXTS) | st.tuples(st.just("__name__"), NAMED), max_size=5).flatmap(
    st.permutations
)
NUMBERS = (
    st.floats()
    | st.integers(-(10**6), 10**6).map(float)
    | st.integers(-(10**6), 10**6).map(lambda x: x / 1000)
)
TIMES = st.integers(1_600_000_000_000, 1_600_000_000_009) | st.integers(-(2**63), 2**63 - 1) | st.just(0)
SERIES = st.tuples(LABELS, st.lists(st.tuples(NUMBERS, TIMES), max_size=3))


def message(request: Sequence[tuple[Sequence[tuple[str, str]], Sequence[tuple[float, int]]]]) -> bytes:
    return WriteRequest(
        timeseries=[
            {
                "labels": [{"name": name, "value": value} for name, value in labels],
                "samples": [{"value": value, "timestamp": time} for value, time in samples],
            }
            for labels, samples in request
        ]
    ).SerializeToString()


@settings(max_examples=examples(1500), deadline=None)
@given(st.lists(SERIES, max_size=4), st.sampled_from([(), ((b"dc", b"eu 1"), (b"job", b"agent"))]))
@example([([("__name__", "m"), *((f"k{i}", "v") for i in range(100))], [(1.0, 1)])], ())
@example([([("__name__", "m"), *((f"k{i % 30}", f"{i}") for i in range(300))], [(1.0, 1), (2.0, 1)])], ())
@example([([("__name__", "m" * 60_000), ("k", "v" * 6000)], [(1.0, 1)])], ())
@example([([("__name__", "m"), ("k", "v" * 70_000)], [(1.0, 1)])], ())
def test_what_a_library_writes_is_read_as_the_reference_says(
    request_: Sequence[tuple[Sequence[tuple[str, str]], Sequence[tuple[float, int]]]],
    tags: Sequence[tuple[bytes, bytes]],
) -> None:
    wanted = remote_read.read(
        [
            TimeSeries(tuple((name.encode(), value.encode()) for name, value in labels), tuple(samples))
            for labels, samples in request_
        ],
        tags=tags,
    )
    got = read_format(message(request_), "protobuf", tags=tags)
    assert got["body"] == wanted.body
    assert got["dropped"] == wanted.dropped
    assert (got["received"], got["accepted"]) == (wanted.received, wanted.accepted)


@settings(max_examples=examples(3000), deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
@example(-0.0)
@example(9007199254740993.0)
def test_a_number_is_written_as_the_shortest_text_that_reads_back(value: float) -> None:
    got = read_format(wire.series({b"__name__": b"m"}, wire.sample(value, 1)), "protobuf")["body"]
    text = got.split()[1].removeprefix(b"value=")
    assert text == number(value) and is_number(text)
    assert float(text).hex() == value.hex()


@settings(max_examples=examples(1500), deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_counted(data: bytes) -> None:
    got = read_format(data, "protobuf")
    assert got["received"] == got["accepted"] + sum(got["dropped"].values())
    assert got["body"].count(b"\n") == got["accepted"]
