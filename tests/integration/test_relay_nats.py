"""A relay behind a real NATS server: what it takes, passes on, acknowledges, and does not."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent._core import count_samples, samples_of_lines
from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess
from tests.integration.certificates import make_certificates
from tests.integration.fake_influxdb import Answer, FakeInfluxDB
from tests.integration.nats_server import NatsServer, nats_server
from tests.integration.relay import again, lines, message, publish_nats

pytestmark = pytest.mark.needs("nats-server")

OUTPUT = """
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
version = 2
org = "an org"
bucket = "metrics"
token = "t0ken=="
retry_max = "200ms"
spool = {spool}
"""


def relay(server: NatsServer, database: FakeInfluxDB, *, listen: str = "", spool: str = "false") -> str:
    output = OUTPUT.replace("{url}", database.url).replace("{spool}", spool)
    return f"""
[agent]
drain_timeout = "5s"
[[listen]]
name = "fleet"
address = "{server.url}"
subject = "metrics.>"
{listen}
{output}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as server:
        server.add_stream("metrics", "metrics.>")
        yield server


@pytest.fixture
def database() -> Iterator[FakeInfluxDB]:
    with FakeInfluxDB(2) as database:
        yield database
        assert not database.problems


class Gate:
    """Holds the answers of a database back until it is opened."""

    def __init__(self, database: FakeInfluxDB) -> None:
        self.asked = 0
        self._database = database
        self._opened = threading.Event()
        database.rule = self._hold

    def _hold(self) -> Answer:
        self.asked += 1
        return Answer(gate=self._opened)

    def open(self) -> None:
        self._database.rule = lambda: None
        self._opened.set()


def fleet(status: dict[str, Any]) -> dict[str, Any]:
    [listener] = [one for one in status["listeners"] if one["name"] == "fleet"]
    return listener


def undecided(server: NatsServer, durable: str = "penstock") -> int:
    """Messages that the server would bring (again)."""

    async def ask(stream: Any) -> int:
        info = await stream.consumer_info("metrics", durable)
        return int(info.num_pending + info.num_ack_pending)

    return server.run(ask)


