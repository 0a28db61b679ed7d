"""The ``penstock`` command.

Exit codes: 0, 1 failure, 2 usage, 78 a configuration that cannot be used. Each command imports what it needs
itself, so that ``penstock version`` does not wait for an HTTP server, nor ``penstock run`` for a table.
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent import cli_bench, cli_capture, cli_keep, cli_replay, cli_send, cli_tap, cli_top, cli_trial
from agent.cli_options import ca_option, config_option, control_socket, socket_option, token_option
from agent.cli_trial import explain
from agent.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError, ControlError, PenstockError

if TYPE_CHECKING:
    from agent.config import Config

_STATUS_TIMEOUT = 10.0
# More than the agent takes at most for its answer.
_RELOAD_TIMEOUT = 150.0


class _Group(click.Group):
    """Turns the agent's own errors into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(f"penstock: {problem}", err=True)
            ctx.exit(EXIT_CONFIG)
        except PenstockError as error:
            click.echo(f"penstock: {error}", err=True)
            ctx.exit(EXIT_FAILURE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Takes metrics at the speed of the kernel and delivers them to InfluxDB."""


@cli.command()
@config_option
@click.option(
    "--hints/--no-hints", default=None, help="Say where to send and where to look. [default: on a terminal]"
)
@click.pass_context
def run(ctx: click.Context, path: Path | None, hints: bool | None) -> None:
    """Run the agent in the foreground until SIGTERM or SIGINT.

    SIGHUP reloads the configuration, SIGUSR1 logs the ledger, and a second SIGTERM ends the agent at once.
    """
    # They would end a process that does not handle them yet; the service does, and lets them in.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))
    from agent.service import run as run_service

    if hints if hints is not None else sys.stderr.isatty():
        from agent.config import load

        click.echo("\n".join(_hints(load(path))), err=True)
    ctx.exit(run_service(path))


@cli.command()
@config_option
@click.option(
    "--explain", "metric", help="A metric as a client sends it: also say what each rule does to it."
)
@click.option(
    "--listener",
    default="",
    help="Name of the listener that it is for, if not the first one that can read it.",
)
def check(path: Path | None, metric: str | None, listener: str) -> None:
    """Check the configuration; every problem is printed with its place, and the exit code is then 78."""
    from agent.config import DEFAULT_PATH, load

    config = load(path)
    if metric is not None:
        explain(config, metric, listener)
        return
    click.echo(f"{path or DEFAULT_PATH}: OK")
    for listen in config.listen:
        name = "" if listen.name == listen.address else f" ({listen.name})"
        click.echo(f"  listen  {listen.address}{name}, {listen.format}")
    if config.host is not None:
        click.echo(f"  host    {', '.join(config.host.collectors)}")
    for output in config.output:
        click.echo(f"  output  {output.name}, {output.type}")


@cli.command("config")
@config_option
@click.option("--defaults", is_flag=True, help="Also the keys that have their default.")
def show_config(path: Path | None, defaults: bool) -> None:
    """Print the configuration as it is understood: conf.d merged, references filled in, secrets masked."""
    from agent.config import load
    from agent.config_toml import to_toml

    click.echo(to_toml(load(path), defaults), nl=False)


@cli.command()
@config_option
@socket_option
@click.option("--url", help="Ask over HTTP at this address instead, such as http://127.0.0.1:8690.")
@ca_option
@token_option
@click.option("--json", "as_json", is_flag=True, help="The document of /api/status as it is.")
@click.pass_context
def status(
    ctx: click.Context,
    path: Path | None,
    socket: Path | None,
    url: str | None,
    ca: Path | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show what a running agent does, and its ledger.

    Exits with 1 where no agent is running or where its ledger does not balance.
    """
    from agent.admin.client import ask, credentials

    where, shown = url or control_socket(path, socket), credentials(token_file, ca)
    code, document = ask(where, "GET", "/api/status", _STATUS_TIMEOUT, shown)
    if code != 200:
        raise ControlError(f"the agent answers {code}: {document.get('error', document)}")
    if as_json:
        import json

        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        from agent.admin.screen import draw

        # Into a pipe or a file, where no width is known, nothing is folded.
        draw(document, Console(highlight=False, width=None if sys.stdout.isatty() else 200))
    if document["ledger"]["balance"] == "broken":
        ctx.exit(EXIT_FAILURE)


@cli.command()
@config_option
@socket_option
@click.option(
    "--wait/--no-wait", default=True, help="Return when the new configuration is live. [default: wait]"
)
@click.pass_context
def reload(ctx: click.Context, path: Path | None, socket: Path | None, wait: bool) -> None:
    """Make the running agent read its configuration again.

    If it refuses, the old configuration runs on; the reasons are printed and the exit code is 1.
    """
    from agent.admin.client import ask

    where = control_socket(path, socket)
    code, answer = ask(where, "POST", f"/api/reload?wait={int(wait)}", _RELOAD_TIMEOUT)
    if code == 202:
        click.echo("asked; penstock status tells what came of it")
    elif code == 200:
        click.echo("reloaded")
        for change in answer["changes"]:
            click.echo(f"  {change}")
    elif code == 409:
        click.echo("penstock: reload refused, the old configuration runs on:", err=True)
        for problem in answer["problems"]:
            click.echo(f"  {problem}", err=True)
        ctx.exit(EXIT_FAILURE)
    else:
        raise ControlError(f"the agent answers {code}: {answer}")


cli.add_command(cli_trial.test)
cli.add_command(cli_bench.bench)
cli.add_command(cli_send.send)
cli.add_command(cli_tap.tap)
cli.add_command(cli_capture.capture)
cli.add_command(cli_replay.replay)
cli.add_command(cli_top.top)
for group in cli_keep.GROUPS:
    cli.add_command(group)


@cli.command()
def version() -> None:
    """Print the version."""
    import platform

    from agent import __version__, _core

    click.echo(f"penstock {__version__} (Python {platform.python_version()}, kernels {_core.ISA})")


_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    help="Work on the files below this folder, and start or stop nothing.",
)


