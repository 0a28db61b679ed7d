"""Remote write into real servers, value by value: fan-out, outages, kills, outputs of another encoding."""

import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    free_port,
    output,
    send_udp,
)
from tests.integration.servers import (
    Influxd,
    Prometheus,
    VictoriaMetrics,
    influxd,
    prometheus,
    victoria_metrics,
)
from tests.integration.test_ledger import file_output
from tests.integration.test_stop import influx_output, udp_listener
from tests.reference import remote_write
from tests.reference.samples import samples

Series = tuple[tuple[str, str], ...]
Values = dict[Series, list[tuple[int, float]]]

LINES = 600


def made(count: int = LINES, back_s: float = 5.0) -> list[bytes]:
    """Lines of 20 series of each of three fields, a millisecond apart, in the order of their times."""
    start = time.time_ns() - int(back_s * 1e9)
    return [
        b'cpu,host=h\\ %d,dc=eu-1 user=%d.%06d,procs=%di,up=%s,note="n" %d\n'
        % (i % 20, i % 100, i, i, b"tf"[i % 2 : i % 2 + 1], start + i * 1_000_000)
        for i in range(count)
    ]


def expected(lines: Iterable[bytes]) -> Values:
    """What the oracle makes of *lines*."""
    found: Values = {}
    for sample in (one for line in samples(b"".join(lines))[0] for one in line):
        found.setdefault(sample.labels, []).append((sample.time_ms, sample.value))
    return {series: sorted(of_series) for series, of_series in found.items()}


def in_prometheus(server: Prometheus) -> Values:
    return {
        tuple(sorted(series["metric"].items())): sorted(
            (round(at * 1000), float(value)) for at, value in series["values"]
        )
        for series in server.samples()
    }


def in_victoria_metrics(server: VictoriaMetrics) -> Values:
    return {
        tuple(sorted(series["metric"].items())): sorted(
            zip(series["timestamps"], map(float, series["values"]), strict=True)
        )
        for series in server.export()
    }


def in_influxdb(server: Influxd, database: str) -> Values:
    found: Values = {}
    for series in server.query("SELECT value FROM /.*/ GROUP BY *", database):
        labels = {
            **{key: value for key, value in series["tags"].items() if value},
            "__name__": series["name"],
        }
        found[tuple(sorted(labels.items()))] = sorted(
            (at // 1_000_000, float(v)) for at, v in series["values"]
        )
    return found


def look(agent: AgentProcess, *arguments: str) -> str:
    """What a command prints that looks at the agent's folders."""
    command = [sys.executable, "-m", "agent", *arguments, "-c", str(agent.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(agent: AgentProcess) -> None:
    agent.signal(signal.SIGKILL)
    agent.wait()


def start_again(agent: AgentProcess, config: str) -> None:
    """The same folders, another configuration."""
    agent.write_config(config)
    agent.spawn()
    agent.wait_notified("READY", count=2)


def remote_output(name: str, url: str, more: str = "") -> str:
    return f"""
        [[output]]
        name = "{name}"
        type = "remote_write"
        url = "{url}"
        retry_max = "200ms"
        {more}
    """


def send(agent: AgentProcess, port: int, lines: list[bytes]) -> None:
    """Send *lines*, ten in a datagram, no faster than they are taken."""
    sent = sum(one["received"] for one in agent.status()["listeners"])
    for at in range(0, len(lines), 100):
        send_udp(port, *(b"".join(lines[k : k + 10]) for k in range(at, min(at + 100, len(lines)), 10)))
        sent += len(lines[at : at + 100])
        agent.wait_for(lambda status, sent=sent: status["listeners"][0]["received"] == sent)


def wait_delivered(agent: AgentProcess, *names: str, metrics: int, timeout: float = 60.0) -> None:
    status = agent.wait_for(
        lambda status: (
            at_rest(status) and all(output(status, name)["delivered"] == metrics for name in names)
        ),
        timeout,
    )
    assert_balanced(status)


def test_every_server_has_every_sample(tmp_path: Path) -> None:
    port, lines = free_port(), made()
    with prometheus(tmp_path) as one, victoria_metrics(tmp_path) as two, influxd(tmp_path) as three:
        database, plain = three.create_database(), three.create_database()
        config = f"""
            {udp_listener(port)}
            {remote_output("prometheus", f"{one.url}/api/v1/write")}
            {remote_output("asked-in-2", f"{two.url}/api/v1/write", 'protocol = "2.0"')}
            {remote_output("influx1", f"{three.url}/api/v1/prom/write?db={database}")}
            {influx_output(three, plain)}
            {file_output("files")} format = "protobuf"
        """
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines)
            wait_delivered(agent, "prometheus", "asked-in-2", "influx1", "files", metrics=3 * LINES)
            wait_delivered(agent, "influx", metrics=LINES)
            assert output(agent.status(), "prometheus")["left_out"] == LINES
            assert f'left_out_fields_total{{output="prometheus"}} {LINES}.0' in agent.metrics()
            assert len(agent.log("the server does not know remote write 2.0; it gets 1.0 from now on")) == 1
            assert agent.stop() == EXIT_OK
        wanted = expected(lines)
        assert in_prometheus(one) == wanted
        assert in_victoria_metrics(two) == wanted
        assert in_influxdb(three, database) == wanted
    assert in_files(tmp_path / "files") == wanted


def in_files(folder: Path) -> Values:
    """The samples in the files of a ``file`` output, as protobuf's own library reads them."""
    from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]

    found: Values = {}
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length, at = _DecodeVarint(data, at)
            for sample in remote_write.samples(data[at : at + length]):
                found.setdefault(sample.labels, []).append((sample.time_ms, sample.value))
            at += length
    return {series: sorted(of_series) for series, of_series in found.items()}


def test_after_an_outage_all_comes_in_the_order_that_prometheus_wants(tmp_path: Path) -> None:
    port, lines = free_port(), made()
    with prometheus(tmp_path) as server:
        # A batch, and so a file, every few lines; they go into the spool at once.
        more = "retries = 0\n"
        flush = '[flush]\nbatch_lines = 60\ninterval = "20ms"\n'
        config = f"{flush}{udp_listener(port)}{remote_output('out', f'{server.url}/api/v1/write', more)}"
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines[:200])
            wait_delivered(agent, "out", metrics=600)
            server.stop()
            send(agent, port, lines[200:400])
            agent.wait_for(lambda status: output(status, "out")["spooled"] > 300)
            folder = tmp_path / "state" / "spool" / "out"
            assert all(path.name.endswith(".pb.sz") for path in folder.iterdir() if path.is_file())
            assert " 0 damaged" in look(agent, "spool", "verify", "out")
            shown = look(agent, "spool", "show", "out", min(path.name for path in folder.glob("*.pb.sz")))
            assert shown.startswith("cpu_user,dc=eu-1,host=h\\ ") and " value=" in shown
            server.start()
            send(agent, port, lines[400:])
            wait_delivered(agent, "out", metrics=3 * LINES)
            assert output(agent.status(), "out")["rejected"] == 0
            assert agent.stop() == EXIT_OK
        assert in_prometheus(server) == expected(lines)


