"""The life of an agent: start, reload, drain, stop, and the signals and messages that go with them.

    starting ─▶ running ◀─▶ reloading
                   └──────▶ draining ─▶ stopped

The main thread runs an asyncio loop that only decides and answers. Whatever may block (reading a config,
opening sockets, delivering what is left) runs in a worker thread, so the admin HTTP stays alive and a second
signal is heard at any time. Lanes and flushers have threads of their own, see :mod:`agent.pipeline`.
"""

import asyncio
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from agent import __version__, log, systemd
from agent.admin import CONTROL_SOCKET
from agent.admin.access import Access, access_for
from agent.admin.bind import Bound, bind
from agent.admin.status import OutputState, ReloadOutcome, ReloadStatus, ServiceStatus, Watched
from agent.config import DEFAULT_PATH, Config, ServerOutput, Slo, diff, load
from agent.errors import EXIT_FAILURE, EXIT_OK, ConfigError, ControlError, PenstockError
from agent.keeping import Keeper
from agent.ledger import Ledger, settle
from agent.lock import FolderLock
from agent.objectives import Promised
from agent.pipeline import Pipeline
from agent.relay.sources import Sources
from agent.route import Route
from agent.sampler import Sampler
from agent.sessions import Sessions
from agent.vitals import Beats, StatusLine, ThreadNames

if TYPE_CHECKING:
    from agent.admin.server import Admin

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_STATUS_S = 5.0
"""How often the line of ``systemctl status`` is written anew; systemd writes a file each time it changes."""


def run(path: Path | None = None) -> int:
    """Run an agent with the configuration at *path* until it is told to stop; returns the exit code.

    For the main thread. Raises ConfigError if the configuration cannot be used; nothing has been opened then.
    """
    config = load(path)
    log.setup(config.log.level, config.log.format)
    # Each connection takes a descriptor; what most shells allow is for programs that use select(2).
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return asyncio.run(Service((path or DEFAULT_PATH).absolute(), config).run())


