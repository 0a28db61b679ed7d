"""What waits on disk and what was refused, as a person handles it: seen, checked, brought back, dropped.

The running agent and a command without one do the same things to the same folders: ``state_dir/spool/NAME``
and ``state_dir/rejected/NAME``. Looking needs no lock, since files never change; whatever changes a folder
goes through its :class:`~agent.store.spool.Spool` or :class:`~agent.store.rejected.Rejected`, of which there
is one at a time.
"""

import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import igzip

from agent._core import count_lines, split_lines
from agent.errors import StoreError
from agent.outputs.base import PLAIN_BYTES_MAX, Payload, plain
from agent.outputs.bodies import as_lines, count
from agent.outputs.refusals import lines_of
from agent.store import disk, rejected, spool_file
from agent.store.rejected import GUARD, RELAY, Rejected, reasons_path
from agent.store.spool import Spool

SPOOL, REJECTED = "spool", "rejected"
"""The two folders in the state folder."""

PIECE_BYTES = 1 << 20
"""A file that a person brings goes into the spool in pieces of about this size."""

LINE_BYTES_MAX = 16 << 20
"""A line of such a file is not longer."""

METRICS_OF = {SPOOL: spool_file.metrics_of, REJECTED: rejected.metrics_of}
TIME_OF = {SPOOL: spool_file.time_of, REJECTED: rejected.time_of}

# Has no types.
_IGZIP: Any = igzip.IGzipFile

Inject = Callable[[bytes, int, int, Callable[[], None]], bool]
"""Brings lines to an output that has no spool; see :meth:`agent.delivery.flusher.Flusher.inject`."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file. *time_ns* is in nanoseconds since 1970: an arrival in a spool, else when it was refused."""

    name: str
    metrics: int
    size: int
    time_ns: int


@dataclass(slots=True)
class Totals:
    """What is in one folder."""

    files: int = 0
    metrics: int = 0
    bytes: int = 0
    oldest_ns: int = 0
    newest_ns: int = 0
    corrupt: int = 0
    """Files of a spool that were set aside."""