def settled(agent: AgentProcess, check: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    status = agent.wait_for(lambda status: check(status))
    assert agent.wait_for(lambda status: status["ledger"]["balance"] == "balanced")
    return status


def test_messages_go_through_as_bytes_and_are_forgotten(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    sent = [message(10 * n) for n in range(50)]
    publish_nats(server, "metrics.edge-1", sent)
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 50)
        one = fleet(status)
        assert (one["received"], one["accepted"], one["datagrams"]) == (500, 500, 50)
        assert (one["relay"]["metrics"], one["relay"]["carried"]) == (500, 500)
        assert one["relay"]["bytes"] == sum(len(data) for _, data in sent)
        assert one["relay"]["in_flight_bytes"] == 0 and one["relay"]["connected"]
        ledger = status["outputs"][0]["ledger"]
        assert (ledger["carried"], ledger["delivered"], ledger["written"]) == (500, 500, 0)
        assert {request.raw for request in database.requests} == {data for _, data in sent}
        wait_until(lambda: undecided(server) == 0)
        assert database.lines == set(lines(0, 500).splitlines(keepends=True))
        assert agent.stop() == 0


def test_what_outputs_do_not_take_as_it_is_is_read_and_forgotten_when_their_rings_are_free(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    other = '\n[[output]]\nname = "file"\ntype = "file"\npath = "{folder}/out"\n'
    config = relay(server, database) + '[output.filter]\nmeasurement = ["m"]\n' + other
    sent = [message(10 * n, body=lines(10 * n, 5) + lines(10 * n + 5, 5, "x")) for n in range(30)]
    publish_nats(server, "metrics.edge-1", sent)
    gate = Gate(database)
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_for(lambda status: fleet(status)["received"] == 300)
        wait_until(lambda: gate.asked)
        assert fleet(agent.status())["relay"]["messages"] == 0 and undecided(server) == 30
        gate.open()
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 30)
        one = fleet(status)
        assert (one["received"], one["accepted"], one["relay"]["carried"]) == (300, 300, 0)
        assert one["relay"]["metrics"] == 300
        influx, file = (output["ledger"] for output in status["outputs"])
        assert (influx["carried"], influx["delivered"], influx["filtered"]) == (0, 150, 150)
        assert file["delivered"] == 300
        wait_until(lambda: undecided(server) == 0)
        assert len(database.lines) == 150


def test_nothing_is_forgotten_while_one_of_the_outputs_has_not_got_it(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    with FakeInfluxDB(2) as second:
        second.rule = lambda: Answer(503)
        config = relay(server, database) + OUTPUT.replace('influx"\ntype', 'second"\ntype').replace(
            "{url}", second.url
        ).replace("{spool}", "false")
        publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
        with AgentProcess(tmp_path, config) as agent:
            agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 50)
            assert fleet(agent.status())["relay"]["messages"] == 0 and undecided(server) == 5
            second.rule = lambda: None
            status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
            assert [output["ledger"]["delivered"] for output in status["outputs"]] == [50, 50]
            wait_until(lambda: undecided(server) == 0)
            assert second.lines == database.lines


def test_with_a_database_that_is_gone_it_pauses_and_the_broker_holds(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    database.rule = lambda: Answer(503)
    with AgentProcess(tmp_path, relay(server, database, listen='max_in_flight = "64KiB"')) as agent:
        big = [message(1000 * n, 1000, compression="") for n in range(20)]
        publish_nats(server, "metrics.a", big)
        status = agent.wait_for(lambda status: fleet(status)["relay"]["paused"])
        size = len(big[0][1]) + 1024
        assert 0 < fleet(status)["relay"]["in_flight_bytes"] <= (64 << 10) + size
        assert fleet(status)["relay"]["messages"] == 0 and undecided(server) == 20
        database.rule = lambda: None
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 20)
        wait_until(lambda: undecided(server) == 0)
        assert not fleet(agent.status())["relay"]["paused"]
        assert len(database.lines) == 20_000


def test_what_comes_twice_is_sent_once(tmp_path: Path, server: NatsServer, database: FakeInfluxDB) -> None:
    sent = [message(10 * n) for n in range(10)]
    publish_nats(server, "metrics.a", sent)
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 10)
        again(server, "metrics.a", sent)
        again(server, "metrics.a", [message(1000)] * 5)
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 25)
        relayed = fleet(status)["relay"]
        assert (relayed["duplicates"], relayed["duplicate_metrics"], relayed["carried"]) == (14, 140, 110)
        assert fleet(status)["received"] == 110
        assert len(database.requests) == 11
        wait_until(lambda: undecided(server) == 0)


def kept(agent: AgentProcess) -> list[tuple[dict[str, Any], bytes]]:
    """What is kept of messages that nobody can read: what is told of each, and its bytes."""
    found = []
    for path in sorted((agent.state_dir / "rejected" / "_relay").glob("*.msg")):
        found.append((json.loads(path.with_suffix(".json").read_bytes()), path.read_bytes()))
    return found


def test_what_nobody_can_read_is_kept_and_passed(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    told, data = message(50)
    bad = {
        "no agent has sent it": ({}, b"hello"),
        "Penstock-Version is '2'": message(10, version="2"),
        "Penstock-Metrics is 'x'": message(20, metrics="x"),
        "cut off": (told, data[:-3]),
        "not in the form": (told, b"no gzip at all"),
    }
    publish_nats(server, "metrics.a", [message(0), *bad.values(), message(90)])
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 7)
        wait_until(lambda: undecided(server) == 0)
        assert fleet(status)["relay"]["poisoned"] == 5 and fleet(status)["received"] == 20
        files = kept(agent)
        assert sorted(body for _, body in files) == sorted(body for _, body in bad.values())
        for reason in bad:
            assert any(reason in about["reason"] for about, _ in files), reason
        assert {about["subject"] for about, _ in files} == {"metrics.a"}
        assert sorted(about["sequence"] for about, _ in files) == [2, 3, 4, 5, 6]
        name = next((agent.state_dir / "rejected" / "_relay").glob("*.msg")).name
        command = [sys.executable, "-m", "agent", "rejected", "ls", "_relay", "-c", str(agent.config_path)]
        assert name in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        refused = agent.command("rejected", "retry", "_relay", name)
        assert refused.returncode and "that nobody can read" in refused.stderr
        assert agent.command("rejected", "drop", "_relay", "--all", "--yes").returncode == 0
        assert not kept(agent)
        assert database.lines == set((lines(0, 10) + lines(90, 10)).splitlines(keepends=True))


