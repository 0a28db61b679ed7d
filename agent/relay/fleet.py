"""What relays say of their sources, as ``/api/fleet`` and ``penstock fleet --json`` have it; and together.

A message goes to one relay of several, so none of them can tell by itself whether one was lost: what all of
them have seen is put together first, see :func:`unite`.

Times whose name ends in ``_ns`` are nanoseconds since 1970.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import msgspec

from agent.accounts import BOUNDS
from agent.quantiles import Summary, summary
from agent.relay.intervals import Interval, united

BUCKETS = BOUNDS["delay_seconds"]

SILENT_S = 30.0
"""Whoever was not seen for so long, and for this many of its usual pauses, is silent."""
SILENT_PAUSES = 10


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """One ring of an agent: each of its lanes has one for each output, and a new one when those change."""

    epoch: str
    """When it was made, as in the ids of its batches."""
    messages: int
    metrics: int
    bytes: int
    duplicates: int
    repeated: int
    missing: int = 0
    """Slots that were not seen, between the first and the last one seen of those that are kept."""
    late: int = 0
    """The same, where they may be on their way."""
    unsure: int = 0
    """The same, where an earlier process may have seen them."""
    shared: int = 0
    """Slots that more than one relay has seen."""
    first: int
    """The first slot seen, of those that are kept."""
    next: int
    """The one behind the last."""
    floor: int = 0
    """What is below was forgotten."""
    last_ns: int
    seen: tuple[Interval, ...] = ()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One agent. Duplicates are in ``duplicates`` only; what is redelivered is in all that is counted."""

    agent: str
    ring_count: int
    rate: float
    """Metrics a second over the last minute."""
    messages: int
    metrics: int
    bytes: int
    duplicates: int
    """Messages that had been decided before."""
    redelivered: int
    """Messages that the broker has given before."""
    repeated: int
    """Slots that had been seen before in a batch that was cut otherwise."""
    unplaced: int
    """Messages that do not say which slots they are."""
    missing: int = 0
    late: int = 0
    unsure: int = 0
    shared: int = 0
    first_ns: int
    last_ns: int
    """When the last message came, by the clock of the relay."""
    since_ns: int
    """All that was seen from then on is known; of earlier slots none can be said to be missing."""
    pause: float
    """Seconds between two messages, usually."""
    silent: bool
    last_delay: float | None = None
    """Seconds from the arrival of the oldest metric to that of the last message."""
    delay: Summary | None = None
    """The same of the messages of the last minute; None if there were none."""
    delays: dict[str, int] = {}
    """How many messages there were in each bucket that has any."""
    rings: tuple[Ring, ...] = ()
    relays: tuple[str, ...] = ()
    """Who has seen it; of several relays together only."""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What one relay has seen."""

    host: str
    pid: int
    started_ns: int
    since_ns: int
    """As of a source: it has started then, or has forgotten an agent since there were too many."""
    now_ns: int
    sources: tuple[Source, ...]
    silent: int
    missing: int
    forgotten_agents: int = 0
    """Left out, since there were too many or they were silent for a day."""
    forgotten_rings: int = 0
    forgotten_slots: int = 0
    """That were missing, and are too old or too many to be kept."""


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """One that was asked."""

    name: str
    """As it was asked: an address or a socket."""
    host: str = ""
    pid: int = 0
    started_ns: int = 0
    sources: int = 0
    trouble: str = ""
    """Why it has not answered."""


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """What several relays have seen, together."""

    now_ns: int
    relays: tuple[Relay, ...]
    sources: tuple[Source, ...]
    silent: int
    missing: int
    """0 if not all of them have answered: then it cannot be told."""
    complete: bool
    """All that were asked have answered."""

    @property
    def ill(self) -> bool:
        """Whether somebody should look."""
        return not self.complete or bool(self.silent or self.missing)


def is_silent(now_ns: int, last_ns: int, pause: float) -> bool:
    return now_ns - last_ns > max(SILENT_S, SILENT_PAUSES * pause) * 1e9


def delay_of(delays: Mapping[str, int]) -> Summary | None:
    """A summary of counts by bucket; the buckets are those of an output's delay."""
    counts = [0] * (len(BUCKETS) + 1)
    for bucket, count in delays.items():
        counts[min(int(bucket), len(BUCKETS))] += count
    return summary(BUCKETS, counts)


