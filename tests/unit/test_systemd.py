"""What is said to systemd, over real sockets, and what is taken over from it, in a real child process."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import systemd

ROOT = Path(__file__).resolve().parents[2]


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def read(self) -> dict[str, str]:
        text = self.socket.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    if request.param == "path":
        address = announced = str(tmp_path / "notify")
    else:
        unique = f"penstock-test-{uuid.uuid4().hex}"
        address, announced = f"\0{unique}", f"@{unique}"
    receiver = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", announced)
    yield receiver
    receiver.socket.close()


def test_ready_carries_the_status(manager: Manager) -> None:
    assert systemd.ready("receiving on 2 listeners")
    assert manager.read() == {"READY": "1", "STATUS": "receiving on 2 listeners"}
    assert systemd.ready()
    assert manager.read() == {"READY": "1"}


def test_reloading_carries_the_monotonic_clock(manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    assert systemd.reloading()
    message = manager.read()
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_stopping_status_and_watchdog(manager: Manager) -> None:
    assert systemd.stopping("draining")
    assert manager.read() == {"STOPPING": "1", "STATUS": "draining"}
    assert systemd.stopping()
    assert manager.read() == {"STOPPING": "1"}
    assert systemd.status("refused the new configuration")
    assert manager.read() == {"STATUS": "refused the new configuration"}
    assert systemd.watchdog()
    assert manager.read() == {"WATCHDOG": "1"}


def test_a_status_cannot_pose_as_another_field(manager: Manager) -> None:
    assert systemd.status("output[0].url: bad\nMAINPID=1\n" + "x" * 2000)
    message = manager.read()
    assert list(message) == ["STATUS"]
    assert message["STATUS"].startswith("output[0].url: bad MAINPID=1 x")
    assert len(message["STATUS"]) == 512


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234"])
def test_nothing_is_sent_outside_systemd(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.ready()


def test_a_manager_that_is_gone_is_told_to_the_log_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not systemd.watchdog()
    assert caplog.messages == ["cannot notify systemd"]


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "", 30.0),
        ("500000", str(os.getpid()), 0.5),
        ("30000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("-5", "", None),
        ("soon", "", None),
    ],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_interval() == seconds


def test_watchdog_interval_is_none_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_interval() is None


# Takes over the sockets twice, and tells what it got, whether a child would inherit it, and what is left.
_TAKER = """
import json, os, socket, sys
os.environ["LISTEN_PID"] = os.environ.get("LISTEN_PID") or str(os.getpid())
from agent.systemd import passed_sockets
found = passed_sockets()
told = [
    {
        "fd": one.fd,
        "name": one.name,
        "inheritable": os.get_inheritable(one.fd),
        "address": socket.socket(fileno=os.dup(one.fd)).getsockname()[:2],
    }
    for one in found
]
left = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps({"passed": told, "again": len(passed_sockets()), "left": left}))
"""


def _take(sockets: list[socket.socket], environment: dict[str, str]) -> dict[str, Any]:
    """Run _TAKER in a child that finds *sockets* at descriptor 3 and up, as after systemd's exec."""
    count = len(sockets)

    def arrange() -> None:
        # First copied to where nothing is, so that none is overwritten before it is moved.
        spare = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in sockets]
        for index, fd in enumerate(spare):
            os.dup2(fd, 3 + index)
            os.close(fd)

    done = subprocess.run(
        [sys.executable, "-c", _TAKER],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore", **environment},
        # Moves the descriptors between fork and exec; the parent has no other threads that matter to dup2.
        preexec_fn=arrange,
        pass_fds=range(3, 3 + count),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def two_sockets() -> Iterator[list[socket.socket]]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    yield sockets
    for one in sockets:
        one.close()


def test_passed_sockets_are_taken_over_once_and_kept_from_children(two_sockets: list[socket.socket]) -> None:
    result = _take(two_sockets, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "line:statsd"})
    assert result == {
        "passed": [
            {"fd": 3, "name": "line", "inheritable": False, "address": list(two_sockets[0].getsockname())},
            {"fd": 4, "name": "statsd", "inheritable": False, "address": list(two_sockets[1].getsockname())},
        ],
        "again": 0,
        "left": [],
    }


def test_sockets_without_names_are_unknown(two_sockets: list[socket.socket]) -> None:
    result = _take(two_sockets, {"LISTEN_FDS": "2"})
    assert [one["name"] for one in result["passed"]] == ["unknown", "unknown"]


def test_an_announced_socket_that_is_not_open_is_left_out(two_sockets: list[socket.socket]) -> None:
    result = _take(two_sockets[:1], {"LISTEN_FDS": "5", "LISTEN_FDNAMES": "line"})
    assert [one["fd"] for one in result["passed"]] == [3]


@pytest.mark.parametrize(
    "environment",
    [
        {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "two"},
        {"LISTEN_FDS": "-1"},
        {},
    ],
)
def test_what_was_meant_for_another_process_is_left_alone(
    two_sockets: list[socket.socket], environment: dict[str, str]
) -> None:
    assert _take(two_sockets, environment) == {"passed": [], "again": 0, "left": []}
