"""Real clients write to an HTTP listener as they would to their server, and the values are read back.

The far end is a file output, whose lines say exactly what was accepted.
"""

import gzip
import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing, need, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
)
from tests.reference.points import Point, parse

TOKEN = "t0ken"
SOME_TIME = 1_700_000_000

CONFIG = """
[[listen]]
address = "http://127.0.0.1:{port}"
name = "door"
tokens = ["t0ken"]

[[output]]
name = "out"
type = "file"
path = "{{folder}}/out"

[flush]
interval = "20ms"
"""


class Door:
    """An agent with one HTTP listener, over a file output."""

    def __init__(self, agent: AgentProcess, port: int, folder: Path) -> None:
        self.agent = agent
        self.port = port
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def points(self, enough: Callable[[list[Point]], object], timeout: float = 40.0) -> list[Point]:
        """What has been delivered, once it is *enough*."""
        found: list[Point] = []

        def look() -> object:
            whole = b"".join(line + b"\n" for line in delivered_lines(self.folder / "out"))
            found[:] = parse(whole)
            return enough(found)

        wait_until(look, timeout, "enough points")
        return found

    def account(self) -> dict[str, Any]:
        """The listener's, once all is decided and balances."""
        status = self.agent.wait_for(at_rest)
        assert_balanced(status)
        return listener(status, "door")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    port = free_port(socket.SOCK_STREAM)
    with AgentProcess(tmp_path, CONFIG.format(port=port)) as agent:
        yield Door(agent, port, tmp_path)


def need_package(module: str) -> None:
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        missing(f"needs the Python package of {module}, which is not installed")


def tags(point: Point) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in point.tags}


def fields(point: Point) -> dict[str, tuple[str, object]]:
    return {key.decode(): (kind, value) for key, kind, value in point.fields}


@contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    """A program of somebody else's, ended by its own process id."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
        try:
            yield
        except BaseException:
            print(log.read_text(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ---- InfluxDB ----


def test_influxdb_client_synchronous_and_batching(door: Door) -> None:
    import influxdb_client
    from influxdb_client.client.write_api import SYNCHRONOUS, WriteOptions

    made = [
        influxdb_client.Point("temperature of, it")
        .tag("room", "a b=c,d")
        .field("value", at / 8)
        .field("count", at)
        .field("on", at % 2 == 0)
        .field("note", f'"{at}" \\ {at}')
        .time(SOME_TIME * 10**9 + at)
        for at in range(3000)
    ]
    with influxdb_client.InfluxDBClient(door.url, token=TOKEN, org="o") as client:
        assert client.ping()
        with pytest.deprecated_call():
            assert client.health().status == "pass"
        assert client.version().startswith("1.8")
        with client.write_api(write_options=SYNCHRONOUS) as api:
            api.write("b", record=made[:1000])
            with pytest.raises(influxdb_client.rest.ApiException) as raised:
                api.write("b", record=["bad", "good v=1 1"])
            assert raised.value.status == 400
            assert "line 1: unable to parse 'bad'" in str(raised.value.body)
        errors: list[Any] = []
        options = WriteOptions(batch_size=300, flush_interval=200)
        with client.write_api(
            write_options=options, error_callback=lambda *error: errors.append(error)
        ) as api:
            for point in made[1000:]:
                api.write("b", record=point)
        assert errors == []
    with influxdb_client.InfluxDBClient(door.url, token="wrong", org="o", enable_gzip=True) as client:
        with client.write_api(write_options=SYNCHRONOUS) as api:
            with pytest.raises(influxdb_client.rest.ApiException, match="unauthorized"):
                api.write("b", record=made[0])
    with influxdb_client.InfluxDBClient(door.url, token=TOKEN, org="o", enable_gzip=True) as client:
        with client.write_api(write_options=SYNCHRONOUS) as api:
            api.write("b", record="gzipped v=1 1700000000", write_precision="s")
    found = door.points(lambda points: len(points) == 3002)
    by_time = {point.time_ns: point for point in found if point.name == b"temperature of, it"}
    assert len(by_time) == 3000
    for at in range(3000):
        point = by_time[SOME_TIME * 10**9 + at]
        assert tags(point) == {"room": "a b=c,d"}
        assert fields(point) == {
            "value": ("f", at / 8),
            "count": ("i", at),
            "on": ("b", at % 2 == 0),
            "note": ("s", f'"{at}" \\ {at}'.encode()),
        }
    [gzipped] = [point for point in found if point.name == b"gzipped"]
    assert gzipped.time_ns == SOME_TIME * 10**9
    account = door.account()
    assert (account["received"], account["accepted"], account["dropped"]) == (3003, 3002, {"field": 1})
    assert account["requests"]["401"] == 1


def test_the_client_of_version_1(door: Door) -> None:
    need_package("influxdb")
    from influxdb import InfluxDBClient
    from influxdb.exceptions import InfluxDBClientError

    client = InfluxDBClient("127.0.0.1", door.port, "user", TOKEN, "mydb", gzip=True)
    assert client.ping().startswith("1.8")
    client.create_database("mydb")
    assert client.get_list_database() == []
    made = [
        {
            "measurement": "cpu load",
            "tags": {"host": f"server{at % 3}"},
            "time": SOME_TIME + at,
            "fields": {"value": at / 4, "n": at},
        }
        for at in range(1000)
    ]
    assert client.write_points(made, time_precision="s", batch_size=300)
    assert client.write_points(
        [{"measurement": "h", "time": 472_222, "fields": {"v": 1.0}}], time_precision="h"
    )
    assert client.write(["raw v=1 1"], {"db": "mydb"}, protocol="line")
    with pytest.raises(InfluxDBClientError) as raised:
        client.write(["raw v=1 2", "bad"], {"db": "mydb"}, protocol="line")
    assert raised.value.code == 400
    assert "partial write: unable to parse 'bad'" in str(raised.value)
    with pytest.raises(InfluxDBClientError, match="answers no queries"):
        client.query("SELECT * FROM m")
    client.close()
    found = door.points(lambda points: len(points) == 1003)
    cpu = {point.time_ns: point for point in found if point.name == b"cpu load"}
    for at in range(1000):
        point = cpu[(SOME_TIME + at) * 10**9]
        assert tags(point) == {"host": f"server{at % 3}"}
        assert fields(point) == {"value": ("f", at / 4), "n": ("i", at)}
    [hour] = [point for point in found if point.name == b"h"]
    assert hour.time_ns == 472_222 * 3600 * 10**9
    assert door.account()["dropped"] == {"field": 1}


def test_a_request_as_telegraf_sends_it(door: Door) -> None:
    """Its output influxdb: CREATE DATABASE first, then gzipped lines to /write."""
    text = b"cpu,cpu=cpu0,host=h usage_idle=98.5,usage_user=1i 1700000000000000000\n" * 100
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
    head = {"Authorization": "Basic dXNlcjp0MGtlbg==", "User-Agent": "Telegraf/1.30.0"}
    form = {**head, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/query", b"q=CREATE+DATABASE+%22telegraf%22", form)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"results":[{"statement_id":0}]}')
    connection.request(
        "POST",
        "/write?consistency=any&db=telegraf&precision=ns&rp=",
        gzip.compress(text),
        {**head, "Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip"},
    )
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (204, b"")
    connection.close()
    found = door.points(lambda points: len(points) == 100)
    assert {(point.name, point.time_ns) for point in found} == {(b"cpu", 1_700_000_000_000_000_000)}
    assert fields(found[0]) == {"usage_idle": ("f", 98.5), "usage_user": ("i", 1)}


# ---- remote write ----


def check_scraped(door: Door, job: str) -> None:
    """What was scraped of Prometheus, or of the agent that scrapes, has come, in milliseconds."""
    began = time.time_ns()

    def enough(points: list[Point]) -> bool:
        return {b"up", b"process_cpu_seconds_total"} <= {point.name for point in points}

    found = door.points(enough)
    for point in found:
        assert [key for key, kind, _ in point.fields if kind == "f"] == [b"value"]
        assert point.time_ns % 1_000_000 == 0 and abs(point.time_ns - began) < 60 * 10**9
    up = [point for point in found if point.name == b"up"]
    assert {tags(point)["job"] for point in up} == {job}
    assert {fields(point)["value"] for point in up} == {("f", 1.0)}
    [start] = {fields(point)["value"][1] for point in found if point.name == b"process_start_time_seconds"}
    assert isinstance(start, float) and 0 < time.time() - start < 600
    account = door.account()
    # The stale markers of a scrape are NaN, which no line can hold.
    assert set(account["dropped"]) <= {"number"}
    assert set(account["requests"]) == {"204"}


def test_prometheus_writes_to_us(door: Door) -> None:
    program = need("prometheus")
    port = free_port(socket.SOCK_STREAM)
    config = door.folder / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 500ms, external_labels: {{site: "a b"}}}}
scrape_configs:
  - job_name: itself
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
remote_write:
  - url: {door.url}/api/v1/write
    authorization: {{credentials: {TOKEN}}}
    queue_config: {{batch_send_deadline: 500ms}}
"""
    )
    with running(
        door.folder / "prometheus.log",
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={door.folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ):
        check_scraped(door, "itself")
        assert tags(door.points(bool)[0])["site"] == "a b"


def test_vmagent_writes_to_us(door: Door) -> None:
    program = need("vmagent")
    port = free_port(socket.SOCK_STREAM)
    config = door.folder / "scrape.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: vmagent
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
    )
    with running(
        door.folder / "vmagent.log",
        program,
        f"-promscrape.config={config}",
        f"-remoteWrite.url={door.url}/api/v1/write",
        f"-remoteWrite.bearerToken={TOKEN}",
        "-remoteWrite.flushInterval=200ms",
        f"-remoteWrite.tmpDataPath={door.folder / 'vmagent'}",
        f"-httpListenAddr=127.0.0.1:{port}",
    ):
        check_scraped(door, "vmagent")


