"""Prometheus remote write for Google's protobuf runtime: messages from a schema of our own, without protoc.

The specifications: https://prometheus.io/docs/specs/prw/remote_write_spec/ (and ``_2_0/``). Only what is
written here is declared, so a parsed message that has unknown fields holds something that nobody meant.
"""

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto

# Message: field: (number, type, repeated).
SCHEMA = {
    "one.Label": {"name": (1, "string", False), "value": (2, "string", False)},
    "one.Sample": {"value": (1, "double", False), "timestamp": (2, "int64", False)},
    "one.TimeSeries": {"labels": (1, "one.Label", True), "samples": (2, "one.Sample", True)},
    "one.WriteRequest": {"timeseries": (1, "one.TimeSeries", True)},
    "two.Sample": {"value": (1, "double", False), "timestamp": (2, "int64", False)},
    "two.TimeSeries": {"labels_refs": (1, "uint32", True), "samples": (2, "two.Sample", True)},
    "two.Request": {"symbols": (4, "string", True), "timeseries": (5, "two.TimeSeries", True)},
}


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for package in ("one", "two"):
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        for name, fields in SCHEMA.items():
            if not name.startswith(package + "."):
                continue
            message = file.message_type.add(name=name.partition(".")[2])
            for field, (number, kind, repeated) in fields.items():
                label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
                if "." in kind:
                    message.field.add(
                        name=field, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=f".{kind}"
                    )
                else:
                    message.field.add(
                        name=field, number=number, label=label, type=getattr(_Field, f"TYPE_{kind.upper()}")
                    )
        pool.Add(file)
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of a message of :data:`SCHEMA`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


WriteRequest = message("one.WriteRequest")
Request = message("two.Request")


@dataclass(frozen=True)
class Sample:
    """One sample with its series."""

    labels: tuple[tuple[str, str], ...]
    """In the order in which they stand."""
    value: float
    time_ms: int


def samples(body: bytes) -> list[Sample]:
    """What a WriteRequest of version 1 holds. Raises ValueError if there is anything else in it."""
    request = WriteRequest.FromString(body)
    check_whole(request, body)
    return [
        Sample(tuple((label.name, label.value) for label in series.labels), one.value, one.timestamp)
        for series in request.timeseries
        for one in series.samples
    ]


def samples_2(body: bytes) -> list[Sample]:
    """What a Request of version 2 holds. Raises ValueError if there is anything else, or too much, in it."""
    request = Request.FromString(body)
    check_whole(request, body)
    symbols = list(request.symbols)
    if symbols[0] != "" or len(set(symbols)) != len(symbols):
        raise ValueError("the first symbol is not empty, or some are there twice")
    used = {0, *(number for series in request.timeseries for number in series.labels_refs)}
    if used != set(range(len(symbols))):
        raise ValueError("some symbols are of no use, or not there")
    return [
        Sample(tuple(zip(names[::2], names[1::2], strict=True)), one.value, one.timestamp)
        for series in request.timeseries
        for names in [[symbols[number] for number in series.labels_refs]]
        for one in series.samples
    ]


def check_whole(request: Any, body: bytes) -> None:
    """Raises ValueError if *request*, parsed from *body*, does not hold all of it."""
    explicit = type(request).FromString(body)
    explicit.DiscardUnknownFields()
    if explicit.ByteSize() != request.ByteSize():
        raise ValueError("there are fields that nobody has declared")
