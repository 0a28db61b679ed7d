"""StatsD clients as people use them, through a real agent into real databases, checked by value.

They are not ours: PyPI's ``statsd`` and ``datadog``, and npm's ``hot-shots``. Each sends two rounds of all
that it knows over the transports that it has, with and without its own buffer; then what InfluxDB 1 and
VictoriaMetrics hold is compared with what was sent.
"""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datadog.dogstatsd.base import DogStatsd
from statsd import StatsClient

from agent.errors import EXIT_OK
from tests.conftest import missing, need, wait_until
from tests.integration.agent_process import (
    ROOT,
    AgentProcess,
    assert_balanced,
    at_rest,
    free_port,
    listener,
    send_udp,
    send_unixgram,
)
from tests.integration.mixed_lines import Point
from tests.integration.read_back import (
    Samples,
    exact,
    sent_samples,
    stored_points,
    stored_samples,
    stored_types,
)
from tests.integration.servers import Influxd, VictoriaMetrics, influxd, victoria_metrics
from tests.integration.statsd_traffic import (
    PERCENTILES,
    Call,
    Check,
    Event,
    Sample,
    calls,
    check_samples,
    passed,
)

ROUNDS = 2

MARKER = Sample("counter", "round.done", 1)
"""Sent by the test itself behind each round: when its point is written, so is the round."""

PLAIN = {"counter", "gauge", "set", "timing"}
DOGSTATSD = {*PLAIN, "histogram", "distribution", "tags", "rates", "timestamps", "events", "checks"}


@dataclass(frozen=True)
class Door:
    """Where the agent listens: a UDP port, or a Unix socket."""

    port: int = 0
    path: str = ""
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        if self.path:
            return f"unixgram://{self.path}"
        return f"udp://[{self.host}]:{self.port}" if ":" in self.host else f"udp://{self.host}:{self.port}"

    def send(self, datagram: bytes) -> None:
        if self.path:
            send_unixgram(self.path, datagram)
        else:
            send_udp(self.port, datagram, host=self.host)


def udp(folder: Path) -> Door:
    return Door(port=free_port())


def udp6(folder: Path) -> Door:
    try:
        return Door(port=free_port(host="::1"), host="::1")
    except OSError:
        missing("no IPv6")


def unixgram(folder: Path) -> Door:
    return Door(path=str(folder / "statsd.sock"))


TRANSPORTS = {"udp": udp, "udp6": udp6, "unixgram": unixgram}


# ---- what all of them go through ----


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Influxd, VictoriaMetrics]]:
    folder = tmp_path_factory.mktemp("databases")
    with influxd(folder) as influx, victoria_metrics(folder) as victoria:
        yield influx, victoria


@dataclass(frozen=True)
class Pipe:
    """A test's way from a client to both databases."""

    folder: Path
    influx: Influxd
    victoria: VictoriaMetrics

    def run(
        self, door: Door, known: set[str], send: Callable[[Sequence[Call]], None], options: str = ""
    ) -> None:
        """Have *send* send two rounds of what it *known*s, and check what the databases hold of them."""
        database = self.influx.create_database()
        # Both databases are shared, so what belongs to this test is told by a tag.
        own = frozenset({("run", self.folder.name)})
        config = f"""
            [agent]
            admin = ""
            tags = {{ run = "{self.folder.name}" }}
            [[listen]]
            name = "statsd"
            address = "{door.address}"
            format = "statsd"
            interval = "1s"
            percentiles = {list(PERCENTILES)}
            {options}
            [[output]]
            name = "influx"
            type = "influxdb"
            version = 1
            url = "{self.influx.url}"
            database = "{database}"
            [[output]]
            name = "victoria"
            type = "influxdb"
            version = 2
            url = "{self.victoria.url}"
            org = "-"
            bucket = "-"
            token = "t"
        """
        once = calls(known)
        with AgentProcess(self.folder, config) as agent:
            for number in range(1, ROUNDS + 1):
                send(once)
                door.send(b"round.done:1|c")
                wait_until(
                    lambda number=number: self._rounds(database) == number, 10, f"round {number} is written"
                )
            status = agent.wait_for(at_rest)
            assert_balanced(status)
            account = listener(status, "statsd")
            assert (account["dropped"], account["kernel_drops"]) == ({}, 0)
            assert agent.stop() == EXIT_OK
        sent = [*once, MARKER] * ROUNDS
        points = passed(sent, own)

        stored = [
            Point(name, tags, {key: value for key, (_, value) in fields.items()}, time_ns)
            for (name, tags, time_ns), fields in stored_points(self.influx, database).items()
        ]
        unaggregated = [point for point in stored if "metric_type" not in dict(point.tags)]
        assert sorted(map(_comparable, unaggregated)) == sorted(map(_comparable, points))
        check_samples(
            sent_samples(point for point in stored if "metric_type" in dict(point.tags)), sent, own, ROUNDS
        )
        passing = {point.name for point in points}
        types = {
            key: kind for key, kind in stored_types(self.influx, database).items() if key[0] not in passing
        }
        assert all(kind is (int if key == "count" else float) for (_, key), kind in types.items())

        # To VictoriaMetrics a newline ends a line, in a string too: it keeps no such point as it is.
        broken = tuple(f"{point.name}_" for point in points if _has_newline(point))
        stored = [point for point in stored if not _has_newline(point)]
        held: Samples = {}
        numbers = itertools.count()

        def complete() -> bool:
            # Points may become visible a little later than they were taken.
            held.clear()
            # What it once found for a filter it finds for the next ten seconds: so each time is another one.
            match = f'{{run="{self.folder.name}",run!="{next(numbers)}"}}'
            held.update(stored_samples(self.victoria, match))
            return all(len(held.get(tags, ())) >= len(of) for tags, of in sent_samples(stored).items())

        wait_until(complete, 10, "VictoriaMetrics has as many samples as InfluxDB")
        expected = {
            tags: [value for _, value in of]
            for tags, of in sent_samples(point for point in points if not _has_newline(point)).items()
        }
        found = {
            tags: sorted(value for _, value in of)
            for tags, of in held.items()
            if "metric_type" not in dict(tags) and not dict(tags)["__name__"].startswith(broken)
        }
        assert found == expected
        check_samples(
            {tags: of for tags, of in held.items() if "metric_type" in dict(tags)}, sent, own, ROUNDS
        )

    def _rounds(self, database: str) -> int:
        return sum(
            row[1]
            for series in self.influx.query('SELECT "value" FROM "round_done"', database)
            for row in series["values"]
        )


