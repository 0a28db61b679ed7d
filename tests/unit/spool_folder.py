"""A spool in a folder of its own, on a clock that a test sets, for the tests of spools."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from isal import isal_zlib

from agent.config import SpoolTable
from agent.outputs.base import GZIP_WBITS, Payload
from agent.store.spool import Spool
from agent.store.spool_file import Entry, metrics_of

START_NS = 1_767_225_600 * 10**9
"""2026-01-01, when everything here begins."""

SECOND_NS = 10**9
DAY_S = 86400.0


class Clocks:
    """A clock on the wall that can be stepped, and one that cannot."""

    def __init__(self) -> None:
        self.wall_s = START_NS / 1e9
        self.monotonic_s = 1000.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def go_on(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def step(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self.wall_s += seconds


def lines(metrics: int, mark: str = "m") -> bytes:
    return b"".join(b"%s v=%di %d\n" % (mark.encode(), one, START_NS + one) for one in range(metrics))


def payload(metrics: int = 3, mark: str = "m", gz: bool = False) -> Payload:
    body = lines(metrics, mark)
    if gz:
        return Payload(isal_zlib.compress(body, 2, GZIP_WBITS), metrics, len(body), compression="gz")
    return Payload(body, metrics, len(body))


def end_all() -> None:
    """End the threads of all rigs."""
    while Rig.made:
        Rig.made.pop().spool.close()


class Rig:
    """A spool, what it said of each file, and what is in its folder."""

    made: ClassVar[list["Rig"]] = []

    def __init__(self, folder: Path, clocks: Clocks | None = None, **settings: object) -> None:
        self.made.append(self)
        self.folder = folder
        self.clocks = clocks or Clocks()
        self.settings = settings
        self.said: list[bool] = []
        self.changes = 0
        self.spool = self.open()

    def open(self) -> Spool:
        """A spool on the folder, as a process would make it that starts now."""
        self.spool = Spool(
            "influx",
            self.folder,
            self.table(**self.settings),
            changed=self._changed,
            wall=self.clocks.wall,
            monotonic=self.clocks.monotonic,
        )
        return self.spool

    def reopen(self) -> Spool:
        self.spool.close()
        return self.open()

    @staticmethod
    def table(**settings: object) -> SpoolTable:
        return SpoolTable(**{"min_free_space": 0, "sync": "never", **settings})  # type: ignore[arg-type]

    def _changed(self) -> None:
        self.changes += 1

    def put(self, metrics: int = 3, at: float = 0.0, **others: object) -> None:
        """Put a body whose oldest metric is *at* seconds younger than the start."""
        body = payload(metrics, **others)  # type: ignore[arg-type]
        self.spool.put(body, START_NS + int(at * SECOND_NS), self.said.append)

    def names(self, folder: str = "") -> list[str]:
        """Ours in the folder, sorted, without temporary ones."""
        path = self.folder / folder
        return sorted(name for name in os.listdir(path) if metrics_of(name) is not None)

    def parts(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if name.endswith(".part")]

    def take_all(self) -> list[Entry]:
        found = []
        while (entry := self.spool.take()) is not None:
            found.append(entry)
        return found

    def drain(self) -> list[bytes]:
        """Deliver everything."""
        bodies = []
        while (entry := self.spool.take()) is not None:
            if (body := self.spool.load(entry)) is not None:
                bodies.append(bytes(body.data))
                self.spool.remove(entry)
        return bodies

    def check(self) -> None:
        """The spool's own law, and that what it says is there is there."""
        counters = self.spool.counters
        dropped = sum(counters.dropped.values())
        assert counters.restored + counters.stored == counters.decided + dropped + counters.metrics, counters
        waiting = [name for name in self.names() if name not in self.spool._stock.gone]
        assert counters.files == len(waiting)
        assert counters.metrics == sum(metrics_of(name) or 0 for name in waiting)
        assert counters.bytes == sum(
            -(-os.stat(self.folder / name).st_size // 4096) * 4096 for name in waiting
        )


def failing(error: int, real: Callable[..., object], when: Callable[[str], bool]) -> Callable[..., object]:
    """*real*, which fails with *error* for paths that *when* picks."""

    def call(path: object, *others: object, **named: object) -> object:
        if when(str(path)):
            raise OSError(error, os.strerror(error), str(path))
        return real(path, *others, **named)

    return call
