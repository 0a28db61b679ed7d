"""``penstock send``: metrics to a listener, read by our own reader first."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli_options import config_option
from agent.errors import EXIT_FAILURE, ConfigError, WireError

if TYPE_CHECKING:
    from agent.config import Listen
    from agent.sending import Metric
    from agent.wire import Secrets, Sink

FORMATS = ("line", "statsd", "graphite", "json", "msgpack", "protobuf")

_SHOWN_BYTES = 256


@click.command()
@click.argument("metrics", metavar="METRIC...", nargs=-1)
@config_option
@click.option(
    "--to",
    metavar="ADDRESS",
    default="",
    help="Address or name of a listener, instead of the first one of the configuration;"
    " tls:// and https:// too.",
)
@click.option("--format", type=click.Choice(FORMATS), help="What is sent, if not what the listener takes.")
@click.option("--check/--no-check", default=True, help="Read it first, and send nothing that is malformed.")
@click.option("--ca", default="", metavar="FILE", help="Certificates of authorities, for TLS.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="Has the token; else PENSTOCK_TOKEN is it."
)
@click.pass_context
def send(
    ctx: click.Context,
    metrics: tuple[str, ...],
    path: Path | None,
    to: str,
    format: str | None,
    check: bool,
    ca: str,
    token_file: Path | None,
) -> None:
    """Send metrics: each METRIC, or else the lines of standard input.

    They are read first as the listener would; what is malformed is told with its reason, the rest is sent,
    and the exit code is 1. MessagePack is given as JSON, protocol buffers as line protocol. Datagrams have no
    answer: what comes too fast for a listener is lost.
    """
    from agent import sending
    from agent.wire import open_sink

    address, listen, secrets = target(path, to, format, ca, token_file)
    packed = _Packed(open_sink(address, secrets), address)
    try:
        for chunk in _given(metrics, listen.format):
            for metric in sending.metrics(chunk, listen, check):
                packed.take(metric)
    except KeyboardInterrupt:
        pass
    packed.end()
    click.echo(f"{packed.sent:,} sent to {address}, as {listen.format}")
    if packed.malformed:
        click.echo(f"penstock: {packed.malformed:,} malformed, and not sent", err=True)
        ctx.exit(EXIT_FAILURE)


def target(
    path: Path | None, to: str, format: str | None, ca: str, token_file: Path | None
) -> "tuple[str, Listen, Secrets]":
    """Where to send, the listener there as far as it is known, and what it is to be shown."""
    from msgspec.structs import replace

    from agent.config import Listen, load
    from agent.wire import Secrets, parse, read_token

    known: tuple[Listen, ...] = ()
    try:
        known = load(path).listen
    except ConfigError:
        # Who says where to needs none, nor one that is right.
        if path is not None or "://" not in to:
            raise
    token = read_token(token_file)
    found = next(
        (one for one in known if to in (one.name, one.address)), known[0] if known and not to else None
    )
    if found is None:
        if "://" not in to:
            names = ", ".join(one.name for one in known)
            raise WireError(
                f"no listener is named {to!r}; there are {names}" if to else "there is no listener"
            )
        parse(to)
        return to, Listen(address=to, format=format or "line"), Secrets(token, ca)
    address = found.address
    if found.cert:
        address = address.replace("tcp://", "tls://").replace("http://", "https://")
    secrets = Secrets(token or (found.tokens[0] if found.tokens else ""), ca, found.cert)
    return address, found if format is None else replace(found, format=format), secrets


def _given(metrics: tuple[str, ...], format: str) -> Iterator[bytes]:
    from agent.sending import chunks

    if metrics:
        yield from (metric.encode(errors="surrogateescape") for metric in metrics)
        return
    # As soon as something is there: it may be somebody who types.
    yield from chunks(lambda size: os.read(sys.stdin.fileno(), size), format)


class _Packed:
    """Metrics on their way, as many in a message as it holds."""

    def __init__(self, sink: "Sink", address: str) -> None:
        self._sink, self._address = sink, address
        self._waiting: list[bytes] = []
        self._bytes = 0
        self.sent = self.malformed = 0

    def take(self, metric: "Metric") -> None:
        if metric.reason:
            self._tell(metric)
            return
        nbytes = len(metric.message)
        if nbytes > self._sink.message_bytes_max:
            self._tell(metric._replace(reason=f"{nbytes:,} bytes do not fit into one message"))
            return
        if self._bytes and self._bytes + nbytes > self._sink.message_bytes:
            self._flush()
        self._waiting.append(metric.message)
        self._bytes += nbytes

    def end(self) -> None:
        self._flush()
        self._sink.close()

    def _flush(self) -> None:
        if self._waiting:
            self._sink.send(b"".join(self._waiting))
            self.sent += len(self._waiting)
            self._waiting, self._bytes = [], 0

    def _tell(self, metric: "Metric") -> None:
        from agent.terminal import printable

        self.malformed += 1
        text = metric.text[:_SHOWN_BYTES].decode(errors="backslashreplace")
        click.echo(f"penstock: {metric.reason}: {printable(text)}", err=True)
