"""Which sources send more than they may: told once in the log, and shown with their listener."""

import logging
from collections.abc import Iterable

from agent.accounts import LoserAccount
from agent.door import Door

logger = logging.getLogger(__name__)

SHOWN_MAX = 16
"""Of one listener."""

TOLD_AGAIN_S = 600.0
"""One source is told so often at most, and any one a minute."""
TOLD_ANY_S = 60.0


def losers(door: Door) -> tuple[LoserAccount, ...]:
    """The sources of *door* that lost most, without having been read."""
    if door.sources is None:
        return ()
    return tuple(
        LoserAccount(source=source, reason=reason, dropped=dropped)
        for source, reason, dropped in door.sources.losers()[:SHOWN_MAX]
    )


class LoserWatch:
    """Tells of sources over their rate. For one thread."""

    def __init__(self) -> None:
        # When a source was last told of, and what it had lost by then.
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        self._told_any = -TOLD_ANY_S

    def look_after(self, doors: Iterable[Door], now: float) -> None:
        """Log the source that lost most since it was last told of. For once a second; *now* is monotonic."""
        if now - self._told_any < TOLD_ANY_S:
            return
        found = {
            (door.config.name, source): dropped
            for door in doors
            if door.sources is not None
            for source, reason, dropped in door.sources.losers()
            if reason == "rate_limited"
        }
        self._told = {name: told for name, told in self._told.items() if name in found}
        worst, most = None, 0
        for name, dropped in found.items():
            when, before = self._told.get(name, (-TOLD_AGAIN_S, 0))
            if dropped - before > most and now - when >= TOLD_AGAIN_S:
                worst, most = name, dropped - before
        if worst is not None:
            self._told[worst] = now, found[worst]
            self._told_any = now
            logger.warning(
                "a source sends more than its rate",
                extra={"listener": worst[0], "source": worst[1], "dropped": most},
            )
