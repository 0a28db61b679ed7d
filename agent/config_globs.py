"""Kinds of keys that hold globs: lists of them, and tables of lists."""

from collections.abc import Mapping
from typing import Any

from agent.config_kinds import Kind, Tags
from agent.config_values import quote
from agent.patterns import compile_glob


class Globs(Kind):
    """An array of globs, those with a leading ``!`` to exclude; a tuple of strings once read."""

    count_max = 1000
    chars_max = 1024
    wanted = 'an array of strings, such as ["cpu*", "!cpu_debug"]'

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} of them; at most {self.count_max} are allowed")
        for one in value:
            if len(one) > self.chars_max:
                raise ValueError(f"has {len(one)} characters in one; at most {self.chars_max} are allowed")
            try:
                compile_glob(one.removeprefix("!"))
            except ValueError as error:
                raise ValueError(f"{quote(one)} {error}") from None
        return tuple(str(one) for one in value)

    def show(self, value: Any) -> list[str]:
        return list(value)


class TagGlobs(Kind):
    """A table of arrays of globs, one for each tag that counts; a dictionary of tuples once read."""

    wanted = 'a table of arrays of strings, such as { dc = ["eu*"] }'

    def read(self, value: object) -> dict[str, tuple[str, ...]]:
        if not isinstance(value, Mapping):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > Tags.count_max:
            raise ValueError(f"has {len(value)} tags; at most {Tags.count_max} are allowed")
        found, wrong = {}, []
        for name, globs in value.items():
            try:
                found[str(name)] = Globs().read(globs)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return found

    def show(self, value: Any) -> dict[str, list[str]]:
        return {name: list(globs) for name, globs in value.items()}
