"""How names of other formats are written in line protocol: the oracle of ``ext/foreign.h``.

Nothing from outside becomes structure. Escaped are the comma, the space and, but in a measurement, the
equals sign. What has no spelling that all versions of InfluxDB read alike is replaced: a control character
by ``_``, a backslash before one of ``, = SPACE \\`` or at the end by ``/`` (but in a tag's value also
before a quote), a ``#`` that begins a measurement by ``_``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.reference.line_protocol import (
    KEY_BYTES_MAX,
    KEY_SEPARATOR_BYTES,
    RESERVED_TAGS,
    TAG_COUNTS_FATAL,
    TIME_NS_MAX,
    TIME_NS_MIN,
    agent_tags,
    with_agent_tags,
)
from tests.reference.line_text import Malformed, is_utf8

_REPLACED = ((rb"\\(?=[\\,= ]|\Z)", b"/"), (rb"[\x00-\x1f\x7f]", b"_"))


@dataclass(frozen=True)
class Result:
    """Lines that are written, and what was counted. *dropped* holds only reasons that occurred."""

    body: bytes = b""
    received: int = 0
    accepted: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def escape(text: bytes, structure: bytes = b",= ", *, value: bool = False) -> bytes:
    """*text* as a name or as a tag's *value*; the bytes of *structure* are escaped. Raises Malformed."""
    if not is_utf8(text):
        raise Malformed("utf8")
    # What stands behind a backslash is what came, not what has taken its place.
    for pattern, by in _REPLACED:
        text = re.sub(pattern, by, text)
    if not value:
        text = re.sub(rb'\\(?=")', b"/", text)
    return re.sub(rb"([" + re.escape(structure) + rb"])", rb"\\\1", text)


def measurement(text: bytes) -> bytes:
    written = escape(text, b", ")
    return b"_" + written[1:] if written.startswith(b"#") else written


def tag_key(text: bytes) -> bytes:
    written = escape(text)
    return written + b"_" if written in RESERVED_TAGS else written


def field_key(text: bytes) -> bytes:
    written = escape(text)
    return written + b"_" if written == b"time" else written


def tags_of(pairs: Iterable[tuple[bytes, bytes]], *, last_stays: bool) -> dict[bytes, bytes]:
    """Tags as they are written; one without a key or a value is left out. Raises Malformed."""
    tags: dict[bytes, bytes] = {}
    for key, value in pairs:
        if not key or not value:
            continue
        written = tag_key(key)
        if written in tags and not last_stays:
            continue
        # The later one is checked too, whichever stays.
        tags.pop(written, None)
        tags[written] = escape(value, value=True)
    return tags


def series(
    name: bytes,
    tags: Mapping[bytes, bytes],
    field_keys: Iterable[bytes],
    added: Sequence[tuple[bytes, bytes]],
) -> bytes:
    """The head of a line; *name* and *tags* are escaped, *added*, the agent's tags, are raw.

    Raises Malformed.
    """
    if not name:
        raise Malformed("measurement")
    pairs = with_agent_tags(list(tags.items()), agent_tags(added))
    text = b"".join([name, *(b"," + key + b"=" + value for key, value in pairs)])
    if len(text) + KEY_SEPARATOR_BYTES + max(map(len, field_keys)) > KEY_BYTES_MAX:
        raise Malformed("key_too_long")
    if len(pairs) in TAG_COUNTS_FATAL:
        raise Malformed("tag")
    return text


def line(head: bytes, fields: Mapping[bytes, bytes], time_ns: int) -> bytes:
    """One line of texts that are escaped already. Raises Malformed."""
    if not TIME_NS_MIN <= time_ns <= TIME_NS_MAX:
        raise Malformed("timestamp_range")
    return b"%b %b %d\n" % (head, b",".join(key + b"=" + value for key, value in fields.items()), time_ns)
