"""From temporary names to final ones, many files at a time: the group commit of a spool.

Syncing costs much the same for one file as for the folder, so files that were written within
:data:`INTERVAL_S` are synced and renamed together, and then their folder once. Only after that does whoever
wrote a file hear that it is safe.

One thread does this, and the chores of the spool besides, so that neither flushers nor senders ever wait for
a disk that is slow to sync.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.store import disk

logger = logging.getLogger(__name__)

INTERVAL_S = 0.1
"""A file is safe so long after it was written, and the time that the disk needs."""

GROUP_MAX = 32
"""With so many files waiting, a group is committed at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A file under its temporary name. The descriptor belongs to whoever commits it."""

    fd: int
    name: str
    size: int
    metrics: int
    added: bool
    done: Callable[[bool], None]


Outcome = tuple[Pending, OSError | None]
"""What became of a file: no error if it has its name, else there is no such file any more."""


def commit(folder: str, group: Sequence[Pending], sync: bool) -> list[Outcome]:
    """Give the files of *group* their names, for good where *sync* is set. Raises nothing."""
    outcomes: list[Outcome] = []
    for one in group:
        path = os.path.join(folder, one.name)
        error: OSError | None = None
        try:
            try:
                if sync:
                    os.fsync(one.fd)
            finally:
                os.close(one.fd)
            os.rename(path + disk.PART, path)
        except OSError as failed:
            error = failed
            disk.discard(path + disk.PART)
        outcomes.append((one, error))
    if sync and any(error is None for _, error in outcomes):
        try:
            disk.sync_folder(folder)
        except OSError as failed:
            # A file that cannot be removed either is there, by its name: that is what counts.
            outcomes = [
                (one, failed if error is None and disk.discard(os.path.join(folder, one.name)) else error)
                for one, error in outcomes
            ]
    return outcomes


class Committer:
    """The thread ``spool-NAME``, which is started when it is first needed. All methods: any thread.

    *settle* is told of every group that was committed. *chores* does whatever else is due, and returns when
    it wants to be called again: seconds from now, or None for not before :meth:`chore`.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        settle: Callable[[list[Outcome]], None],
        chores: Callable[[], float | None],
    ) -> None:
        self._name = name
        self._folder = folder
        self._settle = settle
        self._chores = chores
        self._changed = threading.Condition(threading.Lock())
        self._pending: list[Pending] = []
        self._first_at = 0.0  # monotonic, of what is pending
        self._submitted = self._committed = 0
        self._hurry = False
        self._chore_at: float | None = None  # monotonic
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, one: Pending) -> None:
        """Commit this file with the next group. After :meth:`close`, at once."""
        with self._changed:
            closed = self._closed
            if not closed:
                if not self._pending:
                    self._first_at = time.monotonic()
                self._pending.append(one)
                self._submitted += 1
                self._run_thread()
        if closed:
            self._settle(commit(self._folder, [one], sync=True))

    def chore(self, within: float = 0.0) -> None:
        """There may be something to do: call *chores* within so many seconds."""
        with self._changed:
            at = time.monotonic() + within
            if not self._closed and (self._chore_at is None or self._chore_at > at):
                self._chore_at = at
                self._run_thread()

    def flush(self, timeout: float) -> bool:
        """Commit at once what is pending; False if that was not done within *timeout* seconds."""
        with self._changed:
            wanted = self._submitted
            if self._committed >= wanted:
                return True
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._committed >= wanted, timeout)

    def close(self, timeout: float) -> bool:
        """Commit what is pending, and end the thread; False if that took too long."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            return not thread.is_alive()
        return True

    def _run_thread(self) -> None:
        """Start the thread, or wake it. Under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"spool-{self._name}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                if group:
                    self._settle(commit(self._folder, group, sync=True))
                else:
                    wait_s = self._chores()
                    if wait_s is not None:
                        self.chore(wait_s)
            except Exception:
                logger.critical("a spool failed in a way that it should not", exc_info=True)
            with self._changed:
                self._committed += len(group)
                self._changed.notify_all()

    def _next_group(self) -> list[Pending] | None:
        """Wait for something to do: a group, nothing but chores (an empty one), or the end (None)."""
        with self._changed:
            while True:
                now = time.monotonic()
                wake_at: list[float] = []
                if self._chore_at is not None and not self._closed:
                    if now >= self._chore_at:
                        self._chore_at = None
                        return []
                    wake_at.append(self._chore_at)
                if self._pending:
                    commit_at = self._first_at + INTERVAL_S
                    full = len(self._pending) >= GROUP_MAX
                    if full or self._hurry or self._closed or now >= commit_at:
                        group, self._pending, self._hurry = self._pending, [], False
                        return group
                    wake_at.append(commit_at)
                elif self._closed:
                    return None
                self._changed.wait(min(wake_at) - now if wake_at else None)
