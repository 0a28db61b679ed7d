"""The output of remote write: what is sent, what answers mean, when 2.0 becomes 1.0."""

import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cramjam
import pytest

from agent import __version__, _core
from agent.config import InfluxOutput, RemoteWriteOutput
from agent.config_toml import to_toml
from agent.outputs import make
from agent.outputs.base import Kind, Output, Payload, Verdict, plain, snappy
from tests.reference import remote_write

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
LINES = b'cpu,host=a idle=1.5,busy=2i,note="x" 1700000000123456789\nup,host=b value=t 1700000001000000000\n'
BODY = _core.samples_of_lines(LINES)

Answer = tuple[int, dict[str, str], bytes]


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Endpoint:
    """What came, and what is answered: by *answer*, given the headers and the plain body."""

    answer: Callable[[dict[str, str], bytes], Answer] = lambda headers, body: (204, {}, b"")
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def versions(self) -> list[str]:
        return [headers["x-prometheus-remote-write-version"] for _, headers, _ in self.requests]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = bytes(cramjam.snappy.decompress_raw(self.rfile.read(int(headers["content-length"]))))
            found.requests.append((self.path, headers, body))
            status, more, text = found.answer(headers, body)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}/api/v1/write"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def sink(endpoint: Endpoint) -> Iterator[Callable[..., Output]]:
    made: list[Output] = []

    def one(**settings: Any) -> Output:
        made.append(make(RemoteWriteOutput(name="out", url=endpoint.url, **settings)))
        return made[-1]

    yield one
    for output in made:
        output.close()


def post(output: Output, body: bytes = BODY, metrics: int = 3, encoding: str = "pb") -> Verdict:
    return output.post(output.encode(memoryview(body), metrics, encoding))


def test_a_batch_is_a_write_request_as_it_stands(endpoint: Endpoint, sink: Callable[..., Output]) -> None:
    output = sink(headers={"X-Scope-OrgID": "us"})
    assert output.encoding == "pb" and output.max_concurrency == 1
    payload = output.encode(memoryview(BODY), 3, "pb")
    assert (payload.encoding, payload.compression, payload.raw_bytes) == ("pb", "sz", len(BODY))
    assert plain(payload) == BODY
    assert output.post(payload) == Verdict(Kind.DELIVERED, status=204)
    [(path, headers, body)] = endpoint.requests
    assert path == "/api/v1/write" and body == BODY
    assert [(dict(one.labels)["__name__"], one.value) for one in remote_write.samples(body)] == [
        ("cpu_idle", 1.5),
        ("cpu_busy", 2.0),
        ("up", 1.0),
    ]
    assert headers["content-encoding"] == "snappy"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-prometheus-remote-write-version"] == "0.1.0"
    assert headers["user-agent"] == f"penstock/{__version__}"
    assert headers["x-scope-orgid"] == "us"
    assert "authorization" not in headers and "traceparent" not in headers


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
def test_an_attempt_tells_the_server_of_its_batch(
    endpoint: Endpoint, sink: Callable[..., Output], protocol: str
) -> None:
    output = sink(protocol=protocol)
    payload = output.encode(memoryview(BODY), 3, "pb")
    payload.trace = TRACE
    assert output.post(payload).kind is Kind.DELIVERED
    # What is asked of the server in both protocols is one attempt.
    for _, headers, _ in endpoint.requests:
        assert headers["traceparent"] == TRACE
        assert headers["user-agent"] == f"penstock/{__version__} batch/{TRACE[3:35]}"


def test_headers_of_the_configuration_come_before_those_of_an_attempt(
    endpoint: Endpoint, sink: Callable[..., Output]
) -> None:
    output = sink(headers={"User-Agent": "mine", "traceparent": "theirs"})
    payload = output.encode(memoryview(BODY), 3, "pb")
    payload.trace = TRACE
    output.post(payload)
    [(_, headers, _)] = endpoint.requests
    assert (headers["user-agent"], headers["traceparent"]) == ("mine", "theirs")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"token": "t0ken"}, "Bearer t0ken"),
        (
            {"username": "u", "password": "pä:ss"},
            "Basic " + base64.b64encode("u:pä:ss".encode()).decode(),
        ),
    ],
)
def test_who_we_are(
    endpoint: Endpoint, sink: Callable[..., Output], settings: dict[str, str], expected: str
) -> None:
    assert post(sink(**settings)).kind is Kind.DELIVERED
    assert endpoint.requests[0][1]["authorization"] == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.DELIVERED),
        (204, Kind.DELIVERED),
        (400, Kind.SPLIT),
        (413, Kind.SPLIT),
        (422, Kind.SPLIT),
        (401, Kind.HOLD),
        (403, Kind.HOLD),
        (404, Kind.HOLD),
        (415, Kind.HOLD),
        (429, Kind.RETRY),
        (500, Kind.RETRY),
        (503, Kind.RETRY),
    ],
)
def test_what_an_answer_means(
    endpoint: Endpoint, sink: Callable[..., Output], status: int, kind: Kind
) -> None:
    endpoint.answer = lambda headers, body: (status, {"Retry-After": "7"}, b"out of order sample\n")
    verdict = post(sink())
    assert (verdict.kind, verdict.status) == (kind, status)
    if kind is not Kind.DELIVERED:
        assert verdict.text == "out of order sample"
    assert verdict.retry_after == (7.0 if kind is Kind.RETRY else None)


