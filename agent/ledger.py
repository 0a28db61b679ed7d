"""The ledger: what became of every metric, and the laws that the counters obey.

A :class:`Ledger` is one reading of the counters of all lanes, rings and outputs, made by :func:`read`;
nothing here counts by itself. Counters only rise. At rest, that is when nothing arrives and nothing is
under way, four laws hold exactly, and :meth:`Ledger.balance` names each place where one does not:

1. ``received = accepted + Σ dropped`` for each listener on each lane, and the ``accepted`` of a lane's
   listeners add up to its own. What of it was ``aggregated`` is in a table until the next tick; all else has
   gone to the rings.
2. ``accepted = written + missed`` for each ring: ``accepted`` is what its writer put into rings while this
   one was attached, but for the lines that a filter or a shard left out of it, which are its ``filtered``;
   ``missed`` is what only other rings had room for. (A metric that no ring could take was never accepted: it
   is the listener's ``dropped{ring_full}``, or ``unrouted`` if no output wants it.) The writers are the
   lanes, the feed, which is one more lane of number -1, and the tick thread with the points that stand for
   what was aggregated: each of those is accepted, and one that no ring had room for is ``missed`` by all of
   them and in the aggregation's ``ring_full``. One that no output wants is only in its ``unrouted``.
3. ``restored + carried + written = delivered + rejected + merged + spooled + waiting + Σ dropped`` for each
   output:
   ``waiting`` is what is in its rings, batches under way included, and ``spooled`` what is in its spool.
   ``restored`` is what was there before anything was written: in rings that an earlier process left, in the
   spool at the start, or brought back by a command. ``carried`` came in messages of a broker and went on as
   it was; the broker has it until it is counted. ``merged`` are lines whose fields went out in another
   line of their batch, of the same series and time.
4. ``restored + stored = decided + Σ dropped + metrics`` for each spool, ``metrics`` being what is in it.

While metrics flow, the counters are read one after the other and may be a burst apart, so whoever finds a
law broken looks again before believing it: :func:`settle`. Each output counts in metrics of its own: a
metric is a line in a ring of lines, and a sample in a ring of samples, of which a line has as many as it has
numbers and booleans. The kernel's own drops lie before the first law; they are read from the sockets and
shown beside it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent.accounts import (
    AggregationAccount,
    GateCounters,
    GuardAccount,
    LaneAccount,
    ListenerAccount,
    LoserAccount,
    OutputAccount,
    OutputReading,
    RejectedAccount,
    RelayAccount,
    RelayCounters,
    RingAccount,
    SocketAccount,
    SpoolAccount,
)

if TYPE_CHECKING:
    from agent._core import AggregateStats, LaneStats, ListenerStats

S = TypeVar("S", SpoolAccount, RejectedAccount, RelayAccount)


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of all counters."""

    listeners: tuple[ListenerAccount, ...]
    lanes: tuple[LaneAccount, ...]
    outputs: tuple[OutputAccount, ...]
    guards: GuardAccount | None = None
    """None where nothing guards the database."""
    problems: tuple[str, ...]
    """Where a law did not hold in this reading."""

    def balance(self) -> list[str]:
        """Where the laws do not hold, one sentence each; empty if the ledger balances."""
        return list(self.problems)


def read(
    listeners: Mapping[int, tuple[str, str]],
    lanes: Sequence["LaneStats"],
    outputs: Iterable[OutputReading],
    aggregates: Mapping[int, "AggregateStats"] | None = None,
    gates: Mapping[int, GateCounters] | None = None,
    guards: GuardAccount | None = None,
    losers: Mapping[int, tuple[LoserAccount, ...]] | None = None,
    relays: Mapping[int, RelayCounters] | None = None,
) -> Ledger:
    """Add the counters up.

    *listeners* gives the name and the address for each listener number in use on the lanes; a number that
    is not in it appears as ``#number``; *aggregates* has what the StatsD listeners aggregated, and *gates*
    what TLS turned away, *losers* their sources, and *relays* what came from brokers, by the same numbers:
    what was carried has been in no lane, and counts as the feed's. *guards* is passed on. The
    counters are best read against the stream (delivery, spool, rings, lanes): what lies further down can then
    lag behind, but never seem to have made a metric.
    """
    outputs = list(outputs)
    relayed = {number: _copy(RelayAccount, counters) for number, counters in (relays or {}).items()}
    carried = sum(one.carried for one in relayed.values())
    problems = [*_lane_problems(lanes, listeners)]
    accounts = []
    for output in outputs:
        account = _output(output)
        problems += _output_problems(account)
        accounts.append(account)
    return Ledger(
        listeners=tuple(
            _relayed(one, relayed[number]) if number in relayed else one
            for number, one in _listeners(listeners, lanes, aggregates or {}, gates or {}, losers or {})
        ),
        lanes=tuple(_lane(stats, carried) for stats in lanes),
        outputs=tuple(accounts),
        guards=guards,
        problems=tuple(problems),
    )


