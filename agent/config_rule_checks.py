"""What concerns the rules of a configuration: keys that belong together or not, and whether they compile."""

from agent.config_checks import Section
from agent.config_rules import MAPS_MAX, SHAPES_MAX, Shape
from agent.config_source import Source
from agent.config_table import kinds
from agent.rules import map_rule, shape_rule


def check_rules(source: Source, maps: list[Section], shapes: list[Section]) -> None:
    """Report to *source* what is wrong with rules; says nothing about keys that are wrong in themselves."""
    for name, sections, most in (("map", maps, MAPS_MAX), ("shape", shapes, SHAPES_MAX)):
        if len(sections) > most:
            source.report(name, f"{len(sections)} rules; at most {most} are allowed")
    for section in maps:
        _check_map(source, section)
    for section in shapes:
        _check_shape(source, section)


def _check_map(source: Source, section: Section) -> None:
    rule = section.table
    if section.sure("match", "regex") and bool(rule.match) == bool(rule.regex):
        wrong = "both are given" if rule.match else "is missing"
        source.report(f"{section.path}.match", f'{wrong}; wanted one of "match" and "regex"')
        return
    said = [key for key in ("measurement", "tags", "field") if section.sure(key) and getattr(rule, key)]
    if section.sure("action") and rule.action == "drop":
        for key in (*said, *(["template"] if rule.template else [])):
            source.report(f"{section.path}.{key}", 'is for action = "map" only; remove it')
    elif section.sure("template") and rule.template:
        for key in said:
            source.report(f"{section.path}.{key}", 'is told by "template"; remove one of the two')
    if section.sure("match", "regex", "measurement", "tags", "field", "template"):
        if len(rule.template.split()) > 1 and "=" not in rule.template.split()[-1]:
            source.report(f"{section.path}.template", 'has a filter; "match" says which names it is for')
        map_rule(rule, report=lambda key, message: source.report(f"{section.path}.{key}", message))


def _check_shape(source: Source, section: Section) -> None:
    rule = section.table
    does = [key for key in kinds(Shape) if key != "measurement" and getattr(rule, key)]
    if not does and not section.wrong:
        source.report(section.path, "does nothing; wanted a key that says what becomes of a metric")
    if section.sure("drop") and rule.drop:
        for key in does:
            if key != "drop":
                source.report(f"{section.path}.{key}", 'is for metrics that stay; "drop" is true')
    shape_rule(rule, report=lambda key, message: source.report(f"{section.path}.{key}", message))
