"""Captures and replays: datagrams come back byte for byte, in order, at their distances; losses are told."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.capture_file import Datagram, Reader
from tests.conftest import QUIET, wait_until
from tests.integration.agent_process import ROOT, AgentProcess, free_port, send_unixgram

CONFIG = """
[agent]
lanes = 2
[[listen]]
name = "one"
address = "udp://127.0.0.1:{port}"
receive_buffer = "16MiB"
gro = {gro}
[[listen]]
name = "two"
address = "unixgram://{folder}/two"
[[listen]]
name = "json"
address = "unixgram://{folder}/json"
format = "json"
[[output]]
name = "void"
type = "null"
"""

MANY = 1_000_000
STEP = 2_000


def config(port: int = 0, gro: bool = True, ring: str = "") -> str:
    text = CONFIG.replace("{port}", str(port)).replace("{gro}", str(gro).lower())
    return text.replace("lanes = 2", f'lanes = 2\ncapture_ring = "{ring}"') if ring else text


def penstock(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


class Capturing:
    """``penstock capture`` into a file, from the moment at which the agent captures."""

    def __init__(self, agent: AgentProcess, *arguments: str, name: str = "a.cap") -> None:
        self.file = agent.folder / name
        socket = str(agent.runtime_dir / "control.sock")
        command = [sys.executable, "-m", "agent", "capture", str(self.file), "--socket", socket, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def wait(self, code: int = 0) -> str:
        """What it says at its end."""
        _, said = self.process.communicate(timeout=120)
        assert self.process.returncode == code, said
        return said

    def interrupt(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.wait()


@contextmanager
def capturing(agent: AgentProcess, *arguments: str, name: str = "a.cap") -> Iterator[Capturing]:
    running = Capturing(agent, *arguments, name=name)
    with running.process:
        try:
            # The header is written when the agent has begun.
            wait_until(lambda: running.file.exists() and running.file.stat().st_size, 30)
            yield running
        finally:
            running.process.kill()


def read(path: Path) -> tuple[list[Datagram], object]:
    with path.open("rb") as file:
        reader = Reader(file)
        return list(reader.datagrams()), reader.end


def random_datagrams(count: int, seed: int) -> list[bytes]:
    """Up to 1,400 bytes, most of them small, each with its number so that orders can be compared."""
    draw = random.Random(seed)
    pool = draw.randbytes(1 << 20)
    made = []
    for number in range(count):
        size = draw.randrange(0, 1392) if number % 16 == 0 else draw.randrange(0, 90)
        at = draw.randrange(len(pool) - size)
        made.append(number.to_bytes(4, "little") + pool[at : at + size])
    return made


def received(agent: AgentProcess, listener: str) -> int:
    [found] = [one for one in agent.status()["listeners"] if one["name"] == listener]
    return int(found["datagrams"])


@pytest.mark.parametrize("gro", [True, False])
def test_a_million_datagrams_come_back_byte_for_byte(tmp_path: Path, gro: bool) -> None:
    port = free_port()
    senders = 4
    per_sender = MANY // senders
    sent = [random_datagrams(per_sender, seed) for seed in range(senders)]
    with AgentProcess(tmp_path, config(port, gro)) as agent, capturing(agent) as capture:
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(senders)]
        for at in range(0, per_sender, STEP // senders):
            for sender, datagrams in zip(sockets, sent, strict=True):
                for datagram in datagrams[at : at + STEP // senders]:
                    sender.sendto(datagram, ("127.0.0.1", port))
            total = min(at + STEP // senders, per_sender) * senders
            if total % (5 * STEP) == 0:
                wait_until(lambda total=total: received(agent, "one") == total, 30)
        for sender in sockets:
            sender.close()
        said = read_until(capture, MANY)
        assert " 0 missed" in said
    found, end = read(capture.file)
    assert isinstance(end, dict) and (end["datagrams"], end["missed"], end["ended"]) == (MANY, 0, "client")
    assert Counter(one.text for one in found) == Counter(one for datagrams in sent for one in datagrams)
    # Those of one sender come by one lane: they are in the order in which they were sent.
    places: dict[bytes, list[int]] = {}
    for sender_number, datagrams in enumerate(sent):
        for datagram in datagrams:
            places.setdefault(datagram, []).append(sender_number)
    last = [-1] * senders
    for one in found:
        owners = places[one.text]
        if len(owners) == 1:
            number = int.from_bytes(one.text[:4], "little")
            assert number > last[owners[0]]
            last[owners[0]] = number
    assert {one.listener for one in found} == {0}
    replayed(capture.file, [one.text for one in found], tmp_path)


def read_until(capture: Capturing, count: int) -> str:
    """Wait until so many datagrams are in the file, and end the capture."""

    def there() -> bool:
        with capture.file.open("rb") as file:
            reader = Reader(file)
            return sum(block.datagrams for block in reader.blocks()) == count

    wait_until(there, 60)
    return capture.interrupt()


def replayed(file: Path, expected: Sequence[bytes], folder: Path) -> None:
    """As fast as it goes, to a Unix socket, whose senders wait for room."""
    path = folder / "to"
    found: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(60)

        def receive() -> None:
            while len(found) < len(expected):
                found.append(receiver.recv(65536))

        thread = threading.Thread(target=receive)
        thread.start()
        result = penstock("replay", file, "--to", f"unixgram://{path}", "--speed", "max")
        thread.join()
    assert result.returncode == 0 and f"{len(expected):,} datagrams sent" in result.stderr
    assert found == list(expected)


def test_every_listener_of_datagrams_is_captured_and_one_can_be_chosen(tmp_path: Path) -> None:
    port = free_port()
    metric = json.dumps({"name": "m", "tags": {}, "fields": {"v": 1}, "timestamp": 1}).encode()
    with AgentProcess(tmp_path, config(port)) as agent:
        for arguments, expected in (
            ((), {(0, b"\xff\n\0"), (1, b"m v=1"), (1, b""), (2, metric), (2, b"no json")}),
            (
                ("--listener", "two", "--listener", "3"),
                {(0, b"m v=1"), (0, b""), (1, metric), (1, b"no json")},
            ),
        ):
            with capturing(agent, *arguments, name=f"{len(arguments)}.cap") as capture:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"\xff\n\0", ("127.0.0.1", port))
                send_unixgram(tmp_path / "two", b"m v=1", b"")
                send_unixgram(tmp_path / "json", metric, b"no json")
                said = read_until(capture, len(expected))
            found, _ = read(capture.file)
            assert {(one.listener, one.text) for one in found} == expected
            assert f"{len(expected)} datagrams in {capture.file.stat().st_size:,} bytes" in said
            assert capture.file.stat().st_mode & 0o777 == 0o600
        info = penstock("replay", capture.file, "--info")
        assert "two" in info.stdout and "2 datagrams, 5 bytes" in info.stdout
        assert "client; 0 datagrams were missed" in info.stdout


@pytest.mark.parametrize("format", ["line", "statsd", "graphite", "msgpack"])
def test_readers_leave_what_is_captured_as_it_came(tmp_path: Path, format: str) -> None:
    """A lane keeps a datagram after it has been read: whatever readers do to its text, they undo."""
    draw = random.Random(format)
    alphabet = [
        b"\n",
        b"\r\n",
        b"a",
        b":",
        b"1",
        b"|",
        b"c",
        b"@",
        b"#",
        b",",
        b" ",
        b"=",
        b'"',
        b"\\",
        b".",
        b"\xff",
        b"\0",
    ]
    whole = [b"a:1|c", b"m,t=v a=1,b=2 3", b"a.b.c 1 2", b"a:1|c|#x:y", b"m v=1i 17", b"\x81\xa1a\x01"]
    sent = [
        b"".join(draw.choices(whole if draw.random() < 0.4 else alphabet, k=draw.randrange(1, 40)))
        for _ in range(5_000)
    ]
    text = config().replace('"unixgram://{folder}/two"', f'"unixgram://{{folder}}/two"\nformat = "{format}"')
    with AgentProcess(tmp_path, text) as agent, capturing(agent, "--listener", "two") as capture:
        send_unixgram(tmp_path / "two", *sent)
        read_until(capture, len(sent))
    assert [one.text for one in read(capture.file)[0]] == sent


def test_a_capture_ends_by_time_and_by_count(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent:
        before = time.monotonic()
        with capturing(agent, "--for", "700ms", name="time.cap") as capture:
            send_unixgram(tmp_path / "two", b"m v=1")
            assert "1 datagrams in " in capture.wait()
        assert time.monotonic() - before > 0.7
        assert read(capture.file)[1] == {"datagrams": 1, "bytes": 8, "missed": 0, "ended": "time"}
        with capturing(agent, "--count", "3", name="count.cap") as capture:
            send_unixgram(tmp_path / "two", *(b"m v=%d" % n for n in range(5)))
            capture.wait()
        found, end = read(capture.file)
        assert [one.text for one in found] == [b"m v=0", b"m v=1", b"m v=2"]
        assert isinstance(end, dict) and end["ended"] == "count"


def test_what_came_lately_is_there_with_a_ring_for_it(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config(ring="2MiB")) as agent:
        send_unixgram(tmp_path / "two", b"long ago")
        wait_until(lambda: received(agent, "two") == 1)
        between = time.time_ns()
        wait_until(lambda: time.time_ns() > between + 2_000_000_000)
        send_unixgram(tmp_path / "two", b"lately")
        send_unixgram(tmp_path / "json", b"[]")
        wait_until(lambda: received(agent, "two") == 2 and received(agent, "json") == 1)
        with capturing(agent, "--last", "2s", name="last.cap") as capture:
            capture.wait()
        assert sorted(one.text for one in read(capture.file)[0]) == [b"[]", b"lately"]
        with capturing(agent, "--last", "1h", name="all.cap") as capture:
            capture.wait()
        assert sorted(one.text for one in read(capture.file)[0]) == [b"[]", b"lately", b"long ago"]
        # What is kept can be captured as it comes, too, and goes on being kept.
        with capturing(agent, "--count", "1", name="live.cap") as capture:
            send_unixgram(tmp_path / "two", b"now")
            capture.wait()
        assert [one.text for one in read(capture.file)[0]] == [b"now"]
        agent.reload(config())
        refused = agent.command("capture", str(tmp_path / "no.cap"), "--last", "1s")
        assert refused.returncode == 1 and "capture_ring" in refused.stderr
        assert not (tmp_path / "no.cap").exists()


def test_what_a_reader_that_is_lapped_has_missed_is_told_exactly(tmp_path: Path) -> None:
    """The client is stopped, so that the agent can give nothing away, until all memory is overwritten."""
    large = b"x" * 60_000
    count = 1_500  # of 60 KB: five times what there is room for
    with AgentProcess(tmp_path, config()) as agent, capturing(agent) as capture:
        capture.process.send_signal(signal.SIGSTOP)
        for number in range(count):
            send_unixgram(tmp_path / "two", large + b"%d" % number)
        wait_until(lambda: received(agent, "two") == count)
        capture.process.send_signal(signal.SIGCONT)
        send_unixgram(tmp_path / "two", b"last")
        wait_until(lambda: (found := read(capture.file)[0]) and found[-1].text == b"last", 60)
        # At an end that the agent makes it says how many.
        agent.signal(signal.SIGTERM)
        said = capture.wait()
    found, end = read(capture.file)
    assert isinstance(end, dict) and end["missed"] == count + 1 - len(found) > 0
    assert f"{end['missed']:,} missed" in said
    assert "a capture could not keep up" in agent.log_text()


def test_a_client_that_is_killed_leaves_what_can_be_read(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent:
        with capturing(agent) as capture:
            send_unixgram(tmp_path / "two", b"m v=1", b"m v=2")
            wait_until(lambda: len(read(capture.file)[0]) == 2)
            capture.process.kill()
        assert [one.text for one in read(capture.file)[0]] == [b"m v=1", b"m v=2"]
        assert "cut off" in penstock("replay", capture.file, "--info").stdout
        # Its place is free again.
        with capturing(agent, "--for", "1ms", name="next.cap") as capture:
            capture.wait()


def test_one_captures_at_a_time_and_a_reload_does_not_end_it(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent, capturing(agent) as capture:
        second = agent.command("capture", str(tmp_path / "b.cap"))
        assert second.returncode == 1 and "somebody captures already" in second.stderr
        agent.reload(config().replace('name = "void"', 'name = "other"'))
        send_unixgram(tmp_path / "two", b"m v=1")
        read_until(capture, 1)
        again = agent.command("capture", str(capture.file))
        assert again.returncode == 1 and "is there already" in again.stderr


def test_a_stop_ends_a_capture(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent, capturing(agent) as capture:
        agent.signal(signal.SIGTERM)
        assert "the agent stops" in capture.wait()
    assert read(capture.file)[1] == {"datagrams": 0, "bytes": 0, "missed": 0, "ended": "stopped"}


def test_a_file_is_as_large_as_it_may_be_and_whole(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent, capturing(agent, "--max-bytes", "100KB") as capture:
        while capture.process.poll() is None:
            send_unixgram(tmp_path / "two", os.urandom(1000))
        assert "as large as it may be" in capture.wait()
    found, end = read(capture.file)
    assert isinstance(end, dict) and end["ended"] == "size" and end["datagrams"] == len(found)
    assert capture.file.stat().st_size <= 100_000


@pytest.mark.parametrize(("speed", "factor"), [("1", 1.0), ("2", 2.0)])
def test_distances_are_kept(tmp_path: Path, speed: str, factor: float) -> None:
    """Poisson arrivals for some seconds, sent again: each within a millisecond of its place."""
    draw = random.Random(1)
    with AgentProcess(tmp_path, config()) as agent, capturing(agent) as capture:
        due, end = time.monotonic(), time.monotonic() + 5
        count = 0
        while due < end:
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            send_unixgram(tmp_path / "two", b"%d" % count)
            count += 1
            due += draw.expovariate(400)
        read_until(capture, count)
    found, _ = read(capture.file)
    times: list[tuple[float, bytes]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "to"))
        receiver.settimeout(60)

        def receive() -> None:
            while len(times) < count:
                text = receiver.recv(64)
                times.append((time.monotonic(), text))

        thread = threading.Thread(target=receive)
        thread.start()
        result = penstock("replay", capture.file, "--to", f"unixgram://{tmp_path}/to", "--speed", speed)
        thread.join()
    assert result.returncode == 0, result.stderr
    assert [text for _, text in times] == [one.text for one in found]
    first_sent, first_arrival = times[0][0], found[0].arrival_ns
    off = sorted(
        abs((at - first_sent) - (one.arrival_ns - first_arrival) / 1e9 / factor)
        for (at, _), one in zip(times, found, strict=True)
    )
    places = [len(off) // 2, len(off) * 99 // 100, -1]
    print("off by, median, 99 % and all, in us:", *(round(off[at] * 1e6) for at in places), result.stderr)
    # Where others use the machine, or its processors, any sleep may last for tens of milliseconds.
    assert off[len(off) * 99 // 100] < 0.001 if QUIET else off[len(off) // 2] < 0.02
    assert "late at most" in result.stderr


def test_what_is_replayed_goes_where_it_is_told_to(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, config()) as agent, capturing(agent) as capture:
        send_unixgram(tmp_path / "two", b"a v=1", b"a v=2")
        send_unixgram(tmp_path / "json", b"{}")
        read_until(capture, 3)
    names = ("two", "json")
    receivers = {name: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for name in names}
    for name, receiver in receivers.items():
        receiver.bind(str(tmp_path / f"to-{name}"))
        receiver.setblocking(False)
    targets = [argument for name in names for argument in ("--to", f"{name}=unixgram://{tmp_path}/to-{name}")]
    result = penstock("replay", capture.file, *targets, "--loop", "2", "--speed", "max")
    assert result.returncode == 0 and "6 datagrams sent" in result.stderr
    assert [receivers["two"].recv(9) for _ in range(4)] == [b"a v=1", b"a v=2"] * 2
    assert [receivers["json"].recv(9) for _ in range(2)] == [b"{}"] * 2
    result = penstock("replay", capture.file, "--to", f"unixgram://{tmp_path}/to-two", "--listener", "json")
    assert result.returncode == 0 and receivers["two"].recv(9) == b"{}"
    for receiver in receivers.values():
        with pytest.raises(BlockingIOError):
            receiver.recv(9)
        receiver.close()
    for arguments, words in (
        ((), "--to is missing"),
        (("--to", "tcp://127.0.0.1:1"), "datagrams go to"),
        (("--to", "nonsense"), "wanted one of"),
        (("--to", "no=udp://127.0.0.1:1"), "no listener of the file is named 'no'"),
        (("--to", "udp://127.0.0.1:1", "--listener", "no"), "no listener of the file is named 'no'"),
        (("--to", f"unixgram://{tmp_path}/nobody"), "nothing could be sent"),
        (("--to", "udp://127.0.0.1:1", "--speed", "0"), "above 0"),
    ):
        result = penstock("replay", capture.file, *arguments)
        assert result.returncode in (1, 2) and words in result.stderr, (arguments, result.stderr)
    assert penstock("replay", tmp_path / "missing", "--info").returncode == 1
    (tmp_path / "other").write_bytes(b"something else")
    result = penstock("replay", tmp_path / "other", "--info")
    assert result.returncode == 1 and "no capture" in result.stderr
