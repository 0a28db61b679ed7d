"""The configuration: TOML in, frozen structs out, every problem of it reported at once.

What the rest of the agent needs of it is here: :func:`load`, :func:`dump`, :func:`diff` and the structs.
The parts, in their order: values, kinds, schema (the structs), source (files and references),
checks (what concerns several keys).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from msgspec.structs import fields

from agent.config_arrays import Named
from agent.config_checks import Section, check, check_agent, check_guards
from agent.config_guards import Cardinality as Cardinality
from agent.config_guards import CardinalityLimit as CardinalityLimit
from agent.config_guards import Collisions as Collisions
from agent.config_guards import Types as Types
from agent.config_guards import TypesField as TypesField
from agent.config_kinds import Inner, Kind
from agent.config_rule_checks import check_rules
from agent.config_rules import Map as Map
from agent.config_rules import Shape as Shape
from agent.config_rules import ShapeTag as ShapeTag
from agent.config_schema import OUTPUT_TYPE, OUTPUT_TYPES, Table, kinds
from agent.config_schema import Agent as Agent
from agent.config_schema import BrokerOutput as BrokerOutput
from agent.config_schema import Config as Config
from agent.config_schema import Destination as Destination
from agent.config_schema import FileOutput as FileOutput
from agent.config_schema import FilterTable as FilterTable
from agent.config_schema import Flush as Flush
from agent.config_schema import Host as Host
from agent.config_schema import HttpOutput as HttpOutput
from agent.config_schema import InfluxOutput as InfluxOutput
from agent.config_schema import KafkaOutput as KafkaOutput
from agent.config_schema import Listen as Listen
from agent.config_schema import Log as Log
from agent.config_schema import NatsOutput as NatsOutput
from agent.config_schema import NullOutput as NullOutput
from agent.config_schema import Output as Output
from agent.config_schema import RejectedTable as RejectedTable
from agent.config_schema import RemoteWriteOutput as RemoteWriteOutput
from agent.config_schema import ServerOutput as ServerOutput
from agent.config_schema import Slo as Slo
from agent.config_schema import SpoolTable as SpoolTable
from agent.config_source import UNFILLED, Source, join, read_tree
from agent.config_table import Array
from agent.config_values import hint, one_of, quote
from agent.errors import ConfigError

DEFAULT_PATH = Path("/etc/penstock/penstock.toml")

OPTIONAL: dict[str, type[Table]] = {
    "host": Host,
    "cardinality": Cardinality,
    "types": Types,
    "collisions": Collisions,
}
"""Tables that turn something on by being there."""


def load(path: Path | None = None) -> Config:
    """Read the configuration at *path* (default ``/etc/penstock/penstock.toml``) and in ``conf.d`` beside it.

    Raises ConfigError with every problem found. Reads the environment, and the files that references and
    TLS keys name; opens no socket and contacts no server.
    """
    source = read_tree(path if path is not None else DEFAULT_PATH)
    tree = source.tree
    _unknown(tree, list(Config.__struct_fields__), "", source)
    agent = _read_one(Agent, tree, "agent", source)
    log = _read_one(Log, tree, "log", source)
    flush = _read_one(Flush, tree, "flush", source)
    slo = _read_one(Slo, tree, "slo", source)
    listen = [_read(Listen, table, where, source) for where, table in _tables(tree, "listen", source)]
    output = [_read_output(table, where, source) for where, table in _tables(tree, "output", source)]
    present = [name for name in OPTIONAL if name in tree]
    optional = {name: _read_one(OPTIONAL[name], tree, name, source) for name in present}
    maps = [_read(Map, table, where, source) for where, table in _tables(tree, "map", source)]
    shapes = [_read(Shape, table, where, source) for where, table in _tables(tree, "shape", source)]
    check(source, flush, listen, output)
    check_agent(source, agent)
    check_guards(source, optional)
    check_rules(source, maps, shapes)
    if source.problems:
        raise ConfigError(source.problems)
    return Config(
        agent=agent.table,
        log=log.table,
        listen=tuple(one.table for one in listen),
        map=tuple(one.table for one in maps),
        shape=tuple(one.table for one in shapes),
        flush=flush.table,
        slo=slo.table,
        output=tuple(one.table for one in output),
        **{name: section.table for name, section in optional.items()},
    )


def _read_one(struct: type[Table], tree: dict[str, Any], name: str, source: Source) -> Section:
    table = tree.get(name, {})
    if not isinstance(table, dict):
        source.report(name, f"got {quote(table)}; wanted a table: [{name}]")
        table = {}
    return _read(struct, table, name, source)


def _tables(tree: dict[str, Any], name: str, source: Source) -> list[tuple[str, dict[str, Any]]]:
    """The tables of an array with their paths, without those that are none."""
    array = tree.get(name, [])
    if not isinstance(array, list):
        source.report(
            name, f"got {quote(array)}; wanted an array of tables: write [[{name}]], with double brackets"
        )
        # The sole table that was written with single brackets is still worth reading.
        array = [array] if isinstance(array, dict) else []
    found = []
    for index, table in enumerate(array):
        if isinstance(table, dict):
            found.append((f"{name}[{index}]", table))
        else:
            source.report(f"{name}[{index}]", f"got {quote(table)}; wanted a table: [[{name}]]")
    return found


def _read_output(table: dict[str, Any], path: str, source: Source) -> Section:
    kind: object = table.get("type")
    if kind is None:
        source.report(f"{path}.type", f"is missing; wanted {one_of(OUTPUT_TYPES)}")
    elif kind is not UNFILLED:
        try:
            return _read(OUTPUT_TYPES[OUTPUT_TYPE.read(kind)], table, path, source, also=("type",))
        except ValueError as error:
            source.report(f"{path}.type", str(error))
    # Without its type, only what every output has can be judged.
    common = {key: value for key, value in table.items() if key in kinds(Destination)}
    section = _read(Destination, common, path, source)
    return Section(path, section.table, section.given, section.wrong | {"type"})


def _read(
    struct: type[Table], table: dict[str, Any], path: str, source: Source, also: tuple[str, ...] = ()
) -> Section:
    """Read every key of *table*, report what is wrong, and go on with defaults."""
    known = kinds(struct)
    _unknown(table, [*known, *also], path, source)
    values: dict[str, Any] = {}
    wrong: set[str] = set()
    for field in fields(struct):
        name, kind = field.name, known[field.name]
        if name in table and not _unfilled(table[name]):
            if isinstance(kind, Inner) and isinstance(table[name], dict):
                inner = _read(kind.table, table[name], join(path, name), source)
                values[name] = inner.table
                wrong |= {join(name, key) for key in inner.wrong}
                continue
            if isinstance(kind, Named) and isinstance(table[name], dict):
                values[name] = _read_named(kind, table[name], join(path, name), source, wrong)
                continue
            try:
                read = kind.read(table[name])
                if isinstance(kind, Array):
                    array = [
                        _read(kind.table, one, f"{join(path, name)}[{index}]", source)
                        for index, one in enumerate(read)
                    ]
                    wrong |= {name for one in array if one.wrong}
                    read = tuple(one.table for one in array)
                values[name] = read
                continue
            except ValueError as error:
                source.report(join(path, name), str(error))
        elif name not in table:
            if not field.required:
                continue
            source.report(join(path, name), f"is missing; wanted {kind.wanted}")
        wrong.add(name)
        if field.required:
            values[name] = ""
    return Section(path, struct(**values), table, frozenset(wrong))


def _read_named(
    kind: Named, tables: dict[str, Any], path: str, source: Source, wrong: set[str]
) -> dict[str, Table]:
    found = {}
    if len(tables) > kind.count_max:
        source.report(path, f"has {len(tables)} tables; at most {kind.count_max} are allowed")
    for name, table in tables.items():
        if isinstance(table, dict):
            found[name] = _read(kind.table, table, join(path, name), source).table
        else:
            source.report(join(path, name), f"got {quote(table)}; wanted a table")
            wrong.add(join(path, name))
    return found


def _unfilled(value: Any) -> bool:
    """Whether it, or a part of it, is a reference that could not be replaced, which is reported already."""
    return value is UNFILLED or (isinstance(value, list) and any(one is UNFILLED for one in value))


def _unknown(table: dict[str, Any], known: Sequence[str], path: str, source: Source) -> None:
    for key in table:
        if key not in known:
            places = [
                place for place, names in _places().items() if key in names and place != path.split("[")[0]
            ]
            close = hint(key, list(known), mark="'")
            if not close:
                close = (
                    f"; it belongs in {' or '.join(places)}" if places else f"; known are {', '.join(known)}"
                )
            source.report(join(path, key), f"unknown key '{quote(key)[1:-1]}'{close}")


@cache
def _places() -> dict[str, frozenset[str]]:
    """Where each key belongs, by the header of its table."""
    return {
        "[agent]": frozenset(kinds(Agent)),
        "[log]": frozenset(kinds(Log)),
        "[[listen]]": frozenset(kinds(Listen)),
        **{f"[{name}]": frozenset(kinds(table)) for name, table in OPTIONAL.items()},
        "[[cardinality.limit]]": frozenset(kinds(CardinalityLimit)),
        "[[types.field]]": frozenset(kinds(TypesField)),
        "[[map]]": frozenset(kinds(Map)),
        "[[shape]]": frozenset(kinds(Shape)),
        "[shape.tags.KEY]": frozenset(kinds(ShapeTag)),
        "[flush]": frozenset(kinds(Flush)),
        "[slo]": frozenset(kinds(Slo)),
        "[output.filter]": frozenset(kinds(FilterTable)),
        "[output.spool]": frozenset(kinds(SpoolTable)),
        "[output.rejected]": frozenset(kinds(RejectedTable)),
        **{f'[[output]] of type "{one.type}"': frozenset(kinds(one)) for one in OUTPUT_TYPES.values()},
    }


def dump(config: Config) -> dict[str, Any]:
    """The configuration as TOML would hold it, defaults included: ``"200ms"``, ``"1MiB"``, ``***``."""
    return {
        "agent": _dump(config.agent),
        "log": _dump(config.log),
        "listen": [_dump(one) for one in config.listen],
        **{name: _dump(table) for name in OPTIONAL if (table := getattr(config, name)) is not None},
        **{
            name: [_dump(one) for one in rules]
            for name in ("map", "shape")
            if (rules := getattr(config, name))
        },
        "flush": _dump(config.flush),
        "slo": _dump(config.slo),
        "output": [_dump(one) for one in config.output],
    }


def _dump(table: Table) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, kind in kinds(type(table)).items():
        shown[name] = _show(kind, getattr(table, name))
        if name == "name" and isinstance(table, Destination):
            shown["type"] = cast(Output, table).type
    return shown


def _show(kind: Kind, value: Any) -> Any:
    if isinstance(kind, Array):
        return [_dump(one) for one in value]
    if isinstance(kind, Named):
        return {name: _dump(table) for name, table in value.items()}
    return _dump(value) if isinstance(value, Table) else kind.show(value)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two configurations, in the form of :func:`dump`; ``None`` where nothing was.

    Listeners and outputs are matched by their names, which stand in the path: ``output[influx].url``;
    rules by their place, each as a whole.
    """

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.old!r} → {self.new!r}"


