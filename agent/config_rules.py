"""The structs of the rules: what becomes of names, measurements and tags on their way."""

from typing import Annotated

from msgspec import field

from agent.config_arrays import Named, Strings
from agent.config_globs import Globs
from agent.config_kinds import Choice, Choices, Flag, Integer, Tags, Text, Texts
from agent.config_table import Table

METRIC_TYPES = ("counter", "gauge", "set", "timing", "histogram", "distribution")
"""What StatsD knows, by the names that points of it carry in their tag ``metric_type``."""

SHAPES_MAX = 1000

MAPS_MAX = 10_000

_NAME = r"(?!#)[^\\]+"
_NAME_WANTED = "a name without backslashes, and without # at its start"

_PLAIN = r"[^\\]*"
_PLAIN_WANTED = "a string without backslashes"


class ShapeTag(Table, frozen=True, kw_only=True):
    """``[shape.tags.KEY]``: what the values of one tag may be."""

    templates: Annotated[tuple[str, ...], Texts('an array of strings, such as ["/user/:id"]', 1000)] = ()
    allow: Annotated[tuple[str, ...], Globs()] = ()
    otherwise: Annotated[str, Text(pattern=_PLAIN, wanted=_PLAIN_WANTED)] = "__other__"
    max_length: Annotated[int, Integer(0, 65535)] = 0


class Shape(Table, frozen=True, kw_only=True):
    """``[[shape]]``: what becomes of measurement and tags. All rules that match apply, in their order."""

    measurement: Annotated[tuple[str, ...], Globs()] = ("*",)
    drop: Annotated[bool, Flag()] = False
    rename: Annotated[str, Text(pattern=_NAME, wanted=_NAME_WANTED)] = ""
    drop_tags: Annotated[tuple[str, ...], Globs()] = ()
    rename_tags: Annotated[dict[str, str], Strings('{ hostname = "host" }', names=True)] = field(
        default_factory=dict
    )
    add_tags: Annotated[dict[str, str], Tags()] = field(default_factory=dict)
    max_length: Annotated[int, Integer(0, 65535)] = 0
    tags: Annotated[dict[str, ShapeTag], Named(ShapeTag)] = field(default_factory=dict)


class Map(Table, frozen=True, kw_only=True):
    """``[[map]]``: what the parts of a name of StatsD or Graphite are. The first rule that matches counts."""

    listeners: Annotated[tuple[str, ...], Globs()] = ()
    match: Annotated[str, Text()] = ""
    regex: Annotated[str, Text()] = ""
    types: Annotated[tuple[str, ...], Choices(*METRIC_TYPES)] = ()
    action: Annotated[str, Choice("map", "drop")] = "map"
    measurement: Annotated[str, Text(pattern=_PLAIN, wanted=_PLAIN_WANTED)] = ""
    tags: Annotated[dict[str, str], Strings('{ host = "$1" }')] = field(default_factory=dict)
    field: Annotated[str, Text(pattern=_PLAIN, wanted=_PLAIN_WANTED)] = ""
    template: Annotated[str, Text()] = ""
