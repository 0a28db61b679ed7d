"""NATS JetStream as a listener: a thread with an event loop, and one connection after the other."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from agent.config import Listen
from agent.inputs.base import Source
from agent.inputs.broker import RETRY_MAX_S, RETRY_MIN_S, BrokerError
from agent.inputs.nats_session import ACK, NAK, READ_ON_S, Delivered, Owner, Session
from agent.relay.intake import Intake

END_S = 0.5
"""What waits for a server has so long when the connection is to end."""


class NatsInput(Owner):
    """One listener of scheme ``nats``."""

    scheme = "nats"

    def __init__(self, config: Listen, source: Source) -> None:
        super().__init__(config, source)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        """Set when the connection is to end."""

    def serve(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    def wake(self) -> None:
        self._call(self._look_around)

    def _look_around(self) -> None:
        self.look()
        if self.ending:
            self._end.set()

    def _call(self, what: Callable[[], None]) -> None:
        """Have the loop do *what*. Any thread; nothing happens once it is closed."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(what)

    # ---- in the loop ----

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        intake: Intake[Delivered] = Intake(
            self.config.name,
            self.relay,
            self.source,
            call=self._settle,
            forget=lambda place: self.answer(place, ACK),
            bring_again=lambda place: self.answer(place, NAK),
        )
        pause = RETRY_MIN_S
        beating = asyncio.create_task(self._beat())
        try:
            while not self.stopping:
                self.take_change()
                self._end.clear()
                session = Session(self, intake)
                began = time.monotonic()
                try:
                    await self._unless_it_ends(session.run())
                except BrokerError as error:
                    self.failed(str(error))
                finally:
                    await session.close()
                if self.changed:
                    continue
                pause = RETRY_MIN_S if time.monotonic() - began > RETRY_MAX_S else min(2 * pause, RETRY_MAX_S)
                await self._rest(pause, intake)
        finally:
            beating.cancel()
            intake.let_go()
            intake.close()

    async def _unless_it_ends(self, running: Coroutine[Any, Any, None]) -> None:
        """Wait for *running*, which waits for the server now and then: not for long once it is to end."""
        task = asyncio.create_task(running)
        ending = asyncio.create_task(self._end.wait())
        await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not task.done():
            await asyncio.wait({task}, timeout=END_S)
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _rest(self, seconds: float, intake: Intake[Delivered]) -> None:
        """Before the next connection; what outputs do meanwhile is noted."""
        until = time.monotonic() + seconds
        while not self.ending and (left := until - time.monotonic()) > 0:
            intake.read_on()
            await self.sleep(min(left, READ_ON_S) if intake.reads else left)

    async def _beat(self) -> None:
        """Come round each second, whatever is waited for."""
        while True:
            self.turns += 1
            await asyncio.sleep(1.0)

    def _settle(self, what: Callable[[], None]) -> None:
        def settle() -> None:
            what()
            self.look()

        self._call(settle)
