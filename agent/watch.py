"""The book as the control plane has it: its limits, its time, and who makes too many series.

The writers ask the book for themselves (:mod:`agent.guards`). What is told of it is one log line for each tag
that explodes, with the lines of configuration that would mend it, and an account for the ledger.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from agent._core import Book
from agent.accounts import GuardAccount, OffenderAccount
from agent.config import Cardinality
from agent.config_toml import toml_value

if TYPE_CHECKING:
    from agent._core import GuardStats, Offender

logger = logging.getLogger(__name__)

OFFENDERS_MAX = 16
"""That are shown."""

TOLD_AGAIN_S = 600.0
"""One offender is told so often at most, and any one a minute."""
TOLD_ANY_S = 60.0

NAME_BYTES = 128
"""The book keeps so much of a name."""

PREFIX_CHARS = 3
"""What less than this is common to is not dropped together."""


class Watch:
    """Keeps the book. For one thread, but for :meth:`account`, which any may call."""

    def __init__(self) -> None:
        self.book = Book()
        self._config: Cardinality | None = None
        # When an offender was last told of, and what had been refused of it by then.
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        self._told_any = -TOLD_ANY_S

    def configure(self, config: Cardinality | None) -> None:
        """Set the limits. Without any the book is left as it is, until :meth:`settle`."""
        if config is not None:
            self.book.configure(
                config.max_series,
                config.window,
                policy=config.policy,
                observe=config.mode == "observe",
                reserve=config.reserve,
                limits=[
                    (limit.measurement.encode(), limit.tag.encode(), limit.max_series, limit.policy)
                    for limit in config.limit
                ],
            )
        self._config = config

    def settle(self) -> None:
        """The writers have what was configured: a book that nobody asks any more forgets."""
        if self._config is None:
            self.book.clear()
            self._told.clear()

    def look_after(self, monotonic_ns: int, realtime_ns: int) -> None:
        """Move the book's time on, and tell of offenders. For once a second."""
        if self._config is not None:
            self.book.sweep(monotonic_ns, realtime_ns)
            self._tell(self.book.offenders(), monotonic_ns / 1e9)

    def _tell(self, offenders: Sequence["Offender"], now: float) -> None:
        """Log the worst of those that were refused something since they were last told of."""
        if now - self._told_any < TOLD_ANY_S:
            return
        names = {(one["measurement"], one["tag"]) for one in offenders}
        self._told = {name: told for name, told in self._told.items() if name in names}
        for one in offenders:
            name = one["measurement"], one["tag"]
            when, refused = self._told.get(name, (-TOLD_AGAIN_S, 0))
            if one["refused"] <= refused or now - when < TOLD_AGAIN_S:
                continue
            self._told[name] = now, one["refused"]
            self._told_any = now
            logger.warning(
                "a tag makes too many series",
                extra={
                    "measurement": one["measurement"],
                    "tag": one["tag"],
                    "series": one["series"],
                    "per_minute": one["per_minute"],
                    "samples": one["samples"],
                    "policy": self._policy(one),
                    "remedy": remedy(one),
                },
            )
            return

    def _policy(self, offender: "Offender") -> str:
        observes = self._config is not None and self._config.mode == "observe"
        return "observe" if observes else offender["policy"]

    def account(
        self, types: Mapping[str, int] | None = None, writers: "GuardStats | None" = None
    ) -> GuardAccount | None:
        """Of the book, the *types* of fields and what *writers* keep; None where nothing is guarded."""
        if self._config is None and not types and writers is None:
            return None
        account = GuardAccount(
            fields=types["fields"] if types else 0,
            fields_unguarded=types["fields_unguarded"] if types else 0,
            decided=writers["unknown"] if writers else 0,
            given_up=writers["given_up"] if writers else 0,
            heads=writers["heads"] if writers else 0,
            bytes=writers["bytes"] if writers else 0,
            rejected_unsaved=writers["rejected_unsaved"] if writers else 0,
        )
        if self._config is None:
            return account
        stats = self.book.stats()
        return msgspec.structs.replace(
            account,
            series=stats["series"],
            series_max=stats["series_max"],
            overflow_series=stats["overflow_series"],
            expired=stats["expired"],
            refused=stats["refused"],
            observed=stats["observed"],
            unknown=stats["unknown"],
            bytes=account.bytes + stats["bytes"],
            offenders=tuple(
                OffenderAccount(
                    measurement=one["measurement"],
                    tag=one["tag"],
                    series=one["series"],
                    refused=one["refused"],
                    per_minute=one["per_minute"],
                    error=one["error"],
                    samples=tuple(one["samples"]),
                    since=one["since_ns"] / 1e9,
                    policy=self._policy(one) if one["refused"] else "",
                    remedy=remedy(one) if one["refused"] else "",
                )
                for one in self.book.offenders()[:OFFENDERS_MAX]
            ),
        )


def remedy(offender: "Offender") -> str:
    """The lines of configuration that would end it: without the tag, or without such measurements.

    Empty where the measurements have no beginning in common: what must change then is who sends them.
    """
    if offender["tag"]:
        return (
            f"[[shape]]\nmeasurement = {toml_value([_glob(offender['measurement'])])}\n"
            f"drop_tags = {toml_value([_glob(offender['tag'])])}"
        )
    prefix = _common_prefix(offender["samples"])
    if len(prefix) < PREFIX_CHARS:
        return ""
    return f"[[shape]]\nmeasurement = {toml_value([_glob(prefix) + '*'])}\ndrop = true"


def _common_prefix(samples: Sequence[str]) -> str:
    shortest = min(samples, key=len, default="")
    for at, character in enumerate(shortest):
        if any(one[at] != character for one in samples):
            return shortest[:at]
    return shortest


def _glob(name: str) -> str:
    """A glob that takes *name* alone, or all that begin with it where the book has cut it."""
    glob = re.sub("^!", "?", re.sub(r"[*?\[]", r"[\g<0>]", name))
    return glob + "*" if len(name.encode()) >= NAME_BYTES - 3 else glob
