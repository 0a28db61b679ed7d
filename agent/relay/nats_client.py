"""A connection to NATS to read by, made once: when it breaks, whoever has it makes another one.

nats-py's own reconnecting is off, as for outputs (:mod:`agent.outputs.nats_connection`). Imports nats-py.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats import errors
from nats.js.errors import APIError, ServiceUnavailableError

from agent import __version__
from agent.outputs.base import one_line
from agent.outputs.nats_connection import Careful

PING_S = 10
"""A server that does not answer two of these is gone."""


async def connect(
    servers: Sequence[str],
    options: Mapping[str, str],
    *,
    timeout: float,
    tls: ssl.SSLContext | None = None,
    error: Callable[[Exception], Awaitable[None]],
    closed: Callable[[], Awaitable[None]],
) -> Any:
    """A connection to one of *servers*, with *options* under nats-py's own names, within *timeout* seconds.

    *error* is told what the server complains of, *closed* of the end. Raises what nats-py does, and OSError.
    """
    client = Careful()
    client.tls_wanted = tls is not None
    own: dict[str, Any] = dict(options)
    if "tls_handshake_first" in own:
        own["tls_handshake_first"] = own["tls_handshake_first"] == "true"
    try:
        async with asyncio.timeout(timeout):
            await client.connect(
                list(servers),
                name=f"penstock/{__version__}",
                error_cb=error,
                closed_cb=closed,
                allow_reconnect=False,
                # One in a black hole does not cost the others their time.
                connect_timeout=timeout / len(servers),  # type: ignore[arg-type]
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                tls=tls,
                **own,
            )
    except BaseException:
        # It would go on with whatever it has begun.
        transport = getattr(getattr(client, "_transport", None), "_bare_io_writer", None)
        if transport is not None:
            transport.transport.abort()
        raise
    return client


def tls_context(ca: str, cert: str, key: str, verify: bool) -> ssl.SSLContext | None:
    """What these files ask for; None for a plain connection. Raises OSError, ssl.SSLError."""
    if verify and not (ca or cert):
        return None
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        # No password: an encrypted key would ask for it on the terminal.
        context.load_cert_chain(cert, key or None, password=lambda: "")
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def explained(error: Exception, complaint: str, connected: bool) -> str:
    """What *error* means, for a person; *complaint* is what the server has said last."""
    said = f"{complaint} {error}".lower()
    if "authorization" in said or isinstance(error, errors.AuthorizationError):
        return "the server refuses the credentials: correct those in options"
    if "permissions violation" in said:
        return f"the user may not do this: {one_line(complaint)}"
    if isinstance(error, errors.SecureConnWantedError):
        return "the server does not ask for TLS, which is wanted; nothing was sent to it"
    if isinstance(error, ssl.SSLError):
        return one_line(f"TLS: {error.reason or error}")
    if isinstance(error, ServiceUnavailableError | errors.NoRespondersError):
        return "nobody answers for JetStream: it is off there, or has no leader now"
    if isinstance(error, APIError):
        return one_line(f"JetStream answers {error.code}: {error.description}")
    if isinstance(error, TimeoutError | errors.TimeoutError):
        return "the server did not answer in time" if connected else "cannot connect: timed out"
    if isinstance(error, errors.NoServersError):
        return one_line(f"cannot connect: {complaint or 'no server answers'}")
    if isinstance(error, OSError):
        return one_line(f"cannot connect: {error.strerror or error}")
    return one_line(f"{type(error).__name__}: {error}")
