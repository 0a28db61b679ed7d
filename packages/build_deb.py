"""Builds ``penstock_VERSION_ARCHITECTURE.deb``, with a Python environment of its own in /opt/penstock.

The network is needed here, by pip, and not where the package is installed. The environment belongs to the
Python of the distribution that this runs on, and the package depends on exactly that one. It takes Debian's
dpkg-deb and dpkg-shlibdeps; nothing needs root.

    python3 packages/build_deb.py [--version 1.2.3] [--output dist]
"""

import argparse
import compileall
import email.utils
import fcntl
import gzip
import importlib.util
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "packages" / "deb"
HOME = "opt/penstock"
# By its version: the environment must not follow when the distribution goes on to another one.
PYTHON = os.path.realpath("/usr/bin/python3")

# In an installed package these are of no use to anybody who runs it.
USELESS_FOLDERS = ("tests", "test", "testing", "__pycache__")
USELESS_SUFFIXES = (".c", ".h", ".pxd", ".pyx", ".pxi", ".pyi")

LAUNCHER = f"""#!/{HOME}/bin/python3 -I
import sys

from agent.cli import main

sys.exit(main())
"""


def run(*command: str | Path, **options: object) -> str:
    """Run *command* and return what it prints; a failure ends the build with all that it said."""
    done = subprocess.run(
        [str(one) for one in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return str(done.stdout)


def version() -> str:
    """The agent's version, with the distribution whose Python it is for: 0.1.0+debian12."""
    text = (ROOT / "agent" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert found, "agent/__init__.py has no version"
    release = platform.freedesktop_os_release()
    return f"{found[1]}+{release['ID']}{release.get('VERSION_ID', '')}"


def refuse_without_tools() -> None:
    """End with the command that installs what is missing, if something is."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    wanted = {
        "dpkg-dev": shutil.which("dpkg-shlibdeps"),
        "binutils": shutil.which("strip"),
        "gcc libc6-dev": shutil.which("cc") or shutil.which("gcc"),
        f"{python}-venv": importlib.util.find_spec("ensurepip"),
        f"{python}-dev": header.exists(),
    }
    missing = [name for name, found in wanted.items() if not found]
    if missing:
        sys.exit(f"To build the package: sudo apt install {' '.join(missing)}")


def clock() -> str:
    """When these sources were committed, in seconds; without git, the age of what was told last."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or str(int((ROOT / "CHANGELOG.md").stat().st_mtime))


def maintainer() -> str:
    """Whoever builds it says who it is, by the names that Debian's tools have for that."""
    name = os.environ.get("DEBFULLNAME", "The Penstock authors")
    return f"{name} <{os.environ.get('DEBEMAIL', 'penstock@localhost')}>"


def build_wheel(work: Path) -> Path:
    """The wheel of these sources for the distribution's Python, by way of an sdist."""
    tools, wheels = work / "tools", work / "wheels"
    if not (tools / "bin" / "pip").exists():
        run(PYTHON, "-m", "venv", tools)
        run(tools / "bin" / "pip", "install", "-q", "build")
    shutil.rmtree(wheels, ignore_errors=True)
    # A package without plots on its page would be one that nobody notices.
    os.environ["PENSTOCK_PAGE"] = "required"
    run(tools / "bin" / "python", "-m", "build", "--outdir", wheels, ROOT)
    (wheel,) = wheels.glob("*.whl")
    return wheel


def build_environment(wheel: Path, stage: Path, work: Path) -> None:
    """The environment at its place below *stage*, without pip and without what only developers need."""
    home = stage / HOME
    run(PYTHON, "-m", "venv", "--without-pip", "--symlinks", home)
    pip = work / "tools" / "bin" / "pip"
    run(pip, "--python", home / "bin" / "python3", "install", "-q", "--no-compile", f"{wheel}[nats,kafka]")
    run(home / "bin" / "python3", "-I", "-m", "agent", "install", "--stage", "--root", stage)
    for path in (home / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()
    for name in ("share", "include"):
        shutil.rmtree(home / name, ignore_errors=True)
    launcher = home / "bin" / "penstock"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    settings = home / "pyvenv.cfg"
    settings.write_text(
        "".join(
            line for line in settings.read_text().splitlines(keepends=True) if not line.startswith("command")
        )
    )
    slim(home)


def slim(home: Path) -> None:
    """Take out tests and sources, strip libraries, and compile what is left for its place on the machine."""
    packages = next(home.glob("lib/python3*/site-packages"))
    for path in sorted(packages.rglob("*")):
        licence = any(parent.name.endswith(".dist-info") for parent in path.parents)
        if licence or not path.exists():
            continue
        if path.is_dir() and path.name in USELESS_FOLDERS:
            shutil.rmtree(path)
        elif path.is_file() and path.suffix in USELESS_SUFFIXES:
            path.unlink()
    for path in packages.glob("*.dist-info"):
        for name in ("direct_url.json", "REQUESTED", "INSTALLER"):
            (path / name).unlink(missing_ok=True)
    for path in libraries(home):
        run("strip", "--strip-unneeded", path)
    # Not by time: dpkg gives files other times. The service could not write them in its sandbox.
    compileall.compile_dir(
        packages,
        quiet=1,
        stripdir=str(home),
        prependdir=f"/{HOME}",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        workers=1,
    )


def libraries(home: Path) -> Iterator[Path]:
    return iter(sorted(path for path in home.rglob("*.so*") if path.is_file() and not path.is_symlink()))


def depends_on_libraries(stage: Path, work: Path) -> str:
    """What dpkg-shlibdeps finds, which wants a source package around it."""
    around = work / "shlibs"
    (around / "debian").mkdir(parents=True, exist_ok=True)
    (around / "debian" / "control").write_text("Source: penstock\n\nPackage: penstock\nArchitecture: any\n")
    found = run("dpkg-shlibdeps", "-O", "--ignore-missing-info", *libraries(stage / HOME), cwd=around)
    (depends,) = re.findall(r"^shlibs:Depends=(.*)$", found, re.MULTILINE)
    return str(depends)


def python_package() -> str:
    """The package of the interpreter, such as python3.11, from its version on."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return f"{name} (>= {platform.python_version()})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--version", default=version())
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    # What is compiled here must be compiled by the Python that will run it.
    if not Path(PYTHON).exists():
        sys.exit("To build the package: sudo apt install python3")
    if os.path.realpath(sys.executable) != PYTHON or sys.prefix != sys.base_prefix:
        os.execv(PYTHON, [PYTHON, __file__, *sys.argv[1:]])
    refuse_without_tools()
    os.umask(0o022)
    os.environ.setdefault("SOURCE_DATE_EPOCH", clock())
    work = ROOT / "build" / "deb"
    work.mkdir(parents=True, exist_ok=True)
    # Two builds at once would take each other's files away: the second one waits.
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    stage = work / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    build_environment(build_wheel(work), stage, work)
    (stage / "usr/bin").mkdir(parents=True, exist_ok=True)
    (stage / "usr/bin/penstock").symlink_to(f"/{HOME}/bin/penstock")
    add_documents(stage, options.version)
    add_control(stage, work, options.version)
    print(pack(stage, options.version, options.output))


def add_documents(stage: Path, version: str) -> None:
    folder = stage / "usr/share/doc/penstock"
    folder.mkdir(parents=True)
    shutil.copyfile(HERE / "copyright", folder / "copyright")
    changes = (ROOT / "CHANGELOG.md").read_bytes()
    (folder / "CHANGELOG.md.gz").write_bytes(gzip.compress(changes, 9, mtime=0))
    date = email.utils.formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    entry = (
        f"penstock ({version}) unstable; urgency=medium\n\n"
        f"  * What has changed is told in CHANGELOG.md.\n\n -- {maintainer()}  {date}\n"
    )
    (folder / "changelog.gz").write_bytes(gzip.compress(entry.encode(), 9, mtime=0))
    shutil.copyfile(ROOT / "README.md", folder / "README.md")
    # The manual that it leads to; the picture of the page is for those who have no page yet.
    (folder / "docs").mkdir()
    for page in sorted((ROOT / "docs").glob("*.md")):
        shutil.copyfile(page, folder / "docs" / page.name)
    overrides = stage / "usr/share/lintian/overrides/penstock"
    overrides.parent.mkdir(parents=True)
    shutil.copyfile(HERE / "lintian-overrides", overrides)


def add_control(stage: Path, work: Path, version: str) -> None:
    control = stage / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    values = {
        "VERSION": version,
        "ARCHITECTURE": run("dpkg", "--print-architecture").strip(),
        "SIZE": str(sum(-(-path.stat().st_size // 1024) for path in files)),
        "MAINTAINER": maintainer(),
        "PYTHON": python_package(),
        "LIBRARIES": depends_on_libraries(stage, work),
    }
    text = (HERE / "control.in").read_text()
    (control / "control").write_text(re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text))
    (control / "conffiles").write_text("/etc/penstock/penstock.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(HERE / script, control / script)
    sums = run("md5sum", *(path.relative_to(stage) for path in files if "etc" not in path.parts), cwd=stage)
    (control / "md5sums").write_text(sums)


def pack(stage: Path, version: str, output: Path) -> Path:
    """The package of *stage*; every file is root's, whoever builds it."""
    output.mkdir(parents=True, exist_ok=True)
    architecture = run("dpkg", "--print-architecture").strip()
    target = output / f"penstock_{version}_{architecture}.deb"
    # In one step: whoever installs it meanwhile has the old one or the new one.
    new = stage.with_name("new.deb")
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", stage, new)
    shutil.copyfile(new, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)
    return target


if __name__ == "__main__":
    main()
