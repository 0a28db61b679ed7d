"""What a relay has handed on, in files: so that one that was killed knows what it had seen.

Without them the next process would take for missing what this one saw, and hand on once more what a broker
sends it again. A record is a line, written before the message is acknowledged::

    18b4f2a1c03de5a79c3f0d5e7b1a2846-9ae0daaf edge-1
    │                                │        └ who sent it
    │                                └ CRC-32 of the body
    └ batch

It need not be on the disk, only beyond the process, so nothing is synced. There are two files of
*records_max* each, ``seen`` and the one before it, ``seen.old``: a start reads little.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent.store import disk

logger = logging.getLogger(__name__)

RECORDS_MAX = 65_536
"""Of each file: at 70 bytes or so a record, 5 MB."""

_RECORD = re.compile(r"([0-9a-f]{32}-[0-9a-f]{8}) ([\x21-\x7e]{1,256})")


class Journal:
    """The files in *folder*, which is made. One thread at a time.

    A disk that refuses later is told of, and no more than that. Raises OSError if the folder cannot be made
    or written to.
    """

    def __init__(self, folder: Path, records_max: int = RECORDS_MAX) -> None:
        self._path = folder / "seen"
        self._old = folder / "seen.old"
        self._records_max = records_max
        disk.make_folder(folder)
        self._file = self._open()
        self._records = sum(1 for _ in _records(self._path))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(identity, agent) of each record, the oldest first; not what a killed process left half written."""
        yield from _records(self._old)
        yield from _records(self._path)

    def append(self, identity: str, agent: str) -> None:
        """Note that this message was handed on."""
        try:
            if self._records >= self._records_max:
                self._path.replace(self._old)
                full, self._file = self._file, self._open()
                os.close(full)
                self._records = 0
            os.write(self._file, f"{identity} {agent}\n".encode())
            self._records += 1
        except OSError as error:
            logger.warning(
                "what was relayed cannot be noted, and would be taken for missing after a restart",
                extra={"folder": str(self._path.parent), "error": error.strerror},
            )

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._file)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o640)
        if os.fstat(file).st_size:
            # Behind half a record, which a full disk may have left.
            os.write(file, b"\n")
        return file


def _records(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="ascii", errors="replace", newline="\n") as file:
            for line in file:
                if found := _RECORD.fullmatch(line.rstrip("\n")):
                    yield found[1], found[2]
    except OSError:
        return
