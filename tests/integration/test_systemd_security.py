"""The installed service is shut in, and its secret is found nowhere but where it must be."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import send_udp
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.penstock_machine import PORT, SERVICE, SOCKET, PenstockMachine, config, package

pytestmark = [
    pytest.mark.needs("root", "systemd-nspawn", "influxd", "dpkg-deb", "make"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]

SECRET = "correct-horse-battery-staple-7391"
EXPOSURE_MAX = 1.5


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PenstockMachine]:
    with PenstockMachine(tmp_path) as machine:
        machine.boot()
        machine.install(package())
        yield machine


def test_the_installed_units_are_clean_and_exposed_no_more_than_1_5(machine: PenstockMachine) -> None:
    verified = machine.run("systemd-analyze", "verify", SERVICE, SOCKET)
    assert (verified.stdout, verified.stderr) == ("", "")
    shown = machine.run("systemd-analyze", "security", "--no-pager", SERVICE).stdout
    [exposure] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    print(f"exposure {exposure}")
    assert float(exposure) <= EXPOSURE_MAX


def test_the_service_starts_without_a_secret_and_says_where_one_is_wanted(machine: PenstockMachine) -> None:
    machine.configure(config())
    machine.systemctl("start", SERVICE)
    machine.configure(f'{config()}username = "writer"\npassword = "${{credential:password}}"\n')
    assert machine.run("systemctl", "restart", SERVICE, check=False).returncode
    assert "/etc/penstock/password" in machine.journal("--unit", SERVICE)
    machine.systemctl("stop", SOCKET, SERVICE)


def test_the_password_is_read_from_a_credential_and_found_nowhere_else(machine: PenstockMachine) -> None:
    secret = machine.path("/etc/penstock/password")
    machine.start_influxd(auth=True)
    create = f"CREATE USER writer WITH PASSWORD '{SECRET}' WITH ALL PRIVILEGES"
    machine.influxd.query(create, method="POST")
    machine.influxd.login = ("writer", SECRET)
    machine.influxd.create_database("metrics")
    login = 'username = "writer"\npassword = "${credential:password}"\n'
    machine.configure(f'{config()}{login}[log]\nlevel = "debug"\n')
    # A wrong one first, so that there is reason to speak of it.
    wrong = SECRET[::-1]
    _write_secret(machine, secret, wrong)
    machine.systemctl("start", SERVICE)
    with machine.network():
        send_udp(PORT, b"load1 id=1i 1")
    wait_until(lambda: machine.status()["outputs"][0]["state"] == "holding", what="it is refused")
    told = _told(machine)
    _write_secret(machine, secret, SECRET)
    machine.systemctl("kill", "--signal=KILL", SERVICE)  # what waits is of no interest here
    machine.systemctl("restart", SERVICE)
    with machine.network():
        send_udp(PORT, b"load1 id=2i 2")
    wait_until(lambda: machine.status()["outputs"][0]["ledger"]["delivered"], what="it is let in")
    assert machine.stored() > 0
    told |= {f"{place} later": text for place, text in _told(machine).items()}
    assert all(told.values()), [place for place, text in told.items() if not text]
    assert [place for place, text in told.items() if SECRET in text or wrong in text] == []


def test_the_token_is_read_from_a_credential_and_found_nowhere_else(machine: PenstockMachine) -> None:
    """InfluxDB 1 knows no tokens, so this one goes to a stand-in of version 2 that notes what it is sent."""
    with machine.network():
        server = FakeInfluxDB(2, authorization=f"Token {SECRET}")
    with server:
        server.script(Answer(503))
        output = f'url = "{server.url}"\nversion = 2\norg = "an org"\nbucket = "metrics"\n'
        output += 'token = "${credential:token}"\n'
        [head, _] = config().split("version = 1")
        machine.configure(f'{head}{output}[log]\nlevel = "debug"\n')
        _write_secret(machine, machine.path("/etc/penstock/token"), SECRET)
        machine.systemctl("start", SERVICE)
        with machine.network():
            send_udp(PORT, b"load1 id=1i 1")
        wait_until(lambda: len(server.requests) > 1, 60, "it was refused, and has come back")
        told = _told(machine)
        machine.configure(f"{head}{output}nonsense = 1")
        assert machine.run("systemctl", "reload", SERVICE, check=False).returncode
        told |= {f"{place} later": text for place, text in _told(machine).items()}
        assert server.problems == []
    assert all(told.values()), [place for place, text in told.items() if not text]
    assert [place for place, text in told.items() if SECRET in text] == []


def _write_secret(machine: PenstockMachine, file: Path, secret: str) -> None:
    """As an administrator does it; that only root can read it is the business of tmpfiles."""
    file.write_text(f"{secret}\n")
    machine.run("systemd-tmpfiles", "--create", "penstock.conf")
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600)


def _told(machine: PenstockMachine) -> dict[str, str]:
    """Everything that the service and systemd say of it, by where they do."""
    told = {
        "journal": machine.journal("--output=export"),
        "systemctl status": machine.systemctl("status", "--full", "--lines=1000", SERVICE),
        "systemctl show": machine.systemctl("show", SERVICE),
        "systemctl cat": machine.systemctl("cat", SERVICE),
        "penstock status": machine.run("penstock", "status", check=False).stdout,
        "status": str(machine.status()),
    }
    with machine.network():
        for path in ("metrics", "api/status"):
            with urlopen(f"http://127.0.0.1:8690/{path}", timeout=10) as answer:
                told[path] = answer.read().decode()
    # All processes, for those that systemd starts beside the agent are of the service too.
    for process in machine.live("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told[f"{process.name} cmdline"] = (process / "cmdline").read_text() or "-"
    limits = machine.live(f"/proc/{machine.main_pid()}/limits").read_text()
    assert re.search(r"^Max core file size +1 +1 ", limits, re.MULTILINE), limits
    return told


def test_a_crash_leaves_no_core(machine: PenstockMachine) -> None:
    machine.configure(config())
    machine.systemctl("start", SERVICE)
    pid = machine.main_pid()
    machine.run("kill", "-ABRT", str(pid))
    machine.wait_restarted(pid)
    said = machine.journal(
        "--identifier=systemd", "--unit", SERVICE, "--grep=status=6/ABRT|code=(killed|dumped)"
    )
    assert "code=killed, status=6/ABRT" in said
    found = machine.run(
        "find", "/", "-xdev", "-name", "core*", "-newer", "/etc/machine-id", "-type", "f"
    ).stdout
    assert found == ""


def test_what_the_service_can_write_it_cannot_execute(machine: PenstockMachine) -> None:
    """By a start that tries, in the sandbox of the service."""
    script = (
        "for folder in /run/penstock /var/lib/penstock /var/log/penstock /tmp /var/tmp; do "
        "cp /bin/true $folder/true || exit 3; $folder/true && exit 4; rm $folder/true; done; "
        "touch /etc/penstock/x /usr/x /opt/penstock/x 2>/dev/null && exit 5; exit 0"
    )
    machine.drop_in(SERVICE, f"[Service]\nExecStartPre=\nExecStartPre=/bin/sh -c '{script}'\n")
    machine.configure(config())
    machine.systemctl("start", SERVICE)
