"""Files that appear at once, whole and on the disk; and what a disk has to say when it refuses.

The order that survives a power cut at any point: write the file under a temporary name, ``fsync`` it,
``rename`` it, ``fsync`` the folder. Whoever looks finds the whole file or none. What a process that was
killed leaves behind ends in :data:`PART`.
"""

import errno
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

PART = ".part"
"""The end of a temporary name."""

PROBE = "probe"
"""The name of the file that :func:`probe` makes, but for its end."""

BLOCK_BYTES = 4096
"""File systems hand out space in such pieces, and a million tiny files take a million of them."""

STAMP = r"[0-9]{8}T[0-9]{6}\.[0-9]{9}Z"
"""What :func:`stamp` writes, as a regular expression."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 10**9
_LAST_NS = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds()) * _SECOND_NS

# What a folder cannot be used for as long as nobody changes its owner, its mode or its name.
_TO_BE_MENDED = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
)


def occupied(size: int) -> int:
    """Bytes that a file of *size* bytes takes on a disk, near enough."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def errno_name(error: OSError) -> str:
    """``ENOSPC`` and its like: the label of a counter."""
    return errno.errorcode.get(error.errno or 0, "OTHER")


def must_be_mended(error: OSError) -> bool:
    """Whether only a person can end this, unlike a disk that is full or read-only for a while."""
    return error.errno in _TO_BE_MENDED


def stamp(time_ns: int) -> str:
    """*time_ns* (nanoseconds since 1970) in UTC, as text that sorts: ``20260101T000000.000000000Z``.

    What lies before 1970 or after 9999 becomes the nearest time that does not.
    """
    seconds, rest = divmod(min(max(time_ns, 0), _LAST_NS), _SECOND_NS)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y%m%dT%H%M%S}.{rest:09d}Z"


def parse_stamp(text: str) -> int:
    """Nanoseconds since 1970 of what :func:`stamp` wrote. Raises ValueError, also for a 13th month."""
    parts = (text[0:4], text[4:6], text[6:8], text[9:11], text[11:13], text[13:15])
    year, month, day, hour, minute, second = map(int, parts)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return int((moment - _EPOCH).total_seconds()) * _SECOND_NS + int(text[16:25])


def make_folder(path: str | Path) -> None:
    """Make *path*, and what is missing above it, for good. Raises OSError."""
    missing: list[Path] = []
    above = Path(path)
    while not above.is_dir() and above != above.parent:
        missing.append(above)
        above = above.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=0o750)
        except FileExistsError:
            # Somebody was faster; if it is no folder, using it will tell.
            continue
        sync_folder(folder.parent)


def create(path: str, data: bytes | memoryview) -> int:
    """Write *data* into a new file, and return the descriptor, which is to be synced and closed.

    Raises OSError, and then there is no such file (unless removing it fails too). Keeps no view of *data*.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        written = 0
        with memoryview(data) as view:
            while written < len(view):
                with view[written:] as rest:
                    written += os.write(fd, rest)
    except BaseException:
        os.close(fd)
        discard(path)
        raise
    return fd


def read(path: str, bytes_max: int) -> bytes:
    """The whole of a regular file. Raises OSError, ValueError if it is none or longer than *bytes_max*."""
    # A pipe under such a name would wait for its writer for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if status.st_size > bytes_max:
            raise ValueError(f"is longer than {bytes_max} bytes")
        with open(fd, "rb", buffering=0, closefd=False) as stream:
            return stream.read(bytes_max) or b""
    finally:
        os.close(fd)


def discard(path: str) -> bool:
    """Remove a file that nobody wants. False if it could not be removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Put the names in a folder on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """What is free, for users that are not root, on the file system of *path*. Raises OSError."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def probe(folder: str, size: int) -> None:
    """Try whether a file of *size* bytes could be written. Raises OSError, and leaves nothing behind."""
    path = os.path.join(folder, PROBE + PART)
    discard(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
    finally:
        os.close(fd)
        discard(path)
