"""Restarts, an upgrade and crashes of the installed service under load: what was sent is in the database.

The socket unit holds the port, and what arrives while nobody reads waits in its queue. How many datagrams
that may be depends on the machine, which here also sends them and runs the database.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import QUIET, need, wait_until
from tests.integration.penstock_machine import (
    SERVICE,
    SOCKET,
    PenstockMachine,
    QueueWatch,
    config,
    package,
)

pytestmark = [
    pytest.mark.needs("root", "systemd-nspawn", "influxd", "dpkg-deb", "make", "cc"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]

RESTART_RATE = 100_000 if QUIET else 20_000
KILL_RATE = 50_000 if QUIET else 20_000
"""Datagrams per second."""


@pytest.fixture
def upgrade(tmp_path: Path) -> Path:
    """The same package under a higher version."""
    stage, target = tmp_path / "stage", tmp_path / "upgrade.deb"
    subprocess.run([need("dpkg-deb"), "--raw-extract", package(), stage], check=True)
    control = stage / "DEBIAN" / "control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"{line.rstrip()}+next\n" if line.startswith("Version:") else line for line in lines)
    )
    subprocess.run([need("dpkg-deb"), "-Znone", "--build", stage, target], check=True, capture_output=True)
    shutil.rmtree(stage)
    return target


def ready(machine: PenstockMachine) -> None:
    """Penstock from its package and InfluxDB run, and the database is empty."""
    machine.boot()
    machine.install(package())
    machine.configure(config())
    machine.start_influxd()
    machine.influxd.create_database("metrics")
    machine.systemctl("restart", SOCKET)
    machine.systemctl("restart", SERVICE)


def recovered(machine: PenstockMachine) -> None:
    """Wait until what came in a gap has been read."""
    wait_until(lambda: machine.queues()[0][0] < 1 << 20, what="the queue is read")


def test_five_restarts_and_an_upgrade_lose_nothing(tmp_path: Path, upgrade: Path) -> None:
    with PenstockMachine(tmp_path) as machine:
        ready(machine)
        with machine.load(RESTART_RATE) as sender, QueueWatch(machine) as watch:
            pids = {machine.main_pid()}
            for number in range(1, 6):
                machine.systemctl("restart", SERVICE)
                recovered(machine)
                pids.add(machine.main_pid())
                print(f"restart {number}: gap {watch.gap()}")
            said = machine.install(upgrade)
            recovered(machine)
            pids.add(machine.main_pid())
            print(f"upgrade: gap {watch.gap()}")
            sent = sender.finish()
        assert len(pids) == 7, f"not restarted each time:\n{said}"
        assert "+next" in machine.run("dpkg-query", "--show", "penstock").stdout
        assert machine.kernel_drops() == 0
        machine.wait_stored(sent)
        print(f"{sent:,} sent and stored, 0 dropped by the kernel")


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    with PenstockMachine(tmp_path) as machine:
        ready(machine)
        with machine.load(KILL_RATE) as sender, QueueWatch(machine) as watch:
            for number in range(1, 11):
                machine.run("kill", "-KILL", str(pid := machine.main_pid()))
                machine.wait_restarted(pid)
                recovered(machine)
                print(f"kill {number}: gap {watch.gap()}")
            sent = sender.finish()
        assert machine.show(SERVICE, "NRestarts") == "10"
        assert machine.kernel_drops() == 0
        machine.wait_stored(sent)
        print(f"{sent:,} sent and stored, 0 dropped by the kernel")
