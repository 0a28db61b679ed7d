"""What the outputs keep on disk: by the name of the output, a spool and the metrics that were rejected.

    state_dir/spool/NAME/        what is to be delivered later
    state_dir/rejected/NAME/     what the server refused for good

Both outlive whatever is made anew at a reload. An output that leaves the configuration lets go of them, yet
they stay open until the end of the process: should it come back, it finds them as they were, and until then
the limits on what lies there are kept and its metrics stay in the ledger.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.config import Output as OutputConfig
from agent.config import ServerOutput
from agent.store.rejected import Rejected
from agent.store.spool import Spool

logger = logging.getLogger(__name__)


class Store:
    """What one output keeps on disk. Any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.spool: Spool | None = None
        """None as long as there was no need for one. One that is not wanted any more is only emptied."""
        self.rejected: Rejected | None = None
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """Have *changed* called, by any thread, when something was stored or can be read again."""
        with self._lock:
            self._watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.remove(changed)

    def changed(self) -> None:
        """Tell those who watch."""
        with self._lock:
            watchers = [*self._watchers]
        for changed in watchers:
            changed()


class Stores:
    """All stores below *folder*, the ``state_dir``. For one thread at a time, but for :meth:`get`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[str, Store] = {}

    def get(self, name: str) -> Store | None:
        return self._stores.get(name)

    def open(self, config: OutputConfig, target: str) -> Store:
        """The store for *config*, with all that it lacks made. Raises OSError where a person must mend it.

        *target* is where the output sends to. What is there already keeps its settings until :func:`settle`.
        """
        store = self._stores.setdefault(config.name, Store(config.name))
        if not isinstance(config, ServerOutput):
            return store
        folder = self._folder / "spool" / config.name
        if store.spool is None and config.spool is not None:
            store.spool = Spool(config.name, folder, config.spool, changed=store.changed)
        elif store.spool is None and _has_files(folder):
            extra = {"output": config.name, "folder": str(folder)}
            logger.warning("an output that has no spool any more left files in it; they stay", extra=extra)
        if store.rejected is None:
            folder = self._folder / "rejected" / config.name
            store.rejected = Rejected(config.name, folder, config.rejected, target=target)
        return store

    def close(self) -> None:
        """Put everything on the disk, and end. The counters can be read still."""
        for store in self._stores.values():
            if store.spool is not None:
                store.spool.close()
            if store.rejected is not None:
                store.rejected.close()


def settle(store: Store, config: OutputConfig, target: str) -> None:
    """Keep things as *config* says from now on."""
    if isinstance(config, ServerOutput):
        if store.spool is not None and config.spool is not None:
            store.spool.reconfigure(config.spool)
        if store.rejected is not None:
            store.rejected.reconfigure(config.rejected, target)


def _has_files(folder: Path) -> bool:
    try:
        return any(any(folder.glob(pattern)) for pattern in ("*.lp*", "*.pb*"))
    except OSError:
        return False