async def settle(
    take: Callable[[], Ledger], patience: float = 0.5, pause: float = 0.02
) -> tuple[Ledger, bool]:
    """Take readings until one balances or nothing moves any more: (the last reading, whether it is final).

    Gives up after *patience* seconds, *pause* between two readings. A reading that does not balance is
    only final after five in a row that were the same: a batch is counted as delivered a moment before it
    leaves its ring, and on a busy machine that moment can be a few milliseconds.
    """
    deadline = time.monotonic() + patience
    ledger = take()
    same = 1
    while ledger.problems and same < 5:
        if time.monotonic() > deadline:
            return ledger, False
        await asyncio.sleep(pause)
        before, ledger = ledger, take()
        same = same + 1 if counts(ledger) == counts(before) else 1
    return ledger, True


def counts(ledger: Ledger) -> tuple[object, ...]:
    """What stands still when no metric moves; beats and processor time go on at rest."""
    return (ledger.listeners, tuple(lane.accepted for lane in ledger.lanes), ledger.outputs)


def _name(number: int, listeners: Mapping[int, tuple[str, str]]) -> tuple[str, str]:
    return listeners.get(number, (f"#{number}", ""))


def _listeners(
    names: Mapping[int, tuple[str, str]],
    lanes: Sequence["LaneStats"],
    aggregates: Mapping[int, "AggregateStats"],
    gates: Mapping[int, GateCounters],
    losers: Mapping[int, tuple[LoserAccount, ...]],
) -> Iterable[tuple[int, ListenerAccount]]:
    parts: dict[int, list[ListenerStats]] = {number: [] for number in names}
    sockets: dict[int, list[SocketAccount]] = {}
    for lane in lanes:
        for number, stats in lane["listeners"].items():
            parts.setdefault(number, []).append(stats)
            if stats["receive_buffer_bytes"] or stats["kernel_drops"]:
                sockets.setdefault(number, []).append(_socket(lane["lane"], stats))
    for number, of_listener in sorted(parts.items()):
        yield (
            number,
            ListenerAccount(
                name=_name(number, names)[0],
                address=_name(number, names)[1],
                sockets=sum(part["sockets"] for part in of_listener),
                datagrams=sum(part["datagrams"] for part in of_listener),
                bytes=sum(part["bytes"] for part in of_listener),
                received=sum(part["received"] for part in of_listener),
                accepted=sum(part["accepted"] for part in of_listener),
                aggregated=sum(part["aggregated"] for part in of_listener),
                shaped=sum(part["shaped"] for part in of_listener),
                overflowed=sum(part["overflowed"] for part in of_listener),
                observed=sum(part["observed"] for part in of_listener),
                coerced=sum(part["coerced"] for part in of_listener),
                fields_rejected=sum(part["fields_rejected"] for part in of_listener),
                rewritten=sum(part["rewritten"] for part in of_listener),
                clamped=sum(part["clamped"] for part in of_listener),
                dropped=_add(part["dropped"] for part in of_listener),
                kernel_drops=sum(part["kernel_drops"] for part in of_listener),
                queue_bytes=sum(part["queue_bytes"] for part in of_listener),
                receive_buffer_bytes=sum(part["receive_buffer_bytes"] for part in of_listener),
                aggregation=AggregationAccount(**aggregates[number]) if number in aggregates else None,
                connections=sum(part["connections"] for part in of_listener),
                connections_accepted=sum(part["connections_accepted"] for part in of_listener),
                connections_refused=sum(part["connections_refused"] for part in of_listener)
                + (gates[number].refused if number in gates else 0),
                connections_closed=_add(part["connections_closed"] for part in of_listener),
                handshakes_failed=gates[number].failed if number in gates else 0,
                requests=_add(part["requests"] for part in of_listener),
                losers=losers.get(number, ()),
                sockets_by_lane=tuple(sockets.get(number, ())),
            ),
        )


def _relayed(account: ListenerAccount, relay: RelayAccount) -> ListenerAccount:
    """*account* with what came as messages of a broker and was not read by the feed."""
    damaged = {"body_refused": relay.damaged} if relay.damaged else {}
    return msgspec.structs.replace(
        account,
        datagrams=relay.messages,
        bytes=relay.bytes,
        received=account.received + relay.carried + relay.damaged,
        accepted=account.accepted + relay.carried,
        dropped=_add([account.dropped, damaged]),
        relay=relay,
    )


def _socket(lane: int, stats: "ListenerStats") -> SocketAccount:
    return SocketAccount(
        lane=lane,
        queue_bytes=stats["queue_bytes"],
        receive_buffer_bytes=stats["receive_buffer_bytes"],
        kernel_drops=stats["kernel_drops"],
    )


def _lane(stats: "LaneStats", carried: int) -> LaneAccount:
    return LaneAccount(
        lane=stats["lane"],
        running=stats["running"],
        beats=stats["beats"],
        receives=stats["receives"],
        accepted=stats["accepted"] + (carried if stats["lane"] < 0 else 0),
        cpu_ns=stats["cpu_ns"],
        paused=stats["paused"],
    )


