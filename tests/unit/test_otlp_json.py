"""OTLP's JSON: the same points as protocol buffers, and what every mistake is told as."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent._core import read_format
from agent.inputs.otlp_json import transcode
from tests.conftest import missing
from tests.reference import wire

EXAMPLE = Path(__file__).resolve().parents[3] / "shared" / "corpora" / "otlp_example_metrics.json"


def request(**point: Any) -> bytes:
    metrics = [{"name": "m", "gauge": {"dataPoints": [point]}}]
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}).encode()


def wired(*point: bytes) -> bytes:
    metric = wire.data(2, wire.data(1, b"m"), wire.data(5, wire.data(1, *point)))
    return wire.data(1, wire.data(2, metric))


@pytest.mark.parametrize(
    ("point", "parts"),
    [
        ({}, []),
        ({"timeUnixNano": "7", "asInt": "-1"}, [wire.fixed64(3, 7), wire.fixed64(6, -1)]),
        ({"timeUnixNano": 7, "asInt": 1.0}, [wire.fixed64(3, 7), wire.fixed64(6, 1)]),
        ({"time_unix_nano": 7, "as_double": 1}, [wire.fixed64(3, 7), wire.double(4, 1)]),
        ({"asDouble": "-Infinity"}, [wire.double(4, -float("inf"))]),
        ({"asDouble": "1.5"}, [wire.double(4, 1.5)]),
        ({"flags": 1, "unknown": {"x": [1]}, "exemplars": [{"asInt": "x"}]}, [wire.number(8, 1)]),
        ({"flags": None, "attributes": []}, []),
        (
            {"attributes": [{"key": "k", "value": {"stringValue": "é" * 100}}]},
            [wire.data(7, wire.data(1, b"k"), wire.data(2, wire.data(1, ("é" * 100).encode())))],
        ),
        (
            {
                "attributes": [
                    {"key": "k", "value": {"intValue": "-1"}},
                    {"key": "l", "value": {"bytesValue": "-_8"}},
                ]
            },
            [
                wire.data(7, wire.data(1, b"k"), wire.data(2, wire.number(3, -1))),
                wire.data(7, wire.data(1, b"l"), wire.data(2, wire.data(7, b"\xfb\xff"))),
            ],
        ),
    ],
)
def test_json_becomes_the_protocol_buffer_that_it_stands_for(
    point: dict[str, Any], parts: list[bytes]
) -> None:
    assert transcode(request(**point)) == wired(*parts)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "it is no JSON: unexpected end of data"),
        (b"[]", "the body: wanted an object"),
        (b'{"resourceMetrics": {}}', "resourceMetrics: wanted an array"),
        (b'{"resourceMetrics": [1]}', "resourceMetrics[0]: wanted an object"),
        (
            request(asInt="x"),
            "resourceMetrics[0].scopeMetrics[0].metrics[0].gauge.dataPoints[0].asInt: wanted sfixed64",
        ),
        (request(asInt=1.5), "asInt: wanted sfixed64"),
        (request(asInt=str(2**63)), "asInt: wanted sfixed64"),
        (request(asInt=True), "asInt: wanted sfixed64"),
        (request(asDouble="x"), "asDouble: wanted double"),
        (request(timeUnixNano=-1), "timeUnixNano: wanted fixed64"),
        (request(flags=[]), "flags: wanted uint32"),
        (request(attributes=[{"key": 1}]), "key: wanted string"),
        (request(attributes=[{"value": {"boolValue": 1}}]), "boolValue: wanted bool"),
        (request(attributes=[{"value": {"bytesValue": "!"}}]), "bytesValue: wanted bytes"),
    ],
)
def test_mistakes_are_told(body: bytes, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        transcode(body)
    assert problem in str(caught.value)


def test_what_is_too_deep_is_a_mistake() -> None:
    deep: dict[str, Any] = {"intValue": 1}
    for _ in range(100):
        deep = {"arrayValue": {"values": [deep]}}
    with pytest.raises(ValueError, match="more than 64 objects in one another"):
        transcode(request(attributes=[{"key": "k", "value": deep}]))


def test_the_example_of_the_specification() -> None:
    if not EXAMPLE.exists():
        missing(f"no corpus at {EXAMPLE}")
    result = read_format(transcode(json.dumps(json.loads(EXAMPLE.read_text())).encode()), "otlp")
    tags = "otel.library.name=my.library,otel.library.version=1.0.0,service.name=my.service"
    attribute = {
        name: f"my.{name}.attr=some\\ value"
        for name in ("counter", "gauge", "histogram", "exponential.histogram")
    }
    assert result["body"].decode().splitlines() == [
        f"my.{name},{tags},{attribute[name]} {fields} 1544712660300000000"
        for name, fields in (
            ("counter", "gauge=5"),  # of temporality delta: no counter
            ("gauge", "gauge=10"),
            ("histogram", "count=2,sum=2,min=0,max=2,1=1,+Inf=2"),
            ("exponential.histogram", "count=3,sum=10,min=0,max=5,zero_count=1,4=1,8=3,+Inf=3"),
        )
    ]
    assert (result["received"], result["dropped"]) == (4, {})
