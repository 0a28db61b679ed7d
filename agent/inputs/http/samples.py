"""Remote write and OTLP over HTTP: what is taken of a request, and what each answers.

https://prometheus.io/docs/specs/prw/remote_write_spec/
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from email.message import Message
from typing import TYPE_CHECKING

import orjson

from agent.accounts import WILLED
from agent.inputs.http.refused import Refused, varint
from agent.inputs.otlp_json import transcode

if TYPE_CHECKING:
    from agent._core import FeedResult

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_PROTO_V1 = ("", "prometheus.WriteRequest")


def check_remote_write(content_type: str) -> None:
    """Raise Refused, 415, unless it is remote write 1.0: so a client of 2.0 falls back to it."""
    kind, parameter = _content_type(content_type, "proto")
    if kind not in ("", PROTOBUF) or parameter not in _PROTO_V1:
        raise Refused(
            415, f"Content-Type {content_type!r} is not known here; {PROTOBUF} of remote write 1.0 is"
        )


def is_json(content_type: str) -> bool:
    """Whether an OTLP request is JSON, not protobuf. Raises Refused, 415, if it is neither."""
    kind, _ = _content_type(content_type, "")
    if kind not in (PROTOBUF, JSON):
        raise Refused(415, f"Content-Type {content_type!r} is not known here; {PROTOBUF} and {JSON} are")
    return kind == JSON


def _content_type(text: str, parameter: str) -> tuple[str, str]:
    """The type in small letters, and one of its parameters."""
    header = Message()
    header["Content-Type"] = text
    value = header.get_param(parameter, "") if parameter else ""
    return text.partition(";")[0].strip().lower(), value if isinstance(value, str) else ""


def refusal(result: "FeedResult") -> Refused | None:
    """Why a request is to be sent again, or never; None if what can be taken is in the rings.

    Samples that no line can hold, such as the NaN that marks a series as stale, are no reason: they are
    counted as dropped. 503 stands for full buffers here: Prometheus gives up after a 429.
    """
    received, dropped = result["received"], result["dropped"]
    if full := dropped.get("ring_full", 0):
        return Refused(
            503,
            f"the buffers are full: {full} of {received} samples found no room; send all again",
            headers={"Retry-After": "1"},
        )
    if "protobuf" in dropped:
        return Refused(400, f"the message is malformed behind the first {received - 1} samples")
    return None


def from_json(message: bytes) -> bytes:
    """OTLP's JSON as protobuf. Raises Refused, 400."""
    try:
        return transcode(message)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise Refused(400, f"the body is no ExportMetricsServiceRequest in JSON: {error}") from error


def otlp_success(result: "FeedResult", json: bool) -> bytes:
    """An ExportMetricsServiceResponse, which says how many points were not taken, and why."""
    dropped = {reason: count for reason, count in result["dropped"].items() if reason not in WILLED}
    rejected = sum(dropped.values())
    if not rejected:
        return b"{}" if json else b""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
    message = f"not taken: {reasons}"
    if json:
        # A 64-bit number is a string in the JSON of protobuf.
        return orjson.dumps(
            {"partialSuccess": {"rejectedDataPoints": str(rejected), "errorMessage": message}}
        )
    text = message.encode()
    partial = b"\x08%b\x12%b%b" % (varint(rejected), varint(len(text)), text)
    return b"\x0a%b%b" % (varint(len(partial)), partial)
