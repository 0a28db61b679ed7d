"""The native tools held against each other: what one end says it sent, the other says it got."""

import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import native
from tests.bench.native import Beside, Body, Lines
from tests.conftest import missing, wait_until

for _program in ("make", "cc"):
    if shutil.which(_program) is None:
        pytest.skip(f"needs {_program}, which is not installed", allow_module_level=True)


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.settimeout(5)
        yield receiver


def address(receiver: socket.socket) -> str:
    return "{}:{}".format(*receiver.getsockname())


@pytest.mark.parametrize("shape", [64, 117])
@pytest.mark.parametrize("timestamps", [True, False])
def test_lines_have_the_length_they_promise_and_a_running_id(shape: int, timestamps: bool) -> None:
    text = Lines(shape=shape, series=7, no_timestamps=not timestamps).text(1000)
    lines = text.splitlines(keepends=True)
    assert {len(line) for line in lines} == {shape}
    assert [int(line.split(b"id=")[1].split(b"i")[0]) for line in lines] == list(range(10**9, 10**9 + 1000))
    assert len({line.split(b"host=")[1][:7] for line in lines}) == 7
    if timestamps:
        times = [int(line.rsplit(b" ", 1)[1]) for line in lines]
        assert times == [1_700_000_000_000_000_000 + n * 1_000_000 for n in range(1000)]


def test_statsd_lines_have_the_length_they_promise() -> None:
    counters = Lines(shape=25, series=7).text(1000).splitlines(keepends=True)
    assert {len(line) for line in counters} == {25}
    assert counters[:2] == [b"web.requests.h000000:1|c\n", b"web.requests.h000001:1|c\n"]
    assert len(set(counters)) == 7
    timings = Lines(shape=24, series=7).text(1000).splitlines(keepends=True)
    assert {len(line) for line in timings} == {24}
    values = sorted(float(line.split(b":")[1].split(b"|")[0]) for line in timings)
    assert 1 <= values[0] < 30 and 300 < values[-1] < 8192 and 50 < values[500] < 200
    assert {line[-4:] for line in timings} == {b"|ms\n"}


@pytest.mark.parametrize("shape", [24, 25, 46, 64, 117])
def test_scattered_lines_are_drawn_from_all_series(shape: int) -> None:
    lines = Lines(shape=shape, series=50, scatter=True).text(5000).splitlines()
    order = [line.split(b"h0000")[1][:2] for line in lines]
    assert sorted(set(order)) == [b"%02d" % number for number in range(50)]
    assert order[:50] != order[50:100]
    assert all(50 < order.count(name) < 200 for name in set(order))


