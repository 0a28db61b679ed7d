"""The units on a systemd that knows Type=notify-reload, as those from 253 on do.

Debian 12 has 252, and all other tests of the service run on that there. A later one is taken from
``build/systemd-newer``, where ``.ci/run`` puts the packages of the backports, and is unpacked on the machine
of the test only.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing, need
from tests.integration.agent_process import ROOT, send_udp
from tests.integration.penstock_machine import PORT, SERVICE, SOCKET, PenstockMachine, config, package

pytestmark = [
    pytest.mark.needs("root", "systemd-nspawn", "influxd", "dpkg-deb", "make", "tar"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]

NEWER = ROOT / "build" / "systemd-newer"
NOTIFY_RELOAD_VERSION = 253


def version(text: str) -> int:
    """Of ``systemctl --version``."""
    found = re.match(r"systemd (\d+)", text)
    assert found, text
    return int(found[1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PenstockMachine]:
    """A machine with the newer systemd, Penstock from its package, and InfluxDB."""
    here = subprocess.run([need("systemctl"), "--version"], check=True, capture_output=True, text=True).stdout
    packages = [] if version(here) >= NOTIFY_RELOAD_VERSION else sorted(NEWER.glob("*.deb"))
    if version(here) < NOTIFY_RELOAD_VERSION and not packages:
        missing(f"no newer systemd, of {NOTIFY_RELOAD_VERSION} or later, in {NEWER.relative_to(ROOT)}")
    with PenstockMachine(tmp_path) as machine:
        for one in packages:
            machine.unpack(one)
        machine.boot()
        assert version(machine.run("systemctl", "--version").stdout) >= NOTIFY_RELOAD_VERSION
        machine.install(package())
        machine.configure(config())
        machine.start_influxd()
        machine.influxd.create_database("metrics")
        yield machine


def listening(port: int) -> str:
    """A configuration with one listener more, by which it is seen to be live."""
    return f'{config()}[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'


def test_the_shipped_units_do_as_on_an_older_one(machine: PenstockMachine) -> None:
    verified = machine.run("systemd-analyze", "verify", SERVICE, SOCKET)
    assert (verified.stdout, verified.stderr) == ("", "")
    with machine.network():
        send_udp(PORT, b"load1 id=1i 1")
    machine.wait_stored(1)
    pid = machine.main_pid()
    machine.configure(listening(9001))
    machine.systemctl("reload", SERVICE)
    assert machine.queues(9001)
    machine.configure("nonsense = 1")
    assert machine.run("systemctl", "reload", SERVICE, check=False).returncode
    assert machine.show(SERVICE, "StatusText").startswith("reload refused: ")
    assert machine.main_pid() == pid
    machine.configure(config())
    machine.systemctl("restart", SERVICE)
    with machine.network():
        send_udp(PORT, b"load1 id=2i 2")
    machine.wait_stored(2)


def test_with_notify_reload_a_reload_is_over_when_the_agent_says_so(machine: PenstockMachine) -> None:
    """For whoever prefers it: systemd sends SIGHUP itself, and waits for RELOADING=1 and then READY=1."""
    machine.drop_in(SERVICE, "[Service]\nType=notify-reload\nExecReload=\n")
    machine.systemctl("start", SERVICE)
    for port in range(9001, 9006):
        machine.configure(listening(port))
        machine.systemctl("reload", SERVICE)
        assert machine.queues(port)
        assert not machine.queues(port - 1)
    # It cannot say that it was refused, which is why the shipped unit has an ExecReload= instead.
    machine.configure("nonsense = 1")
    machine.systemctl("reload", SERVICE)
    assert machine.show(SERVICE, "StatusText").startswith("reload refused: ")
    assert machine.show(SERVICE, "ActiveState") == "active"
