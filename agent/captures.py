"""Captures: what the listeners of datagrams receive, kept in memory as it came, for whoever asks for it.

The lanes, and the receivers of listeners that Python reads, write what they take into memory of their own
(``ext/capture.h``): all the time with ``[agent] capture_ring``, else only while somebody captures.
Connections are not captured, for where their lines begin is not in a read.
"""

import logging
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent import __version__
from agent._core import Capture, Lane, Receiver
from agent.capture_file import Block, Header, Kind, end_block
from agent.errors import ControlError

logger = logging.getLogger(__name__)

LIVE_BYTES = 16 << 20
"""Of memory for each writer, while somebody captures; touched only as far as it is used."""

SETTLE_NS = 100_000_000
"""What is so old has been written by every lane, so that all of it can be put in order."""

_LISTENERS_MAX = 64
_UNWANTED = 255
_ANY_NUMBER = (1 << 64) - 1


@dataclass(frozen=True)
class Known:
    """A listener, as it may be asked for."""

    number: int
    name: str
    address: str
    format: str = ""


Writers = tuple[Sequence[Lane], Sequence[tuple[Receiver, int]]]
"""Who receives datagrams: the lanes, and receivers with the numbers of their listeners."""


class CaptureSession:
    """One who captures. For one thread."""

    def __init__(
        self,
        captures: Sequence[Capture],
        listeners: Sequence[Known],
        *,
        last: float = 0.0,
        seconds: float = 0.0,
        datagrams: int = 0,
    ) -> None:
        self.ended = ""
        """``time``, ``count`` or ``stopped``: why no more blocks come; empty as long as some may."""
        self.datagrams = self.nbytes = 0
        """That were taken, and the bytes of their blocks."""
        self._captures = captures
        self._left = datagrams or _ANY_NUMBER
        numbers = bytearray([_UNWANTED]) * _LISTENERS_MAX
        for place, known in enumerate(listeners):
            numbers[known.number] = place
        self._numbers = bytes(numbers)
        now = time.time_ns()
        self._since = now - round(last * 1e9) if last else 0
        self._until = now if last else None
        self._deadline = time.monotonic() + seconds if seconds else None
        for capture in captures:
            capture.rewind(bool(last))
        self.header = Header(
            __version__,
            socket.gethostname(),
            now,
            tuple({"name": one.name, "address": one.address, "format": one.format} for one in listeners),
        )

    @property
    def waiting(self) -> int:
        """Bytes that can be taken, about."""
        return sum(capture.waiting for capture in self._captures)

    @property
    def missed(self) -> int:
        """Datagrams that were gone before they were taken; of all listeners, whichever are wanted."""
        return sum(capture.missed for capture in self._captures)

    def take(self) -> Block | None:
        """The next block, of a mebibyte at most; None if there is none now."""
        if self.ended:
            return None
        if self._until is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._until = time.time_ns()
        settled = time.time_ns() - SETTLE_NS
        over = self._until is not None and settled >= self._until
        until = settled if self._until is None else min(settled, self._until)
        found = Capture.take(self._captures, self._numbers, self._since, until, self._left)
        if found is None:
            if over:
                self.ended = "time"
            return None
        raw, datagrams, first_ns = found
        self.datagrams += datagrams
        self.nbytes += len(raw)
        self._left -= datagrams
        if not self._left:
            self.ended = "count"
        return Block(Kind.DATAGRAMS, raw, datagrams, first_ns)

    def end(self) -> Block:
        """What stands at the end of the file."""
        return end_block(self.datagrams, self.nbytes, self.missed, self.ended or "stopped")


class Captures:
    """Whose datagrams are kept, and where. For one thread at a time."""

    def __init__(self) -> None:
        self.session: CaptureSession | None = None
        self._missed = 0
        """By all sessions that have ended."""
        self._writers: Writers = ((), ())
        self._size = 0
        """Of what is always kept."""
        self._made: dict[Lane | Receiver, Capture] = {}
        self._made_size = 0

    @property
    def missed(self) -> int:
        """Datagrams that were gone before a session took them."""
        return self._missed + (self.session.missed if self.session is not None else 0)

    def connect(self, writers: Writers, size: int) -> None:
        """Keep what these receive, *size* bytes of it each, as long as nobody captures; 0: nothing.

        Without memory nothing is kept, and a warning says so.
        """
        self._writers, self._size = writers, size
        try:
            self._fit()
        except OSError as error:
            self._let_go()
            logger.warning("there is no memory for captures", extra={"error": str(error)})

    def open(
        self,
        listeners: Sequence[Known],
        *,
        last: float = 0.0,
        seconds: float = 0.0,
        datagrams: int = 0,
    ) -> CaptureSession:
        """Capture what these bring from now on; or what they brought in the *last* seconds.

        It ends after *seconds*, or so many *datagrams*; 0: it does not. Raises ControlError.
        """
        if self.session is not None:
            raise ControlError("somebody captures already; there can be one at a time")
        if last and not self._size:
            raise ControlError(
                'nothing is kept: with [agent] capture_ring, such as "64MiB", the last datagrams are'
            )
        try:
            self._fit(LIVE_BYTES)
        except OSError as error:
            self._let_go()
            raise ControlError(f"there is no memory for it: {error.strerror}") from error
        self.session = CaptureSession(
            list(self._made.values()), listeners, last=last, seconds=seconds, datagrams=datagrams
        )
        return self.session

    def close(self, session: CaptureSession) -> None:
        """It ends. A second time is harmless."""
        if session is not self.session:
            return
        self.session = None
        self._missed += session.missed
        if session.missed:
            logger.warning("a capture could not keep up", extra={"missed": session.missed})
        self.connect(self._writers, self._size)

    def stop(self) -> None:
        """Keep nothing any more; whoever captures is told."""
        if self.session is not None:
            self.session.ended = self.session.ended or "stopped"
            self.close(self.session)
        self.connect(((), ()), 0)

    def _fit(self, live: int = 0) -> None:
        """Have all writers keep as much as is wanted. What a session reads stays as it is. Raises OSError."""
        size = self._size or live
        lanes, receivers = self._writers
        writers = {*lanes, *(receiver for receiver, _ in receivers)}
        if self.session is None:
            if size != self._made_size:
                self._let_go()
            if not size:
                return
            self._made_size = size
        for gone in self._made.keys() - writers:
            _attach(gone, None)
            if self.session is None:
                del self._made[gone]
        if self.session is not None:
            return  # whoever is new is not captured: the header of the file does not know it
        for lane in lanes:
            if lane not in self._made:
                lane.set_capture(made := Capture(size))
                self._made[lane] = made
        for receiver, number in receivers:
            if receiver not in self._made:
                self._made[receiver] = Capture(size)
            receiver.set_capture(self._made[receiver], number)

    def _let_go(self) -> None:
        for writer in self._made:
            _attach(writer, None)
        self._made = {}
        self._made_size = 0


def _attach(writer: Lane | Receiver, capture: Capture | None) -> None:
    if isinstance(writer, Lane):
        writer.set_capture(capture)
    else:
        writer.set_capture(capture, 0)


def told(listeners: Iterable[Known]) -> Sequence[Known]:
    """Those of *listeners* that a capture knows: of the config, which have a format."""
    return [one for one in listeners if one.format]
