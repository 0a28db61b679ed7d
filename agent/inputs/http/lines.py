"""Line protocol over HTTP: what the parameters of each version mean, and how each names bad lines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.accounts import WILLED
from agent.inputs.http.refused import Refused, Shape

if TYPE_CHECKING:
    from agent._core import FeedResult

ERRORS_MAX = 100
"""Malformed lines that an answer names."""

_V1_PRECISIONS = {
    "": "ns",
    "n": "ns",
    "ns": "ns",
    "u": "us",
    "us": "us",
    "µ": "us",
    "ms": "ms",
    "s": "s",
    "m": "m",
    "h": "h",
}
_V2_PRECISIONS = {"": "ns", "ns": "ns", "us": "us", "ms": "ms", "s": "s"}
_V3_PRECISIONS = {
    "": "auto",
    "auto": "auto",
    "ns": "ns",
    "nanosecond": "ns",
    "n": "ns",
    "us": "us",
    "microsecond": "us",
    "u": "us",
    "ms": "ms",
    "millisecond": "ms",
    "s": "s",
    "second": "s",
}

_REASONS = {
    "line_too_long": "the line is too long",
    "measurement": "missing or malformed measurement",
    "tag": "malformed tags, or a number of them that a server cannot take",
    "tag_duplicate": "duplicate tags",
    "tag_reserved": "a tag key is reserved",
    "field": "missing or malformed fields",
    "number": "invalid number",
    "string": "unbalanced quotes",
    "timestamp": "bad timestamp",
    "timestamp_range": "time outside range",
    "utf8": "invalid UTF-8",
    "control_character": "control characters in it",
    "backslash": "a backslash that versions of InfluxDB read differently",
    "key_too_long": "max key length exceeded",
}


@dataclass(frozen=True)
class Lines:
    """What a request wants of its lines."""

    precision: str
    whole: bool = False
    """Whether nothing is to be written if one line is bad."""
    tags: tuple[tuple[bytes, bytes], ...] = ()


def v1(query: Mapping[str, str]) -> Lines:
    """Parameters of ``/write``. Raises Refused, like the others."""
    wanted = query.get("precision", "")
    if wanted not in _V1_PRECISIONS:
        raise Refused(400, f'invalid precision "{wanted}" (use n, u, ms, s, m or h)')
    return Lines(_V1_PRECISIONS[wanted])


def v2(query: Mapping[str, str]) -> Lines:
    """Parameters of ``/api/v2/write``."""
    wanted = query.get("precision", "")
    if wanted not in _V2_PRECISIONS:
        raise Refused(400, "invalid precision; valid precision units are ns, us, ms, and s")
    return Lines(_V2_PRECISIONS[wanted])


def v3(query: Mapping[str, str]) -> Lines:
    """Parameters of ``/api/v3/write_lp``."""
    wanted = query.get("precision", "")
    if wanted not in _V3_PRECISIONS:
        raise Refused(400, f"unknown precision {wanted!r}; known are auto, ns, us, ms and s")
    partial = query.get("accept_partial", "true").lower()
    if partial not in ("true", "false"):
        raise Refused(400, f"accept_partial is {partial!r}; it is true or false")
    return Lines(_V3_PRECISIONS[wanted], whole=partial == "false")


PARAMETERS: dict[Shape, Callable[[Mapping[str, str]], Lines]] = {Shape.V1: v1, Shape.V2: v2, Shape.V3: v3}


def refusal(shape: Shape, result: "FeedResult", lines: Lines) -> Refused | None:
    """What is wrong with a body of which *result* came; None if all of its lines are in the rings."""
    if result["received"] == 0:
        # Version 1 takes nothing for an answer.
        if shape is Shape.V2:
            return Refused(400, "writing requires points")
        return Refused(400, "incoming write was empty") if shape is Shape.V3 else None
    willed = sum(count for reason, count in result["dropped"].items() if reason in WILLED)
    bad = result["received"] - result["accepted"] - willed
    full = result["dropped"].get("ring_full", 0)
    if full:
        # Those that are in stay in; the same line again changes nothing in the database.
        return Refused(
            429,
            f"the buffers are full: {full} of {result['received']} lines found no room; send all again",
            headers={"Retry-After": "1"},
        )
    if bad == 0:
        return None
    named = [
        (number, _REASONS.get(reason, reason), text.rstrip(b"\r\n").decode("utf-8", "replace"))
        for number, reason, text in result["errors"]
    ]
    malformed = bad - result["dropped"].get("body_refused", 0)
    if shape is Shape.V3:
        data = [
            {"original_line": text, "line_number": number, "error_message": reason}
            for number, reason, text in named
        ]
        if lines.whole:
            return Refused(400, "parsing failed for write_lp endpoint", data=data[0] if data else None)
        return Refused(400, "partial write of line protocol occurred", data=data)
    more = f"\nand {malformed - len(named)} more" if malformed > len(named) else ""
    if shape is Shape.V1:
        told = "\n".join(f"unable to parse '{text}': {reason}" for _, reason, text in named) + more
        return Refused(400, f"partial write: {told} dropped={bad}" if result["accepted"] else told)
    told = "\n".join(f"line {number}: unable to parse '{text}': {reason}" for number, reason, text in named)
    head = f"partial write: {malformed} of {result['received']} lines are malformed, all others are written"
    return Refused(400, f"{head if result['accepted'] else 'no line could be parsed'}:\n{told}{more}")
