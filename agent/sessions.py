"""Who looks at the data plane while it runs: taps, which show lines of the batches in the senders' hands, and
captures (:mod:`agent.captures`), which keep datagrams as they came.

A session is opened and closed by whoever asks (:mod:`agent.admin.watching`), and ends by itself when a reload
takes away what it looks at. All of them together have a bounded share of the time: :data:`TAP_SHARE`.
"""

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from agent._core import Lane, Tap
from agent.captures import Captures, CaptureSession, Known, told
from agent.delivery.flusher import Flusher
from agent.door import Door
from agent.errors import ControlError
from agent.patterns import compile_glob
from agent.route import Route

TAPS_MAX = 4
TAP_SHARE = 0.03
"""Of one processor's time, for all taps together."""
RATE_MAX = 100_000
"""Lines a second that a tap may ask for."""

RELOAD, STOPPED = "reload", "stopped"
"""Why a session has ended by itself."""


@dataclass(frozen=True)
class Frame:
    """What a tap shows: lines since the last one, and metrics since it was opened."""

    lines: bytes
    passed: int
    """Of the wanted listeners."""
    matched: int
    shown: int
    skipped: int
    """That were not looked at."""


class TapSession:
    """One who looks. For one thread at a time, but for *ended*."""

    def __init__(self, tap: Tap, flusher: Flusher, listeners: Collection[Known]) -> None:
        self._tap = tap
        self.flusher = flusher
        self.listeners = listeners
        self.ended = ""
        """Why nothing more comes; empty as long as something may."""
        self.skipped = 0
        """Metrics that it had not looked at when something was last taken."""

    def limit(self, share: float) -> None:
        """Look for so much of the time."""
        self._tap.limit(share)

    def attach(self) -> None:
        """Begin to look."""
        self.flusher.delivery.taps = (*self.flusher.delivery.taps, self._tap)

    def detach(self) -> None:
        """Look no more."""
        delivery = self.flusher.delivery
        delivery.taps = tuple(tap for tap in delivery.taps if tap is not self._tap)

    def take(self) -> Frame:
        frame = Frame(*self._tap.take())
        self.skipped = frame.skipped
        return frame


class Sessions:
    """All of one agent. Any thread."""

    def __init__(self) -> None:
        # Guards all below, and what is attached.
        self._lock = threading.Lock()
        self._listeners: Sequence[Known] = ()
        self._routes: Sequence[Route] = ()
        self._taps: list[TapSession] = []
        self._skipped = 0
        self._captures = Captures()

    @property
    def taps(self) -> int:
        """How many look."""
        return len(self._taps)

    @property
    def skipped(self) -> int:
        """Metrics that taps have not looked at, of all taps that ever were."""
        with self._lock:
            return self._skipped + sum(session.skipped for session in self._taps)

    # ---- the pipeline ----

    def connect(
        self,
        lanes: Sequence[Lane],
        doors: Sequence[Door],
        others: Iterable[Known],
        routes: Sequence[Route],
        capture_bytes: int,
    ) -> None:
        """Look at these from now on. *others* are known by a number, and are no listeners of the config.

        *capture_bytes*: so much of what each of the lanes and receivers takes is kept all the time.
        """
        receivers = [(one, door.number) for door in doors if door.input for one in door.input.receivers()]
        with self._lock:
            self._listeners = [
                *(
                    Known(door.number, door.config.name, door.config.address, door.config.format)
                    for door in doors
                ),
                *others,
            ]
            self._captures.connect((lanes, receivers), capture_bytes)
            self._routes = routes
            flushers = {route.flusher for route in routes}
            for tap in [*self._taps]:
                known = set(tap.listeners) <= set(self._listeners)
                if tap.flusher not in flushers or not known:
                    self._end_tap(tap, RELOAD)

    def stop(self) -> None:
        """End all of them."""
        with self._lock:
            self._listeners, self._routes = (), ()
            for tap in [*self._taps]:
                self._end_tap(tap, STOPPED)
            self._captures.stop()

    # ---- those who look ----

    def open_tap(
        self, *, match: str = "", listeners: Iterable[str] = (), output: str = "", rate: int = 1000
    ) -> TapSession:
        """Look at what goes to *output*, the first one if it is empty.

        *match* is a glob of the measurement, or of measurement and tags if it has a comma or an equals sign;
        *listeners* are names, addresses or places in the config, from 1; none are all. Raises ControlError.
        """
        if not 1 <= rate <= RATE_MAX:
            raise ControlError(f"rate is {rate}; it is 1 to {RATE_MAX:,} lines a second")
        try:
            pattern = compile_glob(match) if match else None
        except ValueError as error:
            raise ControlError(f"match: {match!r} {error}") from None
        with self._lock:
            wanted = [self._listener(one) for one in listeners]
            names = [route.config.name for route in self._routes]
            if (output and output not in names) or not names:
                raise ControlError(f"no output is named {output!r}; there are {', '.join(names) or 'none'}")
            if len(self._taps) == TAPS_MAX:
                raise ControlError(f"{TAPS_MAX} taps look already; there cannot be more")
            route = self._routes[names.index(output) if output else 0]
            tap = Tap(
                pattern,
                whole_head="," in match or "=" in match,
                listeners={one.number for one in wanted} if wanted else None,
                rate=rate,
            )
            session = TapSession(tap, route.flusher, wanted)
            self._taps.append(session)
            self._share()
            session.attach()
        return session

    def close_tap(self, session: TapSession) -> None:
        """Look no more. A second time is harmless."""
        with self._lock:
            self._end_tap(session, session.ended or STOPPED)

    def open_capture(
        self,
        *,
        listeners: Iterable[str] = (),
        last: float = 0.0,
        seconds: float = 0.0,
        datagrams: int = 0,
    ) -> CaptureSession:
        """Capture what *listeners* bring, given as for :meth:`open_tap`. Raises ControlError.

        See :meth:`agent.captures.Captures.open`.
        """
        with self._lock:
            wanted = [self._listener(one) for one in listeners] or self._listeners
            return self._captures.open(
                told(dict.fromkeys(wanted)), last=last, seconds=seconds, datagrams=datagrams
            )

    @property
    def capture_missed(self) -> int:
        """Datagrams that captures, those that have ended too, were too slow for."""
        with self._lock:
            return self._captures.missed

    def close_capture(self, session: CaptureSession) -> None:
        """Capture no more. A second time is harmless."""
        with self._lock:
            self._captures.close(session)

    def _end_tap(self, session: TapSession, why: str) -> None:
        if session in self._taps:
            self._taps.remove(session)
            session.detach()
            session.ended = why
            self._skipped += session.skipped
            self._share()

    def _share(self) -> None:
        for session in self._taps:
            session.limit(TAP_SHARE / len(self._taps))

    def _listener(self, wanted: str) -> Known:
        for known in self._listeners:
            if wanted in (known.name, known.address):
                return known
        if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(self._listeners):
            return self._listeners[int(wanted) - 1]
        names = ", ".join(known.name for known in self._listeners)
        raise ControlError(f"no listener is named {wanted!r}; there are {names or 'none'}")