def test_where_the_server_takes_any_order_live_samples_go_first(tmp_path: Path) -> None:
    port, lines = free_port(), made()
    window = {"storage": {"tsdb": {"out_of_order_time_window": "10m"}}}
    with prometheus(tmp_path, settings=window) as server:
        more = 'retries = 0\norder = "fresh_first"\n'
        flush = '[flush]\nbatch_lines = 60\ninterval = "20ms"\n'
        config = f"{flush}{udp_listener(port)}{remote_output('out', f'{server.url}/api/v1/write', more)}"
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines[:200])
            wait_delivered(agent, "out", metrics=600)
            server.stop()
            send(agent, port, lines[200:400])
            agent.wait_for(lambda status: output(status, "out")["spooled"] > 300)
            server.start()
            send(agent, port, lines[400:])
            wait_delivered(agent, "out", metrics=3 * LINES)
            assert output(agent.status(), "out")["rejected"] == 0
            assert agent.stop() == EXIT_OK
        assert in_prometheus(server) == expected(lines)


def test_a_killed_agent_leaves_samples_that_the_next_one_delivers(tmp_path: Path) -> None:
    port, lines = free_port(), made()
    with prometheus(tmp_path) as server:
        nobody = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}/"
        config = udp_listener(port) + remote_output("out", nobody, "spool = false")
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines)
            kill(agent)
            config = udp_listener(port) + remote_output("out", f"{server.url}/api/v1/write", "spool = false")
            start_again(agent, config)
            wait_delivered(agent, "out", metrics=3 * LINES)
            assert output(agent.status(), "out")["restored"] == 3 * LINES
            assert agent.stop() == EXIT_OK
        assert in_prometheus(server) == expected(lines)


@pytest.mark.parametrize("killed", [False, True])
def test_samples_become_lines_where_the_output_is_an_influxdb_now(tmp_path: Path, killed: bool) -> None:
    port, lines = free_port(), made()
    with influxd(tmp_path) as server:
        database = server.create_database()
        nobody = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}/"
        spool = "spool = false" if killed else "retries = 0"
        dead = remote_output("influx", nobody, spool)
        alive = influx_output(server, database)
        with AgentProcess(tmp_path, udp_listener(port) + dead) as agent:
            send(agent, port, lines)
            if killed:
                kill(agent)
                start_again(agent, udp_listener(port) + alive)
            else:
                agent.wait_for(lambda status: output(status, "influx")["spooled"] == 3 * LINES)
                assert agent.reload(udp_listener(port) + alive)["applied"]
            wait_delivered(agent, "influx", metrics=3 * LINES)
        assert in_influxdb(server, database) == expected(lines)


