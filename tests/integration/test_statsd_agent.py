"""StatsD through a whole agent: ticks, reloads and stops send every sample once, and the ledger says so."""

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.errors import EXIT_OK
from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    output,
    send_udp,
    send_unixgram,
)
from tests.integration.test_ledger import dead_output, file_output

SECOND = 1_000_000_000


def statsd(port: int, name: str = "statsd", options: str = 'interval = "1s"') -> str:
    return f"""
[[listen]]
address = "udp://127.0.0.1:{port}"
name = "{name}"
format = "statsd"
{options}
"""


@dataclass
class Point:
    """A line of line protocol without escapes and strings, taken apart."""

    name: str
    tags: dict[str, str]
    fields: dict[str, float]
    stamp: int


def points(folder: Path) -> list[Point]:
    return [parse(line.decode()) for line in delivered_lines(folder)]


def parse(line: str) -> Point:
    series, fields, stamp = line.split(" ")
    name, *tags = series.split(",")
    values = dict(field.split("=") for field in fields.split(","))
    return Point(
        name,
        dict(tag.split("=") for tag in tags),
        {key: float(value.rstrip("iu")) for key, value in values.items()},
        int(stamp),
    )


def totals(folder: Path) -> dict[str, float]:
    """The sum of each counter over all ticks."""
    total: Counter[str] = Counter()
    for point in points(folder):
        assert point.tags["metric_type"] == "counter"
        total[point.name] += point.fields["value"]  # type: ignore[assignment]
    return dict(total)


def aggregation(status: Status, name: str = "statsd") -> dict[str, Any]:
    found = listener(status, name)["aggregation"]
    assert found is not None
    return dict(found)


def aggregated(agent: AgentProcess, samples: int, name: str = "statsd") -> Status:
    """Wait until so many samples have been taken by the listener."""
    return agent.wait_for(
        lambda status: listener(status, name)["aggregated"] == samples, what=f"{samples} samples"
    )


