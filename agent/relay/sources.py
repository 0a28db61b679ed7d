"""What a relay has seen of each agent that sends to it: how much, how late, what lacks, what came again.

Any thread tells of a message with :meth:`Sources.seen`, and any thread may look. Everything is bounded: the
agents, the rings of each, the intervals of slots of each ring, and those of all rings together; what has to
go is what was not seen for longest, and it is counted.
"""

import os
import platform
import threading
import time
from bisect import bisect_left
from collections import OrderedDict, deque
from typing import NamedTuple

from agent.relay.fleet import BUCKETS, Fleet, Ring, Source, delay_of, is_silent
from agent.relay.intervals import GRACE_NS, Intervals, Lacking
from agent.relay.message import Message

AGENTS_MAX = 1000
RINGS_MAX = 64
"""Of an agent."""

INTERVALS_MAX = 4096
"""Of a ring, while there are few rings."""
INTERVALS_TOTAL = 1 << 18

_BATCHES_MAX = 64
"""The last batches of an agent are known by their ids, which parts of one share."""

_KEPT_NS = 86_400 * 10**9
"""An agent that is silent for so long is forgotten, and so is a hole that old."""

_PERIOD_NS = 5 * 10**9
_PERIODS = 12
"""Rate and delay are of so many periods, and of the one that has begun."""

_PAUSE_WEIGHT = 0.125


class Summary(NamedTuple):
    """All of it in a few figures."""

    agents: int
    silent: int
    seen: int
    """Messages since the start, those of agents that are forgotten too."""


class _Ring:
    """One ring of an agent."""

    __slots__ = ("bytes", "duplicates", "last_ns", "messages", "metrics", "repeated", "seen")

    def __init__(self) -> None:
        self.messages = self.metrics = self.bytes = self.duplicates = self.repeated = 0
        self.last_ns = 0
        self.seen = Intervals()


class _Minute:
    """Metrics and delays of the last minute, in periods."""

    __slots__ = ("_delays", "_metrics", "_periods")

    def __init__(self) -> None:
        self._periods: deque[int] = deque(maxlen=_PERIODS + 1)
        self._metrics: deque[int] = deque(maxlen=_PERIODS + 1)
        # Messages by bucket, of which a period has few.
        self._delays: deque[dict[int, int]] = deque(maxlen=_PERIODS + 1)

    def add(self, now_ns: int, metrics: int, delay: float | None) -> None:
        period = now_ns // _PERIOD_NS
        # A clock that is stepped back goes on in the period that it was in.
        if not self._periods or self._periods[-1] < period:
            self._periods.append(period)
            self._metrics.append(0)
            self._delays.append({})
        self._metrics[-1] += metrics
        if delay is not None:
            delays, bucket = self._delays[-1], bisect_left(BUCKETS, delay)
            delays[bucket] = delays.get(bucket, 0) + 1

    def rate(self, now_ns: int, first_ns: int) -> float:
        """Metrics a second, of an agent that was first seen at *first_ns*."""
        oldest = now_ns // _PERIOD_NS - _PERIODS
        pairs = zip(self._periods, self._metrics, strict=True)
        metrics = sum(metrics for period, metrics in pairs if period >= oldest)
        return metrics / max(1.0, (now_ns - max(first_ns, oldest * _PERIOD_NS)) / 1e9)

    def delays(self, now_ns: int) -> dict[str, int]:
        """Messages by bucket."""
        oldest, counts = now_ns // _PERIOD_NS - _PERIODS, dict[str, int]()
        for period, delays in zip(self._periods, self._delays, strict=True):
            for bucket, count in delays.items() if period >= oldest else ():
                counts[str(bucket)] = counts.get(str(bucket), 0) + count
        return counts