@pytest.mark.parametrize("read", [False, True])
def test_a_body_that_is_damaged_in_the_middle_is_kept_whoever_finds_out(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB, read: bool
) -> None:
    told, data = message(0, 2000)
    torn = data[:2000] + bytes(200) + data[2200:]
    publish_nats(server, "metrics.a", [(told, torn)])
    config = relay(server, database)
    database.rule = lambda: Answer(400, '{"code": "invalid", "message": "gzip: invalid checksum"}')
    if read:
        config = config.replace("[agent]", '[agent]\ntags = { dc = "eu" }')
    with AgentProcess(tmp_path, config) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        wait_until(lambda: undecided(server) == 0)
        assert fleet(status)["relay"]["poisoned"] == 1 and fleet(status)["received"] == 2000
        [(about, body)] = kept(agent)
        assert body == torn and about["metrics"] == 2000 and about["agent"] == "edge-1"
        assert fleet(status)["dropped"] == ({"body_refused": 2000} if read else {})
        assert status["outputs"][0]["ledger"]["rejected"] == (0 if read else 2000)


def test_at_a_stop_what_is_undecided_is_for_others_at_once(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    database.rule = lambda: Answer(503)
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(20)])
    config = relay(server, database)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with AgentProcess(tmp_path / "one", config) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 20)
        wait_until(lambda: database.requests)
        assert agent.stop() == 0
        assert '"balanced":true' in agent.log_text() and not database.lines
    database.rule = lambda: None
    with AgentProcess(tmp_path / "two", config) as agent:
        # A server of version 2.9 may bring one message twice, and another only after its ack_wait.
        status = settled(agent, lambda status: fleet(status)["relay"]["metrics"] == 200)
        assert fleet(status)["relay"]["redelivered"] >= 19
        wait_until(lambda: undecided(server) == 0)
        assert len(database.lines) == 200


def test_what_a_killed_relay_had_in_hand_comes_to_the_next(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    database.rule = lambda: Answer(503)
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(20)])
    config = relay(server, database)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with AgentProcess(tmp_path / "one", config) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 20)
        agent.signal(signal.SIGKILL)
        agent.wait()
    database.rule = lambda: None
    with AgentProcess(tmp_path / "two", config) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["messages"] == 20, timeout=60)
        assert fleet(agent.status())["relay"]["redelivered"] == 20
        wait_until(lambda: undecided(server) == 0)
        assert len(database.lines) == 200


def test_a_reload_lets_go_of_what_an_output_that_left_has_not_got(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    with FakeInfluxDB(2) as second:
        second.rule = lambda: Answer(503)
        one = relay(server, database).replace('drain_timeout = "5s"', 'drain_timeout = "200ms"')
        both = one + OUTPUT.replace('influx"\ntype', 'second"\ntype').replace("{url}", second.url).replace(
            "{spool}", "false"
        )
        publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
        with AgentProcess(tmp_path, both) as agent:
            agent.wait_for(lambda status: status["outputs"][0]["ledger"]["delivered"] == 50)
            assert agent.reload(one)["applied"]
            status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
            # They came again, and went to the one that stayed.
            assert fleet(status)["relay"]["redelivered"] == 5 and fleet(status)["received"] == 50
            wait_until(lambda: undecided(server) == 0)
            assert len(database.lines) == 50


def test_messages_are_not_brought_again_while_they_are_held_for_long(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    async def make(stream: Any) -> None:
        await stream.add_consumer(
            "metrics", durable_name="held", ack_policy="explicit", ack_wait=1.0, filter_subject="metrics.>"
        )

    server.run(make)
    database.rule = lambda: Answer(503)
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(3)])
    with AgentProcess(tmp_path, relay(server, database, listen='durable = "held"')) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 3)
        deadline = time.monotonic() + 4
        wait_until(lambda: time.monotonic() > deadline)
        database.rule = lambda: None
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 3)
        assert fleet(status)["relay"]["redelivered"] == 0
        wait_until(lambda: undecided(server, "held") == 0)


