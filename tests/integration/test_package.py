"""The Debian package: what is in it, and its life on a real machine: installed, upgraded, removed, purged."""

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need, wait_until
from tests.integration.agent_process import ROOT, send_udp
from tests.integration.penstock_machine import PORT, SERVICE, SOCKET, PenstockMachine, package

MIB = 1 << 20
CONFIG = "/etc/penstock/penstock.toml"

pytestmark = [pytest.mark.needs("dpkg-deb", "make"), pytest.mark.timeout(600), pytest.mark.slow]


def control(name: str) -> str:
    return subprocess.run(
        [need("dpkg-deb"), "--field", package(), name], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tarfile.TarInfo]:
    """Every file of the package, by its path on the machine."""
    path = tmp_path_factory.mktemp("package") / "data.tar"
    with path.open("wb") as file:
        subprocess.run([need("dpkg-deb"), "--fsys-tarfile", package()], check=True, stdout=file)
    with tarfile.open(path) as data:
        return {one.name.removeprefix("."): one for one in data}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PenstockMachine]:
    for name in ("root", "systemd-nspawn"):
        need(name)
    with PenstockMachine(tmp_path) as machine:
        # Its disk is memory, which needs no fsync for each of thousands of files.
        machine.path("/etc/dpkg/dpkg.cfg.d/test").write_text("force-unsafe-io\n")
        machine.boot()
        yield machine


def higher(folder: Path) -> Path:
    """The same package under a higher version."""
    stage, target = folder / "stage", folder / "higher.deb"
    subprocess.run([need("dpkg-deb"), "--raw-extract", package(), stage], check=True)
    file = stage / "DEBIAN" / "control"
    file.write_text(re.sub("^(Version: .*)$", r"\1+next", file.read_text(), flags=re.MULTILINE))
    subprocess.run([need("dpkg-deb"), "-Znone", "--build", stage, target], check=True, capture_output=True)
    return target


def enabled(machine: PenstockMachine) -> list[str]:
    done = machine.run("systemctl", "is-enabled", SOCKET, SERVICE, check=False)
    return done.stdout.split() or done.stderr.split()[-1:]


def active(machine: PenstockMachine) -> tuple[str, str]:
    return machine.show(SOCKET, "ActiveState"), machine.show(SERVICE, "ActiveState")


def wait_active(machine: PenstockMachine) -> None:
    wait_until(lambda: active(machine)[1] == "active", 30, f"{SERVICE} is active")


# ---- what is in it ----


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """So that the first test does not take the blame for the time that the build takes."""
    package()


def test_it_depends_on_the_python_that_it_was_built_for_and_on_nothing_of_pip() -> None:
    depends = control("Depends")
    version = re.search(r"\bpython(3\.\d+) \(>= \1", depends)
    assert version, depends
    assert "libc6 (>= " in depends and "systemd" in depends and "python3-" not in depends
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[a-z]+[\d.]*", control("Version"))


def test_everything_is_roots_and_small_and_nothing_in_it_is_for_developers(
    members: dict[str, tarfile.TarInfo],
) -> None:
    assert {(one.uname, one.gname) for one in members.values()} == {("root", "root")}
    assert all(not one.mode & 0o6022 or one.issym() for one in members.values())
    assert package().stat().st_size < 16 * MIB
    assert sum(one.size for one in members.values()) < 70 * MIB
    wrong = re.compile(r"/(tests?|pip|setuptools|Cython)(/|$)|\.(c|h|pyx|pxd)$")
    assert [path for path in members if wrong.search(path) and ".dist-info/" not in path] == []
    commands = {path.split("/")[-1] for path in members if path.startswith("/opt/penstock/bin/")} - {""}
    assert {one for one in commands if not one.startswith("python")} == {"penstock"}


def test_the_configuration_alone_is_a_conffile_and_closed_to_others(
    members: dict[str, tarfile.TarInfo], tmp_path: Path
) -> None:
    subprocess.run([need("dpkg-deb"), "--control", package(), tmp_path / "control"], check=True)
    assert (tmp_path / "control" / "conffiles").read_text() == f"{CONFIG}\n"
    assert members[CONFIG].mode == 0o640 and members["/etc/penstock/conf.d"].mode == 0o750
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run([need("sh"), "-n", tmp_path / "control" / script], check=True)


