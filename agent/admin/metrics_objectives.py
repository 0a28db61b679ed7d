"""The part of ``/metrics`` that tells how outputs fare by the objective."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.config_values import format_duration
from agent.objectives import STATES, SloAccount

_LABEL = ("output",)
# (name, help, what it is of the account)
_COUNTERS = (
    ("due_metrics", "Metrics whose time is over, or that were delivered before.", "due"),
    ("late_metrics", "Of these, those that were not delivered in time.", "late"),
)
_GAUGES = (
    (
        "budget_left_ratio",
        "What is left of the error budget; below 0 the objective is missed.",
        "budget_left",
    ),
    ("share_ratio", "The share of metrics that is to be delivered in time.", "share"),
    ("within_seconds", "What in time is, from arrival to the answer.", "within"),
    ("window_seconds", "Over which time the share is to hold.", "window"),
)


def objectives(accounts: Iterable[SloAccount]) -> Iterator[Metric]:
    """Of each output."""
    accounts = list(accounts)
    for name, text, source in _COUNTERS:
        counter = CounterMetricFamily(f"penstock_slo_{name}", text, labels=_LABEL)
        for account in accounts:
            counter.add_metric((account.output,), getattr(account, source))
        yield counter
    for name, text, source in _GAUGES:
        gauge = GaugeMetricFamily(f"penstock_slo_{name}", text, labels=_LABEL)
        for account in accounts:
            gauge.add_metric((account.output,), getattr(account, source))
        yield gauge
    state = GaugeMetricFamily(
        "penstock_slo_state", "1 for the state that the objective is in.", labels=("output", "state")
    )
    burn = GaugeMetricFamily(
        "penstock_slo_burn_rate", "How fast the budget goes; 1 uses it up.", labels=("output", "window")
    )
    for account in accounts:
        for one in STATES:
            state.add_metric((account.output, one), float(account.state == one))
        for seconds, rate in account.burn.items():
            burn.add_metric((account.output, format_duration(float(seconds))), rate)
    yield state
    yield burn
