"""Where we mean to differ from etsy's server and from statsd_exporter on their own cases, and why.

A difference is known by what stands in a line. Every case that comes out otherwise than theirs must be
explained by one of these, the first that fits; how many cases each explains is written here too, so that
neither a new difference nor one that went away is missed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.statsd_corpus import Case


@dataclass(frozen=True)
class Difference:
    """*pattern* is searched in the datagrams of a case, which are joined by LF."""

    name: str
    pattern: bytes
    ours: str
    """Why we drop the line, or nothing if we take it."""
    why: str
    cases: int

    def explains(self, case: Case) -> bool:
        return re.search(self.pattern, b"\n".join(case.datagrams), re.MULTILINE) is not None


ETSY = (
    Difference("empty name", rb"^:", "name", "no database takes a point without a name", 3),
    Difference(
        "unknown type",
        rb"^[^|]+\|(?!(c|g|ms|h|d|s)([|:]|\s*$))",
        "type",
        "etsy counts what it does not know as a counter; Telegraf and DogStatsD refuse it",
        12,
    ),
    Difference("hexadecimal, infinity", rb":(0x|Inf)", "value", "no database takes an infinity", 2),
    Difference("empty member", rb":\|s", "value", "etsy adds a member 0 to the set, which nobody sent", 1),
    Difference(
        "rate out of range",
        rb"\|@(0|0\.0|[1-9][0-9.]*)$",
        "rate",
        "a rate is above 0 and at most 1; etsy divides by 0, and makes less of what came",
        7,
    ),
    Difference(
        "negative time",
        rb":-[0-9]+\|ms",
        "",
        "DogStatsD and statsd_exporter take it; clocks do step back, and lower shows it",
        1,
    ),
    Difference(
        "wrong timestamp",
        rb"\|T([^0-9]|$)",
        "timestamp",
        "DogStatsD 1.3; etsy takes the part for the end of the tags",
        5,
    ),
    Difference(
        "several values",
        rb"^[^:|]+:([^:|]*:)+[^:|]*\|(?!s)",
        "",
        "DogStatsD 1.1: each value counts; etsy takes the last, or none",
        30,
    ),
    Difference("colon in a member", rb":abc:def\|s", "", "DogStatsD: the set has one member, abc:def", 1),
    Difference(
        "histogram, distribution",
        rb"\|[hd]([|:]|$)",
        "",
        "etsy has no such types, and counts them as counters",
        23,
    ),
    Difference(
        "parts behind the tags",
        rb"\|#[^|]*\|",
        "",
        "DogStatsD: parts stand in any order, and unknown ones are ignored; etsy takes them for tags",
        38,
    ),
    Difference(
        "parts before the tags",
        rb"\|[a-z]+\|((?!@|#)|@[0-9.]+\|(?!#))",
        "",
        "DogStatsD: parts stand in any order, and unknown ones are ignored; etsy refuses the line",
        12,
    ),
)

EXPORTER = (
    Difference(
        "several values, not tested",
        rb"^foo\.[^|]*:[^|]*\|",
        "",
        "its tests expect nothing of these lines; its code takes those with ms, as we do",
        36,
    ),
    Difference(
        "several values",
        rb"^[^:|]+:([^:|]*:)+[^:|]*\|[cg]",
        "",
        "DogStatsD 1.1 allows several for counters and gauges too",
        12,
    ),
    Difference(
        "mixed tags",
        rb"^foo[\[#,].*\|#",
        "",
        "Telegraf: the tags of the name and those behind the value are put together",
        24,
    ),
    Difference(
        "tag without a value",
        rb"\|#tag_without_a_value",
        "",
        "Telegraf: its value is true; statsd_exporter drops the tag",
        8,
    ),
    Difference(
        "tags that are not read",
        rb"\|#.*\xc3\(",
        "",
        "UTF-8 is demanded of what is read; the tags of DogStatsD are switched off here",
        4,
    ),
    Difference("rate out of range", rb"\|@(bar|0)$", "rate", "statsd_exporter takes the line without it", 2),
    Difference(
        "wrong timestamp", rb"\|T([^0-9]|$)", "timestamp", "DogStatsD 1.3; statsd_exporter ignores it", 2
    ),
    Difference(
        "other parts",
        rb"\|(c(:.*)?)?$|\|c:[^|]+\|",
        "",
        "DogStatsD: unknown parts are ignored; a container is no tag, as it would make a series of each",
        13,
    ),
)


def explain(case: Case, differences: Sequence[Difference]) -> Difference | None:
    """The first of *differences* that fits *case*."""
    return next((one for one in differences if one.explains(case)), None)
