"""``penstock spool`` and ``penstock rejected``: looking at what is on the disk.

Files never change, so this reads the folders as they are, with an agent running or without.
"""

import json
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agent.cli_options import agent_folder, config_option, progress
from agent.errors import EXIT_FAILURE

_SHOWN = 50


def _output_name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """An output's name is the name of a folder, and nothing else."""
    if value is not None and (value in (".", "..") or not re.fullmatch(r"[A-Za-z0-9_.-]+", value)):
        raise click.BadParameter("wanted the name of an output")
    return value


output_argument = click.argument("output", callback=_output_name)
_any_output = click.argument("output", required=False, callback=_output_name)
_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")
all_option = click.option("--all", "everything", is_flag=True, help="All files of the output.")


@click.group()
def spool() -> None:
    """What waits on disk to be delivered."""


@click.group()
def rejected() -> None:
    """What the server refused for good, with its reasons.

    In place of an output's name, "_guard" is what [types] has left out.
    """


# ---- looking ----


@spool.command("ls")
@_any_output
@config_option
@all_option
@_json_option
def spool_ls(output: str | None, path: Path | None, everything: bool, as_json: bool) -> None:
    """List what every output has in its spool, or the files of one OUTPUT, the oldest first."""
    _ls("spool", output, path, everything, as_json)


@rejected.command("ls")
@_any_output
@config_option
@all_option
@_json_option
def rejected_ls(output: str | None, path: Path | None, everything: bool, as_json: bool) -> None:
    """List what was refused of every output, or the files of one OUTPUT, the oldest first."""
    _ls("rejected", output, path, everything, as_json)


def _ls(kind: str, output: str | None, path: Path | None, everything: bool, as_json: bool) -> None:
    from agent.keeping import files_in, oldest_in, outputs_in, totals_of

    folder = agent_folder(path, "state_dir")
    if output is None:
        totals = {name: totals_of(folder / kind / name, kind) for name in outputs_in(folder, kind)}
        if as_json:
            click.echo(json.dumps({name: asdict(one) for name, one in totals.items()}, indent=2))
            return
        rows = [
            (name, one.files, one.metrics, _size(one.bytes), _when(one.oldest_ns), _when(one.newest_ns))
            + ((one.corrupt,) if kind == "spool" else ())
            for name, one in totals.items()
        ]
        columns = ["output", "files", "metrics", "size", "oldest", "newest"]
        _table(columns + (["corrupt"] if kind == "spool" else []), rows)
        return
    where = folder / kind / output
    found = oldest_in(where, kind, sys.maxsize if everything else _SHOWN)
    about = [_about(where / one.name) if kind == "rejected" else {} for one in found]
    if as_json:
        click.echo(json.dumps([asdict(one) | more for one, more in zip(found, about, strict=True)], indent=2))
        return
    _table(
        ["metrics", "size", "arrived" if kind == "spool" else "refused", "file"]
        + (["status", "said"] if kind == "rejected" else []),
        [
            (one.metrics, _size(one.size), _when(one.time_ns), one.name)
            + ((more.get("status"), str(more.get("text", ""))[:100]) if kind == "rejected" else ())
            for one, more in zip(found, about, strict=True)
        ],
    )
    if len(found) == _SHOWN and (more := sum(1 for _ in files_in(where, kind)) - _SHOWN) > 0:
        click.echo(f"and {more:,} more; --all lists them")


@spool.command("show")
@output_argument
@click.argument("files", nargs=-1, required=True)
@config_option
def spool_show(output: str, files: tuple[str, ...], path: Path | None) -> None:
    """Print what is in FILES of an OUTPUT's spool as lines. Files in "corrupt/" too, if that works.

    Samples of remote write have a line each, with one field called "value".
    """
    from agent.keeping import body_of

    folder = agent_folder(path, "state_dir") / "spool" / output
    for name in files:
        sys.stdout.flush()
        sys.stdout.buffer.write(body_of(inside(folder, name)))
    sys.stdout.flush()


@rejected.command("show")
@output_argument
@click.argument("files", nargs=-1, required=True)
@config_option
def rejected_show(output: str, files: tuple[str, ...], path: Path | None) -> None:
    """Print the lines in FILES that an OUTPUT's server refused, each below its reason.

    Reasons begin with "#". Mend the lines in a copy, and "penstock spool replay OUTPUT COPY" sends them.
    """
    from agent.keeping import body_of
    from agent.outputs.base import Payload
    from agent.outputs.refusals import lines_of

    folder = agent_folder(path, "state_dir") / "rejected" / output
    for name in files:
        where = inside(folder, name)
        body, about = bytes(body_of(where)), _about(where)
        reasons: dict[int, str] = {}
        for group in about.get("reasons", ()):
            reasons.update(dict.fromkeys(group["lines"], group["reason"]))
        said = f"{about.get('status') or 'no status'}: {about.get('text', 'nothing is known of the reason')}"
        last = f"# {where.name} {said}"
        click.echo(last)
        for number, line in enumerate(lines_of(Payload(body, 0, len(body)))):
            if reasons.get(number, last) != last:
                last = reasons[number]
                click.echo(f"# {last}")
            sys.stdout.flush()
            sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


@spool.command()
@_any_output
@config_option
@click.pass_context
def verify(ctx: click.Context, output: str | None, path: Path | None) -> None:
    """Read every file, of one OUTPUT or of all, and say which are not what their name says.

    Nothing is moved or removed. Exits with 1 if something is wrong.
    """
    from agent.keeping import files_in, outputs_in, totals_of, wrong_with

    folder = agent_folder(path, "state_dir")
    names = [output] if output is not None else outputs_in(folder, "spool")
    total = sum(totals_of(folder / "spool" / name, "spool").files for name in names)
    done = metrics = wrong = 0
    with progress("verify", total) as advance:
        for name in names:
            for one in files_in(folder / "spool" / name, "spool"):
                if reason := wrong_with(folder / "spool" / name, one):
                    wrong += 1
                    click.echo(f"{name}/{one.name}: {reason}")
                done += 1
                metrics += one.metrics
                advance(done)
    click.echo(f"{done:,} files, {metrics:,} metrics, {wrong:,} damaged")
    if wrong:
        ctx.exit(EXIT_FAILURE)


def inside(folder: Path, name: str) -> Path:
    """A file of *folder*, perhaps in its ``corrupt``. Nobody gets out of the folder by a name."""
    parts = name.split("/")
    if not 1 <= len(parts) <= 2 or any(part in ("", ".", "..") for part in parts):
        raise click.UsageError(f"{name}: name a file as ls does, without its folder")
    return folder / name


def _about(path: Path) -> dict[str, Any]:
    """What is known of why lines were refused."""
    from agent.store.rejected import reasons_path

    try:
        about = json.loads(Path(reasons_path(str(path))).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _when(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%Y-%m-%d %H:%M:%SZ}" if time_ns else "-"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _table(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        right = column in ("files", "metrics", "size", "corrupt")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown = (f"{cell:,}" if isinstance(cell, int) and cell > 999 else str(cell) for cell in row)
        table.add_row(*(Text(cell) for cell in shown))
    # Into a pipe or a file, where no width is known, nothing is folded.
    Console(highlight=False, width=None if sys.stdout.isatty() else 300).print(table)
