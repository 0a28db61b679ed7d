"""``penstock spool`` and ``penstock rejected``: changing what is on the disk.

The running agent does it, so that it stays in its ledger. Where none is running the command takes its place
for as long: it holds the lock of the state folder, and acts as whoever owns that.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click
from msgspec.structs import replace

from agent.cli_files import all_option, inside, output_argument, rejected, spool
from agent.cli_options import Owner, agent_folder, config_option, control_socket, progress, socket_option
from agent.errors import EXIT_FAILURE, ControlError, NoAgentError, StoreError

if TYPE_CHECKING:
    from agent.config import Config, ServerOutput, SpoolTable
    from agent.keeping import Keeper

GROUPS = (spool, rejected)
"""``penstock spool`` and ``penstock rejected``, with all that they can do."""

_TIMEOUT = 150.0
_NAMES_PER_REQUEST = 20


def _file_names(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(inside(Path(), value).name if "/" not in value else _refuse(value) for value in values)


def _refuse(value: str) -> str:
    raise click.BadParameter(f"{value}: name a file as ls does, without its folder")


_names = click.argument("files", nargs=-1, callback=_file_names)
_older_option = click.option(
    "--older-than", metavar="DURATION", help='Files of before that, such as "3d" or "12h".'
)
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@spool.command()
@output_argument
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
@socket_option
@click.option("--wait/--no-wait", default=True, help="Return when the spool is empty. [default: wait]")
@click.option(
    "--timeout", default="1m", metavar="DURATION", help="Give up after so long without any progress. [1m]"
)
@click.pass_context
def replay(
    ctx: click.Context,
    output: str,
    files: tuple[Path, ...],
    path: Path | None,
    socket: Path | None,
    wait: bool,
    timeout: str,
) -> None:
    """Deliver what is in the spool of an OUTPUT, with the lines in FILES put there before.

    FILES hold line protocol with timestamps in nanoseconds, and end in ".gz" if they are compressed. A
    running agent delivers by itself, and this waits for it; without one, this delivers. Exits with 1 if
    something is left.
    """
    patience = _duration(timeout)
    ask = _Agent(control_socket(path, socket))
    if ask.running():
        for file in files:
            answer = ask("POST", "/spool/add", output=output, path=str(file.absolute()))
            click.echo(f"{file}: {answer['metrics']:,} metrics added")
        left = _wait_for(ask, output, patience) if wait else 0
    else:
        left = _replay_here(output, files, path, patience if wait else 0.0)
    if left:
        click.echo(f"penstock: {left:,} metrics are still in the spool", err=True)
        ctx.exit(EXIT_FAILURE)


def _wait_for(ask: "_Agent", output: str, patience: float) -> int:
    """Wait until the agent has delivered what waits now; returns the metrics that are left."""
    start_ns = time.time_ns()

    def waiting() -> int:
        spool = (ask("GET", "").get(output) or {}).get("spool")
        if spool is None:
            raise StoreError(f"{output}: has no spool")
        # What came later is no part of it.
        return 0 if spool["oldest_ns"] >= start_ns else int(spool["metrics"])

    total = left = waiting()
    since = time.monotonic()
    with progress("replay", total) as advance:
        while left and time.monotonic() < since + patience:
            time.sleep(0.2)
            before, left = left, waiting()
            if left < before:
                since = time.monotonic()
            advance(max(total - left, 0))
    return left


def _replay_here(output: str, files: tuple[Path, ...], path: Path | None, patience: float) -> int:
    from agent.config import load
    from agent.keeping import pieces_of
    from agent.replay import replay as deliver

    config = load(path)
    table = _kept_output(config, output)
    if table.spool is None:
        # What an earlier configuration left there.
        table = replace(table, spool=_endless())
    with _in_its_place(output, agent_folder(path, "state_dir"), table) as (keeper, owner):
        assert keeper.spool is not None and keeper.rejected is not None
        for file in files:
            metrics = 0
            for payload, oldest_ns in owner.read(pieces_of(file)):
                keeper.add(payload, oldest_ns)
                metrics += payload.metrics
            click.echo(f"{file}: {metrics:,} metrics added")
        total = keeper.spool.counters.metrics
        if not patience or not total:
            return total if patience else 0
        with progress("replay", total) as advance:
            outcome = deliver(
                table,
                config.flush,
                keeper.spool,
                keeper.rejected,
                patience=patience,
                agent=config.agent.known_as,
                tell=lambda waiting: advance(total - waiting),
            )
    click.echo(f"{outcome.delivered:,} metrics delivered, {outcome.rejected:,} rejected")
    if outcome.left and outcome.last_error:
        click.echo(f"penstock: {output}: {outcome.last_error}", err=True)
    return outcome.left


@rejected.command()
@output_argument
@_names
@config_option
@socket_option
@all_option
def retry(
    output: str, files: tuple[str, ...], path: Path | None, socket: Path | None, everything: bool
) -> None:
    """Send what was refused once more: FILES of an OUTPUT, or all of them.

    The lines go into the spool, and the files are removed. What is refused again comes back with its reasons.
    Not for "_guard", the fields that [types] has left out: mend them in a copy, and replay that.
    """
    from agent.config import load
    from agent.keeping import oldest_in, refuse_retry

    refuse_retry(output)
    state_dir = agent_folder(path, "state_dir")
    names = list(files)
    if everything:
        names = [one.name for one in oldest_in(state_dir / "rejected" / output, "rejected", sys.maxsize)]
    elif not names:
        raise click.UsageError("name some files, or all of them with --all")
    ask = _Agent(control_socket(path, socket))
    metrics = 0
    with ExitStack() as stack:
        if ask.running():

            def once(name: str) -> int:
                return int(ask("POST", "/rejected/retry", output=output, name=name)["metrics"])

        else:
            table = _kept_output(load(path), output)
            keeper, _ = stack.enter_context(_in_its_place(output, state_dir, table))
            once = keeper.retry
        advance = stack.enter_context(progress("retry", len(names)))
        for number, name in enumerate(names, 1):
            metrics += once(name)
            advance(number)
    click.echo(f"{metrics:,} metrics of {len(names):,} files go once more")


@spool.command("drop")
@output_argument
@_names
@config_option
@socket_option
@all_option
@_older_option
@_yes_option
def spool_drop(output: str, files: tuple[str, ...], path: Path | None, **options: Any) -> None:
    """Remove FILES of an OUTPUT's spool for good, or those of before a time, or all; never delivered."""
    _drop("spool", output, files, path, **options)


