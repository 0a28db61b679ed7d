"""Kinds of keys that hold several of something under names: tables of strings, tables of tables."""

from collections.abc import Mapping
from typing import Any

from agent.config_kinds import Kind
from agent.config_values import CONTROL, quote

RESERVED = ("time", "_measurement", "_field")
"""Names of tags that InfluxDB keeps for itself."""


class Strings(Kind):
    """A table of strings whose keys are names of tags, and with *names* the strings, too."""

    count_max = 64
    chars_max = 1024

    def __init__(self, example: str, names: bool = False) -> None:
        self.wanted = f"a table of strings, such as {example}"
        self.names = names

    def read(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} strings; at most {self.count_max} are allowed")
        wrong = [message for name, text in value.items() if (message := self._wrong(str(name), text))]
        if wrong:
            raise ValueError("; ".join(wrong))
        return {str(name): str(text) for name, text in value.items()}

    def _wrong(self, name: str, text: object) -> str:
        """What is wrong with one entry, or nothing."""
        if not isinstance(text, str):
            return f"{quote(name)}: got {quote(text)}; wanted a string"
        made = text if self.names else name
        if made in RESERVED:
            return f"tag {quote(made)}: InfluxDB reserves this name"
        for part in (name, text):
            empty = not part and (self.names or part is name)
            if empty or len(part) > self.chars_max or CONTROL.search(part) or "\\" in part:
                return (
                    f"{quote(name)}: wanted 1 to {self.chars_max} characters, no backslash and no "
                    "control character"
                )
        return ""

    def show(self, value: Any) -> dict[str, str]:
        return dict(value)


class Named(Kind):
    """A table of tables, each under a name that is not fixed; a dictionary of structs once read.

    What stands in the tables is read key by key by whoever reads the table around it, as with
    :class:`~agent.config_kinds.Inner`. Only what is no table comes here.
    """

    count_max = 64

    def __init__(self, table: type) -> None:
        self.table = table
        self.wanted = "a table of tables"

    def read(self, value: object) -> Any:
        raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
