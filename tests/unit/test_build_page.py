"""What draws the page's plots comes by npm, whole and as it should be, or not at all."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from packages import build_page
from packages.build_page import FILES, VERSION, NoPlots

NPM = """#!/bin/sh
echo "$@" >>{folder}/asked
{does}
"""


def archive(*left_out: str) -> bytes:
    """A package like the real one."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as package:
        for name in [*FILES, "package/package.json", "../outside"]:
            if name not in left_out:
                body = f"{name} of v{VERSION}".encode()
                info = tarfile.TarInfo(name)
                info.size = len(body)
                package.addfile(info, io.BytesIO(body))
    return data.getvalue()


class Npm:
    """One that brings what it is told to, first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.page = folder / "page"
        self.page.mkdir()
        (folder / "bin").mkdir()
        self._patch = monkeypatch
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")

    def brings(self, package: bytes, checked: bool = True) -> None:
        (self.folder / "package.tgz").write_bytes(package)
        self.does(f"cp {self.folder}/package.tgz ./uplot.tgz")
        if checked:
            digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
            self._patch.setattr(build_page, "INTEGRITY", digest)

    def does(self, what: str) -> None:
        npm = self.folder / "bin" / "npm"
        npm.write_text(NPM.format(folder=self.folder, does=what))
        npm.chmod(0o755)

    def build(self) -> None:
        build_page.build(self.page, self.folder / "work")

    @property
    def asked(self) -> list[str]:
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else []

    @property
    def files(self) -> set[str]:
        return {one.name for one in self.page.iterdir()}


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    return Npm(tmp_path, monkeypatch)


def test_the_files_are_taken_out_and_nothing_is_asked_for_twice(npm: Npm) -> None:
    npm.brings(archive())
    npm.build()
    assert npm.files == {"uplot.js", "uplot.css", "uplot.LICENSE"}
    for member, name in FILES.items():
        assert (npm.page / name).read_text() == f"{member} of v{VERSION}"
    assert npm.asked == [f"pack uplot@{VERSION} --silent --ignore-scripts"]
    npm.build()
    assert len(npm.asked) == 1
    # One is gone, or of another version: all come anew.
    (npm.page / "uplot.css").unlink()
    npm.build()
    assert len(npm.asked) == 2 and len(npm.files) == 3
    (npm.page / "uplot.js").write_text("v1.0.0")
    npm.build()
    assert len(npm.asked) == 3 and VERSION in (npm.page / "uplot.js").read_text()


def test_what_is_not_as_it_should_be_is_not_taken(npm: Npm) -> None:
    npm.brings(archive(), checked=False)
    with pytest.raises(NoPlots, match="checksum"):
        npm.build()
    npm.brings(archive(*[name for name in FILES if name.endswith("LICENSE")]))
    with pytest.raises(NoPlots, match="has no package/LICENSE"):
        npm.build()
    assert not build_page.is_built(npm.page)
    npm.does("echo 'npm error code ENOTFOUND'; exit 1")
    with pytest.raises(NoPlots, match="npm: npm error code ENOTFOUND"):
        npm.build()
    npm.does("exit 0")
    with pytest.raises(NoPlots, match="0 packages"):
        npm.build()


def test_without_npm_it_is_said_and_is_an_error_only_where_plots_are_required(tmp_path: Path) -> None:
    # A tree of its own: this one may have its plots.
    (tmp_path / "packages").mkdir()
    (tmp_path / "agent/admin/page").mkdir(parents=True)
    script = tmp_path / "packages" / "build_page.py"
    script.write_bytes(Path(build_page.__file__).read_bytes())
    for required, code in (("", 0), ("required", 1)):
        environment = {"PATH": str(tmp_path), "PENSTOCK_PAGE": required}
        command = [sys.executable, "-I", "-S", str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, "The page has no plots: there is no npm\n")
    assert [*(tmp_path / "agent/admin/page").iterdir()] == []


def test_the_real_one_is_what_its_checksum_says() -> None:
    """Of the form that npm's has, and one that base64 can be."""
    assert len(base64.b64decode(build_page.INTEGRITY, validate=True)) == 64
