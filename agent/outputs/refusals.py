"""Which lines of a body an answer refuses: by their numbers, by their text, or by a guess.

- Version 3 numbers them: ``data[].line_number``, the first line being 1.
- Versions 1 and 2 quote the lines that they cannot parse, ``unable to parse 'LINE': REASON``, one below the
  other. A quotation counts only if it is, to the byte, one line of the body, and can be read in one way only:
  a line could carry text that looks like the server's.
- What they drop for another reason they only count, ``… dropped=N``, and give the reason of one of them.
  Often that is enough to guess the lines: those that write this field in that type, or the oldest ones. A
  guess decides nothing, it only tells what to send apart from the rest to find out with few requests.
"""

import re
from collections.abc import Container, Sequence

from agent._core import split_lines
from agent.outputs.base import Payload, Refusal, one_line
from agent.outputs.bodies import as_lines

QUOTED = "unable to parse '"
_AFTER = "': "

_CONFLICT = re.compile(
    r'field type conflict: input field "(.+)" on measurement "(.+)" is type (\w+), already '
)
_EXPIRED = re.compile(r"points beyond retention policy|past retention")
_VALUES = {
    "float": rb"-?[0-9][0-9.eE+-]*(?:[, ]|\Z)",
    "integer": rb"-?[0-9]+i",
    "unsigned": rb"[0-9]+u",
    "string": rb'"',
    "boolean": rb"[tTfF]",
}


def lines_of(payload: Payload) -> list[bytes]:
    """The lines of *payload*, without their newlines; those of samples, if it has such.

    Raises ValueError if it is damaged.
    """
    body = bytes(as_lines(payload).data)
    lines = body.removesuffix(b"\n").split(b"\n")
    if len(lines) == payload.metrics:
        return lines
    # Some newlines stand in quoted strings.
    lines, rest = [], memoryview(body)
    while size := split_lines(rest, 1):
        lines.append(bytes(rest[:size]).removesuffix(b"\n"))
        rest = rest[size:]
    return lines


def numbered(data: object, lines: int) -> tuple[Refusal, ...]:
    """What version 3's *data* refuses of a body of so many *lines*; empty unless all of it makes sense."""
    found: dict[int, str] = {}
    for entry in data if isinstance(data, list) else ():
        number = entry.get("line_number") if isinstance(entry, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= lines:
            return ()
        found.setdefault(number - 1, one_line(str(entry.get("error_message") or "refused")))
    return tuple(Refusal(line, reason) for line, reason in sorted(found.items()))


def quoted(text: str, lines: Sequence[bytes]) -> tuple[Refusal, ...]:
    """What *text*, one quotation below the other, refuses; empty unless all of it makes sense."""
    places: dict[str, list[int]] = {}
    for at, data in enumerate(lines):
        places.setdefault(data.decode(errors="replace"), []).append(at)
    sizes = {len(line) for line in places}
    found: dict[int, str] = {}
    named: set[str] = set()
    start = 0
    while start < len(text):
        if not text.startswith(QUOTED, start):
            return ()
        start += len(QUOTED)
        line = _quotation(text, start, places, sizes)
        if line is None or not places[line]:
            return ()
        named.add(line)
        reason = start + len(line) + len(_AFTER)
        end = text.find("\n" + QUOTED, reason)
        end = len(text) if end < 0 else end
        found[places[line].pop(0)] = one_line(text[reason:end])
        start = end + 1
    if any(places[line] for line in named):
        # It stands in the body more often than it was quoted: whatever that means, it is not clear.
        return ()
    return tuple(Refusal(line, reason) for line, reason in sorted(found.items()))


def _quotation(text: str, start: int, places: Container[str], sizes: Container[int]) -> str | None:
    """The line that is quoted at *start*, if it is just one of *places*, whose lengths are *sizes*."""
    found = None
    end = text.find(_AFTER, start)
    while end >= 0:
        if end - start in sizes and text[start:end] in places:
            if found is not None:
                return None
            found = text[start:end]
        end = text.find(_AFTER, end + 1)
    return found


def suspects(text: str, dropped: int, lines: Sequence[bytes]) -> tuple[int, ...]:
    """A guess which of the *lines* are the *dropped* ones, of which *text* gives a reason; maybe none."""
    if conflict := _CONFLICT.search(text):
        field, measurement, kind = conflict.groups()
        pattern = _writes(measurement, field, kind)
        return tuple(at for at, line in enumerate(lines) if pattern.match(line))
    if _EXPIRED.search(text):
        try:
            by_age = sorted(range(len(lines)), key=lambda at: int(lines[at].rpartition(b" ")[2]))
        except ValueError:
            return ()
        return tuple(sorted(by_age[:dropped]))
    return ()


def _writes(measurement: str, field: str, kind: str) -> re.Pattern[bytes]:
    """Lines of *measurement* that write *field* in the type *kind*, in a server's words; maybe some more."""
    name = re.escape(_escaped(measurement, ", "))
    key = re.escape(_escaped(field, ",= "))
    value = _VALUES.get(kind, b"")
    return re.compile(rb"%s(?:,(?:\\.|[^ \\])*)? (?:.*,)?%s=%s" % (name, key, value), re.DOTALL)


def _escaped(name: str, special: str) -> bytes:
    return "".join("\\" + char if char in special else char for char in name).encode()
