"""OpenTelemetry's metrics, by table: what each kind of data point becomes, and what is malformed."""

import math
import struct
from typing import Any

import orjson
import pytest

from agent._core import Feed, Ring, Waker, read_format
from agent.inputs.otlp_json import transcode
from tests.reference.wire import data, double, fixed64, number

TIME = 1_544_712_660_300_000_000
NOW = 1_700_000_000_000_000_000


def attributes(**values: Any) -> list[dict[str, Any]]:
    """Attributes by key; a value is that of an AnyValue, or a string."""
    return [
        {"key": key, "value": {"stringValue": value} if isinstance(value, str) else value}
        for key, value in values.items()
    ]


def request(*metrics: dict[str, Any], resource: Any = (), scope: Any = None) -> bytes:
    tree = {
        "resourceMetrics": [
            {
                "resource": {"attributes": list(resource)},
                "scopeMetrics": [{"scope": scope or {}, "metrics": list(metrics)}],
            }
        ]
    }
    return transcode(orjson.dumps(tree))


def gauge(**point: Any) -> dict[str, Any]:
    return {"name": "m", "gauge": {"dataPoints": [{"timeUnixNano": str(TIME), **point}]}}


def of_kind(kind: str, point: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "m", kind: {"dataPoints": [{"timeUnixNano": str(TIME), **point}], **more}}


def read(*metrics: dict[str, Any], **of: Any) -> tuple[list[str], dict[str, int]]:
    """Lines without their time, and what was dropped."""
    result = read_format(request(*metrics, **of), "otlp", now_ns=NOW)
    assert result["received"] == result["accepted"] + sum(result["dropped"].values())
    lines = result["body"].decode().splitlines()
    assert all(line.endswith(f" {TIME}") for line in lines)
    return [line.removesuffix(f" {TIME}") for line in lines], result["dropped"]


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        (gauge(asDouble=1.5), "m gauge=1.5"),
        (gauge(asInt="-7"), "m gauge=-7i"),
        (gauge(asInt=0), "m gauge=0i"),
        (of_kind("sum", {"asInt": 3}, isMonotonic=True, aggregationTemporality=2), "m counter=3i"),
        (of_kind("sum", {"asDouble": 3}, isMonotonic=True, aggregationTemporality=1), "m gauge=3"),
        (of_kind("sum", {"asDouble": 3}, aggregationTemporality=2), "m gauge=3"),
        (
            of_kind(
                "sum",
                {"asDouble": 3},
                isMonotonic=True,
                aggregationTemporality="AGGREGATION_TEMPORALITY_CUMULATIVE",
            ),
            "m counter=3",
        ),
        (of_kind("histogram", {"count": 3}), "m count=3"),
        (
            of_kind(
                "histogram",
                {
                    "count": "6",
                    "sum": 10.5,
                    "min": 0.5,
                    "max": 4,
                    "bucketCounts": ["1", "2", "3"],
                    "explicitBounds": [0.005, 1e10],
                },
            ),
            "m count=6,sum=10.5,min=0.5,max=4,0.005=1,10000000000=3,+Inf=6",
        ),
        (
            of_kind("histogram", {"count": 3, "bucketCounts": [1, 2], "explicitBounds": [1, 2]}),
            "m count=3,1=1,2=3,+Inf=3",
        ),
        (
            of_kind("histogram", {"count": 3, "bucketCounts": [1, 2], "explicitBounds": [1, "Infinity"]}),
            "m count=3,1=1,+Inf=3",
        ),
        (of_kind("histogram", {"count": 2, "sum": "NaN", "bucketCounts": [2]}), "m count=2,+Inf=2"),
        (
            of_kind(
                "summary",
                {
                    "count": 4,
                    "sum": 10,
                    "quantileValues": [
                        {"quantile": 0.5, "value": 2},
                        {"quantile": 0.99, "value": "NaN"},
                        {"value": 1},
                        {"quantile": 0.5, "value": 9},
                        {"quantile": 1, "value": 3.5},
                    ],
                },
            ),
            "m count=4,sum=10,0.5=2,0=1,1=3.5",
        ),
        (of_kind("summary", {}), "m count=0,sum=0"),
        (of_kind("exponentialHistogram", {"count": 0}), "m count=0,zero_count=0"),
        (
            # Scale 1: two buckets for each power of two; (1, √2], (√2, 2], (2, 2√2] and [-2, -√2).
            of_kind(
                "exponentialHistogram",
                {
                    "count": 11,
                    "sum": 5,
                    "scale": 1,
                    "zeroCount": 1,
                    "positive": {"offset": 0, "bucketCounts": [1, 2, 4]},
                    "negative": {"offset": 1, "bucketCounts": [3]},
                },
            ),
            "m count=11,sum=5,zero_count=1,-1=3,2=7,4=11,+Inf=11",
        ),
        (
            # Scale -1: one bucket for two powers of two; (1/4, 1] and (1, 4].
            of_kind(
                "exponentialHistogram",
                {"count": 3, "scale": -1, "positive": {"offset": -1, "bucketCounts": [1, 2]}},
            ),
            "m count=3,zero_count=0,1=1,2=1,4=3,+Inf=3",
        ),
        (
            # Beyond what a double can say, on both sides.
            of_kind(
                "exponentialHistogram",
                {
                    "count": 2,
                    "scale": -10,
                    "positive": {"offset": 1, "bucketCounts": [1]},
                    "negative": {"offset": -3, "bucketCounts": [1]},
                },
            ),
            "m count=2,zero_count=0,+Inf=2",
        ),
        (
            # The least scale that there is.
            of_kind(
                "exponentialHistogram",
                {"count": 1, "scale": -(2**31), "positive": {"offset": 1, "bucketCounts": [1]}},
            ),
            "m count=1,zero_count=0,+Inf=1",
        ),
    ],
)
def test_a_data_point_becomes_a_line(metric: dict[str, Any], line: str) -> None:
    assert read(metric) == ([line], {})


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ({"stringValue": "a b,c=d"}, "a\\ b\\,c\\=d"),
        ({"boolValue": True}, "true"),
        ({"boolValue": False}, "false"),
        ({"intValue": "-9007199254740993"}, "-9007199254740993"),
        ({"doubleValue": 0.1}, "0.1"),
        ({"doubleValue": "-Infinity"}, "-Infinity"),
        ({"bytesValue": "AP/+"}, "AP/+"),
        ({"bytesValue": "AP8="}, "AP8\\="),
        ({"arrayValue": {"values": [{"intValue": 1}, {"stringValue": 'x"y'}, {}]}}, '[1\\,"x\\"y"\\,null]'),
        ({"arrayValue": {}}, "[]"),
        (
            {
                "kvlistValue": {
                    "values": [
                        {"key": "a", "value": {"doubleValue": "NaN"}},
                        {"key": "b\n", "value": {"arrayValue": {"values": [{"boolValue": True}]}}},
                        {"key": "c"},
                    ]
                }
            },
            '{"a":"NaN"\\,"b\\u000a":[true]\\,"c":null}',
        ),
    ],
)
def test_an_attribute_becomes_a_tag(value: dict[str, Any], tag: str) -> None:
    assert read(gauge(asInt=1, attributes=attributes(k=value))) == ([f"m,k={tag} gauge=1i"], {})
    assert read(gauge(asInt=1), resource=attributes(k=value)) == ([f"m,k={tag} gauge=1i"], {})


