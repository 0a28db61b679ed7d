"""docs/metrics.md tells every metric there is, and no other: name, type, labels, and values of labels."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric

from agent import _core
from agent.accounts import GuardAccount
from agent.admin.metrics import _ServiceCollector
from agent.delivery.breaker import State
from agent.delivery.trace import STAGES
from agent.relay.account import RelayCounters
from agent.relay.sources import Sources
from agent.store.rejected import RejectedCounters
from agent.store.spool_file import SpoolCounters
from tests.unit.test_admin import Service

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "metrics.md").read_text()

UNITS = {
    *("bytes", "seconds", "metrics", "datagrams", "samples", "points", "lines", "fields", "heads", "series"),
    *("files", "batches", "connections", "handshakes", "requests", "attempts", "retries", "splits", "calls"),
    *("messages", "slots", "agents", "rings"),
    *("openings", "reloads", "errors", "clients", "sockets", "ratio", "rate"),
}


def families() -> Iterator[Metric]:
    """Of an agent that has everything."""
    service = Service()
    service.spool, service.refused, service.guards = SpoolCounters(), RejectedCounters(), GuardAccount()
    service.relayed = Sources()
    service.relays = {0: RelayCounters()}
    yield from _ServiceCollector(service).collect()
    yield from ProcessCollector(registry=CollectorRegistry()).collect()


def shown(family: Metric) -> str:
    """The name as the text has it."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    return family.name + suffix


def labels(family: Metric) -> tuple[str, ...]:
    if family.type == "info":
        return tuple(family.samples[0].labels)
    return tuple(getattr(family, "_labelnames", ()))


def rows() -> dict[str, tuple[str, tuple[str, ...], str, str]]:
    """Type, labels, meaning and advice of each metric in the tables."""
    found = {}
    for line in TEXT.splitlines():
        if match := re.fullmatch(r"\| `(\w+)` \| (\w+) \| (.*?) ?\| (.+?) \| (.*?) ?\|", line):
            name, kind, named, meaning, advice = match.groups()
            assert name not in found, f"{name} twice"
            found[name] = kind, tuple(re.findall(r"`(\w+)`", named)), meaning, advice
    return found


def values(label: str, name: str) -> list[str]:
    """The values of *label* of *name*, from their table."""
    _, found, rest = TEXT.partition(f"### `{label}` of `{name}`\n")
    assert found
    return re.findall(r"^\| `(\w+)` \| .{10,} \|$", rest.partition("\n#")[0], re.MULTILINE)


def test_the_tables_have_every_metric_with_its_type_and_its_labels_and_no_other() -> None:
    real = {}
    for family in families():
        kind = "gauge" if family.type == "info" else family.type
        assert shown(family) not in real, f"{shown(family)} twice"
        real[shown(family)] = kind, labels(family)
    assert len(real) > 100
    assert {name: row[:2] for name, row in rows().items()} == real


def test_each_metric_has_a_meaning_and_the_unit_that_its_name_ends_in() -> None:
    for name, (kind, _, meaning, _) in rows().items():
        assert len(meaning) >= 20, name
        assert (kind == "counter") == name.endswith("_total"), name
        unit = name.removesuffix("_total").rpartition("_")[2]
        if kind == "counter":
            assert unit in UNITS or name == "penstock_guard_rules_given_up_total", name
        if unit == "bytes":
            assert re.search("bytes|space|memory", meaning), name


@pytest.mark.parametrize(
    ("label", "name", "real"),
    [
        ("reason", "penstock_dropped_metrics_total", _core.REASONS),
        ("reason", "penstock_closed_connections_total", _core.CLOSE_NAMES),
        ("state", "penstock_output_state", ("ok", "retrying", "holding")),
        ("state", "penstock_output_breaker_state", tuple(state.value for state in State)),
        ("stage", "penstock_output_stage_seconds_total", STAGES),
    ],
)
def test_each_value_of_a_label_is_told(label: str, name: str, real: tuple[str, ...]) -> None:
    told = values(label, name)
    assert len(told) == len(set(told))
    assert set(told) == set(real)


def test_each_reason_to_give_a_metric_up_is_told() -> None:
    code = "".join(path.read_text() for path in (ROOT / "agent" / "store").glob("*.py"))
    reasons = set(re.findall(r'"(spool_\w+)"', code)) | {"drain_timeout", "ring_torn"}
    assert set(values("reason", "penstock_output_dropped_metrics_total")) == reasons
