"""Delivers what is in a spool without an agent: the flusher alone, with no rings to empty.

The same breaker, the same attempts and the same rejected metrics as in an agent, so that whoever empties a
spool by hand does to the server what an agent would have done.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent._core import Waker
from agent.config import Flush, ServerOutput
from agent.delivery.flusher import Flusher
from agent.outputs import make
from agent.route import resilience
from agent.store.rejected import Rejected
from agent.store.spool import Spool

POLL_S = 0.1

END_S = 10.0
"""So long what is under way at the end may take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a spool, in metrics."""

    delivered: int
    rejected: int
    left: int
    last_error: str
    """Why the last attempt that failed did so."""


def replay(
    config: ServerOutput,
    flush: Flush,
    spool: Spool,
    rejected: Rejected,
    *,
    patience: float,
    agent: str = "",
    tell: Callable[[int], None] = lambda waiting: None,
) -> Outcome:
    """Deliver what is in *spool* until it is empty, or nothing has come of it for *patience* seconds.

    *agent* is by what name relays know us. *tell* is given the number of metrics that wait, time and again;
    what it raises ends the replay, with everything back in the spool. Raises OutputError.
    """
    output = make(config, agent)
    waker = Waker()
    flusher = Flusher(
        config.name, output, waker, [], flush, resilience(config), spool=spool, rejected=rejected
    )
    # What it would do in its own time, at the cost of that for the first attempt.
    output.tick()
    flusher.start()
    try:
        waiting, since = spool.counters.metrics, time.monotonic()
        while waiting and time.monotonic() < since + patience:
            tell(waiting)
            time.sleep(POLL_S)
            # A full window of the spool may have been used up.
            flusher.spool_changed()
            before, waiting = waiting, spool.counters.metrics
            if waiting < before:
                since = time.monotonic()
        tell(waiting)
    finally:
        # What ends an attempt at the end says nothing about the server.
        last_error = flusher.health.last_error
        grace = END_S if spool.counters.metrics == 0 else 0.0
        flusher.drain(time.monotonic() + grace)
        output.close()
        waker.close()
    counters = flusher.counters
    return Outcome(counters.delivered, counters.rejected, spool.counters.metrics, last_error)
