"""A real agent in a process of its own, for tests: started in a folder, asked, reloaded, stopped.

    with AgentProcess(tmp_path, config) as agent:
        agent.send(port, b"m v=1")
        agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 1)
        assert agent.stop() == 0

In the config, ``{folder}`` stands for the test's folder. Its ``[agent]`` is given the runtime folder and the
state folder, and no admin HTTP where it says nothing of that; where it has none, one is put before it. The
agent is asked on its control socket.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.conftest import need, wait_until

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "tests" / "bench" / "native"

Status = dict[str, Any]


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM, host: str = "127.0.0.1") -> int:
    """A port that nobody has at the moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def send_udp(port: int, *datagrams: bytes, host: str = "127.0.0.1") -> None:
    """Send *datagrams*, which must be few: nothing is paced here."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, (host, port))


def send_unixgram(path: str | Path, *datagrams: bytes) -> None:
    """Send *datagrams* to a Unix socket, as fast as it takes them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, str(path))


class AgentProcess:
    """One ``penstock run``. Its log is in ``agent.log``, what it told systemd in :attr:`notifications`."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Mapping[str, socket.socket] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """*pass_fds* are handed over as systemd does, by name. *prefix* is put before the command."""
        self.folder = folder
        self.config_path = folder / "penstock.toml"
        self.log_path = folder / "agent.log"
        self.runtime_dir = folder / "run"
        self.state_dir = folder / "state"
        self.write_config(config)
        self.notifications: list[dict[str, str]] = []
        self._env = {**os.environ, **(env or {})}
        self._pass_fds = dict(pass_fds or {})
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._heard_all = threading.Event()
        self._closing = False
        self._listener = threading.Thread(target=self._hear, daemon=True)
        self._listener.start()

    # ---- life ----

    def __enter__(self) -> "AgentProcess":
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            print(f"---- {self.log_path}\n{self.log_text()}")

    def start(self, timeout: float = 20.0) -> "AgentProcess":
        """Start the process and wait until it says that it is ready."""
        self.spawn()
        self.wait_notified("READY", timeout=timeout)
        return self

    def spawn(self) -> None:
        """Start the process and wait for nothing."""
        command = [*self._prefix, sys.executable, "-m", "agent", "run", "-c", str(self.config_path)]
        env = {**self._env, "NOTIFY_SOCKET": str(self.folder / "notify")}
        if self._pass_fds:
            # The descriptors must be 3, 4, …, and LISTEN_PID the number of the process that is to take them.
            fds = [sock.fileno() for sock in self._pass_fds.values()]
            env |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(self._pass_fds)}
            command = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, fds)), *command]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[sock.fileno() for sock in self._pass_fds.values()],
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while the agent runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def memory(self) -> int:
        """Bytes of memory that are its own: without the rings, whose pages are mapped whenever that suits."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("\nRssAnon:")[1].split()[0]) * 1024

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end; returns the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the agent has not ended within {timeout:g} s\n{self.log_text()}")

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._closing = True
        self._notify.shutdown(socket.SHUT_RDWR)
        self._listener.join(10)
        self._notify.close()

    # ---- config ----

    def write_config(self, config: str) -> None:
        """Replace the config file, in one step."""
        if "[agent]" not in config:
            config = f"[agent]\n{config}"
        folders = f'runtime_dir = "{self.runtime_dir}"\n'
        if "state_dir" not in config:
            folders += f'state_dir = "{self.state_dir}"\n'
        if not re.search(r"^\s*admin\s*=", config, re.MULTILINE):
            folders += 'admin = ""\n'
        config = config.replace("[agent]", f"[agent]\n{folders}", 1)
        new = self.config_path.with_suffix(".new")
        new.write_text(config.replace("{folder}", str(self.folder)))
        new.replace(self.config_path)

    def reload(self, config: str | None = None, timeout: float = 30.0) -> dict[str, Any]:
        """Replace the config if one is given, have it loaded: ``applied``, ``changes``, ``problems``."""
        if config is not None:
            self.write_config(config)
        _, body = self.request("POST", "/api/reload", timeout=timeout)
        return dict(json.loads(body))

    # ---- questions ----

    def request(self, method: str, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        """Ask on the control socket: (HTTP status, body)."""
        connection = _UnixConnection(self.runtime_dir / "control.sock", timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> Status:
        """``/api/status``."""
        return dict(json.loads(self.request("GET", "/api/status")[1]))

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``penstock`` with *arguments* against this agent, whatever has become of its config file."""
        command = [
            sys.executable,
            "-m",
            "agent",
            *arguments,
            "--socket",
            str(self.runtime_dir / "control.sock"),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    def metrics(self) -> str:
        """``/metrics``."""
        return self.request("GET", "/metrics")[1].decode()

    def wait_for(
        self, condition: Callable[[Status], object], timeout: float = 20.0, what: str = ""
    ) -> Status:
        """Ask for the status until it fulfils *condition*; returns it."""
        last: Status = {}

        def fulfilled() -> bool:
            last.clear()
            last.update(self.status())
            return bool(condition(last))

        try:
            wait_until(fulfilled, timeout, what)
        except pytest.fail.Exception:
            pytest.fail(f"not within {timeout:g} s: {what}\n{json.dumps(last, indent=1)}\n{self.log_text()}")
        return last

    def wait_notified(self, field: str, count: int = 1, timeout: float = 20.0) -> dict[str, str]:
        """Wait until *field* was told to systemd *count* times; returns the message of that time."""

        def told() -> list[dict[str, str]]:
            return [message for message in self.notifications if field in message]

        try:
            wait_until(lambda: self.returncode is not None or len(told()) >= count, timeout)
        except pytest.fail.Exception:
            pytest.fail(f"no {field} within {timeout:g} s: {self.notifications}\n{self.log_text()}")
        if self.returncode is not None:
            # What it said last may not have been heard yet; our own message comes behind it.
            self._heard_all.clear()
            send_unixgram(self.folder / "notify", b"")
            self._heard_all.wait(10)
        if len(told()) < count:
            pytest.fail(f"the agent has ended with {self.returncode}\n{self.log_text()}")
        return told()[count - 1]

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log(self, message: str = "") -> list[dict[str, Any]]:
        """The log records so far, or those with this *message*."""
        records = []
        for line in self.log_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if not message or record.get("message") == message:
                records.append(record)
        return records

    def _hear(self) -> None:
        while True:
            message = self._notify.recv(65536)
            if not message:
                self._heard_all.set()
                if self._closing:
                    return
                continue
            fields = dict(line.split("=", 1) for line in message.decode().splitlines() if "=" in line)
            # The line that comes every few seconds by itself is no event.
            if fields.keys() != {"STATUS"}:
                self.notifications.append(fields)


# Moves the descriptors to 3, 4, … and becomes the agent, so that its process id is the one in LISTEN_PID.
_HAND_OVER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 200) for fd in sys.argv[1].split(",")]
for at, fd in enumerate(fds):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Load:
    """A sender in a process of its own: ``tests/bench/native/udp_send``, paced and counting."""

    def __init__(
        self, port: int, rate: int, *, count: int = 0, seconds: float = 60.0, flows: int = 1
    ) -> None:
        need("make")
        need("cc")
        subprocess.run(["make", "-s", "build/udp_send"], cwd=NATIVE, check=True, stdout=subprocess.DEVNULL)
        command = [str(NATIVE / "build" / "udp_send"), "--to", f"127.0.0.1:{port}", "--rate", str(rate)]
        command += ["--count", str(count)] if count else ["--seconds", str(seconds)]
        command += ["--shape", "64", "--flow", str(flows), "--unconnected"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def finish(self, stop: bool = True, timeout: float = 60.0) -> int:
        """End it now, or wait for its end; returns how many datagrams it has sent, each of one line."""
        if stop:
            self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=timeout)
        assert self._process.returncode == 0
        return int(json.loads(out)["datagrams"])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextmanager
def load(port: int, rate: int, *, count: int = 0, seconds: float = 60.0, flows: int = 1) -> Iterator[Load]:
    """Send *rate* datagrams a second to *port*, until *count* are sent or :meth:`Load.finish` is called."""
    sender = Load(port, rate, count=count, seconds=seconds, flows=flows)
    try:
        yield sender
    finally:
        sender.close()


def listener(status: Status, name: str) -> dict[str, Any]:
    """The account of one listener."""
    [found] = [one for one in status["listeners"] if one["name"] == name]
    return dict(found)


def output(status: Status, name: str) -> dict[str, Any]:
    """The account of one output."""
    [found] = [one["ledger"] for one in status["outputs"] if one["name"] == name]
    return dict(found)


def at_rest(status: Status) -> bool:
    """Whether everything that was received is decided."""
    return status["ledger"]["balance"] == "balanced" and not any(
        one["ledger"]["waiting"] + one["ledger"]["spooled"] for one in status["outputs"]
    )


def assert_balanced(status: Status) -> None:
    """The laws of the ledger, by the figures and not by the agent's own word only."""
    assert status["ledger"] == {"balance": "balanced", "problems": [], "broken_since": None}
    for one in status["listeners"]:
        assert one["received"] == one["accepted"] + sum(one["dropped"].values()), one
    for one in (one["ledger"] for one in status["outputs"]):
        for ring in one["rings"]:
            assert ring["accepted"] == ring["written"] + ring["missed"], one
        assert one["written"] == sum(ring["written"] for ring in one["rings"])
        decided = one["delivered"] + one["rejected"] + one["merged"] + sum(one["dropped"].values())
        brought = one["restored"] + one["carried"] + one["written"]
        assert brought == decided + one["spooled"] + one["waiting"], one
        if spool := one["spool"]:
            gone = spool["decided"] + sum(spool["dropped"].values())
            assert spool["restored"] + spool["stored"] == gone + spool["metrics"] == gone + one["spooled"], (
                one
            )


def delivered_lines(folder: Path) -> list[bytes]:
    """All lines in the files of a ``file`` output, unfinished files included."""
    return [
        line
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for line in file.read_bytes().splitlines()
    ]


def open_files(pid: int) -> list[str]:
    """What a process has open: paths, and such as ``socket:[1234]``."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return found


def udp_inodes(port: int) -> set[str]:
    """The sockets bound to a UDP port of IPv4, by the kernel's own table."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return {
        f"socket:[{fields[9]}]"
        for fields in (line.split() for line in lines)
        if int(fields[1].partition(":")[2], 16) == port
    }
