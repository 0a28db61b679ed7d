"""Writes the parts of man/ that are made from the code: commands and options, keys with defaults and ranges.

A page is written by hand, but for what stands between the comments ``begin NAME`` and ``end NAME``. The keys
take their explanations from configs/penstock.toml, which a test holds to the schema, and their ranges from
the schema itself. ``make man`` runs this, and makes docs/messages.md; a test fails if a page is not what this
makes of it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent import __version__  # noqa: E402
from agent.cli import cli  # noqa: E402
from agent.config_guards import Cardinality, CardinalityLimit, Collisions, Types, TypesField  # noqa: E402
from agent.config_kinds import Choice, Duration, Integer, Kind, Number, Size  # noqa: E402
from agent.config_rules import Map, Shape, ShapeTag  # noqa: E402
from agent.config_schema import (  # noqa: E402
    OUTPUT_TYPES,
    Agent,
    FilterTable,
    Flush,
    Host,
    Listen,
    Log,
    RejectedTable,
    Slo,
    SpoolTable,
    kinds,
)
from packages import log_messages  # noqa: E402

STRUCTS = (
    {"agent": Agent, "log": Log, "listen": Listen, "host": Host, "flush": Flush, "slo": Slo}
    | {name: OUTPUT_TYPES[name] for name in ("file", "influxdb", "remote_write", "nats", "kafka")}
    | {"map": Map, "shape": Shape, "path": ShapeTag}
    | {"cardinality": Cardinality, "limit": CardinalityLimit, "types": Types, "field": TypesField}
    | {"collisions": Collisions}
    | {"filter": FilterTable, "spool": SpoolTable, "rejected": RejectedTable}
)
KEY = re.compile(r"#?(?P<name>[a-z_]+) = (?P<value>\".*?\"|\{.*?\}|\S+) +# (?P<text>.+)")


def troff(text: str) -> str:
    """*text* as it is, to troff: no escape, no hyphen for a minus, no request at the start of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def bold(text: str) -> str:
    return f"\\fB{troff(text)}\\fR"


def every_command(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command with its name as it is typed, such as ``spool ls``; a group comes before its own."""
    for name, command in group.commands.items():
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from every_command(command, f"{prefix}{name} ")


def usage(argument: click.Argument) -> str:
    """How an argument is shown: in brackets if it may be left out, with dots if there may be several."""
    name = f"\\fI{troff((argument.name or '').upper())}\\fR" + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def commands() -> Iterator[str]:
    """A paragraph for each command, with its arguments and options."""
    for name, command in every_command():
        yield ".SS " + troff(name)
        if arguments := [usage(one) for one in command.params if isinstance(one, click.Argument)]:
            yield " ".join((bold(f"penstock {name}"), "[options]", *arguments))
            yield ".PP"
        for number, paragraph in enumerate((command.help or "").split("\n\n")):
            if number:
                yield ".PP"
            yield troff(" ".join(paragraph.split()))
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                names = ", ".join(map(bold, (*option.opts, *option.secondary_opts)))
                value = "" if option.is_flag else f" \\fI{(option.metavar or option.type.name).upper()}\\fR"
                yield ".TP"
                yield names + value
                yield troff(option.help or "")


def keys(wanted: str) -> Iterator[str]:
    """A paragraph for each key of the table *wanted*, in the order of configs/penstock.toml."""
    body = (ROOT / "configs" / "penstock.toml").read_text().split("\n# Example: ")[0]
    blocks = re.split(r"^#?\[+([a-z.]+)\]+$", body, flags=re.MULTILINE)[1:]
    outputs = iter(("file", "influxdb", "remote_write", "nats", "kafka"))
    for header, block in zip(blocks[::2], blocks[1::2], strict=True):
        name = next(outputs) if header == "output" else header.rpartition(".")[2]
        if name != wanted:
            continue
        known = kinds(STRUCTS[name])
        for match in filter(None, map(KEY.fullmatch, block.splitlines())):
            key, kind = match["name"], known.get(match["name"])
            yield ".TP"
            yield f"{bold(key)} = {troff(match['value'])}"
            text = match["text"].rstrip(".")
            yield troff(f"{text}.{span(kind, text)}")


def span(kind: Kind | None, text: str) -> str:
    """What *kind* takes, in words, where *text* does not tell it and it is a range or a choice."""
    if isinstance(kind, Choice):
        return "" if all(one in text for one in kind.values) else f" One of {', '.join(kind.values)}."
    if isinstance(kind, Integer | Number | Duration | Size):
        low, high = str(kind.low), str(kind.high)
        return "" if low in text and high in text else f" From {low} to {high}."
    return ""


def made(page: Path) -> str:
    """The text of *page* with its made parts as they must be now."""
    text = re.sub(r'"Penstock [^"]+"', f'"Penstock {__version__}"', page.read_text(), count=1)

    def part(match: re.Match[str]) -> str:
        name = match[1]
        lines = commands() if name == "commands" else keys(name)
        inside = "".join(f"{line}\n" for line in lines)
        return f'.\\" begin {name}\n{inside}.\\" end {name}\n'

    return re.sub(r'\.\\" begin (\w+)\n.*?\.\\" end \1\n', part, text, flags=re.DOTALL)


def pages() -> list[Path]:
    return sorted((ROOT / "man").glob("penstock*.[1-8]"))


def main() -> None:
    for page in pages():
        page.write_text(made(page))
        print(page.relative_to(ROOT))
    log_messages.PAGE.parent.mkdir(exist_ok=True)
    log_messages.PAGE.write_text(log_messages.document())
    print(log_messages.PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