def _has_newline(point: Point) -> bool:
    return any(isinstance(value, str) and "\n" in value for value in point.fields.values())


def _comparable(point: Point) -> tuple[Any, ...]:
    return (
        point.name,
        sorted(point.tags),
        sorted((key, str(value)) for key, value in exact(point.fields).items()),
    )


@pytest.fixture
def pipe(tmp_path: Path, databases: tuple[Influxd, VictoriaMetrics], monkeypatch: pytest.MonkeyPatch) -> Pipe:
    # The clients take addresses and tags from there.
    for name in list(os.environ):
        if name.startswith(("DD_", "DATADOG_")):
            monkeypatch.delenv(name)
    # No sample is left out by its rate, so that what is sent is known.
    monkeypatch.setattr("statsd.client.base.random", SimpleNamespace(random=lambda: 0.0))
    monkeypatch.setattr("datadog.dogstatsd.base.random", lambda: 0.0)
    return Pipe(tmp_path, *databases)


# ---- statsd, of PyPI ----


def send_with_statsd(client: Any, round_of_calls: Sequence[Call]) -> None:
    for call in round_of_calls:
        assert isinstance(call, Sample)
        match call.kind:
            case "counter" if call.value < 0:
                client.decr(call.name, -call.value, call.rate)
            case "counter":
                client.incr(call.name, call.value, call.rate)
            case "gauge_delta":
                client.gauge(call.name, call.value, call.rate, delta=True)
            case kind:
                getattr(client, kind)(call.name, call.value, call.rate)


@pytest.mark.parametrize("transport", ["udp", "udp6"])
@pytest.mark.parametrize("buffered", [False, True], ids=["each", "pipeline"])
def test_statsd(pipe: Pipe, transport: str, buffered: bool) -> None:
    """A negative gauge is sent by it as 0 and a delta, so that it needs ``gauge_deltas``."""
    door = TRANSPORTS[transport](pipe.folder)

    def send(round_of_calls: Sequence[Call]) -> None:
        client = StatsClient(door.host, door.port, ipv6=transport == "udp6")
        try:
            if buffered:
                with client.pipeline() as pipeline:
                    send_with_statsd(pipeline, round_of_calls)
            else:
                send_with_statsd(client, round_of_calls)
        finally:
            client.close()

    pipe.run(door, {*PLAIN, "gauge_delta", "negative gauges", "rates"}, send)


# ---- datadog, of PyPI ----


def send_with_datadog(client: DogStatsd, round_of_calls: Sequence[Call]) -> None:
    for call in round_of_calls:
        tags = list(call.tags)
        match call:
            case Event():
                client.event(call.title, call.text, tags=tags, **call.options)
            case Check():
                options = dict(call.options)
                stamp = options.pop("date_happened", None)
                client.service_check(call.name, call.status, tags=tags, timestamp=stamp, **options)
            case Sample(kind="counter", at=None) if call.value < 0:
                client.decrement(call.name, -call.value, tags, call.rate)
            case Sample(kind="counter", at=None):
                client.increment(call.name, call.value, tags, call.rate)
            case Sample(kind="counter"):
                client.count_with_timestamp(call.name, call.value, call.at, tags, call.rate)
            case Sample(kind="gauge", at=int()):
                client.gauge_with_timestamp(call.name, call.value, call.at, tags, call.rate)
            case Sample():
                getattr(client, call.kind)(call.name, call.value, tags, call.rate)


