"""The status document on one screen, for people. The only module of the admin package that draws."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.admin.figures import count, duration, escape, loss, reasons, size, span
from agent.config_values import format_duration

_TEXT_COLUMNS = ("listener", "output", "state", "why", "folder", "errors", "measurement", "tag", "such as")
_NAME_COLUMNS = ("listener", "output", "state", "folder", "measurement", "tag")
"""What a row is about."""

_SELDOM_COLUMNS = ("restored", "spooled", "missed", "rejected")
"""Left out one after the other where there is little room, if they are 0 throughout."""

_FOLDED_COLUMNS = 16
"""A text at the end of a row may be folded into so few."""

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
        ago = span(time.time() - last["time"])
        console.print(f"[bold red]reload refused[/] {ago} ago; the old configuration runs on:")
        for problem in last["problems"]:
            console.print(f"  {escape(problem)}")
    console.print()
    _print(_listeners(status["listeners"]), console)
    console.print()
    connected = [
        one for one in status["listeners"] if one["connections_accepted"] or one["connections_refused"]
    ]
    if connected:
        _print(_connections(connected), console)
        console.print()
    aggregating = [one for one in status["listeners"] if one["aggregation"] is not None]
    if aggregating:
        _print(_aggregations(aggregating), console)
        console.print()
    relaying = [one for one in status["listeners"] if one.get("relay") is not None]
    if relaying:
        _print(_relays(relaying), console)
        console.print()
    _print(_outputs(status["outputs"], status["delay"]), console)
    if status.get("guards") is not None and status["guards"]["series_max"]:
        console.print()
        _draw_guards(status["guards"], console)
    kept = [one for one in status["outputs"] if _keeps(one["ledger"])]
    if kept:
        console.print()
        _print(_disks(kept), console)
    for output in status["outputs"]:
        if output["last_error"] and output["state"] != "ok":
            since = span(time.time() - output["since"])
            line = f"{output['name']} is {output['state']} for {since}: {output['last_error']}"
            console.print(escape(line), style=_STATE_STYLES.get(output["state"], ""))
    if status["slo"]:
        console.print(_objective(status["slo"]))
    console.print(_verdict(status["ledger"]))


def _headline(status: Mapping[str, Any]) -> str:
    style = _STATE_STYLES.get(status["state"], "yellow")
    return (
        f"[bold]Penstock {escape(status['version'])}[/], [{style}]{escape(status['state'])}[/] "
        f"for {span(status['uptime'])}, pid {status['pid']}, {escape(status['config'])}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in _TEXT_COLUMNS else "right"
        table.add_column(column, justify=justify, overflow="fold")
    return table


def _print(table: Table, console: Console) -> None:
    """Print *table*, or where it is too wide a paragraph for each of its rows."""
    empty = [column for column in table.columns if not any(column.cells)]
    idle = [
        column
        for header in _SELDOM_COLUMNS
        for column in table.columns
        if column.header == header and set(column.cells) == {"0"}
    ]
    for column in (*empty, *idle):
        if not _fits(table, console):
            table.columns.remove(column)
    if _fits(table, console):
        console.print(table)
        return
    console.print(f"[bold]{table.title}[/]")
    headers = [str(column.header) for column in table.columns]
    for row in zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True):
        cells = list(zip(headers, row, strict=True))
        names = " ".join(cell for header, cell in cells if header in _NAME_COLUMNS)
        figures = ", ".join(
            f"{header} {cell}" for header, cell in cells if header not in _NAME_COLUMNS and cell
        )
        console.print(Padding(f"{names}: {figures}" if names else figures, (0, 0, 0, 2)))


def _fits(table: Table, console: Console) -> bool:
    """Whether no column but the last one, if that is text, has to be folded."""
    widths = [
        max(Text.from_markup(str(cell)).cell_len for cell in (column.header, *column.cells))
        for column in table.columns
    ]
    if table.columns[-1].header in _TEXT_COLUMNS:
        widths[-1] = min(widths[-1], _FOLDED_COLUMNS)
    return sum(widths) + 2 * (len(widths) - 1) <= console.width


def _relays(listeners: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("messages", "metrics", "unread", "in flight", "duplicates", "poisoned", "expired", "why")
    table = _table("From brokers", "listener", "state", *columns)
    for one in listeners:
        relay = one["relay"]
        state = "paused" if relay["paused"] else "ok" if relay["connected"] else "retrying"
        table.add_row(
            escape(one["name"]),
            f"[{_STATE_STYLES.get(state, 'yellow')}]{state}[/]",
            count(relay["messages"]),
            count(relay["metrics"]),
            count(relay["carried"]),
            size(relay["in_flight_bytes"]),
            count(relay["duplicates"]),
            loss(relay["poisoned"]),
            loss(relay["expired"]),
            escape(relay["failing"]),
        )
    return table


def _listeners(listeners: Iterable[Mapping[str, Any]]) -> Table:
    table = _table(
        "Received", "listener", "datagrams", "metrics", "accepted", "dropped", "by the kernel", "why"
    )
    for one in listeners:
        table.add_row(
            escape(one["name"]),
            count(one["datagrams"]),
            count(one["received"]),
            count(one["accepted"]),
            loss(sum(one["dropped"].values())),
            loss(one["kernel_drops"]),
            reasons(one["dropped"]),
        )
    return table


def _connections(listeners: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("Connections", "listener", "open", "accepted", "refused", "failed TLS", "closed", "why")
    for one in listeners:
        table.add_row(
            escape(one["name"]),
            count(one["connections"]),
            count(one["connections_accepted"]),
            loss(one["connections_refused"]),
            loss(one["handshakes_failed"]),
            count(sum(one["connections_closed"].values())),
            reasons(one["connections_closed"]),
        )
    return table


def _aggregations(listeners: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("series", "memory", "samples", "points", "no room", "expired")
    table = _table("Aggregated", "listener", *columns)
    for one in listeners:
        aggregation = one["aggregation"]
        table.add_row(
            escape(one["name"]),
            count(aggregation["series"]),
            size(aggregation["bytes"]),
            count(aggregation["samples"]),
            count(aggregation["points"]),
            loss(aggregation["ring_full"]),
            count(aggregation["expired"]),
        )
    return table


def _delay(delay: Mapping[str, Any] | None) -> tuple[str, str]:
    """p50 and p99 of the last minute; empty where nothing was delivered in it."""
    if delay is None:
        return "", ""
    return duration(delay["p50"]), duration(delay["p99"])


def _outputs(outputs: Sequence[Mapping[str, Any]], delays: Mapping[str, Any]) -> Table:
    # Only where lines are merged at all.
    timed = ["p50", "p99"] if any(delays.values()) else []
    merged = ["merged"] if any(one["ledger"]["merged"] for one in outputs) else []
    carried = ["carried"] if any(one["ledger"].get("carried") for one in outputs) else []
    columns = (
        "restored",
        *carried,
        "written",
        "delivered",
        *merged,
        "rejected",
        "spooled",
        "waiting",
        "dropped",
        "missed",
        *timed,
        "why",
    )
    table = _table("Delivered", "output", "state", *columns)
    for one in outputs:
        ledger = one["ledger"]
        table.add_row(
            escape(one["name"]),
            _state(one),
            count(ledger["restored"]),
            *(count(ledger[name]) for name in carried),
            count(ledger["written"]),
            count(ledger["delivered"]),
            *(count(ledger[name]) for name in merged),
            loss(ledger["rejected"]),
            count(ledger["spooled"]),
            count(ledger["waiting"]),
            loss(sum(ledger["dropped"].values())),
            loss(ledger["missed"]),
            *_delay(delays.get(one["name"]))[: len(timed)],
            reasons(ledger["dropped"]),
        )
    return table


def _draw_guards(guards: Mapping[str, Any], console: Console) -> None:
    """How many series there are, the tags that make too many, and what would mend the first of them."""
    columns = ("known", "limit", "beyond it", "memory", "refused", "expired")
    table = _table("Series", *columns)
    table.add_row(
        count(guards["series"]),
        count(guards["series_max"]),
        count(guards["overflow_series"]),
        size(guards["bytes"]),
        loss(guards["refused"]),
        count(guards["expired"]),
    )
    _print(table, console)
    offenders = [one for one in guards["offenders"] if one["refused"]][:5]
    if not offenders:
        return
    console.print()
    table = _table("Too many series", "measurement", "tag", "series", "refused", "a minute", "such as")
    for one in offenders:
        table.add_row(
            escape(one["measurement"] or "any"),
            escape(one["tag"] or "the name itself"),
            count(one["series"]),
            loss(one["refused"]),
            count(one["per_minute"]),
            escape(", ".join(one["samples"][:2])),
        )
    _print(table, console)
    if offenders[0]["remedy"]:
        console.print("To end the first of them:")
    for line in offenders[0]["remedy"].splitlines():
        console.print(f"  {escape(line)}", highlight=False)


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
            age = span(time.time() - spool["oldest_ns"] / 1e9) if spool["oldest_ns"] else ""
            lost = sum(spool["dropped"].values())
            table.add_row(name, "spool", *_folder(spool), age, loss(lost), _errors(spool["errors"]))
        if refused:
            lost = refused["unsaved"]
            table.add_row(name, "rejected", *_folder(refused), "", loss(lost), _errors(refused["errors"]))
    return table


def _folder(account: Mapping[str, Any]) -> tuple[str, str, str]:
    return count(account["metrics"]), count(account["files"]), size(account["bytes"])


def _errors(errors: Mapping[str, int]) -> str:
    return f"[bold red]{reasons(errors)}[/]" if errors else ""


def _objective(outputs: Sequence[Mapping[str, Any]]) -> str:
    """How each output fares by ``[slo]``; of one that burns, how fast by each span in which it does."""
    first = outputs[0]
    parts = []
    for one in outputs:
        if one["state"] == "ok":
            parts.append(f"{escape(one['output'])} ok, {one['budget_left'] * 100:.1f} % of the budget left")
        else:
            burning = [(seconds, burn) for seconds, burn in one["burn"].items() if burn >= 1]
            burns = ", ".join(f"{format_duration(float(seconds))}: {burn:,.1f}" for seconds, burn in burning)
            parts.append(f"[bold red]{escape(one['output'])} burns {one['state']}[/] ({burns})")
    within, window = format_duration(first["within"]), format_duration(first["window"])
    return f"\nObjective: {first['share'] * 100:g} % within {within} over {window}. {'; '.join(parts)}"


def _verdict(ledger: Mapping[str, Any]) -> str:
    if ledger["balance"] == "balanced":
        return "\nLedger: [green]balances[/]"
    if ledger["balance"] == "moving":
        return "\nLedger: metrics are moving; it can be told only at rest"
    problems = "".join(f"\n  {escape(problem)}" for problem in ledger["problems"])
    return f"\nLedger: [bold red]does not balance[/]{problems}"
