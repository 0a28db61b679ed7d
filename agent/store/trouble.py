"""What is wrong with a disk: counted, told, and left alone for a while, until it works again by itself."""

import logging
import time
from collections.abc import Callable, Mapping

from agent.store.disk import errno_name

logger = logging.getLogger(__name__)

PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 30.0
"""So long nothing is tried again after an error; from the one to the other, doubled each time."""


class Trouble:
    """The errors of one folder, by what was tried: ``open``, ``write``, ``read``, ``remove``, ``space``.

    Not thread-safe. *what* and *name* stand in log lines: a ``spool`` of the output ``influx``.
    """

    def __init__(
        self, what: str, name: str, folder: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._extra = {"what": what, "folder": folder, "output": name}
        self._monotonic = monotonic
        self._errors: dict[str, int] = {}
        # By what was tried: why it failed, how long it is left alone, and until when (monotonic).
        self._open: dict[str, tuple[str, float, float]] = {}

    @property
    def errors(self) -> Mapping[str, int]:
        """All that ever happened, by the name of the error."""
        return dict(self._errors)

    @property
    def failing(self) -> str:
        """What does not work now, for people; empty if everything does."""
        return "; ".join(dict.fromkeys(text for text, _, _ in self._open.values()))

    def failed(self, tried: str, error: OSError) -> None:
        """Note an error."""
        self.count(error)
        self.refused(tried, error.strerror or str(error))

    def count(self, error: OSError) -> None:
        """Count an error that stands in the way of nothing else."""
        name = errno_name(error)
        self._errors[name] = self._errors.get(name, 0) + 1

    def refused(self, tried: str, text: str) -> None:
        """Note that something was not even tried, and why."""
        now = self._monotonic()
        _, pause, until = self._open.get(tried, ("", PAUSE_MIN_S / 2, now))
        if now < until:
            # Several that fail at once, in as many threads, are one failure.
            self._open[tried] = (text, pause, until)
            return
        pause = min(2 * pause, PAUSE_MAX_S)
        self._open[tried] = (text, pause, now + pause)
        extra = {**self._extra, "tried": tried, "reason": text, "pause_s": pause}
        logger.warning("the disk of an output makes trouble; it will be tried again", extra=extra)

    def worked(self, tried: str) -> bool:
        """Note that something works; True if it did not before."""
        if self._open.pop(tried, None) is None:
            return False
        if not self._open:
            logger.info("the disk of an output works again", extra=self._extra)
        return True

    def has(self, tried: str) -> bool:
        return tried in self._open

    def paused(self, tried: str) -> bool:
        """Whether it is too early to try that again."""
        return tried in self._open and self._monotonic() < self._open[tried][2]

    def __bool__(self) -> bool:
        return bool(self._open)
