"""Where our points differ from those of Telegraf's serializer: the reasons, and how many cases each explains.

A case is a metric and the line protocol that it becomes there, with ``maxBytes`` as the longest line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """*explains* says whether a case is one of it; *ours* is the reason of the drop, or empty for a point."""

    name: str
    reason: str
    ours: str
    cases: int
    explains: Callable[[dict[str, Any]], bool]


SERIALIZER = (
    Difference(
        "split",
        "a line that is too long is dropped and counted: two points in place of one would count as two",
        "line_too_long",
        3,
        lambda case: "maxBytes" in case and bool(case.get("output")),
    ),
    Difference(
        "unsigned",
        "JSON and MessagePack do not say whether a number is unsigned: only one beyond the signed range is",
        "",
        1,
        lambda case: bool(case.get("uintSupport")) and case["input"]["fields"]["value"] < 2**63,
    ),
)
