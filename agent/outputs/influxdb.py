"""InfluxDB, or whatever takes one of its write endpoints: versions 1, 2 and 3.

influxdb-client gives the configuration, the authorization and the pool with its connections. Its
``post_write`` is not used: it takes only ``bytes``, and what lies above connections costs 300 µs a request,
ten times what :mod:`agent.outputs.exchange` does. So the batch is sent as the memoryview that it is, and is
copied for the first time by the kernel.
"""

import math
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from isal import isal_zlib

from agent.config import InfluxOutput
from agent.outputs.base import GZIP_WBITS, Kind, Payload, Verdict, one_line
from agent.outputs.bodies import as_lines
from agent.outputs.server import USER_AGENT, ServerSink, check_token, traced
from agent.outputs.verdicts import classify

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool


class InfluxSink(ServerSink):
    """Writes batches to an InfluxDB. Raises OutputError if a certificate or the token cannot be used."""

    def __init__(self, config: InfluxOutput) -> None:
        super().__init__(config)
        self.encoding = "lp_signed" if config.version == 1 else "lp"
        self._config = config
        self._target = self.path.rstrip("/") + request_target(config)
        self._level = config.compression_level if config.gzip else None
        check_token(config.token)
        self._client: Any = None
        self._headers: dict[str, dict[str, str]] = {}  # by the compression of the payload

    def encode(self, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        if self._level is None:
            return Payload(body, metrics, len(body), encoding)
        data = isal_zlib.compress(body, self._level, GZIP_WBITS)
        return Payload(data, metrics, len(body), encoding, "gz")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        if payload.encoding != "lp":
            # What an output of samples left in the spool of this name.
            try:
                payload = as_lines(payload)
            except ValueError as error:
                return Verdict(Kind.REJECT, text=one_line(str(error)))
        self.connect()
        headers = traced(self._headers[payload.compression], payload)
        answer = self.request(self._target, payload.data, headers, deadline)
        if isinstance(answer, Verdict):
            return answer
        return classify(self._config.version, answer.status, answer.headers, answer.body, payload)

    def pool(self) -> "HTTPConnectionPool":
        config = self._config
        self._client = client = _client_class()(
            self.root,
            # Version 1 knows users and passwords, the others tokens; the client makes either header.
            token=f"{config.username}:{config.password}" if config.username else config.token or None,
            auth_basic=bool(config.username),
            connection_pool_maxsize=config.max_concurrency,
            verify_ssl=not config.insecure_skip_verify,
            ssl_context=self.tls,
            retries=False,
        )
        api = client.api_client
        api.user_agent = USER_AGENT
        if config.version == 3 and config.token:
            api.set_default_header("Authorization", f"Bearer {config.token}")
        headers = {**api.default_headers, "Content-Type": "text/plain; charset=utf-8"}
        self._headers = {"": headers, "gz": {**headers, "Content-Encoding": "gzip"}}
        pool: HTTPConnectionPool = api.rest_client.pool_manager.connection_from_url(self.root)
        return pool


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
