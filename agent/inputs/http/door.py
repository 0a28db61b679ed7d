"""The endpoints: what is asked at which path, and what it is answered. One listener's, in its loop."""

import asyncio
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from agent import __version__
from agent.config import Listen
from agent.inputs.base import Source
from agent.inputs.http import body, collectd, lines, query, samples, tokens
from agent.inputs.http.connections import WORK, Connections
from agent.inputs.http.refused import Refused, Shape
from agent.inputs.http.refused import body as refused_body

if TYPE_CHECKING:
    from agent._core import FeedResult

logger = logging.getLogger(__name__)

INFLUX_VERSION = "1.8.10-penstock"
"""What clients are told that ask whom they write to: what they may do by it works here."""

INLINE_BYTES = 1 << 20
"""A plain body up to this size is read in the loop, which takes 2 ms at most; others in another thread."""

INLINE_COMPRESSED_BYTES = 32 << 10

RETRY_AFTER_MAX_S = 600
"""What a client is told to wait at most."""

REST_BYTES_MAX = 64 << 10
"""So much of a body that is refused is worth reading to keep the connection."""

_NO_TAG_VALUE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\\[, =]|\\\Z")

_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e]")

_HEADERS = {"X-Influxdb-Version": INFLUX_VERSION, "X-Influxdb-Build": "OSS", "Server": "penstock"}


@dataclass(frozen=True)
class Endpoint:
    """One path."""

    shape: Shape
    methods: tuple[str, ...]
    answer: Callable[[web.BaseRequest, Shape], Awaitable[web.Response]]
    open: bool = False
    """Whether it asks for no token."""


