"""OTLP by way of its own schema: JSON is turned into what Google's runtime makes of it, and read the same."""

import base64
import json
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

from agent._core import read_format
from agent.inputs.otlp_json import transcode
from tests.conftest import examples

NAMES = st.sampled_from(["host", "a b", "time", "é", "x=y", "c\\", "", "k" * 150])
TEXTS = st.text(max_size=6)
DOUBLES = st.floats() | st.integers(-1000, 1000)
COUNTS = st.integers(0, 2**64 - 1) | st.integers(0, 9)
TIMES = st.just("1700000000000000000") | st.integers(0, 2**64 - 1).map(str) | st.just(0)

SCALARS = st.one_of(
    st.fixed_dictionaries({"stringValue": TEXTS}),
    st.fixed_dictionaries({"boolValue": st.booleans()}),
    st.fixed_dictionaries({"intValue": st.integers(-(2**63), 2**63 - 1).map(str)}),
    st.fixed_dictionaries({"doubleValue": DOUBLES}),
    st.fixed_dictionaries({"bytesValue": st.binary(max_size=5).map(lambda x: base64.b64encode(x).decode())}),
    st.just({}),
)


def key_values(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.fixed_dictionaries({"key": NAMES, "value": values}), max_size=3)


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"arrayValue": st.fixed_dictionaries({"values": st.lists(inner, max_size=3)})}),
        st.fixed_dictionaries({"kvlistValue": st.fixed_dictionaries({"values": key_values(inner)})}),
    ),
    max_leaves=4,
)
ATTRIBUTES = key_values(VALUES)
SHARED = {"attributes": ATTRIBUTES, "flags": st.sampled_from([0, 0, 0, 1]), "timeUnixNano": TIMES}
NUMBER = st.one_of(
    st.fixed_dictionaries({**SHARED, "asDouble": DOUBLES}),
    st.fixed_dictionaries({**SHARED, "asInt": st.integers(-(2**63), 2**63 - 1).map(str)}),
    st.fixed_dictionaries(SHARED),
)
TOTALS = {"count": COUNTS.map(str), "sum": DOUBLES, "min": DOUBLES, "max": DOUBLES}
BUCKETS = st.fixed_dictionaries(
    {"offset": st.integers(-40, 40), "bucketCounts": st.lists(COUNTS.map(str), max_size=6)}
)
HISTOGRAM = st.integers(0, 4).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            **SHARED,
            **TOTALS,
            "bucketCounts": st.lists(COUNTS.map(str), min_size=count, max_size=count + 2),
            "explicitBounds": st.lists(DOUBLES, min_size=count, max_size=count).map(sorted),
        }
    )
)
EXPONENTIAL = st.fixed_dictionaries(
    {
        **SHARED,
        **TOTALS,
        "scale": st.integers(-12, 22),
        "zeroCount": COUNTS.map(str),
        "positive": BUCKETS,
        "negative": BUCKETS,
    }
)
QUANTILES = st.lists(st.fixed_dictionaries({"quantile": DOUBLES, "value": DOUBLES}), max_size=4)
SUMMARY = st.fixed_dictionaries(
    {**SHARED, "count": COUNTS.map(str), "sum": DOUBLES, "quantileValues": QUANTILES}
)


def points(of: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"dataPoints": st.lists(of, max_size=3), **more})


TEMPORALITY = st.integers(0, 2)
DATA = st.one_of(
    st.fixed_dictionaries({"gauge": points(NUMBER)}),
    st.fixed_dictionaries(
        {"sum": points(NUMBER, aggregationTemporality=TEMPORALITY, isMonotonic=st.booleans())}
    ),
    st.fixed_dictionaries({"histogram": points(HISTOGRAM, aggregationTemporality=TEMPORALITY)}),
    st.fixed_dictionaries({"exponentialHistogram": points(EXPONENTIAL, aggregationTemporality=TEMPORALITY)}),
    st.fixed_dictionaries({"summary": points(SUMMARY)}),
)
METRICS = st.lists(
    st.tuples(NAMES, DATA).map(lambda one: {"name": one[0], "unit": "1", **one[1]}), max_size=3
)
SCOPES = st.lists(
    st.fixed_dictionaries(
        {
            "scope": st.fixed_dictionaries({"name": TEXTS, "version": TEXTS, "attributes": ATTRIBUTES}),
            "metrics": METRICS,
        }
    ),
    max_size=2,
)
REQUESTS = st.fixed_dictionaries(
    {
        "resourceMetrics": st.lists(
            st.fixed_dictionaries(
                {"resource": st.fixed_dictionaries({"attributes": ATTRIBUTES}), "scopeMetrics": SCOPES}
            ),
            max_size=2,
        )
    }
)


def spelled(tree: Any) -> Any:
    """*tree* with the names that JSON has for numbers which are none."""
    if isinstance(tree, dict):
        return {key: spelled(tree[key]) for key in sorted(tree)}
    if isinstance(tree, list):
        return [spelled(value) for value in tree]
    if isinstance(tree, float) and (tree != tree or tree in (float("inf"), -float("inf"))):
        return "NaN" if tree != tree else "Infinity" if tree > 0 else "-Infinity"
    return tree


@settings(max_examples=examples(700), deadline=None)
@given(REQUESTS)
def test_json_is_what_it_is_for_googles_runtime(tree: dict[str, Any]) -> None:
    tree = spelled(tree)
    theirs = json_format.ParseDict(tree, service.ExportMetricsServiceRequest())
    body = transcode(json.dumps(tree).encode())
    ours = service.ExportMetricsServiceRequest.FromString(body)
    # As text: what is not a number equals nothing, not even itself.
    assert str(ours) == str(theirs)
    serialized = theirs.SerializeToString()
    first, second = (read_format(one, "otlp", now_ns=1) for one in (body, serialized))
    assert first == second
    assert first["received"] == first["accepted"] + sum(first["dropped"].values())
    assert "protobuf" not in first["dropped"]
    count = sum(
        len(data.data_points)
        for resource in theirs.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.WhichOneof("data")
        for data in [getattr(metric, metric.WhichOneof("data"))]
    )
    assert first["received"] == count
    for cut in range(0, len(serialized), 1 + len(serialized) // 20):
        part = read_format(serialized[:cut], "otlp", now_ns=1)
        assert second["body"].startswith(part["body"])
        assert part["dropped"].get("protobuf", 0) <= 1