@cli.command()
@_root_option
@click.option("--stage", is_flag=True, hidden=True, help="The files of a package only: used to build one.")
def install(root: Path, stage: bool) -> None:
    """Make a pip installation a service: units, user, configuration, man pages, completions.

    Doing it again changes nothing but what is out of date. A configuration that is there is kept.
    """
    from agent import installation

    if stage:
        installation.stage(root, _completions())
    else:
        installation.install(root.absolute(), _completions(), click.echo)


@cli.command()
@_root_option
@click.option("--purge", is_flag=True, help="Also configuration, secrets, data and logs of Penstock.")
def uninstall(root: Path, purge: bool) -> None:
    """Stop the service and remove what install wrote; configuration and data stay, unless --purge."""
    from agent import installation

    installation.uninstall(root.absolute(), purge, _completions(), click.echo)


def _completions() -> dict[str, str]:
    """The scripts by which shells complete the command, as click writes them."""
    from click.shell_completion import ShellComplete, get_completion_class

    scripts = {}
    for shell in ("bash", "zsh", "fish"):
        kind = get_completion_class(shell)
        assert kind is not None
        # Not its own source(): bash's starts the bash of this machine to look at its version.
        scripts[shell] = ShellComplete.source(kind(cli, {}, "penstock", "_PENSTOCK_COMPLETE"))
    return scripts


def _hints(config: "Config") -> Iterator[str]:
    """Where to send, where to look, and one line to try."""
    if config.listen:
        yield "Send to:  " + ", ".join(listen.address for listen in config.listen)
    looks = [f"http://{config.agent.admin}/"] if config.agent.admin else []
    for output in config.output:
        if output.type == "file":
            looks.insert(0, f"{output.path}/")
        elif output.type == "influxdb":
            looks.insert(0, output.url)
    if looks:
        yield "Look at:  " + ", ".join(looks)
    from agent.config_values import parse_listen_address

    for listen in config.listen[:1]:
        if not parse_listen_address(listen.address).brokers:
            yield "Try:      " + _line_to_try(listen.address, listen.format)


def _line_to_try(address: str, format: str) -> str:
    line = "echo 'demo,host=me value=1'" if format == "line" else "echo 'demo:1|c|#host:me'"
    from agent.config_values import parse_listen_address

    parts = parse_listen_address(address)
    # A stream ends with what is sent; a datagram has no end to wait for.
    nc = "nc -u -w0" if parts.scheme in ("udp", "unixgram") else "nc -N"
    if parts.path:
        return f"{line} | {nc} -U {parts.path}"
    # What is bound to every address is reached on the loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.host, parts.host)
    return f"{line} | {nc} {host} {parts.port}"


def main() -> None:
    """Entry point of the command."""
    cli(prog_name="penstock")