def diff(old: Config, new: Config) -> list[Change]:
    """What *new* changes. A changed secret is reported as such and shown as ``***``."""
    changes: list[Change] = []
    for name in ("agent", "log", "flush", "slo"):
        _diff(name, getattr(old, name), getattr(new, name), changes)
    for name in OPTIONAL:
        if getattr(old, name) != getattr(new, name):
            _diff(name, getattr(old, name), getattr(new, name), changes)
    for name in ("map", "shape"):
        rules = zip_longest(getattr(old, name), getattr(new, name))
        for index, (earlier, later) in enumerate(rules):
            if earlier != later:
                path = f"{name}[{index}]"
                changes.append(Change(path, earlier and _dump(earlier), later and _dump(later)))
    for name in ("listen", "output"):
        before: dict[str, Table] = {one.name: one for one in getattr(old, name)}
        after: dict[str, Table] = {one.name: one for one in getattr(new, name)}
        for one in dict.fromkeys((*before, *after)):
            _diff(f"{name}[{one}]", before.get(one), after.get(one), changes)
    return changes


def _diff(path: str, old: Table | None, new: Table | None, changes: list[Change]) -> None:
    if old is None or new is None or type(old) is not type(new):
        changes.append(Change(path, _dump(old) if old else None, _dump(new) if new else None))
        return
    for name, kind in kinds(type(old)).items():
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Table) and isinstance(after, Table):
            _diff(f"{path}.{name}", before, after, changes)
        elif isinstance(kind, Array) and before != after:
            for index, (one, other) in enumerate(zip_longest(before, after)):
                if one != other:
                    _diff(f"{path}.{name}[{index}]", one, other, changes)
        elif before != after:
            changes.append(Change(f"{path}.{name}", _show(kind, before), _show(kind, after)))
