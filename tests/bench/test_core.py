"""The core's functions under pytest-benchmark, each group with a baseline that does the least possible.

Those that are called once a batch; the reader, called once a datagram and from C, is a scenario of its own.

Skipped among the other tests; ``python -m tests.bench --only functions`` runs them.
"""

from typing import Any

import pytest

from agent._core import Batch, Ring, Waker, count_lines, split_lines
from tests.bench.native import Lines

# What one receive brings with UDP_GRO, and a request body.
BURST, BODY = Lines().text(500), Lines().text(5000)


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
