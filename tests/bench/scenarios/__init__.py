"""The scenarios, one subject each, in the order in which they run."""

from collections.abc import Callable

from tests.bench.harness import Run
from tests.bench.scenarios import databases, flush, footprint, functions, lane, packed, reader, ring, statsd

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
    "footprint": footprint.measure,
}
