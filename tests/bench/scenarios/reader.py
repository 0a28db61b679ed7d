"""The reader alone: how fast line protocol becomes checked lines in a ring, on one core."""

import time

from agent import _core
from tests.bench.harness import Figure, Run, Target, check_equal
from tests.bench.native import Lines

_BUFFER_BYTES = 60_000
"""About what a lane gets from one receive with UDP_GRO; it stays in the processor's second cache."""


def _copy_speed(data: bytes, seconds: float) -> float:
    """GB/s of copying *data* to the same place again and again."""
    target = memoryview(bytearray(len(data)))
    passes, started = 0, time.thread_time_ns()
    until = started + int(seconds * 1e9)
    while (now := time.thread_time_ns()) < until:
        for _ in range(200):
            target[:] = data
        passes += 200
    return passes * len(data) / (now - started)


def _check(data: bytes, lines: int, tags: list[tuple[bytes, bytes]], isa: str | None, stamped: bool) -> None:
    """What the reader makes of *data* is what it must: the same bytes where nothing is to be added."""
    result = _core.read_lines(data, tags=tags, isa=isa, now_ns=1_700_000_000_000_000_000)
    check_equal((result["received"], result["accepted"]), (lines, lines), "lines read")
    if not tags and not stamped:
        check_equal(result["body"] == data, True, "the reader passes clean lines through")
    else:
        added = sum(2 + len(key) + len(value) for key, value in tags) + (20 if stamped else 0)
        check_equal(len(result["body"]), len(data) + lines * added, "bytes read, with what was added")


def measure(run: Run) -> None:
    """Each kind of line on the kernels of this machine, the first also on the scalar ones."""
    tags = [(b"dc", b"eu1"), (b"rack", b"r42")]
    kinds: list[tuple[str, Lines, list[tuple[bytes, bytes]], str | None, Target | None]] = [
        ("117-byte lines, three fields", Lines(), [], None, Target(1.5, at_least=True)),
        ("the same, scalar", Lines(), [], "scalar", None),
        ("the same, two tags added", Lines(), tags, None, None),
        ("the same, stamped by us", Lines(no_timestamps=True), [], None, None),
        ("64-byte lines, two fields", Lines(shape=64), [], None, None),
    ]
    seconds = run.size(1, 0) or 0.1
    baseline = "memcpy of the same bytes"
    figures: list[tuple[Figure, bytes, list[tuple[bytes, bytes]], str | None, Figure]] = []
    for name, lines, added, isa, target in kinds:
        count = _BUFFER_BYTES // lines.shape
        data = lines.text(count)
        _check(data, count, added, isa, lines.no_timestamps)
        speed = run.figure(name, "GB/s", baseline=baseline, target=target)
        figures.append((speed, data, added, isa, run.figure("", "M lines/s")))
    for _ in run.rounds("reading"):
        copied = _copy_speed(figures[0][1], seconds / 2)
        for speed, data, added, isa, count_figure in figures:
            result = _core.bench_reader(data, seconds, tags=added, isa=isa)
            check_equal(result["accepted"], result["lines"], "lines accepted")
            check_equal(result["lines"] * len(data), result["bytes"] * data.count(b"\n"), "lines read")
            speed.add(result["bytes"] / result["cpu_ns"], copied)
            count_figure.add(result["lines"] / result["cpu_ns"] * 1e3)