def test_tags_are_of_scope_resource_and_point_and_the_first_stays() -> None:
    metrics = [gauge(asInt=1, attributes=attributes(host="p", a="1", time="t")), gauge(asInt=2)]
    lines, dropped = read(
        *metrics,
        resource=attributes(host="r", **{"": "x", "empty": "", "otel.library.name": "other"}),
        scope={"name": "lib", "version": "2", "attributes": attributes(left="out")},
    )
    shared = "m,otel.library.name=lib,otel.library.version=2,host=r"
    assert (lines, dropped) == ([f"{shared},a=1,time_=t gauge=1i", f"{shared} gauge=2i"], {})


def test_many_points_of_a_resource_with_many_attributes() -> None:
    many = attributes(**{f"k{index}": "v" for index in range(40)})
    points = [
        {"timeUnixNano": TIME, "asInt": index, "attributes": attributes(p="x", k3="y")} for index in range(50)
    ]
    lines, dropped = read({"name": "m", "gauge": {"dataPoints": points}}, resource=many)
    tags = "".join(f",k{index}=v" for index in range(40))
    assert lines == [f"m{tags},p=x gauge={index}i" for index in range(50)] and dropped == {}


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (gauge(), "value"),
        (gauge(asInt=1, flags=1), "value"),
        (of_kind("histogram", {"count": 1, "flags": 1}), "value"),
        (of_kind("summary", {"flags": 1}), "value"),
        (of_kind("exponentialHistogram", {"flags": 3}), "value"),
        (gauge(asDouble="NaN"), "number"),
        (gauge(asDouble="Infinity"), "number"),
        ({**gauge(asInt=1), "name": ""}, "measurement"),
        (gauge(asInt=1, timeUnixNano=str(2**63)), "timestamp_range"),
        (of_kind("histogram", {"count": 1, "bucketCounts": [1, 2, 3], "explicitBounds": [1]}), "field"),
        (of_kind("histogram", {"count": 1, "explicitBounds": [1]}), "field"),
        (of_kind("histogram", {"count": 1, "bucketCounts": [1, 2, 3], "explicitBounds": [2, 1]}), "number"),
        (of_kind("histogram", {"count": 1, "bucketCounts": [1, 2, 3], "explicitBounds": [1, 1]}), "number"),
        (of_kind("histogram", {"count": 1, "bucketCounts": [1, 2], "explicitBounds": ["NaN"]}), "number"),
        (
            of_kind("histogram", {"bucketCounts": [2**64 - 1, 1, 0], "explicitBounds": [1, 2]}),
            "number",
        ),
        (
            of_kind("histogram", {"bucketCounts": [0] * 1026, "explicitBounds": list(range(1025))}),
            "line_too_long",
        ),
        (of_kind("summary", {"quantileValues": [{"quantile": "NaN", "value": 1}]}), "number"),
        (
            of_kind("exponentialHistogram", {"positive": {"bucketCounts": [2**64 - 1]}, "zeroCount": 1}),
            "number",
        ),
        (
            gauge(asInt=1, attributes=attributes(**{f"k{index}": "v" for index in range(100)})),
            "tag",
        ),
        (gauge(asInt=1, attributes=attributes(k="x" * 65_536)), "key_too_long"),
    ],
)
def test_a_data_point_without_a_form_costs_itself(metric: dict[str, Any], reason: str) -> None:
    good = gauge(asInt=1)
    assert read(good, metric, good) == (["m gauge=1i"] * 2, {reason: 1})


