"""The trace of one batch: its id, where its time went, and what came of each attempt with it.

The id says where the batch lay in which ring (:mod:`agent.batch_id`). It stays with it through parts,
repetitions, the spool and a restart, for the file's name has it; each attempt tells it to the server::

    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
                 │  │                                │                └ 01: all of the trace is in the log
                 │  │                                └ span: of this attempt alone
                 │  └ id of the batch
                 └ version

Where time goes is measured in stages, which follow each other and leave nothing out:

=========== ==================================================================
``ring``    from the oldest arrival until the batch is taken
``queue``   until a sender, or the spool's thread, turns to it
``merge``   lines of one series and time are made one
``encode``  the body is compressed
``turn``    the breaker and the limit of attempts have it wait
``request`` the attempts, to the end of their answers, and what is made of these
``pause``   between a failure and the next attempt
``store``   the spool is written or read
=========== ==================================================================

Format of the header: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import hashlib
import random
import time
from typing import Any

from agent.batch_id import chance_id

STAGES = ("ring", "queue", "merge", "encode", "turn", "request", "pause", "store")

ATTEMPTS_MAX = 32
"""The last ones of a batch are remembered."""

_MS = 1e3
_NOTHING = dict.fromkeys(STAGES, 0.0)

# One of our own: whoever seeds the common one must not have the same ids again. Any thread.
_bits = random.Random().getrandbits


Attempt = tuple[str, float, int | None, str]
"""What came of one attempt: its span, seconds, the answer's status if there was one, and why it failed."""


def id_of_name(name: str) -> str:
    """The id of a batch whose file has none in its name: it lay nowhere that is known."""
    return f"{1 << 127 | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), 'big'):032x}"


def limit_of(share: float) -> str:
    """What the second halves of ids are below for *share* of them, 0 to 1."""
    return f"{int(share * 2**64):016x}" if share < 1 else "g"


class Trace:
    """Of one batch, from when it was taken. For whoever has the batch, one thread at a time."""

    sampled = False
    """Whether it is logged in any case."""
    failed = False
    """Whether something went wrong on its way, so that it is logged all the same."""
    span = ""
    """Of the last attempt: 16 hexadecimal digits."""
    bytes_raw = bytes_sent = 0
    """Of the bodies of all attempts, before and after compression."""
    attempts_left_out = 0
    """Earlier ones than are in ``attempts``."""

    def __init__(self, batch: str = "") -> None:
        self.id = batch or chance_id()
        self.stages = _NOTHING.copy()
        """Seconds by stage; 0 for those that it has not come through."""
        self.attempts: list[Attempt] = []
        self._at = time.monotonic()

    def begin(self, limit: str) -> None:
        """Somebody turns to the batch. Whether it is sampled hangs on :func:`limit_of` and its id alone."""
        self.sampled = self.id[16:] < limit
        self.mark("queue")

    def mark(self, stage: str) -> float:
        """What has passed since the last mark belongs to *stage*. Returns the time (monotonic)."""
        now = time.monotonic()
        self.stages[stage] += now - self._at
        self._at = now
        return now

    def header(self) -> str:
        """The ``traceparent`` of a new attempt."""
        self.span = span = _bits(64).to_bytes(8, "big").hex()
        return f"00-{self.id}-{span}-{'01' if self.sampled else '00'}"

    def tried(self, status: int | None, text: str, raw: int, sent: int) -> float:
        """The attempt of the last :meth:`header` has ended, with a body of *raw* bytes, *sent* compressed.

        Returns how long it took, if :meth:`mark` was called before it.
        """
        began = self._at
        took = self.mark("request") - began
        self.bytes_raw += raw
        self.bytes_sent += sent
        self.attempts.append((self.span, took, status, text))
        if len(self.attempts) > ATTEMPTS_MAX:
            del self.attempts[0]
            self.attempts_left_out += 1
        return took

    def fields(self) -> dict[str, Any]:
        """For the log; times in milliseconds, in the order of :data:`STAGES`."""
        fields: dict[str, Any] = {
            "bytes_raw": self.bytes_raw,
            "bytes_sent": self.bytes_sent,
            "stages": {one: round(self.stages[one] * _MS, 3) for one in STAGES if self.stages[one]},
            "attempts": [
                {"span": span, "ms": round(seconds * _MS, 3), "status": status, "text": text}
                for span, seconds, status, text in self.attempts
            ],
        }
        if self.attempts_left_out:
            fields["attempts_left_out"] = self.attempts_left_out
        return fields
