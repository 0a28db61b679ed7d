"""What the service tells about itself, and the JSON that ``/api/status`` makes of it.

The service is written after this package, so what the admin HTTP wants of it stands here as
:class:`Provider`. Nothing secret passes through: no token, no password, no header.
"""

import asyncio
import os
import platform
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from agent import __version__, _core
from agent.config import Slo
from agent.keeping import Keeper
from agent.ledger import Ledger, settle
from agent.objectives import Promised, SloAccount
from agent.quantiles import Summary
from agent.relay.sources import Sources
from agent.sessions import Sessions


class ReloadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one reload came to. If *problems* is not empty it was refused, and the old config runs on."""

    time: float
    """Seconds since 1970."""
    changes: tuple[str, ...] = ()
    """What is different now, one line each, secrets masked."""
    problems: tuple[str, ...] = ()
    """Why it was refused, one line each."""

    @property
    def applied(self) -> bool:
        return not self.problems


class ReloadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All reloads since the start."""

    applied: int = 0
    refused: int = 0
    applied_time: float = 0.0
    """When the config that runs now went live, seconds since 1970; the start counts."""
    last: ReloadOutcome | None = None


class OutputState(msgspec.Struct, frozen=True, kw_only=True):
    """How an output fares right now."""

    name: str
    type: str
    target: str
    """Where it sends to, without credentials: an address or a folder."""
    state: str
    """``ok``, ``retrying`` (network, overload) or ``holding`` (a person must mend it: 401, 403, 404)."""
    since: float = 0.0
    """Seconds since 1970."""
    last_error: str = ""
    """The server's own words, or the network's."""
    breaker: str = "closed"
    """``closed``, ``open`` (nothing is sent) or ``half_open`` (one request tries whether it is over)."""
    limit: int = 0
    """Requests that may be under way at once, as things are."""
    round_trip: float = 0.0
    """The moving average of what a request takes, in seconds; 0 before the first."""
    spool_max_bytes: int = 0
    """What its spool may take of the disk; 0 if it has none."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The service apart from its counters."""

    state: str
    """``starting``, ``running``, ``reloading``, ``draining`` or ``stopped``."""
    started: float
    """Seconds since 1970."""
    config: str
    """Path of the config file."""
    reload: ReloadStatus
    outputs: tuple[OutputState, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to the agent, for whoever looks on."""

    time: float
    """Seconds since 1970."""
    kind: str
    """``reload``, ``output``, ``breaker``, ``slo`` or ``ledger``."""
    name: str
    """Of the output; empty for what concerns all of the agent."""
    text: str


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A malformed line."""

    time: float
    """When it was seen, seconds since 1970."""
    listener: str
    reason: str
    line: str
    """Its beginning, with what is no text escaped."""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen by looking once a second, and is in no counter."""

    threads: dict[str, int] = {}
    """Processor time by name, in nanoseconds."""
    events: tuple[Event, ...] = ()
    """The last ones, the newest last; so are the samples."""
    samples: tuple[Sample, ...] = ()
    broken_since: float | None = None
    """Since when the ledger has not balanced though nothing moved, seconds since 1970; None if it is well."""
    clients: int = 0
    """Streams of figures that are open."""
    objectives: tuple[SloAccount, ...] = ()
    """Of each output; empty without an objective."""
    delays: dict[str, Summary | None] = {}
    """Of each output in the last minute, in seconds; None if nothing was delivered in it."""


class Pulse(Protocol):
    """What each second brings, encoded once for all who look. In the event loop's thread."""

    number: int
    """Of the last second."""
    changed: asyncio.Event
    """Set once there is another one; another event takes its place then."""
    clients: int
    """Streams that are open, counted by whoever serves them."""

    def hello(self) -> bytes:
        """What came before, and what does not change: JSON."""

    def second(self) -> bytes:
        """The last second: JSON."""


class Provider(Protocol):
    """The service, as the admin HTTP sees it. Called in the event loop's thread; must not block."""

    def status(self) -> ServiceStatus:
        """The service apart from its counters."""

    def ledger(self) -> Ledger:
        """One reading of all counters."""

    def ready(self) -> list[str]:
        """Why nothing can be received now, one line each; empty if it can. Never speaks of the database."""

    def sessions(self) -> Sessions:
        """Who looks at what passes."""

    def keepers(self) -> Mapping[str, Keeper]:
        """What keeps something on disk, by the name of its output."""

    def slo(self) -> Slo:
        """The objective that runs."""

    def promised(self) -> Mapping[str, Promised]:
        """What each output still has time for. For the event loop's thread, like all of this."""

    def sources(self) -> Sources | None:
        """What a relay has seen of those who send to it; None if the agent is none."""

    def watched(self) -> Watched:
        """What was seen by looking once a second."""

    def pulse(self) -> Pulse:
        """What tells each second."""

    async def reload(self) -> ReloadOutcome:
        """Read the config again and put it to work, or say why not. Reloads run one after the other."""


async def document(provider: Provider) -> dict[str, Any]:
    """The body of ``/api/status``, ready for JSON. Takes half a second at most: see :func:`settle`."""
    return compose(provider, *await settle(provider.ledger))


def compose(provider: Provider, ledger: Ledger, final: bool) -> dict[str, Any]:
    """The same of one reading; *final* if it stands still."""
    status = provider.status()
    watched = provider.watched()
    reload = msgspec.to_builtins(status.reload)
    if status.reload.last is not None:
        reload["last"]["applied"] = status.reload.last.applied
    states = {output.name: output for output in status.outputs}
    outputs: list[dict[str, Any]] = []
    for account in ledger.outputs:
        # An output that has left the config still owns its counters.
        state = states.get(
            account.name, OutputState(name=account.name, type=account.type, target="", state="retired")
        )
        shown = msgspec.to_builtins(account)
        # Too long for people; /metrics has them.
        del shown["histograms"]
        outputs.append(msgspec.to_builtins(state) | {"ledger": shown})
    return {
        "version": __version__,
        "build": {"python": platform.python_version(), "isa": _core.ISA},
        "pid": os.getpid(),
        "state": status.state,
        "started": status.started,
        "uptime": max(0.0, time.time() - status.started),
        "config": status.config,
        "ready": not (reasons := provider.ready()),
        "not_ready": reasons,
        "detail": troubles(ledger),
        "reload": reload,
        "listeners": msgspec.to_builtins(ledger.listeners),
        "lanes": msgspec.to_builtins(ledger.lanes),
        "outputs": outputs,
        "guards": msgspec.to_builtins(ledger.guards),
        "ledger": {
            "balance": balance(ledger, final or watched.broken_since is not None),
            "problems": list(ledger.problems),
            "broken_since": watched.broken_since,
        },
        "slo": msgspec.to_builtins(watched.objectives),
        "delay": msgspec.to_builtins(watched.delays),
        "threads": [{"name": name, "cpu_ns": cpu_ns} for name, cpu_ns in watched.threads.items()],
        "events": msgspec.to_builtins(watched.events),
        "samples": msgspec.to_builtins(watched.samples),
    }


def troubles(ledger: Ledger) -> list[str]:
    """What does not work and yet keeps the agent from nothing else: disks that refuse, brokers that are gone.

    One line each.
    """
    found = [
        f"listener {listener.name}: {listener.relay.failing}"
        for listener in ledger.listeners
        if listener.relay is not None and listener.relay.failing
    ]
    for output in ledger.outputs:
        if output.spool is not None and output.spool.failing:
            found.append(f"output {output.name}: spool: {output.spool.failing}")
        if output.refused is not None and output.refused.failing:
            found.append(f"output {output.name}: rejected: {output.refused.failing}")
    return found


def balance(ledger: Ledger, final: bool) -> str:
    """``balanced``, ``moving`` (not at rest long enough to tell) or ``broken`` (does not hold at rest)."""
    if not ledger.problems:
        return "balanced"
    return "broken" if final else "moving"
