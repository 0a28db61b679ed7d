"""The rules of a configuration in the form that the core reads: ``[[map]]``, ``[[shape]]``, templates.

What is wrong with a rule is found here, key by key, since only what compiles is right.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent._core import Pattern, Rules
from agent.config_arrays import RESERVED
from agent.config_rules import METRIC_TYPES, Map, Shape, ShapeTag
from agent.config_schema import Config
from agent.config_values import quote
from agent.patterns import Globs, compile_glob, compile_globs, compile_regex
from agent.templates import Template
from agent.templates import parse as parse_template

Report = Callable[[str, str], None]
"""Is told the key of a rule, and what is wrong with it."""

EVERY_LISTENER = (1 << 64) - 1

EVERY_TYPE = 0xFF

# The order of map_piece_kind_t.
_TEXT, _CAPTURE, _NODE, _REST = range(4)

_REFERENCE = re.compile(r"\$(?:\{([0-9]{1,4})\}|([0-9]{1,4}))|\$")

TEMPLATE_JOIN = b"_"
"""What the template of a rule puts between nodes."""


class Piece(NamedTuple):
    """What a text is put together of: see ``ext/plan_map.h``."""

    kind: int
    number: int = 0
    joined: bool = False
    text: bytes = b""


Form = tuple[Piece, ...]


class MapRule(NamedTuple):
    pattern: Pattern
    listeners: int
    types: int
    drop: bool
    join: bytes | None
    measurement: Form
    field: Form
    tags: tuple[tuple[bytes, Form], ...]


class TagRule(NamedTuple):
    key: bytes
    templates: tuple[tuple[Pattern, bytes], ...]
    allow: Globs
    otherwise: bytes
    bytes_max: int


class ShapeRule(NamedTuple):
    match: Globs
    drop: bool
    rename: bytes
    drop_tags: Globs
    rename_tags: tuple[tuple[bytes, bytes], ...]
    tags: tuple[TagRule, ...]
    bytes_max: int
    add: tuple[tuple[bytes, bytes], ...]


def compile_rules(config: Config, numbers: Mapping[str, int]) -> Rules | None:
    """All rules of *config*; None if it has none. *numbers*: of its listeners, by name. Raises ValueError."""
    maps = [map_rule(one, _listeners(one.listeners, numbers)) for one in config.map]
    for listen in config.listen:
        if listen.format == "statsd" and listen.templates:
            number = 1 << numbers[listen.name]
            maps += template_rules(listen.templates, number, listen.separator.encode())
    shapes = [shape_rule(one) for one in config.shape]
    return Rules(shapes, maps) if maps or shapes else None


def _listeners(globs: Sequence[str], numbers: Mapping[str, int]) -> int:
    if not globs:
        return EVERY_LISTENER
    wanted, unwanted = compile_globs(globs)

    def takes(name: bytes) -> bool:
        good = not wanted or any(one.match(name)[0] is not None for one in wanted)
        return good and not any(one.match(name)[0] is not None for one in unwanted)

    return sum(1 << number for name, number in numbers.items() if takes(name.encode()))


# ---- [[shape]] ----


def shape_rule(shape: Shape, report: Report | None = None) -> ShapeRule:
    """One rule compiled. Without *report* raises ValueError with the first thing that is wrong."""
    return ShapeRule(
        compile_globs(shape.measurement),
        shape.drop,
        shape.rename.encode(),
        compile_globs(shape.drop_tags),
        _pairs(shape.rename_tags),
        tuple(_tag_rule(key, tag, report) for key, tag in shape.tags.items()),
        shape.max_length,
        _pairs(shape.add_tags),
    )


def _pairs(table: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((key.encode(), value.encode()) for key, value in table.items())


def _tag_rule(key: str, tag: ShapeTag, report: Report | None) -> TagRule:
    templates = []
    for index, text in enumerate(tag.templates):
        try:
            templates.append((_value_template(text), text.encode()))
        except ValueError as error:
            _tell(report, f"tags.{key}.templates[{index}]", f"{quote(text)} {error}")
    allow = compile_globs(tag.allow)
    return TagRule(key.encode(), tuple(templates), allow, tag.otherwise.encode(), tag.max_length)


def _value_template(text: str) -> Pattern:
    """``/user/:id``: what begins with a colon is any part that is not empty."""
    if not text or "\\" in text or not text.isprintable():
        raise ValueError("is empty, or has a backslash or a control character")
    parts = text.split("/")
    return compile_regex(
        "/".join("[^/]+" if re.fullmatch(":.+", part) else re.escape(part) for part in parts)
    )


def _tell(report: Report | None, key: str, message: str) -> None:
    if report is None:
        raise ValueError(f"{key}: {message}")
    report(key, message)


# ---- [[map]] ----


def map_rule(rule: Map, listeners: int = EVERY_LISTENER, report: Report | None = None) -> MapRule:
    """One rule compiled. Without *report* raises ValueError with the first thing that is wrong."""
    key, text = ("regex", rule.regex) if rule.regex else ("match", rule.match)
    try:
        pattern = compile_regex(text) if rule.regex else compile_glob(text, nodes=True)
    except ValueError as error:
        _tell(report, key, f"{quote(text)} {error}")
        pattern = compile_regex("(.?)" * 16)

    def form(key: str, text: str) -> Form:
        try:
            return _form(text, pattern.captures)
        except ValueError as error:
            _tell(report, key, f"{quote(text)} {error}")
            return ()

    types = sum(1 << METRIC_TYPES.index(one) for one in rule.types) or EVERY_TYPE
    head = MapRule(pattern, listeners, types, rule.action == "drop", None, (), (), ())
    if rule.template:
        try:
            return _with_template(head, parse_template(rule.template), TEMPLATE_JOIN)
        except ValueError as error:
            _tell(report, "template", f"{quote(rule.template)} {error}")
            return head
    return head._replace(
        measurement=form("measurement", rule.measurement),
        field=form("field", rule.field),
        tags=tuple((name.encode(), form(f"tags.{name}", text)) for name, text in rule.tags.items()),
    )


def _form(text: str, captures: int) -> Form:
    """The pieces of a text with ``$1`` and ``${1}`` in it."""
    pieces: list[Piece] = []
    last = 0
    for match in _REFERENCE.finditer(text):
        if match.start() > last:
            pieces.append(Piece(_TEXT, text=text[last : match.start()].encode()))
        digits = match[1] or match[2]
        if digits is None:
            raise ValueError("has a $ that no number of a capture stands behind")
        if not 1 <= int(digits) <= captures:
            raise ValueError(f"has {match[0]}; the pattern has {captures or 'no'} captures")
        pieces.append(Piece(_CAPTURE, int(digits) - 1))
        last = match.end()
    if last < len(text):
        pieces.append(Piece(_TEXT, text=text[last:].encode()))
    return tuple(pieces)


def _with_template(rule: MapRule, template: Template, join: bytes) -> MapRule:
    nodes: dict[str, list[Piece]] = {}
    for index, part in enumerate(template.parts):
        if part:
            name = part.removesuffix("*") if part in ("measurement*", "field*") else part
            kind = _REST if name != part else _NODE
            nodes.setdefault(name, []).append(Piece(kind, index))
    own = dict(template.tags)
    tags = [*own, *(name for name in nodes if name not in own)]
    return rule._replace(
        join=join,
        measurement=_joined([], nodes.pop("measurement", [])),
        field=_joined([], nodes.pop("field", [])),
        tags=tuple(
            (
                # As the reader of Graphite has it.
                (f"{name}_" if name in RESERVED else name).encode(),
                _joined([Piece(_TEXT, text=own[name].encode())] if name in own else [], nodes.get(name, [])),
            )
            for name in tags
            if name not in ("measurement", "field")
        ),
    )


def _joined(constant: list[Piece], nodes: list[Piece]) -> Form:
    return (*constant, *(one._replace(joined=bool(constant) or k > 0) for k, one in enumerate(nodes)))


def template_rules(texts: Iterable[str], listeners: int, join: bytes) -> list[MapRule]:
    """Templates of a listener as rules: the one with the most special filter first, as Graphite has them."""
    templates = sorted(map(parse_template, texts), key=lambda one: _rank(one.filter))
    return [
        _with_template(
            MapRule(_filter_pattern(one.filter), listeners, EVERY_TYPE, False, None, (), (), ()), one, join
        )
        for one in templates
    ]


def _rank(nodes: Sequence[str]) -> tuple[int, ...]:
    """A node by its name goes before ``*``, that before the filter's end; further left counts more."""
    return (*(int(node == "*") for node in nodes), 2)


def _filter_pattern(nodes: Sequence[str]) -> Pattern:
    if not nodes:
        return compile_glob("*")
    path = r"\.".join("[^.]*" if node == "*" else re.escape(node) for node in nodes)
    return compile_regex(path + r"(?:\..*)?")
