"""Rates: a source that floods loses its own surplus, and nobody else loses anything by it."""

import http.client
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from tests.bench import native
from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    delivered_lines,
    free_port,
    listener,
    load,
)
from tests.integration.test_ledger import file_output
from tests.integration.test_reload import wait_more

SOURCES = 100
PER_SECOND = 100
SECONDS = 5
SOURCE_RATE = 1000

RUN = 128
"""Datagrams that the kernel glues together at most."""


def rated(port: int, keys: str, lanes: int = 1) -> str:
    return (
        f'[agent]\nadmin = ""\nlanes = {lanes}\n'
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "udp"\nreceive_buffer = "64MiB"\n{keys}\n'
        + file_output("out")
    )


def flood(port: int, seconds: float, **options: object) -> native.Result:
    """One source as fast as the machine sends: 127.9.9.9, lines of 117 bytes."""
    return native.run(
        "udp_send",
        **{"from": "127.9.9.9"},
        to=f"127.0.0.1:{port}",
        seconds=seconds,
        shape=117,
        segment=True,
        timeout=60,
        **options,
    )


def good(port: int, seconds: float) -> native.Result:
    """A hundred sources from 127.1.0.1 on, each of which has a series of its own; lines of 64 bytes."""
    return native.run(
        "udp_send",
        **{"from": "127.1.0.1"},
        to=f"127.0.0.1:{port}",
        seconds=seconds,
        rate=SOURCES * PER_SECOND,
        flow=SOURCES,
        burst=1,
        shape=64,
        series=SOURCES,
        timeout=60,
    )


def all_read(agent: AgentProcess) -> Status:
    """Wait until the listener has read what waits for it, and all of it is decided."""
    seen = [-1]

    def at_its_end(status: Status) -> bool:
        one = listener(status, "udp")
        seen.append(one["received"])
        return one["queue_bytes"] == 0 and seen[-1] == seen[-2] and at_rest(status)

    return agent.wait_for(at_its_end, 60, "all that was sent is read")


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(
    ("keys", "rate"),
    [(f"source_rate = {SOURCE_RATE}", SOURCE_RATE), ("rate = 30_000", 20_000)],
    ids=["source_rate", "rate"],
)
def test_a_flood_costs_the_others_nothing(tmp_path: Path, keys: str, rate: int, lanes: int) -> None:
    port = free_port()
    with AgentProcess(tmp_path, rated(port, keys, lanes)) as agent:
        sent: dict[str, int] = {}
        flooding = threading.Thread(
            target=lambda: sent.update(flood=flood(port, SECONDS)["datagrams"]), daemon=True
        )
        flooding.start()
        sent["good"] = good(port, SECONDS)["datagrams"]
        flooding.join()
        everything = sent["good"] + sent["flood"]
        status = all_read(agent)
        one = listener(status, "udp")
        assert_balanced(status)
        # What is sent too fast for the machine is lost in the kernel, which counts a run of it as one.
        lost_at_most = RUN * one["kernel_drops"]
        assert one["received"] + one["kernel_drops"] <= everything <= one["received"] + lost_at_most
        assert set(one["dropped"]) == {"rate_limited"}
        # All that the rate has dropped is the flood's: of the others what was received was accepted.
        assert [(loser["source"], loser["reason"]) for loser in one["losers"]] == [
            ("127.9.9.9", "rate_limited")
        ]
        assert one["losers"][0]["dropped"] == one["dropped"]["rate_limited"]
        lines = delivered_lines(tmp_path / "out")
        by_source = Counter(line.split(b" ")[0] for line in lines if line.startswith(b"load"))
        flooded = sum(line.startswith(b"cpu,") for line in lines)
        assert len(by_source) == SOURCES
        lost = sent["good"] - sum(by_source.values())
        print(f"sent {sent}, flood passed {flooded}, kernel drops {one['kernel_drops']}, of the good {lost}")
        assert lost <= lost_at_most
        # The burst besides, and a last message on each lane.
        assert (
            rate * (SECONDS - 1.5)
            <= flooded
            <= rate * (SECONDS + 2) + RUN * lanes + 10_000 * (rate != SOURCE_RATE)
        )
        log = agent.log("a source sends more than its rate")
        assert [(told["listener"], told["source"]) for told in log] == [("udp", "127.9.9.9")]
        assert agent.stop() == 0


