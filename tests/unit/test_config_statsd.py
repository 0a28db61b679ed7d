"""The options of a StatsD listener: how they are written, and what every mistake in them is told as."""

from pathlib import Path

import pytest

from agent.config_schema import FORMAT_KEYS, METRIC_TYPES
from agent.config_toml import to_toml
from tests.unit.config_folder import LISTEN, OUTPUT, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("expire", "others", "gauge"),
    [('"2m"', 120.0, 120.0), ("{}", 300.0, 300.0), ('{ gauge = "9s" }', 300.0, 9.0)],
)
def test_series_expire_by_type_or_all_alike(folder: Folder, expire: str, others: float, gauge: float) -> None:
    config = folder.load(f'{LISTEN}format = "statsd"\nexpire = {expire}\n{OUTPUT}')
    wanted = dict.fromkeys(METRIC_TYPES, others) | {"gauge": gauge}
    assert config.listen[0].expire == wanted
    again = folder.load(to_toml(config))
    assert again == config == folder.load(to_toml(config, defaults=False))


PERCENTILES = "wanted an array of numbers above 0 and up to 100, such as [50, 90, 99.9]"
DURATIONS = 'wanted a duration with its unit, such as "5m", or a table of them'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('precision = "s"', 'precision: is for format = "line" or "graphite" or "json" only; remove it'),
        ('interval = "1ms"', 'interval: got "1ms"; wanted a duration from 100ms to 1d'),
        ("percentiles = 90", f"percentiles: got 90; {PERCENTILES}"),
        ("percentiles = [50, 0]", f"percentiles: got 0 in it; {PERCENTILES}"),
        ("percentiles = [nan]", f"percentiles: got nan in it; {PERCENTILES}"),
        ("percentiles = [true]", f"percentiles: got true in it; {PERCENTILES}"),
        ("percentiles = [90, 90.0]", "percentiles: has 90.0 twice; each makes a field of its own"),
        (f"percentiles = {list(range(1, 18))}", "percentiles: has 17 percentiles; at most 16 are allowed"),
        ("relative_error = 0", "relative_error: got 0; wanted a number from 0.0001 to 0.2"),
        ("relative_error = nan", "relative_error: got nan; wanted a number from 0.0001 to 0.2"),
        ("relative_error = true", "relative_error: got true; wanted a number from 0.0001 to 0.2"),
        ("expire = 5", f"expire: got 5; {DURATIONS}"),
        (
            'expire = { gague = "1m", set = 3, timing = "1ms" }',
            f'expire: unknown key "gague"; did you mean "gauge"?; set: got 3; {DURATIONS}; '
            'timing: got "1ms"; wanted a duration from 1s to 365d',
        ),
        (
            'interval = "1s"\nexpire = { gauge = "1d" }',
            "expire: 1d is longer than 65,000 intervals (65000s)",
        ),
        ("max_series = 0", "max_series: got 0; wanted a whole number from 1 to 100000000"),
        ('separator = ""', "separator: is empty; wanted 1 to 8 letters, digits, and any of _.-"),
        ('separator = "="', 'separator: got "="; wanted 1 to 8 letters, digits, and any of _.-'),
        (
            'dialect = "dogstats"',
            'dialect: got "dogstats"; wanted one of "auto", "dogstatsd", "influxdb", "librato", "signalfx", '
            '"none"; did you mean "dogstatsd"?',
        ),
    ],
)
def test_a_mistake_in_a_statsd_listener(folder: Folder, text: str, problem: str) -> None:
    table = f'[[listen]]\naddress = "udp://h:1"\nformat = "statsd"\n{text}\n'
    assert folder.problems(table + OUTPUT) == [f"listen[0].{problem}"]


def test_every_mistake_in_a_statsd_listener_is_told_at_once(folder: Folder) -> None:
    table = (
        '[[listen]]\naddress = "udp://h:1"\nformat = "statsd"\nmode = "0600"\ninterval = 3\ndialect = ""\n'
    )
    assert [problem.split(":")[0] for problem in folder.problems(table + OUTPUT)] == [
        "listen[0].interval",
        "listen[0].dialect",
        "listen[0].mode",
    ]


@pytest.mark.parametrize("key", [key for key in FORMAT_KEYS["statsd"] if key != "templates"])
def test_keys_of_statsd_are_for_statsd_only(folder: Folder, key: str) -> None:
    value = {
        "interval": '"1s"',
        "percentiles": "[]",
        "relative_error": "0.1",
        "expire": '"1m"',
        "max_series": "1",
        "separator": '"."',
        "dialect": '"none"',
    }.get(key, "true")
    assert folder.problems(f"{LISTEN}{key} = {value}\n{OUTPUT}") == [
        f'listen[0].{key}: is for format = "statsd" only; remove it'
    ]