class Service:
    """One agent. Its public methods are what :class:`agent.admin.status.Provider` wants."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = config
        self._pipeline = Pipeline(systemd.passed_sockets())
        self._state = "starting"
        self._started = time.time()
        self._exit_code = EXIT_OK
        self._stop = asyncio.Event()
        self._bound: list[Bound] = []  # until it is served
        self._control: Admin | None = None
        self._admin: Admin | None = None
        self._access: Access | None = None  # what its admin asks of clients
        # Held by whatever changes what runs: start, reload, stop.
        self._changing = asyncio.Lock()
        self._reload_queued: asyncio.Task[ReloadOutcome] | None = None
        self._reloads = ReloadStatus()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state_lock = FolderLock(Path(config.agent.state_dir), "agent.state_dir", str(path))
        self._beats = Beats(systemd.watchdog_interval())
        self._hanging: set[str] = set()
        self._line = StatusLine()
        self._thread_names = ThreadNames()
        self._sampler = Sampler(self)
        self._pipeline.fares = self._sampler.fares

    # ---- what the admin interface asks ----

    def status(self) -> ServiceStatus:
        return ServiceStatus(
            state=self._state,
            started=self._started,
            config=str(self._path),
            reload=self._reloads,
            outputs=tuple(_output_state(route) for route in self._pipeline.routes()),
        )

    def ledger(self) -> Ledger:
        return self._pipeline.ledger()

    def ready(self) -> list[str]:
        if self._state not in ("running", "reloading"):
            return [f"the agent is {self._state}"]
        return self._pipeline.failures()

    def sessions(self) -> Sessions:
        return self._pipeline.sessions

    def keepers(self) -> dict[str, Keeper]:
        return self._pipeline.keepers()

    def slo(self) -> Slo:
        return self._config.slo

    def promised(self) -> Mapping[str, Promised]:
        return self._pipeline.promised(self._config.slo.within)

    def sources(self) -> Sources | None:
        return self._pipeline.sources if self._pipeline.relays else None

    def watched(self) -> Watched:
        return self._sampler.watched()

    def pulse(self) -> Sampler:
        return self._sampler

    async def reload(self) -> ReloadOutcome:
        """Read the configuration again and put it to work, or say why not.

        Reloads run one after the other. All who ask while one is running share the next one, since the
        running one may have read the file before it was changed. An agent that stops refuses at once:
        draining may take long, and nothing is left to be changed behind it.
        """
        if self._stop.is_set():
            logger.warning("asked to reload while stopping: nothing is changed")
            return ReloadOutcome(time=time.time(), problems=("the agent is stopping",))
        if self._reload_queued is None:
            self._reload_queued = asyncio.create_task(self._reload_in_turn())
        return await asyncio.shield(self._reload_queued)

    # ---- life ----

    async def run(self) -> int:
        """Start, serve until told to stop, stop. Returns the exit code."""
        self._listen_to_signals()
        with ExitStack() as locks:
            try:
                async with self._changing:
                    await self._start(locks)
            except PenstockError as error:
                problems = error.problems if isinstance(error, ConfigError) else [error]
                for problem in problems:
                    logger.error("cannot start", extra={"problem": str(problem)})
                systemd.stopping(f"cannot start: {problems[0]}")
                await self._close_admin()
                return EXIT_FAILURE
            tick = asyncio.create_task(self._tick())
            await self._stop.wait()
            async with self._changing:
                await self._drain()
            tick.cancel()
            await self._close_admin()
        return self._exit_code

    async def _start(self, locks: ExitStack) -> None:
        agent = self._config.agent
        # The sockets of listeners may lie in it, so others may look into it.
        runtime = FolderLock(Path(agent.runtime_dir), "agent.runtime_dir", str(self._path), mode=0o755)
        locks.enter_context(runtime)
        # Entered now, so that it is released last; taken when there is something to keep in the folder.
        locks.callback(self._state_lock.release)
        self._lock_state(self._config)
        self._bound.append(await bind(str(Path(agent.runtime_dir) / CONTROL_SOCKET)))
        if agent.admin:
            self._access = await asyncio.to_thread(access_for, agent)
            self._bound.append(await bind(agent.admin))
        await asyncio.to_thread(self._pipeline.apply, self._config)
        # Not before the lanes receive, for it takes as long as the rest of the start.
        from agent.admin.server import serve

        self._control = await serve(self._bound.pop(0), self)
        if self._access is not None:
            self._admin = await serve(self._bound.pop(), self, self._access)
        self._state = "running"
        self._reloads = ReloadStatus(applied_time=time.time())
        logger.info(
            "ready",
            extra={
                "version": __version__,
                "config": str(self._path),
                "listeners": [one.address for one in self._config.listen],
                "outputs": [one.name for one in self._config.output],
                "admin": self._admin.address if self._admin else "",
            },
        )
        self._tell_open()
        systemd.ready(self._status_text())

    def _tell_open(self) -> None:
        """Say so if anybody on the network may look on."""
        if self._admin is not None and not self._admin.loopback and not self._config.agent.admin_token:
            logger.warning(
                "the admin address can be reached from other machines, and asks for no token",
                extra={"address": self._admin.address},
            )

    def _lock_state(self, config: Config) -> None:
        """Claim the state folder if *config* has something kept in it. Raises ControlError."""
        keeps = config.types is not None or any(isinstance(output, ServerOutput) for output in config.output)
        if keeps and not self._state_lock.held:
            self._state_lock.take()

    async def _drain(self) -> None:
        """Stop receiving, deliver what is left, and settle the account."""
        self._state = "draining"
        systemd.stopping("draining")
        timeout = self._config.agent.drain_timeout
        logger.info("draining", extra={"drain_timeout": timeout})
        await asyncio.to_thread(self._pipeline.stop, timeout)
        log.sweep(everything=True)
        logger.info("stopped", extra=await self._ledger_fields())
        self._state = "stopped"

    async def _close_admin(self) -> None:
        for admin in (self._admin, self._control):
            if admin is not None:
                await admin.aclose()
        for bound in self._bound:
            bound.close()

    def _status_text(self) -> str:
        """The line for ``systemctl status``."""
        ledger = self._sampler.ledger or self._pipeline.ledger()
        text = self._line.text(ledger, map(_output_state, self._pipeline.routes()))
        last = self._reloads.last
        return f"reload refused: {last.problems[0]}; {text}" if last and last.problems else text

    # ---- signals ----

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._spawn, self.reload)
        loop.add_signal_handler(signal.SIGUSR1, self._spawn, self._log_ledger)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_signal, number)
        # The command has kept them waiting until they can be handled.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))

    def _spawn(self, what: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = asyncio.ensure_future(what())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_signal(self, number: signal.Signals) -> None:
        if not self._stop.is_set():
            logger.info("asked to stop", extra={"signal": number.name})
            self._stop.set()
            return
        logger.warning("asked to stop again: ending at once", extra={"signal": number.name})
        self._pipeline.close_at_once()
        os._exit(EXIT_FAILURE)

    # ---- reload ----

    async def _reload_in_turn(self) -> ReloadOutcome:
        async with self._changing:
            # Whoever asks from now on wants the file as it is later than this reload reads it.
            self._reload_queued = None
            if self._state != "running":
                return ReloadOutcome(time=time.time(), problems=(f"the agent is {self._state}",))
            self._state = "reloading"
            systemd.reloading()
            outcome = await self._reload_now()
            self._state = "running"
            self._note(outcome)
            return outcome

    async def _reload_now(self) -> ReloadOutcome:
        try:
            changes = await self._switch()
        except ConfigError as error:
            return ReloadOutcome(time=time.time(), problems=tuple(map(str, error.problems)))
        except PenstockError as error:
            return ReloadOutcome(time=time.time(), problems=(str(error),))
        except Exception as error:
            logger.exception("a reload failed for a reason that was not foreseen")
            return ReloadOutcome(time=time.time(), problems=(f"unforeseen: {error!r}; see the log",))
        return ReloadOutcome(time=time.time(), changes=changes)

    async def _switch(self) -> tuple[str, ...]:
        """Go over to the configuration in the file, or raise and change nothing. Returns the changes."""
        old = self._config
        new = await self._load()
        changes = tuple(map(str, diff(old, new)))
        self._lock_state(new)
        admin, access = await self._switch_admin(old.agent.admin, new)
        try:
            await asyncio.to_thread(self._pipeline.apply, new)
        except BaseException:
            if admin is not None and admin is not self._admin:
                await admin.aclose()
            raise
        self._config = new
        log.setup(new.log.level, new.log.format)
        former, self._admin, self._access = self._admin, admin, access
        if former is not None and former is not admin:
            await former.aclose()
        self._tell_open()
        return changes

    async def _switch_admin(self, former: str, new: Config) -> "tuple[Admin | None, Access | None]":
        """The admin that *new* wants, beside the one that runs if it is another, and whom it answers."""
        address = new.agent.admin
        if not address:
            return None, None
        # Certificates are read anew each time, even where nothing else has changed.
        access = await asyncio.to_thread(access_for, new.agent)
        admin = self._admin
        if address == former and admin is not None:
            if access == self._access:
                return admin, access
            # Of port 0, the port that the kernel chose stays.
            address = admin.address
        from agent.admin.server import start

        return await start(address, self, admin, access), access

    async def _load(self) -> Config:
        """Read the configuration, or raise ControlError as soon as the agent is told to stop.

        A file may keep its reader waiting for ever (a dead file server, a pipe), and nothing that was
        received must be lost for that. So it is read by a thread that nobody waits for at the end.
        """
        loop = asyncio.get_running_loop()
        read: asyncio.Future[Config] = loop.create_future()

        def settle_read(config: Config | None, error: Exception | None) -> None:
            if not read.done():
                read.set_exception(error) if error is not None else read.set_result(cast(Config, config))

        def work() -> None:
            config, failure = None, None
            try:
                config = load(self._path)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody is there any more
                loop.call_soon_threadsafe(settle_read, config, failure)

        threading.Thread(target=work, name="load", daemon=True).start()
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((read, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not read.done():
            read.cancel()
            raise ControlError("the agent is stopping")
        return read.result()

    def _note(self, outcome: ReloadOutcome) -> None:
        """Tell the log, systemd and whoever asks later what came of a reload."""
        before = self._reloads
        if outcome.applied:
            self._reloads = ReloadStatus(
                applied=before.applied + 1,
                refused=before.refused,
                applied_time=outcome.time,
                last=outcome,
            )
            logger.info("reloaded", extra={"changes": outcome.changes})
            systemd.ready(self._status_text())
        else:
            self._reloads = ReloadStatus(
                applied=before.applied,
                refused=before.refused + 1,
                applied_time=before.applied_time,
                last=outcome,
            )
            for problem in outcome.problems:
                logger.error("reload refused, the old configuration runs on", extra={"problem": problem})
            systemd.ready(self._status_text())

    # ---- once a second ----

    async def _tick(self) -> None:
        """Look after the threads, and give signs of life to systemd."""
        watchdog = systemd.watchdog_interval()
        pause = min(_TICK_S, watchdog / 2) if watchdog else _TICK_S
        told, tell_at = "", time.monotonic() + _STATUS_S
        while True:
            try:
                well = self._look_after()
                self._sample()
                if time.monotonic() >= tell_at and self._state == "running":
                    tell_at = time.monotonic() + _STATUS_S
                    if (text := self._status_text()) != told and systemd.status(text):
                        told = text
            except Exception:
                logger.exception("looking after the threads failed")
                well = False
            if watchdog and well:
                systemd.watchdog()
            await asyncio.sleep(pause)

    def _look_after(self) -> bool:
        """Log malformed lines, and end the agent if a thread of it has ended. True if all is well."""
        self._pipeline.look_after()
        log.sweep()
        self._thread_names.tell()
        for listener, reason, line in self._pipeline.samples():
            logger.warning("malformed line", extra={"listener": listener, "reason": reason, "line": line})
            self._sampler.sample(listener, reason, line)
        failures = self._pipeline.failures()
        if failures and not self._stop.is_set():
            logger.critical("a part of the agent ended, so all of it ends", extra={"failures": failures})
            self._exit_code = EXIT_FAILURE
            self._stop.set()
        # While it drains, lanes stand still as they should.
        return self._stop.is_set() or self._alive()

    def _sample(self) -> None:
        """Look at the figures. What keeps nobody from looking must not keep the agent from running."""
        try:
            self._sampler.tick(time.monotonic())
        except Exception:
            logger.exception("the figures of a second could not be taken")

    def _alive(self) -> bool:
        """Whether every lane and every flusher came round lately; says once of one that hangs."""
        hanging = self._beats.hanging(self._pipeline.beats())
        for thread in sorted(set(hanging) - self._hanging):
            logger.error(
                "a thread hangs; systemd's watchdog, where there is one, restarts the agent",
                extra={"hangs": thread, "seconds": round(hanging[thread], 1)},
            )
        self._hanging = set(hanging)
        return not hanging

    async def _log_ledger(self) -> None:
        logger.info("ledger", extra=await self._ledger_fields())

    async def _ledger_fields(self) -> dict[str, object]:
        """The ledger, as far as it is for the log."""
        ledger, final = await settle(self._pipeline.ledger)
        return {
            "balanced": not ledger.problems if final else None,
            "problems": ledger.problems,
            "listeners": {
                one.name: {
                    "received": one.received,
                    "accepted": one.accepted,
                    "dropped": one.dropped,
                    "kernel_drops": one.kernel_drops,
                }
                | ({"aggregation": msgspec.to_builtins(one.aggregation)} if one.aggregation else {})
                for one in ledger.listeners
            },
            "outputs": {
                one.name: {
                    "restored": one.restored,
                    "carried": one.carried,
                    "written": one.written,
                    "missed": one.missed,
                    "delivered": one.delivered,
                    "rejected": one.rejected,
                    "spooled": one.spooled,
                    "waiting": one.waiting,
                    "dropped": one.dropped,
                }
                for one in ledger.outputs
            },
        }


def _output_state(route: Route) -> OutputState:
    health, attempts = route.flusher.health, route.flusher.delivery.attempts
    spool = route.config.spool if isinstance(route.config, ServerOutput) else None
    return OutputState(
        name=route.config.name,
        type=route.config.type,
        target=route.output.target,
        state=health.state,
        since=health.since,
        last_error=health.last_error,
        breaker=attempts.breaker.value,
        limit=attempts.limit,
        round_trip=attempts.round_trip,
        spool_max_bytes=spool.max_bytes if spool is not None else 0,
    )
