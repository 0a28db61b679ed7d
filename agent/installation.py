"""What an installed Penstock has besides its code: units, user, configuration, man pages, completions.

``penstock install`` puts it in place for an installation from pip, and the Debian package is staged from the
same table, so that both have the same files. Whatever is done is told, one line for each step, and doing it
again changes nothing. The steps that ask systemd are its own tools; with another root they work on the files
below it, and nothing is started.
"""

import gzip
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from agent.errors import ControlError

UNITS = ("penstock.socket", "penstock.service")
"""In the order in which they are stopped: under traffic a socket starts its service again."""

MARK = (
    "# Written by `penstock install`, and replaced by the next one. Changes belong into `systemctl edit`.\n"
)
"""The first line of what is ours to replace and to remove."""

_COMMAND = "/usr/bin/penstock"
# Folders that the sandbox of the service hides from it (ProtectHome=, PrivateTmp=).
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
_TOOL_TIMEOUT_S = 120.0

Tell = Callable[[str], None]


class Layout(NamedTuple):
    """Folders of one way to install."""

    units: str
    sysusers: str
    tmpfiles: str
    share: str
    zsh: str
    marked: bool
    """Whether units and the like begin with :data:`MARK`. What a package owns needs none."""


# /usr/local and /etc are the administrator's, /usr is the package manager's.
LOCAL = Layout(
    "/etc/systemd/system",
    "/etc/sysusers.d",
    "/etc/tmpfiles.d",
    "/usr/local/share",
    "zsh/site-functions",
    True,
)
PACKAGE = Layout(
    "/usr/lib/systemd/system",
    "/usr/lib/sysusers.d",
    "/usr/lib/tmpfiles.d",
    "/usr/share",
    "zsh/vendor-completions",
    False,
)

CONFIG = "/etc/penstock/penstock.toml"
CONF_D = "/etc/penstock/conf.d"
LINK = "/usr/local/bin/penstock"
PURGED = ("/etc/penstock", "/var/lib/penstock", "/var/log/penstock", "/run/penstock")


class Item(NamedTuple):
    """One file: where it goes, and what is in it."""

    target: str
    data: bytes


def source(name: str) -> bytes:
    """A file that is shipped beside the code, by its path in the source tree, such as ``man/penstock.1``.

    A clone has it there; pip has put it below the ``share`` of its environment. Raises ControlError.
    """
    clone = Path(__file__).resolve().parents[1]
    if (clone / "pyproject.toml").is_file():
        return (clone / name).read_bytes()
    folder, file = name.split("/")
    ends = f"share/man/man{file[-1]}/{file}" if folder == "man" else f"share/penstock/{name}"
    for one in metadata.files("penstock") or ():
        if one.as_posix().endswith(ends):
            return Path(str(one.locate())).read_bytes()
    raise ControlError(f"{name} is not in this installation; install Penstock with pip again")


def items(layout: Layout, command: str, completions: Mapping[str, str]) -> Iterator[Item]:
    """Every file that an upgrade replaces and the end removes; the configuration is not among them."""
    mark = MARK if layout.marked else ""

    def system(name: str) -> bytes:
        return (mark + source(f"systemd/{name}").decode().replace(_COMMAND, command)).encode()

    for unit in UNITS:
        yield Item(f"{layout.units}/{unit}", system(unit))
    yield Item(f"{layout.sysusers}/penstock.conf", system("penstock.sysusers.conf"))
    yield Item(f"{layout.tmpfiles}/penstock.conf", system("penstock.tmpfiles.conf"))
    for page in ("penstock.1", "penstock.toml.5"):
        data = source(f"man/{page}")
        section = page[-1]
        if layout.marked:
            yield Item(f"{layout.share}/man/man{section}/{page}", data)
        else:
            yield Item(f"{layout.share}/man/man{section}/{page}.gz", gzip.compress(data, 9, mtime=0))
    places = {
        "bash": "bash-completion/completions/penstock",
        "zsh": f"{layout.zsh}/_penstock",
        "fish": "fish/vendor_completions.d/penstock.fish",
    }
    for shell, place in places.items():
        yield Item(f"{layout.share}/{place}", completions[shell].encode())


def stage(root: Path, completions: Mapping[str, str]) -> None:
    """Write the files of a package below *root*; its scripts do the rest on the machine."""
    for item in items(PACKAGE, _COMMAND, completions):
        _write(root, item)
    _write(root, Item(CONFIG, source("configs/penstock.toml")), 0o640)
    for folder in (CONF_D, CONFIG.rpartition("/")[0]):
        (root / folder[1:]).mkdir(parents=True, exist_ok=True)
        (root / folder[1:]).chmod(0o750)


def install(root: Path, completions: Mapping[str, str], tell: Tell) -> None:
    """Put everything in place, enable the units, and start the socket. Raises ControlError."""
    _may_change(root)
    command = _command()
    _refuse_a_second_one(root)
    if root == Path("/"):
        _refuse_what_the_service_cannot_reach(Path(command), Path(sys.executable))
    wanted = list(items(LOCAL, command, completions))
    foreign = [item.target for item in wanted if not _ours(root, item)]
    if foreign:
        raise ControlError(f"{', '.join(foreign)}: not written by `penstock install`; move it away first")
    for item in wanted:
        tell(f"{_write(root, item):<10} {item.target}")
    if not (root / CONFIG[1:]).exists():
        _write(root, Item(CONFIG, source("configs/penstock.toml")), 0o640)
        tell(f"written    {CONFIG}")
    else:
        tell(f"kept       {CONFIG}")
    _link(root, command, tell)
    at = [] if root == Path("/") else [f"--root={root}"]
    _tool(tell, "systemd-sysusers", *at, "penstock.conf")
    _tool(tell, "systemd-tmpfiles", "--create", *at, "penstock.conf")
    _tool(tell, "systemctl", *at, "enable", "--quiet", *UNITS)
    if at:
        return
    if not _booted():
        tell("systemd does not run here: the socket starts with the machine")
        return
    _tool(tell, "systemctl", "daemon-reload")
    _tool(tell, "systemctl", "start", UNITS[0])
    # The socket stays, so whatever arrives meanwhile waits in it.
    _tool(tell, "systemctl", "try-restart", UNITS[1])