def test_no_answer_is_a_retry(sink: Callable[..., Output]) -> None:
    output = make(RemoteWriteOutput(name="out", url="http://127.0.0.1:1/"))
    assert post(output).kind is Kind.RETRY
    output.close()


def test_version_2_has_each_text_once(endpoint: Endpoint, sink: Callable[..., Output]) -> None:
    endpoint.answer = lambda headers, body: (204, {WRITTEN: "3"}, b"")
    output = sink(protocol="2.0")
    assert post(output).kind is post(output).kind is Kind.DELIVERED
    assert endpoint.versions() == ["2.0.0", "2.0.0"]
    _, headers, body = endpoint.requests[0]
    assert headers["content-type"] == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    assert remote_write.samples_2(body) == remote_write.samples(BODY)
    # What lies in a spool is 1.0 all the same.
    assert plain(output.encode(memoryview(BODY), 3, "pb")) == BODY


@pytest.mark.parametrize("status", [415, 200, 204])
def test_a_server_that_does_not_know_version_2_gets_1_from_then_on(
    endpoint: Endpoint, sink: Callable[..., Output], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(headers: dict[str, str], body: bytes) -> Answer:
        return (status if headers["x-prometheus-remote-write-version"] == "2.0.0" else 204), {}, b""

    endpoint.answer = answer
    output = sink(protocol="2.0")
    with caplog.at_level(logging.WARNING):
        assert post(output).kind is post(output).kind is Kind.DELIVERED
    assert endpoint.versions() == ["2.0.0", "0.1.0", "0.1.0"]
    assert endpoint.requests[1][2] == BODY
    assert [record.message for record in caplog.records] == [
        "the server does not know remote write 2.0; it gets 1.0 from now on"
    ]


def test_a_400_to_version_2_is_about_the_form_or_about_what_is_in_it(
    endpoint: Endpoint, sink: Callable[..., Output]
) -> None:
    endpoint.answer = lambda headers, body: (400, {}, b"what is that?")
    output = sink(protocol="2.0")
    assert post(output).kind is Kind.SPLIT
    assert endpoint.versions() == ["2.0.0", "0.1.0"]
    endpoint.requests.clear()
    # It refuses samples in 2.0, and says so as one that knows it.
    endpoint.answer = lambda headers, body: (400, {WRITTEN: "1"}, b"out of order")
    assert post(output).kind is post(output).kind is Kind.SPLIT
    assert endpoint.versions() == ["2.0.0", "2.0.0"]
    endpoint.requests.clear()
    # One that has proved itself need not do so again.
    endpoint.answer = lambda headers, body: (204, {}, b"")
    assert post(output).kind is Kind.DELIVERED
    assert endpoint.versions() == ["2.0.0"]


def test_fewer_samples_than_were_sent_are_told(
    endpoint: Endpoint, sink: Callable[..., Output], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.answer = lambda headers, body: (200, {WRITTEN: "2"}, b"")
    with caplog.at_level(logging.WARNING):
        assert post(sink(protocol="2.0")).kind is Kind.DELIVERED
    [record] = caplog.records
    assert record.message == "the server says that it wrote fewer samples than it was sent"
    assert (record.__dict__["written"], record.__dict__["metrics"]) == (2, 3)


def test_lines_that_an_output_of_lines_left_are_sent_as_samples(
    endpoint: Endpoint, sink: Callable[..., Output]
) -> None:
    output = sink()
    payload = output.encode(memoryview(LINES), 2)
    assert (payload.encoding, payload.metrics) == ("lp", 2)
    assert output.post(payload).kind is Kind.DELIVERED
    assert endpoint.requests[0][2] == BODY
    # Nothing but strings: there is nothing to send.
    assert post(output, b'm note="x" 1\n', 1, "lp") == Verdict(Kind.DELIVERED)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("damaged", [b"\x05\xf0", b"", b"\xff\xff\xff\xff\xff\x01", snappy(b"no samples")])
def test_a_damaged_body_is_rejected_not_sent_in_version_2(
    endpoint: Endpoint, sink: Callable[..., Output], damaged: bytes
) -> None:
    payload = Payload(damaged, 3, 10, "pb", "sz")
    verdict = sink(protocol="2.0").post(payload)
    assert verdict.kind is Kind.REJECT and "damaged" in verdict.text
    assert endpoint.requests == []


def test_samples_that_an_output_of_samples_left_are_lines_for_an_influxdb(
    endpoint: Endpoint,
) -> None:
    posted: list[bytes] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        output = make(InfluxOutput(name="out", url=url, org="o", bucket="b"))
        payload = Payload(snappy(BODY), 3, len(BODY), "pb", "sz")
        assert output.post(payload).kind is Kind.DELIVERED
        output.close()
        server.shutdown()
        thread.join()
    assert posted == [_core.lines_of_samples(BODY)]


def test_secrets_are_not_shown() -> None:
    from agent.config import Config

    output = RemoteWriteOutput(
        name="o", url="http://h", token="hush", headers={"X-Api-Key": "hush"}, password="hush"
    )
    text = to_toml(Config(output=(output,))) + repr(output) + json.dumps(str(output))
    assert "hush" not in text and "X-Api-Key" in to_toml(Config(output=(output,)))
