"""How long an output takes for its metrics, and which of them are delivered in time.

A metric of this process is *in time* when it was confirmed no later than ``within`` after it arrived. It is
late when its time is over and it was not confirmed, wherever it is then; nobody waits for its delivery::

    due  = written + missed + lost before any ring - young
    late = due - on_time

*young* is what is in the rings (:meth:`agent._core.Ring.young`) or in the spool
(:class:`agent.store.owed.Owed`) and has time left. Whoever reads that reads rings, spools and ``on_time``, in
this order: a metric goes that way, and is in the next place before it leaves the last one. So it may be seen
twice, and is never taken for late because it was on its way. What an earlier process received, or a command
brought, is not in ``on_time``.
"""

from agent._core import Delays
from agent.delivery.work import Brought, Live, Loose, Stored
from agent.store.owed import Owed


class Promise:
    """Of one output: what was delivered, how late, and what went to its spool. Any thread."""

    def __init__(self, within: float) -> None:
        self.delays = Delays(within)

    def storing(self, work: Live | Stored, metrics: int, owed: Owed) -> None:
        """The last *metrics* of *work* that are undecided are about to be put into the spool."""
        own = max(_own(work, owed) - _confirmed(work), 0)
        if own:
            owed.add(work.trace.id, metrics, work.oldest_ns, min(own, metrics))

    def not_stored(self, work: Live | Stored, metrics: int, owed: Owed) -> None:
        """They were not."""
        owed.remove(work.trace.id, metrics)

    def remove(self, work: Stored, owed: Owed) -> None:
        """A file is decided; what is left of it has another one."""
        confirmed, own = _confirmed(work), _own(work, owed)
        if own:
            self.delays.file(work.oldest_ns, min(confirmed, own), True)
        if confirmed > own:
            self.delays.file(work.oldest_ns, confirmed - own, False)
        owed.remove(work.trace.id, work.metrics)


def _confirmed(work: Live | Stored) -> int:
    return work.tally.delivered + work.tally.merged


def _own(work: Live | Stored, owed: Owed) -> int:
    """How many metrics of *work* this process has received."""
    if isinstance(work, Stored):
        return owed.own(work.trace.id, work.metrics)
    return 0 if isinstance(work.batch, Loose | Brought) else work.batch.own
