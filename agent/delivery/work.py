"""A batch in hand: where it comes from, what is still undecided of it, and what became of the rest."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from agent._core import Batch as RingBatch
from agent._core import Delays
from agent.batch_id import Place, batch_id
from agent.delivery.task import Task
from agent.delivery.trace import id_of_name
from agent.outputs.base import Kind, Payload, Refusal, Verdict, plain
from agent.outputs.bodies import count, offset
from agent.outputs.refusals import lines_of
from agent.store.spool_file import Entry

Piece = tuple[memoryview, int]
"""Whole lines or samples with memory of their own, and how many metrics they are."""


Merged = tuple[bytes, int]
"""Lines that were made of others, and how many they are."""


class Batch(Protocol):
    """What is delivered: anything whose bytes are *metrics* finished lines or samples, as *encoding* says.

    Lines of one series and time may be in it where it is *marked*, and are made one by *merge*. *own* of its
    metrics were received by this process. *release* gives its memory back, and tells *delays* how long the
    *delivered* took. ``agent._core.Batch`` is one.
    """

    @property
    def encoding(self) -> str: ...

    @property
    def metrics(self) -> int: ...
    @property
    def oldest_ns(self) -> int: ...
    @property
    def own(self) -> int: ...
    @property
    def marked(self) -> bool: ...
    def merge(self, nudge: bool) -> Merged | None: ...
    def release(self, delays: Delays | None = None, delivered: int = 0) -> None: ...
    def keep(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(slots=True)
class Tally:
    """What became of the metrics of one batch."""

    delivered: int = 0
    rejected: int = 0
    merged: int = 0
    """That went into others of the batch."""
    lines: list[tuple[bytes, str]] = field(default_factory=list)
    """The lines that were rejected, each with the reason."""
    status: int | None = None
    """Of the last answer that rejected something, and what it said."""
    text: str = ""


class Work(Task):
    """A batch in hand. Belongs to whoever handles it, one thread at a time."""

    def __init__(self, metrics: int, oldest_ns: int, encoding: str = "lp", batch: str = "") -> None:
        super().__init__(batch)
        self.metrics = metrics
        self.encoding = encoding
        """``lp`` or ``pb``."""
        self.oldest_ns = oldest_ns
        self.tally = Tally()
        self.pieces: list[Piece] | None = None
        """What is undecided, the last one first; None for all of it, as it is."""

    def judge(self, payload: Payload, verdict: Verdict) -> list[Piece]:
        """Note what *verdict* decides about *payload*, and return the pieces that it leaves undecided."""
        if verdict.kind is Kind.SPLIT and (pieces := _split(payload, verdict)):
            return pieces
        refused = verdict.refused
        if verdict.kind is not Kind.DELIVERED:
            refused = tuple(Refusal(line, verdict.text) for line in range(payload.metrics))
        tally = self.tally
        rejected = min(len(refused), payload.metrics)
        tally.delivered += payload.metrics - rejected
        tally.rejected += rejected
        if rejected:
            tally.status, tally.text = verdict.status, verdict.text
            tally.lines += _lines(payload, refused)
        return []

    def rest(self) -> tuple[memoryview, int]:
        """All that is undecided in one piece. Only where it is in pieces."""
        assert self.pieces
        if len(self.pieces) == 1:
            return self.pieces[0]
        body = b"".join(bytes(body) for body, _ in reversed(self.pieces))
        return memoryview(body), sum(metrics for _, metrics in self.pieces)


class Loose(bytes):
    """A body of *metrics* finished lines that was in no ring. *released* is called when it is decided."""

    encoding = "lp"
    marked = False
    own = 0
    metrics: int
    oldest_ns: int
    released: Callable[[], None]

    def __new__(cls, body: bytes, metrics: int, oldest_ns: int, released: Callable[[], None]) -> "Loose":
        self = super().__new__(cls, body)
        self.metrics, self.oldest_ns, self.released = metrics, oldest_ns, released
        return self

    def merge(self, nudge: bool) -> Merged | None:
        return None

    def release(self, delays: Delays | None = None, delivered: int = 0) -> None:
        if delays is not None and delivered:
            delays.file(self.oldest_ns, delivered, False)
        self.released()

    def keep(self) -> None:
        """Nothing is kept: whoever brought it has it still."""

    def __buffer__(self, flags: int, /) -> memoryview:
        return memoryview(bytes(self))


class Brought:
    """A body that another agent has finished: *payload*, whose batch and oldest arrival it knows."""

    marked = False
    own = 0

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.encoding = payload.encoding
        self.metrics = payload.metrics
        self.oldest_ns = payload.oldest_ns

    def merge(self, nudge: bool) -> Merged | None:
        return None

    def release(self, delays: Delays | None = None, delivered: int = 0) -> None:
        if delays is not None and delivered:
            delays.file(self.oldest_ns, delivered, False)

    def keep(self) -> None:
        """Nothing is kept: the broker has it still."""

    def __buffer__(self, flags: int, /) -> memoryview:
        return memoryview(self.payload.data)


class Live(Work):
    """A batch of a ring. *leaves* says whether it may go to the spool, as things are now, if there is one."""

    abandoned = False
    """Nobody waits for it any more, so that no attempt is to follow; see :class:`Carried`."""

    def __init__(self, batch: Batch, leaves: Callable[[], bool] | None, where: str = "") -> None:
        encoding = "pb" if batch.encoding == "pb" else "lp"
        if isinstance(batch, RingBatch):
            where = batch_id(Place(*batch.place))
        super().__init__(batch.metrics, batch.oldest_ns, encoding, where)
        self.batch = batch
        self.has_spool = leaves is not None
        self.tapped = False
        """Whether it was shown to whoever looks."""
        self._leaves = leaves
        self._marked = batch.marked and self.encoding == "lp"
        self._merged: Merged | None = None
        if not isinstance(batch, Loose | Brought):
            self.trace.stages["ring"] = max(time.time_ns() - batch.oldest_ns, 0) / 1e9

    def merge(self, same_field: str) -> None:
        """Make one of each series and time in it, unless that was asked before.

        *same_field*: ``last`` or ``nudge``; empty: it stays as it is.
        """
        if self._marked and same_field:
            self._merged = self.batch.merge(same_field == "nudge")
            self.trace.mark("merge")
        self._marked = False
        if self._merged is not None:
            self.tally.merged = self.metrics - self._merged[1]

    @property
    def whole(self) -> Piece:
        """All that is to be delivered of it. Borrowed from the batch, unless that was merged."""
        if self._merged is None:
            return memoryview(self.batch), self.metrics
        return memoryview(self._merged[0]), self._merged[1]

    def may_leave(self) -> bool:
        return self._leaves is not None and self._leaves()

    def keep(self) -> None:
        """Leave it in its ring for the next process."""
        self.batch.keep()

    def release(self, delays: Delays, delivered: int) -> None:
        """All of it is decided, or safe elsewhere, with *delivered* metrics delivered."""
        self.batch.release(delays, delivered)


Told = Callable[["Carried", bool], None]
"""Is told once, by any thread, what becomes of a body: whether it is decided, or was let go undecided."""


class Carried(Live):
    """A finished body that somebody else keeps until *told* of its end: it is sent and stored as it is.

    It goes to the spool only where that pushes nothing out; else it waits, and where it cannot wait any
    longer it is let go, and counted nowhere.
    """

    def __init__(self, payload: Payload, batch: str, leaves: Callable[[], bool] | None, told: Told) -> None:
        super().__init__(Brought(payload), leaves, batch)
        self.payload = payload
        self._told: Told | None = told

    @property
    def whole(self) -> Piece:
        return memoryview(self.payload.data), self.metrics

    def release(self, delays: Delays, delivered: int) -> None:
        super().release(delays, delivered)
        self._tell(True)

    def let_go(self) -> None:
        """It is not decided, and will not be."""
        self._tell(False)

    def keep(self) -> None:
        self.let_go()

    @property
    def damaged(self) -> bool:
        """Whether it was refused and nothing in it could be read, so that no line of it is kept."""
        return self.tally.rejected > 0 and not self.tally.lines

    def _tell(self, decided: bool) -> None:
        # Only once, and what was told may hold this.
        told, self._told = self._told, None
        if told is not None:
            told(self, decided)


class Stored(Work):
    """A file of the spool. It can always go back."""

    has_spool = True
    spared = 1

    def __init__(self, entry: Entry) -> None:
        batch = entry.batch or id_of_name(entry.name)
        super().__init__(entry.metrics, entry.oldest_ns, entry.encoding, batch)
        self.entry = entry
        self.tried = False
        """Whether it could be read."""

    def may_leave(self) -> bool:
        return True


def _split(payload: Payload, verdict: Verdict) -> list[Piece]:
    """*payload* in parts, the one to be sent first at the end; nothing if it is one metric, or damaged."""
    try:
        body = bytes(plain(payload))
        metrics = count(body, payload.encoding)
        middle = offset(body, payload.encoding, metrics // 2)
    except ValueError:
        return []
    if metrics < 2:
        return []
    if apart := _apart(payload, verdict.suspects):
        return apart
    view = memoryview(body)
    left = min(metrics // 2, payload.metrics)
    return [(view[middle:], payload.metrics - left), (view[:middle], left)]


def _apart(payload: Payload, suspects: tuple[int, ...]) -> list[Piece]:
    """The lines that are suspected, and before them all others; nothing where that is no division."""
    lines = lines_of(payload) if suspects and payload.encoding == "lp" else []
    wanted = {at for at in suspects if 0 <= at < len(lines)}
    if not wanted or len(wanted) == len(lines) or len(lines) != payload.metrics:
        return []
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for at, line in enumerate(lines):
        parts[at not in wanted].append(line + b"\n")
    return [(memoryview(b"".join(part)), len(part)) for part in parts]


def _lines(payload: Payload, refused: tuple[Refusal, ...]) -> list[tuple[bytes, str]]:
    """The refused lines with their reasons, without newlines; nothing if the body is damaged."""
    try:
        lines = lines_of(payload)
    except ValueError:
        return []
    return [(lines[one.line], one.reason) for one in refused if 0 <= one.line < len(lines)]
