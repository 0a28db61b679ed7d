"""One connection to NATS JetStream: a durable pull consumer that several relays share.

Messages are asked for, some MiB at a time, as far as ``max_in_flight`` has room; the server sends those that
nobody else has. Each is acknowledged by itself when it is decided. While it is not, the server is told every
few seconds that work on it goes on; of a relay that died it hears nothing, and gives its messages to others
after ``ack_wait``. An acknowledgement may go by another connection than its message came by.

Protocol: https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

from agent.config import Listen
from agent.config_values import parse_listen_address
from agent.inputs.base import Source
from agent.inputs.broker import BrokerError, BrokerInput
from agent.relay.intake import Intake

CONNECT_S = 5.0
ANSWER_S = 5.0
CLOSE_S = 1.0

ACK_WAIT_S = 10.0
"""The server gives a message to another relay when it has heard nothing of it for so long."""

ASKS_BYTES = 8 << 20
"""So much is asked for at once,"""
ASKS_MESSAGES = 64
"""and so many messages, which others get none of,"""
ASKS_MAX = 2
"""and so often before the first is answered in full."""
ASK_AGAIN_S = 0.2
"""After a request that was ended for no fault of ours."""
EXPIRES_S = 30.0
"""The server forgets what it was asked after this."""
HEARTBEAT_S = 1.0
"""What it tells us so often while there is nothing to send."""

LOOK_S = 10.0
"""Whether messages have expired is looked at so often."""

READ_ON_S = 0.02

ACK, PROGRESS = b"+ACK", b"+WPI"
NAK = b'-NAK {"delay": 500000000}'
"""Half a second later, when the server knows that we ask for nothing more: nats-server 2.9 may use up the
delivery of one message on a request whose asker has gone, and bring it again after ``ack_wait`` only."""

_NS = 1_000_000_000


class Delivered:
    """A message as the server has handed it out."""

    __slots__ = ("reply", "subject")

    def __init__(self, reply: str, subject: str) -> None:
        self.reply = reply
        self.subject = subject

    @property
    def parts(self) -> list[str]:
        """Of ``$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.…``; servers put two more behind the second."""
        parts = self.reply.split(".")
        return parts if len(parts) == 9 else [*parts[:2], *parts[4:]]

    @property
    def redelivered(self) -> bool:
        return self.parts[4] != "1"

    def about(self) -> Mapping[str, Any]:
        return {"subject": self.subject, "stream": self.parts[2], "sequence": int(self.parts[5])}


class Asked:
    """One request for messages, and what is still to come of it."""

    __slots__ = ("bytes", "messages", "subject", "until")

    def __init__(self, subject: str, messages: int, size: int, until: float) -> None:
        self.subject = subject
        self.messages = messages
        self.bytes = size
        self.until = until


class Owner(BrokerInput):
    """Whose connection it is. What it says to the server outlives that."""

    def __init__(self, config: Listen, source: Source) -> None:
        super().__init__(config, source)
        self._woken = asyncio.Event()
        self._answers: list[tuple[str, bytes]] = []
        """To messages, and not sent yet."""

    def answer(self, place: Delivered, answer: bytes) -> None:
        """Tell the server what becomes of a message, as soon as it listens."""
        self._answers.append((place.reply, answer))
        self._woken.set()

    def take_answers(self) -> list[tuple[str, bytes]]:
        answers, self._answers = self._answers, []
        return answers

    def put_back(self, answers: list[tuple[str, bytes]]) -> None:
        self._answers[:0] = answers

    async def sleep(self, seconds: float) -> None:
        """Until something happens, *seconds* at most."""
        if not self._woken.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        self._woken.clear()

    def look(self) -> None:
        """Something has happened."""
        self._woken.set()


class Session:
    """One connection."""

    def __init__(self, owner: Owner, intake: Intake[Delivered]) -> None:
        self._owner = owner
        self._config = owner.config
        self._intake = intake
        self._nc: Any = None
        self._js: Any = None
        self._subscription: Any = None
        self._stream = ""
        self._inbox = ""
        self._asked: list[Asked] = []
        self._numbers = itertools.count()
        self._heard_at = 0.0
        self._ask_at = 0.0
        """Nothing is asked for before (monotonic)."""
        self._refusing = False
        self._broken = ""
        self._failed: Exception | None = None
        """A fault of ours, which ends the listener."""
        self._complaint = ""
        """What the server has complained of last."""
        self._read_up_to = 0
        """Sequence up to which messages were handed out, or are known to have expired."""

    # ---- life ----

    async def run(self) -> None:
        """Take messages until it is to end. Raises BrokerError."""
        try:
            await self._open()
            await self._work()
        except BrokerError:
            raise
        except Exception as error:
            if error is self._failed:
                raise
            from agent.relay.nats_client import explained

            raise BrokerError(explained(error, self._complaint, self._nc is not None)) from error

    async def close(self) -> None:
        """Let go of everything, and tell the server so if it listens still."""
        owner = self._owner
        alive = self._nc is not None and self._nc.is_connected
        if owner.ending:
            if alive:
                with suppress(Exception):
                    await self._finish()
                # What is let go would come to us again as long as we ask.
                await self._within(self._stop_asking())
            self._intake.let_go()
        if alive:
            await self._within(self._say_last())
        if self._nc is not None:
            await self._within(self._nc.close())

    async def _within(self, what: Awaitable[object]) -> None:
        """Do it, for a second at most, and whatever comes of it."""
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await what

    async def _finish(self) -> None:
        """Give what is under way its time."""
        self._refusing = True
        while self._intake.counters.in_flight and time.monotonic() < self._owner.stop_at:
            self._intake.read_on()
            await self._send_answers()
            await self._owner.sleep(READ_ON_S)

    async def _stop_asking(self) -> None:
        if self._subscription is not None:
            await self._subscription.drain()

    async def _say_last(self) -> None:
        await self._send_answers()
        await self._nc.flush(CLOSE_S)

    async def _open(self) -> None:
        config = self._config
        brokers = parse_listen_address(config.address).brokers
        servers = [f"nats://{f'[{host}]' if ':' in host else host}:{port}" for host, port in brokers]
        # Imported in the thread: nats-py takes its time.
        from agent.relay.nats_client import connect, tls_context

        tls = tls_context(config.ca, config.cert, config.key, not config.insecure_skip_verify)
        self._nc = await connect(
            servers,
            config.options,
            timeout=CONNECT_S,
            tls=tls,
            error=self._complained,
            closed=self._closed,
        )
        self._js = self._nc.jetstream(timeout=ANSWER_S)
        await self._find_consumer()
        self._inbox = self._nc.new_inbox()
        self._subscription = await self._nc.subscribe(
            f"{self._inbox}.*", cb=self._came, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._heard_at = time.monotonic()
        self._owner.connected()

    async def _find_consumer(self) -> None:
        """Find the consumer, or make it. Raises BrokerError."""
        from nats.js import api, errors

        config = self._config
        if not (stream := config.stream):
            try:
                stream = await self._js.find_stream_name_by_subject(config.subject)
            except errors.NotFoundError as error:
                raise BrokerError(
                    f"no stream takes the subject {config.subject}: make one, or correct subject"
                ) from error
        self._stream = stream
        try:
            info = await self._js.consumer_info(stream, config.durable)
        except errors.NotFoundError:
            wanted = api.ConsumerConfig(
                durable_name=config.durable,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_deliver=-1,
                max_ack_pending=-1,
                filter_subject=config.subject,
                deliver_policy=api.DeliverPolicy.ALL,
            )
            try:
                info = await self._js.add_consumer(stream, wanted)
            except errors.NotFoundError as error:
                raise BrokerError(f"there is no stream {stream}: make it, or correct stream") from error
        found = info.config
        wrong = ""
        if found.deliver_subject:
            wrong = "is a push consumer"
        elif found.ack_policy != api.AckPolicy.EXPLICIT:
            wrong = "does not wait for each message to be acknowledged"
        elif (found.filter_subject or config.subject) != config.subject:
            wrong = f"is for the subject {found.filter_subject}"
        if wrong:
            raise BrokerError(
                f"the consumer {config.durable} of the stream {stream} {wrong}: remove it, "
                "or name another one as durable"
            )
        self._ack_wait = found.ack_wait or ACK_WAIT_S
        await self._look_for_expired(info, first=True)

    # ---- while it lasts ----

    async def _work(self) -> None:
        owner, intake = self._owner, self._intake
        now = time.monotonic()
        progress_at, look_at = now, now + LOOK_S
        while not owner.ending:
            if self._failed is not None:
                raise self._failed
            if self._broken:
                raise BrokerError(self._broken)
            await self._ask()
            await self._send_answers()
            now = time.monotonic()
            if now >= progress_at:
                progress_at = now + self._ack_wait / 3
                for place in intake.places:
                    await self._nc.publish(place.reply, PROGRESS)
            if now >= look_at:
                look_at = now + LOOK_S
                await self._look_for_expired(await self._js.consumer_info(self._stream, self._config.durable))
            if intake.reads:
                intake.read_on()
            await owner.sleep(READ_ON_S if intake.reads else max(min(1.0, progress_at - now), 0.0))

    async def _ask(self) -> None:
        """Ask for as many messages as there is room for."""
        now = time.monotonic()
        if self._asked and now - self._heard_at > 4 * HEARTBEAT_S:
            # Whoever was asked has lost it: a stream has another leader, a consumer was removed.
            self._asked.clear()
            await self._js.consumer_info(self._stream, self._config.durable)
            self._heard_at = now
        self._asked = [one for one in self._asked if one.messages > 0 and now < one.until]
        # The server counts subjects, too.
        limit = max(self._nc.max_payload, 1024) + 1024
        if now < self._ask_at:
            return
        if len(self._asked) >= ASKS_MAX or (self._asked and self._asked[-1].messages > ASKS_MESSAGES // 2):
            return
        room = self._owner.room() - sum(one.bytes for one in self._asked)
        alone = not self._asked and not self._intake.counters.in_flight
        if room < limit and not alone:
            # The next message may be as large as any: it is asked for when there is room for that.
            self._owner.counters.paused = not self._asked
            return
        if not self._asked:
            self._heard_at = now
        asked = Asked(
            f"{self._inbox}.{next(self._numbers)}",
            ASKS_MESSAGES if room >= limit else 1,
            min(room, max(ASKS_BYTES, limit)) if room >= limit else limit,
            now + EXPIRES_S + HEARTBEAT_S,
        )
        self._asked.append(asked)
        request = {
            "batch": asked.messages,
            "max_bytes": asked.bytes,
            "expires": int(EXPIRES_S * _NS),
            "idle_heartbeat": int(HEARTBEAT_S * _NS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._config.durable}"
        await self._nc.publish(subject, json.dumps(request).encode(), reply=asked.subject)

    async def _came(self, message: Any) -> None:
        """A message, or what the server has to say of a request."""
        self._heard_at = time.monotonic()
        headers = message.headers or {}
        if not message.reply.startswith("$JS.ACK."):
            # What is of no stream, nobody waits for.
            if (status := headers.get("Status")) is not None:
                self._told(status, headers.get("Description", ""), message.subject)
            return
        place = Delivered(message.reply, message.subject)
        if self._refusing or self._owner.ending:
            self._owner.answer(place, NAK)
            return
        for asked in self._asked:
            if asked.messages > 0:
                asked.messages -= 1
                asked.bytes = max(asked.bytes - len(message.data), 0)
                if asked.messages == ASKS_MESSAGES // 2 or not asked.messages:
                    self._owner.look()
                break
        try:
            self._intake.take(headers, message.data, place, redelivered=place.redelivered)
        except Exception as error:
            # nats-py would swallow it.
            self._failed = error
            self._owner.look()

    def _told(self, status: str, text: str, subject: str) -> None:
        """The server has something to say of a request; 100 is that it is there."""
        if status == "100":
            return
        self._asked = [one for one in self._asked if one.subject != subject]
        if status == "503" or "deleted" in text.lower():
            self._broken = "the consumer is gone, or has no leader now"
        elif status == "409" and "maxbytes" not in text.lower():
            # It shuts down, or another one leads.
            self._ask_at = time.monotonic() + ASK_AGAIN_S
        self._owner.look()

    async def _send_answers(self) -> None:
        answers = self._owner.take_answers()
        try:
            while answers:
                await self._nc.publish(*answers[0])
                answers.pop(0)
        finally:
            self._owner.put_back(answers)

    async def _look_for_expired(self, consumer: Any, first: bool = False) -> None:
        """Count what the stream has dropped before it was handed out; at *first*, or was acknowledged."""
        stream = await self._js.stream_info(self._stream)
        floor = consumer.ack_floor if first else consumer.delivered
        self._read_up_to = max(self._read_up_to, floor.stream_seq if floor is not None else 0)
        gone = stream.state.first_seq - 1 - self._read_up_to
        if gone > 0:
            self._owner.expired(gone, stream=self._stream)
        self._read_up_to = max(self._read_up_to, stream.state.first_seq - 1)

    # ---- what goes wrong ----

    async def _complained(self, error: Exception) -> None:
        self._complaint = str(error)

    async def _closed(self) -> None:
        self._broken = self._broken or "the connection was lost"
        self._owner.look()
