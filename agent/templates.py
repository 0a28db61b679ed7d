"""Templates that say what the nodes of a Graphite path are, as Telegraf has them.

    [filter] template [tag=value,tag=value]

    servers.* region.host.measurement* env=prod

The template names the nodes from the left: ``measurement``, ``field``, a tag, or nothing between two dots
for a node that is left out. ``measurement*`` and ``field*`` take all nodes from there on. What is named
twice is joined. Nodes behind the template's end are left out.

A path goes by the template whose filter it begins with: ``*`` stands for any node, a node by its name goes
before it, and further left counts more. The template without a filter is for all others. Reference:
Telegraf's ``docs/TEMPLATE_PATTERN.md``.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent._core import Graphite
from agent.config_values import CONTROL, quote

NODES_MAX = 64
"""Nodes of a filter, and parts of a template."""

TEMPLATES_MAX = 1000

TEXT_BYTES_MAX = 1024
"""Of the name of a tag, and of its value."""

WANTED = '"[filter] template [tag=value,…]", such as "servers.* .host.measurement*"'


class Template(NamedTuple):
    """One template: the nodes of its filter (none: it is for all paths), its parts, and tags of its own."""

    filter: tuple[str, ...]
    parts: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]


def parse(text: str) -> Template:
    """Read one template. Raises ValueError."""
    words = text.split()
    tags: tuple[tuple[str, str], ...] = ()
    if len(words) > 1 and "=" in words[-1]:
        tags = _tags(words.pop())
    if not 1 <= len(words) <= 2:
        raise ValueError(f"has {len(words)} words before its tags; wanted {WANTED}")
    nodes = tuple(words[0].split(".")) if len(words) == 2 else ()
    return Template(_filter(nodes), _parts(tuple(words[-1].split("."))), tags)


def compile_templates(templates: Iterable[str], join: str) -> Graphite:
    """The templates in the form that lanes read. Raises ValueError."""
    return Graphite(
        [
            (
                tuple(node.encode() for node in one.filter),
                tuple(part.encode() for part in one.parts),
                tuple((name.encode(), value.encode()) for name, value in one.tags),
            )
            for one in map(parse, templates)
        ],
        join=join.encode(),
    )


def problems(templates: Sequence[str]) -> list[tuple[int, str]]:
    """What is wrong with *templates*: index and message."""
    found = []
    first: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(templates):
        try:
            template = parse(text)
        except ValueError as error:
            found.append((index, f"{quote(text)} {error}"))
            continue
        if (earlier := first.setdefault(template.filter, index)) != index:
            what = "its filter too" if template.filter else "no filter either"
            found.append(
                (index, f"{quote(text)}: templates[{earlier}] has {what}; one of them would never be used")
            )
    return found


def _filter(nodes: tuple[str, ...]) -> tuple[str, ...]:
    if len(nodes) > NODES_MAX:
        raise ValueError(f"has a filter of {len(nodes)} nodes; at most {NODES_MAX} are allowed")
    for node in nodes:
        if not node:
            raise ValueError("has an empty node in its filter; * stands for any node")
        if "*" in node and node != "*":
            raise ValueError(f"has {quote(node)} in its filter; * stands for a whole node")
    return nodes


def _parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    if len(parts) > NODES_MAX:
        raise ValueError(f"has {len(parts)} parts; at most {NODES_MAX} are allowed")
    for part in parts[:-1]:
        if part.endswith("*"):
            raise ValueError(f"has parts behind {quote(part)}, which takes all nodes from there on")
    if parts[-1].endswith("*") and parts[-1] not in ("measurement*", "field*"):
        raise ValueError(f"has {quote(parts[-1])}; only measurement* and field* take several nodes")
    for part in parts:
        _check_text(part)
    if not {"measurement", "measurement*"} & set(parts):
        raise ValueError("has no part named measurement or measurement*")
    return parts


def _tags(text: str) -> tuple[tuple[str, str], ...]:
    tags: dict[str, str] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        if not name or not value or "=" in value:
            raise ValueError(f"has {quote(item)} among its tags; wanted tag=value")
        if name in tags:
            raise ValueError(f"has the tag {quote(name)} twice")
        _check_text(name)
        _check_text(value)
        tags[name] = value
    return tuple(tags.items())


def _check_text(text: str) -> None:
    if len(text.encode()) > TEXT_BYTES_MAX or CONTROL.search(text):
        raise ValueError(
            f"has a name or value of more than {TEXT_BYTES_MAX} bytes, or with control characters"
        )
