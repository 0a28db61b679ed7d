"""A machine with a real systemd, Penstock as an administrator installs it, and an InfluxDB 1.

    with PenstockMachine(tmp_path) as machine:
        machine.boot()
        machine.install(deb)
        machine.configure(INFLUX)
        machine.start_influxd()
        with machine.load(100_000) as sender: ...
        machine.wait_stored(sender.finish())

The package is made by ``make deb``, once for a run of the tests; the configuration is the package's place.
"""

import shutil
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.admin.client import ask
from tests.conftest import missing, need, wait_until
from tests.integration.agent_process import ROOT, Load
from tests.integration.servers import Influxd, Response
from tests.integration.systemd_container import SystemdContainer

SERVICE = "penstock.service"
SOCKET = "penstock.socket"
PORT = 8089
"""Of the socket unit as it is shipped."""

LINES = "load1"
"""The measurement of the lines that :func:`tests.integration.agent_process.Load` sends."""

_CONFIG = """
[agent]
drain_timeout = "{drain}"
[[listen]]
name = "line"
address = "udp://127.0.0.1:8089"
[[output]]
name = "influx"
type = "influxdb"
version = 1
url = "http://127.0.0.1:8086"
database = "metrics"
retry_max = "1s"
"""

_INFLUXD_UNIT = """
[Unit]
Description=A database for tests
[Service]
ExecStart={program} -config /etc/influxd-test.toml
KillSignal=SIGTERM
"""

