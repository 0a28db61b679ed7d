"""``penstock tap``: what passes, as line protocol."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import click

from agent.cli_options import config_option, control_socket, duration, socket_option
from agent.errors import ControlError
from agent.terminal import printable_lines, silent_end

_SILENCE_S = 10.0
"""An agent that says nothing for so long has gone: it says something once a second."""

_ENDS = {
    "reload": "the agent has another configuration now, without what was looked at",
    "stopped": "the agent stops",
}


@click.command()
@config_option
@socket_option
@click.option("--match", default="", help="Glob of the measurement; with a comma or =, of the tags as well.")
@click.option(
    "--listener",
    "listeners",
    multiple=True,
    help="Only what came by this one: its name, its address, or its place in the configuration, from 1.",
)
@click.option("--output", default="", help="What goes to this output, if not to the first one.")
@click.option("--rate", default=1000, show_default=True, help="Lines a second that are shown at most.")
@click.option("--count", type=click.IntRange(1), help="End after so many lines.")
@click.option("--for", "seconds", metavar="DURATION", callback=duration, help="End after so long, as 10s.")
def tap(
    path: Path | None,
    socket: Path | None,
    match: str,
    listeners: tuple[str, ...],
    output: str,
    rate: int,
    count: int | None,
    seconds: float | None,
) -> None:
    """Show what passes now, as line protocol, on standard output.

    What is left out is told on standard error. It takes 3 % of one processor of the agent at most.
    """
    where = control_socket(path, socket)
    query = [("match", match), ("output", output), ("rate", str(rate))]
    query += [("listener", listener) for listener in listeners]
    told = _Told(rate)
    try:
        frames = _frames(where, f"/api/tap?{urlencode(query)}", seconds)
        _show(frames, sys.stdout.buffer, sys.stdout.isatty(), told, count)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        silent_end()
        return
    told.end()


def _frames(where: str, path: str, seconds: float | None) -> Iterator[dict[str, Any]]:
    """What the agent says, for *seconds*."""
    from agent.admin.client import stream

    deadline = time.monotonic() + seconds if seconds is not None else None
    with stream(where, path, _SILENCE_S) as answer:
        for line in answer:
            frame = json.loads(line)
            yield frame
            if "ended" in frame or (deadline is not None and time.monotonic() >= deadline):
                return
    raise ControlError(f"{where}: the agent has ended")


def _show(
    frames: Iterator[dict[str, Any]], out: IO[bytes], escaped: bool, told: "_Told", count: int | None
) -> None:
    """Write the lines of *frames* to *out*, at most *count*; *escaped*, as a terminal may have them."""
    from agent._core import count_lines, split_lines

    left = count
    for frame in frames:
        if why := frame.get("ended"):
            told.end()
            raise ControlError(f"the tap has ended: {_ENDS.get(why, why)}")
        lines = (printable_lines(frame["lines"]) if escaped else frame["lines"]).encode()
        if left is not None:
            lines = lines[: split_lines(lines, left)]
            left -= count_lines(lines)
        if lines:
            out.write(lines)
            out.flush()
        if left == 0:
            return
        told.take(frame)


class _Told:
    """What is said on standard error of what is not shown, once a second at most."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._at = time.monotonic()
        self._last = {"matched": 0, "shown": 0, "skipped": 0}
        self._now = dict(self._last)

    def take(self, frame: dict[str, Any]) -> None:
        self._now = {name: frame[name] for name in self._now}
        if time.monotonic() - self._at >= 1.0:
            self.end()

    def end(self) -> None:
        """Tell what was not told yet."""
        self._at = time.monotonic()
        new = {name: self._now[name] - self._last[name] for name in self._now}
        self._last = self._now
        parts = []
        if more := new["matched"] - new["shown"]:
            parts.append(f"{more:,} more passed, {self._rate:,} a second are shown")
        if new["skipped"]:
            parts.append(f"{new['skipped']:,} were not looked at")
        if parts:
            click.echo("# " + "; ".join(parts), err=True)
