"""However a stream is cut into pieces, it gives the points and the counts of the whole."""

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent._core import Aggregator, Lane, Ring, Waker, read_lines, read_statsd, read_stream
from tests.conftest import examples
from tests.reference import lines as make
from tests.reference import statsd_lines as make_statsd

NOW_NS = 1_700_000_000_000_000_000
COUNTS = ("body", "received", "accepted", "dropped")

# What decides about the end of a line, in every order.
nasty = st.lists(
    st.sampled_from(
        ['"', "\n", "\r\n", "\\", ",", "=", " ", "#", "m f=", 'm f="', '",g=1', "a", "1", "\t", "\r", "x=1 2"]
    ),
    max_size=40,
).map(lambda parts: "".join(parts).encode())
texts = st.lists(st.one_of(make.datagrams, nasty), max_size=4).map(b"\n".join)


@st.composite
def pieces(draw: st.DrawFn, text: bytes) -> list[bytes]:
    """*text*, cut somewhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def bytewise(text: bytes) -> list[bytes]:
    return [text[at : at + 1] for at in range(len(text))]


def counted(result: Any) -> dict[str, Any]:
    return {name: result[name] for name in COUNTS}


@settings(deadline=None, max_examples=examples(150))
@given(st.data(), texts, st.sampled_from([65_536, 65_536, 40]))
def test_line_protocol(data: st.DataObject, text: bytes, line_bytes_max: int) -> None:
    whole = counted(read_lines(text, now_ns=NOW_NS, line_bytes_max=line_bytes_max))
    for cut in (data.draw(pieces(text)), bytewise(text)):
        assert counted(read_stream(cut, now_ns=NOW_NS, line_bytes_max=line_bytes_max)) == whole


SAMPLE = b"""cpu,host=a idle=1.5,busy=2i 1700000000000000000
m f="one
two",g="\\"
" 1
m f="never closed
m f="badly"closed
# a "comment"
 m\\ x,t=\\,  f=t\r
m f="a
b",g=bad 2
last v=1"""


def test_line_protocol_at_every_offset() -> None:
    whole = counted(read_lines(SAMPLE, now_ns=NOW_NS))
    for at in range(len(SAMPLE) + 1):
        assert counted(read_stream([SAMPLE[:at], SAMPLE[at:]], now_ns=NOW_NS)) == whole, at


class Statsd:
    """What a StatsD listener makes of something, points of a tick included."""

    def __init__(self) -> None:
        self.aggregator = Aggregator(1)

    def outcome(self, result: Any) -> tuple[Any, ...]:
        ring = Ring(None, 1 << 20, Waker())
        self.aggregator.tick([Lane(0)], [ring], NOW_NS)
        points = b""
        while (batch := ring.take(1 << 20, 1 << 20, True)) is not None:
            points += bytes(memoryview(batch))
            batch.release()
        return counted(result), result["aggregated"], sorted(points.splitlines())


def statsd_whole(datagrams: Sequence[bytes], line_bytes_max: int = 65_536) -> tuple[Any, ...]:
    """Read one datagram after the other, added up."""
    one = Statsd()
    total: dict[str, Any] = {"body": b"", "received": 0, "accepted": 0, "aggregated": 0, "dropped": {}}
    stamp = NOW_NS
    for datagram in datagrams:
        result = read_statsd(datagram, one.aggregator, now_ns=stamp, line_bytes_max=line_bytes_max)
        # One that has a time of its own takes no stamp.
        while b" %d\n" % stamp in result["body"]:
            stamp += 1
        for name in ("body", "received", "accepted", "aggregated"):
            total[name] += result[name]  # type: ignore[literal-required]
        for reason, count in result["dropped"].items():
            total["dropped"][reason] = total["dropped"].get(reason, 0) + count
    return one.outcome(total)


def statsd_stream(cut: Sequence[bytes], **how: Any) -> tuple[Any, ...]:
    one = Statsd()
    result = read_stream(cut, format="statsd", aggregator=one.aggregator, now_ns=NOW_NS, **how)
    return one.outcome(result)


@settings(deadline=None, max_examples=examples(150))
@given(st.data(), st.lists(make_statsd.datagrams, max_size=4), st.sampled_from([65_536, 40]))
def test_statsd(data: st.DataObject, datagrams: list[bytes], line_bytes_max: int) -> None:
    text = b"\n".join(datagrams)
    whole = statsd_whole([text], line_bytes_max)
    for framed in (False, True):
        if framed and len(text) >= 4 and text[2:4] == b"\0\0":
            continue
        for cut in (data.draw(pieces(text)), bytewise(text)):
            assert statsd_stream(cut, line_bytes_max=line_bytes_max, framed=framed) == whole


@settings(deadline=None, max_examples=examples(150))
@given(st.data(), st.lists(make_statsd.datagrams, max_size=4))
@example(data=None, datagrams=[b"a:0|c|T1", b"_sc|title|0"])
@example(data=None, datagrams=[b"", b"a:1|c", b""])
def test_frames(data: st.DataObject | None, datagrams: list[bytes]) -> None:
    text = b"".join(struct.pack("<I", len(datagram)) + datagram for datagram in datagrams)
    whole = statsd_whole(datagrams)
    for cut in ([text] if data is None else data.draw(pieces(text)), bytewise(text)):
        assert statsd_stream(cut, framed=True) == whole


@pytest.mark.parametrize("form", ["line", "graphite"])
def test_a_stream_that_is_cut_off_loses_its_last_line_only(form: str) -> None:
    text = b"a v=1 1\nb v=1 2\nc v=12" if form == "line" else b"a 1 1\nb 1 2\nc 12"
    whole = read_stream([text], format=form)
    cut = read_stream([text], format=form, ended=False)
    assert (whole["accepted"], whole["dropped"]) == (3, {})
    assert (cut["accepted"], cut["dropped"]) == (2, {"unfinished": 1})
