"""Batches appended to files of line protocol or of samples, which are rotated by size and by age.

    influx-20260101T000000.000000Z-000001.lp.part     being written, locked by its writer
    influx-20260101T000000.000000Z-000001.lp          finished: it appears at once, whole and on the disk

The time is that of the first batch in it, in UTC, so names sort by age. With gzip each batch is a member of
its own (``.lp.gz``): members in a row are a valid gzip file, and one that is cut off costs itself only.

With samples (``.pb``) each batch is a WriteRequest of Prometheus remote write, behind its length in bytes as
a varint: the form in which protobuf's libraries read messages one behind the other.

A batch is in the file whole or not at all: it is written behind what is known to be good, and whatever a
failed write has left is overwritten by the next one or cut off. A process that was killed leaves its
``.part`` behind, unlocked; the next one cuts off what is there of a last line, and finishes it.
"""

import fcntl
import logging
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

from isal import isal_zlib

from agent.config import FileOutput
from agent.errors import OutputError
from agent.outputs.base import GZIP_WBITS, Kind, Output, Payload, Verdict, one_line
from agent.outputs.bodies import SAMPLES, as_lines, as_samples
from agent.outputs.torn import whole_bytes

logger = logging.getLogger(__name__)

PART = ".part"

_LEVEL = 2