def test_a_resource_that_cannot_be_written_costs_its_points() -> None:
    deep: dict[str, Any] = {"intValue": 1}
    for _ in range(17):
        deep = {"arrayValue": {"values": [deep]}}
    assert read(gauge(asInt=1), gauge(asInt=2), resource=attributes(k=deep)) == ([], {"tag": 2})
    assert read(gauge(asInt=1), scope={"name": "x" * 70_000}) == ([], {"key_too_long": 1})


def test_a_time_of_zero_is_now() -> None:
    body = request({"name": "m", "gauge": {"dataPoints": [{"asInt": 1}, {"asInt": 2}]}})
    assert read_format(body, "otlp", now_ns=NOW)["body"] == b"m gauge=1i %d\nm gauge=2i %d\n" % (NOW, NOW + 1)


def test_what_stands_before_what_is_malformed_is_kept() -> None:
    point = data(1, fixed64(3, TIME), double(4, 1.5))
    line = b"m gauge=1.5 %d\n" % TIME

    def whole(*points: bytes) -> bytes:
        return data(1, data(2, data(2, data(1, b"m"), data(5, *points))))

    good = whole(point)
    for bad in (
        b"\x0a",
        data(1, b"\x0a\x05"),
        number(1, 1),
        data(1, number(2, 1)),
        data(1, data(2, number(2, 1))),
        data(1, data(2, number(1, 1))),
        data(1, data(1, number(1, 1)), data(2)),
        data(1, data(2, data(2, number(1, 1)))),
        data(1, data(2, data(2, number(5, 1)))),
        whole(number(1, 1)),
        whole(data(1, number(3, TIME))),
        whole(data(1, number(4, 1))),
        whole(data(1, number(7, 1))),
        whole(data(1, data(7, number(1, 1)))),
        whole(data(1, data(7, data(2, number(1, 1))))),
        whole(data(1, data(7, data(2, data(5, number(1, 1)))))),
        whole(data(1, double(8, 1))),
        data(1, data(2, data(2, data(1, b"m"), data(9, data(1, data(6, b"1234567")))))),
        data(1, data(2, data(2, data(1, b"m"), data(10, data(1, data(8, data(2, b"\xff"))))))),
        data(1, data(2, data(2, data(1, b"m"), data(10, data(1, double(6, 1)))))),
        data(1, data(2, data(2, data(1, b"m"), data(11, data(1, number(6, 1)))))),
        data(1, data(2, data(2, data(1, b"m"), data(7, double(2, 1))))),
    ):
        result = read_format(good + bad + good, "otlp")
        assert (result["body"], result["dropped"], result["received"]) == (line, {"protobuf": 1}, 2), bad
    inner = read_format(whole(point, point, data(1, number(3, 1)), point), "otlp")
    assert (inner["body"], inner["dropped"]) == (line * 2, {"protobuf": 1})


def test_unpacked_and_unknown_fields_are_read_and_passed_over() -> None:
    unknown = number(99, 1) + data(98, b"x")
    point = data(
        1,
        fixed64(3, TIME),
        fixed64(4, 3),
        fixed64(6, 1),
        fixed64(6, 2),
        double(7, 1.0),
        data(8, b"exemplar"),
        unknown,
    )
    body = unknown + data(1, data(2, data(2, data(1, b"m"), data(9, point), unknown), unknown), unknown)
    assert read_format(body, "otlp")["body"] == b"m count=3,1=1,+Inf=3 %d\n" % TIME


def test_a_feed_says_how_many_points_were_rejected() -> None:
    feed, ring = Feed(), Ring(None, 1 << 20, Waker())
    feed.set_layout((), [ring])
    result = feed.read(
        0, request(gauge(asInt=1), gauge(), gauge(asDouble="NaN")), format="otlp", errors_max=5
    )
    assert (result["received"], result["accepted"], result["dropped"]) == (3, 1, {"value": 1, "number": 1})
    assert [(line, reason) for line, reason, _ in result["errors"]] == [(2, "value"), (3, "number")]


def test_numbers_are_written_as_they_are() -> None:
    for value in (5e-324, 1.7976931348623157e308, -0.0, 1 / 3):
        (line,), _ = read(gauge(asDouble=value))
        text = line.removeprefix("m gauge=")
        assert struct.pack("<d", float(text)) == struct.pack("<d", value) and math.isfinite(value)
