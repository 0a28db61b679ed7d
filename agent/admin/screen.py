"""The status document on one screen, for people. The only module of the admin package that draws."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_TEXT_COLUMNS = ("listener", "output", "state", "why", "folder", "errors")
_STATE_STYLES = {"ok": "green", "running": "green", "retrying": "yellow", "holding": "bold red"}


def draw(status: Mapping[str, Any], console: Console) -> None:
    """Print the document of ``/api/status``: what runs, then each stage with its part of the ledger."""
    console.print(_headline(status))
    for reason in status["not_ready"]:
        console.print(f"[bold red]not ready:[/] {escape(reason)}")
    for trouble in status["detail"]:
        console.print(f"[bold red]trouble:[/] {escape(trouble)}")
    last = status["reload"]["last"]
    if last is not None and not last["applied"]:
        ago = _span(time.time() - last["time"])
        console.print(f"[bold red]reload refused[/] {ago} ago; the old configuration runs on:")
        for problem in last["problems"]:
            console.print(f"  {escape(problem)}")
    console.print()
    console.print(_listeners(status["listeners"]))
    console.print()
    aggregating = [one for one in status["listeners"] if one["aggregation"] is not None]
    if aggregating:
        console.print(_aggregations(aggregating))
        console.print()
    console.print(_outputs(status["outputs"]))
    kept = [one for one in status["outputs"] if _keeps(one["ledger"])]
    if kept:
        console.print()
        console.print(_disks(kept))
    for output in status["outputs"]:
        if output["last_error"] and output["state"] != "ok":
            since = _span(time.time() - output["since"])
            line = f"{output['name']} is {output['state']} for {since}: {output['last_error']}"
            console.print(escape(line), style=_STATE_STYLES.get(output["state"], ""))
    console.print(_verdict(status["ledger"]))


def _headline(status: Mapping[str, Any]) -> str:
    style = _STATE_STYLES.get(status["state"], "yellow")
    return (
        f"[bold]Penstock {escape(status['version'])}[/], [{style}]{escape(status['state'])}[/] "
        f"for {_span(status['uptime'])}, pid {status['pid']}, {escape(status['config'])}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in _TEXT_COLUMNS else "right"
        table.add_column(column, justify=justify, overflow="fold")
    return table


def _listeners(listeners: Iterable[Mapping[str, Any]]) -> Table:
    table = _table(
        "Received", "listener", "datagrams", "metrics", "accepted", "dropped", "by the kernel", "why"
    )
    for one in listeners:
        table.add_row(
            escape(one["name"]),
            _count(one["datagrams"]),
            _count(one["received"]),
            _count(one["accepted"]),
            _loss(sum(one["dropped"].values())),
            _loss(one["kernel_drops"]),
            _reasons(one["dropped"]),
        )
    return table


def _aggregations(listeners: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("series", "memory", "samples", "points", "no room", "expired")
    table = _table("Aggregated", "listener", *columns)
    for one in listeners:
        aggregation = one["aggregation"]
        table.add_row(
            escape(one["name"]),
            _count(aggregation["series"]),
            _size(aggregation["bytes"]),
            _count(aggregation["samples"]),
            _count(aggregation["points"]),
            _loss(aggregation["ring_full"]),
            _count(aggregation["expired"]),
        )
    return table


def _outputs(outputs: Iterable[Mapping[str, Any]]) -> Table:
    columns = (
        "restored",
        "written",
        "delivered",
        "rejected",
        "spooled",
        "waiting",
        "dropped",
        "missed",
        "why",
    )
    table = _table("Delivered", "output", "state", *columns)
    for one in outputs:
        ledger = one["ledger"]
        table.add_row(
            escape(one["name"]),
            _state(one),
            _count(ledger["restored"]),
            _count(ledger["written"]),
            _count(ledger["delivered"]),
            _loss(ledger["rejected"]),
            _count(ledger["spooled"]),
            _count(ledger["waiting"]),
            _loss(sum(ledger["dropped"].values())),
            _loss(ledger["missed"]),
            _reasons(ledger["dropped"]),
        )
    return table


def _state(output: Mapping[str, Any]) -> str:
    state, breaker = output["state"], output["breaker"]
    style = _STATE_STYLES.get(state, "dim")
    paused = "" if breaker == "closed" else f", breaker {breaker.replace('_', ' ')}"
    return f"[{style}]{escape(state)}{paused}[/]"


def _keeps(ledger: Mapping[str, Any]) -> bool:
    """Whether there is anything to tell of its spool and its rejected metrics."""
    spool, refused = ledger["spool"], ledger["refused"]
    return bool(
        (spool and (spool["files"] or spool["stored"] or spool["restored"]))
        or (refused and (refused["files"] or refused["unsaved"] or refused["removed"]))
    )


def _disks(outputs: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("metrics", "files", "size", "oldest", "lost", "errors")
    table = _table("On disk", "output", "folder", *columns)
    for one in outputs:
        name, spool, refused = escape(one["name"]), one["ledger"]["spool"], one["ledger"]["refused"]
        if spool:
            age = _span(time.time() - spool["oldest_ns"] / 1e9) if spool["oldest_ns"] else ""
            lost = sum(spool["dropped"].values())
            table.add_row(name, "spool", *_folder(spool), age, _loss(lost), _errors(spool["errors"]))
        if refused:
            lost = refused["unsaved"]
            table.add_row(name, "rejected", *_folder(refused), "", _loss(lost), _errors(refused["errors"]))
    return table


def _folder(account: Mapping[str, Any]) -> tuple[str, str, str]:
    return _count(account["metrics"]), _count(account["files"]), _size(account["bytes"])


def _errors(errors: Mapping[str, int]) -> str:
    return f"[bold red]{_reasons(errors)}[/]" if errors else ""


def _verdict(ledger: Mapping[str, Any]) -> str:
    if ledger["balance"] == "balanced":
        return "\nLedger: [green]balances[/]"
    if ledger["balance"] == "moving":
        return "\nLedger: metrics are moving; it can be told only at rest"
    problems = "".join(f"\n  {escape(problem)}" for problem in ledger["problems"])
    return f"\nLedger: [bold red]does not balance[/]{problems}"


def _count(number: int) -> str:
    return f"{number:,}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def _loss(number: int) -> str:
    return f"[bold red]{number:,}[/]" if number else "0"


def _reasons(dropped: Mapping[str, int]) -> str:
    return escape(", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()) if count))


def _span(seconds: float) -> str:
    """The two largest units: ``3 d 4 h``."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= size or (unit == "s" and not parts):
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts[:2])
