"""``penstock top``: what the agent does, second by second."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli_options import (
    ca_option,
    config_option,
    control_socket,
    duration,
    socket_option,
    token_option,
)
from agent.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from agent.admin.client import Credentials
    from agent.admin.following import Follower
    from agent.admin.top import View
    from agent.terminal import Screen

COLUMNS_ELSEWHERE = 200
"""Into a pipe or a file, where no width is known."""

_FIRST_S = 15.0
"""So long is waited for the first second of an agent that has been asked."""


def _sort_key(_: click.Context, __: click.Parameter, value: str) -> str:
    from agent.admin.top import sort_keys

    if value and value not in (known := sort_keys()):
        raise click.BadParameter(f"{value!r} is no column; there are {', '.join(known)}")
    return value


@click.command()
@config_option
@socket_option
@click.option("--url", help="Ask over HTTP at this address instead, such as http://127.0.0.1:8690.")
@ca_option
@token_option
@click.option(
    "--interval",
    default="1s",
    show_default=True,
    callback=duration,
    metavar="DURATION",
    help="Time from one frame to the next, and over which rates are.",
)
@click.option("--once", is_flag=True, help="One frame, and the end.")
@click.option("--sort", default="", callback=_sort_key, metavar="COLUMN", help="Sort by this column.")
def top(
    path: Path | None,
    socket: Path | None,
    url: str | None,
    ca: Path | None,
    token_file: Path | None,
    interval: float,
    once: bool,
    sort: str,
) -> None:
    """Show what the agent does, live. The key ? lists the others; q ends.

    Without a terminal there is one frame. NO_COLOR is obeyed; where TERM is dumb or not set, a frame comes
    below the last one.
    """
    from agent.admin.client import credentials
    from agent.admin.top import View
    from agent.terminal import silent_end

    where, shown = url or control_socket(path, socket), credentials(token_file, ca)
    view = View(sort)
    try:
        if once or not sys.stdout.isatty():
            _one(where, shown, view, interval)
        else:
            _live(where, shown, view, interval)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        silent_end()


def console(width: int) -> "Console":
    """Standard output, *width* columns wide, with the colours that the terminal has."""
    from rich.console import Console

    from agent.terminal import is_dumb

    return Console(highlight=False, width=width, color_system=None if is_dumb() else "auto")


def drawn(console: "Console", lines: "list[Any]") -> list[str]:
    """*lines* with the colours that the terminal has, each a line of its own."""
    drawn = []
    for line in lines:
        with console.capture() as capture:
            console.print(line, end="", no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
        drawn.append(capture.get())
    return drawn


def _one(where: str, shown: "Credentials", view: "View", interval: float) -> None:
    """One frame, over the time from one second of the agent to another."""
    from agent.admin.following import seconds
    from agent.admin.top import frame
    from agent.admin.top_sections import Second
    from agent.terminal import size

    before = None
    for document in seconds(where, shown):
        if before is not None and document["time"] - before["time"] >= min(interval, 1.0) * 0.9:
            width = size(1)[0] if sys.stdout.isatty() else COLUMNS_ELSEWHERE
            for line in drawn(console(width), frame(Second(document, before), view, width, None)):
                click.echo(line)
            return
        before = before or document


def _live(where: str, shown: "Credentials", view: "View", interval: float) -> None:
    """Frames until somebody ends it. Who goes away is waited for, but not who never was there."""
    from agent.admin.following import Follower
    from agent.terminal import is_dumb, opened

    follower = Follower(where, shown)
    follower.start()
    if not follower.first(_FIRST_S):
        raise ControlError(follower.trouble or f"{where}: no answer within {_FIRST_S:g} s")
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    with opened(sys.stdout.fileno(), keys, dumb=is_dumb()) as screen:
        follower.call(screen.wake)
        try:
            _Live(screen, view, interval).run(follower)
        except EOFError:
            pass  # the terminal has gone
        finally:
            follower.stop()


class _Live:
    """The loop of the live screen."""

    def __init__(self, screen: "Screen", view: "View", interval: float) -> None:
        self._screen, self._view, self._interval = screen, view, interval
        self._before: Mapping[str, Any] | None = None
        self._now: Mapping[str, Any] | None = None
        self._taken_at = 0.0
        self._shown: list[str] = []

    def run(self, follower: "Follower") -> None:
        """Until a key ends it; an exception otherwise."""
        while not self._view.over:
            self._take(follower.last)
            self._show(follower.trouble)
            for key in self._screen.wait(self._interval):
                self._view.press(key)

    def _take(self, last: "Mapping[str, Any] | None") -> None:
        """The newest second, if it is time for it."""
        if last is None or last is self._now or self._view.paused:
            return
        # A second of the agent is never exactly one; what is a little early is in time.
        now = time.monotonic()
        if self._now is not None and now - self._taken_at < self._interval - 0.5:
            return
        self._before, self._now, self._taken_at = self._now, last, now

    def _show(self, trouble: str) -> None:
        from agent.admin.top import frame
        from agent.admin.top_sections import Second
        from agent.terminal import size

        assert self._now is not None
        width, height = size(sys.stdout.fileno())
        lines = drawn(
            console(width), frame(Second(self._now, self._before), self._view, width, height, trouble)
        )
        if lines != self._shown or not self._screen.dumb:
            self._shown = lines
            self._screen.show(lines)
