"""Ten thousand lines with seven bad ones: the others arrive, and each bad one is kept with its reason."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.agent_process import AgentProcess, assert_balanced, at_rest, output, send_unixgram
from tests.integration.fake_influxdb import FakeInfluxDB
from tests.integration.servers import influxd

LINES = 10_000
CONFIG = """
[flush]
batch_lines = 10000
batch_bytes = "16MiB"
interval = "60s"

[[listen]]
name = "door"
address = "unixgram://{folder}/door.sock"

[[output]]
name = "influx"
type = "influxdb"
compression = "%(compression)s"
retry_min = "1ms"
url = "%(url)s"
%(identity)s
"""
IDENTITY = {
    1: 'version = 1\ndatabase = "metrics"\nusername = "writer"\npassword = "pa:ss"',
    2: 'version = 2\norg = "an org"\nbucket = "metrics"\ntoken = "t0ken=="',
    3: 'version = 3\ndatabase = "metrics"\ntoken = "t0ken=="',
}


@dataclass(frozen=True)
class Refuser:
    """A server, and what it refuses."""

    url: str
    identity: str
    bad: Mapping[bytes, str]
    """Lines, and what the server says about each."""
    stored: Callable[[], int]
    requests_max: int


def good(number: int, now: int) -> bytes:
    """With an equals sign in a string, a comma in a tag, a newline in a string: nothing that splits it."""
    return b'm,t=a\\,b,n=%d f=%d.5,s="x\ny=1, z" %d' % (number % 10, number, now + number)


def conflict(field: str, measurement: str, kind: str, is_already: str) -> str:
    return (
        f'field type conflict: input field "{field}" on measurement "{measurement}" is type {kind},'
        f" already exists as type {is_already}"
    )


@contextmanager
def real_influxdb(folder: Path, now: int) -> Iterator[Refuser]:
    """InfluxDB 1.6.7, which refuses for three reasons, and tells one of them at a time."""
    with influxd(folder / "influxd") as server:
        database = server.create_database()
        policy = f'CREATE RETENTION POLICY "day" ON "{database}" DURATION 1d REPLICATION 1 DEFAULT'
        server.query(policy)
        assert (
            server.write(database, b'm f=1,i=1i,s="x" %d\nn,t=v f=true %d' % (now - 1, now - 1)).status == 204
        )
        expired = "points beyond retention policy"
        old = now - 3 * 86_400 * 10**9
        bad = {
            b'm,n=1 f="text" %d' % (now + 1): conflict("f", "m", "string", "float"),
            b"m,n=2 f=2i %d" % (now + 2): conflict("f", "m", "integer", "float"),
            b"m,n=3 i=1.5 %d" % (now + 3): conflict("i", "m", "float", "integer"),
            b'n,t=v f="no" %d' % (now + 4): conflict("f", "n", "string", "boolean"),
            b"m,n=5 f=1 %d" % old: expired,
            b"n,t=v f=true %d" % (old + 1): expired,
            b"m,n=7 s=7 %d" % (now + 7): conflict("s", "m", "float", "string"),
        }

        def stored() -> int:
            series = server.query("SELECT count(f) FROM m WHERE n =~ /./", database)
            return series[0]["values"][0][1] if series else 0

        yield Refuser(server.url, f'version = 1\ndatabase = "{database}"', bad, stored, 40)


def fake(version: int, quotes: bool) -> Callable[..., object]:
    """A strict fake. With *quotes* it cannot read the lines, and versions 1 and 2 quote them."""

    @contextmanager
    def start(folder: Path, now: int) -> Iterator[Refuser]:
        kind = "parse: invalid number" if quotes else "max-series-per-database limit exceeded:"
        bad = {b"bad,n=%d f=%d %d" % (n, n, now + n): f"{kind} ({n})" for n in range(7)}
        with FakeInfluxDB(version) as server:
            server.refuse = lambda line: bad.get(line.removesuffix(b"\n"), "")
            said = {line: reason.removeprefix("parse: ") for line, reason in bad.items()}
            # Named lines cost no further request, quoted ones of a refused batch two; others are sought.
            most = 1 if version == 3 or (version == 1 and quotes) else 3 if quotes else 250
            yield Refuser(server.url, IDENTITY[version], said, lambda: len(server.lines), most)
            assert server.problems == []
            assert len(server.requests) <= most

    return start


SERVERS = {
    "InfluxDB 1": real_influxdb,
    **{
        f"v{version}, {'quoted' if quotes else 'counted'}": fake(version, quotes)
        for version in (1, 2, 3)
        for quotes in (True, False)
    },
}


def rejected_files(folder: Path) -> tuple[dict[bytes, str], list[dict[str, object]]]:
    """What was kept: each line with its reason, and the descriptions."""
    kept: dict[bytes, str] = {}
    described = []
    for file in sorted(folder.glob("*.lp")):
        description = json.loads(file.with_suffix(".json").read_text())
        lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
        reasons = {at: one["reason"] for one in description["reasons"] for at in one["lines"]}
        assert sorted(reasons) == list(range(len(lines))) and description["metrics"] == len(lines)
        kept |= {line: reasons[at] for at, line in enumerate(lines)}
        described.append(description)
    return kept, described


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("name", SERVERS)
def test_the_good_lines_arrive_and_the_bad_ones_are_kept_with_the_servers_reasons(
    tmp_path: Path, name: str, compression: str
) -> None:
    now = time.time_ns() // 10**9 * 10**9
    with SERVERS[name](tmp_path, now) as server:  # type: ignore[operator]
        lines = [good(number, now) for number in range(LINES - len(server.bad))]
        for at, line in zip((0, 17, 18, 19, 5_000, 7_777, LINES - 7), server.bad, strict=True):
            lines.insert(at, line)
        assert len(lines) == LINES
        parts = {"url": server.url, "identity": server.identity, "compression": compression}
        with AgentProcess(tmp_path, CONFIG % parts) as agent:
            for start in range(0, LINES, 500):
                send_unixgram(tmp_path / "door.sock", b"\n".join(lines[start : start + 500]))
            status = agent.wait_for(
                lambda status: at_rest(status) and output(status, "influx")["written"] == LINES
            )
            account = output(status, "influx")
            assert (account["delivered"], account["rejected"]) == (LINES - 7, 7)
            assert account["attempts"] <= server.requests_max, account
            assert_balanced(status)
            assert server.stored() == LINES - 7
            kept, described = rejected_files(agent.state_dir / "rejected" / "influx")
            assert kept.keys() == server.bad.keys()
            for line, reason in kept.items():
                assert server.bad[line] in reason, line
            assert all(one["status"] in (400, 422) for one in described)
            assert agent.stop() == 0
