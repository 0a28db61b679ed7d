"""What ``penstock top`` tells: a second of the agent beside an earlier one, and the rows of each section."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.text import Text

from agent.admin.figures import count, duration, rate, volume
from agent.admin.top_table import Column, Row
from agent.terminal import printable

_STATES = {"ok": "green", "retrying": "yellow", "holding": "bold red"}


class Second:
    """A document of ``/api/stream`` and, if there is one of the same agent, an earlier one for the rates."""

    def __init__(self, now: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        self.status: Mapping[str, Any] = now["status"]
        self.time: float = now["time"]
        if before is not None and not _goes_on(before, now):
            before = None
        self._rates: Mapping[str, Any] = now["rates"]
        self.elapsed = now["time"] - before["time"] if before is not None else 0.0
        earlier: Mapping[str, Any] = before["status"] if before is not None else {}
        self._listeners = {one["name"]: one for one in earlier.get("listeners", ())}
        self._outputs = {one["name"]: one["ledger"] for one in earlier.get("outputs", ())}
        self._threads = {one["name"]: one["cpu_ns"] for one in earlier.get("threads", ())}
        self._offenders = {
            (one["measurement"], one["tag"]): one["refused"]
            for one in (earlier.get("guards") or {}).get("offenders", ())
        }
        self.listeners = [self._listener(one) for one in self.status["listeners"]]
        self.outputs = [self._output(one) for one in self.status["outputs"]]
        self.offenders = [self._offender(one) for one in (self.status["guards"] or {}).get("offenders", ())]

    @property
    def sums(self) -> dict[str, float]:
        """Of all listeners and outputs."""
        sums = {"in": 0.0, "out": 0.0, "lost": 0.0, "waiting": 0.0, "spool": 0.0}
        for one in self.listeners:
            sums["in"] += one["received"]
            sums["lost"] += one["lost"]
        for one in self.outputs:
            sums["out"] += one["delivered"]
            sums["lost"] += one["lost"]
            sums["waiting"] += one["waiting"]
            sums["spool"] += one["spool"]
        return sums

    @property
    def processors(self) -> float | None:
        """How many processors the agent keeps busy; None if that cannot be told yet."""
        if not self.elapsed or not self.status["threads"]:
            return None
        spent: int = sum(
            max(0, one["cpu_ns"] - self._threads.get(one["name"], 0)) for one in self.status["threads"]
        )
        return spent / 1e9 / self.elapsed

    def _listener(self, one: Mapping[str, Any]) -> dict[str, Any]:
        before = self._listeners.get(one["name"])
        rates = self._rates["listeners"].get(one["name"], {})
        reasons = self._more(before["dropped"] if before else {}, one["dropped"])
        room = one["receive_buffer_bytes"]
        row = {
            "name": one["name"],
            "received": rates.get("received", 0.0),
            "dropped": None,
            "kernel": None,
            "lost": rates.get("lost", 0.0),
            "queue": one["queue_bytes"] / room if room else None,
            "reasons": reasons,
        }
        if before:
            row["received"] = (one["received"] - before["received"]) / self.elapsed
            row["dropped"] = sum(reasons.values()) / self.elapsed
            row["kernel"] = (one["kernel_drops"] - before["kernel_drops"]) / self.elapsed
            row["lost"] = row["dropped"] + row["kernel"]
        return row

    def _output(self, one: Mapping[str, Any]) -> dict[str, Any]:
        ledger, before = one["ledger"], self._outputs.get(one["name"])
        rates = self._rates["outputs"].get(one["name"], {})
        reasons = self._more(_lost(before) if before else {}, _lost(ledger))
        delay = self.status["delay"].get(one["name"]) or {}
        row = {
            "name": one["name"],
            "state": one["state"],
            "breaker": one["breaker"],
            "delivered": rates.get("delivered", 0.0),
            "lost": rates.get("lost", 0.0),
            "waiting": ledger["waiting"],
            "spool": ledger["spool"]["bytes"] if ledger["spool"] else 0,
            "p50": delay.get("p50"),
            "p99": delay.get("p99"),
            "limit": one["limit"],
            "error": one["last_error"] if one["state"] != "ok" else "",
            "reasons": reasons,
        }
        if before:
            row["delivered"] = (ledger["delivered"] - before["delivered"]) / self.elapsed
            row["lost"] = sum(reasons.values()) / self.elapsed
        return row

    def _offender(self, one: Mapping[str, Any]) -> dict[str, Any]:
        before = self._offenders.get((one["measurement"], one["tag"]))
        refused = max(0, one["refused"] - before) / self.elapsed if before is not None else None
        name = f"{one['measurement'] or 'any'} / {one['tag'] or 'the name itself'}"
        return {**one, "name": name, "refused": refused, "samples": ", ".join(one["samples"][:2])}

    def _more(self, before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
        """What has been added to counters; nothing where there is nothing to compare with."""
        if not self.elapsed:
            return {}
        return {name: more for name, number in now.items() if (more := number - before.get(name, 0))}


def _goes_on(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether it is the same process: its counters began once, and only rise."""
    same = all(before["status"][key] == now["status"][key] for key in ("pid", "started"))
    return same and now["time"] > before["time"]


