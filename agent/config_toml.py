"""A configuration as TOML text, the way a person would write it.

Reading it back gives the same configuration, except that secrets are masked: they are written as ``***``.
Format: https://toml.io/en/v1.0.0
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import fields

from agent.config import OPTIONAL, Config, dump
from agent.config_kinds import Inner
from agent.config_schema import (
    FORMAT_KEYS,
    FORMAT_PRECISION,
    OUTPUT_TYPES,
    SCHEME_KEYS,
    Listen,
    Table,
    kinds,
    strangers,
)
from agent.config_table import Array

_INNER = frozenset(
    name for one in OUTPUT_TYPES.values() for name, kind in kinds(one).items() if isinstance(kind, Inner)
)
"""Keys of outputs that get a table of their own, ``[output.spool]``; others stand in one line."""


def to_toml(config: Config, defaults: bool = True) -> str:
    """The whole of *config*, or without *defaults* only what differs from them. Secrets are masked."""
    shown = dump(config)
    for table, listen in zip(shown["listen"], config.listen, strict=True):
        # What is refused where it is given.
        scheme = urlsplit(listen.address).scheme
        for key in strangers(SCHEME_KEYS, scheme) | strangers(FORMAT_KEYS, listen.format):
            del table[key]
    if not defaults:
        for name, table in shown.items():
            structs = getattr(config, name)
            if isinstance(structs, Table):
                _leave_out_defaults(table, structs)
            else:
                for one, struct in zip(table, structs, strict=True):
                    _leave_out_defaults(one, struct)
    return "\n".join(_blocks(shown))


def _leave_out_defaults(shown: dict[str, Any], struct: Table) -> None:
    for field in fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, Table):
            _leave_out_defaults(shown[field.name], value)
            if not shown[field.name]:
                del shown[field.name]
            continue
        if isinstance(kinds(type(struct))[field.name], Array):
            for one, inner in zip(shown[field.name], value, strict=True):
                _leave_out_defaults(one, inner)
            continue
        default = field.default
        if field.name == "name" and isinstance(struct, Listen):
            default = struct.address
        elif field.name == "precision" and isinstance(struct, Listen):
            default = FORMAT_PRECISION.get(struct.format, "ns")
        elif callable(field.default_factory):
            default = field.default_factory()
        if value == default:
            shown.pop(field.name, None)


def _blocks(shown: Mapping[str, Any]) -> Iterator[str]:
    """One text for each table, its header first; tables without a key are left out."""
    for name, tables in shown.items():
        if isinstance(tables, Mapping):
            known = kinds(OPTIONAL[name]) if name in OPTIONAL else {}
            arrays = [key for key, kind in known.items() if isinstance(kind, Array)]
            # A table that turns something on says so without a key, too.
            if tables or name in OPTIONAL:
                own = {key: value for key, value in tables.items() if key not in arrays}
                yield f"[{name}]\n" + _lines(own)
            for key in arrays:
                yield from (f"[[{name}.{key}]]\n" + _lines(one) for one in tables.get(key, ()))
        else:
            for table in tables:
                inner = [key for key, value in table.items() if key in _INNER and isinstance(value, Mapping)]
                own = {key: value for key, value in table.items() if key not in inner}
                yield f"[[{name}]]\n" + _lines(own)
                for key in inner:
                    yield f"[{name}.{key}]\n" + _lines(table[key])


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {toml_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quoted(key)


def toml_value(value: Any) -> str:
    """*value*, in the form of :func:`~agent.config.dump`, as it stands behind a key."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    # What would be a reference when read back is one dollar sign twice.
    return _quoted(str(value).replace("$", "$$"))


def _quoted(text: str) -> str:
    """A basic string. JSON's escapes are TOML's, but TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
