"""`penstock install` and `uninstall` below a folder: what they write, keep, refuse and tell."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent import installation
from agent.cli import _completions, cli
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "etc/systemd/system/penstock.service"
CONFIG = "etc/penstock/penstock.toml"

live = pytest.mark.needs("root", "systemctl", "systemd-sysusers", "systemd-tmpfiles")


def penstock(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file and link below *root*."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.lstat().st_mode),
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the folder that every system has, and that systemd-sysusers wants."""
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


def installed(root: Path) -> Result:
    result = penstock("install", "--root", root)
    assert result.exit_code == 0, result.output
    return result


@live
def test_install_writes_units_user_configuration_manual_and_completions(root: Path) -> None:
    result = installed(root)
    found = tree(root)
    for name in (SERVICE, "etc/systemd/system/penstock.socket", "etc/sysusers.d/penstock.conf"):
        assert found[name][1].startswith(installation.MARK.encode()), name
        assert f"written    /{name}\n" in result.stdout
    assert found[CONFIG] == (0o640, (ROOT / "configs/penstock.toml").read_bytes())
    assert found["usr/local/share/man/man1/penstock.1"][1] == (ROOT / "man/penstock.1").read_bytes()
    assert "usr/local/share/bash-completion/completions/penstock" in found
    assert "penstock:" in (root / "etc/passwd").read_text()
    assert (root / "etc/systemd/system/sockets.target.wants/penstock.socket").is_symlink()
    group = next(one for one in (root / "etc/group").read_text().splitlines() if one.startswith("penstock:"))
    assert (root / CONFIG).stat().st_gid == int(group.split(":")[2])


@live
def test_the_units_run_the_command_that_was_installed(root: Path) -> None:
    installed(root)
    text = (root / SERVICE).read_text()
    command = os.readlink(root / installation.LINK[1:])
    assert os.path.isabs(command) and command.endswith("/penstock")
    assert f"\nExecStart={command} run\n" in text
    assert "/usr/bin/penstock" not in text


@live
def test_doing_it_again_changes_nothing_and_says_so(root: Path) -> None:
    installed(root)
    before = tree(root)
    again = installed(root)
    assert tree(root) == before
    assert "written" not in again.stdout and "replaced" not in again.stdout
    assert f"kept       /{CONFIG}\n" in again.stdout


@live
def test_what_is_out_of_date_is_replaced_and_a_configuration_is_kept(root: Path) -> None:
    installed(root)
    fresh = tree(root)
    (root / SERVICE).write_text(f"{installation.MARK}[Unit]\n")
    (root / CONFIG).write_text("# mine\n")
    assert f"replaced   /{SERVICE}\n" in installed(root).stdout
    assert tree(root)[SERVICE] == fresh[SERVICE]
    assert (root / CONFIG).read_text() == "# mine\n"


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_of_somebody_else_is_neither_replaced_nor_removed(root: Path, command: str) -> None:
    (root / SERVICE).parent.mkdir(parents=True)
    (root / SERVICE).write_text("[Unit]\n")
    before = tree(root)
    result = penstock(command, "--root", root)
    assert result.exit_code == 1 and f"/{SERVICE}: not written by `penstock install`" in result.stderr
    assert tree(root) == before


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_package_is_left_to_the_package_manager(root: Path, command: str) -> None:
    unit = root / "usr/lib/systemd/system/penstock.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("")
    result = penstock(command, "--root", root)
    assert result.exit_code == 1 and "use the package manager" in result.stderr


@live
def test_uninstall_takes_away_what_install_wrote_and_keeps_the_rest(root: Path) -> None:
    installed(root)
    (root / "var/lib/penstock").mkdir(parents=True)
    result = penstock("uninstall", "--root", root)
    assert result.exit_code == 0, result.output
    left = {name for name in tree(root) if "penstock" in name}
    assert left == {CONFIG}
    assert "kept       /etc/penstock\n" in result.stdout and f"removed    /{SERVICE}\n" in result.stdout
    again = penstock("uninstall", "--root", root)
    assert again.exit_code == 0 and "removed" not in again.stdout


@live
def test_purge_takes_configuration_and_data_too(root: Path) -> None:
    installed(root)
    (root / "var/lib/penstock").mkdir(parents=True)
    assert penstock("uninstall", "--root", root, "--purge").exit_code == 0
    assert [name for name in tree(root) if "penstock" in name] == []
    assert not (root / "var/lib/penstock").exists()


def test_an_environment_that_the_service_cannot_read_is_refused(tmp_path: Path) -> None:
    assert installation.hidden(Path("/home", "somebody", "venv", "bin", "penstock"))
    assert installation.hidden(Path("/tmp/venv/bin/penstock"))
    assert not installation.hidden(Path("/opt/penstock/bin/penstock"))
    for name, mode in (("closed", 0o700), ("open", 0o755)):
        (tmp_path / name).mkdir(mode=mode)
    assert installation.closed(tmp_path / "closed" / "penstock", tmp_path)
    assert not installation.closed(tmp_path / "open" / "penstock", tmp_path)


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_root_it_says_what_is_missing(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = penstock(command)
    assert result.exit_code == 1 and "needs root" in result.stderr


@pytest.mark.parametrize(
    ("shell", "arguments"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])]
)
def test_completions_are_scripts_of_their_shell(tmp_path: Path, shell: str, arguments: list[str]) -> None:
    installation.stage(tmp_path, _completions())
    places = {
        "bash": "usr/share/bash-completion/completions/penstock",
        "zsh": "usr/share/zsh/vendor-completions/_penstock",
        "fish": "usr/share/fish/vendor_completions.d/penstock.fish",
    }
    script = tmp_path / places[shell]
    assert "_PENSTOCK_COMPLETE" in script.read_text()
    subprocess.run([need(shell), *arguments, script], check=True)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """What the script asks the command for, and the script itself in a shell."""
    (tmp_path / "penstock").write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
    (tmp_path / "penstock").chmod(0o755)
    installation.stage(tmp_path, _completions())
    script = tmp_path / "usr/share/bash-completion/completions/penstock"
    done = subprocess.run(
        [
            need("bash"),
            "-c",
            f'source "{script}"; COMP_WORDS=(penstock rel); COMP_CWORD=1; '
            '_penstock_completion penstock; echo "${COMPREPLY[@]}"',
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "reload", done.stderr
