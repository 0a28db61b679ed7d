"""Guards: what every metric passes between its reader and the rings, if the configuration has rules for it.

A :class:`~agent._core.Plan` is what the rules say, one for all writers; each writer (lane, feed, ticker) has
a :class:`~agent._core.Guard` of its own, which was made for the tags and the rings that the writer has. All
three are exchanged together. Where there is no rule there is neither, and the writers know of none.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from agent._core import Book, Guard, Plan, Ring, Types
from agent._core import Rules as Changes
from agent.config import Config, FilterTable, Output
from agent.patterns import compile_globs
from agent.rules import compile_rules

if TYPE_CHECKING:
    from agent._core import GuardStats

Tags = Sequence[tuple[bytes, bytes]]

_COUNTED: Final[tuple[Literal["unknown", "given_up", "rejected_unsaved"], ...]] = (
    "unknown",
    "given_up",
    "rejected_unsaved",
)

Rules = tuple[
    tuple[str, tuple[str, str] | None, tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]], ...
]


def chosen(outputs: Sequence[Output]) -> bool:
    """Whether not every output gets everything."""
    return any(output.shard or output.filter != FilterTable() for output in outputs)


def rules(outputs: Sequence[Output]) -> Rules:
    """What decides between *outputs*: name, group of shards, filter."""
    return tuple(
        (
            output.name,
            (output.shard, output.shard_group) if output.shard else None,
            output.filter.measurement,
            tuple(sorted(output.filter.tag.items())),
        )
        for output in outputs
    )


def changes(config: Config) -> tuple[object, ...]:
    """All that decides what becomes of a head or a name, but for templates: they are the listener's own."""
    templates = any(listen.format == "statsd" and listen.templates for listen in config.listen)
    any_at_all = config.map or config.shape or templates
    return (config.map, config.shape, config.agent.tags) if any_at_all else ()


def compiled(rules: Rules) -> Plan:
    """The rules as the writers have them. Raises ValueError."""
    return Plan(
        [
            (name, group, compile_globs(measurement), {key: compile_globs(values) for key, values in tags})
            for name, group, measurement, tags in rules
        ]
    )


class Guards:
    """The guards of all writers under one configuration. One thread at a time."""

    def __init__(
        self,
        config: Config,
        book: Book,
        numbers: Mapping[str, int],
        former: "Guards | None" = None,
        types: Types | None = None,
    ) -> None:
        """Those of *former* stay where nothing has changed for them. *numbers*: of listeners, by their names.

        Raises ValueError.
        """
        templates = [
            (one.name, one.templates, one.separator) for one in config.listen if one.format == "statsd"
        ]
        self._wanted = (
            rules(config.output),
            config.cardinality,
            config.types,
            config.collisions is not None,
            changes(config),
            templates,
            dict(numbers),
        )
        self._types = types if config.types is not None else None
        self._coerce = config.types is not None and config.types.coerce
        self._rename = config.types is not None and config.types.conflict == "rename"
        self._collisions = config.collisions is not None
        self._book = book if config.cardinality is not None else None
        self._max_series = config.cardinality.max_series if config.cardinality is not None else 0
        self._plan: Plan | None = None
        self._changes: Changes | None = None
        self._made: dict[str, tuple[tuple[object, ...], Guard]] = {}
        self._past: dict[str, int] = dict.fromkeys(_COUNTED, 0)  # by guards that are gone
        if former is not None and former._wanted == self._wanted:
            self._plan, self._changes, self._made = former._plan, former._changes, dict(former._made)
            return
        self._changes = compile_rules(config, numbers)
        limits = self._book is not None or self._types is not None or self._collisions
        if chosen(config.output) or limits or self._changes is not None:
            self._plan = compiled(self._wanted[0])

    def of(self, writer: str, tags: Tags, rings: Sequence[Ring]) -> Guard | None:
        """What *writer*, ``lane-0`` …, ``feed`` or ``tick``, decides by with these tags and rings."""
        # A writer that leaves has no rings, and one that has none needs nobody to choose between them.
        if self._plan is None or not rings:
            return None
        wanted = (tuple(tags), tuple(rings))
        made = self._made.get(writer)
        if made is None or made[0] != wanted:
            guard = Guard(
                self._plan,
                self._book,
                self._max_series,
                self._changes,
                self._types,
                self._coerce,
                self._rename,
                self._collisions,
            )
            made = self._made[writer] = (wanted, guard)
        return made[1]

    def take_rejected(self) -> list[tuple[bytes, str, str]]:
        """The fields that left their lines: as lines, with the type that is kept and the one that came."""
        return [one for _, guard in list(self._made.values()) for one in guard.take_rejected()]

    def inherit(self, former: "Guards | None") -> None:
        """Count on from *former*, whose writers have got those of this one by now."""
        if former is None:
            return
        staying = {id(guard) for _, guard in self._made.values()}
        gone = [guard.stats() for _, guard in former._made.values() if id(guard) not in staying]
        for name in _COUNTED:
            self._past[name] = former._past[name] + sum(one[name] for one in gone)

    def stats(self) -> "GuardStats | None":
        """Of all writers together, and of those that went; None where nothing was ever decided."""
        now = [guard.stats() for _, guard in list(self._made.values())]
        if self._plan is None and not any(self._past.values()):
            return None
        return {
            "unknown": self._past["unknown"] + sum(one["unknown"] for one in now),
            "given_up": self._past["given_up"] + sum(one["given_up"] for one in now),
            "rejected_unsaved": self._past["rejected_unsaved"] + sum(one["rejected_unsaved"] for one in now),
            "heads": sum(one["heads"] for one in now),
            "bytes": sum(one["bytes"] for one in now),
        }
