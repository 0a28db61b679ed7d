"""What a server refused for good, kept for a person: the lines, and beside them why.

    rejected/NAME/20260101T000000.000000000Z-00000001-7.lp       seven lines, refused at that time
    rejected/NAME/20260101T000000.000000000Z-00000001-7.json     the server's words, for all and for each line

What is no lines (a message of a broker that nobody can read) is kept as it came, in a ``.msg``. They are
counted as rejected either way; a disk that does not take them costs the files, never the account.
The ``.json`` gets its name first, so that no ``.lp`` is ever without its reasons.
"""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from agent.config import RejectedTable
from agent.store import disk
from agent.store.folder import Index, file_size
from agent.store.stock import Limits, Stock
from agent.store.trouble import Trouble

logger = logging.getLogger(__name__)

REASONS = ".json"
"""What takes the place of ``.lp`` or ``.msg`` in the name of the file that tells the reasons."""

LINES, MESSAGE = ".lp", ".msg"

REASON_CHARS_MAX = 256 << 10
"""So much text of reasons goes into one file; lines beyond it have none."""

READING_S = 0.5
"""Whoever wants the counters waits no longer for what the disk is doing."""

LOOK_S = 10.0
"""Limits are looked at so often; an age is counted in days."""

_NAME = re.compile(rf"({disk.STAMP})-([0-9]{{8,18}})-([0-9]{{1,10}})(?:\.lp|\.msg)")


@dataclass(frozen=True, slots=True)
class RejectedCounters:
    """One reading of what was refused and kept. Metrics, where nothing else is said."""

    metrics: int = 0
    """In the files that are there now, like the next two."""
    files: int = 0
    """Files of lines; each has another with its reasons."""
    bytes: int = 0
    """On the disk, where each file is rounded up to 4 KiB."""
    unsaved: int = 0
    """Refused, and not in any file: the disk did not take them."""
    removed: int = 0
    """Were in a file that a limit or a command has removed."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Calls that the system refused, by the name of the error."""
    failing: str = ""
    """What does not work now; empty if everything does."""


GUARD = "_guard"
"""In place of an output's name, for what the agent has left out itself: fields of another type."""

RELAY = "_relay"
"""The same, for messages of brokers that cannot be read."""


