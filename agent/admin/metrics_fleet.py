"""The part of ``/metrics`` that tells what a relay has seen of each agent: some thousand lines at most."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.relay.fleet import Fleet

# (name, help, value) of each agent.
_COUNTERS = (
    ("messages", "Messages that came from the agent, but for duplicates.", "messages"),
    ("metrics", "Metrics in them.", "metrics"),
    ("bytes", "Bytes of them, as they came.", "bytes"),
    ("duplicate_messages", "Messages that had been decided before.", "duplicates"),
    ("redelivered_messages", "Messages that the broker has given before.", "redelivered"),
    ("repeated_slots", "Slots that came again in a batch that was cut otherwise.", "repeated"),
)
_GAUGES = (
    ("missing_slots", "Slots that this relay has not seen, though later ones.", "missing"),
    ("late_slots", "The same for less than ten seconds.", "late"),
    ("rings", "Rings of the agent that are known.", "ring_count"),
    ("silent", "1 while nothing comes from the agent, for longer than usual.", "silent"),
)


def fleet(seen: Fleet) -> Iterator[Metric]:
    """The agents altogether, and each by itself."""
    yield GaugeMetricFamily("penstock_fleet_agents", "Agents that are known.", len(seen.sources))
    yield GaugeMetricFamily("penstock_fleet_silent_agents", "Those of them that are silent.", seen.silent)
    for what, number in (
        ("agents", seen.forgotten_agents),
        ("rings", seen.forgotten_rings),
        ("slots", seen.forgotten_slots),
    ):
        text = f"Known {what} that were forgotten: too many, or too old."
        yield CounterMetricFamily(f"penstock_fleet_forgotten_{what}", text, number)
    for family, rows in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, text, field in rows:
            metric = family(f"penstock_fleet_{name}", text, labels=("agent",))
            for source in seen.sources:
                metric.add_metric((source.agent,), float(getattr(source, field)))
            yield metric
    last = GaugeMetricFamily(
        "penstock_fleet_last_seen_timestamp_seconds", "When the last message came.", labels=("agent",)
    )
    delay = GaugeMetricFamily(
        "penstock_fleet_delay_seconds",
        "From the arrival of the oldest metric of the last message at the agent to here.",
        labels=("agent",),
    )
    for source in seen.sources:
        last.add_metric((source.agent,), source.last_ns / 1e9)
        if source.last_delay is not None:
            delay.add_metric((source.agent,), source.last_delay)
    yield last
    yield delay
