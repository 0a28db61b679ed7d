"""What the answer of a write endpoint means: the one table of verdicts, for InfluxDB and for remote write.

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

A 400 or a 422 says that metrics are at fault; :mod:`agent.outputs.refusals` reads which. What the three
versions do with the others differs:

- Version 1 writes the good lines and answers ``partial write: … dropped=N``. Lines that it could not even
  parse are not in that N. If N is 0 it quotes them, each with its reason; otherwise it does not mention them,
  and says of the N only why it dropped one of them.
- Version 2 refuses the whole batch for one line that it cannot parse (400), and quotes such lines; a conflict
  of types or a point past the retention period is a 422 with ``dropped=N``, and the rest is written.
- Version 3 writes the good lines and names the others, one element of ``data`` for each.
- Remote write has one text for all. Prometheus undoes the whole request for one sample that it refuses (out
  of the order of times, or another value for the same time) and names none; others write the good ones. So a
  body is bisected, and what comes twice is taken by all of them as long as it is the same.

Lines that are named are refused, exactly these. Where none are, or where the whole batch was refused for
them, the body is bisected, the suspects apart from the rest: what is refused in the end was refused alone, or
with others for the same reason.

An answer that fits none of these, from a proxy perhaps, is bisected as well. That is slow and always right:
writes are idempotent, and in the end each line is judged alone.
"""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

from agent.outputs.base import Kind, Payload, Refusal, Verdict, one_line
from agent.outputs.refusals import QUOTED, lines_of, numbered, quoted, suspects

REMOTE_WRITE = 0
"""The version of an answer that is not InfluxDB's."""

OVERLOADED = frozenset((429, 502, 503, 504))
"""Answers by which a server asks all senders, not this batch alone, to wait."""

RETRY_AFTER_MAX = 3600.0
"""Seconds. No server can silence an output for longer at a time."""

ALONE_MAX = 32
"""So few lines that are all refused, perhaps for different reasons, are sent alone to learn each reason."""

_DROPPED = re.compile(r" dropped=(\d{1,9})$")
_PARTIAL = "partial write: "


def classify(version: int, status: int, headers: Mapping[str, str], body: bytes, payload: Payload) -> Verdict:
    """The verdict on *payload*, which was answered with *status*, *headers* and *body*.

    *version* is that of InfluxDB's endpoint, or REMOTE_WRITE.
    *headers* are looked up without regard to case by the mapping itself. Any *body* will do, a proxy's too.
    """
    if 200 <= status < 300:
        return Verdict(Kind.DELIVERED, status=status)
    text, data = _read(body)
    reason = one_line(text or headers.get("X-Influxdb-Error") or headers.get("Location") or f"HTTP {status}")
    if status == 413:
        return Verdict(Kind.SPLIT, status=status, text=reason)
    if status in (400, 422):
        kind, named, suspected = _judge(version, status, text, data, payload)
        return Verdict(kind, refused=named, suspects=suspected, status=status, text=reason)
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


_Judgement = tuple[Kind, tuple[Refusal, ...], tuple[int, ...]]
_UNCLEAR: _Judgement = (Kind.SPLIT, (), ())


def _judge(version: int, status: int, text: str, data: object, payload: Payload) -> _Judgement:
    """What a 400 or a 422 says of the lines: the kind of the verdict, the lines refused, those suspected.

    The texts repeat bytes of the refused lines, so only their beginning and their end are believed.
    """
    if version == REMOTE_WRITE:
        return _UNCLEAR
    try:
        lines = lines_of(payload)
    except ValueError:
        return _UNCLEAR
    if version == 3:
        named = numbered(data, len(lines))
        return (Kind.DELIVERED, named, ()) if named else _UNCLEAR
    found = _DROPPED.search(text)
    if found and int(found[1]) and (status == 422 if version == 2 else text.startswith(_PARTIAL)):
        return _judge_dropped(text, int(found[1]), lines)
    if version == 1 and text.startswith(_PARTIAL + QUOTED) and found:
        named = quoted(text[len(_PARTIAL) : found.start()], lines)
        return (Kind.DELIVERED, named, ()) if named else _UNCLEAR
    if status == 400 and text.startswith(QUOTED):
        named = quoted(text, lines)
        if len(named) == len(lines):
            return Kind.DELIVERED, named, ()
        return Kind.SPLIT, (), tuple(refusal.line for refusal in named)
    return _UNCLEAR


def _judge_dropped(text: str, dropped: int, lines: Sequence[bytes]) -> _Judgement:
    """The same where so many lines were *dropped*, for *text* or for another reason."""
    suspected = suspects(text, dropped, lines)
    if dropped >= len(lines):
        # All are refused. The reason is that of all if they are alike, or so many that it must do for all.
        alike = len(suspected) == len(lines) or len(lines) == 1
        if alike or (not suspected and len(lines) > ALONE_MAX):
            return Kind.REJECT, (), ()
    return Kind.SPLIT, (), suspected if len(suspected) < len(lines) else ()


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
