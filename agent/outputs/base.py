"""What an output is: one destination that is handed finished bodies, and answers each with a verdict.

An output turns a batch into the body of a request once, makes one attempt with it when asked, and says what
came of it. It knows nothing of retries, of queues, of spools or of counters: those belong to
:mod:`agent.delivery.delivery`, which every output shares.
"""

import enum
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import cramjam
from isal import igzip_lib, isal_zlib

TEXT_CHARS_MAX = 512
"""So much of what a server says is kept and logged."""

PLAIN_BYTES_MAX = 1 << 30
"""No body is larger than this when it is uncompressed; whatever claims to be is damaged."""

GZIP_WBITS = 31
"""What zlib's functions want to be told for gzip's framing."""


class Kind(enum.Enum):
    """What an attempt came to, and so what happens next."""

    DELIVERED = "delivered"
    """The destination has the metrics, but for the lines in ``refused``, which it refused for good."""
    RETRY = "retry"
    """Not now: the same body again, a little later."""
    HOLD = "hold"
    """Not before a person has mended something (a token, a name): keep everything, and try again slowly."""
    SPLIT = "split"
    """Not in one piece: it is too large, or some lines of it are refused and the destination does not say
    which. Send it in parts, down to single lines if need be: each line is judged alone in the end."""
    REJECT = "reject"
    """Never: every line of the body is refused for good, and ``text`` is the reason for each."""


@dataclass(slots=True)
class Payload:
    """The finished body of one request: what is sent, as often as it takes, and what a spool stores.

    Nobody changes it, but for the last two: it is made for each batch, and a frozen one takes twice as long.
    """

    data: bytes | memoryview
    """As it is sent. Where nothing is compressed it may be the very view that was encoded."""
    metrics: int
    raw_bytes: int
    """Bytes of the body before compression."""
    encoding: str = "lp"
    """What the metrics are written in: ``lp`` or ``pb``, see :mod:`agent.outputs.bodies`."""
    compression: str = ""
    """Nothing, ``gz``, or ``sz``: snappy's block format."""
    trace: str = field(default="", compare=False)
    """The ``traceparent`` of the attempt that is under way, see :mod:`agent.delivery.trace`; else empty."""
    oldest_ns: int = field(default=0, compare=False)
    """When the oldest metric of its batch arrived, nanoseconds since 1970; as of an attempt, too."""

    @property
    def batch(self) -> str:
        """The id of the batch that it is of, or is a part of; empty outside of an attempt."""
        return self.trace[3:35]


def plain(payload: Payload) -> bytes | memoryview:
    """The body of *payload* uncompressed: the same view where it is. Raises ValueError if it is damaged."""
    if not payload.compression:
        return payload.data
    if payload.compression == "sz":
        return _plain_snappy(payload.data)
    if payload.compression != "gz":
        raise ValueError(f"no such compression: {payload.compression}")
    stream = isal_zlib.decompressobj(GZIP_WBITS)
    try:
        body = stream.decompress(payload.data, PLAIN_BYTES_MAX)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # the stubs call it an instance
        raise ValueError(f"damaged gzip: {error}") from error
    if not stream.eof or stream.unused_data:
        raise ValueError("damaged gzip: it is cut off, or something follows it")
    return body


def _plain_snappy(data: bytes | memoryview) -> bytes:
    if not 0 <= snappy_bytes(data) <= PLAIN_BYTES_MAX:
        raise ValueError("damaged snappy: it says no length that it could have")
    try:
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise ValueError(f"damaged {error}") from error


def snappy_bytes(data: bytes | memoryview) -> int:
    """What snappy's *data* say that they hold, in bytes; -1 where that is malformed."""
    size = 0
    for place, byte in enumerate(bytes(data[:5])):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return size
    return -1


def snappy(body: bytes | memoryview) -> bytes:
    """*body* in snappy's block format."""
    return bytes(cramjam.snappy.compress_raw(body))


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line that was refused for good."""

    line: int
    """Which, among the lines of the payload; the first is 0."""
    reason: str
    """Why, in the destination's own words, made fit by :func:`one_line`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt came to."""

    kind: Kind
    refused: tuple[Refusal, ...] = ()
    """Exactly the lines that were refused for good, of a body that was otherwise DELIVERED; each once, in
    the order of the body. They may be all of it."""
    suspects: tuple[int, ...] = ()
    """With SPLIT, the lines that the refusal seems to speak of, if there is a guess: some of the body, never
    all, ascending. Sending them apart from the others saves requests. It is a guess: nothing may be decided
    by it, and who ignores it and halves the body comes to the same end."""
    retry_after: float | None = None
    """Seconds for which the destination asked to be left alone, by all batches."""
    status: int | None = None
    """HTTP status, where there was an answer."""
    text: str = ""
    """Why, in the words of the destination or of the system: one printable line, cut to TEXT_CHARS_MAX."""


class Output(ABC):
    """One destination. All methods may be called by any thread.

    *name* is the output's name in the config, *target* where it sends to, for people and without credentials.
    """

    encoding: str = "lp"
    """What its rings hold: see :class:`agent._core.Ring`."""
    max_concurrency: int = 1
    """Attempts that may be under way at once, at most."""
    retry_min: float = 0.1
    """Seconds before the first repetition at most; doubled for each further one."""
    retry_max: float = 30.0
    """Seconds before any repetition at most."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.target = target

    def encode(self, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        """The body of a request from *body*, *metrics* finished lines or samples: once for each batch.

        *encoding* is ``lp`` or ``pb``: what an earlier configuration or process left may be in the other one
        than this output's rings. The payload either borrows *body* itself or has bytes of its own.
        """
        return Payload(body, metrics, len(body), encoding)

    @abstractmethod
    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        """Make one attempt to deliver *payload*, and block until it is decided.

        No later than *deadline* (monotonic clock), where waiting can be cut short at all: every timeout of
        the output is the smaller of its own and of what is left. The payload may be another output's, and so
        be compressed or even encoded in another way than this one does it. Its data is borrowed until the
        return: the output keeps no view of it, not in an exception either. Whatever goes wrong outside this
        process is a verdict, never an exception.
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

    def interrupt(self, before: float) -> None:
        """End the attempts that began before then (monotonic clock) with a RETRY, and only these.

        Outputs that never wait have nothing to do.
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
