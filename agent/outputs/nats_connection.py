"""The way to a stream of NATS: nats-py, one connection at a time. Imports it, which takes 100 ms.

Everything here runs in one event loop, but for making a :class:`Client`.

A message is published with an inbox of ours for the stream's confirmation, as nats-py's own client of
JetStream does, but the confirmation decides it where it comes in: futures, timeouts and tasks for each
message made it cost half as much again.

nats-py takes TLS where the server asks for it, and goes on in plain text where it does not, password and all.
Where TLS is configured, a server that does not ask for it is refused before anything is sent to it.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import math
import os
import re
import ssl
import time
from collections.abc import Callable
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client as Plain
from nats.aio.msg import Msg

from agent import __version__
from agent.config import NatsOutput
from agent.outputs.base import Kind, Verdict
from agent.outputs.broker import Publication, hold, retry, split

SILENCE_S = 15.0
"""Where nobody takes the subject for so long there is no stream: electing a leader took 7 s at most."""

CLOSE_S = 1.0

DOUBT_S = 1.0
"""A connection that was silent for so long when an attempt ran out of time is not trusted any more."""

# Codes of JetStream: server/errors.json of nats-server.
_TOO_LARGE = 10054
_NOT_THE_STREAM = 10060
_NO_JETSTREAM = (10039, 10076)

_REFUSED = re.compile("authoriz|authenti|permission", re.IGNORECASE)


# nats-py makes TLS of a stream in a way that asyncio warns of at each end of a connection, to no effect.
logging.getLogger("asyncio").addFilter(
    lambda record: not str(record.msg).startswith("returning true from eof_received()")
)


class Refused(Exception):
    """A connection that cannot be made, with what that means for the batch."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


class Client:
    """Publishes to *subject*, by one connection, which is made anew when it is lost."""

    def __init__(self, config: NatsOutput, subject: str, agent: str, tls: ssl.SSLContext | None) -> None:
        self._config = config
        self._subject = subject
        self._agent = agent
        self._tls = tls
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._beginning: dict[Publication, asyncio.Task[None]] = {}
        self._silent_since: float | None = None
        """Since when nobody takes the subject (monotonic)."""

    def begin(self, publication: Publication) -> None:
        """Publish it; it is decided when the stream confirms it, or something goes wrong."""
        task = asyncio.get_running_loop().create_task(self.publish(publication))
        self._beginning[publication] = task
        task.add_done_callback(lambda task: self._beginning.pop(publication, None))

    def give_up(self, publication: Publication) -> None:
        """It was decided without us. The connection may be dead."""
        if (task := self._beginning.get(publication)) is not None:
            task.cancel()
        if self._connection is not None:
            self._connection.forget(publication)
        self.doubt()

    async def publish(self, publication: Publication) -> None:
        """Send it, or decide that it cannot be sent. Raises nothing."""
        try:
            connection = self._connection
            if connection is None or connection.lost:
                connection = await self._connected()
            publication.phase = "waiting for the confirmation"
            left = min(publication.deadline - time.monotonic(), self._config.response_timeout)
            await connection.publish(publication, self._config.stream, left)
        except Refused as error:
            publication.decide(error.verdict)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            publication.decide(retry(f"{type(error).__name__}: {error}"))

    def doubt(self) -> None:
        """Give the connection up if it seems to be dead."""
        if self._connection is not None:
            self._connection.doubt()

    async def close(self) -> None:
        """End the connection and whatever else runs in this loop."""
        if self._connection is not None:
            await self._connection.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self) -> "Connection":
        """The connection, or a new one; all who want one at a time wait for the same. Raises Refused."""
        if self._connection is not None and not self._connection.lost:
            return self._connection
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            # Whoever waited for it may have gone when it fails.
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Whoever is cancelled must not end the connecting of others.
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> "Connection":
        connection = Connection(self._subject, self._tls is not None, self._answered)
        await connection.open(self._config, self._agent, self._tls)
        self._connection = connection
        # Brokers that were away elect their leaders anew.
        self._silent_since = None
        return connection

    def _answered(self, status: str, data: bytes) -> Verdict:
        """What it means that a server with *status*, or a stream with *data*, has answered."""
        if status == "503":
            return self._silence()
        self._silent_since = None
        try:
            answer = json.loads(data)
            if "error" in answer:
                # It raises most of them by itself.
                raise nats.js.errors.APIError.from_error(answer["error"])
            if "stream" in answer and "seq" in answer:
                return Verdict(Kind.DELIVERED)
        except nats.js.errors.APIError as error:
            return self._judge(error)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return hold(f'something that is no stream answers on "{self._subject}"')

    def _silence(self) -> Verdict:
        """Nobody takes the subject."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        text = (
            f'no stream takes the subject "{self._subject}": make one that does, '
            "and see that JetStream is on for this user"
        )
        return hold(text, 503) if now - self._silent_since >= SILENCE_S else retry(text, 503)

    def _judge(self, error: nats.js.errors.APIError) -> Verdict:
        """What a refusal of JetStream means."""
        code, text = error.code or 0, error.description or "no reason"
        if error.err_code == _TOO_LARGE:
            return split(f"the stream takes no message of this size: {text}", code)
        if error.err_code == _NOT_THE_STREAM:
            stream = self._config.stream
            return hold(f'another stream than "{stream}" takes the subject "{self._subject}": {text}', code)
        if error.err_code in _NO_JETSTREAM:
            return hold(f"JetStream is not on for this user: {text}", code)
        return retry(text, code)


class Careful(Plain):
    """nats-py's client, which wants TLS where it is *tls_wanted*."""

    tls_wanted = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.tls_wanted and not info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        await super()._process_info(info, initial_connection)