def test_sources_that_may_not_send_are_dropped_and_counted(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, rated(port, 'sources = ["127.1.0.0/16", "127.0.0.1"]')) as agent:
        with ExitStack() as stack:
            for number, address in enumerate(("127.1.0.1", "127.0.0.1", "127.2.0.1")):
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.bind((address, 0))
                sender.sendto(b"m,a=%d v=1 1\nm v=2 1\n" % number, ("127.0.0.1", port))
        status = agent.wait_for(lambda status: listener(status, "udp")["received"] == 6 and at_rest(status))
        assert_balanced(status)
        one = listener(status, "udp")
        assert one["dropped"] == {"source_denied": 2} and one["accepted"] == 4
        assert one["losers"] == [{"source": "127.2.0.1", "reason": "source_denied", "dropped": 2}]


def test_processes_at_a_unix_socket_each_have_a_rate(tmp_path: Path) -> None:
    config = (
        '[[listen]]\naddress = "unixgram://{folder}/in"\nname = "unix"\nsource_rate = 500\n'
        + file_output("out")
    )
    with AgentProcess(tmp_path, config) as agent:
        to, results = f"unix:{tmp_path}/in", dict[str, int]()

        def send(name: str, **options: object) -> None:
            results[name] = native.run("udp_send", to=to, seconds=3, timeout=60, **options)["datagrams"]

        senders = [
            threading.Thread(target=send, args=("flood",), kwargs={"shape": 117}),
            threading.Thread(target=send, args=("good",), kwargs={"shape": 64, "rate": 200}),
        ]
        for one in senders:
            one.start()
        for one in senders:
            one.join()
        total = sum(results.values())
        status = agent.wait_for(
            lambda status: listener(status, "unix")["received"] == total and at_rest(status)
        )
        found = listener(status, "unix")
        assert_balanced(status)
        lines = delivered_lines(tmp_path / "out")
        assert sum(line.startswith(b"load") for line in lines) == results["good"]
        assert 500 * 2 <= sum(line.startswith(b"cpu,") for line in lines) <= 500 * 5
        (loser,) = found["losers"]
        assert loser["source"].startswith("pid ") and loser["dropped"] == found["dropped"]["rate_limited"]


def test_rates_are_turned_on_changed_and_off_under_load_without_loss(tmp_path: Path) -> None:
    """Nobody is over any of these rates, so whatever is missing would be lost by the reload."""
    port = free_port()
    rounds = ["source_rate = 1_000_000", "rate = 900_000", 'sources = ["127.0.0.0/8"]', "rate = 800_000", ""]
    with AgentProcess(tmp_path, rated(port, "", 2)) as agent, load(port, 50_000, flows=8) as sender:
        for number in range(10):
            wait_more(agent, 20_000, "udp")
            answer = agent.reload(rated(port, rounds[number % len(rounds)], 2))
            assert answer["applied"] and answer["changes"]
        wait_more(agent, 20_000, "udp")
        sent = sender.finish()
        status = agent.wait_for(
            lambda status: listener(status, "udp")["received"] == sent and at_rest(status)
        )
        assert_balanced(status)
        assert listener(status, "udp")["accepted"] == sent and listener(status, "udp")["kernel_drops"] == 0
        assert len(delivered_lines(tmp_path / "out")) == sent


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_stream_over_its_rate_waits_and_loses_nothing(tmp_path: Path, scheme: str) -> None:
    """The rate is changed while it waits, and turned off."""
    port = free_port(socket.SOCK_STREAM)
    address = f"tcp://127.0.0.1:{port}" if scheme == "tcp" else "unix://{folder}/in"

    def config(keys: str) -> str:
        return f'[[listen]]\naddress = "{address}"\nname = "in"\n{keys}\n' + file_output("out")

    lines = [b"m v=%di %d\n" % (number, number + 1) for number in range(60_000)]
    with AgentProcess(tmp_path, config('source_rate = 4000\nburst = "100ms"')) as agent:
        if scheme == "tcp":
            client = socket.create_connection(("127.0.0.1", port))
        else:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(str(tmp_path / "in"))
        sending = threading.Thread(target=client.sendall, args=(b"".join(lines),), daemon=True)
        started = time.monotonic()
        sending.start()
        status = agent.wait_for(lambda status: listener(status, "in")["received"] > 12_000)
        passed = time.monotonic() - started
        # A burst, and what one read has brought besides: 64 KiB.
        assert listener(status, "in")["received"] <= 4000 * (passed + 0.1) + 65536 / len(lines[0])
        agent.reload(config('source_rate = 8000\nburst = "100ms"'))
        agent.wait_for(lambda status: listener(status, "in")["received"] > 30_000)
        agent.reload(config(""))
        sending.join(20)
        client.close()
        status = agent.wait_for(
            lambda status: listener(status, "in")["received"] == 60_000 and at_rest(status)
        )
        assert_balanced(status)
        one = listener(status, "in")
        assert one["dropped"] == {} and one["connections_closed"] == {"ended": 1}
        assert [line + b"\n" for line in delivered_lines(tmp_path / "out")] == lines


