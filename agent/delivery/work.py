"""A batch in hand: where it comes from, what is still undecided of it, and what became of the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from agent._core import count_lines, split_lines
from agent.delivery.task import Task
from agent.outputs.base import Kind, Payload, Refusal, Verdict, plain
from agent.outputs.refusals import lines_of
from agent.store.spool_file import Entry

Piece = tuple[memoryview, int]
"""Whole lines with memory of their own, and how many metrics they are."""


class Batch(Protocol):
    """What is delivered: anything whose bytes are *metrics* finished lines. ``agent._core.Batch`` is one."""

    @property
    def metrics(self) -> int: ...
    @property
    def oldest_ns(self) -> int: ...
    def release(self) -> None: ...
    def keep(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(slots=True)
class Tally:
    """What became of the metrics of one batch."""

    delivered: int = 0
    rejected: int = 0
    lines: list[tuple[bytes, str]] = field(default_factory=list)
    """The lines that were rejected, each with the reason."""
    status: int | None = None
    """Of the last answer that rejected something, and what it said."""
    text: str = ""


class Work(Task):
    """A batch in hand. Belongs to whoever handles it, one thread at a time."""

    def __init__(self, metrics: int, oldest_ns: int) -> None:
        super().__init__()
        self.metrics = metrics
        self.oldest_ns = oldest_ns
        self.tally = Tally()
        self.pieces: list[Piece] | None = None
        """What is undecided, the last one first; None for all of it, as it is."""

    @property
    def label(self) -> str:
        """Names it where its rejected lines are kept."""
        arrived = datetime.fromtimestamp(self.oldest_ns / 1e9, UTC)
        return f"{arrived:%Y%m%dT%H%M%S.%fZ}-{self.metrics}"

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

    metrics: int
    oldest_ns: int
    released: Callable[[], None]

    def __new__(cls, body: bytes, metrics: int, oldest_ns: int, released: Callable[[], None]) -> "Loose":
        self = super().__new__(cls, body)
        self.metrics, self.oldest_ns, self.released = metrics, oldest_ns, released
        return self

    def release(self) -> None:
        self.released()

    def keep(self) -> None:
        """Nothing is kept: whoever brought it has it still."""

    def __buffer__(self, flags: int, /) -> memoryview:
        return memoryview(bytes(self))


class Live(Work):
    """A batch of a ring. *leaves* says whether it may go to the spool, as things are now, if there is one."""

    def __init__(self, batch: Batch, leaves: Callable[[], bool] | None) -> None:
        super().__init__(batch.metrics, batch.oldest_ns)
        self.batch = batch
        self.has_spool = leaves is not None
        self._leaves = leaves

    def may_leave(self) -> bool:
        return self._leaves is not None and self._leaves()

    def keep(self) -> None:
        """Leave it in its ring for the next process."""
        self.batch.keep()


class Stored(Work):
    """A file of the spool. It can always go back."""

    has_spool = True
    spared = 1

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.metrics, entry.oldest_ns)
        self.entry = entry
        self.tried = False
        """Whether it could be read."""

    @property
    def label(self) -> str:
        return self.entry.name

    def may_leave(self) -> bool:
        return True


def _split(payload: Payload, verdict: Verdict) -> list[Piece]:
    """*payload* in parts, the one to be sent first at the end; nothing if it is one line only, or damaged."""
    try:
        body = bytes(plain(payload))
    except ValueError:
        return []
    if (lines := count_lines(body)) < 2:
        return []
    if apart := _apart(payload, verdict.suspects):
        return apart
    view = memoryview(body)
    middle = split_lines(view, lines // 2)
    left = min(lines // 2, payload.metrics)
    return [(view[middle:], payload.metrics - left), (view[:middle], left)]


def _apart(payload: Payload, suspects: tuple[int, ...]) -> list[Piece]:
    """The lines that are suspected, and before them all others; nothing where that is no division."""
    lines = lines_of(payload) if suspects else []
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
