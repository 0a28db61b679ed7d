"""Listeners that Python reads, one file for each kind."""

from collections.abc import Callable, Sequence

from agent._core import Burst
from agent.config import Listen
from agent.config_values import parse_listen_address
from agent.inputs.base import Input, Source
from agent.listeners import BoundSocket

OpenBurst = Callable[[str], Burst]
"""Gives a thread that receives datagrams what it receives into, by the thread's name."""

Maker = Callable[[Listen, Source, Sequence[BoundSocket], OpenBurst], Input]


def _http(listen: Listen, source: Source, sockets: Sequence[BoundSocket], open_burst: OpenBurst) -> Input:
    # Imported where there is such a listener only: aiohttp takes time and memory.
    from agent.inputs.http.input import HttpInput

    return HttpInput(listen, source, sockets)


def _objects(listen: Listen, source: Source, sockets: Sequence[BoundSocket], open_burst: OpenBurst) -> Input:
    """Imported when it is wanted: an agent without such a listener does without the decoders."""
    from agent.inputs.object_formats import ObjectInput

    return ObjectInput(listen, source, sockets, open_burst)


def _nats(listen: Listen, source: Source, sockets: Sequence[BoundSocket], open_burst: OpenBurst) -> Input:
    from agent.inputs.nats import NatsInput

    return NatsInput(listen, source)


def _kafka(listen: Listen, source: Source, sockets: Sequence[BoundSocket], open_burst: OpenBurst) -> Input:
    from agent.inputs.kafka import KafkaInput

    return KafkaInput(listen, source)


KINDS: dict[str, Maker] = {
    "http": _http,
    "json": _objects,
    "msgpack": _objects,
    "nats": _nats,
    "kafka": _kafka,
}
"""What makes the inputs of each kind. A maker raises ListenError; its input borrows the sockets."""


def kind(listen: Listen) -> str:
    """Which kind of input reads *listen*: the scheme of its address, or its format; empty if lanes do."""
    scheme = parse_listen_address(listen.address).scheme
    return next((one for one in (scheme, listen.format) if one in KINDS), "")


def is_broker(listen: Listen) -> bool:
    """Whether *listen* takes messages from a broker, and so has no sockets."""
    return bool(parse_listen_address(listen.address).brokers)


def make(
    listen: Listen,
    source: Source,
    sockets: Sequence[BoundSocket],
    open_burst: OpenBurst = lambda name: Burst(),
) -> Input:
    """The input of *listen*, whose :func:`kind` is not empty. Raises ListenError."""
    return KINDS[kind(listen)](listen, source, sockets, open_burst)