@pytest.mark.parametrize("transport", ["udp", "unixgram"])
@pytest.mark.parametrize("mode", ["each", "buffered", "aggregated"])
def test_datadog(pipe: Pipe, transport: str, mode: str) -> None:
    """DogStatsD has no gauge deltas: a negative gauge of it is a value, with ``gauge_deltas = false``."""
    door = TRANSPORTS[transport](pipe.folder)
    known = {*DOGSTATSD, "negative gauges", "lengths in bytes"}
    if mode == "aggregated":
        # What it makes of a sample rate in this mode is its own affair.
        known.remove("rates")

    def send(round_of_calls: Sequence[Call]) -> None:
        client = DogStatsd(
            host=door.host,
            port=door.port,
            socket_path=door.path or None,
            disable_buffering=mode == "each",
            disable_aggregation=mode != "aggregated",
            disable_telemetry=True,
            # As long as it waits for nothing, it drops what a full Unix socket does not take at once.
            socket_timeout=5.0,
        )
        send_with_datadog(client, round_of_calls)
        if mode == "aggregated":
            client.disable_aggregation()
        client.disable_buffering = True
        assert client.stop()
        assert client.packets_dropped == 0

    pipe.run(door, known, send, "gauge_deltas = false")


# ---- hot-shots, of npm ----


PACKAGE = {
    "private": True,
    "dependencies": {"hot-shots": "17.1.1"},
    # Its part for Unix sockets is compiled when it is installed, which newer versions of npm must be allowed.
    "allowScripts": {"unix-dgram": True},
}


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """hot-shots, installed once and kept for the next run."""
    npm = need("npm")
    need("node")
    folder = ROOT / "build" / "statsd-clients"
    wanted = json.dumps(PACKAGE)
    package = folder / "package.json"
    installed = folder / "node_modules" / "hot-shots" / "package.json"
    if not installed.exists() or package.read_text() != wanted:
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / "package.json").write_text(wanted)
        command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error"]
        result = subprocess.run(command, cwd=new, capture_output=True, text=True, timeout=100)
        if result.returncode != 0:
            missing(f"needs hot-shots, which npm cannot install: {result.stderr.strip()[-500:]}")
        shutil.rmtree(folder, ignore_errors=True)
        new.replace(folder)
    return folder / "node_modules"


def hot_shots_calls(round_of_calls: Sequence[Call]) -> Iterator[list[object]]:
    for call in round_of_calls:
        tags = list(call.tags)
        match call:
            case Event():
                yield ["event", call.title, call.text, call.options, tags]
            case Check():
                yield ["check", call.name, call.status, call.options, tags]
            case Sample():
                options: dict[str, object] = {"sampleRate": call.rate, "tags": tags}
                if call.at is not None:
                    options["timestamp"] = call.at
                method, value = call.kind, call.value
                if method == "gauge_delta":
                    method = "gaugeDelta"
                elif method == "counter":
                    method, value = ("increment", value) if value > 0 else ("decrement", -value)
                yield [method, call.name, value, options]


def send_with_hot_shots(
    node_modules: Path, options: Mapping[str, object], round_of_calls: Sequence[Call]
) -> None:
    result = subprocess.run(
        [need("node"), str(Path(__file__).with_name("hot_shots.js"))],
        input=json.dumps({"options": options, "calls": list(hot_shots_calls(round_of_calls))}),
        env={**os.environ, "NODE_PATH": str(node_modules)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("transport", ["udp", "unixgram"])
@pytest.mark.parametrize("mode", ["each", "buffered", "aggregated", "telegraf"])
def test_hot_shots(node_modules: Path, pipe: Pipe, transport: str, mode: str) -> None:
    """Its events give their lengths in UTF-16 units, so those beyond ASCII are malformed."""
    door = TRANSPORTS[transport](pipe.folder)
    known = {*DOGSTATSD, "gauge_delta"}
    options: dict[str, object] = {"host": door.host, "port": door.port}
    if transport == "unixgram":
        if not list(node_modules.glob("unix-dgram/build/*/*.node")):
            missing("needs unix-dgram of npm, which could not be compiled here")
        options = {"protocol": "uds", "path": door.path}
    if mode == "telegraf":
        options["telegraf"] = True
        known -= {"timestamps", "events", "checks"}
    if mode in ("buffered", "aggregated"):
        # As its own documentation advises.
        options["maxBufferSize"] = 8_192 if transport == "unixgram" else 1_432
    else:
        options["maxBufferSize"] = 0
    options["aggregation"] = mode == "aggregated"
    pipe.run(door, known, lambda round_of_calls: send_with_hot_shots(node_modules, options, round_of_calls))
