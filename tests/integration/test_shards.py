"""Shards: outputs of a group share the series, by whatever listener they come, over restarts and reloads."""

import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
    output,
    send_udp,
)
from tests.integration.test_ledger import file_output
from tests.integration.test_reload import total, wait_more
from tests.integration.test_stop import udp_listener
from tests.reference.points import parse
from tests.reference.routes import Output, route

SERIES = 300
NAMES = ("one", "two", "three")


def shards(names: Iterable[str]) -> str:
    return "".join(f'{file_output(name)}\nshard = "series"\n' for name in names)


def traffic(ports: dict[str, int], times: int) -> int:
    """The same series by every listener, once; returns how many points come of it."""
    for first in range(0, SERIES, 50):
        part = range(first, first + 50)
        send_udp(
            ports["line"], b"\n".join(b"cpu,host=h%d,dc=eu\\ 1 v=%d %d" % (i, times, times) for i in part)
        )
        send_udp(ports["statsd"], b"\n".join(b"hits:1|g|#host:h%d" % i for i in part))
        send_udp(ports["graphite"], b"\n".join(b"load.h%d %d %d" % (i, times, times) for i in part))
    return 3 * SERIES


def where(folder: Path, names: Iterable[str]) -> dict[tuple[bytes, frozenset[tuple[bytes, bytes]]], set[str]]:
    """Which outputs have a series in their files."""
    found: dict[tuple[bytes, frozenset[tuple[bytes, bytes]]], set[str]] = {}
    for name in names:
        for point in parse(b"".join(line + b"\n" for line in delivered_lines(folder / name))):
            found.setdefault((point.name, frozenset(point.tags)), set()).add(name)
    return found


def test_each_series_has_one_output_over_restarts_and_an_added_one_takes_its_part(tmp_path: Path) -> None:
    ports = {format: free_port() for format in ("line", "statsd", "graphite")}
    listeners = "".join(
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "{format}"\nformat = "{format}"\n'
        + ('interval = "200ms"\nexpire = "1s"\n' if format == "statsd" else "")
        for format, port in ports.items()
    )
    head = f'[agent]\nlanes = 2\nadmin = ""\ntags = {{ dc = "none" }}\n{listeners}{file_output("all")}'

    def settled(agent: AgentProcess, series: int) -> None:
        status = agent.wait_for(
            lambda status: (
                total(status, "received") == series
                # Gauges are sent again until they are forgotten.
                and (tables := listener(status, "statsd")["aggregation"])["points"] >= SERIES
                and tables["series"] == 0
                and at_rest(status)
            )
        )
        assert_balanced(status)
        everything, parts = output(status, "all"), [output(status, name) for name in status_names(status)]
        assert everything["filtered"] == 0
        # What one output gets, all others of the group are spared.
        written = sum(part["written"] for part in parts)
        assert written == everything["written"]
        assert sum(part["filtered"] for part in parts) == (len(parts) - 1) * written

    def status_names(status: dict[str, list[dict[str, str]]]) -> list[str]:
        return [one["name"] for one in status["outputs"] if one["name"] != "all"]

    with AgentProcess(tmp_path, head + shards(NAMES)) as agent:
        settled(agent, traffic(ports, 1))
        assert agent.stop() == EXIT_OK
        before = where(tmp_path, NAMES)
        wanted = [Output(name, "") for name in NAMES]
        assert len(before) == 3 * SERIES
        assert all(names == route(wanted, series[0], dict(series[1])) for series, names in before.items())
        agent.spawn()
        agent.wait_notified("READY", 2)
        settled(agent, traffic(ports, 2))
        assert agent.stop() == EXIT_OK
        assert where(tmp_path, NAMES) == before
        # In another order, and with one more.
        agent.write_config(head + shards(["four", *reversed(NAMES)]))
        agent.spawn()
        agent.wait_notified("READY", 3)
        settled(agent, traffic(ports, 3))
        assert agent.stop() == EXIT_OK
    after = where(tmp_path, [*NAMES, "four"])
    moved = [series for series, names in after.items() if names != before[series]]
    # It is in both then: what it had before stays where it was.
    assert all(after[series] == before[series] | {"four"} for series in moved)
    # A quarter, within four standard deviations; the three of a host are series of their own.
    assert abs(len(moved) - 3 * SERIES / 4) < 4 * (3 * SERIES * 3 / 16) ** 0.5


@pytest.mark.parametrize("lanes", [1, 2])
def test_under_load_shards_come_and_go_without_loss(tmp_path: Path, lanes: int) -> None:
    """Off, on, changed, off and on again: every line is where all are, and in one of the others at least."""
    port = free_port()
    head = f'[agent]\nadmin = ""\nlanes = {lanes}\n{udp_listener(port)}{file_output("all")}'
    off = head + file_output("one") + file_output("two")
    on = head + shards(("one", "two"))
    # What the third does not want, since its filter says so, the others share.
    changed = head + shards(("one", "two", "three")) + '[output.filter]\nmeasurement = ["!nothing"]\n'
    with AgentProcess(tmp_path, off) as agent, load(port, 50_000, flows=8) as sender:
        for round_, config in enumerate([on, changed, off, on, changed, on], 1):
            wait_more(agent, 5_000, "udp")
            agent.write_config(config)
            agent.signal(signal.SIGHUP)
            agent.wait_notified("READY", round_ + 1)
        wait_more(agent, 5_000, "udp")
        sent = sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status),
            what=f"received = {sent}",
        )
        assert_balanced(status)
        assert listener(status, "udp")["accepted"] == sent
        assert listener(status, "udp")["kernel_drops"] == 0
        assert agent.stop() == EXIT_OK
    everything = delivered_lines(tmp_path / "all")
    parts = [delivered_lines(tmp_path / name) for name in ("one", "two", "three")]
    assert len(everything) == len(set(everything)) == sent
    assert {line for part in parts for line in part} == set(everything)
    assert all(len(part) == len(set(part)) < sent for part in parts)