def test_a_tick_sends_what_was_aggregated(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        tags = {{ dc = "eu1" }}
        {statsd(port, options='interval = "1s"' + chr(10) + "percentiles = [50, 90]")}
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        assert sorted(file.name for file in (tmp_path / "run" / "rings").iterdir()) == [
            "out.0.ring",
            "out.tick.ring",
        ]
        send_udp(
            port,
            b"web.hits:1|c|#host:a\nweb.hits:2|c|@0.5|#host:a\nload:3.5|g\nload:+1|g\nusers:anna|s\nusers:bert|s",
            b"\n".join(b"took:%d|ms" % at for at in range(1, 101)) + b"\nnonsense\n",
            b"size:1:2:3|h\nspread:4|d",
        )
        # 2 counters, 2 gauges, 2 set members, 100 timings, 3 in one line, 1 distribution.
        status = aggregated(agent, 110)
        assert sum(listener(status, "statsd")["dropped"].values()) == 1
        status = agent.wait_for(lambda status: output(status, "out")["delivered"] >= 6 and at_rest(status))
        assert_balanced(status)
        account = aggregation(status)
        assert account["samples"] == 110 and account["points"] >= 6
        assert account["series"] == 6 and account["bytes"] > 0 and account["ring_full"] == 0
        rings = {ring["writer"]: ring for ring in output(status, "out")["rings"]}
        assert rings["lane-0"]["accepted"] == 0 and rings["tick"]["accepted"] >= 6
        assert agent.command("status").returncode == EXIT_OK
        shown = agent.command("status").stdout
        assert "Aggregated" in shown and "110" in shown
        metrics = agent.metrics()
        assert 'penstock_aggregated_metrics_total{listener="statsd"} 110.0' in metrics
        assert 'penstock_aggregation_samples_total{listener="statsd"} 110.0' in metrics
        assert 'penstock_aggregation_series{listener="statsd"} 6.0' in metrics
        assert agent.stop() == EXIT_OK
        [stopped] = agent.log("stopped")
        assert stopped["balanced"] and stopped["listeners"]["statsd"]["aggregation"]["samples"] == 110
    found = points(tmp_path / "out")
    assert all(point.tags["dc"] == "eu1" for point in found)
    first = {point.name: point for point in reversed(found)}
    assert first["web_hits"].tags == {"dc": "eu1", "host": "a", "metric_type": "counter"}
    assert first["web_hits"].fields == {"value": 5.0}
    assert first["load"].fields == {"value": 4.5}
    assert first["users"].fields == {"value": 2.0}
    assert {point.tags["metric_type"] for point in found} == {
        "counter",
        "gauge",
        "set",
        "timing",
        "histogram",
        "distribution",
    }
    took = first["took"].fields
    assert (took["count"], took["sum"], took["lower"], took["upper"]) == (100, 5050, 1, 100)
    assert took["mean"] == pytest.approx(50.5)
    assert took["50_percentile"] == pytest.approx(50, rel=0.03)
    assert took["90_percentile"] == pytest.approx(90, rel=0.03)
    assert first["size"].fields["count"] == 3
    # The first tick, which alone has the counter, is at a whole second.
    assert first["web_hits"].stamp % SECOND == 0


def test_a_counter_has_every_count_once_over_many_ticks(tmp_path: Path) -> None:
    port = free_port()
    config = (
        f'[agent]\nadmin = ""\nlanes = 2\n{statsd(port, options="interval = " + chr(34) + "100ms" + chr(34))}'
    )
    with AgentProcess(tmp_path, config + file_output("out")) as agent:
        sent = 0
        deadline = time.monotonic() + 20
        while sent < 3000 or len({point.stamp for point in points(tmp_path / "out")}) < 5:
            send_udp(port, *[b"hits:1|c\nother:2|c|@0.5" for _ in range(100)])
            sent += 100
            aggregated(agent, 2 * sent)
            assert time.monotonic() < deadline
        assert agent.stop() == EXIT_OK
    assert totals(tmp_path / "out") == {"hits": sent, "other": 4 * sent}
    stamps = Counter((point.name, point.stamp) for point in points(tmp_path / "out"))
    # Both lanes have the series, and a tick makes one point of it.
    assert set(stamps.values()) == {1}


def test_a_stop_sends_the_partial_interval(tmp_path: Path) -> None:
    port = free_port()
    config = statsd(port, options='interval = "1d"') + file_output("one") + file_output("two")
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"hits:3|c\nhits:4|c\nlevel:7|g")
        before = time.time_ns()
        # Not waited for: what the kernel holds at the stop is read too.
        assert agent.stop() == EXIT_OK
        [stopped] = agent.log("stopped")
        assert stopped["balanced"]
        assert stopped["listeners"]["statsd"]["aggregation"]["points"] == 2
    for name in ("one", "two"):
        found = {point.name: point for point in points(tmp_path / name)}
        assert found["hits"].fields == {"value": 7.0} and found["level"].fields == {"value": 7.0}
        assert before <= found["hits"].stamp <= time.time_ns()


