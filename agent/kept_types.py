"""The types of fields as the control plane has them: their file, what is pinned, and what was left out.

The writers bring fields to their types by themselves (:mod:`agent.guards`). Fields that could not be brought
to theirs are kept in ``state_dir/rejected/_guard``, each as a line of its own, and told in one log line for
each.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from agent._core import Types
from agent.config import RejectedTable
from agent.config import Types as TypesConfig
from agent.config_toml import toml_value
from agent.guards import Guards
from agent.store.rejected import GUARD, Rejected

logger = logging.getLogger(__name__)

TOLD_AGAIN_S = 600.0
"""One field is told so often at most, and any one a minute."""
TOLD_ANY_S = 60.0

SYNC_S = 5.0

# The one field of a line that was left out: a head, key=value, a time.
_FIELD = re.compile(
    rb"((?:\\.|[^\\, ]|\\)+?)(?:,(?:\\.|[^\\ ]|\\)*?)? ((?:\\[,= ]|[^=])+)=(.*) -?[0-9]+", re.DOTALL
)


def pin(types: Types, config: TypesConfig) -> None:
    """Have *types* keep what *config* gives."""
    types.pin(
        [(_written(one.measurement, ", "), _written(one.field, ",= "), one.type) for one in config.field]
    )


class KeptTypes:
    """One for the process. For one thread, but for :meth:`stats`."""

    def __init__(self) -> None:
        self.types: Types | None = None
        self._max_fields = 0
        self._rejected: Rejected | None = None
        self._told: dict[tuple[str, str], float] = {}
        self._told_any = -TOLD_ANY_S
        self._unguarded = 0
        self._sync_at = 0.0
        self._unsaved = 0

    def open(self, config: TypesConfig | None, state_dir: Path) -> None:
        """Open the file where it is wanted for the first time; it stays open. Raises OSError, ValueError.

        The folder of what was left out is opened wherever there is one.
        """
        folder = state_dir / "rejected" / GUARD
        if config is None:
            if self._rejected is None and folder.is_dir():
                self._rejected = Rejected(GUARD, folder, RejectedTable())
            return
        if self.types is not None:
            if self._max_fields != config.max_fields:
                raise ValueError(
                    f"{self._max_fields} is running and {config.max_fields} is wanted: "
                    "this takes a restart of the agent"
                )
            return
        state_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(state_dir / "types", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            types = Types(config.max_fields, fd)
        finally:
            os.close(fd)
        self._rejected = self._rejected or Rejected(GUARD, folder, RejectedTable())
        self.types, self._max_fields = types, config.max_fields

    @property
    def rejected(self) -> Rejected | None:
        """The folder of what was left out, if there is one."""
        return self._rejected

    def configure(self, config: TypesConfig | None) -> None:
        """Pin what *config* gives."""
        if self.types is not None and config is not None:
            pin(self.types, config)

    def take(self, guards: Guards | None, now: float, realtime_ns: int) -> None:
        """Keep what *guards* have left out. Once a second, and before they go."""
        refused = guards.take_rejected() if guards is not None else []
        if not refused or self._rejected is None:
            return
        lines = [(line, _reason(line, kept, came)) for line, kept, came in refused]
        self._rejected.put(lines, None, "type conflict", "types", realtime_ns)
        self._tell(refused, now)

    def look_after(self, guards: Guards | None, now: float, realtime_ns: int) -> None:
        """Keep what was left out, tell of it, and have new types written. For once a second."""
        if self._rejected is not None and (due := self._rejected.due()) is not None and now >= due:
            self._rejected.tick()
        if self.types is None:
            return
        self.take(guards, now, realtime_ns)
        unguarded = self.types.stats()["unguarded"]
        if unguarded > 0 and self._unguarded == 0:
            logger.warning(
                "no more fields can be kept by type",
                extra={"max_fields": self._max_fields, "fields": self.types.stats()["fields"]},
            )
        self._unguarded = unguarded
        if now >= self._sync_at:
            self._sync_at = now + SYNC_S
            self._sync()

    def _sync(self) -> None:
        assert self.types is not None
        try:
            self.types.sync()
        except OSError as error:
            logger.warning("the types of fields cannot be written to the disk", extra={"reason": str(error)})

    def _tell(self, refused: Sequence[tuple[bytes, str, str]], now: float) -> None:
        """Log the first field that was not told of lately."""
        if now - self._told_any < TOLD_ANY_S:
            return
        self._told = {name: when for name, when in self._told.items() if now - when < TOLD_AGAIN_S}
        for line, kept, came in refused:
            measurement, field, _ = _parts(line)
            if (measurement, field) in self._told:
                continue
            self._told[measurement, field] = self._told_any = now
            logger.warning(
                "a field came in another type than it has",
                extra={
                    "measurement": measurement,
                    "field": field,
                    "kept": kept,
                    "came": came,
                    "fields": sum(_parts(one)[:2] == (measurement, field) for one, _, _ in refused),
                    "remedy": f"[[types.field]]\nmeasurement = {toml_value(measurement)}\n"
                    f"field = {toml_value(field)}\ntype = {toml_value(came)}",
                },
            )
            return

    def stats(self) -> dict[str, int]:
        """How many fields are kept, and what could not be."""
        if self.types is None:
            return {}
        stats = self.types.stats()
        return {"fields": stats["fields"], "fields_unguarded": stats["unguarded"]}

    def close(self) -> None:
        """Put everything on the disk."""
        if self.types is not None:
            self._sync()
        if self._rejected is not None:
            self._rejected.close()


def _written(name: str, escaped: str) -> bytes:
    """*name* as lines have it."""
    return "".join(f"\\{one}" if one in escaped else one for one in name).encode()


def _parts(line: bytes) -> tuple[str, str, str]:
    """Measurement, field and value, without the escapes of the names."""
    match = _FIELD.fullmatch(line)
    if match is None:
        return "", "", ""
    measurement, field, value = (part.decode("utf-8", "replace") for part in match.groups())
    return re.sub(r"\\([, ])", r"\1", measurement), re.sub(r"\\([,= ])", r"\1", field), value


def _reason(line: bytes, kept: str, came: str) -> str:
    measurement, field, value = _parts(line)
    shown = value if len(value) <= 64 else f"{value[:64]}…"
    return f'type conflict: field "{field}" of "{measurement}" is {kept}, came as {came} {shown}'
