"""The part of ``/metrics`` that tells how outputs spend their time, and what the log was told of that.

A histogram of an output has up to 92 buckets. Shown are those whose bounds are in :data:`SHOWN`: each with
what is below it in all, so that what is left out is in the next one.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from agent import log
from agent.accounts import BOUNDS, OutputAccount
from agent.delivery.trace import STAGES

_SECONDS = frozenset(
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 1000, 10000)
)
_COUNTS = frozenset(step * 10.0**power for power in range(9) for step in (1, 2, 5))

SHOWN = {
    "delay_seconds": _SECONDS,
    "request_seconds": _SECONDS,
    "batch_metrics": _COUNTS,
    "request_bytes": _COUNTS,
    "compression_ratio": frozenset(BOUNDS["compression_ratio"]),
}

_TEXTS = {
    "delay_seconds": "From the arrival of a metric to the answer that confirmed it.",
    "request_seconds": "What a request took, with its answer or without.",
    "batch_metrics": "Metrics in a batch of the rings.",
    "request_bytes": "Bytes of a request's body as sent.",
    "compression_ratio": "Bytes of a request's body before compression, by bytes as sent.",
}


def delivery(outputs: Iterable[OutputAccount]) -> Iterator[Metric]:
    """Of each output, from one reading of the ledger."""
    outputs = list(outputs)
    for name, text in _TEXTS.items():
        histogram = HistogramMetricFamily(f"penstock_output_{name}", text, labels=("output",))
        for output in outputs:
            if (reading := output.histograms.get(name)) is not None:
                buckets, total = reading
                histogram.add_metric((output.name,), list(_shown(name, buckets)), total)
        yield histogram
    stages = CounterMetricFamily(
        "penstock_output_stage_seconds", "Where batches spend their time.", labels=("output", "stage")
    )
    for output in outputs:
        for stage in STAGES:
            stages.add_metric((output.name, stage), output.stages.get(stage, 0.0))
    yield stages
    traced = CounterMetricFamily(
        "penstock_traced_batches", "Batches that the log was told of, with the time of each stage."
    )
    traced.add_metric((), sum(output.traced for output in outputs))
    yield traced
    suppressed = CounterMetricFamily(
        "penstock_log_suppressed_lines", "Lines that the log left out, since there were too many of them."
    )
    suppressed.add_metric((), log.suppressed())
    yield suppressed


def _shown(name: str, buckets: list[int]) -> Iterator[tuple[str, float]]:
    """Each bound that is shown, with how many values are not above it."""
    below = 0
    for bound, count in zip(BOUNDS[name], buckets, strict=False):
        below += count
        if bound in SHOWN[name]:
            yield str(bound), below
    yield "+Inf", below + buckets[-1]
