"""Fan-out: each output gets every metric, in its own encoding, and what ails one of them costs no other."""

from dataclasses import replace
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
    output,
    send_udp,
)
from tests.integration.mixed_lines import INFLUXDB, Maker, Stream
from tests.integration.paced_sender import send_paced
from tests.integration.read_back import assert_same, exact, sent_points, stored_points
from tests.integration.servers import influxd
from tests.integration.test_ledger import file_output
from tests.integration.test_stop import influx_output, udp_listener
from tests.reference.points import parse

# Unsigned integers are for a test of their own: here both outputs get the same bytes.
DIALECT = replace(INFLUXDB, kinds="fibs")


def make_stream(seed: int, lines: int, listener: str = "udp") -> Stream:
    return Maker(seed, DIALECT, {}, unstamped=0.0).stream(listener, 0, "ns", lines, 8_000)


def points_in_files(folder: Path) -> dict[tuple[str, frozenset[tuple[str, str]], int], dict[str, object]]:
    """The points in the files of a ``file`` output, as :func:`stored_points` has them; each is there once."""
    found = {}
    for file in folder.iterdir():
        for point in parse(file.read_bytes()):
            tags = frozenset((key.decode(), value.decode()) for key, value in point.tags)
            fields = {
                key.decode(): value.decode() if isinstance(value, bytes) else value
                for key, _, value in point.fields
            }
            key = (point.name.decode(), tags, point.time_ns)
            assert key not in found
            found[key] = exact(fields)
    return found


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_file_and_a_database_both_get_everything(tmp_path: Path, lanes: int) -> None:
    port, stream = free_port(), make_stream(3, 10_000)
    with influxd(tmp_path) as server:
        database = server.create_database()
        config = f"""
            [agent]
            admin = ""
            lanes = {lanes}
            {udp_listener(port)}
            {file_output("files")}
            {influx_output(server, database)}
        """
        with AgentProcess(tmp_path, config) as agent:
            send_paced(agent, [stream], {"udp": ("127.0.0.1", port)})
            status = agent.wait_for(
                lambda status: at_rest(status) and output(status, "influx")["delivered"] == 10_000
            )
            assert_balanced(status)
            assert listener(status, "udp")["accepted"] == 10_000
            for name in ("files", "influx"):
                account = output(status, name)
                assert (account["written"], account["delivered"]) == (10_000, 10_000)
                assert (account["missed"], account["rejected"], account["dropped"]) == (0, 0, {})
            assert agent.stop() == EXIT_OK
        stored = stored_points(server, database)
    sent = sent_points(stream.points)
    assert_same(stored, sent)
    assert_same(points_in_files(tmp_path / "files"), sent)


def test_each_output_gets_its_own_encoding(tmp_path: Path) -> None:
    """InfluxDB 1 has no unsigned integers, files do; what is cut for the one is cut for it alone."""
    port = free_port()
    with influxd(tmp_path) as server:
        database = server.create_database()
        config = f"{udp_listener(port)}{file_output('files')}{influx_output(server, database)}"
        with AgentProcess(tmp_path, config) as agent:
            send_udp(port, b"m v=7u 1", b"m v=18446744073709551615u 2")
            status = agent.wait_for(
                lambda status: at_rest(status) and output(status, "influx")["delivered"] == 2
            )
            assert_balanced(status)
            assert listener(status, "udp")["clamped"] == 1
            assert agent.stop() == EXIT_OK
        assert server.query("SELECT v FROM m", database)[0]["values"] == [[1, 7], [2, 2**63 - 1]]
    assert delivered_lines(tmp_path / "files") == [b"m v=7u 1", b"m v=18446744073709551615u 2"]


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_database_that_stalls_misses_what_its_ring_has_no_room_for_and_no_other_does(
    tmp_path: Path, lanes: int
) -> None:
    port = free_port()
    first, later = make_stream(4, 10_000), make_stream(5, 500)
    target = {"udp": ("127.0.0.1", port)}
    with influxd(tmp_path) as server:
        database = server.create_database()
        config = f"""
            [agent]
            admin = ""
            lanes = {lanes}
            [flush]
            batch_bytes = "32KiB"
            {udp_listener(port)}
            {file_output("files")}
            {influx_output(server, database)}
            ring_bytes = "256KiB"
            spool = false
        """
        with AgentProcess(tmp_path, config) as agent:
            server.freeze()
            send_paced(agent, [first], target)
            status = agent.wait_for(
                lambda status: (
                    output(status, "files")["delivered"] == 10_000
                    and status["ledger"]["balance"] == "balanced"
                )
            )
            assert_balanced(status)
            stalled = output(status, "influx")
            written = stalled["written"]
            # Some of it waits, the rest found no room; nothing was dropped, for the files have it.
            assert stalled["waiting"] == written > 500
            assert stalled["missed"] == 10_000 - written > 500
            assert listener(status, "udp")["dropped"] == dict(first.malformed)
            line = f'penstock_output_missed_metrics_total{{output="influx"}} {stalled["missed"]}.0'
            assert line in agent.metrics()
            server.thaw()
            status = agent.wait_for(
                lambda status: at_rest(status) and output(status, "influx")["delivered"] == written
            )
            assert_balanced(status)
            # There is room again.
            send_paced(agent, [later], target)
            status = agent.wait_for(
                lambda status: at_rest(status) and output(status, "influx")["delivered"] == written + 500
            )
            assert_balanced(status)
            assert output(status, "influx")["missed"] == 10_000 - written
            assert agent.stop() == EXIT_OK
        stored = stored_points(server, database)
    sent = sent_points([*first.points, *later.points])
    assert_same(points_in_files(tmp_path / "files"), sent)
    assert_same(stored, {key: fields for key, fields in sent.items() if key in stored})
    assert len(stored) == written + 500
    assert sent_points(later.points).keys() <= stored.keys()
