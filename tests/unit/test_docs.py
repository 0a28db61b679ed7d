"""README.md and docs/ lead to what is there: links, anchors, scenarios, tests, addresses, the picture."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import _hints
from agent.config import load
from packages import build_deb
from tests.bench.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md")

PICTURE_BYTES_MAX = 350_000


def prose(path: Path) -> str:
    """The text of *path* without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What a link may name behind its ``#``, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    """Targets of the relative links, those of pictures too."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"[a-z]+:", target):
            yield target


def section(name: str) -> str:
    """The text of README.md below the heading *name*."""
    return README.read_text().split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    wrong = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def test_links_are_found() -> None:
    assert "docs/inputs.md#this-machine" in set(links(README)) and "docs/page.png" in set(links(README))
    assert "graphite-remote-write-and-opentelemetry" in anchors(ROOT / "docs" / "inputs.md")


def test_the_manual_has_every_page_of_docs() -> None:
    found = {target.partition("#")[0] for target in links(README)}
    assert {f"docs/{path.name}" for path in PAGES if path.parent.name == "docs"} <= found


def test_every_figure_has_a_command_that_is_there() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", section("Measured"), re.MULTILINE)
    rows = [row for row in rows if row[2] != "command"]
    assert len(rows) >= 15
    for what, _, command in rows:
        assert command == "the same" or ".venv/bin/python -m " in command, what
    named = re.findall(r"--only (\w+)", README.read_text())
    assert named and set(named) <= set(SCENARIOS)
    files = re.findall(r"(?<![\w/])tests/[\w/]+\.\w+", README.read_text())
    assert files and [name for name in files if not (ROOT / name).exists()] == []


def test_what_the_readme_says_to_try_is_what_the_demo_says() -> None:
    config = load(ROOT / "configs" / "demo.toml")
    said = section("Try it")
    assert f"http://{config.agent.admin}/" in said
    hints = dict(hint.split(":", 1) for hint in _hints(config))
    assert f"\n    {hints['Try'].strip()}\n" in said


def test_the_picture_is_one_and_small() -> None:
    picture = (ROOT / "docs" / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) < PICTURE_BYTES_MAX


def test_the_package_has_the_manual_without_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    build_deb.add_documents(tmp_path, "0")
    folder = tmp_path / "usr" / "share" / "doc" / "penstock"
    assert {path.name for path in (folder / "docs").iterdir()} == {
        path.name for path in PAGES if path.parent.name == "docs"
    }
