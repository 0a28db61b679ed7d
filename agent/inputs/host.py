"""``[host]``: metrics of this machine and of the agent, gathered by one thread and put into the feed.

Each collector is due at the multiples of its interval since 1970 by the realtime clock, and its points carry
that time. One that fails is counted and told of, and costs its own points only.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from agent.config import Host
from agent.inputs.base import Source
from agent.inputs.host_collectors import COLLECTORS, Collector, Fields, Measured
from agent.inputs.host_disk import Disk, Hanging
from agent.ledger import Ledger
from agent.objectives import Fares

logger = logging.getLogger(__name__)

_WAIT_S = 1.0
"""The thread looks at the clock so often at least: it may have been set, and its beats are looked at."""


class Own(Collector):
    """``penstock``: the agent itself, from its ledger."""

    name = "penstock"

    def __init__(
        self, read: Callable[[], Ledger], fares: Callable[[], Fares], errors: Mapping[str, int]
    ) -> None:
        self._read, self._fares, self._errors = read, fares, errors
        self._start = time.monotonic()

    def collect(self, config: Host) -> list[Measured]:
        ledger = self._read()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * _PAGE_BYTES
        spent = time.process_time()
        agent: Fields = {
            "uptime": int(time.monotonic() - self._start),
            "cpu_seconds": spent,
            "memory_rss": resident,
            "threads": threading.active_count(),
            "received": sum(one.received for one in ledger.listeners),
            "accepted": sum(one.accepted for one in ledger.listeners),
            "dropped": sum(sum(one.dropped.values()) for one in ledger.listeners),
            "kernel_drops": sum(one.kernel_drops for one in ledger.listeners),
            "delivered": sum(one.delivered for one in ledger.outputs),
            "host_errors": sum(self._errors.values()),
        }
        points: list[Measured] = [("penstock", {}, agent)]
        for listener in ledger.listeners:
            counts: Fields = {
                "datagrams": listener.datagrams,
                "bytes": listener.bytes,
                "received": listener.received,
                "accepted": listener.accepted,
                "rewritten": listener.rewritten,
                "clamped": listener.clamped,
                "dropped": sum(listener.dropped.values()),
                "kernel_drops": listener.kernel_drops,
                "queue_bytes": listener.queue_bytes,
            }
            tags = {"listener": listener.name, "address": listener.address}
            points.append(("penstock_listener", tags, counts))
        fares = self._fares()
        for output in ledger.outputs:
            counts = {
                "restored": output.restored,
                "carried": output.carried,
                "written": output.written,
                "missed": output.missed,
                "delivered": output.delivered,
                "rejected": output.rejected,
                "dropped": sum(output.dropped.values()),
                "spooled": output.spooled,
                "waiting": output.waiting,
                "waiting_bytes": output.waiting_bytes,
                "attempts": output.attempts,
                "retries": output.retries,
                "bytes_raw": output.bytes_raw,
                "bytes_sent": output.bytes_sent,
            }
            if (delay := fares.delays.get(output.name)) is not None:
                counts |= {"delay_p50": delay.p50, "delay_p99": delay.p99}
            points.append(("penstock_output", {"output": output.name, "type": output.type}, counts))
        for slo in fares.objectives:
            fields: Fields = {
                "due": slo.due,
                "late": slo.late,
                "budget_left": slo.budget_left,
                "state": slo.state,
            }
            points.append(("penstock_slo", {"output": slo.output}, fields))
        return points


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class HostInput:
    """The collectors as they run. The methods are for one thread at a time."""

    failure: str = ""
    """Why it has ended though it should run; empty if all is well."""

    def __init__(
        self,
        config: Host,
        agent_tags: Mapping[str, str],
        source: Source,
        read: Callable[[], Ledger],
        fares: Callable[[], Fares] = Fares,
    ) -> None:
        self._source = source
        self._read = read
        self._fares = fares
        self._config = config
        self._tags = _tags(config, agent_tags)
        self._wake = threading.Condition()
        self._stopping = False
        self._beat = 0
        self._collectors: dict[str, Collector] = {}
        self._due: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._thread = threading.Thread(target=self._guard, name="host", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reconfigure(self, config: Host, agent_tags: Mapping[str, str]) -> None:
        """Go by *config* from now on. A collector that stays keeps its last reading."""
        with self._wake:
            self._config = config
            self._tags = _tags(config, agent_tags)
            self._due = {}
            self._wake.notify()

    def stop(self, drain: float) -> None:
        """End after what is being collected, which is written; *drain* seconds are waited at most."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(drain)
        for collector in self._collectors.values():
            if isinstance(collector, Disk):
                collector.close()

    def beats(self) -> Mapping[str, int]:
        return {"host": self._beat}

    @property
    def errors(self) -> Mapping[str, int]:
        """How often each collector has failed."""
        return dict(self._errors)

    def _guard(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.failure = f"the thread host ended: {error}"
            logger.exception("the thread of the host's metrics ended")

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._stopping:
                    return
                config = self._config
                self._plan(config, time.time_ns())
                wait = min((due - time.time_ns() for due in self._due.values()), default=10**9) / 1e9
                if wait > 0:
                    self._wake.wait(min(wait, _WAIT_S))
            self._beat += 1
            self._collect(config, time.time_ns())

    def _plan(self, config: Host, now: int) -> None:
        """Make the collectors that are wanted; see when each is due, also after the clock was set back."""
        for name in config.collectors:
            interval = int(config.interval_of(name) * 1e9)
            if name not in self._collectors:
                self._collectors[name] = self._make(name)
                if name == "cpu":
                    self._ask(name, config)  # the reading that the first one is compared with
            due = self._due.get(name)
            if due is None or due - now > interval:
                self._due[name] = now - now % interval + interval
        for name in self._due.keys() - set(config.collectors):
            del self._due[name]

    def _make(self, name: str) -> Collector:
        if name == "disk":
            return Disk()
        if name == "penstock":
            return Own(self._read, self._fares, self._errors)
        return COLLECTORS[name]()

    def _collect(self, config: Host, now: int) -> None:
        """Ask those that are due, and write what they say. After a pause one reading stands for all."""
        points: list[tuple[str, dict[str, str], Fields, int]] = []
        for name in [name for name, due in self._due.items() if due <= now]:
            interval = int(config.interval_of(name) * 1e9)
            at = now - now % interval
            self._due[name] = at + interval
            found = self._ask(name, config)
            points += [(measured, {**self._tags, **tags}, fields, at) for measured, tags, fields in found]
        if points:
            self._source.write(points, datagrams=1)

    def _ask(self, name: str, config: Host) -> list[Measured]:
        try:
            return self._collectors[name].collect(config)
        except Hanging as hanging:
            self._fail(name, hanging)
            return hanging.points
        except Exception as error:
            self._fail(name, error)
            return []

    def _fail(self, name: str, error: Exception) -> None:
        self._errors[name] = self._errors.get(name, 0) + 1
        logger.warning(
            "a collector failed",
            extra={
                "collector": name,
                "error": f"{type(error).__name__}: {error}",
                "count": self._errors[name],
            },
        )


def _tags(config: Host, agent_tags: Mapping[str, str]) -> dict[str, str]:
    """Telegraf's tag ``host``, unless the agent adds one of its own to every metric."""
    return {} if "host" in agent_tags else {"host": config.hostname or os.uname().nodename}
