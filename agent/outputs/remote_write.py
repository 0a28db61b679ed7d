"""Prometheus remote write: Prometheus, Mimir, VictoriaMetrics, InfluxDB 1's ``/api/v1/prom/write``.

The rings hold the records of a WriteRequest as they are sent (version 1.0), so a batch only has to be
compressed, with snappy's block format. Version 2.0 has every text once; a batch is made into its Request for
each attempt, and what lies in the spool is 1.0 always.

Not every server that is asked in 2.0 says that it does not know it. One that has never told how many samples
it wrote, as 2.0 demands, is asked in 1.0 at once, and from then on if it takes that.

Specifications: https://prometheus.io/docs/specs/prw/remote_write_spec/ and ``…_spec_2_0/``.
"""

import base64
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent._core import request_of_samples
from agent.config import RemoteWriteOutput
from agent.outputs.base import Kind, Payload, Verdict, one_line, plain, snappy
from agent.outputs.bodies import SAMPLES, as_samples
from agent.outputs.server import USER_AGENT, ServerSink, check_token, traced
from agent.outputs.verdicts import REMOTE_WRITE, classify

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

    from agent.outputs.exchange import Answer

logger = logging.getLogger(__name__)

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"

_FORMS = {
    "1.0": ("application/x-protobuf", "0.1.0"),
    "2.0": ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
}
"""Content type and version of each protocol."""


class RemoteWriteSink(ServerSink):
    """Writes samples to a server. Raises OutputError if a certificate or the token cannot be used."""

    encoding = SAMPLES

    def __init__(self, config: RemoteWriteOutput) -> None:
        super().__init__(config)
        check_token(config.token)
        self._config = config
        self._headers = {protocol: _headers(config, *form) for protocol, form in _FORMS.items()}
        self._protocol = config.protocol
        self._proved = False
        """Whether the server has answered as one does that knows 2.0."""

    def encode(self, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        if encoding != SAMPLES:
            return Payload(body, metrics, len(body), encoding)
        return Payload(snappy(body), metrics, len(body), SAMPLES, "sz")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        try:
            if payload.encoding != SAMPLES:
                # What an output of lines left in the spool of this name.
                payload = as_samples(payload)
            if not payload.raw_bytes:
                # Nothing but strings.
                return Verdict(Kind.DELIVERED)
            if self._protocol == "2.0":
                verdict = self._post_2(payload, deadline)
                if verdict is not None:
                    return verdict
            data = payload.data if payload.compression == "sz" else snappy(plain(payload))
        except ValueError as error:
            return Verdict(Kind.REJECT, text=one_line(str(error)))
        return self._judge(self._ask("1.0", data, payload, deadline), payload)

    def _ask(
        self, protocol: str, data: bytes | memoryview, payload: Payload, deadline: float
    ) -> "Answer | Verdict":
        """Post *data*, which *payload* was made into."""
        return self.request(self.path, data, traced(self._headers[protocol], payload), deadline)

    def _post_2(self, payload: Payload, deadline: float) -> Verdict | None:
        """Attempt it in 2.0; None if 1.0 is to be tried instead. Raises ValueError if it is damaged."""
        data = snappy(request_of_samples(plain(payload)))
        answer = self._ask("2.0", data, payload, deadline)
        if isinstance(answer, Verdict):
            return answer
        written = answer.headers.get(WRITTEN)
        self._proved |= written is not None
        good = 200 <= answer.status < 300
        if answer.status == 415 or (good and not self._proved):
            self._fall_back(answer)
            return None
        if answer.status == 400 and not self._proved:
            # It may be the form that it does not understand, or what is in it: 1.0 tells.
            older = self._ask("1.0", snappy(plain(payload)), payload, deadline)
            if not isinstance(older, Verdict) and 200 <= older.status < 300:
                self._fall_back(answer)
            return self._judge(older, payload)
        if good and written is not None and written.isdecimal() and int(written) < payload.metrics:
            extra = {"output": self.name, "written": int(written), "metrics": payload.metrics}
            extra["batch"] = payload.batch
            logger.warning("the server says that it wrote fewer samples than it was sent", extra=extra)
        return self._judge(answer, payload)

    def _fall_back(self, answer: "Answer") -> None:
        self._protocol = "1.0"
        extra = {"output": self.name, "status": answer.status}
        logger.warning("the server does not know remote write 2.0; it gets 1.0 from now on", extra=extra)

    def _judge(self, answer: "Answer | Verdict", payload: Payload) -> Verdict:
        if isinstance(answer, Verdict):
            return answer
        return classify(REMOTE_WRITE, answer.status, answer.headers, answer.body, payload)

    def pool(self) -> "HTTPConnectionPool":
        from urllib3 import PoolManager

        manager = PoolManager(
            maxsize=self._config.max_concurrency,
            retries=False,
            ssl_context=self.tls,
            cert_reqs="CERT_NONE" if self._config.insecure_skip_verify else None,
        )
        return manager.connection_from_url(self.root)


def _headers(config: RemoteWriteOutput, content_type: str, version: str) -> Mapping[str, str]:
    headers = {
        "User-Agent": USER_AGENT,
        "Content-Type": content_type,
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": version,
    }
    if config.token:
        headers["Authorization"] = f"Bearer {config.token}"
    elif config.username:
        user = f"{config.username}:{config.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(user).decode()}"
    return headers | config.headers
