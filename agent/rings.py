"""Ring files: made, found where an earlier process left them, adopted, or set aside.

A ring of lane 0 of output "influx" lies in ``influx.0.ring``, the one that its ticks are written to in
``influx.tick.ring``, and that of what Python receives in ``influx.feed.ring``; where a former ring of that
name is still being emptied, the next one gets ``influx.0~1.ring``. ("~" is no letter of an output's name, so
every name can be read back.)

What an earlier process left is adopted as soon as an output of its name is opened. A ring that fits, by name,
size and encoding, is gone on with by the writer that it is named after. Any other one *leaves*: nobody writes
to it any more, and its file goes when it is empty. A file that cannot be trusted gets a name that says why
(``influx.0.ring.torn``), and stays for somebody to look at; what is whole in a torn one is saved first.

Every step may be the last one: a process that is killed in the middle leaves files of which the next one
makes the same again. So a file is removed only when nothing is in it, and a name is given on in one step.
"""

import errno
import itertools
import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent._core import Ring, Waker, salvage_ring
from agent.errors import RingError

logger = logging.getLogger(__name__)

ASIDE_MAX = 8
"""Files that are set aside in one folder at most; the oldest go first."""

_NAME = re.compile(r"(?P<output>[^~/]+)\.(?P<writer>[0-9]{1,4}|tick|feed)(~[0-9]{1,9})?\.ring", re.ASCII)
_ASIDE = re.compile(r".+\.(ring|burst)\.(foreign|older|torn|fatal)(\.[0-9]+)?", re.ASCII)
_SAVED = ".saved"
"""Ends the name of a ring that is being salvaged."""


@dataclass(frozen=True, slots=True)
class RingFile:
    """A file that has the name of a ring."""

    path: Path
    output: str
    writer: str
    """What writes it: ``lane-0`` …, ``tick`` or ``feed``."""


@dataclass(frozen=True, slots=True)
class Form:
    """What all rings of an output have in common."""

    output: str
    capacity: int
    """Bytes, as in the config."""
    encoding: str
    slot_bytes: int
    slot_metrics: int


