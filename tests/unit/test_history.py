"""A history has ten minutes by the second and six hours by the minute, with gaps where nothing was known."""

import json
import math

import orjson

from agent import history
from agent.history import MINUTES, SECONDS, History, places

PLACE = ("outputs", "influx", "delivered")


def read(document: object) -> dict[str, object]:
    """As a page gets it."""
    found = json.loads(orjson.dumps(document))
    assert isinstance(found, dict)
    return found


def test_the_seconds_are_those_that_were_added() -> None:
    kept = History()
    assert read(kept.seconds()) == {"time": [], "listeners": {}, "outputs": {}}
    kept.add(1000.5, {PLACE: 1.0})
    kept.add(1001.5, {PLACE: 2.0, ("listeners", "udp", "lost"): 3.0})
    kept.add(1002.5, {("listeners", "udp", "lost"): math.nan})
    assert read(kept.seconds()) == {
        "time": [1000.5, 1001.5, 1002.5],
        "listeners": {"udp": {"lost": [None, 3.0, None]}},
        "outputs": {"influx": {"delivered": [1.0, 2.0, None]}},
    }
    assert read(kept.minutes())["time"] == []


def test_the_oldest_go_first() -> None:
    kept = History()
    count = 60 * MINUTES + 120
    for second in range(count):
        kept.add(float(second), {PLACE: float(second)})
    seconds, minutes = read(kept.seconds()), read(kept.minutes())
    assert seconds["time"] == [float(second) for second in range(count - SECONDS, count)]
    assert seconds["outputs"] == {"influx": {"delivered": seconds["time"]}}
    # A minute is named after its last second, and is the mean of all of its seconds.
    ends = [float(minute * 60 + 59) for minute in range(2, MINUTES + 2)]
    assert minutes["time"] == ends
    assert minutes["outputs"] == {"influx": {"delivered": [end - 29.5 for end in ends]}}


def test_a_minute_leaves_out_what_was_not_known() -> None:
    kept = History()
    for second in range(120):
        kept.add(float(second), {PLACE: 5.0 if second == 7 else math.nan})
    assert read(kept.minutes())["outputs"] == {"influx": {"delivered": [5.0, None]}}


def test_there_are_only_so_many() -> None:
    kept = History()
    many = {
        ("listeners", f"udp-{number}", what): 1.0 for number in range(300) for what in ("received", "lost")
    }
    for _ in range(3):
        kept.add(0.0, many)
    listeners = read(kept.seconds())["listeners"]
    assert isinstance(listeners, dict)
    assert sum(len(figures) for figures in listeners.values()) == history.PLACES_MAX
    assert kept.truncated == 100


def test_figures_are_short() -> None:
    assert dict(places("outputs", "influx", {"delivered": 1234567.891, "lost": 0.1234567891})) == {
        ("outputs", "influx", "delivered"): 1234570.0,
        ("outputs", "influx", "lost"): 0.123457,
    }
