"""Answers to requests that are refused, each in the shape that the clients of its endpoint know.

Shapes as of InfluxDB 1.8, 2.7 and 3 Core, of Prometheus (plain text), and of the OTLP specification, whose
errors are a google.rpc.Status.
"""

from enum import Enum

import orjson


class Shape(Enum):
    """Whose clients ask."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    TEXT = "text"
    OTLP = "otlp"
    OTLP_JSON = "otlp_json"


class Refused(Exception):
    """A request is answered with *status* and a *message*; *data* is more of it, for version 3."""

    def __init__(
        self, status: int, message: str, *, headers: dict[str, str] | None = None, data: object = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.data = data


_V2_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    408: "request timeout",
    413: "request too large",
    415: "unsupported media type",
    429: "too many requests",
    503: "unavailable",
}
_UNAUTHORIZED = {Shape.V2: "unauthorized access", Shape.V3: "the request was not authenticated"}
# google.rpc.Code
_RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 413: 8, 415: 3, 429: 8, 503: 14}


def body(shape: Shape, refused: Refused) -> tuple[bytes, str]:
    """The body of the answer, and its content type."""
    status = refused.status
    message = _UNAUTHORIZED.get(shape, refused.message) if status == 401 else refused.message
    if shape is Shape.V1:
        return orjson.dumps({"error": message}, option=orjson.OPT_APPEND_NEWLINE), "application/json"
    if shape is Shape.V2:
        code = _V2_CODES.get(status, "internal error")
        return orjson.dumps({"code": code, "message": message}), "application/json; charset=utf-8"
    if shape is Shape.V3:
        shown: dict[str, object] = {"error": message}
        if refused.data is not None:
            shown["data"] = refused.data
        return orjson.dumps(shown), "application/json"
    if shape is Shape.OTLP_JSON:
        return orjson.dumps({"code": _RPC_CODES.get(status, 13), "message": message}), "application/json"
    if shape is Shape.OTLP:
        text = message.encode()
        return b"\x08%c\x12%b%b" % (
            _RPC_CODES.get(status, 13),
            varint(len(text)),
            text,
        ), "application/x-protobuf"
    return message.encode() + b"\n", "text/plain; charset=utf-8"


def varint(number: int) -> bytes:
    """A protobuf varint of *number*, which is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
