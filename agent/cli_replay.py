"""``penstock replay``: what ``penstock capture`` has written, sent once more."""

import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.errors import CaptureError
from agent.terminal import printable

if TYPE_CHECKING:
    from agent.capture_file import Block, Header, Reader

_AHEAD = 4
"""Blocks that are read before they are needed, so that none comes late for it."""


def _speed(_: click.Context, __: click.Parameter, value: str) -> float:
    """As a number; 0 is as fast as it goes."""
    if value == "max":
        return 0.0
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise click.BadParameter("it is a number above 0, or max")
    return speed


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--to",
    "targets",
    multiple=True,
    help="udp://HOST:PORT or unixgram:///PATH; or NAME=ADDRESS for what came by that listener.",
)
@click.option("--speed", default="1", show_default=True, callback=_speed, help="A factor, or max.")
@click.option("--listener", "listeners", multiple=True, help="Only what came by the listener of this name.")
@click.option("--loop", default=1, show_default=True, type=click.IntRange(1), help="So many times.")
@click.option("--info", is_flag=True, help="Say what is in the file, and send nothing.")
def replay(
    file: Path, targets: tuple[str, ...], speed: float, listeners: tuple[str, ...], loop: int, info: bool
) -> None:
    """Send the datagrams of FILE once more, as they came: in their order, and at their distances.

    Where to is always said, so that nothing goes by accident to where it came from. Senders of what was
    captured are not known: all of it comes from one socket for each target. A clock that was set while it was
    captured is a pause, or none.
    """
    if info:
        _show_info(file)
        return
    if not targets:
        raise click.UsageError("--to is missing: where the datagrams go to")
    with _opened(file) as reader:
        header = reader.header
    sender = _Sender(targets, listeners, header)
    try:
        for _ in range(loop):
            with _opened(file) as reader:
                sender.send(reader, speed)
    except KeyboardInterrupt:
        pass
    sender.tell()


@contextmanager
def _opened(file: Path) -> "Iterator[Reader]":
    from agent.capture_file import Reader

    try:
        with click.open_file(str(file), "rb") as source:
            yield Reader(source)
    except OSError as error:
        raise CaptureError(f"{file}: {error.strerror}") from error
    except CaptureError as error:
        raise CaptureError(f"{file}: {error}") from error


def _show_info(file: Path) -> None:
    with _opened(file) as reader:
        counts = [[0, 0] for _ in reader.header.listeners]
        first = last = 0
        for one in reader.datagrams():
            first = first or one.arrival_ns
            last = one.arrival_ns
            counts[one.listener][0] += 1
            counts[one.listener][1] += len(one.text)
        header, end = reader.header, reader.end
    host, version = printable(header.host), printable(header.agent)
    click.echo(f"captured  {_utc(header.created_ns)} on {host} by Penstock {version}")
    if first:
        click.echo(f"arrivals  {_utc(first)} to {_utc(last)}, {(last - first) / 1e9:,.3f} s")
    for listener, (datagrams, nbytes) in zip(header.listeners, counts, strict=True):
        name, address, format = (printable(listener[key]) for key in ("name", "address", "format"))
        where = "" if name == address else f", {address}"
        click.echo(f"listener  {name}{where}, {format}: {datagrams:,} datagrams, {nbytes:,} bytes")
    if end is None:
        click.echo("end       none: the file was cut off, and is read to there")
    else:
        click.echo(
            f"end       {printable(str(end.get('ended')))}; {end.get('missed', 0):,} datagrams were missed"
        )


def _utc(ns: int) -> str:
    from datetime import UTC, datetime

    try:
        return f"{datetime.fromtimestamp(ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns"


class _Sender:
    """Sends datagrams when they are due, and knows how late they were."""

    def __init__(self, targets: Sequence[str], listeners: Sequence[str], header: "Header") -> None:
        from agent._core import Histogram

        names = [listener["name"] for listener in header.listeners]
        by_name: dict[str, tuple[socket.socket, str | tuple[str, int]]] = {}
        for wanted in listeners:
            if wanted not in names:
                raise CaptureError(
                    f"no listener of the file is named {wanted!r}; there are {', '.join(names)}"
                )
        for target in targets:
            name, equals, address = target.partition("=")
            if not equals or "://" not in address:
                name, address = "", target
            elif name not in names:
                raise CaptureError(f"no listener of the file is named {name!r}; there are {', '.join(names)}")
            by_name[name] = _target(address)
        self._targets = [
            by_name.get(name, by_name.get("")) if not listeners or name in listeners else None
            for name in names
        ]
        self.sent = self.failed = 0
        self._why = ""
        self._late = Histogram(1e-6, 8)
        self._latest = 0.0

    def send(self, reader: "Reader", speed: float) -> None:
        """Send all of a file. *speed* 0: nothing is waited for."""
        from agent.capture_file import Kind, taken_apart

        start = first = 0
        for block in _ahead(reader):
            if block.kind is not Kind.DATAGRAMS:
                continue
            for arrival_ns, listener, text in taken_apart(block, len(reader.header.listeners)):
                target = self._targets[listener]
                if target is None:
                    continue
                if speed:
                    if not start:
                        start, first = time.monotonic_ns(), arrival_ns
                    due = start + int((arrival_ns - first) / speed)
                    if (early := due - time.monotonic_ns()) > 0:
                        time.sleep(early / 1e9)
                try:
                    target[0].sendto(text, target[1])
                    self.sent += 1
                except OSError as error:
                    self.failed += 1
                    self._why = error.strerror or str(error)
                if speed:
                    late = (time.monotonic_ns() - due) / 1e9
                    self._late.observe(late)
                    self._latest = max(self._latest, late)

    def tell(self) -> None:
        """What came of it."""
        text = f"{self.sent:,} datagrams sent"
        if self.failed:
            text += f", {self.failed:,} not: {self._why}"
        buckets, _ = self._late.read()
        if total := sum(buckets):
            left = total * 0.999
            place = next(at for at in range(len(buckets)) if sum(buckets[: at + 1]) >= left)
            bound = (*self._late.bounds, self._latest)[place]
            text += (
                f"; 99.9 % of them {min(bound, self._latest) * 1e3:.3g} ms late at most,"
                f" the latest one {self._latest * 1e3:.3g} ms"
            )
        click.echo(text, err=True)
        if self.failed and not self.sent:
            raise CaptureError("nothing could be sent")


def _target(address: str) -> tuple[socket.socket, str | tuple[str, int]]:
    from agent.errors import ListenError
    from agent.listeners import endpoint

    try:
        where = endpoint(address)
    except ValueError as error:
        raise CaptureError(f"--to: {error}") from None
    except ListenError as error:
        raise CaptureError(str(error)) from None
    if where.stream:
        raise CaptureError(f"{address}: datagrams go to udp://HOST:PORT or unixgram:///PATH")
    return socket.socket(where.family, socket.SOCK_DGRAM), where.sockaddr


def _ahead(reader: "Reader") -> "Iterator[Block]":
    """The blocks of a file, read by a thread of its own."""
    blocks: queue.Queue[Block | BaseException | None] = queue.Queue(_AHEAD)
    over = threading.Event()

    def read() -> None:
        last: BaseException | None = None
        try:
            for block in reader.blocks():
                while not over.is_set():
                    with suppress(queue.Full):
                        blocks.put(block, timeout=0.1)
                        break
                if over.is_set():
                    return
        except Exception as error:
            last = error
        blocks.put(last)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (block := blocks.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
    finally:
        over.set()
        with suppress(queue.Empty):
            while True:
                blocks.get_nowait()
        thread.join()
