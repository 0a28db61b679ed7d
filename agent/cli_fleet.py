"""``penstock fleet``: what relays have seen of those who send to them, put together."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli_options import ca_option, config_option, control_socket, socket_option, token_option
from agent.cli_top import COLUMNS_ELSEWHERE, console, drawn
from agent.errors import EXIT_FAILURE, ControlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.admin.client import Credentials
    from agent.relay.fleet import Fleet, Whole
    from agent.terminal import Screen

_TIMEOUT_S = 10.0
_INTERVAL_S = 2.0
"""From one look of ``--watch`` to the next."""


@click.command()
@config_option
@socket_option
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="Ask over HTTP at this address instead; once for each relay.",
)
@ca_option
@token_option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON, with the rings of each agent.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until q or Ctrl-C.")
@click.pass_context
def fleet(
    ctx: click.Context,
    path: Path | None,
    socket: Path | None,
    urls: tuple[str, ...],
    ca: Path | None,
    token_file: Path | None,
    as_json: bool,
    watch: bool,
) -> None:
    """Show what relays have seen of the agents that send to them: rates, delays, what lacks, who is silent.

    A message goes to one relay of several, so what is missing can be told only if all of them are asked.
    Exits with 1 if something is missing, if an agent is silent, or if a relay does not answer.
    """
    from agent.admin.client import credentials
    from agent.terminal import silent_end

    if as_json and watch:
        raise click.UsageError("--json is for once, and not with --watch")
    relays, shown = urls or (control_socket(path, socket),), credentials(token_file, ca)
    ask = _Relays(relays, shown)
    try:
        whole = ask.all()
        if watch and sys.stdout.isatty():
            whole = _live(ask, whole)
        elif as_json:
            import msgspec

            click.echo(msgspec.json.format(msgspec.json.encode(whole)))
        else:
            _once(whole)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        silent_end()
        return
    if whole.ill:
        ctx.exit(EXIT_FAILURE)


class _Relays:
    """Those that are asked."""

    def __init__(self, relays: "Sequence[str]", shown: "Credentials") -> None:
        self._relays = tuple(dict.fromkeys(relays))
        self._shown = shown

    def all(self) -> "Whole":
        """Ask all of them at once. Raises ControlError if none answers, or if two are the same."""
        from agent.relay.fleet import unite

        with ThreadPoolExecutor(len(self._relays)) as pool:
            answers = list(zip(self._relays, pool.map(self._one, self._relays), strict=True))
        if all(isinstance(answer, str) for _, answer in answers):
            raise ControlError("; ".join(f"{where}: {answer}" for where, answer in answers))
        try:
            return unite(answers)
        except ValueError as error:
            raise ControlError(str(error)) from error

    def _one(self, where: str) -> "Fleet | str":
        import msgspec

        from agent.admin.client import ask
        from agent.relay.fleet import Fleet

        try:
            code, document = ask(where, "GET", "/api/fleet", _TIMEOUT_S, self._shown)
            if code != 200:
                return str(document["error"])
            return msgspec.convert(document, Fleet)
        except ControlError as error:
            return str(error).removeprefix(f"{where}: ")
        except (msgspec.ValidationError, KeyError, TypeError):
            return "answers, but not as Penstock does"


def _once(whole: "Whole") -> None:
    from agent.admin.fleet_table import fleet_lines
    from agent.terminal import size

    width = size(sys.stdout.fileno())[0] if sys.stdout.isatty() else COLUMNS_ELSEWHERE
    for line in drawn(console(width), fleet_lines(whole, width)):
        click.echo(line)


class _Watcher:
    """Asks again and again in a thread of its own, which ends with the process."""

    def __init__(self, relays: _Relays, whole: "Whole", screen: "Screen") -> None:
        self.whole = whole
        self.trouble = ""
        """Why *whole* is old."""
        self._relays, self._screen = relays, screen
        self._over = threading.Event()
        threading.Thread(target=self._ask, name="fleet", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _ask(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            try:
                self.whole, self.trouble = self._relays.all(), ""
            except ControlError as error:
                self.trouble = str(error)
            if not self._over.is_set():
                self._screen.wake()


def _live(relays: _Relays, whole: "Whole") -> "Whole":
    """Frames until somebody ends it; returns what was seen last."""
    from agent.terminal import is_dumb, opened

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    with opened(sys.stdout.fileno(), keys, dumb=is_dumb()) as screen:
        watcher = _Watcher(relays, whole, screen)
        try:
            _frames(watcher, screen)
        except EOFError:
            pass  # the terminal has gone
        finally:
            watcher.stop()
    return watcher.whole


def _frames(watcher: _Watcher, screen: "Screen") -> None:
    from rich.text import Text

    from agent.admin.fleet_table import fleet_lines
    from agent.admin.top_table import fold
    from agent.terminal import printable, size

    first, shown = 0, [""]
    while True:
        width, height = size(sys.stdout.fileno())
        trouble = Text(f"these numbers are old: {printable(watcher.trouble)}", style="bold red")
        above = list(fold(trouble, width)) if watcher.trouble else []
        rows = max(0, height - len(above))
        first = min(first, max(0, len(fleet_lines(watcher.whole, width)) - rows))
        lines = drawn(console(width), [*above, *fleet_lines(watcher.whole, width, rows, first)][:height])
        if lines != shown or not screen.dumb:
            shown = lines
            screen.show(lines)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -rows, "page down": rows, "home": -1 << 30}
        for key in screen.wait(_INTERVAL_S):
            if key in ("q", "Q", "\x03", "\x04"):
                return
            first = max(0, first + steps.get(key, 1 << 30 if key == "end" else 0))
