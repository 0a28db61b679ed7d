"""What the commands have in common: options, and where an agent and its folders are to be found."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

Item = TypeVar("Item")

config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Configuration file, instead of /etc/penstock/penstock.toml; conf.d is looked for beside it.",
)
socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Control socket of the agent, instead of the one in the configuration's runtime_dir.",
)
ca_option = click.option(
    "--ca",
    type=click.Path(path_type=Path),
    help="With an https --url: certificates that the agent's must be signed by, instead of the system's.",
)
token_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="With --url: file of the token that the agent asks for, instead of PENSTOCK_TOKEN.",
)


def duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Seconds of a duration as in the configuration: ``500ms``, ``30s``, ``5m``. For an option's callback."""
    from agent.config_values import parse_duration

    if value is None:
        return None
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds <= 0:
        raise click.BadParameter("it is longer than nothing")
    return seconds


def agent_folder(path: Path | None, key: str) -> Path:
    """``state_dir`` or ``runtime_dir`` of the configuration at *path*.

    The configuration may be broken by now, which is just when somebody asks: only this key of it is read.
    """
    from agent.config import DEFAULT_PATH, Agent
    from agent.config_source import read_tree

    section = read_tree(path or DEFAULT_PATH).tree.get("agent")
    folder = section.get(key) if isinstance(section, dict) else None
    return Path(folder if isinstance(folder, str) else getattr(Agent(), key))


def control_socket(path: Path | None, socket: Path | None) -> str:
    """Where the agent listens that runs with the configuration at *path*, unless *socket* says it."""
    from agent.admin import CONTROL_SOCKET

    return str(socket if socket is not None else agent_folder(path, "runtime_dir") / CONTROL_SOCKET)


class Owner:
    """Root acts as whoever owns *folder*, so that the agent can read and remove what is written there.

    A context manager; nothing happens for other users, nor where root is the owner.
    """

    def __init__(self, folder: Path) -> None:
        self._ids: tuple[int, int] | None = None
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        status = os.stat(folder)
        if os.geteuid() == 0 and status.st_uid != 0:
            self._ids = status.st_uid, status.st_gid

    def __enter__(self) -> "Owner":
        self._act()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def read(self, items: Iterator[Item]) -> Iterator[Item]:
        """*items*, each of which root itself gets: files that a person brings may be for root only."""
        while True:
            self._stop()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._act()
            yield item

    def _act(self) -> None:
        if self._ids is not None:
            os.setegid(self._ids[1])
            os.seteuid(self._ids[0])

    def _stop(self) -> None:
        if self._ids is not None:
            os.seteuid(0)
            os.setegid(0)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal. What is yielded is called with how much is done."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
