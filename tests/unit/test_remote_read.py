"""Remote write as it is read, by table: what is malformed, what is left out, and what it costs."""

import pytest

from agent._core import Feed, Ring, Waker, read_format
from tests.reference.wire import (
    BYTES,
    FIXED64,
    VARINT,
    data,
    double,
    fixed64,
    key,
    label,
    number,
    sample,
    series,
)

GOOD = series({b"__name__": b"up", b"job": b"a"}, sample(1, 1000))
LINE = b"up,job=a value=1 1000000000\n"


def test_a_sample_becomes_a_line() -> None:
    assert read_format(GOOD, "protobuf") == {
        "body": LINE,
        "received": 1,
        "accepted": 1,
        "rewritten": 0,
        "clamped": 0,
        "dropped": {},
    }


@pytest.mark.parametrize(
    "rest",
    [
        b"\x0a",
        b"\x0a\x05",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of more than 64 bits
        b"\xff" * 11,
        b"\x00",  # field 0
        b"\x0b",  # a group
        b"\x0c",
        b"\x0e",  # kinds 6 and 7 do not exist
        b"\x0f",
        number(1, 1),  # a series that is a number
        data(1, number(1, 1)),  # a label that is one
        data(1, data(1, number(1, 1))),  # a name that is one
        data(1, data(1, data(1, b"a"), double(2, 1))),
        data(1, number(2, 1)),
        data(1, data(2, number(1, 1))),  # a value that is a varint
        data(1, data(2, double(2, 1))),  # a time that is a double
        data(1, data(2, key(1, FIXED64) + b"1234567")),
        data(1, data(2, key(2, VARINT) + b"\xff" * 9 + b"\x02")),  # a varint of 65 bits
        data(1, key(1, BYTES) + b"\x7f"),  # a length beyond the message
        data(1, key(3, BYTES) + b"\x7f"),
        data(1, number(4, 1)),
    ],
)
def test_what_is_malformed_costs_itself_and_what_follows(rest: bytes) -> None:
    for before, lines in ((b"", 0), (GOOD, 1), (GOOD * 2, 2)):
        result = read_format(before + rest + GOOD, "protobuf")
        assert result["body"] == LINE * lines
        assert result["dropped"] == {"protobuf": 1}
        assert (result["received"], result["accepted"]) == (lines + 1, lines)


def test_a_message_cut_at_every_byte_keeps_what_is_whole() -> None:
    whole = GOOD * 3 + series({b"__name__": b"n"}, sample(2, 5), sample(3, 6))
    ends = [len(GOOD) * count for count in (1, 2, 3)]
    for cut in range(len(whole)):
        result = read_format(whole[:cut], "protobuf")
        lines = sum(end <= cut for end in ends)
        assert result["body"] == LINE * lines
        assert result["dropped"] == ({} if cut in (0, *ends) else {"protobuf": 1})


def test_unknown_fields_and_metadata_are_passed_over() -> None:
    unknown = number(17, 5) + double(18, 1) + data(19, b"x") + key(20, 5) + b"abcd"
    message = (
        unknown
        + data(3, b"metadata")
        + data(
            1,
            unknown,
            data(1, data(1, b"__name__"), data(2, b"up"), unknown),
            data(2, unknown, double(1, 1), number(2, 1000)),
            label(b"job", b"a"),  # behind its sample, which no library does
        )
        + unknown
    )
    result = read_format(message, "protobuf")
    assert (result["body"], result["dropped"]) == (LINE, {})


def test_exemplars_and_histograms_are_counted() -> None:
    message = series(
        {b"__name__": b"up", b"job": b"a"}, sample(1, 1000), data(3, b""), data(4, b"x"), data(4)
    )
    result = read_format(message, "protobuf")
    assert (result["body"], result["dropped"], result["received"]) == (LINE, {"unsupported": 3}, 4)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (series({b"job": b"a"}, sample(1, 1)), "measurement"),
        (series({b"__name__": b""}, sample(1, 1)), "measurement"),
        (series({b"__name__": b"m"}, sample(float("nan"), 1)), "number"),
        (
            series({b"__name__": b"m"}, data(2, fixed64(1, 0x7FF0000000000002), number(2, 1))),
            "number",
        ),  # stale
        (series({b"__name__": b"m"}, sample(float("-inf"), 1)), "number"),
        (series({b"__name__": b"m"}, sample(1, 9223372036855)), "timestamp_range"),
        (series({b"__name__": b"m"}, sample(1, -(2**63))), "timestamp_range"),
        (series({b"__name__": b"\xff"}, sample(1, 1)), "utf8"),
        (series({b"__name__": b"m", b"a": b"\xc3"}, sample(1, 1)), "utf8"),
        (series({b"__name__": b"m", b"a": b"x" * 65_536}, sample(1, 1)), "key_too_long"),
        (series({b"__name__": b"m", **{b"k%d" % i: b"v" for i in range(200)}}, sample(1, 1)), "tag"),
    ],
)
def test_a_sample_without_a_form_costs_itself(message: bytes, reason: str) -> None:
    result = read_format(GOOD + message + GOOD, "protobuf")
    assert (result["body"], result["dropped"], result["received"]) == (LINE * 2, {reason: 1}, 3)


def test_values_that_are_left_out_are_zero() -> None:
    assert read_format(data(1, label(b"__name__", b"m"), data(2)), "protobuf")["body"] == b"m value=0 0\n"


def test_a_feed_reads_it_into_its_rings() -> None:
    feed, ring = Feed(), Ring(None, 1 << 20, Waker())
    feed.set_layout([(b"dc", b"eu")], [ring])
    result = feed.read(3, GOOD * 1000 + b"\x0a\x01", format="protobuf", errors_max=1)
    assert (result["accepted"], result["dropped"]) == (1000, {"protobuf": 1})
    assert result["errors"] == [(1001, "protobuf", b"\x0a\x01")]
    batch = ring.take(1 << 20, 10**6, True)
    assert batch is not None
    assert bytes(memoryview(batch)) == b"up,job=a,dc=eu value=1 1000000000\n" * 1000
    batch.release()
