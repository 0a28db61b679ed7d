"""What a real database holds, read back for a comparison with what was sent to it.

Every value comes with its type, and nothing is left out. What a database does to a point (VictoriaMetrics
keeps no strings, and times in milliseconds) is done here to the point that was sent.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.integration.mixed_lines import Point, Tags, Value
from tests.integration.servers import Influxd, VictoriaMetrics

Exact = dict[str, tuple[type, Value]]
Samples = dict[frozenset[tuple[str, str]], list[tuple[int, float]]]


def assert_same(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    """Two mappings are equal; says in a few lines where they are not."""
    if found == expected:
        return
    absent = [(key, expected[key]) for key in expected if key not in found]
    strange = [(key, found[key]) for key in found if key not in expected]
    changed = [
        (key, found[key], expected[key]) for key in found if key in expected and found[key] != expected[key]
    ]
    lines = [
        f"{len(one)} {what}, such as {one[:2]}"
        for what, one in (("absent", absent), ("not sent", strange), ("not as sent", changed))
    ]
    pytest.fail("\n".join(lines)[:5_000])


# ---- InfluxDB ----


TYPES = {"float": float, "integer": int, "boolean": bool, "string": str}


def exact(fields: Mapping[str, Value]) -> Exact:
    """With types, for Python takes True, 1 and 1.0 for the same."""
    return {key: (type(value), value) for key, value in fields.items()}


def sent_types(points: Iterable[Point]) -> dict[tuple[str, str], type]:
    """The type of each field of each measurement."""
    return {(point.name, key): type(value) for point in points for key, value in point.fields.items()}


def stored_types(server: Influxd, database: str) -> dict[tuple[str, str], type]:
    """The same, as InfluxDB knows it."""
    return {
        (series["name"], key): TYPES[kind]
        for series in server.query("SHOW FIELD KEYS", database)
        for key, kind in series["values"]
    }


def sent_points(points: Iterable[Point]) -> dict[tuple[str, Tags, int], Exact]:
    """Those of *points* that have a time of their own."""
    return {
        (point.name, point.tags, point.time_ns): exact(point.fields)
        for point in points
        if point.time_ns is not None
    }


def stored_points(server: Influxd, database: str) -> dict[tuple[str, Tags, int], Exact]:
    """All that is in the database."""
    types = stored_types(server, database)
    found = {}
    # One after the other: for all at once, each would have a column for each field of the others.
    for name in sorted({name for name, _ in types}):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        for series in server.query(f'SELECT * FROM "{quoted}" GROUP BY *', database):
            # A tag of the measurement's that a series does not have is there with an empty value.
            tags = frozenset((key, value) for key, value in series.get("tags", {}).items() if value)
            first, *keys = series["columns"]
            assert first == "time"
            kinds = [types[name, key] for key in keys]
            for time_ns, *values in series["values"]:
                assert (name, tags, time_ns) not in found
                # JSON spells the float 1.0 and the integer 1 alike.
                found[name, tags, time_ns] = {
                    key: (type(value), value) if kind is not float else (float, float(value))
                    for key, kind, value in zip(keys, kinds, values, strict=True)
                    if value is not None
                }
    return found


# ---- VictoriaMetrics ----


def sent_samples(points: Iterable[Point]) -> Samples:
    """What VictoriaMetrics makes of *points*; a time that is not known is 0."""
    samples: Samples = defaultdict(list)
    for point in points:
        time_ms = 0 if point.time_ns is None else point.time_ns // 1_000_000
        for key, value in point.fields.items():
            if isinstance(value, str):
                number = float(value) if value.isascii() and value.isdigit() else 0.0
            else:
                number = float(value)
            samples[point.tags | {("__name__", f"{point.name}_{key}")}].append((time_ms, number))
    return {series: sorted(of_series) for series, of_series in samples.items()}


def stored_samples(server: VictoriaMetrics, match: str = '{__name__!=""}') -> Samples:
    """All in the database that *match*es: for each series, its labels, (time in ms, value) in order."""
    samples: Samples = defaultdict(list)
    for series in server.export(match):
        samples[frozenset(series["metric"].items())] += zip(
            series["timestamps"], map(float, series["values"]), strict=True
        )
    return {series: sorted(of_series) for series, of_series in samples.items()}
