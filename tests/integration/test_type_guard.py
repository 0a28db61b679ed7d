"""Fields keep their types: InfluxDB sees no conflict, whatever is sent, over restarts and kills."""

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import AgentProcess, Status, send_unixgram
from tests.integration.servers import Influxd, influxd

CONFIG = """
[agent]
admin = ""
lanes = 2
[[listen]]
address = "unixgram://{{folder}}/one"
[[listen]]
address = "unixgram://{{folder}}/two"
[types]
conflict = "{conflict}"
[[types.field]]
measurement = "pinned"
field = "v"
type = "integer"
[[output]]
name = "influx"
type = "influxdb"
version = 1
url = "{url}"
database = "{database}"
"""

VALUES = {"float": "1.5", "integer": "2i", "unsigned": "3u", "boolean": "true", "string": '"x"'}
# What an exact whole number becomes in a field of each kind; nothing else can be brought to another type.
NUMBERS = ("float", "integer", "unsigned")
WHOLE = {"float": "7", "integer": "7i", "unsigned": "7u"}


def config(server: Influxd, database: str, conflict: str = "reject") -> str:
    return CONFIG.format(url=server.url, database=database, conflict=conflict)


def rest(status: Status) -> bool:
    (output,) = status["outputs"]
    return bool(output["ledger"]["waiting"] == 0 and status["ledger"]["balance"] == "balanced")


def delivered(count: int) -> Callable[[Status], bool]:
    return lambda status: rest(status) and status["outputs"][0]["ledger"]["delivered"] == count


def refusals(status: Status) -> int:
    return int(status["outputs"][0]["ledger"]["requests"].get("4xx", 0))


def rejected_lines(folder: Path) -> list[bytes]:
    files = sorted((folder / "state" / "rejected" / "_guard").glob("*.lp"))
    return [line for file in files for line in file.read_bytes().splitlines()]


def values(server: Influxd, database: str, measurement: str, field: str = "v") -> list[object]:
    found = server.query(f'SELECT "{field}" FROM "{measurement}"', database)
    return [value for _, value in found[0]["values"]] if found else []


def counted(status: Status, key: str) -> int:
    return sum(one[key] for one in status["listeners"])


PAIRS = [pair for pair in itertools.product(VALUES, VALUES) if pair[0] != pair[1]]


@pytest.mark.parametrize("conflict", ["reject", "rename"])
def test_all_pairs_of_types(tmp_path: Path, conflict: str) -> None:
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        agent = AgentProcess(tmp_path, config(server, database, conflict))
        coercible = [pair for pair in PAIRS if pair[0] in NUMBERS and pair[1] in NUMBERS]
        others = [pair for pair in PAIRS if pair not in coercible]
        with agent:
            for kept, came in PAIRS:
                send_unixgram(tmp_path / "one", f"{kept}_{came} v={VALUES[kept]} 1".encode())
            agent.wait_for(delivered(len(PAIRS)))

            def clash(first: int) -> None:
                for kept, came in PAIRS:
                    value = WHOLE[came] if (kept, came) in coercible else VALUES[came]
                    line = f"{kept}_{came} v={value},other={first}i {first}"
                    send_unixgram(tmp_path / ("two" if first % 2 else "one"), line.encode())

            clash(2)
            status = agent.wait_for(delivered(2 * len(PAIRS)))
            assert refusals(status) == 0 and status["outputs"][0]["ledger"]["rejected"] == 0
            coerced = len(coercible) + (len(others) if conflict == "rename" else 0)
            assert counted(status, "coerced") == coerced
            assert counted(status, "fields_rejected") == (len(others) if conflict == "reject" else 0)
            assert status["guards"]["fields"] >= 2 * len(PAIRS)
            assert agent.stop() == 0
        for kept, came in PAIRS:
            found = values(server, database, f"{kept}_{came}")
            if (kept, came) in coercible:
                assert len(found) == 2 and found[1] == 7, (kept, came, found)
            else:
                assert len(found) == 1 or found[1] is None, (kept, came, found)
                if conflict == "rename":
                    assert len(values(server, database, f"{kept}_{came}", f"v_{came}")) >= 1
            assert values(server, database, f"{kept}_{came}", "other") == [2] or conflict == "rename"
        lines = rejected_lines(tmp_path)
        if conflict == "reject":
            assert sorted(lines) == sorted(f"{k}_{c} v={VALUES[c]} 2".encode() for k, c in others)
            (reasons, *_) = sorted((tmp_path / "state" / "rejected" / "_guard").glob("*.json"))
            assert "type conflict: field" in json.dumps(json.loads(reasons.read_text()))
        else:
            assert lines == []


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_types_outlive_the_agent(tmp_path: Path, end: signal.Signals) -> None:
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with AgentProcess(tmp_path, config(server, database)) as agent:
            send_unixgram(tmp_path / "one", b'm,t=a v=1.5,s="x" 1', b"pinned v=3 1")
            agent.wait_for(delivered(2))
            agent.signal(end)
            agent.wait()
            for path in ("one", "two"):
                (tmp_path / path).unlink(missing_ok=True)
            agent.spawn()
            wait_until(lambda: (tmp_path / "two").exists() and _answers(agent), 20)
            send_unixgram(tmp_path / "two", b"m,t=b v=4i,s=5 2", b'm,t=b v="no" 3', b"pinned v=9.0 2")
            status = agent.wait_for(lambda one: rest(one) and counted(one, "received") == 3)
            assert refusals(status) == 0
            assert counted(status, "fields_rejected") == 2 and counted(status, "coerced") == 2
            assert status["listeners"][1]["dropped"] == {"type_conflict": 1}
            assert agent.stop() == 0
        assert values(server, database, "m") == [1.5, 4] and values(server, database, "pinned") == [3, 9]
        assert sorted(rejected_lines(tmp_path)) == [b"m,t=b s=5 2", b'm,t=b v="no" 3']


def _answers(agent: AgentProcess) -> bool:
    try:
        return bool(agent.status())
    except OSError:
        return False


def test_two_lanes_that_race_for_the_first_sight(tmp_path: Path) -> None:
    with influxd(tmp_path / "influxd") as server:
        database = server.create_database()
        with AgentProcess(tmp_path, config(server, database)) as agent:
            for n in range(300):
                send_unixgram(tmp_path / "one", f"r{n},l=1 v={n}i 1".encode())
                send_unixgram(tmp_path / "two", f'r{n},l=2 v="{n}" 1'.encode())
            status = agent.wait_for(lambda one: rest(one) and counted(one, "received") == 600)
            assert refusals(status) == 0 and status["outputs"][0]["ledger"]["delivered"] == 300
            assert sum(one["dropped"].get("type_conflict", 0) for one in status["listeners"]) == 300
            assert agent.stop() == 0
