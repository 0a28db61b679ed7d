"""From a sender's datagrams to a real database and back: every point as it was sent, and no other.

Two hundred thousand lines of mixed shapes go over UDP and a Unix socket, with four precisions and into two
lanes, to a real agent and from it into InfluxDB 1, or compressed into VictoriaMetrics; then all that the
database holds is read and compared with the points that the lines were made from.
"""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.conftest import missing, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    Status,
    assert_balanced,
    at_rest,
    free_port,
    listener,
    output,
)
from tests.integration.mixed_lines import (
    INFLUXDB,
    VICTORIA_METRICS,
    Dialect,
    Maker,
    Stream,
)
from tests.integration.paced_sender import Target, send_paced
from tests.integration.read_back import (
    Samples,
    assert_same,
    exact,
    sent_points,
    sent_samples,
    sent_types,
    stored_points,
    stored_samples,
    stored_types,
)
from tests.integration.servers import influxd, victoria_metrics

AGENT_TAGS = {"dc": "eu1", "ra ck": "a,b=c \N{SNOWMAN}"}

# Listener: precision, and for each sender the number of lines.
PLAN = {
    "four": ("ns", (35_000, 25_000, 15_000)),
    "six": ("ms", (25_000, 20_000)),
    "seconds": ("s", (20_000,)),
    "unix": ("us", (60_000,)),
}
LINES = sum(sum(lines) for _, lines in PLAN.values())
PACKED_BYTES_MAX = 20_000


def make_streams(seed: int, dialect: Dialect) -> list[Stream]:
    maker = Maker(seed, dialect, AGENT_TAGS)
    return [
        maker.stream(name, number, precision, lines, PACKED_BYTES_MAX)
        for name, (precision, each) in PLAN.items()
        for number, lines in enumerate(each)
    ]


def make_targets(folder: Path) -> dict[str, Target]:
    try:
        six = free_port(host="::1")
    except OSError:
        missing("no IPv6")
    return {
        "four": ("127.0.0.1", free_port()),
        "six": ("::1", six),
        "seconds": ("127.0.0.1", free_port()),
        "unix": folder / "in.sock",
    }


def make_config(targets: Mapping[str, Target], output: str) -> str:
    config = '[agent]\nadmin = ""\nlanes = 2\n[agent.tags]\n'
    config += "".join(f'"{key}" = "{value}"\n' for key, value in AGENT_TAGS.items())
    for name, target in targets.items():
        if isinstance(target, Path):
            address = f"unixgram://{target}"
        else:
            address = "udp://[{}]:{}".format(*target) if ":" in target[0] else "udp://{}:{}".format(*target)
        config += f'[[listen]]\nname = "{name}"\naddress = "{address}"\nprecision = "{PLAN[name][0]}"\n'
        config += 'receive_buffer = "32MiB"\n'
    return config + f'[[output]]\nname = "database"\ntype = "influxdb"\n{output}'


def run_through(folder: Path, streams: list[Stream], settings: str) -> tuple[int, int]:
    """Send *streams* through an agent, check its accounts; returns between which times it ran (ns)."""
    targets = make_targets(folder)
    begin = time.time_ns()
    with AgentProcess(folder, make_config(targets, settings)) as agent:
        send_paced(agent, streams, targets)
        status = agent.wait_for(
            lambda status: at_rest(status) and output(status, "database")["delivered"] == LINES,
            timeout=50,
            what=f"{LINES} delivered",
        )
        check_accounts(status, streams)
        assert agent.stop() == EXIT_OK
        assert not [record for record in agent.log() if record["level"] in ("error", "critical")]
    return begin, time.time_ns()


def check_accounts(status: Status, streams: list[Stream]) -> None:
    """Every datagram and every line is accounted for, under the reason that it was made for."""
    assert_balanced(status)
    for name in PLAN:
        own = [stream for stream in streams if stream.listener == name]
        account = listener(status, name)
        accepted = sum(len(stream.points) for stream in own)
        malformed = sum((stream.malformed for stream in own), Counter())
        assert account["kernel_drops"] == 0
        assert account["datagrams"] == sum(len(stream.datagrams) for stream in own)
        assert account["bytes"] == sum(len(datagram) for stream in own for datagram in stream.datagrams)
        assert account["dropped"] == dict(malformed)
        assert (account["received"], account["accepted"]) == (accepted + malformed.total(), accepted)
        assert account["clamped"] == sum(stream.clamped for stream in own)
    assert sum(lane["accepted"] for lane in status["lanes"]) == LINES
    assert all(lane["accepted"] for lane in status["lanes"])
    account = output(status, "database")
    assert (account["written"], account["missed"], account["rejected"]) == (LINES, 0, 0)
    assert account["dropped"] == {}


# ---- InfluxDB ----


@pytest.mark.slow
def test_influxdb_holds_every_point_as_it_was_sent(tmp_path: Path) -> None:
    with influxd(tmp_path) as server:
        database = server.create_database()
        streams = make_streams(1, INFLUXDB)
        settings = f'version = 1\nurl = "{server.url}"\ndatabase = "{database}"\n'
        begin, end = run_through(tmp_path, streams, settings)
        points = [point for stream in streams for point in stream.points]
        assert stored_types(server, database) == sent_types(points)
        stored = stored_points(server, database)
    stamped = sent_points(points)
    by_agent = {key: fields for key, fields in stored.items() if "flow" in dict(key[1])}
    assert_same({key: fields for key, fields in stored.items() if key not in by_agent}, stamped)
    assert len(stamped) + len(by_agent) == LINES
    # What the agent stamped has increasing times in the order in which a sender sent it.
    for stream in streams:
        of_stream = {
            time_ns: (name, tags, fields)
            for (name, tags, time_ns), fields in by_agent.items()
            if ("flow", stream.flow) in tags
        }
        times = sorted(of_stream)
        assert begin < times[0] and times[-1] < end
        sent = [
            (point.name, point.tags, exact(point.fields)) for point in stream.points if point.time_ns is None
        ]
        assert_same(dict(enumerate(of_stream[at] for at in times)), dict(enumerate(sent)))


# ---- VictoriaMetrics ----


@pytest.mark.slow
def test_victoria_metrics_holds_every_sample_as_it_was_sent(tmp_path: Path) -> None:
    """Booleans are stored as 0 and 1, strings as 0 or as the number that they spell; times are cut to ms."""
    with victoria_metrics(tmp_path) as server:
        streams = make_streams(2, VICTORIA_METRICS)
        settings = f'version = 2\nurl = "{server.url}"\norg = "-"\nbucket = "-"\n'
        settings += 'token = "t"\ncompression = "gzip"\n'
        begin, end = run_through(tmp_path, streams, settings)
        expected = sent_samples(point for stream in streams for point in stream.points)
        count = sum(map(len, expected.values()))
        stored: Samples = {}

        def complete() -> bool:
            # Points may become visible a little later than they were taken.
            stored.clear()
            stored.update(stored_samples(server))
            return sum(map(len, stored.values())) >= count

        wait_until(complete, 30, f"{count} samples are in the database")
    for series, samples in stored.items():
        if "flow" in dict(series):
            # The times are the agent's, so only the values can be known.
            assert all(begin // 1_000_000 <= time_ms <= end // 1_000_000 for time_ms, _ in samples)
            stored[series] = sorted((0, value) for _, value in samples)
    assert_same(stored, expected)