class FileSink(Output):
    """Appends to files in a folder, which is made. Raises OutputError if the folder cannot be used."""

    def __init__(self, config: FileOutput) -> None:
        self._folder = os.path.abspath(config.path)
        super().__init__(config.name, self._folder)
        self._config = config
        self._compression = "gz" if config.compression == "gzip" else ""
        self.encoding = SAMPLES if config.format == "protobuf" else "lp"
        self._suffix = f".{self.encoding}.gz" if self._compression else f".{self.encoding}"
        self._names = re.compile(
            rf"{re.escape(config.name)}-\d{{8}}T\d{{6}}\.\d{{6}}Z-\d{{6,}}\.(lp|pb)(\.gz)?"
        )
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._fd = -1  # of the .part file; -1: none is open
        self._path = ""  # of the finished file
        self._size = 0  # bytes known to be good
        self._opened_at = 0.0  # monotonic
        try:
            os.makedirs(self._folder, mode=0o750, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write to the folder {self._folder}; change its owner or mode")
        self._finish_left_over()

    def encode(self, body: memoryview, metrics: int, encoding: str = "lp") -> Payload:
        if self._compression != "gz" or encoding != self.encoding:
            return Payload(body, metrics, len(body), encoding)
        data = isal_zlib.compress(body, _LEVEL, GZIP_WBITS)
        return Payload(data, metrics, len(body), encoding, "gz")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        """Append it. A file system cannot be hurried, so *deadline* does not matter."""
        try:
            if (payload.encoding, payload.compression) != (self.encoding, self._compression):
                payload = self._convert(payload)
        except ValueError as error:
            return Verdict(Kind.REJECT, text=one_line(str(error)))
        if not payload.raw_bytes:
            # Samples of lines that had nothing but strings.
            return Verdict(Kind.DELIVERED)
        parts = [self._length(payload), payload.data] if self.encoding == SAMPLES else [payload.data]
        size = sum(map(len, parts))
        with self._lock:
            try:
                if self._size and self._size + size > self._config.rotate_bytes:
                    self._finish()
                if self._fd < 0:
                    self._open()
                self._write(parts)
            except OSError as error:
                return Verdict(Kind.RETRY, text=one_line(f"{error.strerror}: {error.filename or self._path}"))
            if self._size >= self._config.rotate_bytes:
                self._finish()
        return Verdict(Kind.DELIVERED)

    def _convert(self, payload: Payload) -> Payload:
        """What was encoded before the configuration changed, as it is encoded now. Raises ValueError."""
        payload = as_samples(payload) if self.encoding == SAMPLES else as_lines(payload)
        return self.encode(memoryview(payload.data), payload.metrics, self.encoding)

    def _length(self, payload: Payload) -> bytes:
        """What stands before the samples of *payload*, as a varint; compressed like them."""
        length, left = bytearray(), payload.raw_bytes
        while left >= 0x80:
            length.append(left & 0x7F | 0x80)
            left >>= 7
        length.append(left)
        return isal_zlib.compress(length, _LEVEL, GZIP_WBITS) if self._compression else bytes(length)

    def due(self) -> float | None:
        with self._lock:
            return self._opened_at + self._config.rotate_interval if self._fd >= 0 else None

    def tick(self) -> None:
        """Finish the file if it is old enough."""
        with self._lock:
            if self._fd >= 0 and time.monotonic() >= self._opened_at + self._config.rotate_interval:
                self._finish()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                self._finish()

    # ---- one file; under the lock ----

    def _open(self) -> None:
        """Begin a file. Raises OSError."""
        while True:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            name = f"{self._config.name}-{stamp}-{next(self._numbers):06d}{self._suffix}"
            path = os.path.join(self._folder, name)
            if os.path.lexists(path):
                continue
            try:
                fd = os.open(path + PART, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                break
            except FileExistsError:
                continue
            except FileNotFoundError:
                # Somebody has removed the folder.
                os.makedirs(self._folder, mode=0o750)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._fd, self._path, self._size, self._opened_at = fd, path, 0, time.monotonic()

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write all *parts* behind what is good. Raises OSError, and then the file is as it was."""
        written = 0
        try:
            for data in parts:
                with memoryview(data) as view:
                    done = 0
                    while done < len(view):
                        with view[done:] as rest:
                            done += os.pwrite(self._fd, rest, self._size + written + done)
                    written += done
        except OSError:
            # Frees the space, too. Should it fail, the next write begins at the same place all the same.
            self._cut()
            raise
        self._size += written

    def _cut(self) -> bool:
        """Cut off what lies behind the good bytes."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            return False
        return True

    def _finish(self) -> None:
        """End the file, put it on the disk, give it its name, and remove the oldest ones. Never raises.

        A file that cannot be finished stays under its ``.part`` name for the next process.
        """
        fd, path, self._fd = self._fd, self._path, -1
        try:
            if not self._size:
                os.unlink(path + PART)
                return
            if os.fstat(fd).st_size != self._size:
                os.ftruncate(fd, self._size)
            os.fsync(fd)
            os.rename(path + PART, path)
            self._sync_folder()
        except OSError as error:
            extra = {"output": self.name, "file": path + PART, "error": str(error)}
            logger.error("a file could not be finished and keeps its temporary name", extra=extra)
        finally:
            self._size = 0
            os.close(fd)
        self._remove_oldest()

    # ---- the folder ----

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _remove_oldest(self) -> None:
        """Remove finished files of this output beyond ``max_files``, the oldest first."""
        if not self._config.max_files:
            return
        try:
            names = sorted(name for name in os.listdir(self._folder) if self._names.fullmatch(name))
            for name in names[: -self._config.max_files]:
                os.unlink(os.path.join(self._folder, name))
        except OSError as error:
            extra = {"output": self.name, "folder": self._folder, "error": str(error)}
            logger.warning("old files could not be removed", extra=extra)

    def _finish_left_over(self) -> None:
        """Give the files of a process that was killed their names. One that is still locked has a writer."""
        try:
            left = [
                name for name in os.listdir(self._folder) if self._names.fullmatch(name.removesuffix(PART))
            ]
        except OSError as error:
            raise OutputError(f"cannot read the folder {self._folder}: {error.strerror}") from error
        for name in left:
            path = os.path.join(self._folder, name)
            if not path.endswith(PART):
                continue
            finished = path.removesuffix(PART)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    compressed = finished.endswith(".gz")
                    samples = finished.removesuffix(".gz").endswith(f".{SAMPLES}")
                    if whole := whole_bytes(fd, samples=samples, compressed=compressed):
                        os.ftruncate(fd, whole)
                        os.fsync(fd)
                        os.rename(path, finished)
                    else:
                        os.unlink(path)
                finally:
                    os.close(fd)
            except OSError as error:
                extra = {"output": self.name, "file": path, "error": str(error)}
                logger.info("an unfinished file was left alone", extra=extra)
