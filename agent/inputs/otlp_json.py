"""OTLP's JSON as the protocol buffers that it stands for: one reader, and one mapping, are for both.

The JSON is proto3's with two exceptions (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding):
ids are hexadecimal, and enums are numbers (names are understood too). Integers of 64 bits may be strings,
numbers may be ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, and unknown keys are passed over. Exemplars,
descriptions and other things that no point is made of are left out.
"""

import base64
import binascii
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

DEPTH_MAX = 64
"""Of messages in one another; arrays and maps in attributes count."""


class Field(NamedTuple):
    """A field of a message: its number, how its value is written, and whether there may be many."""

    number: int
    kind: str
    repeated: bool = False


_POINT = {"startTimeUnixNano": Field(2, "fixed64"), "timeUnixNano": Field(3, "fixed64")}
_TEMPORALITY = Field(2, "temporality")

SCHEMA: Mapping[str, Mapping[str, Field]] = {
    "Request": {"resourceMetrics": Field(1, "ResourceMetrics", True)},
    "ResourceMetrics": {"resource": Field(1, "Resource"), "scopeMetrics": Field(2, "ScopeMetrics", True)},
    "Resource": {"attributes": Field(1, "KeyValue", True)},
    "ScopeMetrics": {"scope": Field(1, "Scope"), "metrics": Field(2, "Metric", True)},
    "Scope": {
        "name": Field(1, "string"),
        "version": Field(2, "string"),
        "attributes": Field(3, "KeyValue", True),
    },
    "Metric": {
        "name": Field(1, "string"),
        "unit": Field(3, "string"),
        "gauge": Field(5, "Gauge"),
        "sum": Field(7, "Sum"),
        "histogram": Field(9, "Histogram"),
        "exponentialHistogram": Field(10, "ExponentialHistogram"),
        "summary": Field(11, "Summary"),
    },
    "Gauge": {"dataPoints": Field(1, "NumberDataPoint", True)},
    "Sum": {
        "dataPoints": Field(1, "NumberDataPoint", True),
        "aggregationTemporality": _TEMPORALITY,
        "isMonotonic": Field(3, "bool"),
    },
    "Histogram": {
        "dataPoints": Field(1, "HistogramDataPoint", True),
        "aggregationTemporality": _TEMPORALITY,
    },
    "ExponentialHistogram": {
        "dataPoints": Field(1, "ExponentialHistogramDataPoint", True),
        "aggregationTemporality": _TEMPORALITY,
    },
    "Summary": {"dataPoints": Field(1, "SummaryDataPoint", True)},
    "NumberDataPoint": {
        **_POINT,
        "asDouble": Field(4, "double"),
        "asInt": Field(6, "sfixed64"),
        "attributes": Field(7, "KeyValue", True),
        "flags": Field(8, "uint32"),
    },
    "HistogramDataPoint": {
        **_POINT,
        "count": Field(4, "fixed64"),
        "sum": Field(5, "double"),
        "bucketCounts": Field(6, "fixed64", True),
        "explicitBounds": Field(7, "double", True),
        "attributes": Field(9, "KeyValue", True),
        "flags": Field(10, "uint32"),
        "min": Field(11, "double"),
        "max": Field(12, "double"),
    },
    "ExponentialHistogramDataPoint": {
        **_POINT,
        "attributes": Field(1, "KeyValue", True),
        "count": Field(4, "fixed64"),
        "sum": Field(5, "double"),
        "scale": Field(6, "sint32"),
        "zeroCount": Field(7, "fixed64"),
        "positive": Field(8, "Buckets"),
        "negative": Field(9, "Buckets"),
        "flags": Field(10, "uint32"),
        "min": Field(12, "double"),
        "max": Field(13, "double"),
        "zeroThreshold": Field(14, "double"),
    },
    "Buckets": {"offset": Field(1, "sint32"), "bucketCounts": Field(2, "uint64", True)},
    "SummaryDataPoint": {
        **_POINT,
        "count": Field(4, "fixed64"),
        "sum": Field(5, "double"),
        "quantileValues": Field(6, "ValueAtQuantile", True),
        "attributes": Field(7, "KeyValue", True),
        "flags": Field(8, "uint32"),
    },
    "ValueAtQuantile": {"quantile": Field(1, "double"), "value": Field(2, "double")},
    "KeyValue": {"key": Field(1, "string"), "value": Field(2, "AnyValue")},
    "AnyValue": {
        "stringValue": Field(1, "string"),
        "boolValue": Field(2, "bool"),
        "intValue": Field(3, "int64"),
        "doubleValue": Field(4, "double"),
        "arrayValue": Field(5, "ArrayValue"),
        "kvlistValue": Field(6, "KeyValueList"),
        "bytesValue": Field(7, "bytes"),
    },
    "ArrayValue": {"values": Field(1, "AnyValue", True)},
    "KeyValueList": {"values": Field(1, "KeyValue", True)},
}
"""Messages by name, and their fields by the names that they have in JSON."""