def test_a_broker_that_goes_and_comes_back_loses_nothing(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
    gate = Gate(database)
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        wait_until(lambda: gate.asked)
        server.stop()
        agent.wait_for(lambda status: not fleet(status)["relay"]["connected"])
        assert any("fleet" in line for line in agent.status()["detail"])
        # What is decided meanwhile is acknowledged when there is somebody to tell.
        gate.open()
        agent.wait_for(lambda status: fleet(status)["relay"]["messages"] == 5)
        server.start()
        publish_nats(server, "metrics.a", [message(10 * n) for n in range(5, 10)])
        settled(agent, lambda status: fleet(status)["relay"]["carried"] == 100)
        wait_until(lambda: undecided(server) == 0, 30)
        assert fleet(agent.status())["relay"]["connected"] and len(database.lines) == 100


def test_what_the_stream_has_dropped_unread_is_told(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    publish_nats(server, "metrics.a", [message(0)])
    with AgentProcess(tmp_path / "one", relay(server, database)) as agent:
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        wait_until(lambda: undecided(server) == 0)
        assert agent.stop() == 0
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(1, 10)])
    server.run(lambda stream: stream.purge_stream("metrics", seq=6))
    with AgentProcess(tmp_path / "two", relay(server, database)) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
        assert fleet(status)["relay"]["expired"] == 4
        assert "dropped messages before they were read" in agent.log_text()


USERS = """
authorization {
  users = [
    { user: "writer", password: "right" }
    { user: "reader", password: "right", permissions: { publish: ["nothing"], subscribe: [">"] } }
  ]
}
"""
AS = 'options = {{ user = "{}", password = "{}" }}'