# ---- collectd ----


def test_collectd_writes_to_us(door: Door) -> None:
    program = need("collectd")
    config = door.folder / "collectd.conf"
    config.write_text(
        f"""
Hostname "the-host"
FQDNLookup false
Interval 1
BaseDir "{door.folder}"
PIDFile "{door.folder}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
LoadPlugin logfile
<Plugin logfile>
  File "STDOUT"
</Plugin>
LoadPlugin load
LoadPlugin memory
LoadPlugin write_http
<Plugin write_http>
  <Node "penstock">
    URL "{door.url}/collectd"
    Format "JSON"
    Header "Authorization: Bearer {TOKEN}"
    BufferSize 4096
  </Node>
</Plugin>
"""
    )
    with running(door.folder / "collectd.log", program, "-f", "-C", str(config)):
        wanted = {b"load_shortterm", b"load_midterm", b"load_longterm", b"memory_value"}
        found = door.points(lambda points: wanted <= {point.name for point in points})
        now = time.time_ns()
    assert {point.name for point in found} == wanted
    for point in found:
        assert tags(point)["host"] == "the-host"
        assert abs(point.time_ns - now) < 120 * 10**9
        [(key, kind, value)] = point.fields
        assert (key, kind) == (b"value", "f") and isinstance(value, float) and value >= 0
    assert {tags(point)["type_instance"] for point in found if point.name == b"memory_value"} >= {
        "free",
        "used",
    }
    assert door.account()["dropped"] == {}


# ---- OpenTelemetry ----


@pytest.mark.parametrize("gzipped", [False, True])
def test_the_sdk_of_opentelemetry(door: Door, gzipped: bool) -> None:
    need_package("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter = OTLPMetricExporter(
        f"{door.url}/v1/metrics",
        headers={"authorization": f"Bearer {TOKEN}"},
        compression=Compression.Gzip if gzipped else Compression.NoCompression,
        timeout=20,
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], Resource({"service.name": "the service"}))
    meter = provider.get_meter("the scope", "1.2")
    began = time.time_ns()
    requests = meter.create_counter("http.requests")
    level = meter.create_up_down_counter("queue")
    duration = meter.create_histogram("http.duration", explicit_bucket_boundaries_advisory=[1.0, 10.0])
    for at in range(100):
        requests.add(at, {"code": "200" if at % 2 else "500"})
        level.add(1 if at % 3 else -1)
        duration.record(at / 4)
    assert provider.force_flush(20_000)
    provider.shutdown(20_000)
    found = door.points(lambda points: len(points) >= 4)
    scope = {
        "service.name": "the service",
        "otel.library.name": "the scope",
        "otel.library.version": "1.2",
    }
    for point in found:
        assert tags(point).items() >= scope.items()
        assert abs(point.time_ns - began) < 60 * 10**9
    numbers = {
        (point.name.decode(), tags(point).get("code", "")): {
            key: value for key, (_, value) in fields(point).items()
        }
        for point in found
    }
    assert numbers == {
        ("http.requests", "200"): {"counter": sum(range(1, 100, 2))},
        ("http.requests", "500"): {"counter": sum(range(0, 100, 2))},
        ("queue", ""): {"gauge": 32},
        ("http.duration", ""): {
            "count": 100,
            "sum": sum(range(100)) / 4,
            "min": 0,
            "max": 24.75,
            "1": 5,
            "10": 41,
            "+Inf": 100,
        },
    }
    account = door.account()
    assert account["dropped"] == {} and set(account["requests"]) == {"200"}