def _lost(ledger: Mapping[str, Any]) -> dict[str, int]:
    return {**ledger["dropped"], "rejected": ledger["rejected"], "missed": ledger["missed"]}


class Section(NamedTuple):
    """One list of the screen."""

    columns: tuple[Column, ...]
    rows: Callable[[Second], list[dict[str, Any]]]
    rest: Callable[[Row], Text] | None = None


def _number(
    title: str, key: str, write: Callable[[Any], str], width: int = 0, *, bad: bool = False
) -> Column:
    """A column of numbers; of those that should be 0 if *bad*."""

    def text(row: Row) -> Text:
        value = row[key]
        if value is None:
            return Text("-", style="dim")
        return Text(write(value), style="bold red" if bad and value else "")

    return Column(title, lambda row: -1.0 if row[key] is None else row[key], text, width)


def _words(title: str, key: str, width: int = 0, styles: Mapping[str, str] | None = None) -> Column:
    def text(row: Row) -> Text:
        return Text(printable(row[key]), style=(styles or {}).get(row[key], ""))

    return Column(title, lambda row: row[key], text, width, right=False)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _size_or_none(size_bytes: int) -> str:
    return volume(size_bytes) if size_bytes else "-"


def _reasons(row: Row) -> str:
    return ", ".join(f"{printable(name)} {count(number)}" for name, number in sorted(row["reasons"].items()))


def _why_listener(row: Row) -> Text:
    return Text(_reasons(row), style="red")


def _why_output(row: Row) -> Text:
    breaker = f"breaker {row['breaker'].replace('_', ' ')}" if row["breaker"] != "closed" else ""
    parts = [one for one in (_reasons(row), printable(row["error"]), breaker) if one]
    return Text("; ".join(parts), style=_STATES.get(row["state"], "") if row["state"] != "ok" else "red")


def _happened(second: Second) -> list[dict[str, Any]]:
    """Events and malformed lines, the newest first."""
    events = [
        {"time": one["time"], "kind": one["kind"], "name": one["name"], "text": one["text"]}
        for one in second.status["events"]
    ]
    lines = [
        {
            "time": one["time"],
            "kind": "malformed",
            "name": one["listener"],
            "text": f"{one['reason']}: {one['line']}",
        }
        for one in second.status["samples"]
    ]
    found = sorted([*events, *lines], key=lambda one: one["time"], reverse=True)
    for one in found:
        one["clock"] = time.strftime("%H:%M:%S", time.localtime(one["time"]))
    return found


def _text_of(row: Row) -> Text:
    return Text(printable(row["text"]), style="red" if row["kind"] == "malformed" else "")


SECTIONS = (
    Section(
        (
            _words("listener", "name"),
            _number("received/s", "received", rate, 11),
            _number("dropped/s", "dropped", rate, bad=True),
            _number("kernel/s", "kernel", rate, bad=True),
            _number("queue", "queue", _percent),
        ),
        lambda second: list(second.listeners),
        _why_listener,
    ),
    Section(
        (
            _words("output", "name"),
            _words("state", "state", 8, _STATES),
            _number("delivered/s", "delivered", rate, 11),
            _number("waiting", "waiting", count),
            _number("spool", "spool", _size_or_none, 8),
            _number("p50", "p50", duration, 6),
            _number("p99", "p99", duration, 6),
            _number("req", "limit", count),
        ),
        lambda second: list(second.outputs),
        _why_output,
    ),
    Section(
        (
            _words("measurement / tag", "name"),
            _number("series", "series", count, 8),
            _number("new/min", "per_minute", count),
            _number("refused/s", "refused", rate, bad=True),
        ),
        lambda second: list(second.offenders),
        lambda row: Text(printable(f"such as {row['samples']}") if row["samples"] else "", style="dim"),
    ),
    Section(
        (
            _words("time", "clock"),
            _words("what", "kind", 9),
            _words("of", "name"),
        ),
        _happened,
        _text_of,
    ),
)
