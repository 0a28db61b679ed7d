"""[[map]] and [[shape]]: what is read, what is refused and how, and what is shown of them."""

from pathlib import Path

import pytest

from agent.config import Change, Map, Shape, ShapeTag, diff, dump
from agent.config_toml import to_toml
from agent.errors import ConfigError
from agent.rules import compile_rules
from tests.unit.config_folder import LISTEN, OUTPUT, Folder

MINIMAL = LISTEN + OUTPUT

RULES = """
[[map]]
match = "web.*.requests.*"
measurement = "requests"
tags = { host = "$1", code = "${2}" }
[[map]]
regex = '^debug\\..*$'
action = "drop"
listeners = ["stats*", "!statsd-old"]
types = ["counter"]
[[shape]]
measurement = ["http*"]
drop_tags = ["request_id"]
rename_tags = { hostname = "host" }
[shape.tags.path]
templates = ["/user/:id"]
allow = ["/user/:id"]
"""


def problems(tmp_path: Path, rules: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Folder(tmp_path).load(MINIMAL + rules)
    return [str(problem) for problem in caught.value.problems]


def test_rules_are_read(tmp_path: Path) -> None:
    config = Folder(tmp_path).load(MINIMAL + RULES)
    assert config.map == (
        Map(match="web.*.requests.*", measurement="requests", tags={"host": "$1", "code": "${2}"}),
        Map(regex="^debug\\..*$", action="drop", listeners=("stats*", "!statsd-old"), types=("counter",)),
    )
    tag = ShapeTag(templates=("/user/:id",), allow=("/user/:id",))
    assert config.shape == (
        Shape(
            measurement=("http*",),
            drop_tags=("request_id",),
            rename_tags={"hostname": "host"},
            tags={"path": tag},
        ),
    )
    assert compile_rules(config, {}) is not None


@pytest.mark.parametrize("defaults", [True, False])
def test_what_is_shown_of_rules_is_read_back_the_same(tmp_path: Path, defaults: bool) -> None:
    config = Folder(tmp_path).load(MINIMAL + RULES)
    assert Folder(tmp_path).load(to_toml(config, defaults=defaults)) == config


def test_a_changed_rule_is_one_change(tmp_path: Path) -> None:
    old = Folder(tmp_path).load(MINIMAL + RULES)
    new = Folder(tmp_path).load(MINIMAL + RULES.replace("/user/:id", "/u/:id") + '[[shape]]\nrename = "x"\n')
    assert diff(old, new) == [
        Change("shape[0]", dump(old)["shape"][0], dump(new)["shape"][0]),
        Change("shape[1]", None, dump(new)["shape"][1]),
    ]
    assert diff(new, old)[-1] == Change("shape[1]", dump(new)["shape"][1], None)


def test_rules_are_for_listeners_by_their_names(tmp_path: Path) -> None:
    rules = compile_rules(
        Folder(tmp_path).load(MINIMAL + RULES), {"stats": 0, "statsd-old": 1, "graphite": 2, "stats-new": 3}
    )
    assert rules is not None
    found = [rules.apply(b"m", name=b"debug.x", listener=number)["dropped"] for number in range(4)]
    assert found == ["denied", None, None, "denied"]


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ('[[map]]\nmeasurement = "x"', 'map[0].match: is missing; wanted one of "match" and "regex"'),
        (
            '[[map]]\nmatch = "a"\nregex = "b"',
            'map[0].match: both are given; wanted one of "match" and "regex"',
        ),
        ('[[map]]\nmatch = "a[b"', 'map[0].match: "a[b" has a "[" that is never closed'),
        ('[[map]]\nregex = "(a"', 'map[0].regex: "(a" is no regular expression: missing )'),
        ('[[map]]\nregex = "(a)\\\\1"', "a reference back to a group is not supported"),
        (
            '[[map]]\nmatch = "a.*"\nmeasurement = "$2"',
            'map[0].measurement: "$2" has $2; the pattern has 1 captures',
        ),
        ('[[map]]\nmatch = "a"\nfield = "$1"', 'map[0].field: "$1" has $1; the pattern has no captures'),
        ('[[map]]\nmatch = "a.*"\nfield = "a$"', 'map[0].field: "a$" has a $ that no number'),
        ('[[map]]\nmatch = "a.*"\ntags = { x = "$0" }', 'map[0].tags.x: "$0" has $0'),
        (
            '[[map]]\nmatch = "a"\ntags = { time = "x" }',
            'map[0].tags: tag "time": InfluxDB reserves this name',
        ),
        ('[[map]]\nmatch = "a"\naction = "drop"\nfield = "x"', 'map[0].field: is for action = "map" only'),
        ('[[map]]\nmatch = "a"\ntemplate = "a.b"', 'map[0].template: "a.b" has no part named measurement'),
        ('[[map]]\nmatch = "a"\ntemplate = "a measurement"', "map[0].template: has a filter"),
        (
            '[[map]]\nmatch = "a"\ntemplate = "measurement"\nfield = "x"',
            'map[0].field: is told by "template"; remove one of the two',
        ),
        ('[[map]]\nmatch = "a"\ntypes = ["x"]', "map[0].types: got"),
        ('[[map]]\nmatch = "a"\nmeasurement = "${NO_SUCH_VARIABLE}"', "NO_SUCH_VARIABLE"),
        ('[[shape]]\nmeasurement = ["*"]', "shape[0]: does nothing"),
        ('[[shape]]\nmeasurement = ["a[b"]\nrename = "x"', 'shape[0].measurement: "a[b" has a "["'),
        ('[[shape]]\ndrop = true\nrename = "x"', 'shape[0].rename: is for metrics that stay; "drop" is true'),
        ('[[shape]]\nrename = "#x"', "shape[0].rename: got"),
        ('[[shape]]\nrename_tags = { a = "time" }', 'shape[0].rename_tags: tag "time": InfluxDB reserves'),
        ('[[shape]]\nrename_tags = { a = "" }', 'shape[0].rename_tags: "a": wanted 1 to 1024 characters'),
        ('[[shape]]\n[shape.tags.a]\ntemplates = [""]', "shape[0].tags.a.templates[0]"),
        ('[[shape]]\n[shape.tags.a]\nallowed = ["x"]', "shape[0].tags.a.allowed: unknown key 'allowed'"),
        ("[[shape]]\ntags = 1", "shape[0].tags: got 1; wanted a table of tables"),
        ("[[shape]]\ntags = { a = 1 }", "shape[0].tags.a: got 1; wanted a table"),
        ("[shape]\ndrop = true", "shape: got a table; wanted an array of tables: write [[shape]]"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, rules: str, wanted: str) -> None:
    found = problems(tmp_path, rules + "\n")
    assert any(wanted in one for one in found), found
    assert len(found) == 1


def test_there_may_be_a_thousand_shapes_and_no_more(tmp_path: Path) -> None:
    rules = '[[shape]]\nrename = "x"\n' * 1001
    assert any("1001 rules; at most 1000 are allowed" in one for one in problems(tmp_path, rules))
