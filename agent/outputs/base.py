"""What an output is: one destination that is handed finished bodies, and answers each with a verdict.

An output makes one attempt when asked and says what came of it. It knows nothing of retries, of queues or
of counters: those belong to :mod:`agent.delivery`, which every output shares.
"""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass

TEXT_CHARS_MAX = 512
"""So much of what a server says is kept and logged."""


class Kind(enum.Enum):
    """What an attempt came to, and so what happens next."""

    DELIVERED = "delivered"
    """The destination has the metrics, but for ``rejected`` of them that it refused for good."""
    RETRY = "retry"
    """Not now: the same body again, a little later."""
    HOLD = "hold"
    """Not before a person has mended something (a token, a name): keep everything, and try again slowly."""
    SPLIT = "split"
    """Not in one piece: halve it and send the halves."""
    REJECT = "reject"
    """Never: every metric of the body is refused for good."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt came to."""

    kind: Kind
    rejected: int = 0
    """Metrics that were refused for good, of a body that was otherwise DELIVERED."""
    retry_after: float | None = None
    """Seconds for which the destination asked to be left alone, by all batches."""
    status: int | None = None
    """HTTP status, where there was an answer."""
    text: str = ""
    """Why, in the words of the destination or of the system: one printable line, cut to TEXT_CHARS_MAX."""
    bytes_sent: int = 0
    """Bytes of the body as it was sent, that is after compression."""


class Output(ABC):
    """One destination. All methods may be called by any thread.

    *name* is the output's name in the config, *target* where it sends to, for people and without credentials.
    """

    unsigned: bool = True
    """Whether its encoding has unsigned integers (``1u``)."""
    concurrency: int = 1
    """Attempts that may be under way at once."""
    retry_min: float = 0.1
    """Seconds before the first repetition at most; doubled for each further one."""
    retry_max: float = 30.0
    """Seconds before any repetition at most."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.target = target

    @abstractmethod
    def send(self, body: memoryview, metrics: int) -> Verdict:
        """Make one attempt to deliver *body*, *metrics* finished lines, and block until it is decided.

        *body* is borrowed until the return: the output keeps no view of it, not in an exception either.
        Whatever goes wrong outside this process is a verdict, never an exception.
        """

    def due(self) -> float | None:
        """When :meth:`tick` wants to be called (monotonic clock), or None if it need not be."""
        return None

    def tick(self) -> None:
        """Do what is due without a body: the flusher's thread calls it at the time that :meth:`due` gave."""
        return

    def abort(self) -> None:
        """Make the attempts that are under way come to an end now, and refuse further ones.

        They end with a RETRY, like any connection that breaks. Outputs that never wait have nothing to do.
        """
        return

    def close(self) -> None:
        """Free what the output holds. Attempts have ended; none follows. May be called more than once."""
        return


def one_line(text: str) -> str:
    """*text* made fit for a log and a status page: one line, printable, cut to ``TEXT_CHARS_MAX``."""
    line = " ".join(text[: 4 * TEXT_CHARS_MAX].split())
    if not line.isprintable():
        line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= TEXT_CHARS_MAX else line[: TEXT_CHARS_MAX - 1] + "…"
