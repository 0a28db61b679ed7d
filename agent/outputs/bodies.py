"""What can be asked of a body in either encoding: how many metrics, where to cut it, how the other has it.

========== ==================================== =====================
encoding   a body is                            a metric is
========== ==================================== =====================
``lp``     lines of line protocol               a line
``pb``     TimeSeries records of remote write   a sample, one to a record
========== ==================================== =====================

Bodies of both kinds can be put one behind the other. Each sample has a line of its own, ``name,label=value
value=1.5 time``, and becomes the same sample again; so what was refused is shown, and kept, as lines.
"""

from dataclasses import replace

from agent._core import (
    count_lines,
    count_samples,
    lines_of_samples,
    samples_of_lines,
    split_lines,
    split_samples,
)
from agent.outputs.base import Payload, plain

SAMPLES = "pb"


def count(body: bytes | memoryview, encoding: str) -> int:
    """Metrics in *body*. Raises ValueError if it can be told that it is damaged."""
    return count_samples(body) if encoding == SAMPLES else count_lines(body)


def offset(body: bytes | memoryview, encoding: str, metrics: int) -> int:
    """Where the first *metrics* of *body* end. Raises ValueError if it can be told that it is damaged."""
    return split_samples(body, metrics) if encoding == SAMPLES else split_lines(body, metrics)


def as_lines(payload: Payload) -> Payload:
    """*payload* as uncompressed line protocol, with as many metrics. Raises ValueError if it is damaged."""
    body = plain(payload)
    if payload.encoding == SAMPLES:
        body = lines_of_samples(body)
    return replace(payload, data=body, raw_bytes=len(body), encoding="lp", compression="")


def as_samples(payload: Payload) -> Payload:
    """*payload* as uncompressed samples, its metrics as before. Raises ValueError if it is damaged."""
    body = plain(payload)
    if payload.encoding != SAMPLES:
        body = samples_of_lines(body)
    return replace(payload, data=body, raw_bytes=len(body), encoding=SAMPLES, compression="")
