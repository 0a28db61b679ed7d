"""Locks on folders: one agent for one runtime folder, and one for one state folder.

The lock is a ``flock`` on the folder itself, which works on a full disk and on one that has become read-only,
and ends with the process however that ends. Beside it, in the file ``holder``, stands who has it: for the
message that the second one gets, and for nothing else.
"""

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from agent.errors import ControlError

HOLDER = "holder"
"""Name of the file that says who holds the lock. It stays behind, and says nothing once nobody holds it."""

_HOLDER_BYTES_MAX = 4096


class FolderLock:
    """A claim on *folder*, the value of the config's *key*. Main thread.

    *who* is told to others who want the same folder: what runs, such as the path of its config. A folder that
    is not there is made, with *mode*.
    """

    def __init__(self, folder: Path, key: str, who: str, mode: int = 0o700) -> None:
        self.folder = folder
        self._mode = mode
        self._key = key
        self._who = who
        self._fd = -1

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def take(self) -> None:
        """Make the folder if need be, and claim it. Raises ControlError, which says who has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=self._mode)
            self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno == errno.EWOULDBLOCK:
                holder = self._holder()
                message = f"another agent runs with it{holder}; stop that one, or choose another folder"
            else:
                message = f"cannot use the folder: {error.strerror}"
            raise ControlError(f"{self._key}: {self.folder}: {message}") from error
        # Only for the message: a disk that takes no file is no reason not to run.
        with suppress(OSError):
            text = json.dumps({"pid": os.getpid(), "who": self._who})
            (self.folder / HOLDER).write_text(text)

    def release(self) -> None:
        """Let go of the folder; nothing happens if it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _holder(self) -> str:
        try:
            with (self.folder / HOLDER).open() as file:
                said = json.loads(file.read(_HOLDER_BYTES_MAX))
            return f": process {int(said['pid'])} ({str(said['who'])[:1000]})"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def __enter__(self) -> "FolderLock":
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
