"""``[[map]]`` and ``[[shape]]`` in plain Python: what the core must make of a head.

Patterns are those of ``re`` here. A head is its measurement and its tags, without escapes, in their order.
The rules, each with its reason:

- Rules see the agent's tags, which stand behind the line's own: a rule may drop them, too.
- Of two tags that get one key by ``rename_tags`` the one that had it stays: it says what the key means.
- What ``allow`` refuses becomes ``otherwise`` rather than going, so that sums over all values stay right.
- Values are cut at a character, and a backslash that is left at the end becomes ``/``: it would escape what
  comes behind the value.
- A head that was changed has its tags in the order of their keys, so that one series is one text.
- Of ``[[map]]`` the first rule that matches counts; tags that the metric came with win, as their sender
  knows best; what is empty adds nothing.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import NamedTuple

from agent.config_rules import Map, Shape, ShapeTag

Tags = dict[str, str]


class Head(NamedTuple):
    measurement: str
    tags: Tags
    field: str = ""


def glob_matches(glob: str, text: str) -> bool:
    return re.fullmatch(fnmatch.translate(glob), text) is not None


def takes(globs: Sequence[str], text: str) -> bool:
    wanted = [glob for glob in globs if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    good = not wanted or any(glob_matches(glob, text) for glob in wanted)
    return good and not any(glob_matches(glob, text) for glob in unwanted)


def safe(text: str) -> str:
    """*text* as it may stand in a head."""
    text = re.sub(r'\\(?=[\x00-\x20\\,="\x7f]|\Z)', "/", text)
    return re.sub(r"[\x00-\x1f\x7f]", "_", text)


def cut(text: str, most: int) -> str:
    if not most or len(text.encode()) <= most:
        return text
    return safe(text.encode()[:most].decode(errors="ignore"))


def tag_value(rule: ShapeTag, value: str) -> str:
    for template in rule.templates:
        parts, own = template.split("/"), value.split("/")
        if len(parts) == len(own) and all(
            (part[:1] == ":" and len(part) > 1 and "\n" not in one and one) or part == one
            for part, one in zip(parts, own, strict=True)
        ):
            value = template
            break
    if rule.allow and not takes(rule.allow, value):
        value = rule.otherwise
    return cut(value, rule.max_length)


def shape_one(rule: Shape, head: Head) -> Head | None:
    """What one rule that matches makes of the head; None: it is dropped."""
    if rule.drop:
        return None
    tags = {
        key: value for key, value in head.tags.items() if not (rule.drop_tags and takes(rule.drop_tags, key))
    }
    for old, new in rule.rename_tags.items():
        if old in tags and old != new:
            tags = {key: value for key, value in tags.items() if key != old} | (
                {} if new in tags else {new: tags[old]}
            )
    for key, tag in rule.tags.items():
        if key in tags:
            tags[key] = tag_value(tag, tags[key])
            if not tags[key]:
                del tags[key]
    tags = {key: short for key, value in tags.items() if (short := cut(value, rule.max_length))}
    return Head(rule.rename or head.measurement, {**rule.add_tags, **tags}, head.field)


def shape(rules: Sequence[Shape], head: Head) -> Head | None:
    now: Head | None = head
    for rule in rules:
        assert now is not None
        if takes(rule.measurement, now.measurement):
            now = shape_one(rule, now)
            if now is None:
                return None
    return now


def pattern(rule: Map) -> "re.Pattern[str]":
    if rule.regex:
        return re.compile(rule.regex, re.ASCII)
    parts = re.findall(r"\[!?[^]]+\]|.", rule.match)
    known = {"*": "([^.]*)", "?": "[^.]"}
    return re.compile("".join(known.get(part, part if part[0] == "[" else re.escape(part)) for part in parts))


def expand(form: str, found: "re.Match[str]") -> str:
    return safe(re.sub(r"\$\{?([0-9]+)\}?", lambda match: found[int(match[1])] or "", form))


def map_name(rules: Sequence[Map], name: str, head: Head, metric_type: str = "") -> Head | None:
    """What the first rule that matches makes of the head, which is as it would be without rules."""
    for rule in rules:
        if rule.types and metric_type and metric_type not in rule.types:
            continue
        found = pattern(rule).fullmatch(name)
        if found is None:
            continue
        if rule.action == "drop":
            return None
        measurement = expand(rule.measurement, found) or head.measurement
        tags = {key: value for key, form in rule.tags.items() if (value := expand(form, found))}
        field = expand(rule.field, found)
        return Head(
            re.sub("^#", "_", measurement), {**tags, **head.tags}, "time_" if field == "time" else field
        )
    return head
