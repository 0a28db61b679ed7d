"""The core's functions under pytest-benchmark, each group with a baseline that does the least possible.

Those that are called once a batch; the reader, called once a datagram and from C, is a scenario of its own.

Skipped among the other tests; ``python -m tests.bench --only functions`` runs them.
"""

from typing import Any

import pytest
from isal import isal_zlib

from agent._core import Batch, Ring, Waker, count_lines, merge_lines, split_lines
from agent.delivery.delivery import Delivery
from agent.delivery.feed import Feed
from agent.outputs.null import NullSink
from tests.bench.native import Lines

# What one receive brings with UDP_GRO, and a request body.
BURST, BODY = Lines().text(500), Lines().text(5000)
# Each point of it comes in two lines, which have the same fields.
PAIRS = b"".join(sorted(2 * BODY.splitlines(keepends=True)))[: len(BODY)]


@pytest.mark.benchmark(group="500 lines through a ring")
def test_put_take_and_release(benchmark: Any) -> None:
    ring = Ring(None, 1 << 20, Waker())

    def through() -> int:
        assert ring.put(BURST, 500)
        batch = ring.take(1 << 20, 5000, True)
        assert batch is not None
        with memoryview(batch) as view:
            size = len(view)
        batch.release()
        return size

    assert benchmark(through) == len(BURST)
    assert (ring.stats()["waiting"], ring.stats()["missed"]) == (0, 0)


@pytest.mark.benchmark(group="500 lines through a ring")
def test_baseline_copy_what_goes_through_a_ring(benchmark: Any) -> None:
    assert benchmark(bytearray, BURST) == BURST


@pytest.mark.benchmark(group="deliver a batch to nowhere")
def test_deliver_a_batch(benchmark: Any) -> None:
    ring, delivery = Ring(None, 1 << 20, Waker()), Delivery(NullSink("nowhere"))
    feed = Feed(ring)

    def deliver() -> bool:
        assert ring.put(BURST, 500)
        work = feed.take(1 << 20, 5000, True, None)
        assert work is not None
        return delivery.deliver(work)

    assert benchmark(deliver)
    counters = delivery.counters
    assert counters.delivered == 500 * counters.batches and counters.stages["request"] > 0


@pytest.mark.benchmark(group="deliver a batch to nowhere")
def test_baseline_take_it_and_give_it_back(benchmark: Any) -> None:
    ring = Ring(None, 1 << 20, Waker())

    def through() -> int:
        assert ring.put(BURST, 500)
        batch = ring.take(1 << 20, 5000, True)
        assert batch is not None
        batch.release()
        return batch.metrics

    assert benchmark(through) == 500


@pytest.mark.benchmark(group="view a batch")
def test_view_a_batch(benchmark: Any) -> None:
    ring = Ring(None, 1 << 20, Waker())
    assert ring.put(BURST, 500)
    batch = ring.take(1 << 20, 5000, True)
    assert isinstance(batch, Batch)
    assert bytes(benchmark(memoryview, batch)) == BURST


@pytest.mark.benchmark(group="view a batch")
def test_baseline_view_bytes(benchmark: Any) -> None:
    assert benchmark(memoryview, BURST) == BURST


@pytest.mark.benchmark(group="count the lines of a body")
def test_count_lines(benchmark: Any) -> None:
    assert benchmark(count_lines, BODY) == 5000


@pytest.mark.benchmark(group="count the lines of a body")
def test_baseline_count_line_feeds(benchmark: Any) -> None:
    assert benchmark(BODY.count, b"\n") == 5000


@pytest.mark.benchmark(group="find the middle of a body")
def test_split_lines(benchmark: Any) -> None:
    assert benchmark(split_lines, BODY, 2500) == len(BODY) // 2


@pytest.mark.benchmark(group="find the middle of a body")
def test_baseline_find_a_line_feed(benchmark: Any) -> None:
    assert benchmark(BODY.find, b"\n", len(BODY) // 2 - 1) == len(BODY) // 2 - 1


@pytest.mark.benchmark(group="merge 5,000 lines, none of one series and time")
def test_merge_lines_that_need_none(benchmark: Any) -> None:
    assert benchmark(merge_lines, BODY, False) is None


@pytest.mark.benchmark(group="merge 5,000 lines, none of one series and time")
def test_baseline_compress_them(benchmark: Any) -> None:
    assert isal_zlib.decompress(benchmark(isal_zlib.compress, BODY, 1)) == BODY


@pytest.mark.benchmark(group="merge 5,000 lines, always two of one series and time")
def test_merge_pairs(benchmark: Any) -> None:
    body, lines = benchmark(merge_lines, PAIRS, False)
    assert lines == 2500 and body == b"".join(dict.fromkeys(PAIRS.splitlines(keepends=True)))


@pytest.mark.benchmark(group="merge 5,000 lines, always two of one series and time")
def test_baseline_compress_pairs(benchmark: Any) -> None:
    assert isal_zlib.decompress(benchmark(isal_zlib.compress, PAIRS, 1)) == PAIRS
