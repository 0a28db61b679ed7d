"""The tables of guards: read, told, compared, written again."""

from pathlib import Path

import pytest

from agent.config import Cardinality, CardinalityLimit, Collisions, Types, TypesField, diff
from agent.config_toml import to_toml
from tests.unit.config_folder import LISTEN, OUTPUT, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


WHOLE = """
[cardinality]
max_series = 200_000
window = "10m"
policy = "drop_tag"
mode = "observe"
reserve = 0
[[cardinality.limit]]
measurement = "http*"
tag = "user_id"
max_series = 1000
policy = "drop"
[[cardinality.limit]]
max_series = 5
"""


def test_without_the_table_there_is_none_and_with_it_there_are_defaults(folder: Folder) -> None:
    assert folder.load("" + LISTEN + OUTPUT).cardinality is None
    assert folder.load("[cardinality]\n" + LISTEN + OUTPUT).cardinality == Cardinality()


def test_every_key_is_read_and_written_again(folder: Folder) -> None:
    config = folder.load(WHOLE + LISTEN + OUTPUT)
    assert config.cardinality == Cardinality(
        max_series=200_000,
        window=600.0,
        policy="drop_tag",
        mode="observe",
        reserve=0.0,
        limit=(
            CardinalityLimit(measurement="http*", tag="user_id", max_series=1000, policy="drop"),
            CardinalityLimit(measurement="*", max_series=5),
        ),
    )
    for defaults in (True, False):
        text = to_toml(config, defaults)
        assert folder.load(text) == config
    assert "[[cardinality.limit]]\nmax_series = 5\n" in text
    one = folder.load("[cardinality]\n" + LISTEN + OUTPUT)
    assert "[cardinality]\n" in to_toml(one, defaults=False)


def test_a_change_is_told_by_its_limit(folder: Folder) -> None:
    config, none = folder.load(WHOLE + LISTEN + OUTPUT), folder.load("" + LISTEN + OUTPUT)
    assert [str(one).split(":")[0] for one in diff(none, config)] == ["cardinality"]
    assert config.cardinality is not None
    first, _ = config.cardinality.limit
    other = folder.load(
        WHOLE.replace("200_000", "7").rpartition("[[cardinality.limit]]")[0] + LISTEN + OUTPUT
    )
    assert other.cardinality is not None and other.cardinality.limit == (first,)
    assert [one.path for one in diff(config, other)] == ["cardinality.max_series", "cardinality.limit[1]"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[cardinality]\nmax_series = 0", "cardinality.max_series: got 0; wanted a whole number from 1"),
        ('[cardinality]\npolicy = "dorp"', 'did you mean "drop"'),
        ("[cardinality]\nreserve = 1", "cardinality.reserve: got 1; wanted a number from 0 to 0.9"),
        ("[cardinality]\nlimits = 3", "cardinality.limits: unknown key 'limits'; did you mean 'limit'?"),
        ("[cardinality]\nlimit = 3", "cardinality.limit: got 3; wanted an array of tables"),
        ("[[cardinality.limit]]", "cardinality.limit[0].max_series: is missing"),
        (
            '[[cardinality.limit]]\nmax_series = 1\nmeasurement = ""',
            "cardinality.limit[0].measurement: is empty",
        ),
        (
            '[[cardinality.limit]]\nmax_series = 1\ntag = "a"\n' * 2,
            "cardinality.limit[1]: is for the same measurements and tag as cardinality.limit[0]",
        ),
        ("[[cardinality.limit]]\nmax_series = 1\n" * 65, "cardinality.limit: has 65 tables; at most 64"),
        ("[flush]\npolicy = 1", "it belongs in [cardinality] or [[cardinality.limit]]"),
    ],
)
def test_a_mistake_is_told_with_its_path(folder: Folder, text: str, problem: str) -> None:
    (told,) = folder.problems(f"{text}\n{LISTEN}{OUTPUT}")
    assert problem in told


def test_types_are_read_told_and_written_again(folder: Folder) -> None:
    text = """
    [types]
    conflict = "rename"
    coerce = false
    max_fields = 5000
    [[types.field]]
    measurement = "cpu"
    field = "idle"
    type = "float"
    """
    config = folder.load(text + LISTEN + OUTPUT)
    pinned = TypesField(measurement="cpu", field="idle", type="float")
    assert config.types == Types(conflict="rename", coerce=False, max_fields=5000, field=(pinned,))
    assert folder.load(to_toml(config, defaults=False)) == config
    assert folder.load("[types]\n" + LISTEN + OUTPUT).types == Types()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[types]\nconflict = "drop"', "types.conflict: got"),
        ('[[types.field]]\nmeasurement = "m"\nfield = "f"', "types.field[0].type: is missing"),
        (
            '[[types.field]]\nmeasurement = "m"\nfield = "f"\ntype = "float"\n' * 2,
            "types.field[1]: is the same field as types.field[0]",
        ),
        ('[[output]]\nname = "_guard"\ntype = "null"', 'output[0].name: "_guard" is taken by [types]'),
    ],
)
def test_a_mistake_of_types_is_told(folder: Folder, text: str, problem: str) -> None:
    (told,) = folder.problems(f"{text}\n{LISTEN}{OUTPUT}")
    assert problem in told


def test_collisions_are_guarded_against_where_the_table_is(folder: Folder) -> None:
    assert folder.load(LISTEN + OUTPUT).collisions is None
    assert folder.load("[collisions]\n" + LISTEN + OUTPUT).collisions == Collisions(same_field="last")
    nudge = folder.load('[collisions]\nsame_field = "nudge"\n' + LISTEN + OUTPUT)
    assert nudge.collisions == Collisions(same_field="nudge")
    for defaults in (True, False):
        assert folder.load(to_toml(nudge, defaults=defaults)) == nudge
    [problem] = folder.problems('[collisions]\nsame_field = "first"\n' + LISTEN + OUTPUT)
    assert problem.startswith("collisions.same_field: got")
