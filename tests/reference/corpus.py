"""Other people's line-protocol inputs with what five parsers made of them, and how we compare with that.

The data lies outside the repository, in ``../shared/corpora``; without it :func:`load` says so. An input may
hold several lines; a parser that reports errors and points has kept the good lines. The three *guides* are
the parsers by which the rule for us is made.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tests.reference.line_protocol import NS_PER_UNIT
from tests.reference.points import Point

PATH = Path(__file__).resolve().parents[3] / "shared" / "corpora" / "line_protocol.json.gz"
GUIDES = ("influxdb_1.8", "influxdb_2.7", "lineprotocol_v2")
OTHERS = ("influxdb_3", "telegraf")


class Verdict(Enum):
    """What the five made of an input."""

    AGREED = "1.8, 2.7 and line-protocol v2 accept the same points"
    SAME = "one or two of them do, and those that do accept the same points"
    DIFFERENT = "they accept different points"
    OTHERS = "only InfluxDB 3 or Telegraf accept points"
    REJECTED = "all five reject it"
    NOTHING = "nothing but blank lines and comments"


@dataclass(frozen=True)
class Case:
    """One input. *points* are by parser; None stands for points that the corpus counts, but does not list."""

    id: str
    about: str
    text: bytes
    precision: str
    now_ns: int
    points: dict[str, tuple[Point | None, ...]]
    errors: dict[str, bool]

    @property
    def verdict(self) -> Verdict:
        accepted = [self.points[name] for name in GUIDES if self.points[name]]
        if accepted and any(points != accepted[0] for points in accepted):
            return Verdict.DIFFERENT
        if len(accepted) == len(GUIDES):
            return Verdict.AGREED
        if accepted:
            return Verdict.SAME
        if any(self.points[name] for name in OTHERS):
            return Verdict.OTHERS
        return Verdict.REJECTED if any(self.errors.values()) else Verdict.NOTHING

    def accepted_by(self, name: str, ours: list[Point]) -> bool:
        """Whether parser *name* found exactly *our* points.

        The parsers stamp all lines without a timestamp alike, cut to the precision; we count up from there.
        """
        theirs = self.points[name]
        if len(theirs) != len(ours):
            return False
        unit = NS_PER_UNIT[self.precision]
        stamp, stamps = self.now_ns - self.now_ns % unit, range(self.now_ns, self.now_ns + len(ours))
        for their, our in zip(theirs, ours, strict=True):
            if their is None:
                continue
            time_ns = stamp if their.time_ns == stamp and our.time_ns in stamps else our.time_ns
            if comparable(our.name, our.tags, our.fields, time_ns) != their:
                return False
        return True


def load() -> list[Case]:
    """All cases. Raises FileNotFoundError where the corpus is not at hand."""
    with gzip.open(PATH) as packed:
        return [_case(entry) for entry in json.load(packed)["cases"]]


def comparable(name: bytes, tags: Any, fields: Any, time_ns: int) -> Point:
    """A point with tags and fields in order, and only the last of several fields of one key."""
    last = {key: (key, kind, value) for key, kind, value in fields}
    return Point(name, tuple(sorted(tags)), tuple(last[key] for key in sorted(last)), time_ns)


def _case(entry: dict[str, Any]) -> Case:
    results = entry["results"]
    return Case(
        id=entry["id"],
        about=entry.get("about") or entry["source"],
        text=_input(entry["input"]),
        precision=entry["precision"],
        now_ns=int(entry["default_time_ns"]),
        points={name: _points(result) for name, result in results.items()},
        errors={name: bool(result.get("errors")) for name, result in results.items()},
    )


def _input(text: str | dict[str, Any]) -> bytes:
    if isinstance(text, dict) and "len" in text:
        # The long inputs are described: a head that ends in many x, and a short tail.
        head = str(text["head"]).rstrip("x").encode()
        tail = b'"' if b'"' in head else b" f=1"
        return head + b"x" * (int(text["len"]) - len(head) - len(tail)) + tail
    return _bytes(text)


def _bytes(text: str | dict[str, Any]) -> bytes:
    return text.encode() if isinstance(text, str) else base64.b64decode(str(text["b64"]))


def _points(result: dict[str, Any]) -> tuple[Point | None, ...]:
    if "points" not in result:
        return (None,) * int(result["n_points"])
    return tuple(
        comparable(
            _bytes(point["name"]),
            [(_bytes(key), _bytes(value)) for key, value in point["tags"]],
            [(_bytes(key), kind, _value(kind, value)) for key, kind, value in point["fields"]],
            int(point["time"]),
        )
        for point in result["points"]
    )


def _value(kind: str, text: str | dict[str, str]) -> int | float | bytes | bool:
    if kind == "s":
        return _bytes(text)
    assert isinstance(text, str)
    if kind == "b":
        return text == "true"
    return float(text) if kind == "f" else int(text)
