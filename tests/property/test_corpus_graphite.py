"""Other people's 39 Graphite cases: each comes out as theirs, or differs for a reason that is written down.

They are of VictoriaMetrics. A difference that none of the reasons explains fails, and so does a reason that
explains more or fewer cases than it says.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent._core import read_format
from tests.conftest import missing
from tests.reference import graphite
from tests.reference.points import Point, parse

PATH = Path(__file__).resolve().parents[3] / "shared" / "corpora" / "victoriametrics_graphite.json"
NOW_NS = 1_700_000_000_000_000_000

Case = dict[str, Any]
Read = Callable[[bytes], tuple[bytes, int]]


class Difference(NamedTuple):
    name: str
    explains: Callable[[Case], bool]
    why: str
    cases: int


def of_path(case: Case) -> bool:
    return "UnmarshalMetricAndTags" in case["test"]


DIFFERENCES = (
    Difference(
        "years from 2262 on",
        lambda case: "429496729600" in case["input"],
        "no InfluxDB stores a time that nanoseconds of 64 bits cannot say; Telegraf refuses it too",
        1,
    ),
    Difference(
        "blanks around the path",
        lambda case: of_path(case) and (case["input"] != case["input"].strip() or not case["input"]),
        "these paths were never part of a line, which blanks around a path do not reach",
        3,
    ),
    Difference(
        "names made clean",
        lambda case: "Sanitize" in case["test"],
        "an option there; names stay what they are here",
        2,
    ),
    Difference(
        "fractions of seconds",
        lambda case: "4294.943" in case["input"],
        "cut to seconds there, kept here and in Telegraf",
        1,
    ),
)


def compiled(data: bytes) -> tuple[bytes, int]:
    result = read_format(data, "graphite", now_ns=NOW_NS)
    return result["body"], result["received"] - result["accepted"]


def reference(data: bytes) -> tuple[bytes, int]:
    result = graphite.read(data, now_ns=NOW_NS)
    return result.body, result.received - result.accepted


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    try:
        return [
            one
            for found in json.loads(PATH.read_bytes()).values()
            if isinstance(found, list)
            for one in found
        ]
    except FileNotFoundError as error:
        missing(f"no corpus at {error.filename}")


def expected(case: Case) -> list[Point] | None:
    """The points of a case, those without a time at :data:`NOW_NS` in turn; None if all of it is an error."""
    if case.get("error"):
        return None
    found = case["expect"]
    rows = [{**found, "Value": 1, "Timestamp": 1}] if of_path(case) else found["Rows"] if found else []
    points, stamped = [], 0
    for row in rows:
        time = row.get("Timestamp", -1)
        points.append(
            Point(
                row["Metric"].encode(),
                tuple(sorted((tag["Key"].encode(), tag["Value"].encode()) for tag in row.get("Tags") or ())),
                ((b"value", "f", float(row["Value"])),),
                NOW_NS + stamped if time == -1 else time * 10**9,
            )
        )
        stamped += time == -1
    return points


@pytest.mark.parametrize("read", [compiled, reference])
def test_cases_come_out_as_there_or_are_explained(read: Read, cases: list[Case]) -> None:
    assert len(cases) == 39
    explained: Counter[str] = Counter()
    for case in cases:
        body, malformed = read(case["input"].encode() + (b" 1 1" if of_path(case) else b""))
        points = parse(body)
        wanted = expected(case)
        if (wanted is None and malformed and not points) or points == wanted:
            continue
        names = [one.name for one in DIFFERENCES if one.explains(case)]
        assert names, (case, points)
        explained[names[0]] += 1
    assert explained == {one.name: one.cases for one in DIFFERENCES}