class Aside:
    """What was set aside in *folder*: files that cannot be trusted, and stay for somebody to look at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, path: Path, kind: str) -> Path:
        """Give the file at *path* a name that says why it is not used; returns that. Raises OSError."""
        aside = self.name(path, kind)
        os.rename(path, aside)
        self.bound(ASIDE_MAX)
        return aside

    def name(self, path: Path, kind: str) -> Path:
        """A name for the file at *path* that no other one has."""
        for number in itertools.count():
            aside = path.with_name(f"{path.name}.{kind}" + (f".{number}" if number else ""))
            if not os.path.lexists(aside):
                return aside
        raise AssertionError("unreachable")

    def bound(self, count: int) -> bool:
        """Remove the oldest of what was set aside, down to *count* files. True if there were more."""
        aside = [path for path in self._folder.iterdir() if _ASIDE.fullmatch(path.name)]
        aside.sort(key=lambda path: path.lstat().st_ctime_ns)
        for path in aside[: max(len(aside) - count, 0)]:
            logger.warning("a file that was set aside is removed to make room", extra={"file": str(path)})
            with suppress(OSError):  # a folder, which is not ours to empty
                path.unlink()
        return len(aside) > count


class Rings:
    """The folder of the rings. One thread at a time; there is one agent in a folder.

    *folder* is made if need be. Raises OSError where it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._aside = Aside(folder)
        self._torn: dict[Path, int] = {}  # metrics that were lost of rings that nobody has adopted yet
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(f"*.ring{_SAVED}"):
            left.unlink()

    def files(self) -> list[RingFile]:
        """All files that have the names of rings, in the order of their names."""
        found = []
        for path in sorted(self.folder.iterdir()):
            if match := _NAME.fullmatch(path.name):
                found.append(RingFile(path, match["output"], _writer(match["writer"])))
        return found

    def open(self, form: Form, writer: str, waker: Waker, in_use: Collection[str] = ()) -> Ring:
        """The ring that *writer* is to write, empty or with what it held. Raises OSError.

        Where the disk is full, what was set aside makes room.

        *in_use* are the paths of rings that this process has: their names are taken.
        """
        try:
            return self._open(form, writer, waker, in_use)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._aside.bound(0):
                raise
        return self._open(form, writer, waker, in_use)

    def _open(self, form: Form, writer: str, waker: Waker, in_use: Collection[str]) -> Ring:
        stem = f"{form.output}.{writer.removeprefix('lane-')}"
        for generation in itertools.count():
            path = self.folder / (f"{stem}~{generation}.ring" if generation else f"{stem}.ring")
            if str(path) in in_use:
                continue
            if generation == 0 and (ring := self._adopt(path, form, waker, fitting=True)) is not None:
                return ring
            with suppress(FileExistsError):
                return Ring(
                    str(path),
                    form.capacity,
                    waker,
                    slot_bytes=form.slot_bytes,
                    slot_metrics=form.slot_metrics,
                    encoding=form.encoding,
                )
        raise AssertionError("unreachable")

    def leaving(self, form: Form, waker: Waker, in_use: Collection[str]) -> Iterator[tuple[str, Ring]]:
        """Adopt all other rings of the output, whatever their form: (writer, ring). Those that are empty go.

        One that cannot be opened stays as it is: nothing new depends on it.
        """
        for file in self.files():
            if file.output != form.output or str(file.path) in in_use:
                continue
            try:
                ring = self._adopt(file.path, form, waker, fitting=False)
            except OSError as error:
                extra = {"file": str(file.path), "reason": str(error)}
                logger.warning("a ring that an earlier process left cannot be opened; it stays", extra=extra)
                continue
            if ring is None:
                continue
            if ring.stats()["restored"]:
                yield file.writer, ring
            else:
                ring.close(unlink=True)

    def warn_of_strangers(self, outputs: Collection[str]) -> None:
        """Say which rings stay where they are, since there is no output for them."""
        for file in self.files():
            if file.output not in outputs:
                logger.warning(
                    "a ring of an output that is not in the config stays as it is",
                    extra={"file": str(file.path), "output": file.output},
                )

    def _adopt(self, path: Path, form: Form, waker: Waker, *, fitting: bool) -> Ring | None:
        """Go on with the file at *path*, if it is there, is good and, if that is asked for, *fitting*.

        Raises OSError. What is not good is not there any more after this.
        """
        limits = {"slot_bytes": form.slot_bytes, "slot_metrics": form.slot_metrics}
        ring = None
        while ring is None:
            try:
                ring = Ring.adopt(str(path), waker, **limits, torn=self._torn.get(path, 0))
            except FileNotFoundError:
                return None
            except PermissionError as error:
                self._set_aside(path, RingError("foreign", f"{path}: {error.strerror}"))
            except RingError as error:
                self._set_aside(path, error)
        if fitting and (ring.capacity, ring.encoding) != (_whole_pages(form.capacity), form.encoding):
            ring.close(unlink=False)
            return None
        self._torn.pop(path, None)
        _tell(ring, path)
        return ring

    # ---- what cannot be trusted ----

    def _set_aside(self, path: Path, error: RingError) -> None:
        """Give the file another name. Where some of it can be saved, a good ring is in its place then."""
        if error.kind == "unfinished":
            logger.info("a ring that was never finished is removed", extra={"file": str(path)})
            path.unlink()
            return
        aside = self._aside.name(path, error.kind)
        extra: dict[str, object] = {"file": str(path), "reason": str(error), "now": str(aside)}
        if error.salvageable:
            saved = path.with_name(path.name + _SAVED)
            saved.unlink(missing_ok=True)
            metrics, lost = salvage_ring(str(path), str(saved))
            self._torn[path] = self._torn.get(path, 0) + lost
            # Both names at first: whoever is killed here finds the torn ring again, and saves it again.
            os.link(path, aside)
            os.rename(saved, path)
            extra |= {"saved": metrics, "damaged": lost}
        else:
            os.rename(path, aside)
        logger.warning("a ring that cannot be adopted is set aside", extra=extra)
        self._aside.bound(ASIDE_MAX)


def _writer(name: str) -> str:
    return f"lane-{int(name)}" if name.isdigit() else name


def _whole_pages(size: int) -> int:
    page = os.sysconf("SC_PAGESIZE")
    return -(-size // page) * page


def _tell(ring: Ring, path: Path) -> None:
    stats = ring.stats()
    if stats["restored"]:
        logger.info(
            "what an earlier process left in a ring is delivered first",
            extra={"file": str(path), "metrics": stats["waiting"], "damaged": stats["torn"]},
        )


def let_go(ring: Ring) -> bool:
    """Close *ring*; its file goes if nothing is in it. True if something stays for the next process."""
    left = ring.stats()["waiting"]
    ring.close(unlink=not left)
    if left and ring.path is not None:
        logger.info("a ring stays for the next start", extra={"file": ring.path, "metrics": left})
    return bool(left)