def _output(reading: OutputReading) -> OutputAccount:
    counters = reading.counters
    rings = tuple(
        RingAccount(
            writer=writer,
            restored=stats["restored"],
            torn=stats["torn"],
            accepted=stats["accepted"],
            written=stats["written"],
            missed=stats["missed"],
            filtered=stats["filtered"],
            left_out=stats["left_out"],
            written_bytes=stats["written_bytes"],
            waiting=stats["waiting"],
            waiting_bytes=stats["waiting_bytes"],
            capacity_bytes=stats["capacity_bytes"],
            slots_used=stats["slots_used"],
            restarts=stats["restarts"],
        )
        for writer, stats in reading.rings.items()
    )
    spool = _copy(SpoolAccount, reading.spool) if reading.spool is not None else None
    torn = sum(ring.torn for ring in rings)
    dropped = [
        counters.dropped,
        spool.dropped if spool is not None else {},
        {"ring_torn": torn} if torn else {},
    ]
    return OutputAccount(
        name=reading.name,
        type=reading.type,
        restored=(
            counters.restored
            + sum(ring.restored for ring in rings)
            + (spool.restored if spool is not None else 0)
        ),
        carried=counters.carried,
        written=sum(ring.written for ring in rings),
        missed=sum(ring.missed for ring in rings),
        filtered=sum(ring.filtered for ring in rings),
        left_out=sum(ring.left_out for ring in rings),
        delivered=counters.delivered,
        rejected=counters.rejected,
        merged=counters.merged,
        dropped=_add(dropped),
        spooled=spool.metrics if spool is not None else 0,
        waiting=sum(ring.waiting for ring in rings),
        waiting_bytes=sum(ring.waiting_bytes for ring in rings),
        capacity_bytes=sum(ring.capacity_bytes for ring in rings),
        batches=counters.batches,
        replayed=counters.replayed,
        attempts=counters.attempts,
        requests=dict(counters.requests),
        retries=counters.retries,
        splits=counters.splits,
        bytes_raw=counters.bytes_raw,
        bytes_sent=counters.bytes_sent,
        opened=counters.opened,
        traced=counters.traced,
        stages=dict(counters.stages),
        on_time=counters.on_time,
        histograms=dict(counters.histograms),
        rings=rings,
        spool=spool,
        refused=_copy(RejectedAccount, reading.refused) if reading.refused is not None else None,
    )


def _copy(account: type[S], counters: object) -> S:
    """An account of counters that have the same names."""
    return account(**{name: getattr(counters, name) for name in account.__struct_fields__})


def lane_name(lane: int) -> str:
    """What messages call a lane; -1 is the feed."""
    return f"lane {lane}" if lane >= 0 else "feed"


def _lane_problems(lanes: Sequence["LaneStats"], names: Mapping[int, tuple[str, str]]) -> Iterable[str]:
    """The first law, for each listener on each lane."""
    for lane in lanes:
        for number, stats in sorted(lane["listeners"].items()):
            dropped = sum(stats["dropped"].values())
            if stats["received"] != stats["accepted"] + dropped:
                yield (
                    f"listener {_name(number, names)[0]}, {lane_name(lane['lane'])}: "
                    f"{stats['received']} received, but {stats['accepted']} accepted + {dropped} dropped"
                )
        accepted = sum(stats["accepted"] for stats in lane["listeners"].values())
        if accepted != lane["accepted"]:
            yield f"{lane_name(lane['lane'])}: {lane['accepted']} accepted, but {accepted} by its listeners"


def _output_problems(output: OutputAccount) -> Iterable[str]:
    """The second law for each ring, the third for the output, the fourth for its spool."""
    for ring in output.rings:
        if ring.accepted != ring.written + ring.missed:
            yield (
                f"output {output.name}, ring of {ring.writer}: {ring.accepted} accepted, "
                f"but {ring.written} written + {ring.missed} missed"
            )
    dropped = sum(output.dropped.values())
    decided = output.delivered + output.rejected + output.merged + dropped
    brought = output.restored + output.carried + output.written
    if brought != decided + output.spooled + output.waiting:
        carried = f" + {output.carried} carried" if output.carried else ""
        yield (
            f"output {output.name}: {output.restored} restored{carried} + {output.written} written, but "
            f"{output.delivered} delivered + {output.rejected} rejected + {output.merged} merged + "
            f"{output.spooled} spooled + {output.waiting} waiting + {dropped} dropped"
        )
    spool = output.spool
    if spool is not None:
        dropped = sum(spool.dropped.values())
        if spool.restored + spool.stored != spool.decided + dropped + spool.metrics:
            yield (
                f"spool of output {output.name}: {spool.restored} restored + {spool.stored} stored, but "
                f"{spool.decided} decided + {dropped} dropped + {spool.metrics} in it"
            )


def _add(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for reason, count in part.items():
            total[reason] = total.get(reason, 0) + count
    return total
