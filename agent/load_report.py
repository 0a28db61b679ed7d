"""What became of a load: from the agent's counters before and after it, and where metrics were lost."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.load import Sent

_ADVICE = {
    "kernel": "the receive buffer was full: a larger receive_buffer, more lanes, or larger datagrams",
    "missed": "its rings were full: a larger ring_bytes, or a destination that is faster",
    "ring_full": "no output had room: larger ring_bytes, or destinations that are faster",
}

Report = dict[str, Any]


def report(
    sent: Sent,
    wanted: float,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    listener: str,
    times: Mapping[str, float],
) -> Report:
    """What was lost where, as numbers.

    *wanted* is the rate; *before* and *after* are documents of ``/api/status``; *times* are seconds of
    processor time by thread, while it was sent.
    """
    each = sent.metrics // sent.messages if sent.messages else 0
    was, now = _named(before["listeners"], listener), _named(after["listeners"], listener)
    kernel = _more(was, now, "kernel_drops")
    received = _more(was, now, "received")
    dropped = _reasons(was.get("dropped", {}), now.get("dropped", {}))
    # Many datagrams that are sent in one call are dropped in one go, and counted as one: what is missing
    # where the kernel has dropped any was dropped by it.
    missing = max(0, sent.metrics - received)
    place = "kernel" if kernel else "on the way"
    lost = {place: missing, **dropped}
    outputs: list[Report] = []
    for one in after["outputs"]:
        earlier = _named(before["outputs"], one["name"]).get("ledger", {})
        ledger = one["ledger"]
        figures: Report = {
            key: _more(earlier, ledger, key) for key in ("delivered", "rejected", "merged", "missed")
        }
        figures["dropped"] = _reasons(earlier.get("dropped", {}), ledger["dropped"])
        figures |= {key: ledger[key] for key in ("waiting", "spooled")}
        outputs.append({"name": one["name"], "delay": after["delay"].get(one["name"]), **figures})
    return {
        "sent": {**sent._asdict(), "wanted": wanted, "rate": sent.metrics / sent.seconds},
        "kernel": {
            "drops": kernel,
            "metrics": missing if kernel else 0,
            "datagrams": missing // each if kernel and each else 0,
        },
        "received": received,
        "accepted": _more(was, now, "accepted"),
        "aggregated": _more(was, now, "aggregated"),
        "dropped": dropped,
        "outputs": outputs,
        "lost": {place: number for place, number in lost.items() if number},
        "processors": _processors(times, sent.seconds),
    }


def told(found: Report, stream: bool) -> Iterator[str]:
    """*found* in lines for people; of a *stream* or of datagrams."""
    sent = found["sent"]
    what = "messages" if stream else "datagrams"
    wanted = f"    (wanted {sent['wanted']:,.0f})" if sent["wanted"] else ""
    yield _row(
        "Sent",
        f"{sent['metrics']:13,} metrics   {sent['messages']:,} {what}   {sent['rate']:,.0f} metrics/s"
        f" for {sent['seconds']:.1f} s{wanted}",
    )
    if "received" not in found:
        return
    if not stream:
        kernel = found["kernel"]
        why = f": {_ADVICE['kernel']}" if kernel["datagrams"] else ""
        yield _row("Kernel", f"{kernel['metrics']:13,} lost      {kernel['datagrams']:,} datagrams{why}")
    more = f"   aggregated {found['aggregated']:,}" if found["aggregated"] else ""
    yield _row(
        "Received",
        f"{found['received']:13,}   accepted {found['accepted']:,}{more}   dropped {_sum(found['dropped'])}",
    )
    for one in found["outputs"]:
        yield _row(one["name"], f"{one['delivered']:13,} delivered   {_output(one)}")
    yield _row("Lost", _lost(found))
    processors = found["processors"]
    if not processors["busiest"]:
        return
    busiest = f"{processors['busiest']} {processors['share'] * 100:.0f} % of one"
    yield _row("Agent", f"{processors['used']:.2f} of {processors['all']} processors, {busiest}")


def _row(name: str, text: str) -> str:
    return f"{name:10}{text}"


def _output(one: Mapping[str, Any]) -> str:
    from agent.admin.figures import duration

    parts = [f"rejected {one['rejected']:,}", f"dropped {_sum(one['dropped'])}", f"missed {one['missed']:,}"]
    if one["missed"]:
        parts[-1] += f" ({_ADVICE['missed']})"
    if one["merged"]:
        parts.insert(0, f"merged {one['merged']:,}")
    parts += [f"{key} {one[key]:,}" for key in ("waiting", "spooled") if one[key] or key == "waiting"]
    if one["delay"]:
        parts.append(f"delay p50 {duration(one['delay']['p50'])}  p99 {duration(one['delay']['p99'])}")
    return "   ".join(parts)


def _lost(found: Report) -> str:
    sent, lost = found["sent"]["metrics"], found["lost"]
    number = sum(lost.values())
    if not number:
        more = found["received"] - sent
        other = f"; {more:,} more came from others meanwhile" if more > 0 else ""
        return f"{0:13,} of {sent:,} on the way to the outputs{other}"
    places = ", ".join(
        f"{one:,} {'in the kernel' if place == 'kernel' else place}"
        + (f" ({_ADVICE[place]})" if place in _ADVICE and place != "kernel" else "")
        for place, one in lost.items()
    )
    return f"{number:13,} of {sent:,} ({number / max(1, sent) * 100:.3g} %): {places}"


def came(before: Mapping[str, Any], now: Mapping[str, Any], listener: str) -> int:
    """Metrics that the listener has received since *before*."""
    return _more(_named(before["listeners"], listener), _named(now["listeners"], listener), "received")


def settled(status: Mapping[str, Any]) -> bool:
    """Whether all that was received is decided, or safe in a spool."""
    return not any(one["ledger"]["waiting"] for one in status["outputs"]) and not any(
        one["queue_bytes"] for one in status["listeners"]
    )


def _processors(times: Mapping[str, float], seconds: float) -> dict[str, Any]:
    busiest = max(times, key=lambda name: times[name], default="")
    return {
        "used": sum(times.values()) / seconds,
        "all": os.cpu_count() or 1,
        "busiest": busiest,
        "share": times.get(busiest, 0.0) / seconds,
    }


def thread_times(pid: int) -> dict[str, float]:
    """Seconds of processor time that the threads of a process have taken, by name; empty if hidden."""
    times: dict[str, float] = {}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # One may end meanwhile.
            with suppress(OSError):
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                used = sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")
                # The first one has the name of the program.
                name = "main" if task.name == str(pid) else name
                times[name] = times.get(name, 0.0) + used
    return times


def _named(accounts: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((one for one in accounts if one["name"] == name), {})


def _more(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> int:
    return int(after.get(key, 0)) - int(before.get(key, 0))


def _reasons(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: more for name in after if (more := _more(before, after, name))}


def _sum(reasons: Mapping[str, int]) -> str:
    total = sum(reasons.values())
    why = ", ".join(f"{name} {number:,}" for name, number in sorted(reasons.items()))
    return f"{total:,} ({why})" if total else "0"
