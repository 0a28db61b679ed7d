"""A connection to NATS that is made once: when it breaks, whoever has it makes another one.

nats-py's own reconnecting is off. What waits in it has no bound, and a server that accepts connections and
then says nothing holds it up for ever.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

PING_S = 10
"""A server that does not answer two of these is gone."""

NUMBERS = ("ping_interval", "max_outstanding_pings")


async def connect(
    servers: Sequence[str],
    options: Mapping[str, str],
    *,
    name: str,
    timeout: float,
    tls: ssl.SSLContext | None = None,
    error: Callable[[Exception], Awaitable[None]],
    closed: Callable[[], Awaitable[None]],
) -> Any:
    """A connection to one of *servers*, with *options* under nats-py's own names.

    *error* is told what the server complains of, *closed* of the end. Raises what nats-py does, and OSError.
    """
    import nats

    more: dict[str, Any] = {key: int(value) if key in NUMBERS else value for key, value in options.items()}
    if tls is not None:
        more["tls"] = tls
    return await nats.connect(
        servers=list(servers),
        name=name,
        allow_reconnect=False,
        connect_timeout=timeout,
        error_cb=error,
        closed_cb=closed,
        **{"ping_interval": PING_S, "max_outstanding_pings": 2, **more},
    )


def tls_context(ca: str, cert: str, key: str, verify: bool) -> ssl.SSLContext | None:
    """What these files ask for; None for a plain connection. Raises OSError, ssl.SSLError."""
    if not (ca or cert or not verify):
        return None
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        context.load_cert_chain(cert, key or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