_TEMPORALITIES = {
    "AGGREGATION_TEMPORALITY_UNSPECIFIED": 0,
    "AGGREGATION_TEMPORALITY_DELTA": 1,
    "AGGREGATION_TEMPORALITY_CUMULATIVE": 2,
}


def transcode(body: bytes | bytearray | memoryview) -> bytes:
    """The ExportMetricsServiceRequest that *body* is in JSON, serialized.

    Raises ValueError, which says where it is wrong, for what is no JSON or has another shape.
    """
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    return _message("Request", tree, "", 0)


def _message(name: str, tree: object, path: str, depth: int) -> bytes:
    if not isinstance(tree, dict):
        raise ValueError(f"{path or 'the body'}: wanted an object")
    if depth > DEPTH_MAX:
        raise ValueError(f"{path}: more than {DEPTH_MAX} objects in one another")
    parts = []
    fields = _FIELDS[name]
    for key, value in tree.items():
        field = fields.get(key)
        if field is not None and value is not None:
            parts.append(_field(field, value, f"{path}.{key}" if path else key, depth))
    return b"".join(parts)


def _field(field: Field, value: Any, path: str, depth: int) -> bytes:
    if field.repeated and not isinstance(value, list):
        raise ValueError(f"{path}: wanted an array")
    if field.kind in SCHEMA:
        items = [(path, value)]
        if field.repeated:
            items = [(f"{path}[{index}]", one) for index, one in enumerate(value)]
        return b"".join(
            _delimited(field.number, _message(field.kind, one, where, depth + 1)) for where, one in items
        )
    kind = _KINDS[field.kind]
    try:
        if field.repeated:
            return _delimited(field.number, b"".join(map(kind.write, value)))
        return _varint(field.number << 3 | kind.wire) + kind.write(value)
    except (ValueError, TypeError, struct.error, OverflowError, binascii.Error):
        raise ValueError(f"{path}: wanted {field.kind}") from None


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _integer(value: object, low: int, high: int) -> int:
    """A whole number, or one in a string; 1.0 is one too. Raises ValueError, TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = int(value)
    if (isinstance(value, float) and number != value) or not low <= number <= high:
        raise ValueError
    return number


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    data = value.encode()
    return _varint(len(data)) + data


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    return _varint(len(data)) + data


def _flag(value: object) -> bytes:
    if not isinstance(value, bool):
        raise TypeError
    return bytes((value,))


def _temporality(value: object) -> bytes:
    return _varint(_TEMPORALITIES[value] if value in _TEMPORALITIES else _integer(value, 0, 2**31 - 1))


def _zigzag(value: object) -> bytes:
    number = _integer(value, -(2**31), 2**31 - 1)
    return _varint(number << 1 if number >= 0 else (-number << 1) - 1)


class _Kind(NamedTuple):
    wire: int
    write: Callable[[Any], bytes]


_KINDS = {
    "string": _Kind(2, _text),
    "bytes": _Kind(2, _bytes),
    "bool": _Kind(0, _flag),
    "int64": _Kind(0, lambda value: _varint(_integer(value, -(2**63), 2**63 - 1) & 2**64 - 1)),
    "uint64": _Kind(0, lambda value: _varint(_integer(value, 0, 2**64 - 1))),
    "uint32": _Kind(0, lambda value: _varint(_integer(value, 0, 2**32 - 1))),
    "sint32": _Kind(0, _zigzag),
    "temporality": _Kind(0, _temporality),
    "fixed64": _Kind(1, lambda value: struct.pack("<Q", _integer(value, 0, 2**64 - 1))),
    "sfixed64": _Kind(1, lambda value: struct.pack("<q", _integer(value, -(2**63), 2**63 - 1))),
    "double": _Kind(1, lambda value: struct.pack("<d", _real(value))),
}


def _snake(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name)


# Parsers of proto3's JSON understand the names of the schema too.
_FIELDS = {
    name: {**fields, **{_snake(key): field for key, field in fields.items()}}
    for name, fields in SCHEMA.items()
}
