"""What arrived, byte for byte: the benchmarks' own output is checked before their speed is."""

import socket
from pathlib import Path

from isal import isal_zlib

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.harness import Run, check_equal
from tests.bench.native import Beside, Lines

BATCH_LINES = 5000
CONCURRENCY = 4


def sink_config(port: int, address: str, *, gzip: bool = False, gro: bool = True, ring: str = "64MiB") -> str:
    """One UDP listener into an InfluxDB 2 at *address*, without a spool: rings are filled on purpose here."""
    return f"""
[[listen]]
address = "udp://127.0.0.1:{port}"
gro = {str(gro).lower()}
receive_buffer = "64MiB"

[flush]
batch_lines = {BATCH_LINES}
batch_bytes = "1MiB"

[[output]]
name = "sink"
type = "influxdb"
url = "http://{address}"
version = 2
org = "o"
bucket = "b"
token = "t"
compression = "{"gzip" if gzip else "none"}"
max_concurrency = {CONCURRENCY}
ring_bytes = "{ring}"
spool = false
"""


def check_dump(dump: Path, lines: Lines, count: int, gzip: bool) -> None:
    """The bodies in *dump* hold each of the first *count* lines once, and nothing else."""
    arrived: list[bytes] = []
    for body in native.read_bodies(dump):
        check_equal(body.gzip, gzip, "whether a body is compressed")
        text = isal_zlib.decompress(body.data, 31) if gzip else body.data
        check_equal(text[-1:], b"\n", "how a body ends")
        arrived += text[:-1].split(b"\n")
    expected = lines.text(count)[:-1].split(b"\n")
    check_equal(len(arrived), count, "lines that arrived")
    check_equal(sorted(arrived) == sorted(expected), True, "what arrived is what was sent")


def verify_receiving(
    run: Run,
    lines: Lines,
    *,
    pack: int,
    gro: bool = True,
    gzip: bool = False,
    datagrams: int = 20_000,
) -> None:
    """Send some lines through an agent, slowly enough that none is lost, and compare what comes out.

    Raises CheckError if that is not what was sent.
    """

    def attempt() -> None:
        with run.place() as folder:
            _verify(folder, lines, pack, gro, gzip, datagrams)

    run.say(f"checking what arrives, {lines.shape}-byte lines")
    run.retry(attempt)


def _verify(folder: Path, lines: Lines, pack: int, gro: bool, gzip: bool, datagrams: int) -> None:
    port, dump = free_port(socket.SOCK_DGRAM), folder / "dump"
    with Beside("http_null", dump=dump) as sink:
        with AgentRun(folder, sink_config(port, sink.address, gro=gro, gzip=gzip)) as agent:
            before = agent.read()
            rate = 50_000 if pack == 0 else 10_000
            sent = native.run(
                "udp_send",
                to=f"127.0.0.1:{port}",
                count=datagrams,
                rate=rate,
                pack=pack,
                segment=True,
                **lines.options,
            )
            now = agent.wait_received(before, sent)
            check_lossless(now.since(before), "checking what arrives")
            agent.wait_delivered(before, sent["lines"])
            new = agent.settled(before).since(before)
        counted = sink.stop()
    check_equal(counted["body_bytes"], new.bytes_sent, "bytes of bodies, by the sink and by the agent")
    check_equal(counted["gzip_posts"], counted["posts"] if gzip else 0, "compressed bodies")
    check_dump(dump, lines, sent["lines"], gzip)