def uninstall(root: Path, purge: bool, completions: Mapping[str, str], tell: Tell) -> None:
    """Stop the service and remove what :func:`install` wrote; with *purge* configuration and data too."""
    _may_change(root)
    _refuse_a_second_one(root)
    at = [] if root == Path("/") else [f"--root={root}"]
    wanted = list(items(LOCAL, _command(), completions))
    present = [unit for unit in UNITS if (root / LOCAL.units[1:] / unit).exists()]
    foreign = [item.target for item in wanted if not _ours(root, item)]
    if foreign:
        raise ControlError(f"{', '.join(foreign)}: not written by `penstock install`; remove it yourself")
    if present:
        if not at and _booted():
            _tool(tell, "systemctl", "stop", *present)
        _tool(tell, "systemctl", *at, "disable", "--quiet", *present)
    for item in wanted:
        path = root / item.target[1:]
        if path.exists():
            path.unlink()
            tell(f"removed    {item.target}")
    link = root / LINK[1:]
    if link.is_symlink() and os.readlink(link) == _command():
        link.unlink()
        tell(f"removed    {LINK}")
    if not at and _booted() and present:
        _tool(tell, "systemctl", "daemon-reload")
    for folder in PURGED:
        path = root / folder[1:]
        if path.is_dir() and purge:
            shutil.rmtree(path)
            tell(f"removed    {folder}")
        elif path.is_dir():
            tell(f"kept       {folder}")
    tell("kept       user penstock")


def _may_change(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise ControlError("this changes the system and needs root: run it with sudo")


def _command() -> str:
    """The absolute path of the command that the units run: the one that was called, else the one of pip."""
    called = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "penstock" else None
    # Not by the link that was called: the units would change with it.
    return os.path.realpath(called or Path(sysconfig.get_path("scripts")) / "penstock")


def _refuse_a_second_one(root: Path) -> None:
    if (root / PACKAGE.units[1:] / UNITS[1]).exists():
        raise ControlError("Penstock is installed as a package here; use the package manager")


def _refuse_what_the_service_cannot_reach(*paths: Path) -> None:
    """The service runs as a user of its own in a sandbox, which must be able to read the code."""
    for path in {which for one in paths for which in (one.absolute(), one.resolve())}:
        if not path.exists():
            raise ControlError(f"{path} does not exist; call `penstock install` by its path")
        if hidden(path) or closed(path):
            raise ControlError(
                f"the service may not read {path}; use an environment that all may read, "
                "such as: python3 -m venv /opt/penstock && /opt/penstock/bin/pip install penstock"
            )


def hidden(path: Path) -> bool:
    """Whether *path* is in a folder that the sandbox of the service does not show it."""
    return any(path.is_relative_to(folder) for folder in _HIDDEN)


def closed(path: Path, top: Path = Path("/")) -> bool:
    """Whether a folder on the way from *top* to *path* may not be entered by every user."""
    folders = (one for one in path.parents if one != top and one.is_relative_to(top))
    return any(not one.stat().st_mode & stat.S_IXOTH for one in folders)


def _ours(root: Path, item: Item) -> bool:
    """Whether the file of *item* may be replaced: it is missing or marked, or one that bears no mark."""
    path = root / item.target[1:]
    if not item.data.startswith(MARK.encode()) or not path.exists():
        return True
    return path.read_bytes().startswith(MARK.encode())


def _write(root: Path, item: Item, mode: int = 0o644) -> str:
    """Write a file in one step. Returns what was done: written, replaced or unchanged."""
    path = root / item.target[1:]
    existed = path.exists()
    if existed and path.read_bytes() == item.data:
        return "unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(item.data)
    new.chmod(mode)
    new.replace(path)
    return "replaced" if existed else "written"


def _link(root: Path, command: str, tell: Tell) -> None:
    """Make the command known to shells, unless it is, or a command of that name is."""
    link = root / LINK[1:]
    if command == LINK or command.startswith("/usr/bin/"):
        return
    if link.is_symlink() and os.readlink(link) == command:
        tell(f"unchanged  {LINK}")
    elif link.is_symlink() or link.exists():
        tell(f"kept       {LINK}, which is another one")
    else:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(command)
        tell(f"linked     {LINK} -> {command}")


def _booted() -> bool:
    """Whether systemd runs this machine: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def _tool(tell: Tell, *command: str) -> None:
    """Run one of systemd's tools, and tell. Raises ControlError with its own words."""
    path = shutil.which(command[0])
    if path is None:
        raise ControlError(f"{command[0]} is missing; Penstock is installed as a service of systemd")
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [path, *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TOOL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ControlError(f"{' '.join(command)} failed: {done.stdout.strip()}")
    tell(f"ran        {' '.join(command)}")