class _Agent:
    """All that is known of one agent."""

    __slots__ = (
        *("_batches", "_sampled_ns", "bytes", "duplicates", "first_ns", "last_delay", "last_ns"),
        *(
            "messages",
            "metrics",
            "minute",
            "pause",
            "redelivered",
            "repeated",
            "rings",
            "since_ns",
            "unplaced",
        ),
    )

    def __init__(self, now_ns: int, since_ns: int) -> None:
        self.rings: OrderedDict[int, _Ring] = OrderedDict()
        self.messages = self.metrics = self.bytes = 0
        self.duplicates = self.redelivered = self.repeated = self.unplaced = 0
        self.first_ns = self.last_ns = self._sampled_ns = now_ns
        self.since_ns = since_ns
        self.pause = 0.0
        self.last_delay: float | None = None
        self.minute = _Minute()
        self._batches: dict[str, None] = {}

    def come(self, now_ns: int, oldest_ns: int, metrics: int) -> None:
        """A message has come, with so many *metrics* that had not come before."""
        if self.messages + self.duplicates and now_ns - self._sampled_ns >= 10**9:
            # One pause for each second that has any: a burst is not many short ones.
            pause = (now_ns - self.last_ns) / 1e9
            self.pause += (pause - self.pause) * _PAUSE_WEIGHT if self.pause else pause
            self._sampled_ns = now_ns
        self.last_ns = max(self.last_ns, now_ns)
        if oldest_ns:
            self.last_delay = max(now_ns - oldest_ns, 0) / 1e9
        self.minute.add(now_ns, metrics, self.last_delay if oldest_ns else None)

    def knows(self, batch: str) -> bool:
        """Whether a part of that batch has come lately; from now on it has."""
        batches = self._batches
        if batch in batches:
            return True
        batches[batch] = None
        if len(batches) > _BATCHES_MAX:
            del batches[next(iter(batches))]
        return False


