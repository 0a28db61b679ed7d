"""``penstock bench``: load for an agent on this machine, and what became of it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import click

from agent.cli_options import config_option, control_socket, duration, progress, socket_option
from agent.cli_send import target
from agent.errors import EXIT_FAILURE, ControlError, NoAgentError

FORMATS = ("line", "statsd", "graphite", "json")
_STATUS_TIMEOUT = 10.0

_SETTLE_S = 15.0
"""So long is waited for what was sent to be decided."""

_BODY_BYTES = 65_536
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


def _rate(_: click.Context, __: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([kM]?)(?:/s)?", value)
    if value == "max":
        return 0.0
    if match is None or not float(match[1]):
        raise click.BadParameter("it is a number of metrics a second, such as 100000, 100k or 1.5M, or max")
    return float(match[1]) * _UNITS[match[2]]


@click.command()
@config_option
@socket_option
@click.option(
    "--to", metavar="ADDRESS", default="", help="Address or name of a listener, instead of the first one."
)
@click.option("--rate", default="100k", show_default=True, callback=_rate, help="Metrics a second, or max.")
@click.option(
    "--seconds", default="10s", show_default=True, callback=duration, metavar="DURATION", help="For so long."
)
@click.option("--format", type=click.Choice(FORMATS), help="What is sent, if not what the listener takes.")
@click.option("--series", default=1000, show_default=True, type=click.IntRange(1, 1_000_000), help="So many.")
@click.option(
    "--fields", default=1, show_default=True, type=click.IntRange(1, 100), help="Of each line or object."
)
@click.option(
    "--pack",
    default=1432,
    show_default=True,
    type=click.IntRange(0, 65_000),
    metavar="BYTES",
    help="Size of a datagram; 0: one metric in each.",
)
@click.option("--connections", default=1, show_default=True, type=click.IntRange(1, 256), help="So many.")
@click.option("--ca", default="", metavar="FILE", help="Certificates of authorities, for TLS.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="Has the token; else PENSTOCK_TOKEN is it."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def bench(
    ctx: click.Context,
    path: Path | None,
    socket: Path | None,
    to: str,
    rate: float,
    seconds: float,
    format: str | None,
    series: int,
    fields: int,
    pack: int,
    connections: int,
    ca: str,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Send metrics to the agent of this machine, and tell how many arrived, and where the others were lost.

    They are of the measurement penstock_bench and end up where all others do: in the databases of the
    configuration. With --to an address of another machine there is no report of what became of them.
    """
    from agent.load import Load, prepare
    from agent.load_report import report, thread_times, told
    from agent.wire import parse

    address, listen, secrets = target(path, to, format, ca, token_file)
    if listen.format not in FORMATS:
        raise click.UsageError(f"{listen.format} is not made here; --format, or --to another listener")
    stream = parse(address)[0].scheme not in ("udp", "unixgram")
    messages = prepare(listen.format, series, fields, _BODY_BYTES if stream else pack)
    before = _before(control_socket(path, socket), listen.name)
    click.echo(_announced(address, before), err=True)
    load = Load(address, secrets, messages, rate, connections)
    times = thread_times(before["pid"]) if before is not None else {}
    with progress("seconds", round(seconds)) as bar:
        sent = load.run(seconds, lambda elapsed: bar(int(elapsed)))
    if before is not None:
        times = {name: used - times.get(name, 0.0) for name, used in thread_times(before["pid"]).items()}
    if not sent.messages:
        raise ControlError(load.failure or "nothing was sent")
    if before is not None:
        after = _after(control_socket(path, socket), listen.name, before, sent.metrics)
        found = report(sent, rate, before, after, listen.name, times)
    else:
        found = {"sent": {**sent._asdict(), "wanted": rate, "rate": sent.metrics / sent.seconds}}
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(told(found, stream)))
    if load.failure:
        click.echo(f"penstock: {load.failure}", err=True)
        ctx.exit(EXIT_FAILURE)


def _status(where: str) -> dict[str, Any]:
    from agent.admin.client import ask

    code, document = ask(where, "GET", "/api/status", _STATUS_TIMEOUT)
    if code != 200:
        raise ControlError(f"the agent answers {code}: {document}")
    return dict(document)


def _before(where: str, listener: str) -> dict[str, Any] | None:
    """The counters of the agent, if there is one that has the listener."""
    try:
        status = _status(where)
    except NoAgentError:
        return None
    return status if any(one["name"] == listener for one in status["listeners"]) else None


def _after(where: str, listener: str, before: dict[str, Any], metrics: int) -> dict[str, Any]:
    """The same once all that was sent has come and is decided, or it is clear that it will not be."""
    from agent.load_report import came, settled

    deadline, last, still = time.monotonic() + _SETTLE_S, -1, 0
    while True:
        status = _status(where)
        here = came(before, status, listener)
        still = still + 1 if here == last else 0
        last = here
        if (settled(status) and (here >= metrics or still >= 3)) or time.monotonic() >= deadline:
            return status
        time.sleep(0.2)


def _announced(address: str, before: dict[str, Any] | None) -> str:
    from agent.terminal import printable

    if before is None:
        return f"To {address}. No agent of this machine listens there: what becomes of it is not known here."
    outputs = ", ".join(
        f"{one['name']} ({one['type']}{' ' + one['target'] if one['target'] else ''})"
        for one in before["outputs"]
        if one["state"] != "retired"
    )
    return printable(f"To {address}; from there to {outputs}. Ctrl-C ends it.")
