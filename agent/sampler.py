"""Looks at the agent once a second, for all who look on: one reading of the ledger, and what changed since.

From one reading to the next come rates, events, and a history for plots. The document of a second is made and
encoded when somebody wants it, and only once, however many do. In the event loop's thread only.
"""

import asyncio
import os
import platform
import re
import time
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from agent import __version__, _core
from agent.accounts import BOUNDS, ListenerAccount, OutputAccount
from agent.admin.status import Event, OutputState, Provider, ReloadOutcome, Sample, Watched, compose
from agent.history import History, Place, places
from agent.ledger import Ledger, counts
from agent.objectives import Fares, Objectives
from agent.quantiles import Summary, between, quantile, summary
from agent.vitals import ThreadTimes

EVENTS_MAX = 50
SAMPLES_MAX = 16
_SAMPLE_BYTES_MAX = 256

_DELAY_SECONDS = 60
_BOUNDS = BOUNDS["delay_seconds"]

_BROKEN_S = 5.0
"""The laws may not hold for a moment, even where all counters stand still; not for so long."""

_PERIOD_S = 0.9
"""A look that comes sooner after the last one is none: the loop's ticks may be closer."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Sampler:
    """What is seen of one agent; :class:`agent.admin.status.Pulse` for those who look on."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.number = 0
        self.changed = asyncio.Event()
        self.clients = 0
        self.ledger: Ledger | None = None
        """The last reading."""
        self._looked_at: float | None = None
        self._time = 0.0
        self._history = History()
        self._rates: dict[Place, float] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._new_events: list[Event] = []
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        self._states: dict[str, OutputState] = {}
        self._reload: ReloadOutcome | None = None
        self._objectives = Objectives()
        self._fares = Fares()
        self._delays: deque[dict[str, array[int]]] = deque(maxlen=_DELAY_SECONDS + 1)
        self._thread_times = ThreadTimes()
        self._threads: dict[str, int] = {}
        self._still_since: float | None = None
        self._broken_since: float | None = None
        self._encoded: bytes | None = None

    # ---- what is seen ----

    def tick(self, now: float) -> None:
        """Look; for about once a second. *now* is the monotonic clock's."""
        if self._looked_at is not None and now - self._looked_at < _PERIOD_S:
            return
        self._time = time.time()
        self._new_events = []
        self._look(now)
        self._threads = self._thread_times.read()
        self.number += 1
        self._encoded = None
        if self.clients:
            self.second()
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    def sample(self, listener: str, reason: str, line: bytes) -> None:
        """Keep a malformed line for those who look on."""
        text = line[:_SAMPLE_BYTES_MAX].decode(errors="backslashreplace")
        text = _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)
        self._samples.append(Sample(time=time.time(), listener=listener, reason=reason, line=text))

    def watched(self) -> Watched:
        """What no counter has."""
        return Watched(
            threads=self._threads,
            events=tuple(self._events),
            samples=tuple(self._samples),
            broken_since=self._broken_since,
            clients=self.clients,
            objectives=self._fares.objectives,
            delays=self._fares.delays,
        )

    def fares(self) -> Fares:
        """How outputs fared when it looked last. Any thread."""
        return self._fares

    # ---- what those are told who look on ----

    def hello(self) -> bytes:
        """What came before the stream, and what does not change."""
        status = self._provider.status()
        return orjson.dumps(
            {
                "version": __version__,
                "build": {"python": platform.python_version(), "isa": _core.ISA},
                "started": status.started,
                "pid": os.getpid(),
                "config": status.config,
                "host": platform.node(),
                "seconds": self._history.seconds(),
                "minutes": self._history.minutes(),
                "truncated": self._history.truncated,
            }
        )

    def second(self) -> bytes:
        """The last second, with the document of ``/api/status`` as it was then."""
        if self._encoded is None:
            ledger = self.ledger if self.ledger is not None else self._provider.ledger()
            rates: dict[str, dict[str, dict[str, float]]] = {"listeners": {}, "outputs": {}}
            for (kind, name, what), rate in self._rates.items():
                rates[kind].setdefault(name, {})[what] = rate
            sources = self._provider.sources()
            relayed = sources.summary(time.time_ns())._asdict() if sources is not None else None
            self._encoded = orjson.dumps(
                {
                    "id": self.number,
                    "time": self._time,
                    "status": compose(self._provider, ledger, final=False),
                    "rates": rates,
                    "fleet": relayed,
                    "new_events": [_builtins(event) for event in self._new_events],
                }
            )
        return self._encoded

    # ---- one look ----

    def _look(self, now: float) -> None:
        before, ledger = self.ledger, self._provider.ledger()
        # What was counted before the first look counts for that second.
        elapsed = now - self._looked_at if self._looked_at is not None else 1.0
        self.ledger, self._looked_at = ledger, now
        self._rates = dict(_rates(before, ledger, elapsed)) | dict(self._look_at_delays(ledger))
        self._history.add(self._time, self._rates)
        self._look_at_balance(before, ledger, now)
        slo = self._provider.slo()
        promised = self._provider.promised() if slo.share else {}
        for name, change in self._objectives.look(now, slo, ledger, promised):
            self._note("slo", name, f"{change.state} (was {change.was})")
        status = self._provider.status()
        self._look_at_outputs(status.outputs)
        self._fares = Fares(self._objectives.accounts(), self._minute())
        if status.reload.last is not None and status.reload.last is not self._reload:
            self._reload = status.reload.last
            self._note("reload", "", _told(status.reload.last))

    def _look_at_balance(self, before: Ledger | None, ledger: Ledger, now: float) -> None:
        """Broken is what does not balance while nothing moves, and stays so until it balances."""
        if not ledger.problems:
            if self._broken_since is not None:
                self._note("ledger", "", "balances again")
            self._still_since = self._broken_since = None
        elif before is None or counts(before) != counts(ledger):
            self._still_since = now
        elif self._broken_since is None and now - (self._still_since or now) >= _BROKEN_S:
            self._broken_since = self._time
            self._note("ledger", "", f"does not balance: {ledger.problems[0]}")

    def _look_at_delays(self, ledger: Ledger) -> Iterator[tuple[Place, float]]:
        """How long what was delivered in this second took."""
        readings = {one.name: _buckets(one) for one in ledger.outputs if "delay_seconds" in one.histograms}
        before = self._delays[-1] if self._delays else {}
        self._delays.append(readings)
        for name, reading in readings.items():
            counts = between(before.get(name, ()), reading)
            figures = {f"p{share}": quantile(share / 100, _BOUNDS, counts) for share in (50, 99)}
            yield from places("outputs", name, figures)

    def _minute(self) -> dict[str, Summary | None]:
        """How long what was delivered in the last minute took."""
        if not self._delays:
            return {}
        before = self._delays[0] if len(self._delays) > _DELAY_SECONDS else {}
        return {
            name: summary(_BOUNDS, between(before.get(name, ()), reading))
            for name, reading in self._delays[-1].items()
        }

    def _look_at_outputs(self, outputs: tuple[OutputState, ...]) -> None:
        for one in outputs:
            before = self._states.get(one.name)
            if one.state != (before.state if before is not None else "ok"):
                self._note(
                    "output", one.name, f"{one.state}: {one.last_error}" if one.last_error else one.state
                )
            if one.breaker != (before.breaker if before is not None else "closed"):
                self._note("breaker", one.name, one.breaker.replace("_", " "))
        self._states = {one.name: one for one in outputs}

    def _note(self, kind: str, name: str, text: str) -> None:
        event = Event(time=self._time, kind=kind, name=name, text=text)
        self._events.append(event)
        self._new_events.append(event)