class Sources:
    """What one relay has seen since it was started.

    *since_ns* is when that was; a hole is missing once it is older than *grace* seconds.
    """

    def __init__(self, since_ns: int | None = None, grace: float = GRACE_NS / 1e9) -> None:
        self._started_ns = self._since_ns = time.time_ns() if since_ns is None else since_ns
        self._grace_ns = round(grace * 1e9)
        self._lock = threading.Lock()
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._rings = 0
        self._intervals_max = INTERVALS_MAX
        self._seen = 0
        self._forgotten_agents = self._forgotten_rings = self._forgotten_slots = 0

    def seen(self, message: Message, now_ns: int, duplicate: bool = False, redelivered: bool = False) -> None:
        """A message has come: *duplicate* if it has been decided before, *redelivered* if it has come before.

        Where the broker does not say that, whoever reads a place of its log once more knows it. Once for
        each, whatever becomes of it. Any thread; some microseconds.
        """
        place, payload = message.place, message.payload
        size = len(payload.data)
        # Nothing arrived later than now, whatever the clock there says.
        oldest_ns = min(message.oldest_ns, now_ns)
        with self._lock:
            self._seen += 1
            agent = self._agent(message.agent, now_ns)
            agent.come(now_ns, oldest_ns, 0 if duplicate else payload.metrics)
            if duplicate:
                agent.duplicates += 1
            else:
                agent.messages += 1
                agent.metrics += payload.metrics
                agent.bytes += size
            agent.redelivered += redelivered
            if place is None or not place.slots:
                agent.unplaced += 1
                return
            ring = self._ring(agent, place.epoch, now_ns)
            ring.last_ns = max(ring.last_ns, now_ns)
            again = ring.seen.add(place.first, place.first + place.slots, now_ns, oldest_ns)
            if len(ring.seen) > self._intervals_max:
                self._forgotten_slots += ring.seen.keep(self._intervals_max)
            known = agent.knows(message.batch)
            if duplicate:
                ring.duplicates += 1
                return
            ring.messages += 1
            ring.metrics += payload.metrics
            ring.bytes += size
            if again and not known and not redelivered:
                ring.repeated += again
                agent.repeated += again

    def view(self, now_ns: int, rings: bool = True) -> Fleet:
        """What is known now; without its *rings* it is much shorter. Any thread."""
        with self._lock:
            self._forget_old(now_ns)
            names = list(self._agents)
        sources = []
        for name in names:
            # One by one: whoever has a message does not wait for all of them.
            with self._lock:
                if (agent := self._agents.get(name)) is not None:
                    sources.append(self._source(name, agent, now_ns, rings))
        sources.sort(key=lambda one: one.agent)
        return Fleet(
            host=platform.node(),
            pid=os.getpid(),
            started_ns=self._started_ns,
            since_ns=self._since_ns,
            now_ns=now_ns,
            sources=tuple(sources),
            silent=sum(one.silent for one in sources),
            missing=sum(one.missing for one in sources),
            forgotten_agents=self._forgotten_agents,
            forgotten_rings=self._forgotten_rings,
            forgotten_slots=self._forgotten_slots,
        )

    def summary(self, now_ns: int) -> Summary:
        """The same in a few figures. Any thread."""
        with self._lock:
            silent = sum(is_silent(now_ns, one.last_ns, one.pause) for one in self._agents.values())
            return Summary(len(self._agents), silent, self._seen)

    # ---- with the lock ----

    def _agent(self, name: str, now_ns: int) -> _Agent:
        agent = self._agents.get(name)
        if agent is not None:
            self._agents.move_to_end(name)
            return agent
        if len(self._agents) >= AGENTS_MAX:
            self._forget_agent(now_ns)
            # What was known of it is gone, so nobody can be told to have missed anything before.
            self._since_ns = max(self._since_ns, now_ns)
        agent = self._agents[name] = _Agent(now_ns, self._since_ns)
        return agent

    def _ring(self, agent: _Agent, epoch: int, now_ns: int) -> _Ring:
        ring = agent.rings.get(epoch)
        if ring is not None:
            agent.rings.move_to_end(epoch)
            return ring
        if len(agent.rings) >= RINGS_MAX:
            agent.rings.popitem(last=False)
            self._rings -= 1
            self._forgotten_rings += 1
            agent.since_ns = max(agent.since_ns, now_ns)
        ring = agent.rings[epoch] = _Ring()
        self._rings += 1
        while self._intervals_max > 1 and self._rings * self._intervals_max > INTERVALS_TOTAL:
            self._intervals_max //= 2
            for one in self._agents.values():
                for other in one.rings.values():
                    self._forgotten_slots += other.seen.keep(self._intervals_max)
        return ring

    def _forget_agent(self, now_ns: int) -> None:
        """The one that was not seen for longest."""
        _, agent = self._agents.popitem(last=False)
        self._rings -= len(agent.rings)
        self._forgotten_agents += 1

    def _forget_old(self, now_ns: int) -> None:
        before = now_ns - _KEPT_NS
        while self._agents and next(iter(self._agents.values())).last_ns < before:
            self._forget_agent(now_ns)
        for agent in self._agents.values():
            for ring in agent.rings.values():
                if len(ring.seen) > 1 and ring.seen.sinces[1] < before:
                    self._forgotten_slots += ring.seen.forget(before)

    def _source(self, name: str, agent: _Agent, now_ns: int, rings: bool) -> Source:
        there_ns = max(agent.since_ns, self._since_ns)
        lacking = [one.seen.lacking(now_ns, there_ns, self._grace_ns) for one in agent.rings.values()]
        delays = agent.minute.delays(now_ns)
        pairs = zip(agent.rings.items(), lacking, strict=True) if rings else ()
        return Source(
            agent=name,
            ring_count=len(agent.rings),
            rate=agent.minute.rate(now_ns, agent.first_ns),
            messages=agent.messages,
            metrics=agent.metrics,
            bytes=agent.bytes,
            duplicates=agent.duplicates,
            redelivered=agent.redelivered,
            repeated=agent.repeated,
            unplaced=agent.unplaced,
            missing=sum(one.missing for one in lacking),
            late=sum(one.late for one in lacking),
            unsure=sum(one.unsure for one in lacking),
            first_ns=agent.first_ns,
            last_ns=agent.last_ns,
            since_ns=there_ns,
            pause=agent.pause,
            silent=is_silent(now_ns, agent.last_ns, agent.pause),
            last_delay=agent.last_delay,
            delay=delay_of(delays),
            delays=delays,
            rings=tuple(_ring(epoch, ring, one) for (epoch, ring), one in pairs),
        )


def _ring(epoch: int, ring: _Ring, lacking: Lacking) -> Ring:
    return Ring(
        epoch=f"{epoch:016x}",
        messages=ring.messages,
        metrics=ring.metrics,
        bytes=ring.bytes,
        duplicates=ring.duplicates,
        repeated=ring.repeated,
        missing=lacking.missing,
        late=lacking.late,
        unsure=lacking.unsure,
        first=ring.seen.starts[0],
        next=ring.seen.ends[-1],
        floor=ring.seen.floor,
        last_ns=ring.last_ns,
        seen=tuple(ring.seen.rows()),
    )
