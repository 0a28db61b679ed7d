"""The options of a Graphite listener, and which unit its timestamps have."""

from pathlib import Path

import pytest

from agent.config_toml import to_toml
from tests.unit.config_folder import LISTEN, OUTPUT, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_templates_and_join_are_read_and_written_back(folder: Folder) -> None:
    templates = '["servers.* .host.measurement*", "measurement* dc=eu"]'
    config = folder.load(f'{LISTEN}format = "graphite"\ntemplates = {templates}\njoin = "."\n{OUTPUT}')
    listen = config.listen[0]
    assert listen.templates == ("servers.* .host.measurement*", "measurement* dc=eu")
    assert (listen.join, listen.precision) == (".", "s")
    assert folder.load(to_toml(config)) == config == folder.load(to_toml(config, defaults=False))


@pytest.mark.parametrize(("format", "own"), [("line", "ns"), ("graphite", "s")])
def test_each_format_has_a_precision_of_its_own(folder: Folder, format: str, own: str) -> None:
    config = folder.load(f'{LISTEN}format = "{format}"\n{OUTPUT}')
    assert config.listen[0].precision == own
    assert "precision" not in to_toml(config, defaults=False)
    config = folder.load(f'{LISTEN}format = "{format}"\nprecision = "ms"\n{OUTPUT}')
    assert config.listen[0].precision == "ms"
    assert folder.load(to_toml(config, defaults=False)) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'templates = "measurement*"',
            'templates: got "measurement*"; wanted an array of strings, such as '
            '["servers.* .host.measurement*"]',
        ),
        (
            "templates = [1]",
            'templates: got an array; wanted an array of strings, such as ["servers.* .host.measurement*"]',
        ),
        (
            'templates = ["measurement", "a host"]',
            'templates[1]: "a host" has no part named measurement or measurement*',
        ),
        ('join = "="', 'join: got "="; wanted up to 8 letters, digits, and any of _.-'),
        ('interval = "1s"', 'interval: is for format = "statsd" only; remove it'),
    ],
)
def test_mistakes_are_told(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(f'{LISTEN}format = "graphite"\n{text}\n{OUTPUT}') == [f"listen[0].{problem}"]


def test_templates_are_for_graphite_and_statsd_only(folder: Folder) -> None:
    assert folder.problems(f'{LISTEN}templates = ["measurement"]\n{OUTPUT}') == [
        'listen[0].templates: is for format = "graphite" or "statsd" only; remove it'
    ]
