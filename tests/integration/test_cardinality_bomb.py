"""A deploy that puts an id into a tag: the database gets what the limit allows, and all else is as it was.

The bomb is sent through a Unix socket, which loses nothing: what arrives can be told exactly.
"""

import re
import threading
from pathlib import Path

import pytest

from tests.bench import native
from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, Status, send_unixgram
from tests.integration.servers import Influxd, influxd

MAX_SERIES = 20_000
OVERFLOW_SERIES = 1000
"""What there may be besides, of what the policy makes of series."""

GOOD = 500
"""Good series that are there before the bomb, and as many that come while it goes off."""

MEMORY_MIB = 20

DATAGRAM_BYTES = 4000
LINES_EACH = {"line": DATAGRAM_BYTES // 65, "statsd": DATAGRAM_BYTES // 44}

CONFIG = """
[[listen]]
address = "unixgram://{{folder}}/line"
max_datagram = "64KiB"
[[listen]]
address = "unixgram://{{folder}}/statsd"
format = "statsd"
interval = "1s"
percentiles = []
[cardinality]
max_series = {max_series}
mode = "{mode}"
[flush]
batch_lines = 20_000
[[output]]
name = "influx"
type = "influxdb"
version = 1
url = "{url}"
database = "{database}"
ring_bytes = "256MiB"
"""


def config(server: Influxd, database: str, mode: str = "enforce", max_series: int = MAX_SERIES) -> str:
    return CONFIG.format(url=server.url, database=database, mode=mode, max_series=max_series)


def anonymous_mib(agent: AgentProcess) -> float:
    """The agent's memory without the pages of its rings, which are files."""
    text = Path(f"/proc/{agent.pid}/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def series_count(server: Influxd, database: str) -> int:
    return int(server.query("SHOW SERIES EXACT CARDINALITY", database)[0]["values"][0][0])


def total(server: Influxd, database: str, what: str, measurement: str) -> int:
    found = server.query(f'SELECT {what} FROM "{measurement}"', database)
    return int(found[0]["values"][0][1]) if found else 0


def send_good(path: Path, first: int, count: int, rounds: range) -> None:
    for one in rounds:
        lines = [f"good,host=h{n},dc=eu v={one}i {one * 10**9 + 1}\n" for n in range(first, first + count)]
        for at in range(0, count, 100):
            send_unixgram(path, "".join(lines[at : at + 100]).encode())


def drained(status: Status) -> bool:
    (output,) = status["outputs"]
    return bool(output["ledger"]["waiting"] == 0 and status["ledger"]["balance"] == "balanced")


def bomb(agent: AgentProcess, kind: str, lines: int) -> None:
    """Send that many lines, rounded up to whole datagrams: see :func:`sent`."""
    native.run(
        "udp_send",
        to=f"unix:{agent.folder / kind}",
        shape=25 if kind == "statsd" else 64,
        pack=DATAGRAM_BYTES,
        fresh_series=lines,
        count=-(-lines // LINES_EACH[kind]),
        # The database gets each line, and takes fewer in a second than are sent; a ring is finite.
        rate=2000 if kind == "line" and lines > 1_000_000 else 0,
        timeout=900,
    )


def sent(kind: str, lines: int) -> int:
    return -(-lines // LINES_EACH[kind]) * LINES_EACH[kind]


@pytest.mark.parametrize("kind", ["line", "statsd"])
@pytest.mark.parametrize(
    "lines", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)], ids=["1M", "10M"]
)
def test_a_bomb_is_limited_and_nobody_else(tmp_path: Path, kind: str, lines: int) -> None:
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with AgentProcess(tmp_path, config(server, database)) as agent:
            line = tmp_path / "line"
            send_good(line, 0, GOOD, range(3))
            agent.wait_for(drained)
            before = anonymous_mib(agent)

            going = threading.Thread(target=bomb, args=(agent, kind, lines))
            going.start()
            agent.wait_for(lambda status: status["guards"]["refused"] > 0, 60, "the bomb is limited")
            # They were there before, and these come now: all pass.
            send_good(line, 0, GOOD, range(3, 6))
            send_good(line, GOOD, GOOD, range(6))
            going.join()
            arrived = sent(kind, lines)
            name = f"unixgram://{tmp_path}/{kind}"

            def all_there(status: Status) -> bool:
                listeners = {one["name"]: one for one in status["listeners"]}
                points = (listeners[f"unixgram://{tmp_path}/statsd"]["aggregation"] or {}).get("samples", 0)
                return drained(status) and (kind == "line" or points == arrived)

            agent.wait_for(all_there, 600, "everything is delivered")
            if kind == "statsd":
                wait_until(lambda: total(server, database, "sum(value)", "req") >= arrived, 60)
            status = agent.wait_for(drained)
            memory = anonymous_mib(agent) - before
            text, log = agent.metrics(), agent.log("a tag makes too many series")
            assert agent.stop() == 0

        count = series_count(server, database)
        assert count <= MAX_SERIES + OVERFLOW_SERIES, f"{count} series in the database"
        # Every good series has every point, those that came late as well.
        good = server.query("SELECT count(v) FROM good GROUP BY host", database)
        assert len(good) == 2 * GOOD and {one["values"][0][1] for one in good} == {6}
        # And what exploded has lost its ids, not its counts.
        if kind == "line":
            assert total(server, database, "count(n)", "http") == arrived
        else:
            assert total(server, database, "sum(value)", "req") == arrived
        assert memory <= MEMORY_MIB, f"{memory:.1f} MiB more than before"

        (listener,) = (one for one in status["listeners"] if one["name"] == name)
        received = arrived + (12 * GOOD if kind == "line" else 0)
        assert listener["received"] == listener["accepted"] == received and not any(
            listener["dropped"].values()
        )
        guards = status["guards"]
        assert guards["series"] <= MAX_SERIES and 0 < guards["overflow_series"] <= OVERFLOW_SERIES
        offender = guards["offenders"][0]
        measurement = "http" if kind == "line" else "req"
        assert (offender["measurement"], offender["tag"]) == (measurement, "request_id")
        assert f'penstock_offender_series{{measurement="{measurement}",tag="request_id"}}' in text
        assert [(one["measurement"], one["tag"]) for one in log] == [(measurement, "request_id")]
        assert "drop_tags" in log[0]["remedy"]


def test_observing_lets_everything_pass_and_tells(tmp_path: Path) -> None:
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with AgentProcess(tmp_path, config(server, database, "observe", 1000)) as agent:
            bomb(agent, "line", 30_000)
            arrived = sent("line", 30_000)
            status = agent.wait_for(
                lambda status: drained(status) and status["outputs"][0]["ledger"]["delivered"] == arrived, 60
            )
            wait_until(lambda: agent.log("a tag makes too many series"), 10)
            assert agent.stop() == 0
        assert series_count(server, database) == 30_000
        assert status["guards"]["observed"] > 28_000 and status["guards"]["refused"] == 0
        assert status["guards"]["series"] <= 1000
