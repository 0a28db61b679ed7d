"""The load of ``penstock bench``: what is prepared, and what the report makes of the agent's counters."""

import socket
from typing import Any

import pytest

from agent._core import read_lines
from agent.cli_bench import FORMATS
from agent.config import Listen
from agent.load import Load, Messages, Sent, prepare
from agent.load_report import report, settled, thread_times, told
from agent.sending import metrics
from agent.wire import NO_SECRETS


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("series", "fields", "size"), [(1, 1, 0), (7, 3, 200), (1000, 1, 1432), (10, 100, 100)]
)
def test_messages_are_of_one_size_well_formed_and_have_all_series(
    format: str, series: int, fields: int, size: int
) -> None:
    made = prepare(format, series, fields, size)
    assert len({len(message) for message in made.messages}) == 1
    assert len(made.messages[0]) <= size or made.metrics == 1
    found = list(metrics(b"".join(made.messages), Listen(address="udp://127.0.0.1:1", format=format)))
    assert not any(one.reason for one in found)
    assert len(found) == made.metrics * len(made.messages)
    assert len({one.text for one in found}) == series
    if format == "line":
        assert read_lines(found[0].message)["body"].count(b"=") == fields + 1


@pytest.mark.parametrize("rate", [20_000.0, 0.0])
def test_a_load_keeps_to_its_rate_and_counts_what_it_sends(rate: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        there.bind(("127.0.0.1", 0))
        load = Load(
            f"udp://127.0.0.1:{there.getsockname()[1]}", NO_SECRETS, Messages([b"a v=1\n"], 1), rate, 2
        )
        seconds: list[float] = []
        sent = load.run(0.05, seconds.append)
        assert load.failure == ""
        assert sent.metrics == sent.messages and sent.bytes == 6 * sent.messages
        assert 0.049 <= seconds[-1] <= 0.05
        if rate:
            assert sent.messages == 1000
            there.settimeout(5)
            assert [there.recv(100) for _ in range(1000)] == [b"a v=1\n"] * 1000


def test_who_does_not_listen_ends_the_load() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{there.getsockname()[1]}"
    load = Load(address, NO_SECRETS, Messages([b"a v=1\n"], 1), 1000.0, 1)
    load.run(30.0, lambda _: None)
    assert load.failure == f"{address}: nobody listens there"


def status(received: int, kernel: int, delivered: int, **more: Any) -> dict[str, Any]:
    ledger = {
        "delivered": delivered,
        "rejected": more.get("rejected", 0),
        "merged": 0,
        "missed": more.get("missed", 0),
        "dropped": {},
        "waiting": more.get("waiting", 0),
        "spooled": 0,
    }
    listener = {
        "name": "first",
        "kernel_drops": kernel,
        "received": received,
        "accepted": received - sum(more.get("dropped", {}).values()),
        "aggregated": 0,
        "dropped": more.get("dropped", {}),
        "queue_bytes": more.get("queue", 0),
    }
    return {
        "listeners": [listener],
        "outputs": [{"name": "influx", "ledger": ledger}],
        "delay": {"influx": {"p50": 0.104, "p99": 0.26}},
    }


SENT = Sent(messages=1000, metrics=10_000, bytes=1_000_000, seconds=2.0)


def lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return list(told(report(SENT, 5000.0, before, after, "first", {"lane-0": 1.0, "main": 0.5}), False))


def test_the_report_tells_what_arrived() -> None:
    assert lines(status(5, 1, 5), status(10_005, 1, 10_005)) == [
        "Sent             10,000 metrics   1,000 datagrams   5,000 metrics/s for 2.0 s    (wanted 5,000)",
        "Kernel                0 lost      0 datagrams",
        "Received         10,000   accepted 10,000   dropped 0",
        "influx           10,000 delivered   rejected 0   dropped 0   missed 0   waiting 0"
        "   delay p50 104 ms  p99 260 ms",
        "Lost                  0 of 10,000 on the way to the outputs",
        next(line for line in lines(status(5, 1, 5), status(5, 1, 5)) if line.startswith("Agent")),
    ]


def test_the_report_names_each_place_where_something_was_lost() -> None:
    after = status(9000, 2, 8000, dropped={"series_full": 500}, missed=300, rejected=200)
    found = report(SENT, 0.0, status(0, 0, 0), after, "first", {"lane-0": 1.0})
    # Two drops of the kernel, of many datagrams each.
    assert found["lost"] == {"kernel": 1000, "series_full": 500}
    assert found["kernel"] == {"drops": 2, "metrics": 1000, "datagrams": 100}
    text = "\n".join(told(found, False))
    assert "1,000 lost      100 datagrams: the receive buffer was full" in text
    assert "dropped 500 (series_full 500)" in text
    assert "rejected 200   dropped 0   missed 300 (its rings were full" in text
    assert "1,500 of 10,000 (15 %): 1,000 in the kernel, 500 series_full" in text
    on_the_way = report(SENT, 0.0, status(0, 0, 0), status(9000, 0, 9000), "first", {})
    assert on_the_way["lost"] == {"on the way": 1000}
    assert "Agent" not in "\n".join(told(on_the_way, True))


def test_it_is_waited_for_what_is_queued_or_waits() -> None:
    assert settled(status(1, 0, 1))
    assert not settled(status(1, 0, 1, queue=5)) and not settled(status(1, 0, 1, waiting=5))


def test_threads_are_known_by_their_names() -> None:
    import os

    assert thread_times(os.getpid())["main"] > 0
    assert thread_times(1 << 30) == {}
