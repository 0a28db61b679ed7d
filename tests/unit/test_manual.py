"""man/: what is made from the code is up to date, every log line that matters is told, and it can be read."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agent import __version__
from agent.config_arrays import Named
from agent.config_kinds import Inner
from agent.config_table import Array
from packages import log_messages, man_pages
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
PAGES = man_pages.pages()


def test_every_log_line_is_told_with_its_level_and_no_other() -> None:
    found = {(one.level, one.message) for one in log_messages.logged()}
    assert sorted((level, message) for level, message, _ in log_messages.told()) == sorted(found)
    assert {level for level, _ in found} == {"critical", "error", "warning", "info", "debug"}


def test_the_table_of_messages_is_up_to_date_and_has_every_field() -> None:
    assert log_messages.PAGE.read_text() == log_messages.document(), "run `make man`"
    fields = {one.message: set(one.fields) for one in log_messages.logged()}
    # A dict at the call, one with keys added, one of a method, one of an object.
    assert fields["asked to stop"] == {"signal"}
    assert {"batch", "rejected", "line", "line_reason"} <= fields["metrics were rejected for good"]
    assert {"batch", "outcome", "stages", "attempts"} <= fields["a batch was traced"]
    assert fields["the disk of an output works again"] == {"what", "folder", "output"}


def test_advice_is_shown_without_the_marks_of_the_manual() -> None:
    troff = 'See\n.B trace\nof\n.BR "penstock status" ,\n.IR a\\-b c | d.'
    assert log_messages.markdown(troff) == "See `trace` of `penstock status`, *a-b*c*\\|*d."


def test_every_log_line_comes_with_what_to_do() -> None:
    assert [message for _, message, advice in log_messages.told() if len(advice) < 9] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    assert page.read_text() == man_pages.made(page), "run `make man`"
    assert f"Penstock {__version__}" in page.read_text()


def test_the_pages_have_every_command_and_every_key() -> None:
    commands, keys = ((ROOT / "man" / name).read_text() for name in ("penstock.1", "penstock.toml.5"))
    for name, command in man_pages.every_command():
        assert f"\n.SS {name}\n" in commands
        part = commands.split(f"\n.SS {name}\n")[1].split("\n.S")[0]
        for param in command.params:
            if isinstance(param, click.Argument):
                assert f"\\fI{param.name.upper()}\\fR" in part, name
            elif not getattr(param, "hidden", False):
                assert all(man_pages.bold(one) in part for one in param.opts), name
    for table, struct in man_pages.STRUCTS.items():
        part = keys.split(f'.\\" begin {table}\n')[1].split(f'.\\" end {table}\n')[0]
        found = set(re.findall(r"^\\fB(\w+)\\fR = ", part, re.MULTILINE))
        # A table inside of a table has a part of its own.
        inner = {
            key for key, kind in man_pages.kinds(struct).items() if isinstance(kind, Inner | Array | Named)
        }
        # Tables under names of one's own are told under the name that the reference uses.
        assert inner - {"tags"} <= set(man_pages.STRUCTS)
        wanted = set(man_pages.kinds(struct)) - inner
        assert found - ({"type"} - wanted) == wanted, table


def test_groups_of_commands_are_told_whole() -> None:
    names = [name for name, _ in man_pages.every_command()]
    assert {f"spool {one}" for one in ("ls", "show", "verify", "replay", "drop")} <= set(names)
    assert {f"rejected {one}" for one in ("ls", "show", "retry", "drop")} <= set(names)
    text = "\n".join(man_pages.commands())
    assert "\n\\fBpenstock spool ls\\fR [options] [\\fIOUTPUT\\fR]\n" in text
    assert "\n\\fBpenstock spool show\\fR [options] \\fIOUTPUT\\fR \\fIFILES\\fR...\n" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.needs("man")
def test_the_pages_are_clean_to_man(page: Path) -> None:
    done = subprocess.run(
        [need("man"), "--warnings", "--local-file", "--encoding=UTF-8", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "MANROFFSEQ": "t", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        check=True,
    )
    assert done.stderr == ""
    assert "PENSTOCK" in done.stdout and "NAME" in done.stdout


def test_the_figures_of_the_receive_buffers_are_those_of_their_formula() -> None:
    text = (ROOT / "man" / "penstock.1").read_text()
    rows = re.findall(r"^[\d,]+ to [\d,]+\t([\d,]+)\t([\d,]+)$", text, re.MULTILINE)
    assert len(rows) == 4
    for charge, datagrams in rows:
        assert int(datagrams.replace(",", "")) == 2 * 128 * 2**20 // int(charge.replace(",", ""))


def test_the_script_runs_from_anywhere(tmp_path: Path) -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / 'packages' / 'man_pages.py')!r}, run_name='loaded')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