class Sender(threading.Thread):
    """Sends one count after the other until it is stopped; ``sent`` is how many."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.sent = 0
        self._port = port
        self._end = threading.Event()

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            # Several flows, so that every lane gets some of them.
            senders = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(8)
            ]
            while not self._end.wait(0.001):
                for sender in senders:
                    sender.sendto(b"hits:1|c\nhits:1|c|#a:b", ("127.0.0.1", self._port))
                    self.sent += 2

    def send_on(self, samples: int) -> None:
        """Return when so many more have been sent."""
        wanted = self.sent + samples
        wait_until(lambda: self.sent >= wanted)

    def finish(self) -> int:
        self._end.set()
        self.join()
        return self.sent


def test_a_reload_that_changes_settings_loses_no_count(tmp_path: Path) -> None:
    port = free_port()
    configs = [
        f'[agent]\nadmin = ""\nlanes = 2\n{statsd(port, options=options)}{file_output("out")}'
        for options in (
            'interval = "300ms"',
            'interval = "200ms"\npercentiles = [99]\nexpire = "1s"',
            'interval = "1h"\nrelative_error = 0.05\nmax_series = 100',
            'interval = "100ms"\ngauge_deltas = false\nreset_gauges = true',
            'interval = "1h"\nseparator = "-"',
        )
    ]
    with AgentProcess(tmp_path, configs[0]) as agent:
        sender = Sender(port)
        sender.start()
        try:
            for round_ in range(20):
                sender.send_on(100)
                assert agent.reload(configs[round_ % len(configs)])["applied"]
        finally:
            sent = sender.finish()
        status = aggregated(agent, sent)
        assert aggregation(status)["samples"] == sent
        assert listener(status, "statsd")["kernel_drops"] == 0
        assert agent.stop() == EXIT_OK
        assert agent.log("stopped")[0]["balanced"]
    assert totals(tmp_path / "out") == {"hits": sent}
    stamps = Counter((tuple(sorted(point.tags)), point.stamp) for point in points(tmp_path / "out"))
    assert set(stamps.values()) == {1}


def test_changed_percentiles_take_effect_at_a_tick(tmp_path: Path) -> None:
    port = free_port()

    def config(percentile: int) -> str:
        return statsd(port, options=f'interval = "200ms"\npercentiles = [{percentile}]') + file_output("out")

    def seen() -> set[str]:
        return {name for point in points(tmp_path / "out") for name in point.fields if "percentile" in name}

    with AgentProcess(tmp_path, config(50)) as agent:
        send_udp(port, b"took:1|ms")
        wait_until(lambda: seen() == {"50_percentile"}, 10)
        agent.reload(config(99))

        def again() -> bool:
            send_udp(port, b"took:1|ms")
            return "99_percentile" in seen()

        wait_until(again, 10)


def test_a_listener_that_is_removed_sends_what_it_has(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    lines = f'[[listen]]\naddress = "udp://127.0.0.1:{other}"\nname = "lines"\n{file_output("out")}'
    with AgentProcess(tmp_path, statsd(port, options='interval = "1d"') + lines) as agent:
        send_udp(port, b"hits:5|c", b"hits:6|c")
        assert agent.reload(lines)["applied"]
        status = agent.wait_for(lambda status: output(status, "out")["delivered"] == 1 and at_rest(status))
        assert_balanced(status)
        account = aggregation(status)
        assert (account["samples"], account["points"], account["series"], account["bytes"]) == (2, 1, 0, 0)
        assert totals(tmp_path / "out") == {"hits": 11}
        # It comes back, and counts on.
        assert agent.reload(statsd(port, options='interval = "1d"') + lines)["applied"]
        send_udp(port, b"hits:1|c")
        aggregated(agent, 3)
        assert agent.stop() == EXIT_OK
    assert totals(tmp_path / "out") == {"hits": 12}


def test_a_listener_that_moves_takes_along_what_it_has(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    options = 'interval = "1d"'
    with AgentProcess(tmp_path, statsd(port, options=options) + file_output("out")) as agent:
        send_udp(port, b"hits:5|c")
        assert agent.reload(statsd(other, options=options) + file_output("out"))["applied"]
        send_udp(other, b"hits:6|c")
        status = aggregated(agent, 2)
        assert aggregation(status)["points"] == 0
        assert agent.stop() == EXIT_OK
    [point] = points(tmp_path / "out")
    assert point.fields == {"value": 11.0}


def test_an_address_goes_over_from_lines_to_statsd_and_back(tmp_path: Path) -> None:
    port = free_port()
    lines = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "statsd"\n{file_output("out")}'
    both = statsd(port, options='interval = "1d"') + file_output("out")
    with AgentProcess(tmp_path, lines) as agent:
        assert [file.name for file in (tmp_path / "run" / "rings").iterdir()] == ["out.0.ring"]
        send_udp(port, b"line,metric_type=counter value=1 1")
        agent.wait_for(lambda status: listener(status, "statsd")["accepted"] == 1)
        assert listener(agent.status(), "statsd")["aggregation"] is None
        assert agent.reload(both)["applied"]
        send_udp(port, b"hits:2|c")
        aggregated(agent, 1)
        assert agent.reload(lines)["applied"]
        send_udp(port, b"line,metric_type=counter value=1 2")
        status = agent.wait_for(
            lambda status: output(status, "out")["delivered"] == 3 and at_rest(status), what="3 delivered"
        )
        assert_balanced(status)
    assert totals(tmp_path / "out") == {"line": 2, "hits": 2}


def test_an_output_that_is_added_gets_the_next_ticks(tmp_path: Path) -> None:
    port = free_port()
    config = statsd(port, options='interval = "1d"') + file_output("one")
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, b"hits:2|c")
        aggregated(agent, 1)
        assert agent.reload(config + file_output("two"))["applied"]
        assert "two.tick.ring" in [file.name for file in (tmp_path / "run" / "rings").iterdir()]
        assert agent.reload(statsd(port, options='interval = "1d"') + file_output("two"))["applied"]
        send_udp(port, b"hits:3|c")
        aggregated(agent, 2)
        wait_until(lambda: not (tmp_path / "run" / "rings" / "one.tick.ring").exists())
        assert agent.stop() == EXIT_OK
        assert agent.log("stopped")[0]["balanced"]
        assert list((tmp_path / "run" / "rings").iterdir()) == []
    assert delivered_lines(tmp_path / "one") == []
    assert totals(tmp_path / "two") == {"hits": 5}


def test_what_is_not_aggregated_passes_at_once(tmp_path: Path) -> None:
    config = f"""
        [[listen]]
        address = "unixgram://{{folder}}/sock"
        name = "statsd"
        format = "statsd"
        interval = "1d"
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent:
        send_unixgram(
            tmp_path / "sock",
            b"hits:1|c\nold:7|g|T1700000000",
            b"_sc|disk|1|#host:a|m:almost full",
            b"_e{5,4}:title|text|t:error",
        )
        status = agent.wait_for(lambda status: output(status, "out")["delivered"] == 3 and at_rest(status))
        assert_balanced(status)
        door = listener(status, "statsd")
        assert (door["received"], door["accepted"], door["aggregated"]) == (4, 4, 1)
        lines = sorted(delivered_lines(tmp_path / "out"))
        [old] = [line for line in lines if line.startswith(b"old,")]
        assert old.endswith(b" 1700000000000000000")
        assert [line for line in lines if line.startswith(b"statsd_service_check,")]
        assert [line for line in lines if line.startswith((b"title,", b"title "))]


