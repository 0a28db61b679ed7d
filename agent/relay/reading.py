"""A body that cannot go on as it is: decompressed, read by the feed, and decided when its rings are freed.

The feed writes it into a ring for each output, in that output's encoding, with everything that filters,
shards, rules and guards make of it. It is read in pieces, each when all rings have room for it, so that none
of it is missed by an output that is slower than others. Space in a ring is freed when its metrics are
delivered, rejected or in the spool.
"""

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from agent._core import Ring
from agent.accounts import WILLED
from agent.outputs.base import Payload, plain
from agent.outputs.bodies import offset
from agent.relay.carrier import Ways

if TYPE_CHECKING:
    from agent._core import FeedResult

PIECE_BYTES = 256 << 10
"""So much is read at once, and an eighth of the smallest ring at most."""

BODY_BYTES_MAX = 256 << 20
"""A body that is larger when decompressed is not read."""

_FORMATS = {"lp": "line", "pb": "protobuf"}


class Reads(Protocol):
    """A way into the feed, as :class:`agent.inputs.base.Source` has it."""

    def read(self, data: memoryview, *, format: str = ...) -> "FeedResult": ...
    def has_room(self, nbytes: int, *, everywhere: bool = ...) -> bool: ...


class Reading:
    """One body. The listener's thread only. Raises ValueError if it is damaged, or too large."""

    def __init__(self, payload: Payload, source: Reads) -> None:
        if payload.raw_bytes > BODY_BYTES_MAX:
            raise ValueError(
                f"it has {payload.raw_bytes} bytes uncompressed: {BODY_BYTES_MAX} are read at most"
            )
        self._body = memoryview(plain(payload))
        if len(self._body) != payload.raw_bytes:
            raise ValueError(f"it has {len(self._body)} bytes uncompressed, and says {payload.raw_bytes}")
        self._metrics = payload.metrics
        self._encoding = payload.encoding
        self._source = source
        self._at = 0
        self._marks: list[tuple[Ring, int]] | None = None
        self._dropped: Counter[str] = Counter()
        self.accepted = 0
        self.full = False
        """Whether somebody else has taken the room, so that some of it was dropped after all."""

    @property
    def waits(self) -> bool:
        """Whether some of it is not read yet."""
        return self._at < len(self._body)

    @property
    def reason(self) -> str:
        """Why nothing in it could be read; empty if something could."""
        if self.waits or self.accepted:
            return ""
        bad = [reason for reason in self._dropped if reason not in WILLED and reason != "ring_full"]
        if self._dropped and not bad:
            return ""
        return f"nothing in it can be read: {', '.join(bad)}" if bad else "it holds no metric"

    def go_on(self, ways: Ways) -> bool:
        """Read what there is room for; True when all is read, and decided by every output of *ways*."""
        while self.waits:
            end = self._piece_end(ways)
            with self._body[self._at : end] as piece:
                if not self._source.has_room(len(piece), everywhere=True):
                    return False
                missed = [ring.stats()["missed"] for ring in ways.rings]
                result = self._source.read(piece, format=_FORMATS[self._encoding])
            self._at = end
            self.accepted += result["accepted"]
            self._dropped.update(result["dropped"])
            self.full |= result["full"] or missed != [ring.stats()["missed"] for ring in ways.rings]
        if self._marks is None:
            stats = [(ring, ring.stats()) for ring in ways.rings]
            self._marks = [(ring, one["freed"] + one["waiting"]) for ring, one in stats]
        # What an output still has that has left the configuration is between it and its drain_timeout.
        self._marks = [
            (ring, mark) for ring, mark in self._marks if ring in ways.rings and ring.stats()["freed"] < mark
        ]
        return not self._marks

    def _piece_end(self, ways: Ways) -> int:
        """Where the next piece ends: with a whole line or sample. Raises ValueError if it is damaged."""
        size = min([PIECE_BYTES, *(ring.capacity // 8 for ring in ways.rings)])
        left = len(self._body) - self._at
        if left <= size:
            return len(self._body)
        metrics = max(self._metrics * size // len(self._body), 1)
        with self._body[self._at :] as rest:
            return self._at + max(offset(rest, self._encoding, metrics), 1)
