"""Files of bursts: what the threads that receive datagrams have in hand, and what an earlier process had.

Lane 0 receives into ``lane-0.burst``, in a folder beside that of the rings; where an earlier process has left
a file of that name the next one gets ``lane-0~1.burst``. Between the moment when the kernel hands datagrams
over and the one when all of them are published in the rings they are marked there as in hand, so a process
that is killed loses none: the next one reads them, before its lanes read anything, by the listener of that
name, or else of the same address. They are stamped as they were the first time, so a burst that the kill hit
between the first ring and the last mark becomes the same points again. (Only a file output shows such lines
twice. What StatsD listeners aggregate is in no ring before the tick, and counted once.)

A file is removed when what it held is published. One that cannot be trusted is set aside, as rings are, and
what nobody can read is counted as dropped. Nothing that is found in a file keeps the agent from starting: one
whose readers have ended eight times is not read again.
"""

import itertools
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agent._core import Burst, Lane, LeftBurst
from agent.door import Door
from agent.rings import Aside

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z]+-(?P<number>[0-9]{1,4})(-[0-9]{1,4})?(~[0-9]{1,9})?\.burst", re.ASCII)

NumberOf = Callable[[str, str], int | None]
"""The number under which a listener is counted that is gone, by name and address; None if none is left."""


class Bursts:
    """The folder of the bursts. What lies there at first is what earlier processes left.

    *folder* is made if need be. Raises OSError where it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside = Aside(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._left = [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name)]

    def open(self, thread: str) -> Burst:
        """What *thread* receives into: a file, or where there can be none, memory."""
        try:
            return self._make(thread)
        except OSError as error:
            logger.warning(
                "no file for what is being received: a kill now would lose it",
                extra={"receiver": thread, "folder": str(self._folder), "reason": str(error)},
            )
        return Burst()

    def _make(self, thread: str) -> Burst:
        for generation in itertools.count():
            name = f"{thread}~{generation}.burst" if generation else f"{thread}.burst"
            with suppress(FileExistsError):
                return Burst(str(self._folder / name))
        raise AssertionError("unreachable")

    def read_left(self, doors: Sequence[Door], lanes: Sequence[Lane], number_of: NumberOf) -> None:
        """Have *doors* read what earlier processes had in hand. Its rings must be connected. Never raises."""
        for path in self._left:
            try:
                self._read(path, doors, lanes, number_of)
            except Exception as error:
                extra = {"file": str(path), "reason": str(error)}
                logger.warning("what an earlier process had in hand cannot be read; it stays", extra=extra)
        self._left = []

    def _read(self, path: Path, doors: Sequence[Door], lanes: Sequence[Lane], number_of: NumberOf) -> None:
        left = LeftBurst(str(path))
        if not left.messages and (left.known or left.state == "unfinished"):
            path.unlink()
            return
        extra: dict[str, object] = {"file": str(path), "listener": left.name, "datagrams": left.datagrams}
        if left.readable and _replay(left, _lane_of(path), doors, lanes):
            logger.info("datagrams that an earlier process had in hand are read", extra=extra)
            path.unlink()
            return
        number = number_of(left.name, left.address) if left.name else None
        if number is not None:
            lanes[0].refuse(number, left)
        if left.readable:
            logger.warning("datagrams of a listener that is gone are dropped", extra=extra)
            path.unlink()
            return
        if not left.known:
            extra = {"file": str(path), "datagrams": "unknown"}
        extra |= {"reason": left.reason, "now": str(self._aside.put(path, left.state))}
        logger.warning("datagrams that an earlier process had in hand are dropped", extra=extra)


def _replay(left: LeftBurst, lane: int, doors: Sequence[Door], lanes: Sequence[Lane]) -> bool:
    """Have the listener read *left* whose it was, on *lane* if that reads it. False if there is none."""
    known = [(left.named(door.config.name, door.config.address), door) for door in doors]
    for wanted in (0, 1):  # the name, which a listener keeps when it moves; the address, when it is renamed
        for same, door in known:
            if not same[wanted]:
                continue
            if door.input is not None:
                return door.input.replay(left)
            placed = next(
                (one for one in door.placed if one.lane == lane), door.placed[lane % len(door.placed)]
            )
            lanes[placed.lane].replay(placed.sock.fd, left)
            return True
    return False


def _lane_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match["number"]) if path.name.startswith("lane-") else 0