class Connection:
    """One connection, from its making to its loss."""

    def __init__(self, subject: str, tls_wanted: bool, judge: Callable[[str, bytes], Verdict]) -> None:
        self._subject = subject
        self._judge = judge
        self._client = Careful()
        self._client.tls_wanted = tls_wanted
        self._inbox = ""
        self._numbers = itertools.count()
        self._under_way: dict[str, tuple[Publication, asyncio.TimerHandle]] = {}
        """By the number that the inbox has for the confirmation."""
        self._error: Exception | None = None
        self._closing: asyncio.Task[None] | None = None
        self._end_verdict: Verdict | None = None
        """Of what is under way when it is lost, and after that."""
        self._heard_at = -math.inf  # monotonic; when the last message was confirmed
        self._asked_at = -math.inf  # of the first one since then

    @property
    def lost(self) -> bool:
        return self._end_verdict is not None

    async def open(self, config: NatsOutput, agent: str, tls: ssl.SSLContext | None) -> None:
        """Raises Refused, within the time that there is for it."""
        options: dict[str, Any] = dict(config.options)
        if "tls_handshake_first" in options:
            options["tls_handshake_first"] = options["tls_handshake_first"] == "true"
        servers = list(config.servers)
        try:
            async with asyncio.timeout(config.connect_timeout):
                await self._client.connect(
                    servers,
                    name=f"penstock/{__version__} {agent}",
                    error_cb=self._fails,
                    closed_cb=self._closed,
                    allow_reconnect=False,
                    # One in a black hole does not cost the others their time.
                    connect_timeout=config.connect_timeout / len(servers),  # type: ignore[arg-type]
                    # Each is tried twice, without a pause.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    tls=tls,
                    **options,
                )
                self._inbox = self._client.new_inbox()
                await self._client.subscribe(
                    f"{self._inbox}.*", cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0
                )
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception as error:
            refusal = _refusal(self._error or error, config)
            self._lose(refusal)
            self._abort()
            raise Refused(refusal) from error

    async def publish(self, publication: Publication, stream: str, left: float) -> None:
        """Send it; it is decided by the answer, or after *left* seconds."""
        if self._end_verdict is not None:
            publication.decide(self._end_verdict)
            return
        headers = {"Nats-Msg-Id": publication.identity, **publication.headers}
        if stream:
            headers["Nats-Expected-Stream"] = stream
        # The server counts them, too; nats-py does not.
        size = len(publication.body) + 12 + sum(len(name) + len(text) + 4 for name, text in headers.items())
        if size > self._client.max_payload:
            text = f"the message has {size} bytes, and the server takes {self._client.max_payload}"
            publication.decide(split(text))
            return
        number = str(next(self._numbers))
        timer = asyncio.get_running_loop().call_later(left, self._times_out, number)
        self._under_way[number] = publication, timer
        if self._asked_at <= self._heard_at:
            self._asked_at = time.monotonic()
        try:
            await self._client.publish(
                self._subject, publication.body, reply=f"{self._inbox}.{number}", headers=headers
            )
        except (nats.errors.Error, OSError) as error:
            self._decide(number, retry(_told(error)))

    def forget(self, publication: Publication) -> None:
        """Nobody waits for it any more."""
        for number, (one, _) in tuple(self._under_way.items()):
            if one is publication:
                self._decide(number, retry("given up"))

    def _decide(self, number: str, verdict: Verdict) -> None:
        if (found := self._under_way.pop(number, None)) is not None:
            publication, timer = found
            timer.cancel()
            publication.decide(verdict)

    def _times_out(self, number: str) -> None:
        publication, _ = self._under_way[number]
        self._decide(number, retry(f"timed out while {publication.phase}"))
        self.doubt()

    def doubt(self) -> None:
        """End it if it was asked something a while ago, and has been silent since: it may be dead."""
        if self._asked_at > self._heard_at and time.monotonic() > self._asked_at + DOUBT_S:
            self.drop("the connection was silent")

    def drop(self, why: str) -> None:
        """End it at once: what is under way fails."""
        if not self.lost:
            self._lose(retry(why))
            self._abort()

    async def close(self) -> None:
        """End it, and wait for that."""
        self.drop("the output was closed")
        if self._closing is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self._closing), CLOSE_S)

    def _lose(self, verdict: Verdict) -> None:
        self._end_verdict = verdict
        for number in tuple(self._under_way):
            self._decide(number, verdict)

    def _abort(self) -> None:
        """Close the socket without sending what is in buffers, which a dead server would not take."""
        transport = getattr(self._client, "_transport", None)
        writer = getattr(transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await self._client.close()

    # ---- called by nats-py ----

    async def _answered(self, message: Msg) -> None:
        number = message.subject.rpartition(".")[2]
        if number in self._under_way:
            self._heard_at = time.monotonic()
            status = (message.headers or {}).get("Status", "")
            self._decide(number, self._judge(status, message.data))

    async def _fails(self, error: Exception) -> None:
        self._error = error
        text = _told(error)
        if "permissions violation" in text.lower() and not self.lost:
            # Whether it was the message or where its confirmation would have gone to: neither will come.
            self._lose(
                hold(f'this user may not publish to "{self._subject}", or not subscribe to its inbox: {text}')
            )
            self._abort()

    async def _closed(self) -> None:
        if not self.lost:
            error = self._client.last_error or self._error
            self._lose(
                retry(f"the connection was lost: {_told(error)}" if error else "the connection was lost")
            )


def _refusal(error: Exception, config: NatsOutput) -> Verdict:
    """What it means that no connection was made."""
    if isinstance(error, nats.errors.SecureConnWantedError):
        return hold("the server does not ask for TLS, which is wanted; nothing was sent to it")
    if isinstance(error, FileNotFoundError | PermissionError) and error.filename:
        return hold(f"the credentials cannot be read: {error.strerror}: {error.filename}")
    if isinstance(error, nats.errors.AuthorizationError) or (
        isinstance(error, nats.errors.Error) and _REFUSED.search(str(error))
    ):
        return hold(f"the server refuses us: {_told(error)}; see user, password and the like in options")
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return retry("timed out while connecting")
    if isinstance(error, ssl.SSLError):
        return retry(f"TLS: {error.reason or error}")
    if isinstance(error, OSError | nats.errors.Error | EOFError):
        return retry(f"cannot connect: {_told(error)}")
    # Of nkeys: it is no seed, and such.
    return hold(f"the credentials cannot be used: {type(error).__name__}: {error}")


def _told(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