BAD = {
    "unknown subject": (
        ("metrics.>", "other.>"),
        "no stream takes the subject other.>: make one, or correct subject",
    ),
    "unknown stream": (
        ("subject", 'stream = "other"\nsubject'),
        "there is no stream other: make it, or correct stream",
    ),
    "another kind of consumer": (
        ("subject", 'durable = "pushes"\nsubject'),
        "the consumer pushes of the stream metrics is a push consumer",
    ),
    "consumer of another subject": (
        ("metrics.>", "metrics.a"),
        "the consumer penstock of the stream metrics is for the subject metrics.>",
    ),
    "no permission": (
        (AS.format("writer", "right"), AS.format("reader", "right")),
        "the user may not do this: nats: permissions violation",
    ),
    "wrong credentials": (
        (AS.format("writer", "right"), AS.format("writer", "wrong")),
        "the server refuses the credentials: correct those in options",
    ),
    "no credentials": (
        (AS.format("writer", "right"), ""),
        "the server refuses the credentials: correct those in options",
    ),
    "nobody there": (("{url}", "nats://127.0.0.1:1"), "cannot connect: "),
    "TLS, which the server does not speak": (
        ("subject", "insecure_skip_verify = true\nsubject"),
        "the server does not ask for TLS, which is wanted",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_seen_where_nothing_can_be_read(tmp_path: Path, database: FakeInfluxDB, case: str) -> None:
    (good, bad), reason = BAD[case]

    async def make(stream: Any) -> None:
        await stream.add_consumer(
            "metrics", durable_name="pushes", deliver_subject="x", ack_policy="explicit"
        )
        await stream.add_consumer(
            "metrics", durable_name="penstock", ack_policy="explicit", filter_subject="metrics.>"
        )

    with nats_server(tmp_path, USERS, user="writer", password="right") as server:
        server.add_stream("metrics", "metrics.>")
        server.run(make)
        publish_nats(server, "metrics.a", [message(0)])
        config = relay(server, database, listen=AS.format("writer", "right"))
        wrong = config.replace(good.replace("{url}", server.url), bad, 1)
        with AgentProcess(tmp_path, wrong) as agent:
            status = agent.wait_for(lambda status: reason in fleet(status)["relay"]["failing"], timeout=30)
            assert status["ready"]
            assert status["detail"] == [f"listener fleet: {fleet(status)['relay']['failing']}"]
            assert fleet(status)["relay"]["messages"] == 0 and not fleet(status)["relay"]["connected"]
            records = agent.log("a broker cannot be read; it is tried again")
            assert records and reason in records[-1]["reason"]
            # Mended, it goes on by itself.
            assert agent.reload(config)["applied"]
            settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
            assert agent.stop() == 0


def test_a_reload_of_other_keys_than_the_connection_s_disturbs_nothing(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
    gate = Gate(database)
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        agent.wait_for(lambda status: fleet(status)["relay"]["in_flight"] == 5)
        assert agent.reload(relay(server, database, listen='max_in_flight = "1MiB"'))["applied"]
        gate.open()
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
        assert fleet(status)["relay"]["redelivered"] == 0
        # Another consumer begins with the first message, and all of them are known.
        assert agent.reload(relay(server, database, listen='durable = "another"'))["applied"]
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 10)
        assert fleet(status)["relay"]["duplicates"] == 5
        wait_until(lambda: undecided(server, "another") == 0)
        # The listener leaves; its account stays.
        other = '[[listen]]\naddress = "unixgram://{folder}/socket"\n'
        without = (
            relay(server, database).split("[[listen]]")[0]
            + other
            + OUTPUT.replace("{url}", database.url).replace("{spool}", "false")
        )
        assert agent.reload(without)["applied"]
        assert fleet(agent.status())["relay"]["messages"] == 10
        assert not fleet(agent.status())["relay"]["connected"]
        settled(agent, lambda status: True)


def test_a_consumer_that_is_removed_is_made_again(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    with AgentProcess(tmp_path, relay(server, database)) as agent:
        publish_nats(server, "metrics.a", [message(0)])
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        server.run(lambda stream: stream.delete_consumer("metrics", "penstock"))
        publish_nats(server, "metrics.a", [message(10)])
        # It begins with the first one, which is known.
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 3)
        assert fleet(status)["relay"]["duplicates"] == 1 and fleet(status)["received"] == 20
        server.delete_stream("metrics")
        agent.wait_for(lambda status: "no stream takes" in fleet(status)["relay"]["failing"], timeout=30)
        server.add_stream("metrics", "metrics.>")
        publish_nats(server, "metrics.a", [message(20)])
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 4)
        assert fleet(agent.status())["relay"]["failing"] == ""


def test_messages_larger_than_what_may_be_in_flight_come_one_by_one(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    sent = [message(10_000 * n, 10_000, compression="") for n in range(6)]
    assert len(sent[0][1]) > 200_000
    publish_nats(server, "metrics.a", sent)
    with AgentProcess(tmp_path, relay(server, database, listen='max_in_flight = "64KiB"')) as agent:
        settled(agent, lambda status: fleet(status)["relay"]["messages"] == 6)
        wait_until(lambda: undecided(server) == 0)
        assert len(database.lines) == 60_000


def test_by_tls_with_a_certificate_of_its_own(tmp_path: Path, database: FakeInfluxDB) -> None:
    certificates = make_certificates(tmp_path)
    names = ", ".join(
        f'{key}: "{certificates / name}"'
        for key, name in (("cert_file", "server.pem"), ("key_file", "server.key"), ("ca_file", "ca.pem"))
    )
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    with nats_server(tmp_path, f"tls {{ {names}, verify: true }}", tls=context) as server:
        server.add_stream("metrics", "metrics.>")
        publish_nats(server, "metrics.a", [message(0)])
        files = (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))
        good = "\n".join(f'{key} = "{certificates / name}"' for key, name in files)
        other = good.replace("ca.pem", "other.pem")
        with AgentProcess(tmp_path, relay(server, database, listen=other)) as agent:
            agent.wait_for(lambda status: "TLS: " in fleet(status)["relay"]["failing"])
            assert agent.reload(relay(server, database, listen=good))["applied"]
            settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)


