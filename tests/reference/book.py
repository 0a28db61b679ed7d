"""The book in plain Python: sets of series and of values, one rule below the other.

What the core keeps as hashes, filters and tables of a fixed size are sets and dictionaries without a limit
here, so the two agree as long as nothing of that is full.
"""

from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

OVERFLOW = "__overflow__"
OVERFLOW_MAX = 1000
EPOCHS = 8

Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Limit:
    measurement: str
    tag: str
    max_series: int
    policy: str


@dataclass
class Known:
    epoch: int
    overflow: bool
    measurement: str = ""
    pair: tuple[str, str] = ("", "")
    limits: frozenset[Limit] = frozenset()


@dataclass
class Book:
    max_series: int
    policy: str
    reserve: float
    observe: bool
    limits: tuple[Limit, ...]
    epoch: int = 0
    known: dict[tuple[str, frozenset[tuple[str, str]]], Known] = field(default_factory=dict)
    measurements: set[str] = field(default_factory=set)
    seen: list[set[tuple[str, str, str]]] = field(default_factory=lambda: [set(), set()])
    values: list[Counter[tuple[str, str]]] = field(default_factory=lambda: [Counter(), Counter()])

    def turn_epoch(self) -> None:
        self.epoch += 1
        if self.epoch % EPOCHS == 0:
            live = {one.measurement for one in self.known.values() if not one.overflow}
            self.measurements &= live
            self.seen = [set(), self.seen[0]]
            self.values = [Counter(), self.values[0]]
        self.known = {key: one for key, one in self.known.items() if self.epoch - one.epoch <= EPOCHS}

    def touch(self, measurement: str, tags: Tags) -> None:
        one = self.known.get((measurement, frozenset(tags)))
        if one:
            one.epoch = self.epoch

    @property
    def series(self) -> int:
        return sum(not one.overflow for one in self.known.values())

    @property
    def overflow_series(self) -> int:
        return sum(one.overflow for one in self.known.values())

    def most(self, measurement: str, tags: Tags) -> int:
        """The tag with the most values, of those whose value is new if there are any; -1: there is none."""
        best, most = -1, (False, -1)
        for at, (key, value) in enumerate(tags):
            if value == OVERFLOW:
                continue
            fresh = not any((measurement, key, value) in seen for seen in self.seen)
            rank = fresh, max(values[measurement, key] for values in self.values)
            if rank > most:
                best, most = at, rank
        return best

    def decide(self, measurement: str, tags: Tags) -> tuple[str, Tags]:
        verdict, offender, policy, steps = self.admit(measurement, tags, 0)
        if verdict != "over":
            return "passes", tags
        if self.observe:
            return "observed", tags
        while policy != "drop" and offender >= 0:
            steps += 1
            which = {offender} if steps < 8 else set(range(len(tags)))
            kept = (
                enumerate(tags)
                if policy == "overflow"
                else (one for one in enumerate(tags) if one[0] not in which)
            )
            tags = tuple((key, OVERFLOW if at in which else value) for at, (key, value) in kept)
            verdict, offender, _, _ = self.admit(measurement, tags, steps)
            if verdict != "over":
                return "overflows", tags
        return "drops", tags

    def admit(self, measurement: str, tags: Tags, steps: int) -> tuple[str, int, str, int]:
        identity = measurement, frozenset(tags)
        if identity in self.known:
            self.known[identity].epoch = self.epoch
            return "known", -1, "", steps
        most = self.most(measurement, tags)
        if steps:
            room = OVERFLOW_MAX if most < 0 else OVERFLOW_MAX - (OVERFLOW_MAX >> steps)
            if self.overflow_series >= room:
                return "over", most, "", steps
            self.known[identity] = Known(self.epoch, True)
            return "admitted", -1, "", steps
        charged = most if measurement in self.measurements else -1
        pair = ("", "") if charged < 0 else (measurement, tags[charged][0])
        matching = [one for one in self.limits if fnmatchcase(measurement, one.measurement)]
        carried: dict[str, Limit] = {}
        for one in matching:
            if one.tag and any(key == one.tag and value != OVERFLOW for key, value in tags):
                carried.setdefault(one.tag, one)
        over = self.over(measurement, tags, charged, pair, matching, carried)
        if over:
            return "over", over[0], over[1], steps
        for key, value in tags:
            if not any((measurement, key, value) in seen for seen in self.seen):
                self.seen[0].add((measurement, key, value))
                self.values[0][measurement, key] += 1
        self.measurements.add(measurement)
        self.known[identity] = Known(self.epoch, False, measurement, pair, frozenset(carried.values()))
        return "admitted", -1, "", steps

    def over(
        self,
        measurement: str,
        tags: Tags,
        charged: int,
        pair: tuple[str, str],
        matching: list[Limit],
        carried: dict[str, Limit],
    ) -> tuple[int, str] | None:
        """The tag that is the offender, and the policy; None within the limits."""
        plain = [one for one in self.known.values() if not one.overflow]
        for limit in matching:
            if limit.tag and carried.get(limit.tag) == limit:
                if sum(limit in one.limits for one in plain) >= limit.max_series:
                    return [key for key, _ in tags].index(limit.tag), limit.policy
        for limit in matching:
            if not limit.tag:
                if sum(one.measurement == measurement for one in plain) >= limit.max_series:
                    return charged, limit.policy
                break
        if len(plain) >= self.max_series:
            return charged, self.policy
        limited = charged >= 0 and any(limit.tag == tags[charged][0] for limit in matching)
        held = sum(one.pair == pair for one in plain)
        if self.reserve and not limited and held >= (1 / self.reserve - 1) * (self.max_series - len(plain)):
            return charged, self.policy
        return None
