"""Lines as samples of Prometheus remote write, in plain Python: the oracle of the encoding ``pb``.

:func:`samples` takes lines as ``read`` writes them. The rules:

- each number and each boolean is a sample; strings are left out and counted;
- the metric is ``measurement_field``, or ``measurement`` for a field ``value``;
- names: a letter or ``_`` first, then digits too, and in the metric's name the colon; any other byte becomes
  ``_``;
- of two tags of one line, or two fields, that have the same name then, the first stays, and the other one is
  counted as left out, as is a tag ``__name__``;
- milliseconds are rounded downwards.
"""

import re

from tests.reference.line_protocol import read_fields, read_head, read_time
from tests.reference.points import typed, unescape
from tests.reference.remote_write import Sample


def name_of(text: bytes, *, metric: bool = False) -> str:
    """*text* with ``_`` for each byte that may not stand in a name."""
    letters = re.sub(rb"[^a-zA-Z0-9_:]" if metric else rb"[^a-zA-Z0-9_]", b"_", text)
    return re.sub(rb"^[0-9]", b"_", letters).decode()


def samples(body: bytes) -> tuple[list[list[Sample]], int]:
    """The samples of each line of *body*, and how many fields and tags were left out."""
    found, left_out, at = [], 0, 0
    while at < len(body):
        measurement, tags, behind_head = read_head(body, at)
        fields, _, behind_fields = read_fields(body, behind_head, True)
        time, end = read_time(body, behind_fields)
        assert time is not None
        labels: dict[str, str] = {}
        for key, value in tags:
            name = name_of(unescape(key))
            if name in labels or name == "__name__":
                left_out += 1
            else:
                labels[name] = unescape(value).decode()
        of_line: dict[str, float] = {}
        for key, text in fields.items():
            kind, number = typed(text)
            joined = measurement_of(measurement) + (b"" if key == b"value" else b"_" + unescape(key))
            metric = name_of(joined, metric=True)
            if kind == "s" or metric in of_line:
                left_out += 1
            else:
                of_line[metric] = float(number)
        found.append(
            [
                Sample(tuple(sorted({**labels, "__name__": metric}.items())), number, time // 1_000_000)
                for metric, number in of_line.items()
            ]
        )
        at = end + 1
    return found, left_out


def measurement_of(text: bytes) -> bytes:
    """A measurement without its escapes."""
    return re.sub(rb"\\([, ])", rb"\1", text)
