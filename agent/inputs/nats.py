"""NATS JetStream as a listener: a thread with an event loop, and one connection after the other."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from agent.config import Listen
from agent.inputs.base import Source
from agent.inputs.broker import RETRY_MAX_S, RETRY_MIN_S, BrokerError
from agent.inputs.nats_session import ACK, NAK, READ_ON_S, Delivered, Owner, Session
from agent.relay.intake import Intake


class NatsInput(Owner):
    """One listener of scheme ``nats``."""

    scheme = "nats"

    def __init__(self, config: Listen, source: Source) -> None:
        super().__init__(config, source)
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    def wake(self) -> None:
        self._call(self.look)

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
                session = Session(self, intake)
                began = time.monotonic()
                try:
                    await session.run()
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
