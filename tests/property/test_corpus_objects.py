"""Telegraf's own cases of metric to line protocol: all agree, or differ for a reason that is written down."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from agent._core import Feed, Ring, Waker, read_lines
from tests.conftest import missing
from tests.reference.objects_differences import SERIALIZER
from tests.reference.points import parse

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "corpora"


def cases_of(name: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())["cases"]
    except FileNotFoundError as error:
        missing(f"no corpus at {error.filename}")
    return found


def value_of(value: Any) -> Any:
    """A field's value; the corpus calls Go's functions where JSON has no word."""
    if isinstance(value, dict):
        return {"math.NaN": math.nan, "math.Inf": math.inf}[value["call"]]
    return value


def write(case: dict[str, Any], unsigned: bool) -> tuple[bytes, dict[str, int]]:
    given = case["input"]
    seconds, nanoseconds = given["time"]["args"]
    fields = {key: value_of(value) for key, value in dict(given["fields"] or {}).items()}
    metric = (given["name"], dict(given["tags"] or {}), fields, seconds * 10**9 + nanoseconds)
    ring = Ring(None, 1 << 16, Waker(), encoding="lp" if unsigned else "lp_signed")
    feed = Feed()
    feed.set_layout((), [ring])
    result = feed.write(0, [metric], line_bytes_max=case.get("maxBytes", 65_536))
    batch = ring.take(1 << 30, 1 << 30, True)
    return bytes(memoryview(batch)) if batch is not None else b"", result["dropped"]


def test_metrics_come_out_as_from_telegraf_or_are_explained() -> None:
    cases = cases_of("influx_serializer.json")
    explained: Counter[str] = Counter()
    agreed = 0
    for case in cases:
        body, dropped = write(case, bool(case.get("uintSupport")))
        expected = case.get("output") or ""
        theirs = parse(
            read_lines(expected.encode(), encoding="lp" if case.get("uintSupport") else "lp_signed")["body"]
        )
        # There tags and fields are sorted; a point is the same in any order.
        if [sorted_fields(point) for point in parse(body)] == [sorted_fields(point) for point in theirs]:
            agreed += 1
            continue
        difference = next((one for one in SERIALIZER if one.explains(case)), None)
        assert difference is not None, (case["name"], body, dropped)
        assert dropped == ({difference.ours: 1} if difference.ours else {}), case["name"]
        explained[difference.name] += 1
    assert explained == {difference.name: difference.cases for difference in SERIALIZER}
    assert agreed == len(cases) - sum(explained.values()) >= 26


def sorted_fields(point: Any) -> tuple[Any, ...]:
    return point.name, point.tags, tuple(sorted(point.fields)), point.time_ns


def test_the_architecture_has_every_difference() -> None:
    text = (Path(__file__).resolve().parents[2] / "ARCHITECTURE.md").read_text()
    for difference in SERIALIZER:
        assert f"| {difference.cases} | {difference.reason} |" in text
