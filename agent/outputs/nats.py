"""A stream of NATS JetStream: each batch is one message, and delivered when the stream has confirmed it.

nats-py runs in an event loop of its own thread (:mod:`agent.outputs.nats_connection`). Its reconnecting is
turned off, since what was published meanwhile would wait in its buffers without an end that anybody knows: a
connection that is lost fails what is under way on it, and the next attempt makes a new one.

================================================= ========= ==============================================
what happened                                     verdict   because
================================================= ========= ==============================================
the stream confirms, a duplicate too              DELIVERED
larger than the server or the stream takes        SPLIT     a smaller message may pass
nobody takes the subject, for 15 s                HOLD      there is no such stream, or no JetStream
the same, for less                                RETRY     a stream that elects its leader is silent, too
another stream takes it; no permission;           HOLD      a person can mend it
credentials that are refused or cannot be read
anything else that is refused                     RETRY     no leader, no quorum, a stream that is full
no connection, no confirmation in time            RETRY
================================================= ========= ==============================================
"""

import asyncio
import re
import threading
from typing import TYPE_CHECKING

from agent.config import NatsOutput
from agent.config_broker_kinds import AGENT
from agent.outputs.broker import BrokerSink, Publication
from agent.outputs.server import tls_context

if TYPE_CHECKING:
    from agent.outputs.nats_connection import Client

END_S = 2.0
"""So long closing the connection may take."""


class NatsSink(BrokerSink):
    """Publishes to a stream. Raises OutputError if a certificate cannot be used."""

    def __init__(self, config: NatsOutput, agent: str) -> None:
        super().__init__(config, agent)
        self._config = config
        self._subject = config.subject.replace(AGENT, re.sub("[^A-Za-z0-9_-]", "_", agent))
        wanted = config.ca or config.cert or config.insecure_skip_verify
        self._tls = tls_context(config) if wanted or _any_tls(config.servers) else None
        # Guards the next three.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._thread: threading.Thread | None = None

    def warm_up(self) -> None:
        with self._lock:
            if self._loop is not None:
                return
            from agent.outputs.nats_connection import Client

            self._client = Client(self._config, self._subject, self.agent, self._tls)
            self._warm_up_at = None
            loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=loop.run_forever, name=f"nats-{self._config.name}", daemon=True
            )
            self._thread.start()
            self._loop = loop

    def publish(self, publication: Publication) -> None:
        assert self._client is not None and self._loop is not None
        self._loop.call_soon_threadsafe(self._client.begin, publication)

    def give_up(self, publication: Publication) -> None:
        assert self._client is not None
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._client.give_up, publication)

    def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            assert self._client is not None and self._thread is not None
            future = asyncio.run_coroutine_threadsafe(self._client.close(), loop)
            try:
                future.result(END_S)
            except TimeoutError:
                pass
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(END_S)
            if not self._thread.is_alive():
                loop.close()


def _any_tls(servers: tuple[str, ...]) -> bool:
    return any(server.startswith("tls://") for server in servers)
