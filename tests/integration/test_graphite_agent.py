"""Graphite and remote write into a running agent: by collectd, and with templates that a reload changes."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need, wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    free_port,
    listener,
    send_udp,
)
from tests.integration.test_ledger import file_output
from tests.reference import wire

COLLECTD = """
Hostname "web1"
FQDNLookup false
Interval 3600
BaseDir "{folder}"
PIDFile "{folder}/collectd.pid"
PluginDir "{plugins}"
TypesDB "{types}"
LoadPlugin unixsock
LoadPlugin write_graphite
<Plugin unixsock>
  SocketFile "{folder}/collectd.sock"
  DeleteSocket true
</Plugin>
<Plugin write_graphite>
  <Node "penstock">
    Host "127.0.0.1"
    Port "{port}"
    Protocol "{protocol}"
    Prefix "collectd."
    StoreRates false
  </Node>
</Plugin>
"""

VALUES = (
    "web1/test-a/gauge-x interval=10 1700000000:1.5",
    "web1/load/load interval=10 1700000010:0.1:0.2:12345678.9",
    "web1/test-a/counter-y interval=10 1700000000:4294967296",
    "web1/test-a/gauge-z interval=10 1700000000:nan",
)
"""As collectd is told them: host/plugin-instance/type-instance, and time:value."""

TEMPLATE = "collectd.* .host.measurement.field* source=collectd"

LINES = {
    b"test-a,host=web1,source=collectd gauge-x=1.5 1700000000000000000",
    b"load,host=web1,source=collectd load.shortterm=0.1 1700000010000000000",
    b"load,host=web1,source=collectd load.midterm=0.2 1700000010000000000",
    b"load,host=web1,source=collectd load.longterm=12345678.9 1700000010000000000",
    b"test-a,host=web1,source=collectd counter-y=4294967296 1700000000000000000",
}


def written(folder: Path) -> list[bytes]:
    """Lines of the output ``out``, their tags in order."""
    lines = []
    for file in sorted((folder / "out").iterdir()):
        for line in file.read_bytes().splitlines():
            head, rest = line.split(b" ", 1)
            name, *tags = head.split(b",")
            lines.append(b",".join([name, *sorted(tags)]) + b" " + rest)
    return lines


@contextlib.contextmanager
def collectd(folder: Path, port: int, protocol: str) -> Iterator[socket.socket]:
    """A collectd that sends to *port*; its socket for commands."""
    program = need("collectd")
    plugins = next(path for path in map(Path, ("/usr/lib/collectd", "/usr/lib64/collectd")) if path.exists())
    config = folder / "collectd.conf"
    types = "/usr/share/collectd/types.db"
    config.write_text(
        COLLECTD.format(folder=folder, plugins=plugins, types=types, port=port, protocol=protocol)
    )
    with (folder / "collectd.log").open("wb") as log:
        process = subprocess.Popen([program, "-f", "-C", str(config)], stdout=log, stderr=log)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)

            def answers() -> bool:
                with contextlib.suppress(OSError):
                    control.connect(str(folder / "collectd.sock"))
                    return True
                return False

            wait_until(answers)
            yield control
    finally:
        process.terminate()
        process.wait(20)


def tell(control: socket.socket, command: str) -> None:
    control.sendall(command.encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += control.recv(4096)
    assert answer.startswith(b"0 "), answer


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_collectd_writes_to_us(tmp_path: Path, protocol: str) -> None:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    port = free_port(kind)
    config = f"""
        [[listen]]
        address = "{protocol}://127.0.0.1:{port}"
        name = "graphite"
        format = "graphite"
        templates = ["{TEMPLATE}"]
        join = "."
        [flush]
        interval = "50ms"
        {file_output("out")}
    """
    with AgentProcess(tmp_path, config) as agent, collectd(tmp_path, port, protocol) as control:
        for value in VALUES:
            tell(control, f"PUTVAL {value}")

        def arrived() -> bool:
            # Values are handed to write_graphite by another thread; what it has not yet is not flushed.
            tell(control, "FLUSH")
            return int(listener(agent.status(), "graphite")["received"]) >= 6

        wait_until(arrived)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        ledger = listener(status, "graphite")
        assert (ledger["accepted"], ledger["dropped"]) == (5, {"number": 1})
        assert agent.stop() == 0
    assert set(written(tmp_path)) == LINES


def test_templates_change_with_a_reload(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [agent]
        admin = ""
        tags = {{ dc = "eu" }}
        [[listen]]
        address = "udp://127.0.0.1:{port}"
        name = "graphite"
        format = "graphite"
        TEMPLATES
        [flush]
        interval = "50ms"
        {file_output("out")}
    """
    lines = b"servers.web1.cpu.load;rack=r1 1.5 1700000000\nbad\nb 2\n"
    with AgentProcess(tmp_path, config.replace("TEMPLATES", "")) as agent:
        send_udp(port, lines)
        agent.wait_for(lambda status: listener(status, "graphite")["received"] == 3)
        agent.reload(config.replace("TEMPLATES", 'templates = ["servers.* .host.measurement*"]'))
        send_udp(port, lines)
        agent.wait_for(lambda status: listener(status, "graphite")["received"] == 6)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        assert listener(status, "graphite")["dropped"] == {"value": 2}
        assert agent.stop() == 0
    found = [re.sub(rb" 1[0-9]{18}$", b"", line) for line in written(tmp_path)]
    assert found == [
        b"servers.web1.cpu.load,dc=eu,rack=r1 value=1.5",
        b"b,dc=eu value=2",
        b"cpu_load,dc=eu,host=web1,rack=r1 value=1.5",
        b"b,dc=eu value=2",
    ]


def test_datagrams_of_remote_write(tmp_path: Path) -> None:
    port = free_port()
    config = f"""
        [[listen]]
        address = "udp://127.0.0.1:{port}"
        name = "remote"
        format = "protobuf"
        [flush]
        interval = "50ms"
        {file_output("out")}
    """
    good = wire.series({b"__name__": b"up", b"job": b"a"}, wire.sample(1, 1000), wire.sample(2.5, 2000))
    with AgentProcess(tmp_path, config) as agent:
        send_udp(port, good, b"no protobuf", good)
        agent.wait_for(lambda status: listener(status, "remote")["received"] == 5)
        status = agent.wait_for(at_rest)
        assert_balanced(status)
        assert listener(status, "remote")["dropped"] == {"protobuf": 1}
        assert agent.stop() == 0
    assert written(tmp_path) == [b"up,job=a value=1 1000000000", b"up,job=a value=2.5 2000000000"] * 2
