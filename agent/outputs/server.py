"""What outputs have in common that post to a server: its address, certificates, connections, time limits.

What makes the connections is imported by the flusher's thread, half a second after the start or with the
first batch: that takes up to a quarter of a second, which the start of the agent must not wait for.
"""

import logging
import math
import ssl
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent import __version__
from agent.config import HttpOutput, ServerOutput
from agent.errors import OutputError
from agent.outputs.base import Kind, Output, Payload, Verdict, one_line

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

    from agent.outputs.exchange import Answer
    from agent.outputs.http import Transport

logger = logging.getLogger(__name__)

USER_AGENT = f"penstock/{__version__}"

WARM_UP_S = 0.5
"""So long after it was made, an output that has not been used imports what makes its connections."""


class ServerSink(Output):
    """Posts bodies to the server of *config*. Raises OutputError if a certificate cannot be used."""

    def __init__(self, config: HttpOutput) -> None:
        parts = urlsplit(config.url)
        host = parts.netloc.rpartition("@")[2]
        super().__init__(config.name, f"{parts.scheme}://{host}{parts.path}")
        self.max_concurrency = config.max_concurrency
        self.retry_min = config.retry_min
        self.retry_max = config.retry_max
        self.root = f"{parts.scheme}://{host}"
        self.path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.tls = tls_context(config) if parts.scheme == "https" else None
        self._server = config
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._warm_up_at: float | None = time.monotonic() + WARM_UP_S
        self._aborted = False

    @abstractmethod
    def pool(self) -> "HTTPConnectionPool":
        """The pool that the connections come from: called once, before the first request. Opens none yet."""

    def request(
        self, target: str, data: bytes | memoryview, headers: Mapping[str, str], deadline: float = math.inf
    ) -> "Answer | Verdict":
        """Post *data* to *target*; a verdict where there was no answer."""
        from agent.outputs.http import TransportError

        transport = self._transport or self.connect()
        try:
            return transport.post(target, data, headers, deadline)
        except TransportError as error:
            return Verdict(Kind.RETRY, text=one_line(str(error)))

    def due(self) -> float | None:
        return self._warm_up_at

    def tick(self) -> None:
        """Import what makes connections before the first batch needs it."""
        self._warm_up_at = None
        self.connect()

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def interrupt(self, before: float) -> None:
        if self._transport is not None:
            self._transport.interrupt(before)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connect(self) -> "Transport":
        """Make the pool, once. Opens no connection yet."""
        with self._lock:
            if self._transport is not None:
                return self._transport
            from urllib3 import disable_warnings
            from urllib3.exceptions import InsecureRequestWarning

            from agent.outputs.http import Transport

            config = self._server
            transport = Transport(
                self.pool(),
                connect_timeout=config.connect_timeout,
                tls_timeout=config.tls_timeout,
                response_timeout=config.response_timeout,
                idle_timeout=config.idle_timeout,
            )
            if config.insecure_skip_verify:
                # It would be said for each connection, and on standard error.
                disable_warnings(InsecureRequestWarning)
            if self._aborted:
                transport.abort()
            self._transport = transport
            self._warm_up_at = None
            return transport


def traced(headers: Mapping[str, str], payload: Payload) -> Mapping[str, str]:
    """*headers*, and what tells of which batch *payload* is where they do not say so themselves."""
    if not payload.trace:
        return headers
    own = {"traceparent": payload.trace, **headers}
    if own.get("User-Agent") == USER_AGENT:
        own["User-Agent"] = f"{USER_AGENT} batch/{payload.batch}"
    return own


def check_token(token: str) -> None:
    """Raises OutputError if *token* cannot stand in a header."""
    if not token.isascii() or not token.isprintable():
        raise OutputError("the token has characters that no HTTP header may have; check that it is whole")


def warn_unverified(name: str) -> None:
    """Tell whoever reads the log what ``insecure_skip_verify`` means."""
    logger.warning(
        "the server's certificate is not verified: anybody between could read and change what is sent",
        extra={"output": name},
    )


def tls_context(config: ServerOutput) -> ssl.SSLContext:
    """What the connections are verified with. Raises OutputError."""
    try:
        context = ssl.create_default_context(cafile=config.ca or None)
    except (OSError, ValueError) as error:
        raise OutputError(f"ca: {config.ca} holds no certificate that can be used: {error}") from error
    if config.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        warn_unverified(config.name)
    if config.cert:
        try:
            # No password: an encrypted key would ask for it on the terminal.
            context.load_cert_chain(config.cert, config.key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            where = f"{config.cert} with {config.key}" if config.key else config.cert
            raise OutputError(f"cert, key: {where} cannot be used: {error}") from error
    return context