def test_lines_become_samples_where_the_output_is_remote_write_now(tmp_path: Path) -> None:
    port, lines = free_port(), made()
    with prometheus(tmp_path) as server:
        dead = f"""
            [[output]]
            name = "out"
            type = "influxdb"
            url = "http://127.0.0.1:{free_port(socket.SOCK_STREAM)}"
            org = "o"
            bucket = "b"
            retries = 0
        """
        alive = remote_output("out", f"{server.url}/api/v1/write")
        with AgentProcess(tmp_path, udp_listener(port) + dead) as agent:
            send(agent, port, lines[:300])
            agent.wait_for(lambda status: output(status, "out")["spooled"] == 300)
            assert agent.reload(udp_listener(port) + alive)["applied"]
            send(agent, port, lines[300:])
            # Lines are counted as lines, samples as samples.
            wait_delivered(agent, "out", metrics=300 + 3 * 300)
        assert in_prometheus(server) == expected(lines)


def test_what_prometheus_refuses_is_rejected_alone_and_can_be_seen_and_sent_again(tmp_path: Path) -> None:
    port, lines = free_port(), made(200)
    late = lines[0].replace(b"up=t", b"up=f,other=1")
    with prometheus(tmp_path) as server:
        config = '[flush]\nbatch_lines = 10000\ninterval = "300ms"\n'
        config += udp_listener(port) + remote_output("out", f"{server.url}/api/v1/write")
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines[:100])
            wait_delivered(agent, "out", metrics=300)
            send(agent, port, [*lines[100:150], late, *lines[150:]])
            # Only the field that is new is taken of the line that comes too late.
            agent.wait_for(lambda status: at_rest(status) and output(status, "out")["rejected"] == 3)
            status = agent.status()
            assert_balanced(status)
            assert output(status, "out")["delivered"] == 601
            [file] = (tmp_path / "state" / "rejected" / "out").glob("*.lp")
            shown = look(agent, "rejected", "show", "out", file.name)
            assert "out of order sample" in shown
            at_ms = int(late.split()[-1]) // 1_000_000
            for name, value in (("user", "0"), ("procs", "0"), ("up", "0")):
                assert f"cpu_{name},dc=eu-1,host=h\\ 0 value={value} {at_ms}000000\n" in shown
            again = agent.command("rejected", "retry", "out", "--all", "-c", str(agent.config_path))
            assert again.returncode == 0, again.stderr
            agent.wait_for(lambda status: at_rest(status) and output(status, "out")["rejected"] == 6)
            assert_balanced(agent.status())
        found = in_prometheus(server)
        assert found.pop((("__name__", "cpu_other"), ("dc", "eu-1"), ("host", "h 0"))) == [(at_ms, 1.0)]
        assert found == expected(lines)


def test_what_statsd_listeners_aggregate_comes_as_samples(tmp_path: Path) -> None:
    port = free_port()
    with prometheus(tmp_path) as server:
        config = f"""
            [[listen]]
            name = "statsd"
            address = "udp://127.0.0.1:{port}"
            format = "statsd"
            interval = "200ms"
            {remote_output("out", f"{server.url}/api/v1/write")}
        """
        with AgentProcess(tmp_path, config) as agent:
            send_udp(
                port, b"page.views:3|c|#host:a\npage.views:4|c|#host:a\nload:2.5|g\ntook:10|ms\ntook:20|ms"
            )
            agent.wait_for(lambda status: output(status, "out")["delivered"] >= 10)
            assert agent.stop() == EXIT_OK
        last = {
            (series["metric"]["__name__"], series["metric"]["metric_type"]): float(series["values"][-1][1])
            for series in server.samples()
        }
        assert last["page_views", "counter"] == 7.0
        assert last["load", "gauge"] == 2.5
        assert (last["took_mean", "timing"], last["took_count", "timing"]) == (15.0, 2.0)
        assert not any(map(math.isnan, last.values()))


def test_a_spool_of_samples_is_delivered_and_dropped_without_an_agent(tmp_path: Path) -> None:
    port, lines = free_port(), made(100)
    with prometheus(tmp_path) as server:
        nobody = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}/"
        config = udp_listener(port) + remote_output("out", nobody, "retries = 0")
        with AgentProcess(tmp_path, config) as agent:
            send(agent, port, lines)
            agent.wait_for(lambda status: output(status, "out")["spooled"] == 300)
            assert agent.stop() == EXIT_OK
            assert " 300 " in look(agent, "spool", "ls").splitlines()[1]
            agent.write_config(udp_listener(port) + remote_output("out", f"{server.url}/api/v1/write"))
            file = tmp_path / "mended.lp"
            mended = b"mended,host=a value=1,other=2i %d\n" % time.time_ns()
            file.write_bytes(mended)
            done = look(agent, "spool", "replay", "out", str(file))
            # A line that is brought is counted as one.
            assert "301 metrics delivered, 0 rejected" in done
            assert look(agent, "spool", "verify", "out") == "0 files, 0 metrics, 0 damaged\n"
        assert in_prometheus(server) == expected(lines) | expected([mended])
