"""Messages of a broker: what is said of a body, and understood again."""

import pytest

from agent.batch_id import Place, batch_id, place_of
from agent.outputs.base import Payload
from agent.relay.message import headers, identity, parse

BATCH = batch_id(Place(1_800_000_000_000_000_000, 7, 3))


def payload(**changes):
    known = {"data": b"m v=1 1\n", "metrics": 1, "raw_bytes": 8, "oldest_ns": 5}
    made = Payload(**{**known, **changes})
    made.trace = f"00-{BATCH}-00f067aa0ba902b7-01"
    return made


@pytest.mark.parametrize("encoding", ["lp", "pb"])
@pytest.mark.parametrize("compression", ["", "gz", "sz"])
def test_what_is_said_is_understood(encoding, compression):
    sent = payload(encoding=encoding, compression=compression)
    told = headers(sent, "edge-1")
    assert told["traceparent"] == sent.trace
    for spelled in (told, {name.upper(): value for name, value in told.items()}):
        message = parse(spelled, bytes(sent.data))
        assert (message.payload, message.payload.oldest_ns) == (sent, 5)
        assert (message.agent, message.batch, message.oldest_ns) == ("edge-1", BATCH, 5)
        assert message.place == (1_800_000_000_000_000_000, 7, 3)
        assert message.identity == identity(BATCH, sent.data)


def test_parts_of_a_batch_are_told_apart():
    assert identity(BATCH, b"a") != identity(BATCH, b"b")


def test_a_body_that_is_of_no_batch_has_an_id_of_chance():
    told = headers(Payload(b"m v=1 1\n", 1, 8), "edge-1")
    assert "traceparent" not in told and place_of(told["Penstock-Batch"]) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Version", None, "no agent has sent it"),
        ("Version", "2", "and not 1"),
        ("Encoding", "xml", "and not lp or pb"),
        ("Encoding", None, "no header Penstock-Encoding"),
        ("Compression", "br", "and not none, gz or sz"),
        ("Agent", "", "printable"),
        ("Agent", "a\nb", "printable"),
        ("Batch", "12", "no id of a batch"),
        ("Batch", "0x" + "1" * 30, "no id of a batch"),
        ("Metrics", "0", "no metric"),
        ("Metrics", "-1", "not a number"),
        ("Metrics", "1" * 20, "not a number"),
        ("Metrics", "9", "no more than bytes, 8"),
        ("Bytes", str(1 << 40), "at most"),
        ("Oldest", "now", "not a number"),
        ("Oldest", "x" * 1000, "…"),
    ],
)
def test_what_is_not_ours_is_refused_with_a_reason(name, value, said):
    told = headers(payload(), "edge-1")
    if value is None:
        del told[f"Penstock-{name}"]
    else:
        told[f"Penstock-{name}"] = value
    with pytest.raises(ValueError, match=said) as caught:
        parse(told, b"m v=1 1\n")
    assert len(str(caught.value)) < 300


def test_an_empty_body_is_refused():
    with pytest.raises(ValueError, match="no metric"):
        parse(headers(payload(), "edge-1"), b"")
