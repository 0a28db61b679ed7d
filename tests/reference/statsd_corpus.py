"""Other people's StatsD cases, and our points in the terms of each: etsy's server and statsd_exporter.

What the three mean by a value differs, so each case says what it expects as a plain dictionary, and
``etsy_state`` or ``exporter_state`` puts our points into that form. ``load`` raises FileNotFoundError where
the corpora are not there.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reference.points import Point
from tests.reference.statsd_readers import Outcome

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "corpora"

DIALECTS = {
    "TestLineToEvents": "auto",
    "TestDisableParsingLineToEvents": "none",
    "TestDisableParsingDogstatsdLineToEvents": "influxdb+librato+signalfx",
    "TestDisableParsingInfluxdbLineToEvents": "dogstatsd+librato+signalfx",
    "TestDisableParsingSignalfxLineToEvents": "dogstatsd+influxdb+librato",
    "TestDisableParsingLibratoLineToEvents": "dogstatsd+influxdb+signalfx",
}
"""statsd_exporter's tests switch one way of writing tags off, or all."""

State = dict[tuple[Any, ...], Any]
"""Kind, name and tags of a series, and what is expected of it; ``("bad",): True`` if a line was refused."""


@dataclass(frozen=True)
class Case:
    """Datagrams, the dialects that are read, and the state that the other implementation has afterwards."""

    datagrams: tuple[bytes, ...]
    dialect: str
    expected: State


@dataclass(frozen=True)
class TimerCase:
    """The values of one timer in one interval, how many they stand for, and what etsy's server sends."""

    name: str
    values: tuple[float, ...]
    count: float
    percentiles: tuple[float, ...]
    expected: dict[str, float]


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def etsy_word(text: str, *, tag: bool = False) -> str:
    """A name or a part of a tag as etsy's server has it."""
    text = re.sub(r"/", "-", re.sub(r"\s+", "_", text))
    return re.sub(r"[^a-zA-Z_\-0-9.;=]", "", text.replace(";", "_") if tag else text)


def etsy_tags(text: str) -> tuple[tuple[str, str], ...]:
    """Tags from the ``;key=value;key`` that the server puts behind a name; empty ones go."""
    pairs = (item.partition("=") for item in text.split(";") if item)
    return tuple(sorted((key, value or "true") for key, _, value in pairs))


def etsy_key(kind: str, text: str) -> tuple[Any, ...]:
    name, _, tags = text.partition(";")
    return kind, name, etsy_tags(tags)


def etsy_cases() -> list[Case]:
    cases = []
    for case in load("etsy_parse")["cases"]:
        expected: State = {}
        if "state" in case:
            state = case["state"]
            expected |= {etsy_key("counter", key): float(v) for key, v in state["counters"].items()}
            expected |= {etsy_key("gauge", key): float(v) for key, v in state["gauges"].items()}
            expected |= {etsy_key("set", key): float(len(v)) for key, v in state["sets"].items()}
            expected |= {
                etsy_key("timing", key): timer(values, state["timer_counters"][key])
                for key, values in state["timers"].items()
            }
            if state["bad_lines"]:
                expected["bad",] = True
        else:
            expected["throws",] = True
        cases.append(Case(tuple(packet.encode() for packet in case["packets"]), "dogstatsd", expected))
    return cases


def timer(values: Sequence[float], count: float) -> dict[str, float]:
    """What a timer's values come to in both; etsy's server gives no weight to them in sum and mean."""
    found = {"lower": min(values), "upper": max(values), "count": count}
    return found | ({"sum": sum(values)} if count == len(values) else {})


def fields_of(point: Point) -> dict[str, Any]:
    return {key.decode(): value for key, _, value in point.fields}


def etsy_state(outcome: Outcome, expected: State) -> State:
    """Our points as etsy's server would have them; of timers only what *expected* has of the same timer."""
    state: State = {("bad",): True} if outcome.dropped else {}
    for point in [*outcome.passed, *outcome.ticked]:
        tags = {key.decode(): value.decode() for key, value in point.tags}
        kind = tags.pop("metric_type", "point")
        words = tuple(sorted((etsy_word(k, tag=True), etsy_word(v, tag=True)) for k, v in tags.items()))
        key = (kind, point.name.decode(), words)
        fields = fields_of(point)
        wanted = expected.get(key, {})
        state[key] = fields["value"] if "value" in fields else {name: fields[name] for name in wanted}
    return state


def exporter_cases() -> list[Case]:
    cases = []
    for case in load("statsd_exporter_line")["cases"]:
        raw = case["input"]
        data = raw.encode() if isinstance(raw, str) else base64.b64decode(raw["binary"])
        grouped: dict[tuple[Any, ...], list[float]] = {}
        for event in case["events"]:
            tags = tuple(sorted(event["labels"].items()))
            grouped.setdefault((event["kind"], etsy_word(event["name"]), tags), []).append(event["value"])
        expected: State = {}
        for key, values in grouped.items():
            if key[0] == "observer":
                # Milliseconds became seconds there; ours stay what they are.
                factor = 1000 if "|ms" in data.decode() else 1
                expected[key] = {
                    "lower": min(values) * factor,
                    "upper": max(values) * factor,
                    "count": len(values),
                    "sum": sum(values) * factor,
                }
            else:
                expected[key] = sum(values) if key[0] == "counter" else values[-1]
        if data and not expected:
            expected["bad",] = True
        cases.append(Case((data,), DIALECTS[case["test"]], expected))
    return cases


def exporter_state(outcome: Outcome, expected: State) -> State:
    """Our points as statsd_exporter would have them, with Prometheus' names of labels."""
    kinds = {"timing": "observer", "histogram": "observer", "distribution": "observer"}
    state: State = {("bad",): True} if outcome.dropped else {}
    for point in [*outcome.passed, *outcome.ticked]:
        tags = {key.decode(): value.decode() for key, value in point.tags}
        kind = tags.pop("metric_type", "point")
        labels = {re.sub(r"^([0-9])", r"_\1", re.sub(r"[^a-zA-Z0-9_]", "_", k)): v for k, v in tags.items()}
        key = (kinds.get(kind, kind), point.name.decode(), tuple(sorted(labels.items())))
        fields = fields_of(point)
        wanted = expected.get(key, {})
        state[key] = fields["value"] if "value" in fields else {name: fields[name] for name in wanted}
    return state


def agree(expected: Any, found: Any) -> bool:
    """Whether two states are the same, up to the rounding of a few additions."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and expected.keys() == found.keys()
            and all(agree(value, found[key]) for key, value in expected.items())
        )
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return expected == found or abs(expected - found) <= 1e-12 * abs(expected)
    return bool(expected == found)


def timer_cases() -> list[TimerCase]:
    return [
        TimerCase(
            case["name"],
            tuple(map(float, case["values"])),
            case["timer_count"],
            tuple(float(p) for p in case["pctThreshold"]),
            case["expect"],
        )
        for case in load("etsy_aggregates")["timers"]
    ]
