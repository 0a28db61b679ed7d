"""One file of a spool: the finished body of one request, and a name that says all there is to know about it.

    20260101T000000.000000000Z-00000001-5000-ns-1a2b3c4d-4bf92f3577b34da6a3ce929d0e0e4736.lp.gz
    │                          │        │    │  │        │                                └ encoding and
    │                          │        │    │  │        │                                  compression
    │                          │        │    │  │        └ id of the batch; not in each name
    │                          │        │    │  └ CRC-32 of the bytes of the file
    │                          │        │    └ precision of the timestamps in it: ns, or ms of samples
    │                          │        └ metrics
    │                          └ sequence: tells apart what arrived at the same time
    └ when the oldest metric in it arrived, so that names sort by age

Nothing needs to be opened to list, count or order files, and one that was cut off, emptied or changed is
found out before any of it is sent.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from isal import isal_zlib

from agent.outputs.base import PLAIN_BYTES_MAX, Payload, snappy_bytes
from agent.store import disk

CORRUPT = "corrupt"
"""The folder, inside that of a spool, for files that could not be read or are not what their name says."""

CORRUPT_MAX = 100
"""Files that are kept there; the oldest go first."""

_NAME = re.compile(
    rf"({disk.STAMP})-([0-9]{{8,18}})-([0-9]{{1,10}})-(?:ns(?=[-\w]+\.lp)|ms(?=[-\w]+\.pb))"
    r"-([0-9a-f]{8})(?:-([0-9a-f]{32}))?\.(lp|pb)(?:\.(gz|sz))?"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that waits. *size* is in bytes."""

    name: str
    metrics: int
    encoding: str
    compression: str
    oldest_ns: int
    size: int
    batch: str = ""
    """The id of the batch that it was made of; empty if its name has none."""


@dataclass(frozen=True, slots=True)
class SpoolCounters:
    """One reading of a spool. At rest ``restored + stored = decided + Σ dropped + metrics``, in metrics."""

    restored: int = 0
    """Found at the start, or brought by a command."""
    stored: int = 0
    decided: int = 0
    """Taken out again, since they were delivered or rejected."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By reason: ``spool_full``, ``_age``, ``_space``, ``_corrupt``, ``_missing``, ``_dropped``."""
    metrics: int = 0
    """Waiting now, like the next three."""
    files: int = 0
    bytes: int = 0
    """On the disk, where each file is rounded up to 4 KiB."""
    oldest_ns: int = 0
    """When the oldest of them arrived, since 1970; 0 if nothing waits."""
    foreign: int = 0
    """Files in the folder whose names are not ours, which are left alone."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Calls that the system refused, by the name of the error."""
    failing: str = ""
    """What does not work now; empty if everything does."""


def file_name(payload: Payload, oldest_ns: int, sequence: int, batch: str = "") -> str:
    """The name of the file for *payload*, whose oldest metric arrived at *oldest_ns* (since 1970).

    *batch* is the id of the batch that it was made of, if there is one.
    """
    checksum = isal_zlib.crc32(payload.data)
    ends = f"{payload.encoding}.{payload.compression}" if payload.compression else payload.encoding
    unit = "ms" if payload.encoding == "pb" else "ns"
    last = f"{checksum:08x}-{batch}" if batch else f"{checksum:08x}"
    return f"{disk.stamp(oldest_ns)}-{sequence:08d}-{payload.metrics}-{unit}-{last}.{ends}"


def metrics_of(name: str) -> int | None:
    """How many metrics are in the file of that name; None if it is not a name of a spool's file."""
    match = _NAME.fullmatch(name)
    return int(match[3]) if match is not None else None


def parse(name: str, size: int = 0) -> Entry | None:
    """What a name says; None if it is not one of a spool's file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        oldest_ns = disk.parse_stamp(match[1])
    except ValueError:
        # A 31st of February sorts like any other day, and that is all that is asked of it.
        oldest_ns = 0
    return Entry(name, int(match[3]), match[6], match[7] or "", oldest_ns, size, match[5] or "")


def read_payload(folder: str, entry: Entry) -> Payload:
    """Read and check one file. Raises OSError, and ValueError if it is not what its name says."""
    data = disk.read(os.path.join(folder, entry.name), PLAIN_BYTES_MAX)
    match = _NAME.fullmatch(entry.name)
    if match is None or not data or isal_zlib.crc32(data) != int(match[4], 16):
        raise ValueError("is empty" if not data else "the checksum does not fit")
    raw = len(data)
    if entry.compression == "gz":
        # It ends with the number of bytes that went in, modulo 2^32.
        raw = int.from_bytes(data[-4:], "little")
    elif entry.compression == "sz":
        raw = max(snappy_bytes(data), 0)
    return Payload(data, entry.metrics, raw, entry.encoding, entry.compression)


def time_of(name: str) -> int:
    """When the oldest metric of a file arrived, in nanoseconds since 1970; 0 if the name does not tell."""
    entry = parse(name)
    return entry.oldest_ns if entry is not None else 0


def set_aside(folder: str, name: str) -> None:
    """Move a file of *folder* to its ``corrupt``, of which only the youngest are kept. Raises OSError."""
    corrupt = os.path.join(folder, CORRUPT)
    os.makedirs(corrupt, mode=0o750, exist_ok=True)
    os.rename(os.path.join(folder, name), os.path.join(corrupt, name))
    with suppress(OSError):
        # Where this cannot be done, there is one too many until the next time.
        kept = sorted(one for one in os.listdir(corrupt) if metrics_of(one) is not None)
        for one in kept[:-CORRUPT_MAX]:
            os.unlink(os.path.join(corrupt, one))