class Door:
    """Answers requests."""

    def __init__(self, config: Listen, source: Source, connections: Connections, executor: Executor) -> None:
        self.stopping = False
        """From now on everything is refused with 503."""
        self.answers: Counter[str] = Counter()
        """Requests by the status of their answers."""
        self._source = source
        self._connections = connections
        self._executor = executor
        self._budget = body.Budget()
        self._tokens: tuple[bytes, ...] = ()
        self._config = config
        self.configure(config)
        write = ("POST",)
        look = ("GET", "HEAD")
        self._endpoints = {
            "/write": Endpoint(Shape.V1, write, self._write),
            "/api/v2/write": Endpoint(Shape.V2, write, self._write),
            "/api/v3/write_lp": Endpoint(Shape.V3, write, self._write),
            "/ping": Endpoint(Shape.V1, look, self._ping, open=True),
            "/health": Endpoint(Shape.V2, look, self._health, open=True),
            "/api/v1/write": Endpoint(Shape.TEXT, write, self._remote_write),
            "/api/v1/push": Endpoint(Shape.TEXT, write, self._remote_write),
            "/v1/metrics": Endpoint(Shape.OTLP, write, self._otlp),
            "/collectd": Endpoint(Shape.TEXT, write, self._collectd),
            "/query": Endpoint(Shape.V1, ("GET", "POST"), self._query),
        }

    def configure(self, config: Listen) -> None:
        self._config = config
        self._tokens = tuple(token.encode() for token in config.tokens)

    # ---- every request ----

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. aiohttp's handler."""
        connection = self._connections.of(request.protocol)
        if connection is None:
            return web.Response(status=400)  # nobody is there to read it
        self._connections.begin(connection, time.monotonic())
        shape = Shape.TEXT
        try:
            endpoint = self._endpoints.get(request.path)
            if endpoint is None:
                raise Refused(404, f"there is nothing at {request.path}")
            shape = endpoint.shape
            if shape is Shape.OTLP and samples.is_json(request.headers.get("Content-Type", "")):
                shape = Shape.OTLP_JSON
            if request.method not in endpoint.methods:
                raise Refused(
                    405,
                    f"{request.method} is not for {request.path}",
                    headers={"Allow": ", ".join(endpoint.methods)},
                )
            if not endpoint.open:
                self._check_source(request)
                tokens.check(self._tokens, request.headers, request.query)
            response = await endpoint.answer(request, shape)
        except Refused as refused:
            response = self._refuse(request, shape, refused)
        except Exception:
            logger.exception("a request failed unexpectedly", extra={"path": request.path})
            response = self._refuse(request, shape, Refused(500, "an internal error"))
        finally:
            self._connections.end(connection, time.monotonic())
        self.answers[str(response.status)] += 1
        return response

    def _check_source(self, request: web.BaseRequest) -> None:
        """Raise Refused, 403, unless the client may send."""
        sources = self._source.sources
        if sources is not None and not sources.allows(request.remote or ""):
            raise Refused(403, "clients with this address may not send anything here")

    def _check_rate(self, request: web.BaseRequest) -> None:
        """Raise Refused, 429, if the client has sent more than it may by now."""
        sources = self._source.sources
        if sources is not None and (wait := sources.wait(request.remote or "")) > 0.0:
            seconds = min(math.ceil(wait), RETRY_AFTER_MAX_S)
            raise Refused(
                429,
                "more metrics a second than are allowed; nothing was taken",
                headers={"Retry-After": str(seconds)},
            )

    def _refuse(self, request: web.BaseRequest, shape: Shape, refused: Refused) -> web.Response:
        content, kind = refused_body(shape, refused)
        headers = {**_HEADERS, **refused.headers, "Content-Type": kind}
        if shape is Shape.V1:
            headers["X-Influxdb-Error"] = _NOT_IN_HEADERS.sub("?", refused.message.split("\n")[0][:200])
        response = web.Response(status=refused.status, body=content, headers=headers)
        # The rest of a short body is read by aiohttp, and the connection goes on.
        rest = 0 if request.content.is_eof() else request.content_length
        if self.stopping or rest is None or rest > REST_BYTES_MAX:
            response.force_close()
        return response

    # ---- writes ----

    async def _take(
        self,
        request: web.BaseRequest,
        known: tuple[str, ...],
        work: Callable[[bytes], "FeedResult"],
        *,
        full: int = 429,
        inline: bool = True,
    ) -> "FeedResult":
        """Receive the body, decompress it, and have *work* put it into the rings. Raises Refused.

        A client over its rate is refused before its body is read. Bodies that are on their way by then are
        taken, and charged.

        *full* is the status that tells of full buffers. Unless *inline* all work is another thread's.
        """
        if self.stopping:
            raise Refused(503, "the agent is stopping", headers={"Retry-After": "5"})
        self._check_rate(request)
        encoding = body.encoding_of(request, known)
        limit = self._config.max_body
        length = request.content_length
        if length is not None and length > limit:
            raise body.too_large(limit)
        no_room = Refused(full, "the buffers are full; nothing was taken", headers={"Retry-After": "1"})
        if not self._source.has_room(length or 0):
            raise no_room
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        data = await body.receive(request, limit, self._budget)
        if (connection := self._connections.of(request.protocol)) is not None:
            connection.enter(WORK, time.monotonic())

        peer = request.remote or ""

        def take() -> "FeedResult":
            message = body.decompress(data, encoding, limit)
            if len(message) > (length or 0) and not self._source.has_room(len(message)):
                raise no_room
            result = work(message)
            if (sources := self._source.sources) is not None:
                sources.charge(peer, result["received"])
            return result

        if inline and len(data) <= (INLINE_BYTES if encoding == "identity" else INLINE_COMPRESSED_BYTES):
            return take()
        return await asyncio.get_running_loop().run_in_executor(self._executor, take)

    async def _write(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        wanted = lines.PARAMETERS[shape](request.query)
        config = self._config
        tags = self._tags(request.query)

        def work(text: bytes) -> "FeedResult":
            return self._source.read(
                text,
                precision=wanted.precision,
                line_bytes_max=config.max_line,
                errors_max=lines.ERRORS_MAX,
                whole=wanted.whole,
                tags=tags,
            )

        result = await self._take(request, body.ENCODINGS, work)
        if (refused := lines.refusal(shape, result, wanted)) is not None:
            raise refused
        return web.Response(status=204, headers=_HEADERS)

    async def _remote_write(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        samples.check_remote_write(request.headers.get("Content-Type", ""))

        def work(message: bytes) -> "FeedResult":
            return self._source.read(message, format="protobuf")

        result = await self._take(request, ("snappy",), work, full=503)
        if (refused := samples.refusal(result)) is not None:
            raise refused
        return web.Response(status=204, headers=_HEADERS)

    async def _otlp(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        json = shape is Shape.OTLP_JSON

        def work(message: bytes) -> "FeedResult":
            return self._source.read(samples.from_json(message) if json else message, format="otlp")

        # JSON is taken apart by Python, which takes long.
        result = await self._take(request, body.ENCODINGS, work, full=503, inline=not json)
        if (refused := samples.refusal(result)) is not None:
            raise refused
        kind = samples.JSON if json else samples.PROTOBUF
        content = samples.otlp_success(result, json)
        return web.Response(body=content, headers={**_HEADERS, "Content-Type": kind})

    async def _collectd(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        def work(text: bytes) -> "FeedResult":
            return self._source.write(collectd.points(text), as_written=True, nbytes=len(text))

        result = await self._take(request, body.ENCODINGS, work, full=503, inline=False)
        if (refused := samples.refusal(result)) is not None:
            raise refused
        return web.Response(status=204, headers=_HEADERS)

    def _tags(self, query: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
        """Tags that the request's own parameters become, where the config asks for that."""
        found = []
        for tag, name in ((self._config.database_tag, "db"), (self._config.bucket_tag, "bucket")):
            if tag and (value := query.get(name)):
                if _NO_TAG_VALUE.search(value) or len(value) > 1024:
                    raise Refused(400, f"{value[:100]!r} cannot be the value of a tag")
                found.append((tag.encode(), value.encode()))
        return tuple(found)

    # ---- what clients ask besides ----

    async def _ping(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        if request.query.get("verbose", "") in ("true", "1"):
            return _json({"version": INFLUX_VERSION})
        return web.Response(status=204, headers=_HEADERS)

    async def _health(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        message = "stopping" if self.stopping else "ready for queries and writes"
        shown: dict[str, object] = {
            "name": "influxdb",
            "message": message,
            "status": "fail" if self.stopping else "pass",
            "checks": [],
            "version": INFLUX_VERSION,
            "commit": __version__,
        }
        return _json(shown, 503 if self.stopping else 200)

    async def _query(self, request: web.BaseRequest, shape: Shape) -> web.Response:
        text = request.query.get("q", "")
        if not text and request.method == "POST":
            form = await body.receive(request, 1 << 16, self._budget)
            text = body.form_value(form, "q")
        if not text:
            raise Refused(400, 'missing required parameter "q"')
        return _json(query.answer(text))


def _json(shown: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(shown), headers={**_HEADERS, "Content-Type": "application/json"}
    )
