"""Bodies of lines and of samples: what is asked of them on the way to a server, to the disk and back."""

import gzip
from pathlib import Path

import cramjam
import pytest

from agent import _core
from agent.delivery.work import Live, Stored, Work
from agent.keeping import Found, body_of, pieces_of, wrong_with
from agent.outputs.base import PLAIN_BYTES_MAX, Kind, Payload, Verdict, plain, snappy, snappy_bytes
from agent.outputs.bodies import as_lines, as_samples, count, offset
from agent.outputs.refusals import lines_of
from agent.store.spool_file import Entry, file_name, metrics_of, parse, read_payload

ARRIVED_NS = 1_767_225_601_500_000_000
LINES = b'm,t=a\\ b x=1,y=2.5 1700000000000000000\nn value=3,s="x" 1700000000001500000\n'
SAMPLES = _core.samples_of_lines(LINES)
AS_LINES = [
    b"m_x,t=a\\ b value=1 1700000000000000000",
    b"m_y,t=a\\ b value=2.5 1700000000000000000",
    b"n value=3 1700000000001000000",
]
DAMAGED = b"\n\x05abc"


def of_samples(compression: str = "sz") -> Payload:
    data = {"": SAMPLES, "sz": snappy(SAMPLES), "gz": gzip.compress(SAMPLES)}[compression]
    return Payload(data, 3, len(SAMPLES), "pb", compression)


def test_both_kinds_are_counted_and_cut() -> None:
    assert (count(LINES, "lp"), count(SAMPLES, "pb")) == (2, 3)
    for metrics in range(4):
        at = offset(SAMPLES, "pb", metrics)
        assert (count(SAMPLES[:at], "pb"), count(SAMPLES[at:], "pb")) == (metrics, 3 - metrics)
    assert offset(LINES, "lp", 1) == LINES.index(b"\n") + 1
    assert (count(b"", "pb"), offset(b"", "pb", 5)) == (0, 0)
    for damaged in (DAMAGED, SAMPLES[:-1], SAMPLES + b"\x00"):
        with pytest.raises(ValueError, match="damaged"):
            count(damaged, "pb")


@pytest.mark.parametrize("compression", ["", "sz", "gz"])
def test_samples_are_lines_and_these_are_the_samples_again(compression: str) -> None:
    lines = as_lines(of_samples(compression))
    assert (lines.encoding, lines.compression, lines.metrics) == ("lp", "", 3)
    assert bytes(lines.data).splitlines() == lines_of(of_samples(compression)) == AS_LINES
    assert lines.raw_bytes == len(lines.data)
    again = as_samples(lines)
    assert (again.encoding, bytes(again.data), again.raw_bytes) == ("pb", SAMPLES, len(SAMPLES))
    assert bytes(as_samples(of_samples(compression)).data) == SAMPLES


def test_snappy_that_is_damaged_or_claims_too_much_is_not_unpacked() -> None:
    data = snappy(SAMPLES)
    assert snappy_bytes(data) == len(SAMPLES) and bytes(cramjam.snappy.decompress_raw(data)) == SAMPLES
    for damaged in (b"", b"\x80", b"\xff\xff\xff\xff\x0fx", data[:-1], data + b"x", b"\xff" * 10):
        with pytest.raises(ValueError, match="damaged"):
            plain(Payload(damaged, 3, 1, "pb", "sz"))
    assert snappy_bytes(b"\x80\x80\x80\x80\x04") == PLAIN_BYTES_MAX
    with pytest.raises(ValueError, match="no such compression"):
        plain(Payload(data, 3, 1, "pb", "xz"))


def test_samples_are_halved_down_to_one_which_is_rejected_as_a_line() -> None:
    work = Work(3, 0, "pb")
    split = Verdict(Kind.SPLIT, status=400, text="out of order sample", suspects=(1,))
    pieces = work.judge(of_samples(), split)
    assert [(count(body, "pb"), metrics) for body, metrics in reversed(pieces)] == [(1, 1), (2, 2)]
    assert b"".join(bytes(body) for body, _ in reversed(pieces)) == SAMPLES
    body, metrics = pieces[-1]
    assert work.judge(Payload(body, metrics, len(body), "pb"), split) == []
    assert work.tally.lines == [(AS_LINES[0], "out of order sample")]
    assert (work.tally.rejected, work.tally.delivered) == (1, 0)


def test_work_knows_what_it_is_written_in() -> None:
    ring = _core.Ring(None, 1 << 20, _core.Waker(), encoding="pb")
    assert ring.put(SAMPLES, 3)
    batch = ring.take(1 << 20, 100, True)
    assert batch is not None and batch.encoding == "pb"
    assert Live(batch, None).encoding == "pb"
    batch.release()
    signed = _core.Ring(None, 1 << 20, _core.Waker(), encoding="lp_signed")
    assert signed.put(LINES, 2)
    batch = signed.take(1 << 20, 100, True)
    assert batch is not None and Live(batch, None).encoding == "lp"
    batch.release()
    assert Stored(Entry("x", 1, "pb", "sz", 0, 1)).encoding == "pb"


def test_a_file_of_samples_says_so_in_its_name(tmp_path: Path) -> None:
    name = file_name(of_samples(), ARRIVED_NS, 7)
    assert name.startswith("20260101T000001.500000000Z-00000007-3-ms-") and name.endswith(".pb.sz")
    assert metrics_of(name) == 3 and metrics_of(name.replace("-ms-", "-ns-")) is None
    entry = parse(name)
    assert entry is not None and (entry.encoding, entry.compression) == ("pb", "sz")
    (tmp_path / name).write_bytes(of_samples().data)
    assert read_payload(str(tmp_path), entry) == of_samples()
    found = Found(name, 3, 1, ARRIVED_NS)
    assert wrong_with(tmp_path, found) == ""
    assert bytes(body_of(tmp_path / name)).splitlines() == AS_LINES
    assert list(pieces_of(tmp_path / name)) == [(of_samples(), ARRIVED_NS)]
    wrong = file_name(Payload(of_samples().data, 2, 1, "pb", "sz"), ARRIVED_NS, 7)
    (tmp_path / wrong).write_bytes(of_samples().data)
    assert wrong_with(tmp_path, Found(wrong, 2, 1, 0)) == "holds 3 samples, and its name says 2"
    none = Payload(snappy(DAMAGED), 3, len(DAMAGED), "pb", "sz")
    damaged = file_name(none, ARRIVED_NS, 7)
    (tmp_path / damaged).write_bytes(none.data)
    assert "damaged" in wrong_with(tmp_path, Found(damaged, 3, 1, 0))


def test_a_line_of_an_unknown_kind_is_told() -> None:
    with pytest.raises(ValueError, match="cannot be read: field"):
        _core.samples_of_lines(b"m f=x 1\n")
    assert _core.samples_of_lines(b"") == b""
    many = b"".join(b"m,host=h%d f=%d,g=1 %d\n" % (i % 100, i, i) for i in range(60_000))
    assert count(_core.samples_of_lines(many), "pb") == 120_000
