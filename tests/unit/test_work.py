"""What a verdict leaves undecided of a body, and what it decides."""

import gzip

import pytest

from agent.delivery.work import Live, Loose, Work
from agent.outputs.base import Kind, Payload, Refusal, Verdict

LINES = [b"m v=%di %d" % (n, n + 1) for n in range(10)]


def body(lines=LINES):
    return b"".join(line + b"\n" for line in lines)


def payload(lines=LINES, compressed=False):
    data = body(lines)
    if compressed:
        return Payload(gzip.compress(data), len(lines), len(data), compression="gz")
    return Payload(memoryview(data), len(lines), len(data))


def work(metrics=10):
    return Work(metrics, 1_600_000_000_000_000_000)


@pytest.mark.parametrize("compressed", [False, True])
def test_exactly_the_lines_that_were_named_are_rejected_each_with_its_reason(compressed):
    one = work()
    refused = (Refusal(2, "too old"), Refusal(9, "wrong type"))
    left = one.judge(
        payload(compressed=compressed), Verdict(Kind.DELIVERED, refused, status=400, text="partial")
    )
    assert left == [] and (one.tally.delivered, one.tally.rejected) == (8, 2)
    assert one.tally.lines == [(LINES[2], "too old"), (LINES[9], "wrong type")]
    assert (one.tally.status, one.tally.text) == (400, "partial")


def test_a_rejected_body_is_all_its_lines():
    one = work()
    assert one.judge(payload(), Verdict(Kind.REJECT, status=400, text="never")) == []
    assert one.tally.rejected == 10 and one.tally.lines == [(line, "never") for line in LINES]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_body_that_is_to_be_split_becomes_halves_the_first_of_which_comes_first(compressed):
    pieces = work().judge(payload(compressed=compressed), Verdict(Kind.SPLIT, status=413))
    assert [(bytes(piece), metrics) for piece, metrics in reversed(pieces)] == [
        (body(LINES[:5]), 5),
        (body(LINES[5:]), 5),
    ]


def test_lines_that_are_suspected_are_sent_apart_behind_all_others():
    pieces = work().judge(payload(), Verdict(Kind.SPLIT, suspects=(1, 7), status=422))
    assert [(bytes(piece), metrics) for piece, metrics in reversed(pieces)] == [
        (body([line for at, line in enumerate(LINES) if at not in (1, 7)]), 8),
        (body([LINES[1], LINES[7]]), 2),
    ]


@pytest.mark.parametrize("suspects", [(), tuple(range(10)), (10, 11), (-1,)])
def test_a_guess_that_divides_nothing_is_ignored(suspects):
    pieces = work().judge(payload(), Verdict(Kind.SPLIT, suspects=suspects, status=422))
    assert [metrics for _, metrics in pieces] == [5, 5]


def test_one_line_that_is_to_be_split_is_rejected():
    one = work(1)
    assert one.judge(payload(LINES[:1]), Verdict(Kind.SPLIT, status=413, text="too large")) == []
    assert one.tally.lines == [(LINES[0], "too large")]


def test_pieces_outlive_the_memory_of_the_batch():
    data = bytearray(body())
    view = memoryview(data)
    pieces = work().judge(Payload(view, 10, len(data)), Verdict(Kind.SPLIT, status=413))
    view.release()
    data[:] = bytes(len(data))
    assert bytes(pieces[1][0]) == body(LINES[:5])


def test_the_rest_is_all_that_is_undecided_in_the_order_of_the_body():
    one = work()
    one.pieces = one.judge(payload(), Verdict(Kind.SPLIT, status=413))
    first, metrics = one.pieces.pop()
    one.pieces += one.judge(Payload(first, metrics, len(first)), Verdict(Kind.SPLIT, status=413))
    rest, metrics = one.rest()
    assert (bytes(rest), metrics) == (body(), 10)
    one.pieces.pop()
    rest, metrics = one.rest()
    assert (bytes(rest), metrics) == (body(LINES[2:]), 8)


def test_a_damaged_body_is_counted_though_its_lines_are_not_known():
    damaged = Payload(b"no gzip", 10, 100, compression="gz")
    for verdict in (Verdict(Kind.SPLIT, status=413), Verdict(Kind.REJECT, status=400)):
        one = work()
        assert one.judge(damaged, verdict) == [] and one.tally.rejected == 10 and one.tally.lines == []


def test_more_refusals_than_there_are_lines_reject_no_more_than_there_are():
    one = work(2)
    refused = tuple(Refusal(at, "no") for at in range(5))
    one.judge(payload(LINES[:2]), Verdict(Kind.DELIVERED, refused, status=400))
    assert (one.tally.delivered, one.tally.rejected, len(one.tally.lines)) == (0, 2, 2)


def test_a_loose_body_is_a_batch():
    told = []
    loose = Loose(body(), 10, 5, lambda: told.append(True))
    one = Live(loose, None)
    assert (one.metrics, one.oldest_ns, memoryview(loose).tobytes()) == (10, 5, body())
    one.keep()
    assert told == [] and not one.may_leave()
    one.batch.release()
    assert told == [True]