class Rejected:
    """The rejected metrics of one output, in *folder*, which is made. All methods: any thread.

    Raises OSError if the folder cannot be used for a reason that a person must mend; nothing else does.
    *target* is where the output sends to, for the reader of a file.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: RejectedTable,
        *,
        target: str = "",
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.folder = folder
        self.target = target
        self._wall = wall
        self._path = str(folder)
        self._lock = threading.Lock()
        self._index = Index(self._path, metrics_of, size_of=_size, beside=_is_reasons)
        self._trouble = Trouble("folder of rejected metrics", name, self._path, monotonic)
        self._stock = Stock(
            self._path,
            self._index,
            self._trouble,
            Limits(settings.max_bytes, settings.max_age),
            time_of,
            beside=reasons_path,
            wall=wall,
            monotonic=monotonic,
        )
        self._sequence = 0
        self._unsaved = 0
        self._reading = RejectedCounters()
        self._stock.open(first=True)
        self._remove_orphans()
        self._look_at = monotonic()
        self._monotonic = monotonic

    def put(
        self,
        lines: Sequence[tuple[bytes, str]],
        status: int | None,
        text: str,
        batch: str,
        oldest_ns: int,
    ) -> None:
        """Keep *lines*, each with the reason for which it was refused. Never raises.

        *status* and *text* are the server's answer, *batch* is the id of what the lines were a part of, and
        *oldest_ns* when the oldest metric of that arrived (since 1970).
        """
        if not lines:
            return
        saved = False
        try:
            saved = self._save(lines, status, text, batch, oldest_ns)
        except Exception:
            logger.exception("rejected metrics could not be kept", extra={"output": self.name})
        if not saved:
            with self._lock:
                self._unsaved += len(lines)

    def keep(self, body: bytes, metrics: int, about: Mapping[str, Any]) -> None:
        """Keep *body*, which is no lines, as it came, with what is to be told *about* it. Never raises.

        *metrics* is how many are in it, as far as that is known.
        """
        saved = False
        told = {"time": disk.stamp(int(self._wall() * 1e9)), "metrics": metrics, **about}
        try:
            saved = self._store(body, told, metrics, MESSAGE)
        except Exception:
            logger.exception("a message could not be kept", extra={"output": self.name})
        if not saved:
            with self._lock:
                self._unsaved += metrics

    def _save(
        self, lines: Sequence[tuple[bytes, str]], status: int | None, text: str, batch: str, oldest_ns: int
    ) -> bool:
        """Keep *lines*. False if that cannot be done now, which has been noted."""
        time_ns = int(self._wall() * 1e9)
        body = b"".join(line if line.endswith(b"\n") else line + b"\n" for line, _ in lines)
        about = {
            "output": self.name,
            "target": self.target,
            "batch": _utf8(batch),
            "time": disk.stamp(time_ns),
            "oldest": disk.stamp(oldest_ns),
            "oldest_ns": oldest_ns,
            "metrics": len(lines),
            "status": status,
            "text": _utf8(text),
            **_reasons([_utf8(reason) for _, reason in lines]),
        }
        return self._store(body, about, len(lines), LINES)

    def _store(self, body: bytes, about: Mapping[str, Any], metrics: int, suffix: str) -> bool:
        """Write both files. False if that cannot be done now, which has been noted."""
        time_ns = int(self._wall() * 1e9)
        reasons = orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        size = disk.occupied(len(body)) + disk.occupied(len(reasons))
        with self._lock:
            if not self._is_writable() or not self._stock.make_room(size, "limit", "limit"):
                return False
            name = self._free_name(time_ns, metrics, suffix)
            self._stock.coming[name] = size
        failure: OSError | None = None
        try:
            self._write(name, body, reasons)
        except OSError as error:
            failure = error
        with self._lock:
            del self._stock.coming[name]
            if failure is not None:
                self._trouble.failed("write", failure)
                return False
            self._trouble.worked("write")
            self._index.add(name, size)
        return True

    def _is_writable(self) -> bool:
        """Whether it makes sense to try, with the limits looked after. Under the lock, like the next."""
        self._enforce()
        if not self._stock.opened and not self._trouble.paused("open"):
            self._stock.open()
        return self._stock.opened and not self._trouble.paused("write")

    def _free_name(self, time_ns: int, metrics: int, suffix: str) -> str:
        while True:
            self._sequence += 1
            name = f"{disk.stamp(time_ns)}-{self._sequence:08d}-{metrics}{suffix}"
            if not os.path.lexists(self._stock.at(name)):
                return name

    def _write(self, name: str, body: bytes, reasons: bytes) -> None:
        """Put both files on the disk. Raises OSError, and then there is neither."""
        disk.make_folder(self._path)
        path = self._stock.at(name)
        beside = reasons_path(path)
        try:
            for final, data in ((beside, reasons), (path, body)):
                fd = disk.create(final + disk.PART, data)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            os.rename(beside + disk.PART, beside)
            os.rename(path + disk.PART, path)
            disk.sync_folder(self._path)
        except OSError:
            for one in (path, path + disk.PART, beside, beside + disk.PART):
                disk.discard(one)
            raise

    def _enforce(self) -> None:
        """Remove what is too old, now and then."""
        now = self._monotonic()
        if now >= self._look_at:
            more = self._stock.opened and self._stock.enforce("limit", "limit", "limit")
            self._look_at = now + (0.0 if more else LOOK_S)

    def _remove_orphans(self) -> None:
        """Reasons without lines: a process was killed between two names."""
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    stem = entry.path.removesuffix(REASONS)
                    alone = not any(os.path.lexists(stem + suffix) for suffix in (LINES, MESSAGE))
                    if _is_reasons(entry.name) and alone:
                        disk.discard(entry.path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._trouble.count(error)

    # ---- commands, counters, the end ----

    def due(self) -> float | None:
        """When :meth:`tick` wants to be called (monotonic clock), or None if it need not be."""
        with self._lock:
            return self._look_at if self._index.files else None

    def tick(self) -> None:
        """Remove what is too old."""
        with self._lock:
            self._enforce()

    def hold(self, name: str) -> bool:
        """Keep a file from being removed until :meth:`let_go`. False if it is not there, or held already."""
        with self._lock:
            return metrics_of(name) is not None and self._index.hold(name)

    def let_go(self, name: str, remove: bool) -> None:
        """Give up a file that is held; *remove* it, with its reasons, or leave it there."""
        with self._lock:
            self._index.give_back(name)
            if remove:
                self._stock.drop_named(name, "command")

    def remove(self, name: str) -> bool:
        """Remove the file of that name, with its reasons, as a person wants it. False if it is not there."""
        with self._lock:
            return metrics_of(name) is not None and self._stock.drop_named(name, "command")

    def remove_before(self, before_ns: float) -> int:
        """Remove what was refused before *before_ns* (since 1970); returns how many files."""
        removed, more = 0, True
        while more:
            with self._lock:
                more = self._stock.drop_oldest("command", before_ns) > 0
            removed += more
        return removed

    def reconfigure(self, settings: RejectedTable, target: str = "") -> None:
        """Use other settings from now on."""
        with self._lock:
            self._stock.limits = Limits(settings.max_bytes, settings.max_age)
            self.target = target or self.target
            self._look_at = self._monotonic()

    def close(self) -> None:
        """Nothing is held open; here for the sake of whoever closes everything."""

    @property
    def counters(self) -> RejectedCounters:
        """One reading; the last one again while a disk that hangs holds things up."""
        if self._lock.acquire(timeout=READING_S):
            try:
                self._reading = self._read()
            finally:
                self._lock.release()
        return self._reading

    def _read(self) -> RejectedCounters:
        index = self._index
        return RejectedCounters(
            metrics=index.metrics,
            files=index.files,
            bytes=index.bytes,
            unsaved=self._unsaved,
            removed=sum(self._stock.dropped.values()) + index.vanished,
            errors=self._trouble.errors,
            failing=self._trouble.failing,
        )


def metrics_of(name: str) -> int | None:
    """How many metrics are in the file of that name; None if it is not a name of rejected lines."""
    match = _NAME.fullmatch(name)
    return int(match[3]) if match is not None else None


def time_of(name: str) -> int:
    """When the lines of a file were refused, in nanoseconds since 1970; 0 if the name does not tell."""
    match = _NAME.fullmatch(name)
    try:
        return disk.parse_stamp(match[1]) if match is not None else 0
    except ValueError:
        return 0


def reasons_path(path: str) -> str:
    """The file with the reasons for what is in *path*."""
    return path.removesuffix(LINES).removesuffix(MESSAGE) + REASONS


def _is_reasons(name: str) -> bool:
    return name.endswith(REASONS) and metrics_of(name.removesuffix(REASONS) + LINES) is not None


def _size(path: str) -> int:
    """What both files of a pair take."""
    size = disk.occupied(file_size(path))
    try:
        return size + disk.occupied(file_size(reasons_path(path)))
    except FileNotFoundError:
        return size


def _utf8(text: str) -> str:
    """*text* as JSON can hold it: bytes of a server that were no text may stand in it as lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _reasons(of_lines: Sequence[str]) -> dict[str, Any]:
    """The reasons, each with the numbers of its lines (from 0), as far as there is room for their text."""
    lines: dict[str, list[int]] = {}
    chars = omitted = 0
    for number, reason in enumerate(of_lines):
        if reason not in lines:
            if chars + len(reason) > REASON_CHARS_MAX:
                omitted += 1
                continue
            chars += len(reason)
            lines[reason] = []
        lines[reason].append(number)
    shown = [{"reason": reason, "lines": numbers} for reason, numbers in lines.items()]
    return {"reasons": shown, "reasons_omitted": omitted}
