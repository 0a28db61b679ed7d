"""Real databases for tests: started from a test's folder on free loopback ports, stopped by their own pid.

    with influxd(tmp_path) as server:
        database = server.create_database()
        assert server.write(database, b"m f=1 1\\n").status == 204
        assert server.query("SELECT * FROM m", database) == [...]

    with victoria_metrics(tmp_path) as server:
        server.write(b"m f=1 1700000000000000000\\n")
        assert server.export('{__name__="m_f"}') == [...]

    with prometheus(tmp_path) as server:
        assert server.samples('{__name__="m_f"}') == [...]

All are skipped (or fail, see conftest.py) where the program is missing. A server can be stopped and started
again on its port and with its data, and frozen and thawed, so that a test can make it fail. Nothing here
sleeps for longer than a poll, and every wait has a deadline.
"""

import http.client
import itertools
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from tests.conftest import need, wait_until

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0
REQUEST_SECONDS_MAX = 60.0
START_ATTEMPTS = 3
"""Between finding a port free and taking it, somebody else may have it: then another one is tried."""


@dataclass(frozen=True)
class Response:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace").strip()


class Server:
    """A database process. Subclasses say how it is started and when it is ready; use the context managers.

    *url* is its base address, without a slash at the end, and stays the same over a restart; *folder* holds
    its data and its log.
    """

    program: str
    ready_path: str
    start_seconds_max = START_SECONDS_MAX

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.host = host
        self.port = 0
        self.log_path = folder / f"{self.program}.log"
        self._executable = need(self.program)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def arguments(self) -> list[str]:
        """The command line behind the program's name, for :attr:`port`; may write files into the folder."""
        raise NotImplementedError

    def start(self) -> None:
        """Start and wait until it answers; a second time on the same port. Raises RuntimeError."""
        fixed = self.port != 0
        for attempt in itertools.count(1):
            if not fixed:
                self.port = free_tcp_port(self.host)
            try:
                self._start_once()
                return
            except RuntimeError:
                if fixed or attempt == START_ATTEMPTS:
                    raise

    def _start_once(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self._executable, *self.arguments()],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + self.start_seconds_max
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                what = (
                    f"ended with {code}" if code is not None else f"not ready in {self.start_seconds_max:g} s"
                )
                raise RuntimeError(f"{self.program} {what}: {self.log_tail()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.request("GET", self.ready_path, seconds_max=2.0).status in (200, 204)
        except OSError:
            return False

    def stop(self) -> None:
        """Ask it to end and wait; it is killed if it does not. Does nothing if it does not run."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power failure of its machine would. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS_MAX)

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken by the kernel, and nothing answers."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGSTOP)
        # A thread that runs at the moment stops a little later.
        tasks = Path(f"/proc/{self._process.pid}/task")
        wait_until(lambda: all(_is_stopped(task) for task in tasks.iterdir()), what="it stands still")

    def thaw(self) -> None:
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGCONT)

    def log_tail(self, characters_max: int = 2_000) -> str:
        return self.log_path.read_text(errors="replace")[-characters_max:]

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds_max: float = REQUEST_SECONDS_MAX,
    ) -> Response:
        """One request on a connection of its own. Raises OSError if there is no answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds_max)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        except http.client.HTTPException as error:
            raise OSError(f"{method} {self.url}{path}: {error!r}") from error
        finally:
            connection.close()


class Influxd(Server):
    """InfluxDB 1.x. *settings* are added to its config: ``{"http": {"max-body-size": 1000}}``."""

    program = "influxd"
    ready_path = "/ping"

    def __init__(self, folder: Path, host: str, settings: Mapping[str, Mapping[str, object]]) -> None:
        super().__init__(folder, host)
        self._settings = settings
        self._numbers = itertools.count(1)

    def arguments(self) -> list[str]:
        sections: dict[str, dict[str, object]] = {
            "meta": {"dir": str(self.folder / "meta")},
            "data": {"dir": str(self.folder / "data"), "wal-dir": str(self.folder / "wal")},
            "http": {"bind-address": f"{self.host}:{self.port}", "log-enabled": False},
            "monitor": {"store-enabled": False},
        }
        for name, added in self._settings.items():
            sections.setdefault(name, {}).update(added)
        lines = ["reporting-disabled = true", f'bind-address = "{self.host}:{free_tcp_port(self.host)}"']
        for name, keys in sections.items():
            # Strings, numbers and booleans are spelled in JSON as in TOML.
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        config = self.folder / "influxd.toml"
        config.write_text("\n".join(lines) + "\n")
        return ["-config", str(config)]

    def create_database(self, name: str = "") -> str:
        """Create a database, of a new name if none is given, and return its name."""
        name = name or f"database_{next(self._numbers)}"
        self.query(f'CREATE DATABASE "{name}"', method="POST")
        return name

    def drop_database(self, name: str) -> None:
        self.query(f'DROP DATABASE "{name}"', method="POST")

    def write(self, database: str, body: bytes, precision: str = "ns") -> Response:
        """POST a finished body; the answer is 204, or 400 with the reason."""
        unit = {"ns": "n", "us": "u"}.get(precision, precision)
        return self.request("POST", f"/write?db={quote(database)}&precision={unit}", body)

    def query(self, statement: str, database: str = "", method: str = "GET") -> list[dict[str, Any]]:
        """The series of all results, with times as integers (ns). Raises RuntimeError on an error.

        Each is a dict of name, tags (if grouped), columns and values, as InfluxDB's JSON has it.
        """
        parameters = urlencode({"q": statement, "db": database, "epoch": "ns"})
        answer = self.request(method, f"/query?{parameters}").json()
        results = answer.get("results", [])
        for error in (answer.get("error"), *(result.get("error") for result in results)):
            if error:
                raise RuntimeError(f"{statement}: {error}")
        return [series for result in results for series in result.get("series", [])]


