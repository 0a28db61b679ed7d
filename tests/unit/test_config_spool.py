"""``[output.spool]`` and ``[output.rejected]``: tables inside a table, their mistakes, and how they look."""

from pathlib import Path

import pytest

from agent.config import RejectedTable, SpoolTable, diff, dump
from agent.config_toml import to_toml
from tests.unit.config_folder import LISTEN, OUTPUT, V2, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_there_is_a_spool_unless_it_is_turned_off(folder: Folder) -> None:
    (output,) = folder.load(LISTEN + V2).output
    assert output.spool == SpoolTable(
        max_bytes=10 << 30, max_age=604800.0, min_free_space=1 << 30, sync="interval", spill_at=0.7
    )
    assert output.rejected == RejectedTable(max_bytes=256 << 20, max_age=2592000.0)
    (output,) = folder.load(LISTEN + V2 + "spool = false\n").output
    assert output.spool is None


def test_false_may_come_from_the_environment(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL", "false")
    (output,) = folder.load(LISTEN + V2 + 'spool = "${SPOOL}"\n').output
    assert output.spool is None


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("spool = true", ["spool: got true; wanted a table, or false"]),
        ('spool = "on"', ['spool: got "on"; wanted a table, or false']),
        ("rejected = false", ["rejected: got false; wanted a table"]),
        (
            '[output.spool]\nmax_bytes = 5\nsync = "sometimes"\nspill_at = 0',
            [
                'spool.max_bytes: got 5; wanted a size with its unit: "5B" if bytes are meant',
                'spool.sync: got "sometimes"; wanted one of "interval", "always", "never"',
                "spool.spill_at: got 0; wanted a number from 0.01 to 1",
            ],
        ),
        (
            '[output.spool]\nmax_byte = "1GiB"',
            ["spool.max_byte: unknown key 'max_byte'; did you mean 'max_bytes'?"],
        ),
        (
            '[output.rejected]\nsync = "never"',
            ["rejected.sync: unknown key 'sync'; it belongs in [output.spool]"],
        ),
        (
            '[output.spool]\nmax_bytes = "512KiB"',
            ["spool.max_bytes: 512KiB is less than one batch: flush.batch_bytes is 1MiB"],
        ),
        (
            '[output.rejected]\nmax_age = "0s"',
            ['rejected.max_age: got "0s"; wanted a duration from 1s to 3650d'],
        ),
        ("concurrency = 4", ["concurrency: unknown key 'concurrency'; did you mean 'max_concurrency'?"]),
        ('order = "newest"', ['order: got "newest"; wanted "fresh_first" or "oldest_first"']),
        ("breaker_sensitivity = 1", ["breaker_sensitivity: got 1; wanted a number from 1.5 to 1000"]),
    ],
)
def test_a_mistake_has_the_path_of_its_key(folder: Folder, text: str, problems: list[str]) -> None:
    assert folder.problems(f"{LISTEN}{V2}{text}\n") == [f"output[0].{problem}" for problem in problems]


@pytest.mark.parametrize("key", ["spool", "rejected"])
def test_other_types_have_none(folder: Folder, key: str) -> None:
    (problem,) = folder.problems(f'{LISTEN}{OUTPUT}[output.{key}]\nmax_age = "1d"\n')
    assert problem.startswith(
        f"output[0].{key}: unknown key '{key}'; it belongs in [[output]] of type \"influxdb\""
    )


@pytest.mark.parametrize("name", [".", ".."])
def test_an_output_is_not_named_after_the_folder_around_its_own(folder: Folder, name: str) -> None:
    text = f'{LISTEN}[[output]]\nname = "{name}"\ntype = "null"\n'
    assert folder.problems(text) == [f'output[0].name: got "{name}"; wanted letters, digits, and any of _.-']


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("spool = false\n", "spool = false\n"),
        ('[output.spool]\nmax_age = "2d"\n', '[output.spool]\nmax_age = "2d"\n'),
        ('[output.rejected]\nmax_bytes = "1MB"\n', '[output.rejected]\nmax_bytes = "1000000B"\n'),
    ],
)
def test_what_is_shown_reads_back(folder: Folder, text: str, shown: str) -> None:
    config = folder.load(LISTEN + V2 + text + OUTPUT)
    short = to_toml(config, defaults=False)
    assert (shown in short) and short.count("[output.") == shown.count("[output.")
    assert folder.load(short) == config
    assert folder.load(to_toml(config)) == config


def test_a_difference_has_the_path_of_its_key(folder: Folder) -> None:
    old = folder.load(LISTEN + V2 + "[output.spool]\nspill_at = 0.5\n")
    new = folder.load(LISTEN + V2 + '[output.spool]\nsync = "never"\n')
    off = folder.load(LISTEN + V2 + "spool = false\n")
    assert [str(change) for change in diff(old, new)] == [
        "output[influx].spool.sync: 'interval' → 'never'",
        "output[influx].spool.spill_at: 0.5 → 0.7",
    ]
    (change,) = diff(old, off)
    assert (change.path, change.old, change.new) == (
        "output[influx].spool",
        dump(old)["output"][0]["spool"],
        False,
    )