def test_what_is_in_the_spool_is_this_relay_s(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    database.rule = lambda: Answer(503)
    publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
    config = relay(server, database, spool='{ min_free_space = "0B" }').replace(
        "[[output]]\n", "[[output]]\nretries = 0\nbreaker_sensitivity = 1000.0\n"
    )
    with AgentProcess(tmp_path, config) as agent:
        status = agent.wait_for(lambda status: fleet(status)["relay"]["messages"] > 0)
        spooled = status["outputs"][0]["ledger"]["spooled"]
        assert spooled == fleet(status)["relay"]["carried"] == status["outputs"][0]["ledger"]["carried"]
        assert any((agent.state_dir / "spool" / "influx").glob("*.lp.gz"))
        database.rule = lambda: None
        settled(agent, lambda status: status["outputs"][0]["ledger"]["delivered"] == 50)
        wait_until(lambda: undecided(server) == 0)
        assert len(database.lines) == 50


@pytest.mark.parametrize("read", [False, True])
def test_samples_go_to_outputs_of_samples(tmp_path: Path, server: NatsServer, read: bool) -> None:
    samples = samples_of_lines(lines(0, 20))
    told, data = message(0, 20, body=samples, compression="sz", encoding="pb")
    publish_nats(server, "metrics.a", [(told, data)])
    tags = 'tags = { dc = "eu" }' if read else ""
    config = f"""
[agent]
{tags}
[[listen]]
name = "fleet"
address = "{server.url}"
subject = "metrics.>"
[[output]]
name = "out"
type = "file"
format = "protobuf"
path = "{{folder}}/out"
"""
    with AgentProcess(tmp_path, config) as agent:
        status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
        assert fleet(status)["relay"]["carried"] == (0 if read else 20)
        assert status["outputs"][0]["ledger"]["delivered"] == 20
        assert agent.stop() == 0
    [path] = (tmp_path / "out").glob("*.pb")
    written = path.read_bytes()
    # Behind their length, a varint.
    body = written[next(at for at, byte in enumerate(written) if byte < 0x80) + 1 :]
    assert count_samples(body) == 20 and (body == samples) is not read


def test_a_listener_that_moves_to_another_server_goes_on_there(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    (tmp_path / "other").mkdir()
    with nats_server(tmp_path / "other") as other:
        other.add_stream("metrics", "metrics.>")
        publish_nats(server, "metrics.a", [message(10 * n) for n in range(5)])
        publish_nats(other, "metrics.a", [message(10 * n) for n in range(4, 10)])
        with AgentProcess(tmp_path, relay(server, database)) as agent:
            settled(agent, lambda status: fleet(status)["relay"]["messages"] == 5)
            assert agent.reload(relay(other, database))["applied"]
            status = settled(agent, lambda status: fleet(status)["relay"]["messages"] == 11)
            # Its account goes on, and so does what it knows.
            assert fleet(status)["relay"]["duplicates"] == 1 and fleet(status)["received"] == 100
            assert fleet(status)["relay"]["connected"] and fleet(status)["address"] == other.url
            wait_until(lambda: undecided(other) == 0)
            assert agent.stop() == 0


def test_a_server_that_says_nothing_holds_up_neither_a_reload_nor_a_stop(
    tmp_path: Path, server: NatsServer, database: FakeInfluxDB
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = relay(server, database)
        hung = config.replace(server.url, f"nats://127.0.0.1:{silent.getsockname()[1]}")
        with AgentProcess(tmp_path, hung) as agent:
            client, _ = silent.accept()
            with client:
                assert agent.reload(config)["applied"]
                # The connection was given up, and not waited for.
                assert "timed out" not in agent.log_text()
                publish_nats(server, "metrics.a", [message(0)])
                settled(agent, lambda status: fleet(status)["relay"]["messages"] == 1)
            assert agent.reload(hung)["applied"]
            client, _ = silent.accept()
            with client:
                assert agent.stop() == 0