def outputs_in(state_dir: Path, kind: str) -> list[str]:
    """The outputs that have a folder there, whether the config has them or not. Raises StoreError."""
    try:
        return sorted(path.name for path in (state_dir / kind).iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{state_dir / kind}: cannot be read: {error.strerror}") from error


def files_in(folder: Path, kind: str) -> Iterator[Found]:
    """All files of a folder, in no order. Raises StoreError if it cannot be read."""
    metrics_of, time_of = METRICS_OF[kind], TIME_OF[kind]
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                metrics = metrics_of(entry.name)
                if metrics is None or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
                yield Found(entry.name, metrics, size, time_of(entry.name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror}") from error


def oldest_in(folder: Path, kind: str, limit: int) -> list[Found]:
    """The oldest files of a folder, at most *limit*. Raises StoreError."""
    return heapq.nsmallest(limit, files_in(folder, kind), key=lambda one: one.name)


def totals_of(folder: Path, kind: str) -> Totals:
    """What is in a folder. Raises StoreError."""
    totals = Totals()
    for one in files_in(folder, kind):
        totals.files += 1
        totals.metrics += one.metrics
        totals.bytes += one.size
        totals.oldest_ns = min(totals.oldest_ns or one.time_ns, one.time_ns)
        totals.newest_ns = max(totals.newest_ns, one.time_ns)
    if kind == SPOOL:
        totals.corrupt = sum(1 for _ in files_in(folder / spool_file.CORRUPT, kind))
    return totals


def body_of(path: Path) -> bytes | memoryview:
    """The lines in a file of a spool, whatever it is called; samples as lines. Raises StoreError."""
    entry = spool_file.parse(path.name)
    try:
        data = disk.read(str(path), PLAIN_BYTES_MAX)
        compression = path.suffix[1:] if path.suffix in (".gz", ".sz") else ""
        encoding = "pb" if ".pb" in path.suffixes else "lp"
        return as_lines(Payload(data, entry.metrics if entry else 0, len(data), encoding, compression)).data
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error


def wrong_with(folder: Path, found: Found) -> str:
    """What is wrong with a file of a spool; empty if it is what its name says. Moves nothing."""
    entry = spool_file.parse(found.name, found.size)
    assert entry is not None
    try:
        metrics = count(plain(spool_file.read_payload(str(folder), entry)), entry.encoding)
    except FileNotFoundError:
        # Delivered meanwhile.
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
    what = "samples" if entry.encoding == "pb" else "lines"
    return "" if metrics == found.metrics else f"holds {metrics} {what}, and its name says {found.metrics}"


def pieces_of(path: Path) -> Iterator[tuple[Payload, int]]:
    """The lines of a file that a person brings, in bodies with the time to file them under.

    A file of a spool is one body, and is checked; any other, ``.lp`` or ``.lp.gz``, is cut into pieces, and
    blank lines and comments are left out. Raises StoreError.
    """
    entry = spool_file.parse(path.name)
    try:
        if entry is not None:
            payload = spool_file.read_payload(str(path.parent), entry)
            if (metrics := count(plain(payload), entry.encoding)) != entry.metrics:
                raise ValueError(f"holds {metrics} metrics, and its name says {entry.metrics}")
            yield payload, entry.oldest_ns
            return
        time_ns = path.stat().st_mtime_ns
        with path.open("rb") as file:
            unpacked = _IGZIP(fileobj=file) if path.name.endswith(".gz") else file
            for body in _bodies(unpacked.read):
                yield Payload(body, count_lines(body), len(body)), time_ns
    except (OSError, EOFError) as error:
        raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error


def _bodies(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What *read* gives, in bodies of whole lines."""
    rest = b""
    while data := read(PIECE_BYTES):
        rest += data
        # The last line may go on.
        end = split_lines(rest, count_lines(rest) - 1)
        if end == 0 and len(rest) > LINE_BYTES_MAX:
            raise ValueError(f"has a line of more than {LINE_BYTES_MAX} bytes")
        if body := _without_comments(rest[:end]):
            yield body
        rest = rest[end:]
    if body := _without_comments(rest):
        yield body


def _without_comments(body: bytes) -> bytes:
    """*body* without blank lines and comments, each line ending with a newline."""
    if body and not body.endswith(b"\n"):
        body += b"\n"
    if not (body.startswith((b"#", b"\n")) or any(mark in body for mark in (b"\n#", b"\n\n", b"\r"))):
        return body
    lines = lines_of(Payload(body, count_lines(body), len(body)))
    kept = (line.removesuffix(b"\r") for line in lines if line.strip() and not line.startswith(b"#"))
    return b"".join(line + b"\n" for line in kept)


class Keeper:
    """The spool and the rejected metrics of one output, of which it may have neither. Any thread.

    *inject* takes lines where there is no spool.
    """

    def __init__(
        self, output: str, spool: Spool | None, rejected: Rejected | None, inject: Inject | None = None
    ) -> None:
        self.output = output
        self.spool = spool
        self.rejected = rejected
        self._inject = inject

    def add(self, payload: Payload, oldest_ns: int) -> None:
        """Put a body into the spool. Raises StoreError."""
        if self.spool is None:
            raise StoreError(f"{self.output}: has no spool")
        if payload.metrics and not self.spool.add(payload, oldest_ns):
            reason = self.spool.counters.failing or "it is closed"
            raise StoreError(f"{self.output}: the spool takes nothing now: {reason}")

    def retry(self, name: str) -> int:
        """Send the rejected lines of the file *name* once more; returns how many. Raises StoreError.

        They go into the spool, or to the output if there is none. The file is removed when they are there.
        """
        refuse_retry(self.output)
        kept = self._kept()
        if not kept.hold(name):
            raise StoreError(f"{self.output}: there is no {name}, or it is on its way already")
        held = True
        try:
            path = kept.folder / name
            body = _without_comments(disk.read(str(path), PLAIN_BYTES_MAX))
            lines, oldest_ns = count_lines(body), _oldest_of(path)
            if self.spool is not None:
                self.add(Payload(body, lines, len(body)), oldest_ns)
                kept.let_go(name, remove=True)
            elif self._inject is None:
                raise StoreError(f"{self.output}: has no spool, so an agent must be running for this")
            elif not self._inject(body, lines, oldest_ns, lambda: kept.let_go(name, remove=True)):
                raise StoreError(f"{self.output}: too much is on its way already; try again later")
            held = False
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.output}: {name}: {error}") from error
        finally:
            if held:
                kept.let_go(name, remove=False)
        return lines

    def drop(self, kind: str, names: Iterable[str] = (), before_ns: float | None = None) -> int:
        """Remove files for good: those of these *names*, and all from before *before_ns*; returns how many.

        Raises StoreError if there is no such folder.
        """
        if kind == REJECTED:
            kept = self._kept()
            removed = sum(kept.remove(name) for name in names)
            return removed + (kept.remove_before(before_ns) if before_ns is not None else 0)
        if self.spool is None:
            raise StoreError(f"{self.output}: has no spool")
        removed = self.spool.drop(names)
        return removed + (self.spool.drop_before(before_ns) if before_ns is not None else 0)

    def _kept(self) -> Rejected:
        if self.rejected is None:
            raise StoreError(f"{self.output}: keeps no rejected metrics")
        return self.rejected


def refuse_retry(output: str) -> None:
    """Raise StoreError where what was rejected cannot be sent as it is."""
    if output == GUARD:
        raise StoreError(
            f"{output}: what is in it has another type than the one that is kept, and would be left out once "
            'more; mend it in a copy of the lines: "penstock spool replay OUTPUT COPY" sends that, unguarded'
        )

    if output == RELAY:
        raise StoreError(
            f"{output}: what is in it are messages of a broker that nobody can read; the .json beside each "
            'says why, and "penstock rejected drop" removes them'
        )


def _oldest_of(path: Path) -> int:
    """When the oldest of rejected lines arrived, as far as that is known (nanoseconds since 1970)."""
    try:
        oldest_ns = json.loads(Path(reasons_path(str(path))).read_bytes())["oldest_ns"]
    except (OSError, ValueError, KeyError, TypeError):
        oldest_ns = None
    return oldest_ns if isinstance(oldest_ns, int) else rejected.time_of(path.name)
