"""Metrics as a person gives them: taken apart, and each read by the reader that the agent has for them.

What is given is text, for every format: msgpack is given as JSON, protobuf as line protocol.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgpack  # type: ignore[import-untyped]
import orjson

from agent._core import Feed, Ring, Waker, read_format, read_lines, read_statsd, split_json
from agent.aggregation import make_aggregator
from agent.config import Listen
from agent.inputs.object_formats import JsonDecoder
from agent.templates import compile_templates

CHUNK_BYTES = 64 * 1024
"""What is read at once; longer metrics make it longer."""

_METRIC_BYTES_MAX = 1 << 20
"""What is longer without an end is malformed, wherever it is cut."""

_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}"]', re.DOTALL)
"""A text, or what begins or ends something."""

_QUOTED_LINES_MAX = 64
"""Lines that a text in quotation marks may go over."""

_RING_BYTES = 1 << 22
_EVERYTHING = 1 << 30

Read = Callable[[bytes], dict[str, int]]
"""Why metrics of a text would be dropped; empty if all are taken."""


class Metric(NamedTuple):
    """One metric, or some that cannot be told apart."""

    text: bytes
    """As it was given."""
    message: bytes
    """As it is sent; empty if it is malformed."""
    reason: str
    """Why it is malformed; empty if it is not."""


def chunks(read: Callable[[int], bytes], format: str) -> Iterator[bytes]:
    """What *read* gives, in pieces that end with a line (of JSON: with a value), until it gives nothing."""
    rest = b""
    while data := read(CHUNK_BYTES):
        rest += data
        end = _values_end(rest) if format in ("json", "msgpack") else rest.rfind(b"\n") + 1
        if len(rest) > _METRIC_BYTES_MAX:
            end = len(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _values_end(data: bytes) -> int:
    """Where the last value of JSON in *data* ends that is whole."""
    depth = end = 0
    for match in _JSON.finditer(data):
        if match[0] in (b"{", b"["):
            depth += 1
        elif match[0] in (b"}", b"]"):
            depth = max(0, depth - 1)
            end = end if depth else match.end()
        elif match[0] == b'"':
            break  # a text that has not ended yet
    return end


def metrics(data: bytes, listen: Listen, check: bool = True) -> Iterator[Metric]:
    """The metrics in *data* as a listener *listen* reads them; unless *check*, none is malformed."""
    if listen.format in ("json", "msgpack"):
        yield from _values(data, listen, check)
        return
    read = _reader(listen) if check else _unread
    lines = [line.strip(b"\r") for line in data.split(b"\n")]
    lines = [line for line in lines if line and not (listen.format == "line" and line.startswith(b"#"))]
    # With quotation marks a metric may go over several lines.
    if b'"' not in data and not read(b"\n".join(lines)):
        whole: Iterable[tuple[bytes, str]] = ((line, "") for line in lines)
    else:
        whole = _told_apart(lines, read)
    for text, reason in whole:
        message = text + b"\n" if not reason else b""
        if message and listen.format == "protobuf":
            message = read_lines(message, precision=listen.precision, encoding="pb")["body"]
        yield Metric(text, message, reason)


def _told_apart(lines: list[bytes], read: Read) -> Iterator[tuple[bytes, str]]:
    at = 0
    while at < len(lines):
        text, reasons = lines[at], read(lines[at])
        taken = 1
        if reasons and b'"' in text:
            for more in range(2, min(_QUOTED_LINES_MAX, len(lines) - at) + 1):
                joined = b"\n".join(lines[at : at + more])
                if not read(joined):
                    text, reasons, taken = joined, {}, more
                    break
        at += taken
        yield text, ", ".join(reasons)


def _reader(listen: Listen) -> Read:
    if listen.format == "statsd":
        aggregator = make_aggregator(listen, 1)

        def read(text: bytes) -> dict[str, int]:
            dropped = read_statsd(text, aggregator, line_bytes_max=listen.max_line)["dropped"]
            return {reason: number for reason, number in dropped.items() if reason != "series_full"}

        return read
    if listen.format == "graphite":
        graphite = compile_templates(listen.templates, listen.join)
        return lambda text: read_format(
            text, "graphite", graphite=graphite, precision=listen.precision, line_bytes_max=listen.max_line
        )["dropped"]
    return lambda text: read_lines(text, precision=listen.precision, line_bytes_max=listen.max_line)[
        "dropped"
    ]


def _unread(_: bytes) -> dict[str, int]:
    return {}


def _values(data: bytes, listen: Listen, check: bool) -> Iterator[Metric]:
    feed, ring = Feed(), Ring(None, _RING_BYTES, Waker())
    feed.set_layout([], [ring])
    for text in (piece.strip() for piece in split_json(data)):
        if not text:
            continue
        malformed: list[tuple[str, bytes]] = []
        reasons: dict[str, int] = {}
        if check:
            decoded = JsonDecoder().decode([text], malformed)
            reasons = feed.write(0, decoded, precision="s", malformed=malformed)["dropped"]
            while (batch := ring.take(_EVERYTHING, _EVERYTHING, True)) is not None:
                batch.release()
        message = text + b"\n"
        if not reasons and listen.format == "msgpack":
            try:
                message = msgpack.packb(orjson.loads(text))
            except ValueError:
                reasons = {"json": 1}
        yield Metric(text, b"" if reasons else message, ", ".join(reasons))