@pytest.mark.parametrize("segment", [True, False])
@pytest.mark.parametrize("pack", [0, 1432])
def test_udp_send_sends_the_lines_in_order(receiver: socket.socket, segment: bool, pack: int) -> None:
    sent = native.run("udp_send", to=address(receiver), count=60, pack=pack, segment=segment)
    each = max(1, pack // 117)
    assert (sent["datagrams"], sent["lines"]) == (60, 60 * each)
    got = [receiver.recv(65536) for _ in range(60)]
    assert {len(datagram) for datagram in got} == {each * 117}
    assert b"".join(got) == Lines().text(60 * each)


def test_udp_send_uses_as_many_flows_as_asked(receiver: socket.socket) -> None:
    native.run("udp_send", to=address(receiver), count=12, flow=4, burst=1, unconnected=True)
    assert len({receiver.recvfrom(65536)[1] for _ in range(12)}) == 4


def test_udp_send_has_an_address_for_each_flow(receiver: socket.socket) -> None:
    native.run(
        "udp_send",
        **{"from": "127.1.0.254"},
        to=address(receiver),
        count=8,
        flow=4,
        burst=1,
        unconnected=True,
    )
    wanted = ["127.1.0.254", "127.1.0.255", "127.1.1.0", "127.1.1.1"] * 2
    assert [receiver.recvfrom(65536)[1][0] for _ in range(8)] == wanted


def test_udp_send_keeps_to_its_rate_and_its_time(receiver: socket.socket) -> None:
    sent = native.run("udp_send", to=address(receiver), seconds=0.5, rate=2000)
    assert sent["datagrams"] <= 1001
    assert sent["datagrams"] >= 100, "even a busy machine sends a tenth of it"


def test_udp_send_to_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(5)
        native.run("udp_send", to=f"unix:{tmp_path / 'socket'}", count=5)
        assert b"".join(receiver.recv(65536) for _ in range(5)) == Lines().text(5)


def test_udp_send_says_when_nobody_listens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        to = address(gone)
    with pytest.raises(native.NativeError, match="nobody listens"):
        native.run("udp_send", to=to, count=1_000_000)


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("segment", [True, False])
def test_udp_discard_counts_each_datagram_or_its_loss(gro: bool, segment: bool) -> None:
    with Beside("udp_discard", gro=gro, rcvbuf=8 << 20, idle=0.3) as sink:
        sent = native.run("udp_send", to=sink.address, count=20_000, rate=200_000, segment=segment, shape=64)
        got = sink.stop(ask=False)
    assert sent["datagrams"] == 20_000
    if not (gro and segment and got["kernel_drops"]):  # else the kernel counts one drop for many datagrams
        assert got["datagrams"] + got["kernel_drops"] == 20_000
    assert got["bytes"] == got["datagrams"] * 64
    assert got["cpu_ns"] > 0


def test_udp_discard_reads_the_drops_of_a_small_buffer() -> None:
    with Beside("udp_discard", rcvbuf=4096) as sink:
        sink.process.send_signal(signal.SIGSTOP)  # nobody reads
        native.run("udp_send", to=sink.address, count=1000, shape=64)
        sink.process.send_signal(signal.SIGCONT)
        got = sink.stop()
    assert got["kernel_drops"] > 0
    assert got["datagrams"] + got["kernel_drops"] <= 1000


def test_http_post_delivers_each_body_once(tmp_path: Path) -> None:
    lines = Lines(shape=64)
    bodies = lines.bodies(tmp_path / "bodies", 10_050, 100)
    with Beside("http_null", dump=tmp_path / "dump") as sink:
        posted = native.run("http_post", to=sink.address, file=bodies, connections=7, header=["X-One: 1"])
        got = sink.stop()
    assert (posted["requests"], posted["lines"], posted["failed"]) == (101, 10_050, 0)
    assert (got["posts"], got["lines"], got["body_bytes"]) == (101, 10_050, 10_050 * 64)
    assert got["connections"] == 7
    dumped = list(native.read_bodies(tmp_path / "dump"))
    text = b"".join(body.data for body in dumped)
    assert sorted(text.splitlines()) == sorted(lines.text(10_050).splitlines())
    assert not any(body.gzip for body in dumped)


def test_http_null_dumps_gzip_bodies_as_they_came(tmp_path: Path) -> None:
    bodies = native.write_bodies(tmp_path / "bodies", [Body(b"\n\n\n", 7, True), Body(b"a\nb\n", 2, False)])
    with Beside("http_null", dump=tmp_path / "dump") as sink:
        posted = native.run("http_post", to=sink.address, file=bodies, connections=1, repeat=2)
        got = sink.stop()
    assert posted["lines"] == 18
    assert (got["posts"], got["gzip_posts"], got["lines"]) == (4, 2, 4)
    expected = [Body(b"\n\n\n", 0, True), Body(b"a\nb\n", 2, False)] * 2
    assert list(native.read_bodies(tmp_path / "dump")) == expected


def test_http_null_answers_late_when_told_to(tmp_path: Path) -> None:
    bodies = Lines().bodies(tmp_path / "bodies", 400, 100)
    with Beside("http_null", latency_ms=50) as sink:
        posted = native.run("http_post", to=sink.address, file=bodies, connections=2)
        sink.stop()
    assert posted["elapsed_s"] >= 0.1, "two connections, four bodies: two rounds of 50 ms"


def test_http_post_shows_a_refusal(tmp_path: Path) -> None:
    bodies = Lines().bodies(tmp_path / "bodies", 10, 10)
    with Beside("http_null", status=503) as sink:
        with pytest.raises(native.NativeError, match="503"):
            native.run("http_post", to=sink.address, file=bodies)


def test_http_null_answers_what_clients_ask() -> None:
    with Beside("http_null") as sink:
        for path, status in (("ping", 204), ("health", 200), ("stats", 200)):
            with urllib.request.urlopen(f"http://{sink.address}/{path}") as answer:
                assert answer.status == status


def test_http_null_takes_a_request_in_small_pieces() -> None:
    with Beside("http_null") as sink, socket.create_connection(("127.0.0.1", sink.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b"POST /write HTTP/1.1\r\nHost: h\r\ncontent-length: 4\r\n\r\na\nb\n"
        for byte in request * 2:
            client.sendall(bytes([byte]))
        answers = b""

        def answered() -> bool:
            nonlocal answers
            answers += client.recv(4096)
            return answers.count(b"HTTP/1.1 204") == 2

        wait_until(answered, what="two answers")
        got = sink.stop()
    assert (got["posts"], got["lines"], got["bad"]) == (2, 4, 0)


def test_the_tools_refuse_nonsense() -> None:
    for name, option in (("udp_send", "--count"), ("http_post", "--to"), ("lines", "--shape")):
        done = subprocess.run([native.build() / name, option, "nonsense"], capture_output=True)
        assert done.returncode == 2, name


def test_segments_are_there() -> None:
    """Figures are only comparable where UDP_SEGMENT works; say so where it does not."""
    with Beside("udp_discard") as sink:
        try:
            native.run("udp_send", to=sink.address, count=1, segment=True)
        except native.NativeError as error:
            missing(f"no UDP_GRO or UDP_SEGMENT here: {error}")
