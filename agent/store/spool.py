"""A queue on disk: the finished bodies that an output could not deliver yet, one in each file.

    spool/NAME/20260101T000000.000000000Z-00000001-5000-ns-1a2b3c4d-….lp.gz     waits
    spool/NAME/….lp.gz.part                                                     is being written
    spool/NAME/corrupt/….lp.gz                                                  was not what its name says

Files are immutable. One is written by whoever has the body, and counts from when it has its name, after the
group commit (:mod:`agent.store.commit`); it is gone when its metrics are decided. The folder is the truth: a
process that starts finds what the last one left, and what a limit costs is counted.

A disk that is full, read-only or broken costs nothing but time: what cannot be stored stays its owner's, is
counted as an error, and everything goes on by itself once the disk works again. What a :class:`Spool` holds
in memory does not grow with the number of files (:mod:`agent.store.folder`).
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.config import SpoolTable
from agent.outputs.base import Payload
from agent.store import disk
from agent.store.commit import Committer, Outcome, Pending, commit
from agent.store.folder import Index
from agent.store.owed import Owed
from agent.store.spool_file import (
    Entry,
    SpoolCounters,
    file_name,
    metrics_of,
    parse,
    read_payload,
    set_aside,
    time_of,
)
from agent.store.stock import REMOVALS_MAX, Limits, Stock
from agent.store.trouble import Trouble

logger = logging.getLogger(__name__)

PENDING_MAX = 64
"""Files that may be under their temporary names at once; further writers wait."""

ASIDE_MAX = 1024
"""With so many files that can be neither read nor removed, no more are taken."""

REST_S = 60.0
"""A file that could not be read, nor moved away, is left alone for so long."""

CHORES_S = 1.0
"""Limits are looked at so often while something waits."""

READING_S = 0.5
"""Whoever wants the counters waits no longer for what the disk is doing."""

# Not the file's fault: the process or the machine has run out of something.
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR})


class Spool:
    """The spool of one output, in *folder*, which is made. All methods may be called by any thread.

    Raises OSError if the folder cannot be used for a reason that a person must mend; any other trouble with
    the disk is counted and got over, here and in every method. *changed* is called, by any thread, when a
    file was stored or the disk works again: whoever waits for that may look now.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: SpoolTable,
        *,
        changed: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.folder = folder
        self._path = str(folder)
        self._changed = changed
        self._monotonic = monotonic
        # Guards all below, and every change of the folder but those that give files their names.
        self._lock = threading.Lock()
        self._settings = settings
        self._index = Index(self._path, metrics_of)
        self._trouble = Trouble("spool", name, self._path, monotonic)
        self._stock = Stock(
            self._path,
            self._index,
            self._trouble,
            _limits(settings),
            time_of,
            wall=wall,
            monotonic=monotonic,
        )
        self.owed = Owed()
        """What of it has its time still; told by whoever puts it there."""
        self._closed = False
        self._sequence = 0
        self._resting: dict[str, float] = {}  # name: until when (monotonic)
        self._condemned: set[str] = set()  # out, and to be dropped instead of being sent again
        self._stored = self._added = self._decided = 0
        self._probe_bytes = 0  # what could not be written
        self._reading = SpoolCounters()
        self._ticking = threading.Lock()
        self._room = threading.BoundedSemaphore(PENDING_MAX)
        self._committer = Committer(name, self._path, self._settle, self.tick)
        self._stock.open(first=True)
        self._note_foreign()
        if self._index.files or self._trouble:
            self._committer.chore()

    # ---- what is to be kept ----

    def has_room(self, size: int) -> bool:
        """Whether a body of that size is likely to fit without pushing another one out. Takes no lock."""
        return self._stock.opened and self._stock.has_room(size)

    def put(
        self,
        payload: Payload,
        oldest_ns: int,
        done: Callable[[bool], None],
        batch: str = "",
        *,
        gently: bool = False,
    ) -> None:
        """Store *payload* of *batch*, its id, whose oldest metric arrived at *oldest_ns* (since 1970).

        With *gently* it is refused where older files would have to go for it.

        Writes in the calling thread, and keeps nothing of the payload. *done* is called exactly once, by any
        thread and perhaps before the return: with True when the file is safe, with False when the metrics
        could not be stored and are still the caller's. Blocks while too many files wait for their commit.
        """
        self._put(payload, oldest_ns, done, batch, added=False, gently=gently)

    def add(self, payload: Payload, oldest_ns: int) -> bool:
        """Store what a command brings, which counts as restored, and wait for it. False: it was not."""
        outcome: list[bool] = []
        ready = threading.Event()

        def done(stored: bool) -> None:
            outcome.append(stored)
            ready.set()

        self._put(payload, oldest_ns, done, "", added=True)
        ready.wait()
        return outcome[0]

    def _put(
        self,
        payload: Payload,
        oldest_ns: int,
        done: Callable[[bool], None],
        batch: str,
        added: bool,
        gently: bool = False,
    ) -> None:
        pending: Pending | None = None
        self._room.acquire()
        try:
            pending = self._write(payload, oldest_ns, done, batch, added, gently)
        except Exception:
            extra = {"output": self.name, "batch": batch}
            logger.exception("a spool failed in a way that it should not", extra=extra)
        sync = self._settings.sync
        if pending is None:
            self._room.release()
            self._tell(done, False)
        elif sync == "interval":
            self._committer.submit(pending)
        else:
            self._settle(commit(self._path, [pending], sync == "always"))

    def _write(
        self,
        payload: Payload,
        oldest_ns: int,
        done: Callable[[bool], None],
        batch: str,
        added: bool,
        gently: bool,
    ) -> Pending | None:
        """Write the temporary file. None if that cannot be done now, which has been noted."""
        size = len(payload.data)
        with self._lock:
            if gently and not self._stock.has_room(size):
                return None
            if not self._is_writable() or not self._stock.make_room(size, "spool_full", "spool_space"):
                self._committer.chore(CHORES_S)
                return None
        while True:
            with self._lock:
                self._sequence += 1
                sequence = self._sequence
            name = file_name(payload, oldest_ns, sequence, batch)
            path = self._stock.at(name)
            # An earlier process may have used the number for metrics of the very same time.
            if not os.path.lexists(path):
                break
        with self._lock:
            self._stock.coming[name] = size
        try:
            try:
                fd = disk.create(path + disk.PART, payload.data)
            except FileNotFoundError:
                # Somebody has removed the folder.
                disk.make_folder(self._path)
                fd = disk.create(path + disk.PART, payload.data)
        except OSError as error:
            with self._lock:
                del self._stock.coming[name]
                self._fail_to_write(size, error)
            return None
        return Pending(fd, name, size, payload.metrics, added, done)

    def _settle(self, outcomes: list[Outcome]) -> None:
        """Take account of files that were committed, or could not be, and tell those who wrote them."""
        with self._lock:
            for one, error in outcomes:
                del self._stock.coming[one.name]
                if error is not None:
                    self._fail_to_write(one.size, error)
                    continue
                self._index.add(one.name, one.size)
                self._added += one.metrics if one.added else 0
                self._stored += 0 if one.added else one.metrics
            if all(error is None for _, error in outcomes):
                self._trouble.worked("write")
        for one, error in outcomes:
            self._room.release()
            self._tell(one.done, error is None)
        self._committer.chore(CHORES_S)
        self._tell_change()

    def _fail_to_write(self, size: int, error: OSError) -> None:
        self._probe_bytes = size
        self._trouble.failed("write", error)
        self._committer.chore(CHORES_S)

    def _tell(self, done: Callable[[bool], None], stored: bool) -> None:
        try:
            done(stored)
        except Exception:
            logger.critical("metrics of a spool are not accounted for", exc_info=True)

    def _tell_change(self) -> None:
        try:
            self._changed()
        except Exception:
            logger.exception("a spool failed in a way that it should not", extra={"output": self.name})

    # ---- what is to be delivered ----

    def take(self) -> Entry | None:
        """The oldest that waits. It is the caller's until :meth:`remove` or :meth:`put_back`."""
        with self._lock:
            aside = len(self._stock.gone) + len(self._resting)
            if self._closed or not self._stock.opened or aside >= ASIDE_MAX or self._trouble.paused("read"):
                return None
            self._stock.refill()
            item = self._index.take()
            return parse(*item) if item is not None else None

    def load(self, entry: Entry) -> Payload | None:
        """Read and check what was taken. None: the entry is done with, and what became of it was counted."""
        if entry.name in self._condemned:
            self.put_back(entry)
            return None
        try:
            payload = read_payload(self._path, entry)
        except FileNotFoundError:
            with self._lock:
                self._stock.drop(entry.name, "spool_missing")
        except OSError as error:
            self._unreadable(entry, error)
        except ValueError as error:
            self._set_aside(entry, str(error))
        else:
            with self._lock:
                self._trouble.worked("read")
            return payload
        return None

    def remove(self, entry: Entry) -> None:
        """Its metrics are decided: they were delivered or rejected."""
        with self._lock:
            self._condemned.discard(entry.name)
            if self._index.holds(entry.name):
                self._decided += self._stock.decide(entry.name)

    def put_back(self, entry: Entry) -> None:
        """Not now: it waits again, before all that is younger."""
        with self._lock:
            if self._index.holds(entry.name):
                self._index.give_back(entry.name)
            if entry.name in self._condemned:
                self._condemned.discard(entry.name)
                self._stock.drop_named(entry.name, "spool_dropped")

    def _unreadable(self, entry: Entry, error: OSError) -> None:
        with self._lock:
            if error.errno in _SHORTAGE:
                self._trouble.failed("read", error)
                self._index.give_back(entry.name)
                self._committer.chore(CHORES_S)
                return
            self._trouble.count(error)
        self._set_aside(entry, error.strerror or str(error), readable=False)

    def _set_aside(self, entry: Entry, reason: str, readable: bool = True) -> None:
        """Move a file to ``corrupt``. One that cannot be moved either must not block those behind it."""
        extra = {
            "output": self.name,
            "file": self._stock.at(entry.name),
            "reason": reason,
            "metrics": entry.metrics,
            "batch": entry.batch,
        }
        with self._lock:
            try:
                set_aside(self._path, entry.name)
            except FileNotFoundError:
                self._stock.drop(entry.name, "spool_missing")
                return
            except OSError as error:
                self._trouble.count(error)
                if not readable:
                    # It may be the disk and not the file: nothing is decided yet.
                    self._resting[entry.name] = self._monotonic() + REST_S
                    self._committer.chore(CHORES_S)
                    logger.warning("a file of a spool cannot be read now", extra=extra)
                    return
                self._stock.gone.add(entry.name)
            self._stock.drop(entry.name, "spool_corrupt")
        logger.error("a file of a spool was damaged and is set aside", extra=extra)

    # ---- chores ----

    def tick(self) -> float | None:
        """Enforce the limits, and try again what failed; the spool's own thread calls it.

        Returns in how many seconds it wants to be called again, None if only :meth:`put` can change that.
        """
        with self._ticking:
            with self._lock:
                failing = bool(self._trouble)
                if not self._stock.opened and not self._trouble.paused("open"):
                    self._stock.open()
                    self._note_foreign()
                more = self._stock.opened and self._stock.enforce("spool_full", "spool_age", "spool_space")
                gone = len(self._stock.gone)
                self._stock.remove_gone()
                # Whoever was told that there is nothing to take may look again.
                news = self._wake_resting() or len(self._stock.gone) < gone
                news = news or (self._trouble.has("read") and not self._trouble.paused("read"))
                probing = self._trouble.has("write") and not self._trouble.paused("write")
            if probing:
                self._probe()
            with self._lock:
                again = bool(self._index.files or self._trouble or self._stock.gone)
                news = news or (failing and not self._trouble)
        if news:
            self._tell_change()
        return 0.0 if more else CHORES_S if again else None

    def due(self) -> float | None:
        """Nothing is left to others: the spool's own thread does what is due."""
        return None

    def _wake_resting(self) -> bool:
        now = self._monotonic()
        rested = [name for name, until in self._resting.items() if now >= until]
        for name in rested:
            del self._resting[name]
            self._index.give_back(name)
        return bool(rested)

    def _probe(self) -> None:
        """See whether the disk takes again what it did not take; not under the lock, since it may be slow."""
        error: OSError | None = None
        try:
            disk.make_folder(self._path)
            disk.probe(self._path, self._probe_bytes)
        except OSError as failed:
            error = failed
        with self._lock:
            if error is not None:
                self._trouble.failed("write", error)
            else:
                self._trouble.worked("write")

    def _note_foreign(self) -> None:
        if self._index.foreign:
            names = ", ".join(self._index.foreign_names)
            extra = {"output": self.name, "folder": self._path, "files": self._index.foreign, "some": names}
            logger.warning("files that are not of a spool are in its folder and are left alone", extra=extra)

    # ---- commands, counters, the end ----

    def drop(self, names: Iterable[str]) -> int:
        """Remove these files for good, as a person wants it; returns how many.

        One that is out is removed unless the attempt that is under way brings it home.
        """
        removed = 0
        for name in names:
            with self._lock:
                removed += metrics_of(name) is not None and self._stock.drop_named(name, "spool_dropped")
                removed += self._condemn(name)
        return removed

    def _condemn(self, name: str) -> bool:
        """Have a file that is out dropped as soon as it is not. False if it is not, or condemned already."""
        if not self._index.holds(name) or name in self._condemned:
            return False
        self._condemned.add(name)
        return True

    def drop_before(self, before_ns: float) -> int:
        """The same with everything older than *before_ns* (since 1970)."""
        with self._lock:
            out = [name for name in self._index.out if time_of(name) < before_ns]
            removed = sum(map(self._condemn, out))
        more = True
        while more:
            with self._lock:
                for _ in range(REMOVALS_MAX):
                    more = self._stock.drop_oldest("spool_dropped", before_ns) > 0
                    removed += more
                    if not more:
                        break
        return removed

    def flush(self, timeout: float) -> bool:
        """Commit what is pending now; False if that took longer than *timeout* seconds."""
        return self._committer.flush(timeout)

    def reconfigure(self, settings: SpoolTable) -> None:
        """Use other settings from now on."""
        with self._lock:
            self._settings = settings
            self._stock.limits = _limits(settings)
        self._committer.chore()

    def close(self, timeout: float = 10.0) -> None:
        """Commit what is pending, and end. What is put from now on is refused."""
        with self._lock:
            self._closed = True
        if not self._committer.close(timeout):
            logger.error("a spool could not be synced in time", extra={"output": self.name})

    def _is_writable(self) -> bool:
        return not (self._closed or not self._stock.opened or self._trouble.paused("write"))

    @property
    def writable(self) -> bool:
        """Whether a :meth:`put` has a chance now. False for a while after an error."""
        with self._lock:
            return self._is_writable() and not self._trouble.paused("space")

    @property
    def counters(self) -> SpoolCounters:
        """One reading; the last one again while a disk that hangs holds things up."""
        if self._lock.acquire(timeout=READING_S):
            try:
                self._reading = self._read()
            finally:
                self._lock.release()
        return self._reading

    def _read(self) -> SpoolCounters:
        index = self._index
        dropped = dict(self._stock.dropped)
        if index.vanished:
            dropped["spool_missing"] = dropped.get("spool_missing", 0) + index.vanished
        return SpoolCounters(
            restored=self._added + index.appeared,
            stored=self._stored,
            decided=self._decided,
            dropped=dropped,
            metrics=index.metrics,
            files=index.files,
            bytes=index.bytes,
            oldest_ns=time_of(index.oldest),
            foreign=index.foreign,
            errors=self._trouble.errors,
            failing=self._trouble.failing,
        )


def _limits(settings: SpoolTable) -> Limits:
    return Limits(settings.max_bytes, settings.max_age, settings.min_free_space)
