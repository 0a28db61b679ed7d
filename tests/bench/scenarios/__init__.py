"""The scenarios, one subject each, in the order in which they run."""

from collections.abc import Callable

from tests.bench.harness import Run
from tests.bench.scenarios import (
    databases,
    delay,
    flush,
    footprint,
    functions,
    lane,
    outputs,
    packed,
    reader,
    ring,
    spool,
    statsd,
)

SCENARIOS: dict[str, Callable[[Run], None]] = {
    "reader": reader.measure,
    "functions": functions.measure,
    "lane": lane.measure,
    "packed": packed.measure,
    "ring": ring.measure,
    "statsd": statsd.measure,
    "influxdb": databases.measure_influxdb,
    "victoriametrics": databases.measure_victoriametrics,
    "flush": flush.measure,
    "spool": spool.measure,
    "outputs": outputs.measure,
    "delay": delay.measure,
    "footprint": footprint.measure,
}
