"""What the answer of an InfluxDB write endpoint means: the one table of verdicts, for all three versions.

===================  =========  ==================================================================
status               verdict    because
===================  =========  ==================================================================
2xx                  DELIVERED
413                  SPLIT      a smaller body may pass
400, 422             (below)    something in the body is refused
408, 425, 429, 5xx   RETRY      overload or a fault that passes; ``Retry-After`` is obeyed
anything else        HOLD       401, 403, 404, a redirect, a proxy's page: a person can mend it,
                                and until then the metrics are kept
===================  =========  ==================================================================

A 400 or a 422 says that metrics are at fault. What the three versions do with the others differs:

- Version 1 writes the good lines and answers ``partial write: … dropped=N``. Lines that it could not even
  parse are not in that N; it lists them in the reason, one ``unable to parse`` for each, and says
  ``dropped=0``. An answer that begins with ``unable to parse`` means that no line could be parsed.
- Version 2 refuses the whole batch for one bad line (400), so it is bisected to save the others; a conflict
  of types or a point past the retention period is a 422 with ``dropped=N``, and the rest is written.
- Version 3 writes the good lines and names the others, one element of ``data`` for each.

An answer that fits none of these, from a proxy perhaps, is bisected as well. That is slow and always right:
writes are idempotent, and in the end each line is judged alone.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from agent.outputs.base import Kind, Verdict, one_line

OVERLOADED = frozenset((429, 502, 503, 504))
"""Answers by which a server asks all senders, not this batch alone, to wait."""

RETRY_AFTER_MAX = 3600.0
"""Seconds. No server can silence an output for longer at a time."""

_DROPPED = re.compile(r" dropped=(\d{1,9})$")
_UNPARSED = re.compile(r"(?:^partial write: |\n)unable to parse '")
_ALL = 1 << 62


def classify(version: int, status: int, headers: Mapping[str, str], body: bytes, metrics: int) -> Verdict:
    """The verdict on a body of *metrics* lines that was answered with *status*, *headers* and *body*.

    *headers* are looked up without regard to case by the mapping itself. Any *body* will do, a proxy's too.
    """
    if 200 <= status < 300:
        return Verdict(Kind.DELIVERED, status=status)
    text, data = _read(body)
    reason = one_line(text or headers.get("X-Influxdb-Error") or headers.get("Location") or f"HTTP {status}")
    if status == 413:
        return Verdict(Kind.SPLIT, status=status, text=reason)
    if status in (400, 422):
        rejected = _count_rejected(version, status, text, data)
        if rejected is None:
            return Verdict(Kind.SPLIT, status=status, text=reason)
        if rejected >= metrics:
            return Verdict(Kind.REJECT, status=status, text=reason)
        return Verdict(Kind.DELIVERED, rejected=rejected, status=status, text=reason)
    if status in (408, 425, 429) or status >= 500:
        return Verdict(Kind.RETRY, retry_after=retry_after(headers), status=status, text=reason)
    return Verdict(Kind.HOLD, status=status, text=reason)


def _read(body: bytes) -> tuple[str, object]:
    """What the server says, and the ``data`` of its JSON."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace").strip(), None
    if not isinstance(answer, dict):
        return body.decode(errors="replace").strip(), None
    # Version 1 and 3 say "error"; version 2 says "message", which is the longer one where both are there.
    said = [text for key in ("error", "message") if isinstance(text := answer.get(key), str)]
    text, data = max(said, key=len, default=""), answer.get("data")
    if isinstance(data, list) and data and isinstance(data[0], dict):
        first = data[0].get("error_message")
        return f"{text}: {first} (line {data[0].get('line_number')})", data
    return text, data


def _count_rejected(version: int, status: int, text: str, data: object) -> int | None:
    """How many metrics a 400 or 422 refuses while the others are written; None if it does not say.

    The texts repeat bytes of the refused lines, so only their beginning and their end are believed.
    """
    if version == 3:
        return len(data) if isinstance(data, list) and data else None
    if version == 2:
        found = _DROPPED.search(text) if status == 422 else None
        return int(found[1]) if found else None
    if text.startswith("unable to parse '"):
        return _ALL
    found = _DROPPED.search(text) if text.startswith("partial write: ") else None
    if found is None:
        return None
    return int(found[1]) or len(_UNPARSED.findall(text)) or None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` of an answer in seconds from now, whether given in seconds or as an HTTP date.

    A date is compared with the answer's own ``Date``, so that a clock that differs from ours does not matter.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        at = _http_time(value)
        if at is None:
            return None
        now = _http_time(headers.get("Date", ""))
        seconds = at - (time.time() if now is None else now)
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX)


def _http_time(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
