"""Remote write and OTLP over HTTP: what is written, and what is answered."""

import gzip
import json
import struct
from collections.abc import Iterator
from typing import Any

import cramjam
import pytest

from agent.inputs.http.refused import varint
from agent.inputs.otlp_json import transcode
from tests.unit.http_rig import Answer, Rig

NAN = float("nan")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


# ---- remote write ----


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def series(labels: dict[str, str], *samples: tuple[float, int]) -> bytes:
    """A TimeSeries of a WriteRequest."""
    pairs = (field(1, field(1, key.encode()) + field(2, value.encode())) for key, value in labels.items())
    values = (field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(ms)) for value, ms in samples)
    return field(1, b"".join((*pairs, *values)))


def push(rig: Rig, message: bytes, path: str = "/api/v1/write", **headers: str) -> Answer:
    known = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
    return rig.ask(path, bytes(cramjam.snappy.compress_raw(message)), {**known, **headers})


@pytest.mark.parametrize("path", ["/api/v1/write", "/api/v1/push"])
def test_samples_become_points(rig: Rig, path: str) -> None:
    message = series({"__name__": "up", "job": "a b"}, (1.0, 1700000000000), (0.5, 1700000001000))
    message += series({"__name__": "cpu:rate"}, (1e300, 1))
    answer = push(rig, message, path)
    assert (answer.status, answer.body) == (204, b"")
    assert rig.written() == (
        b"up,job=a\\ b value=1 1700000000000000000\nup,job=a\\ b value=0.5 1700000001000000000\n"
        b"cpu:rate value=1e300 1000000\n"
    )
    assert rig.balanced()


def test_stale_markers_are_no_reason_to_refuse(rig: Rig) -> None:
    answer = push(rig, series({"__name__": "up"}, (NAN, 1), (1.0, 2)), "/api/v1/write")
    assert answer.status == 204
    assert rig.written() == b"up value=1 2000000\n"
    assert rig.counted()["dropped"] == {"number": 1}
    assert push(rig, b"").status == 204


def test_a_malformed_message_is_refused_for_good(rig: Rig) -> None:
    answer = push(rig, series({"__name__": "up"}, (1.0, 1)) + b"\x0a\x7f\x00")
    assert answer.status == 400
    assert answer.body == b"the message is malformed behind the first 1 samples\n"
    assert rig.written() == b"up value=1 1000000\n"
    assert rig.balanced()


@pytest.mark.parametrize(
    "kind", ["application/x-protobuf", "application/x-protobuf;proto=prometheus.WriteRequest"]
)
def test_version_1_by_its_names(rig: Rig, kind: str) -> None:
    assert push(rig, series({"__name__": "up"}, (1.0, 1)), **{"Content-Type": kind}).status == 204


def test_full_buffers_are_503_which_prometheus_tries_again() -> None:
    message = b"".join(series({"__name__": "m", "n": f"{n:0100}"}, (1.0, n)) for n in range(3000))
    with Rig(ring_bytes=1 << 18) as rig:
        first, second = push(rig, message), push(rig, message)
        assert [one.status for one in (first, second)] == [503, 503]
        assert first.body.startswith(b"the buffers are full: ")
        assert second.body == b"the buffers are full; nothing was taken\n"
        assert first.headers["retry-after"] == second.headers["retry-after"] == "1"
        assert rig.balanced()


# ---- OTLP ----


def request(*metrics: dict[str, Any]) -> bytes:
    """An ExportMetricsServiceRequest in JSON."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "a b"}}]}
    return json.dumps(
        {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": list(metrics)}]}]}
    ).encode()


def gauge(name: str, value: object, time: int = 1_700_000_000_000_000_001) -> dict[str, Any]:
    return {"name": name, "gauge": {"dataPoints": [{"asDouble": value, "timeUnixNano": str(time)}]}}


GOOD = request(gauge("temperature", 21.5), gauge("other", -1.0))
LINES = (
    b"temperature,service.name=a\\ b gauge=21.5 1700000000000000001\n"
    b"other,service.name=a\\ b gauge=-1 1700000000000000001\n"
)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-protobuf", "application/json; charset=utf-8"]
)
def test_points_of_either_form(rig: Rig, kind: str, encoding: str) -> None:
    body = GOOD if "json" in kind else transcode(GOOD)
    body = gzip.compress(body) if encoding == "gzip" else body
    answer = rig.ask("/v1/metrics", body, {"Content-Type": kind, "Content-Encoding": encoding})
    assert (answer.status, answer.body) == (200, b"{}" if "json" in kind else b"")
    assert answer.headers["content-type"] == kind.partition(";")[0]
    assert rig.written() == LINES
    assert rig.balanced()


def test_a_partial_success_says_what_was_not_taken(rig: Rig) -> None:
    body = request(gauge("good", 1.0), gauge("bad", "NaN"), gauge("worse", "Infinity"))
    answer = rig.ask("/v1/metrics", body, {"Content-Type": "application/json"})
    assert answer.status == 200
    partial = answer.json["partialSuccess"]
    assert partial["rejectedDataPoints"] == "2"
    assert partial["errorMessage"].startswith("not taken: ")
    assert rig.written() == b"good,service.name=a\\ b gauge=1 1700000000000000001\n"
    message = partial["errorMessage"].encode()
    answer = rig.ask("/v1/metrics", transcode(body), {"Content-Type": "application/x-protobuf"})
    assert answer.body == field(1, b"\x08\x02" + field(2, message))
    assert rig.balanced()


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("application/json", b"{", 400, "the body is no ExportMetricsServiceRequest in JSON: it is no JSON"),
        ("application/json", b"[]", 400, "the body is no ExportMetricsServiceRequest in JSON: the body: "),
        ("application/x-protobuf", b"\x0a\x7f", 400, "the message is malformed behind the first 0 samples"),
        ("text/plain", b"", 415, "Content-Type 'text/plain' is not known here; "),
    ],
)
def test_errors_are_a_status_of_rpc(rig: Rig, kind: str, body: bytes, status: int, message: str) -> None:
    answer = rig.ask("/v1/metrics", body, {"Content-Type": kind})
    assert answer.status == status
    if kind == "application/json":
        assert answer.json["code"] == 3
        assert answer.json["message"].startswith(message)
    else:
        assert answer.headers["content-type"] == "application/x-protobuf"
        assert answer.body.startswith(b"\x08\x03\x12")
        assert message.encode() in answer.body
    assert rig.written() == b""


def test_tokens_are_for_otlp_too() -> None:
    with Rig({"tokens": ("t",)}) as rig:
        kind = {"Content-Type": "application/json"}
        answer = rig.ask("/v1/metrics", GOOD, kind)
        assert (answer.status, answer.json["code"]) == (401, 16)
        assert rig.ask("/v1/metrics", GOOD, {**kind, "Authorization": "Bearer t"}).status == 200
        assert rig.written() == LINES