_INFLUXD_CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:8088"
[meta]
dir = "/var/lib/influxd-test/meta"
[data]
dir = "/var/lib/influxd-test/data"
wal-dir = "/var/lib/influxd-test/wal"
index-version = "inmem"
[http]
bind-address = "127.0.0.1:8086"
log-enabled = false
auth-enabled = {auth}
[monitor]
store-enabled = false
"""


@cache
def package() -> Path:
    """The package of these sources, as ``make deb`` makes it; skips or fails where that cannot be done."""
    for name in ("make", "dpkg-deb"):
        need(name)
    done = subprocess.run(
        ["make", "-s", "deb"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    found = sorted((ROOT / "dist").glob("penstock_*.deb"), key=lambda path: path.stat().st_mtime)
    if done.returncode or not found:
        missing(f"needs the package, and make deb failed: {done.stdout[-500:]}")
    return found[-1]


def config(drain: str = "30s") -> str:
    """One listener, the shipped socket's, and the machine's InfluxDB."""
    return _CONFIG.format(drain=drain)


class PenstockMachine(SystemdContainer):
    """A :class:`SystemdContainer` and what the tests do with Penstock and InfluxDB on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.influxd = _InfluxdInside(self, folder)

    # ---- Penstock ----

    def install(self, deb: Path) -> str:
        """Install or upgrade to *deb*, and return what that printed."""
        shutil.copy(deb, self.path("/var/cache/penstock.deb"))
        done = self.run("dpkg", "--install", "/var/cache/penstock.deb", timeout=120)
        return done.stdout + done.stderr

    def configure(self, text: str) -> None:
        """Replace the configuration file; its owner and mode stay those of the package."""
        self.path("/etc/penstock/penstock.toml").write_text(text)

    def drop_in(self, unit: str, text: str) -> None:
        """Give *unit* further settings, as ``systemctl edit`` does."""
        folder = self.path(f"/etc/systemd/system/{unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def main_pid(self) -> int:
        """The agent's number inside of the machine; 0 if it does not run."""
        return int(self.show(SERVICE, "MainPID"))

    def status(self) -> dict[str, Any]:
        """``/api/status`` of the agent, which must run."""
        code, document = ask(str(self.live("/run/penstock/control.sock")), "GET", "/api/status", 10.0)
        assert code == 200, document
        return dict(document)

    def wait_restarted(self, former: int, timeout: float = 30.0) -> None:
        """Wait until another process than *former* is the service, and ready."""

        def restarted() -> bool:
            shown = self.systemctl("show", "--property=MainPID,ActiveState", SERVICE).split()
            return "ActiveState=active" in shown and not {f"MainPID={former}", "MainPID=0"} & set(shown)

        wait_until(restarted, timeout, f"{SERVICE} is another process than {former}, and ready")

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped at the port, since the socket unit opened it."""
        return sum(drops for _, drops in self.queues())

    def queues(self, port: int = PORT) -> list[tuple[int, int]]:
        """Of each socket at *port*: the bytes that wait in it, and the datagrams that it lost."""
        lines = self.live("/proc/1/net/udp").read_text().splitlines()[1:]
        fields = (line.split() for line in lines)
        return [
            (int(one[4].partition(":")[2], 16), int(one[-1]))
            for one in fields
            if int(one[1].partition(":")[2], 16) == port
        ]

    @contextmanager
    def load(self, rate: int) -> Iterator[Load]:
        """Send *rate* datagrams a second to the port, from inside, until :meth:`Load.finish` is called."""
        with self.network():
            sender = Load(PORT, rate, seconds=300)
        try:
            yield sender
        finally:
            sender.close()

    # ---- InfluxDB ----

    def start_influxd(self, auth: bool = False) -> None:
        """Start the database, with what it had before if it ran before, and wait until it answers."""
        unit = self.path("/etc/systemd/system/influxd-test.service")
        unit.write_text(_INFLUXD_UNIT.format(program=need("influxd")))
        self.path("/etc/influxd-test.toml").write_text(_INFLUXD_CONFIG.format(auth=str(auth).lower()))
        self.systemctl("daemon-reload")
        self.systemctl("start", "influxd-test.service")
        wait_until(self.influxd.answers, 30, "InfluxDB answers")

    def stored(self, measurement: str = LINES, of: str = "id") -> int:
        """How many points are in the database; each of the lines sent has a time of its own."""
        series = self.influxd.query(f'SELECT COUNT("{of}") FROM "{measurement}"', "metrics")
        return int(series[0]["values"][0][1]) if series else 0

    def wait_stored(self, number: int, timeout: float = 60.0) -> None:
        """Wait until exactly *number* points are there; more would be as wrong as fewer."""
        found = -1

        def there() -> bool:
            nonlocal found
            found = self.stored()
            return found >= number

        try:
            wait_until(there, timeout)
        except pytest.fail.Exception:
            pytest.fail(f"{found:,} of {number:,} are in the database: {number - found:,} are lost")
        assert found == number


class _InfluxdInside(Influxd):
    """The database on the machine. Its process is systemd's there; only requests are made from here."""

    def __init__(self, machine: PenstockMachine, folder: Path) -> None:
        super().__init__(folder / "influxd", "127.0.0.1", {})
        self._machine = machine
        self.port = 8086
        self.login: tuple[str, str] | None = None
        """User and password, for a database that asks for them."""

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Response:
        given = dict(headers or {})
        if self.login is not None:
            given["Authorization"] = f"Basic {b64encode(':'.join(self.login).encode()).decode()}"
        with self._machine.network():
            return super().request(method, path, body, given, **options)

    def answers(self) -> bool:
        return self._answers()


@dataclass
class Gap:
    """A time in which nobody read the socket."""

    seconds: float
    peak_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.seconds * 1e3:.0f} ms, queue {self.peak_bytes / 2**20:.1f} MiB "
            f"of {self.limit_bytes / 2**20:.0f} MiB"
        )


@dataclass
class QueueWatch:
    """Samples the queue of the socket every few milliseconds; what stands in it tells when nobody reads.

    with QueueWatch(machine) as watch:
        machine.systemctl("restart", SERVICE)
        print(watch.gap())
    """

    machine: PenstockMachine
    limit_bytes: int = 2 * 128 << 20
    """``ReceiveBuffer=`` of the socket unit; the kernel doubles it for its own bookkeeping."""
    samples: list[tuple[float, int]] = field(default_factory=list)

    _PAUSE_S = 0.004

    def __enter__(self) -> "QueueWatch":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._PAUSE_S):
            self.samples.append((time.monotonic(), sum(size for size, _ in self.machine.queues())))

    def gap(self) -> Gap:
        """The longest time since the last call in which the queue only grew, and its depth at the end."""
        samples, self.samples = self.samples, []
        best = (0.0, 0)
        start = 0
        for at in range(1, len(samples)):
            if samples[at][1] <= samples[at - 1][1]:
                start = at
            else:
                best = max(best, (samples[at][0] - samples[start][0], samples[at][1]))
        return Gap(best[0], max((size for _, size in samples), default=0), self.limit_bytes)