def _buckets(output: OutputAccount) -> "array[int]":
    """Sixty of these are kept of each output: as short as can be."""
    return array("Q", output.histograms["delay_seconds"][0])


def _builtins(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def _told(outcome: ReloadOutcome) -> str:
    if not outcome.applied:
        return f"refused: {outcome.problems[0]}"
    return f"applied: {'; '.join(outcome.changes)}" if outcome.changes else "applied: nothing has changed"


def _rates(before: Ledger | None, ledger: Ledger, elapsed: float) -> Iterator[tuple[Place, float]]:
    """What came and went a second, and how much there is now."""
    listeners = {one.name: one for one in before.listeners} if before is not None else {}
    for listener in ledger.listeners:
        figures = _per_second(_counted(listeners.get(listener.name)), _counted(listener), elapsed)
        yield from places("listeners", listener.name, figures)
    outputs = {one.name: one for one in before.outputs} if before is not None else {}
    for output in ledger.outputs:
        figures = _per_second(_decided(outputs.get(output.name)), _decided(output), elapsed)
        figures |= {"waiting": output.waiting, "spooled": output.spooled}
        yield from places("outputs", output.name, figures)


def _per_second(before: dict[str, int], now: dict[str, int], elapsed: float) -> dict[str, float]:
    return {what: (count - before.get(what, 0)) / elapsed for what, count in now.items()}


def _counted(listener: ListenerAccount | None) -> dict[str, int]:
    if listener is None:
        return {}
    lost = sum(listener.dropped.values()) + listener.kernel_drops
    return {"received": listener.received, "lost": lost}


def _decided(output: OutputAccount | None) -> dict[str, int]:
    if output is None:
        return {}
    lost = output.rejected + sum(output.dropped.values()) + output.missed
    return {"delivered": output.delivered, "lost": lost}
