"""``penstock capture``: the datagrams that arrive, with their times, into a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlencode

import click

from agent.cli_options import config_option, control_socket, duration, socket_option
from agent.errors import ControlError

if TYPE_CHECKING:
    from agent.capture_file import Header, Reader

_SILENCE_S = 10.0
"""An agent that says nothing for so long has gone: it says something once a second."""


def _size(_: click.Context, __: click.Parameter, value: str) -> int:
    from agent.config_values import parse_size

    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@config_option
@socket_option
@click.option("--for", "seconds", metavar="DURATION", callback=duration, help="End after so long, as 30s.")
@click.option(
    "--last",
    metavar="DURATION",
    callback=duration,
    help="What came in so long until now; with [agent] capture_ring only.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many datagrams.")
@click.option(
    "--listener",
    "listeners",
    multiple=True,
    help="Only what comes by this one: its name, its address, or its place in the configuration, from 1.",
)
@click.option(
    "--max-bytes", default="1GiB", show_default=True, callback=_size, help="End before FILE becomes larger."
)
def capture(
    file: Path,
    path: Path | None,
    socket: Path | None,
    seconds: float | None,
    last: float | None,
    count: int | None,
    listeners: tuple[str, ...],
    max_bytes: int,
) -> None:
    """Write the datagrams that arrive, with their times, into FILE, until Ctrl-C; - is standard output.

    Connections are not captured. FILE must not be there yet.
    """
    if seconds and last:
        raise click.UsageError("--for is about what comes, --last about what came")
    if str(file) != "-" and os.path.lexists(file):
        raise ControlError(f"{file} is there already; take it away, or name another file")
    where = control_socket(path, socket)
    query = [("seconds", str(seconds or 0)), ("last", str(last or 0)), ("datagrams", str(count or 0))]
    query += [("listener", listener) for listener in listeners]
    from agent.admin.client import stream
    from agent.capture_file import Reader

    written = None
    with suppress(KeyboardInterrupt), stream(where, f"/api/capture?{urlencode(query)}", _SILENCE_S) as answer:
        reader = Reader(answer)
        with _created(file) as out:
            written = _Written(out, max_bytes, reader.header)
            written.take(reader)
    if written is None:
        raise ControlError("nothing was captured")
    if written.ended == "client" and not written.complete:
        raise ControlError(f"{where}: the agent has ended; {file} has what came until then")


@contextmanager
def _created(file: Path) -> Iterator[IO[bytes]]:
    """A new file that is for this user only."""
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ControlError(f"{file}: {error.strerror}") from error
    with open(fd, "wb", buffering=0) as out:
        yield out


class _Written:
    """A file in the making: each block is whole there before the next one is begun."""

    def __init__(self, out: IO[bytes], max_bytes: int, header: "Header") -> None:
        from agent.capture_file import header_bytes

        self.ended = "client"
        self.complete = False
        """Whether its last block was written."""
        self._out = out
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._datagrams = self._raw_bytes = 0
        self._put(header_bytes(header))

    def take(self, reader: "Reader") -> None:
        """Write what comes, until it ends, the file is as large as it may be, or somebody interrupts."""
        from agent.capture_file import Kind, block_bytes, end_block

        try:
            for block in reader.blocks():
                if block.kind is not Kind.DATAGRAMS:
                    self._show()
                    continue
                data = block_bytes(block, compressed=True)
                # There is room for the end, whatever it says.
                if len(data) > self._left - 1024:
                    self.ended = "size"
                    break
                self._put(data)
                self._datagrams += block.datagrams
                self._raw_bytes += len(block.raw)
        except KeyboardInterrupt:
            self.complete = True
        if reader.end is not None:
            self.ended = str(reader.end.get("ended"))
        self.complete |= self.ended != "client"
        end = end_block(self._datagrams, self._raw_bytes, reader.missed, self.ended)
        self._put(block_bytes(end, compressed=False))
        self._tell(reader.missed)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._out.write(view) or 0 :]
        self._out.flush()
        self._left -= len(data)

    def _show(self) -> None:
        """How far it is, on a terminal: once a second, with each note."""
        if sys.stderr.isatty():
            click.echo(f"\r{self._datagrams:,} datagrams, {self._size:,} bytes ", nl=False, err=True)

    @property
    def _size(self) -> int:
        return self._max_bytes - self._left

    def _tell(self, missed: int) -> None:
        start = "\r" if sys.stderr.isatty() else ""
        why = {"size": "; it is as large as it may be", "stopped": "; the agent stops"}
        click.echo(
            f"{start}{self._datagrams:,} datagrams in {self._size:,} bytes, {missed:,} missed"
            f"{why.get(self.ended, '')}",
            err=True,
        )
