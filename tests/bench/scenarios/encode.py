"""Lines as samples of remote write: from the text of a datagram to records in a ring, on one core."""

import re
import time

from agent import _core
from tests.bench.harness import Figure, Run, Target, check, check_equal
from tests.bench.native import Lines

_BUFFER_BYTES = 60_000
"""About what a lane gets from one receive with UDP_GRO."""


def _long_values(data: bytes) -> bytes:
    """The same lines with as many digits as a float of a program's own has."""
    return b"".join(
        re.sub(rb"(usage_system=)[0-9.]+", rb"\g<1>0.%017d" % (at * 7919 + 12345678901234567), line)
        for at, line in enumerate(data.splitlines(keepends=True))
    )


def _check(data: bytes, tags: list[tuple[bytes, bytes]], isa: str | None) -> None:
    """Google's runtime reads what the plain-Python oracle makes of the same lines."""
    from tests.reference.remote_write import samples as read_samples
    from tests.reference.samples import samples

    result = _core.read_lines(data, tags=tags, isa=isa, encoding="pb")
    lines = _core.read_lines(data, tags=tags, isa=isa)["body"]
    expected = [sample for line in samples(lines)[0] for sample in line]
    check_equal(result["metrics"], 3 * data.count(b"\n"), "samples written")
    check(read_samples(result["body"]) == expected, "the samples are those of the lines")


def measure(run: Run) -> None:
    """Each kind of line, the first also on the scalar kernels; and a body made into a request of 2.0."""
    tags = [(b"dc", b"eu1"), (b"rack", b"r42")]
    text = Lines().text(_BUFFER_BYTES // Lines().shape)
    target = Target(5, at_least=True)
    kinds: list[tuple[str, bytes, list[tuple[bytes, bytes]], str | None, Target | None]] = [
        ("117-byte lines, three fields", text, [], None, target),
        ("the same, scalar", text, [], "scalar", None),
        ("the same, two tags added", text, tags, None, None),
        ("the same, one value of 17 digits", _long_values(text), [], None, None),
    ]
    seconds = run.size(1, 0) or 0.1
    baseline = "the same lines as lines, fields a second"
    figures: list[tuple[Figure, bytes, list[tuple[bytes, bytes]], str | None]] = []
    for name, data, added, isa, bound in kinds:
        _check(data, added, isa)
        figures.append((run.figure(name, "M samples/s", baseline=baseline, target=bound), data, added, isa))
    second = run.figure("a body as a request of 2.0", "M samples/s")
    body = _core.read_lines(text, encoding="pb")["body"]
    samples = _core.count_samples(body)
    for _ in run.rounds("encoding"):
        for figure, data, added, isa in figures:
            lines = _core.bench_reader(data, seconds / 2, tags=added, isa=isa)
            result = _core.bench_reader(data, seconds, tags=added, isa=isa, encoding="pb")
            check_equal(result["accepted"], result["lines"], "lines accepted")
            check_equal(result["metrics"], 3 * result["lines"], "samples written")
            figure.add(
                result["metrics"] / result["cpu_ns"] * 1e3, 3 * lines["metrics"] / lines["cpu_ns"] * 1e3
            )
        second.add(samples * _calls(body, seconds / 4) / 1e6)


def _calls(body: bytes, seconds: float) -> float:
    """How often a second *body* is made into a request of version 2."""
    count, started = 0, time.thread_time_ns()
    until = started + int(seconds * 1e9)
    while (now := time.thread_time_ns()) < until:
        _core.request_of_samples(body)
        count += 1
    return count / (now - started) * 1e9
