"""Reference reader of Graphite's plaintext protocol, the oracle of ``read_format(…, "graphite")``.

    path[;tag=value…] value [timestamp]

A line ends at LF; blanks around it (a CR too) are not part of it, and a line of blanks is none. The last
two of its words are value and timestamp, and what stands before them is the path, spaces included, as
VictoriaMetrics has it (Telegraf refuses such a path). Of two words the second is the value.

- Path. Its tags stand behind semicolons; the first equals sign ends a key, and a tag without a key or a
  value is left out. Of two tags with one key the last stays. An empty path is malformed.
- Value. A decimal number; infinities and what is no number are malformed.
- Timestamp. A decimal number of seconds (or of the configured unit), cut to nanoseconds. None, and -1, is
  "now", as in carbon; 0 is 1970, as in carbon and Telegraf.

Templates are Telegraf's, see ``agent/templates.py``. Without one the path is the measurement, as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from tests.reference.foreign import Result, field_key, line, measurement, series, tags_of
from tests.reference.line_protocol import NS_PER_UNIT, TIME_NS_MAX
from tests.reference.line_text import Malformed

BLANKS = b" \t\v\f\r"
DECIMAL = re.compile(rb"[+-]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

Template = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]
"""Nodes of the filter, parts, tags."""


def read(
    data: bytes,
    *,
    templates: Sequence[Template] = (),
    join: str = "_",
    precision: str = "s",
    tags: Sequence[tuple[bytes, bytes]] = (),
    now_ns: int = 0,
    line_bytes_max: int = 65_536,
) -> Result:
    """Read one datagram. Lines without a timestamp get *now_ns*, *now_ns* + 1, … in turn."""
    body = bytearray()
    received = accepted = stamped = 0
    dropped: Counter[str] = Counter()
    for whole in data.split(b"\n"):
        text = whole.strip(BLANKS)
        if not text:
            continue
        received += 1
        try:
            if len(whole) > line_bytes_max:
                raise Malformed("line_too_long")
            path, value, time = words(text)
            number = value_text(value)
            name, pairs, key = names(path, templates, join.encode())
            key = field_key(key)
            head = series(measurement(name), tags_of(pairs, last_stays=True), [key], tags)
            time_ns = None if time is None else timestamp(time, NS_PER_UNIT[precision])
            written = line(head, {key: number}, now_ns + stamped if time_ns is None else time_ns)
        except Malformed as malformed:
            dropped[malformed.args[0]] += 1
            continue
        stamped += time_ns is None
        accepted += 1
        body += written
    return Result(bytes(body), received, accepted, dict(dropped))


def words(text: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, value and timestamp."""
    found = re.split(rb"[ \t\v\f\r]+", text)
    if len(found) == 1:
        raise Malformed("value")
    if len(found) == 2:
        return found[0], found[1], None
    before = text[: -len(found[-1])].rstrip(BLANKS)
    return before[: -len(found[-2])].rstrip(BLANKS), found[-2], found[-1]


def value_text(text: bytes) -> bytes:
    """A float as it is written: no plus, a digit on both sides of a point."""
    plain = re.sub(rb"(?<=[0-9])_(?=[0-9])", b"", text)
    if not DECIMAL.fullmatch(plain) or float(plain) in (float("inf"), -float("inf")):
        raise Malformed("number")
    plain = plain.removeprefix(b"+")
    plain = re.sub(rb"^(-?)\.", rb"\g<1>0.", plain)
    return re.sub(rb"\.(?![0-9])", b".0", plain)


def timestamp(text: bytes, unit_ns: int) -> int | None:
    if not DECIMAL.fullmatch(text) or float(text) in (float("inf"), -float("inf")):
        raise Malformed("timestamp")
    sign, digits, exponent = Decimal(text.decode()).as_tuple()
    number = int("".join(map(str, digits)))
    assert isinstance(exponent, int)
    if number == 0 or exponent + len(str(number)) < -10:
        return 0
    if exponent + len(str(number)) > 25:
        raise Malformed("timestamp_range")
    scaled = number * unit_ns * 10**exponent if exponent > 0 else number * unit_ns // 10**-exponent
    exact = exponent >= 0 or number * unit_ns % 10**-exponent == 0
    if sign and exact and scaled == unit_ns:
        return None
    if scaled > TIME_NS_MAX:
        raise Malformed("timestamp_range")
    return -scaled if sign else scaled


def names(
    path: bytes, templates: Sequence[Template], join: bytes
) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    """Measurement, tags and field key, none of them escaped."""
    head, *rest = path.split(b";")
    if not head:
        raise Malformed("measurement")
    own = [(key, value) for key, _, value in (item.partition(b"=") for item in rest)]
    nodes = head.split(b".")
    template = choose(nodes, templates)
    if template is None:
        return head, own, b"value"
    name, pairs, key = apply(nodes, template, join)
    return name or head, pairs + own, key or b"value"


def choose(nodes: Sequence[bytes], templates: Sequence[Template]) -> Template | None:
    """The template of the most special filter that *nodes* begin with."""
    fitting = [one for one in templates if fits(nodes, one[0])]
    # By name before any node, further left first; of two that agree so far, the longer one.
    return max(fitting, key=lambda one: [1 + (node != "*") for node in one[0]], default=None)


def fits(nodes: Sequence[bytes], wanted: Sequence[str]) -> bool:
    return len(wanted) <= len(nodes) and all(
        one == "*" or one.encode() == node for one, node in zip(wanted, nodes, strict=False)
    )


def apply(
    nodes: Sequence[bytes], template: Template, join: bytes
) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    _, parts, constants = template
    found: dict[str, list[bytes]] = {name: [value.encode()] for name, value in constants}
    for index, part in enumerate(parts):
        if part and index < len(nodes):
            taken = nodes[index:] if part.endswith("*") else nodes[index : index + 1]
            found.setdefault(part.removesuffix("*"), []).extend(taken)
    joined = {name: join.join(texts) for name, texts in found.items()}
    pairs = [(name.encode(), text) for name, text in joined.items() if name not in ("measurement", "field")]
    return joined.get("measurement", b""), pairs, joined.get("field", b"")
