"""The files of systemd/: valid to systemd's own tools, hardened, and in step with the code."""

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest

from agent.config import Agent, load
from tests.conftest import need

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
COMMAND = "/usr/bin/penstock"


class Unit(configparser.RawConfigParser):
    """A unit file as sections of keys. Of a key that is given several times, the last value counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
        self.read_string(path.read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Copies of the units whose commands exist on this machine."""
    command = tmp_path / "penstock"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    copies = []
    for name in ("penstock.service", "penstock.socket"):
        copy = tmp_path / name
        copy.write_text((SYSTEMD / name).read_text().replace(COMMAND, str(command)))
        copies.append(copy)
    return copies


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
    return subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


@pytest.mark.needs("systemd-analyze")
def test_units_are_clean_to_systemd_analyze_verify(units: list[Path]) -> None:
    done = _run(need("systemd-analyze"), "verify", "--man=no", *units)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_verify_would_tell_of_a_mistake(units: list[Path]) -> None:
    """Guards the test above: on some machines the tool finds nothing because it loads nothing."""
    units[0].write_text(units[0].read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in _run(need("systemd-analyze"), "verify", "--man=no", *units).stdout


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_exposed_no_more_than_1_5(units: list[Path]) -> None:
    done = _run(
        need("systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", units[0]
    )
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


@pytest.mark.needs("systemd-sysusers", "root")
def test_sysusers_makes_the_user_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = _run(need("systemd-sysusers"), f"--root={tmp_path}", SYSTEMD / "penstock.sysusers.conf")
    assert done.returncode == 0, done.stdout
    assert "penstock:" in (tmp_path / "etc/passwd").read_text()
    assert "penstock:" in (tmp_path / "etc/group").read_text()


@pytest.mark.needs("systemd-sysusers", "systemd-tmpfiles", "root")
def test_tmpfiles_closes_the_configuration_to_others(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    _run(need("systemd-sysusers"), f"--root={tmp_path}", SYSTEMD / "penstock.sysusers.conf")
    (tmp_path / "etc/penstock").mkdir()
    config = tmp_path / "etc/penstock/penstock.toml"
    config.write_text("")
    config.chmod(0o644)
    done = _run(
        need("systemd-tmpfiles"), "--create", f"--root={tmp_path}", SYSTEMD / "penstock.tmpfiles.conf"
    )
    assert done.returncode == 0, done.stdout
    group = next(
        int(line.split(":")[2])
        for line in (tmp_path / "etc/group").read_text().splitlines()
        if line.startswith("penstock:")
    )
    for path, mode in (("etc/penstock", 0o750), ("etc/penstock/conf.d", 0o750), (config, 0o640)):
        status = (tmp_path / path).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, 0, group), path


def test_a_service_that_fails_never_gives_up_its_socket() -> None:
    service, sock = Unit(SYSTEMD / "penstock.service"), Unit(SYSTEMD / "penstock.socket")
    assert service["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["Service"]["Restart"] == "on-failure"
    assert "RestartSec" in service["Service"]
    # After a refused configuration too: its socket starts a failed service again, without a pause.
    assert "RestartPreventExitStatus" not in service["Service"]
    assert sock["Socket"]["TriggerLimitIntervalSec"] == "0"
    assert sock["Socket"]["ReceiveBuffer"] == "128M"


def test_a_reload_is_synchronous_and_a_stop_outlasts_the_drain() -> None:
    service = Unit(SYSTEMD / "penstock.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == f"{COMMAND} reload --wait"
    assert float(service["TimeoutStopSec"].removesuffix("s")) > Agent().drain_timeout


def test_folders_and_sockets_are_those_of_the_shipped_configuration() -> None:
    config = load(SYSTEMD.parent / "configs/penstock.toml")
    service = Unit(SYSTEMD / "penstock.service")["Service"]
    assert config.agent.state_dir == f"/var/lib/{service['StateDirectory']}"
    assert config.agent.runtime_dir == f"/run/{service['RuntimeDirectory']}"
    shipped = (SYSTEMD / "penstock.socket").read_text()
    assert re.findall(r"^ListenDatagram=(.*)$", shipped, re.MULTILINE) == ["127.0.0.1:8089"]
    assert [one.address for one in config.listen] == ["udp://127.0.0.1:8089"]
