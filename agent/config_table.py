"""What a config struct is: a table whose fields carry their kinds. And arrays of tables inside a table."""

from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from msgspec import Struct

from agent.config_kinds import MASK, Kind
from agent.config_values import quote


class Table(Struct, frozen=True, kw_only=True):
    """A table of the configuration. Its ``repr`` masks secrets."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        known = kinds(type(self))
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return [(name, MASK if known[name].secret and value else value) for name, value in values.items()]


class Array(Kind):
    """An array of tables inside a table, ``[[cardinality.limit]]``; a tuple of structs once read.

    What stands in the tables is read key by key, as it is with :class:`~agent.config_kinds.Inner`.
    """

    def __init__(self, table: type[Table], count_max: int) -> None:
        self.table = table
        self.count_max = count_max
        self.wanted = "an array of tables, with double brackets"

    def read(self, value: object) -> list[dict[str, Any]]:
        """The tables as they stand in the file. Raises ValueError."""
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} tables; at most {self.count_max} are allowed")
        return value


@cache
def kinds(table: type[Struct]) -> Mapping[str, Kind]:
    """The kind of each key of a config struct, in the order of its fields."""
    hints = get_type_hints(table, include_extras=True)
    return {
        name: kind
        for name in table.__struct_fields__
        for kind in getattr(hints[name], "__metadata__", ())
        if isinstance(kind, Kind)
    }
