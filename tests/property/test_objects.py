"""Decoded metrics become the points that the plain-Python rules say, whatever is in them."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent._core import Feed, Ring, Waker
from tests.reference.objects import points_of, shortest
from tests.reference.points import parse

TEXT = st.one_of(
    st.sampled_from(["a", "b", "host", "cpu", "time", "_field", "#", "", "\\", "a\\", "a\n", "a\\n"]),
    st.text(alphabet=st.sampled_from(list('ab,= \\"\n\t\r\x00\x7f#é€\ud800😀')), max_size=12),
    st.text(max_size=40),
)
NUMBER = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(),
)
VALUE = st.one_of(NUMBER, TEXT, st.booleans(), st.none(), st.just([1]), st.just({"a": 1}), st.just(object()))
TIME = st.one_of(st.integers(-(10**10), 10**10), st.integers(-(2**64), 2**64), st.floats(), st.just("now"))
TAGS = st.one_of(st.none(), st.dictionaries(TEXT, st.one_of(TEXT, VALUE), max_size=6), st.just([1]))
FIELDS = st.one_of(st.dictionaries(TEXT, VALUE, max_size=6), st.none())


def metric(name: Any, tags: Any, fields: Any, time: Any, key: str) -> dict[str, Any]:
    return {"name": name, "tags": tags, "fields": fields, key: time}


METRIC = st.one_of(
    st.builds(metric, TEXT, TAGS, FIELDS, TIME, st.sampled_from(["time", "timestamp"])),
    st.tuples(TEXT, TAGS, FIELDS, TIME),
    st.builds(metric, VALUE, TAGS, FIELDS, TIME, st.just("time")),
    VALUE.filter(lambda value: value != {"a": 1}),
)
MESSAGE = st.one_of(
    METRIC, st.lists(METRIC, max_size=4), st.builds(lambda m: {"metrics": m}, st.lists(METRIC))
)


class Writing:
    """A feed with one ring, read empty each time."""

    def __init__(self) -> None:
        self.ring = Ring(None, 1 << 22, Waker(), slot_bytes=1 << 30, slot_metrics=1 << 30)
        self.feed = Feed()
        self.feed.set_layout((), [self.ring])

    def written(self) -> bytes:
        out = b""
        while (batch := self.ring.take(1 << 30, 1 << 30, True)) is not None:
            out += bytes(memoryview(batch))
            batch.release()
        return out


WRITING = Writing()


@given(st.lists(MESSAGE, max_size=6), st.sampled_from(["ns", "us", "ms", "s"]), st.booleans())
@example([("m", {"a\n": "x", "a\\n": "y"}, {"f": 1}, 1)], "ns", True)
@example([("m", {}, {"a\n": 1, "a\\n": 2}, 1)], "ns", True)
@example([("m", {str(n): "x" for n in range(100)}, {"f": 1}, 1)], "ns", True)
@example([[{"name": "m", "fields": {"f": 0.1 + 0.2}, "timestamp": 1.5}]], "s", False)
def test_the_core_and_the_rules_agree(messages: list[Any], precision: str, as_written: bool) -> None:
    points, dropped = points_of(messages, precision, as_written)
    result = WRITING.feed.write(0, messages, precision=precision, as_written=as_written)
    body = WRITING.written()
    assert result["dropped"] == dropped
    assert result["accepted"] == len(points)
    assert result["received"] == len(points) + sum(dropped.values())
    assert parse(body) == points


def packed(what: Any) -> Any:
    """The same with bytes in place of str; what has no UTF-8 becomes bytes that are none."""
    if type(what) is str:
        return what.encode(errors="surrogatepass")
    if type(what) is dict:
        return {packed(key): packed(value) for key, value in what.items()}
    if type(what) in (list, tuple):
        return type(what)(map(packed, what))
    return what


@given(st.lists(MESSAGE, max_size=6))
@example([("m", {"a\n": "x", "a\\n": "y"}, {"f": 1}, 1)])
@example([("m", {"é": "éé", "\ud800": "y"}, {"f": 1}, 1)])
def test_texts_may_be_bytes(messages: list[Any]) -> None:
    written = []
    for some in (messages, packed(messages)):
        result = WRITING.feed.write(0, some)
        written.append((result, WRITING.feed.sample(), WRITING.written().splitlines()))
    (result, sample, lines), (same, shown, others) = written
    assert result == same
    assert [line.rsplit(b" ", 1)[0] for line in lines] == [line.rsplit(b" ", 1)[0] for line in others]
    # What is shown of texts without UTF-8 differs; tuples come from the agent itself, whose texts are str.
    if "\\ud800" not in repr(messages) and not any(map(holds_tuple, messages)):
        assert sample == shown


def holds_tuple(message: Any) -> bool:
    if type(message) is dict:
        return "metrics" in message and any(map(holds_tuple, message["metrics"]))
    return type(message) is tuple or (type(message) is list and any(map(holds_tuple, message)))


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1e17)
@example(99999999999999990.0)
@example(0.00001)
def test_floats_have_the_shortest_text(value: float) -> None:
    WRITING.feed.write(0, [("m", None, {"f": value}, 1)])
    assert WRITING.written() == f"m f={shortest(value)} 1\n".encode()
    assert float(shortest(value)) == value