def test_nothing_in_it_knows_where_it_was_built(tmp_path: Path) -> None:
    subprocess.run([need("dpkg-deb"), "--extract", package(), tmp_path / "files"], check=True)
    here = str(ROOT).encode()
    found = [
        path
        for path in (tmp_path / "files").rglob("*")
        if path.is_file() and not path.is_symlink() and here in path.read_bytes()
    ]
    assert found == []
    launcher = (tmp_path / "files/opt/penstock/bin/penstock").read_text()
    assert launcher.startswith("#!/opt/penstock/bin/python3 -I\n")


@pytest.mark.needs("lintian")
def test_lintian_has_nothing_to_say_beyond_what_is_overridden_with_a_reason() -> None:
    done = subprocess.run(
        [need("lintian"), "--allow-root", "--fail-on=error,warning", package()],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


# ---- its life ----


def test_the_first_datagram_starts_what_was_installed(machine: PenstockMachine) -> None:
    machine.install(package())
    assert active(machine) == ("active", "inactive")
    assert enabled(machine) == ["enabled", "enabled"]
    assert machine.run("penstock", "version").stdout.startswith("penstock ")
    assert f"{CONFIG}: OK" in machine.run("penstock", "check").stdout
    for path, wanted in ((CONFIG, "640 root penstock"), ("/etc/penstock", "750 root penstock")):
        assert machine.run("stat", "--format=%a %U %G", path).stdout.strip() == wanted
    with machine.network():
        send_udp(PORT, b"first value=1")
    wait_active(machine)
    out = machine.path("/var/lib/penstock/out")
    wait_until(lambda: any(b"first value=1" in one.read_bytes() for one in out.glob("*")), 20, "it is kept")


def test_an_upgrade_to_what_is_there_changes_nothing_but_the_process(machine: PenstockMachine) -> None:
    machine.install(package())
    before = machine.show(SOCKET, "InvocationID")
    machine.install(package())
    assert (active(machine), enabled(machine)) == (("active", "inactive"), ["enabled", "enabled"])
    assert machine.show(SOCKET, "InvocationID") == before
    assert machine.run("dpkg", "--verify", "penstock").stdout == ""


def test_an_upgrade_restarts_a_running_service_and_leaves_its_socket_alone(
    machine: PenstockMachine, tmp_path: Path
) -> None:
    machine.install(package())
    machine.systemctl("start", SERVICE)
    machine.path(CONFIG).write_text(f"# mine\n{machine.path(CONFIG).read_text()}")
    before = machine.main_pid(), machine.show(SOCKET, "InvocationID")
    machine.install(higher(tmp_path))
    wait_active(machine)
    assert machine.main_pid() not in (before[0], 0)
    assert machine.show(SOCKET, "InvocationID") == before[1]
    assert machine.path(CONFIG).read_text().startswith("# mine\n")
    assert machine.run("stat", "--format=%a %U %G", CONFIG).stdout.strip() == "640 root penstock"


def test_an_upgrade_starts_and_enables_nothing_that_the_administrator_has_not(
    machine: PenstockMachine, tmp_path: Path
) -> None:
    machine.install(package())
    machine.systemctl("disable", "--now", SOCKET, SERVICE)
    machine.install(higher(tmp_path))
    assert active(machine) == ("inactive", "inactive")
    assert enabled(machine) == ["disabled", "disabled"]


def test_a_removal_under_traffic_stops_both_and_keeps_configuration_and_data(
    machine: PenstockMachine,
) -> None:
    machine.install(package())
    with machine.load(1_000) as sender:
        wait_active(machine)
        machine.run("dpkg", "--remove", "penstock")
        assert active(machine) == ("inactive", "inactive")
        sender.finish()
    assert not machine.path("/opt/penstock").exists() and not machine.path("/usr/bin/penstock").is_symlink()
    assert machine.path(CONFIG).exists() and any(machine.path("/var/lib/penstock/out").iterdir())
    machine.install(package())
    assert (active(machine)[0], enabled(machine)) == ("active", ["enabled", "enabled"])


def test_a_purge_leaves_nothing_but_the_user(machine: PenstockMachine) -> None:
    machine.install(package())
    machine.systemctl("start", SERVICE)
    machine.path("/etc/penstock/token").write_text("secret")
    machine.run("dpkg", "--purge", "penstock")
    found = machine.run(
        "find",
        "/etc",
        "/opt",
        "/usr",
        "/var",
        "/run",
        "-xdev",
        "-name",
        "*penstock*",
        "-not",
        "-path",
        "/var/cache/*",
    ).stdout.split()
    assert found == []
    assert machine.run("getent", "passwd", "penstock").stdout.startswith("penstock:")


def test_without_systemd_running_it_is_installed_and_enabled(tmp_path: Path) -> None:
    """As in a container that is being built, or a chroot."""
    for name in ("root", "systemd-nspawn", "chroot"):
        need(name)
    with PenstockMachine(tmp_path) as machine:
        root = machine.path("/")
        deb = machine.path("/var/cache/penstock.deb")
        deb.write_bytes(package().read_bytes())
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        for command in (["dpkg", "--install", "/var/cache/penstock.deb"], ["penstock", "check"]):
            done = subprocess.run(
                [need("chroot"), root, *command], capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert (root / "etc/systemd/system/sockets.target.wants/penstock.socket").is_symlink()


# ---- from pip ----


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel that was built from the source distribution."""
    package()
    (wheel,) = (ROOT / "build" / "deb" / "wheels").glob("*.whl")
    folder = tmp_path_factory.mktemp("environment") / "penstock"
    subprocess.run(["/usr/bin/python3", "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", "--no-compile", wheel], check=True)
    return folder


def test_the_source_distribution_has_what_a_wheel_and_a_package_are_made_of() -> None:
    package()
    (sdist,) = (ROOT / "build" / "deb" / "wheels").glob("*.tar.gz")
    with tarfile.open(sdist) as data:
        names = {name.partition("/")[2] for name in data.getnames()}
    here = {
        str(path.relative_to(ROOT))
        for folder in ("agent", "ext", "systemd", "man", "configs", "packages")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc")
    }
    assert here - names == set()
    assert {"setup.py", "pyproject.toml", "Makefile", "LICENSE", "README.md"} <= names
    assert not any(name.startswith("tests/") or name.endswith((".so", "_core.c")) for name in names)


def test_a_pip_installation_becomes_a_service_and_goes_again(
    machine: PenstockMachine, environment: Path
) -> None:
    # As if it had been made there: the scripts of an environment name their own place.
    home = machine.path("/srv/penstock")
    shutil.copytree(environment, home, symlinks=True)
    script = home / "bin" / "penstock"
    script.write_text(script.read_text().replace(str(environment), "/srv/penstock"))
    first = machine.run("/srv/penstock/bin/penstock", "install").stdout
    assert "written    /etc/systemd/system/penstock.service\n" in first
    assert active(machine) == ("active", "inactive")
    with machine.network():
        send_udp(PORT, b"first value=1")
    wait_active(machine)
    pid, socket = machine.main_pid(), machine.show(SOCKET, "InvocationID")
    again = machine.run("/usr/local/bin/penstock", "install").stdout
    assert "written" not in again and "replaced" not in again
    # It may have come with new code: the service restarts, and its socket stays.
    assert machine.main_pid() not in (0, pid) and machine.show(SOCKET, "InvocationID") == socket
    machine.run("/srv/penstock/bin/penstock", "uninstall", "--purge")
    assert machine.systemctl("is-active", SOCKET, SERVICE, check=False).split() == ["inactive", "inactive"]
    left = machine.run("find", "/etc", "/usr/local", "/var/lib", "/var/log", "-xdev", "-name", "*penstock*")
    assert left.stdout == ""