class VictoriaMetrics(Server):
    """VictoriaMetrics, single node; *flags* are added to its command line."""

    program = "victoria-metrics"
    ready_path = "/health"

    def __init__(self, folder: Path, host: str, flags: tuple[str, ...]) -> None:
        super().__init__(folder, host)
        self._flags = flags

    def arguments(self) -> list[str]:
        return [
            f"-storageDataPath={self.folder / 'data'}",
            f"-httpListenAddr={self.host}:{self.port}",
            # A hundred years: a test's points may have any time since 1970.
            "-retentionPeriod=1200",
            # Points are visible at once, and memory is not taken for a machine of its own.
            "-search.latencyOffset=0s",
            "-memory.allowedBytes=256MB",
            *self._flags,
        ]

    def write(self, body: bytes, path: str = "/api/v2/write") -> Response:
        """POST line protocol in nanoseconds; bad lines are left out silently, with 204."""
        return self.request("POST", path, body)

    def flush(self) -> None:
        """Make all that was written visible to queries."""
        self.request("GET", "/internal/force_flush")

    def export(self, match: str = '{__name__!=""}') -> list[dict[str, Any]]:
        """All series that *match*, each a dict of metric (labels), values and timestamps (ms)."""
        self.flush()
        query = urlencode({"match[]": match, "reduce_mem_usage": 1})
        answer = self.request("GET", f"/api/v1/export?{query}")
        if answer.status != 200:
            raise RuntimeError(f"export {match}: {answer.status} {answer.text}")
        return [json.loads(line) for line in answer.body.splitlines()]


class Prometheus(Server):
    """Prometheus as a receiver of remote write; it scrapes nothing. *settings* are those of its file."""

    program = "prometheus"
    ready_path = "/-/ready"

    def __init__(self, folder: Path, host: str, settings: Mapping[str, object]) -> None:
        super().__init__(folder, host)
        self._settings = settings

    def arguments(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        # JSON is YAML, too.
        config.write_text(json.dumps(self._settings))
        return [
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.host}:{self.port}",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ]

    def samples(self, match: str = '{__name__!=""}', hours: int = 2) -> list[dict[str, Any]]:
        """The series that *match*, as they were written in the last *hours*: metric (labels) and values.

        Values are [time in seconds, text]. Raises RuntimeError on an error.
        """
        answer = self.request("GET", f"/api/v1/query?{urlencode({'query': f'{match}[{hours}h]'})}")
        if answer.status != 200:
            raise RuntimeError(f"query {match}: {answer.status} {answer.text}")
        return list(answer.json()["data"]["result"])


S = TypeVar("S", bound=Server)


@contextmanager
def influxd(
    folder: Path, *, host: str = "127.0.0.1", settings: Mapping[str, Mapping[str, object]] | None = None
) -> Iterator[Influxd]:
    """A running InfluxDB 1.x with its data in *folder*/influxd."""
    yield from _running(Influxd(folder / "influxd", host, settings or {}))


@contextmanager
def victoria_metrics(folder: Path, *flags: str, host: str = "127.0.0.1") -> Iterator[VictoriaMetrics]:
    """A running VictoriaMetrics with its data in *folder*/victoria-metrics."""
    yield from _running(VictoriaMetrics(folder / "victoria-metrics", host, flags))


@contextmanager
def prometheus(
    folder: Path, *, host: str = "127.0.0.1", settings: Mapping[str, object] | None = None
) -> Iterator[Prometheus]:
    """A running Prometheus with its data in *folder*/prometheus."""
    yield from _running(Prometheus(folder / "prometheus", host, settings or {}))


def _running(server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_tcp_port(host: str = "127.0.0.1") -> int:
    """A port that nobody has at the moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
