"""Files that a killed process was writing: where the last whole thing in them ends.

The kernel cuts a write short at a page when its process is killed, so the last line, message or gzip member
may be there in part, and a part of a line may well read as a line.
"""

import os
from collections.abc import Iterator

from isal import igzip_lib, isal_zlib

from agent.outputs.base import GZIP_WBITS

_BLOCK_BYTES = 1 << 20
_VARINT_BYTES = 10


def whole_bytes(fd: int, *, samples: bool, compressed: bool) -> int:
    """Bytes of the file *fd* up to the end of its last whole line, message (*samples*) or gzip member.

    Memory does not grow with the file. Raises OSError.
    """
    size = os.fstat(fd).st_size
    if compressed:
        ends = list(_member_ends(fd))
        # A message is two members: its length, and itself.
        whole = len(ends) - len(ends) % 2 if samples else len(ends)
        return ends[whole - 1] if whole else 0
    return _messages_end(fd, size) if samples else _lines_end(fd, size)


def _lines_end(fd: int, size: int) -> int:
    end = size
    while end > 0:
        start = max(end - _BLOCK_BYTES, 0)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _messages_end(fd: int, size: int) -> int:
    end = 0
    while head := os.pread(fd, _VARINT_BYTES, end):
        last = next((at for at, byte in enumerate(head) if byte < 0x80), None)
        if last is None:
            break
        length = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(head[: last + 1]))
        if end + last + 1 + length > size:
            break
        end += last + 1 + length
    return end


def _member_ends(fd: int) -> Iterator[int]:
    at, waiting, stream = 0, b"", isal_zlib.decompressobj(GZIP_WBITS)
    while data := waiting or os.pread(fd, _BLOCK_BYTES, at):
        if not waiting:
            at += len(data)
        try:
            stream.decompress(data, _BLOCK_BYTES)
        except igzip_lib.IsalError:  # type: ignore[misc]  # the stubs call it an instance
            return
        waiting = stream.unused_data if stream.eof else stream.unconsumed_tail
        if stream.eof:
            yield at - len(waiting)
            stream = isal_zlib.decompressobj(GZIP_WBITS)
