"""Lines of one series and one time in plain Python: made one, or set apart."""

from dataclasses import dataclass

LINE_BYTES_MAX = 65536 - 24
TIME_MAX = 2**63 - 2


@dataclass
class Line:
    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: dict[str, str]
    time: int

    @property
    def head(self) -> str:
        return ",".join([self.measurement, *(f"{key}={value}" for key, value in self.tags)])

    @property
    def series(self) -> tuple[str, frozenset[tuple[str, str]]]:
        return self.measurement, frozenset(self.tags)

    def body(self) -> str:
        return f"{self.head} {','.join(f'{key}={value}' for key, value in self.fields.items())}"

    def text(self) -> str:
        return f"{self.body()} {self.time}\n"


def merge(lines: list[Line], nudge: bool) -> list[Line] | None:
    """What is left of *lines*, which are not changed; None if nothing is to be done."""
    placed: dict[tuple[object, int], Line] = {}
    hints: dict[tuple[object, int], int] = {}
    out: list[Line] = []
    changed = False
    for came in lines:
        line = Line(came.measurement, came.tags, dict(came.fields), came.time)
        there = placed.get((line.series, line.time))
        if there is None:
            placed[line.series, line.time] = line
            out.append(line)
            continue
        if not (nudge and there.fields.keys() & line.fields.keys()):
            united = Line(there.measurement, there.tags, there.fields | line.fields, there.time)
            if len(united.body().encode()) <= LINE_BYTES_MAX:
                there.fields = united.fields
                changed = True
                continue
            out.append(line)
            continue
        place = line.series, line.time
        time = hints.get(place, line.time)
        while time < TIME_MAX:
            time += 1
            if (line.series, time) not in placed:
                line.time = hints[place] = time
                placed[line.series, time] = line
                changed = True
                break
        out.append(line)
    return out if changed else None