@rejected.command("drop")
@output_argument
@_names
@config_option
@socket_option
@all_option
@_older_option
@_yes_option
def rejected_drop(output: str, files: tuple[str, ...], path: Path | None, **options: Any) -> None:
    """Remove FILES that an OUTPUT's server refused, with their reasons, or those of before a time, or all."""
    _drop("rejected", output, files, path, **options)


def _drop(
    kind: str,
    output: str,
    files: tuple[str, ...],
    path: Path | None,
    socket: Path | None,
    everything: bool,
    older_than: str | None,
    yes: bool,
) -> None:
    state_dir = agent_folder(path, "state_dir")
    names = list(files)
    before_ns = time.time_ns() - _duration(older_than) * 1e9 if older_than is not None else None
    if everything:
        before_ns = float("inf")
    if not names and before_ns is None:
        raise click.UsageError("name some files, or say which with --older-than or --all")
    if not yes and sys.stdin.isatty():
        what = "all files" if everything else f"{len(names)} files" if names else "these files"
        click.confirm(f"Remove {what} of {state_dir / kind / output} for good?", abort=True)
    ask = _Agent(control_socket(path, socket))
    removed = 0
    if ask.running():
        for at in range(0, len(names), _NAMES_PER_REQUEST):
            some = names[at : at + _NAMES_PER_REQUEST]
            removed += ask("POST", f"/{kind}/drop", output=output, name=some)["files"]
        if before_ns is not None:
            removed += ask("POST", f"/{kind}/drop", output=output, before=before_ns)["files"]
    else:
        with _in_its_place(output, state_dir, None) as (keeper, _):
            removed = keeper.drop(kind, names, before_ns)
    click.echo(f"{removed:,} files removed")


# ---- the running agent, or what takes its place ----


class _Agent:
    """The running agent, if there is one."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def running(self) -> bool:
        try:
            self("GET", "")
        except NoAgentError:
            return False
        return True

    def __call__(self, method: str, what: str, /, **query: Any) -> Any:
        """What it answers. Raises ControlError, StoreError."""
        from agent.admin.client import ask
        from agent.admin.keep import PREFIX

        text = f"?{urlencode(query, doseq=True)}" if query else ""
        code, answer = ask(self._socket, method, f"{PREFIX}{what}{text}", _TIMEOUT)
        if code in (404, 409) and "error" in answer:
            raise StoreError(answer["error"])
        if code != 200:
            raise ControlError(f"the agent answers {code}: {answer}")
        return answer


@contextmanager
def _in_its_place(
    output: str, state_dir: Path, table: "ServerOutput | None"
) -> Iterator[tuple["Keeper", Owner]]:
    """The folders of an output, where no agent is running; without *table*, no limits are enforced."""
    from agent.config import RejectedTable
    from agent.keeping import Keeper
    from agent.lock import FolderLock
    from agent.store.rejected import GUARD, Rejected
    from agent.store.spool import Spool

    spool_table = _endless() if table is None else table.spool
    rejected_table = RejectedTable(max_bytes=1 << 60, max_age=1e12) if table is None else table.rejected
    target = table.target if table is not None else ""
    command = " ".join(["penstock", *sys.argv[1:3]])
    # What goes wrong is told by the command; log lines would only repeat it.
    logging.getLogger("agent").addHandler(logging.NullHandler())
    with Owner(state_dir) as owner, FolderLock(state_dir, "agent.state_dir", command), ExitStack() as stack:
        try:
            spool = None
            if spool_table is not None and output != GUARD:
                spool = Spool(output, state_dir / "spool" / output, spool_table)
                stack.callback(spool.close)
            kept = Rejected(output, state_dir / "rejected" / output, rejected_table, target=target)
        except OSError as error:
            raise StoreError(f"{state_dir}: {error.strerror}: {error.filename}") from error
        yield Keeper(output, spool, kept), owner


def _endless() -> "SpoolTable":
    """The settings of a spool that nothing is removed from."""
    from agent.config import SpoolTable

    return SpoolTable(max_bytes=1 << 60, max_age=1e12, min_free_space=0)


def _kept_output(config: "Config", output: str) -> "ServerOutput":
    from agent.config import ServerOutput

    for one in config.output:
        if one.name == output and isinstance(one, ServerOutput):
            return one
    raise StoreError(f"{output}: is no output of the configuration that keeps anything on disk")


def _duration(text: str) -> float:
    from agent.config_values import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{text}: {error}") from error