def test_series_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    port = free_port()
    config = statsd(port, options='interval = "1d"\nmax_series = 10') + file_output("out")
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, *[b"series_%d:1|c" % at for at in range(30)])
        status = agent.wait_for(lambda status: listener(status, "statsd")["received"] == 30)
        door = listener(status, "statsd")
        assert door["dropped"] == {"series_full": 20} and door["aggregated"] == 10
        assert aggregation(status)["series"] == 10
        assert agent.stop() == EXIT_OK
    assert len(totals(tmp_path / "out")) == 10


def test_a_full_ring_costs_points_that_are_counted(tmp_path: Path) -> None:
    """The output is not there, so its ring fills; the ledger balances all the same."""
    port = free_port()
    config = (
        f"[agent]\nadmin = ''\ndrain_timeout = '0s'\n{statsd(port, options='interval = ' + repr('200ms'))}"
    )
    with AgentProcess(tmp_path, config + dead_output("dead")) as agent:
        for part in range(20):
            send_udp(port, b"\n".join(b"series.%d.%d:1|g" % (part, at) for at in range(50)))
            aggregated(agent, (part + 1) * 50)
        status = agent.wait_for(
            lambda status: aggregation(status)["ring_full"] > 0 and status["ledger"]["balance"] == "balanced"
        )
        assert_balanced(status)
        assert agent.log("a tick found every ring full, and points were dropped")
        assert agent.stop() == EXIT_OK
        assert agent.log("stopped")[0]["balanced"]