def test_http_clients_over_their_rate_are_told_to_wait(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    config = (
        f'[[listen]]\naddress = "http://127.0.0.1:{port}"\nname = "in"\nsource_rate = 100\n'
        'sources = ["127.0.0.2", "127.0.0.3"]\n' + file_output("out")
    )
    with AgentProcess(tmp_path, config) as agent:

        def post(address: str, lines: int) -> tuple[int, str | None]:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(address, 0))
            try:
                client.request("POST", "/write", b"m v=1i\n" * lines)
                response = client.getresponse()
                response.read()
                return response.status, response.getheader("Retry-After")
            finally:
                client.close()

        assert post("127.0.0.2", 400) == (204, None)
        assert post("127.0.0.2", 1) == (429, "3")
        assert post("127.0.0.3", 1) == (204, None)
        assert post("127.0.0.4", 1) == (403, None)
        wait_until(lambda: post("127.0.0.2", 1)[0] == 204, 10)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        one = listener(status, "in")
        assert one["accepted"] == one["received"] == 402 and one["dropped"] == {}
        assert set(one["requests"]) == {"204", "403", "429"} and one["requests"]["204"] == 3


@pytest.mark.parametrize("format", ["json", "msgpack", "statsd", "graphite"])
def test_every_format_of_datagrams_keeps_to_its_rate(tmp_path: Path, format: str) -> None:
    port = free_port()
    more = 'interval = "100ms"\n' if format == "statsd" else ""
    config = (
        f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nname = "in"\nformat = "{format}"\n'
        f'source_rate = 50\nburst = "10s"\nsources = ["127.0.0.1", "127.0.0.2"]\n{more}' + file_output("out")
    )
    payload = {
        "json": b'{"name":"m","fields":{"v":1}}',
        "msgpack": msgpack.packb({"name": "m", "fields": {"v": 1}, "tags": {}}),
        "statsd": b"m:1|c",
        "graphite": b"m 1 1",
    }[format]
    with AgentProcess(tmp_path, config) as agent:
        for address, count in (("127.0.0.1", 900), ("127.0.0.2", 400), ("127.0.0.3", 100)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((address, 0))
                for _ in range(count):
                    sender.sendto(payload, ("127.0.0.1", port))
        status = agent.wait_for(lambda status: listener(status, "in")["received"] == 1400 and at_rest(status))
        assert_balanced(status)
        one = listener(status, "in")
        assert one["dropped"]["source_denied"] == 100 and one["datagrams"] == 1400
        assert 900 <= one["accepted"] <= 1000 and one["dropped"]["rate_limited"] == 1300 - one["accepted"]
        losers = {(loser["source"], loser["reason"]): loser["dropped"] for loser in one["losers"]}
        assert losers == {
            ("127.0.0.1", "rate_limited"): one["dropped"]["rate_limited"],
            ("127.0.0.3", "source_denied"): 100,
        }


def test_connections_of_others_are_refused_and_cut_when_they_may_come_no_more(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)

    def config(networks: str) -> str:
        return (
            f'[[listen]]\naddress = "tcp://127.0.0.1:{port}"\nname = "in"\nsources = {networks}\n'
            + file_output("out")
        )

    with AgentProcess(tmp_path, config('["127.0.0.2"]')) as agent:
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) as client:
            client.sendall(b"m v=1 1\n")
            with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0)) as other:
                other.settimeout(10)
                assert other.recv(1) == b""
            status = agent.wait_for(lambda status: listener(status, "in")["connections_refused"] == 1)
            agent.wait_for(lambda status: listener(status, "in")["received"] == 1)
            assert listener(status, "in")["connections_accepted"] == 1
            agent.reload(config('["127.0.0.3"]'))
            client.sendall(b"m v=2 2\n")
            status = agent.wait_for(lambda status: listener(status, "in")["connections"] == 0)
            assert listener(status, "in")["connections_closed"] == {"source_denied": 1}
            assert listener(status, "in")["received"] == 1
