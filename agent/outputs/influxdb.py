"""InfluxDB, or whatever takes one of its write endpoints: versions 1, 2 and 3.

influxdb-client gives the configuration, the authorization and the connection pool. Its ``post_write`` is not
used: it takes only ``bytes``, and its layers above the pool cost 160 µs a request, as much as the pool does.
So the batch goes to the pool as the memoryview that it is, and is copied for the first time by the kernel.

The client is imported by the flusher's thread, half a second after the start or with the first batch: that
takes a quarter of a second, which the start of the agent must not wait for.
"""

import logging
import math
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from isal import isal_zlib

from agent import __version__
from agent.config import InfluxOutput
from agent.errors import OutputError
from agent.outputs.base import GZIP_WBITS, Kind, Output, Payload, Verdict, one_line
from agent.outputs.verdicts import classify

if TYPE_CHECKING:
    from agent.outputs.http import Transport

logger = logging.getLogger(__name__)

WARM_UP_S = 0.5
"""So long after it was made, an output that has not been used imports its client."""


class InfluxSink(Output):
    """Writes batches to an InfluxDB. Raises OutputError if a certificate or the token cannot be used."""

    def __init__(self, config: InfluxOutput) -> None:
        parts = urlsplit(config.url)
        host = parts.netloc.rpartition("@")[2]
        super().__init__(config.name, f"{parts.scheme}://{host}{parts.path}")
        self.unsigned = config.version != 1
        self.max_concurrency = config.max_concurrency
        self.retry_min = config.retry_min
        self.retry_max = config.retry_max
        self._config = config
        self._root = f"{parts.scheme}://{host}"
        self._request = parts.path.rstrip("/") + request_target(config)
        self._level = config.compression_level if config.gzip else None
        self._tls = _tls_context(config) if parts.scheme == "https" else None
        if not config.token.isascii() or not config.token.isprintable():
            raise OutputError("the token has characters that no HTTP header may have; check that it is whole")
        self._lock = threading.Lock()
        self._client: Any = None
        self._transport: Transport | None = None
        self._headers: dict[str, dict[str, str]] = {}  # by the compression of the payload
        self._warm_up_at: float | None = time.monotonic() + WARM_UP_S
        self._aborted = False

    def encode(self, body: memoryview, metrics: int) -> Payload:
        if self._level is None:
            return Payload(body, metrics, len(body))
        data = isal_zlib.compress(body, self._level, GZIP_WBITS)
        return Payload(data, metrics, len(body), compression="gz")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        from agent.outputs.http import TransportError

        transport = self._transport or self._connect()
        try:
            headers = self._headers[payload.compression]
            answer = transport.post(self._request, payload.data, headers, deadline)
        except TransportError as error:
            return Verdict(Kind.RETRY, text=one_line(str(error)))
        return classify(self._config.version, answer.status, answer.headers, answer.body, payload)

    def due(self) -> float | None:
        return self._warm_up_at

    def tick(self) -> None:
        """Import the client before the first batch needs it."""
        self._warm_up_at = None
        self._connect()

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

    def _connect(self) -> "Transport":
        """Import the client and make the pool, once. Opens no connection yet."""
        with self._lock:
            if self._transport is not None:
                return self._transport
            from urllib3 import disable_warnings
            from urllib3.exceptions import InsecureRequestWarning

            from agent.outputs.http import Transport

            config = self._config
            self._client = client = _client_class()(
                self._root,
                # Version 1 knows users and passwords, the others tokens; the client makes either header.
                token=f"{config.username}:{config.password}" if config.username else config.token or None,
                auth_basic=bool(config.username),
                connection_pool_maxsize=config.max_concurrency,
                verify_ssl=not config.insecure_skip_verify,
                ssl_context=self._tls,
                retries=False,
            )
            api = client.api_client
            api.user_agent = f"penstock/{__version__}"
            if config.version == 3 and config.token:
                api.set_default_header("Authorization", f"Bearer {config.token}")
            headers = {**api.default_headers, "Content-Type": "text/plain; charset=utf-8"}
            self._headers = {"": headers, "gz": {**headers, "Content-Encoding": "gzip"}}
            transport = Transport(
                api.rest_client.pool_manager.connection_from_url(self._root),
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


def request_target(config: InfluxOutput) -> str:
    """Path and query of the write endpoint. Our timestamps are always nanoseconds."""
    if config.version == 1:
        path = "/write"
        query = {
            "db": config.database,
            "rp": config.retention_policy,
            "precision": "n",
            "consistency": config.consistency,
        }
    elif config.version == 2:
        path = "/api/v2/write"
        query = {"org": config.org, "bucket": config.bucket, "precision": "ns"}
    else:
        path = "/api/v3/write_lp"
        query = {"db": config.database, "precision": "nanosecond", "accept_partial": "true"}
    return f"{path}?{urlencode({key: value for key, value in query.items() if value}, quote_via=quote)}"


def _tls_context(config: InfluxOutput) -> ssl.SSLContext:
    """What the connections are verified with. Raises OutputError."""
    try:
        context = ssl.create_default_context(cafile=config.ca or None)
    except (OSError, ValueError) as error:
        raise OutputError(f"ca: {config.ca} holds no certificate that can be used: {error}") from error
    if config.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        logger.warning(
            "the server's certificate is not verified: anybody between could read and change what is sent",
            extra={"output": config.name},
        )
    if config.cert:
        try:
            # No password: an encrypted key would ask for it on the terminal.
            context.load_cert_chain(config.cert, config.key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            where = f"{config.cert} with {config.key}" if config.key else config.cert
            raise OutputError(f"cert, key: {where} cannot be used: {error}") from error
    return context


def _client_class() -> Any:
    """The client's class, imported without numpy.

    The client takes numpy in if it is there, for data frames, at 90 ms and 20 MB; nothing here needs it.
    """
    hidden = "numpy" not in sys.modules
    if hidden:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        from influxdb_client import InfluxDBClient  # type: ignore[attr-defined]
    finally:
        if hidden:
            del sys.modules["numpy"]
    return InfluxDBClient