def unite(answers: Sequence[tuple[str, Fleet | str]]) -> Whole:
    """The answers of relays, by their names; a text says why there is none.

    Raises ValueError where two of them are the same relay: it would count twice.
    """
    views = [(name, answer) for name, answer in answers if isinstance(answer, Fleet)]
    known: dict[tuple[str, int, int], str] = {}
    for name, view in views:
        same = known.setdefault((view.host, view.pid, view.started_ns), name)
        if same != name:
            raise ValueError(f"{same} and {name} are the same relay")
    complete = len(views) == len(answers)
    now_ns = max((view.now_ns for _, view in views), default=0)
    parts: dict[str, list[tuple[str, Source]]] = {}
    for name, view in views:
        for source in view.sources:
            parts.setdefault(source.agent, []).append((name, source))
    # Whoever has looked for a shorter time may have been somebody else before, who took what lacks.
    there_ns = max((view.since_ns for _, view in views), default=0)
    sources = [_source(agent, seen, now_ns, there_ns, complete) for agent, seen in sorted(parts.items())]
    return Whole(
        now_ns=now_ns,
        relays=tuple(_relay(name, answer) for name, answer in answers),
        sources=tuple(sources),
        silent=sum(one.silent for one in sources),
        missing=sum(one.missing for one in sources),
        complete=complete,
    )


def _relay(name: str, answer: Fleet | str) -> Relay:
    if isinstance(answer, str):
        return Relay(name=name, trouble=answer)
    return Relay(
        name=name,
        host=answer.host,
        pid=answer.pid,
        started_ns=answer.started_ns,
        sources=len(answer.sources),
    )


def _source(agent: str, seen: list[tuple[str, Source]], now_ns: int, there_ns: int, complete: bool) -> Source:
    ones = [one for _, one in seen]
    there_ns = max(there_ns, *(one.since_ns for one in ones))
    every = sorted((ring for one in ones for ring in one.rings), key=lambda ring: ring.epoch)
    rings = [
        _ring(epoch, list(same), now_ns, there_ns, complete)
        for epoch, same in groupby(every, key=lambda ring: ring.epoch)
    ]
    delays: dict[str, int] = {}
    for one in ones:
        for bucket, count in one.delays.items():
            delays[bucket] = delays.get(bucket, 0) + count
    last = max(ones, key=lambda one: one.last_ns)
    often = sum(1 / one.pause for one in ones if one.pause > 0)
    pause = 1 / often if often else 0.0
    return Source(
        agent=agent,
        ring_count=len(rings),
        rate=sum(one.rate for one in ones),
        messages=sum(one.messages for one in ones),
        metrics=sum(one.metrics for one in ones),
        bytes=sum(one.bytes for one in ones),
        duplicates=sum(one.duplicates for one in ones),
        redelivered=sum(one.redelivered for one in ones),
        repeated=sum(one.repeated for one in ones),
        unplaced=sum(one.unplaced for one in ones),
        missing=sum(ring.missing for ring in rings),
        late=sum(ring.late for ring in rings),
        unsure=sum(ring.unsure for ring in rings),
        shared=sum(ring.shared for ring in rings),
        first_ns=min(one.first_ns for one in ones),
        last_ns=last.last_ns,
        since_ns=there_ns,
        pause=pause,
        silent=is_silent(now_ns, last.last_ns, pause),
        last_delay=last.last_delay,
        delay=delay_of(delays),
        delays=delays,
        rings=tuple(rings),
        relays=tuple(name for name, _ in seen),
    )


def _ring(epoch: str, same: Sequence[Ring], now_ns: int, there_ns: int, complete: bool) -> Ring:
    whole, shared = united((ring.floor, ring.seen) for ring in same)
    lacking = whole.lacking(now_ns, there_ns)
    return Ring(
        epoch=epoch,
        messages=sum(ring.messages for ring in same),
        metrics=sum(ring.metrics for ring in same),
        bytes=sum(ring.bytes for ring in same),
        duplicates=sum(ring.duplicates for ring in same),
        repeated=sum(ring.repeated for ring in same),
        missing=lacking.missing if complete else 0,
        late=lacking.late if complete else 0,
        unsure=lacking.unsure if complete else sum(lacking),
        shared=shared,
        first=whole.starts[0] if len(whole) else min(ring.first for ring in same),
        next=max(ring.next for ring in same),
        floor=whole.floor,
        last_ns=max(ring.last_ns for ring in same),
    )
