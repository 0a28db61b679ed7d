"""Real databases from Debian's packages, each in a fresh folder on loopback, read back to the last line."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.agent_run import free_port
from tests.bench.harness import NotHere, check_equal, poll

# Debian puts servers where an ordinary user's PATH does not look.
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))

FIRST_ID = 1_000_000_000


def start(program: str, folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """A server that writes ``server.log`` in *folder*. Raises NotHere."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise NotHere(f"{program} is not installed")
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(
            [path, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


class Database:
    """A server on *port* or a free one, with its data in *folder*; a context manager that ends it."""

    program: ClassVar[str]
    version: ClassVar[int]
    """Of the agent's output."""
    path: ClassVar[str]
    """What the bare loader posts to: the very target that the agent uses."""
    settings: ClassVar[str]
    """Keys of the agent's output."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port(socket.SOCK_STREAM)
        self.log = folder / "server.log"
        self.process = start(self.program, folder, *self.arguments())

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def prepare(self) -> None:
        """What must be done before the first write."""

    def verify(self, count: int) -> None:
        """The database holds each of the first *count* 117-byte lines once. Raises CheckError."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str, *, post: bool = False, **query: str) -> bytes:
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, method="POST" if post else "GET")
        with urllib.request.urlopen(request, timeout=60) as answer:
            body: bytes = answer.read()
        return body

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise NotHere(f"{self.program} ended at once: {self.log.read_text()[-500:]}")
        try:
            self.get("/ping")
        except OSError:
            return False
        return True

    def __enter__(self) -> "Database":
        try:
            poll(self._is_up, 30, f"{self.program} answers")
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(30)


class InfluxDB(Database):
    """InfluxDB 1.6.7."""

    program = "influxd"
    version = 1
    path = "/write?db=bench&precision=n"
    settings = 'version = 1\ndatabase = "bench"\n'

    def arguments(self) -> list[str]:
        config = self.folder / "influxdb.conf"
        # Without limits that only one side of a comparison might run into.
        config.write_text(
            f"""
reporting-disabled = true
bind-address = "127.0.0.1:{free_port(socket.SOCK_STREAM)}"
[meta]
dir = "{self.folder}/meta"
[data]
dir = "{self.folder}/data"
wal-dir = "{self.folder}/wal"
query-log-enabled = false
cache-max-memory-size = 0
max-series-per-database = 0
[monitor]
store-enabled = false
[http]
bind-address = "{self.address}"
log-enabled = false
[logging]
level = "error"
"""
        )
        return ["-config", str(config)]

    def prepare(self) -> None:
        self.get("/query", post=True, q="CREATE DATABASE bench")

    def verify(self, count: int) -> None:
        question = (
            "SELECT count(id), sum(id), min(id), max(id), count(usage_user), count(usage_system) FROM cpu"
        )
        answer = json.loads(self.get("/query", db="bench", q=question))
        found = answer["results"][0].get("series", [{"values": [[]]}])[0]["values"][0][1:]
        ids = range(FIRST_ID, FIRST_ID + count)
        check_equal(
            found, [count, sum(ids), ids[0], ids[-1], count, count], "count, sum, least, most, counts"
        )


class VictoriaMetrics(Database):
    """VictoriaMetrics, by the write endpoint of InfluxDB 2."""

    program = "victoria-metrics"
    version = 2
    path = "/api/v2/write?org=o&bucket=bench&precision=ns"
    settings = 'version = 2\norg = "o"\nbucket = "bench"\ntoken = "t"\n'

    def arguments(self) -> list[str]:
        return [
            f"-httpListenAddr={self.address}",
            f"-storageDataPath={self.folder}/data",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",
            "-loggerLevel=ERROR",
        ]

    def verify(self, count: int) -> None:
        self.get("/internal/force_flush")
        for field in ("id", "usage_user", "usage_system"):
            # Points come back late at times, though the flush is over.
            deadline = time.monotonic() + 30
            while len(values := self._export(f"cpu_{field}")) < count and time.monotonic() < deadline:
                time.sleep(0.2)
            check_equal(len(values), count, f"values of {field}")
            if field == "id":
                values.sort()
                check_equal(values == list(range(FIRST_ID, FIRST_ID + count)), True, "each id came once")

    def _export(self, name: str) -> list[float]:
        query: dict[str, Any] = {"match[]": f'{{__name__="{name}"}}', "start": "1", "end": "9999999999"}
        lines = self.get("/api/v1/export", **query).splitlines()
        return [value for line in lines for value in json.loads(line)["values"]]
