"""JSON and MessagePack: metrics per second of the thread that reads them, and what a flood does to a lane."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack  # type: ignore[import-untyped,unused-ignore]

from tests.bench import receive
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import CheckError, Run, Target, check, check_equal, poll
from tests.bench.native import Lines
from tests.bench.receive import Load

TARGET = 400_000
PER_DATAGRAM = (1, 5)
FLOOD_RATE = 100_000
"""Datagrams a second, each of five metrics: more than can be read of them."""

# Sends the datagrams in a file, all of one size, to a port of this machine for so many seconds, many with one
# call (UDP_SEGMENT), at a rate if that is not 0; prints how many.
SENDER = """
import socket, struct, sys, time
data, size = open(sys.argv[1], "rb").read(), int(sys.argv[2])
run = size * min(64, 65000 // size)
runs = [data[at : at + run] for at in range(0, len(data) - run + 1, run)]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("127.0.0.1", int(sys.argv[3])))
segment = [(17, 103, struct.pack("=H", size))]
sent, seconds, rate, start = 0, float(sys.argv[4]), float(sys.argv[5]), time.monotonic()
print("ready", flush=True)
while time.monotonic() - start < seconds:
    for one in runs:
        sock.sendmsg([one], segment)
        sent += run // size
        if rate:
            time.sleep(max(start + sent / rate - time.monotonic(), 0))
print(sent, flush=True)
"""


def metric(number: int) -> dict[str, object]:
    """What Telegraf says of a processor: three tags, five fields, floats of all lengths."""
    return {
        "fields": {
            "usage_idle": 100 / (1 + number % 97),
            "usage_user": number % 1000 / 10,
            "usage_system": number % 777 / 7,
            "interrupts": 1_000_000 + number * 31,
            "online": True,
        },
        "name": "cpu",
        "tags": {
            "cpu": f"cpu{10 + number % 16}",
            "host": f"server{number % 100:03d}.example.org",
            "dc": "eu1",
        },
        "timestamp": 1_700_000_000 + number,
    }


def pack_json(numbers: range) -> bytes:
    return b"\n".join(json.dumps(metric(number), separators=(",", ":")).encode() for number in numbers)


def pack_msgpack(numbers: range) -> bytes:
    made = b""
    for number in numbers:
        one = metric(number)
        time_s = int(str(one["timestamp"]))
        fields = {"name": one["name"], "time": msgpack.Timestamp(time_s, 0), "tags": one["tags"]}
        made += msgpack.packb({**fields, "fields": one["fields"]})
    return made


def write_datagrams(path: Path, pack: Callable[[range], bytes], each: int) -> int:
    """Datagrams of *each* metrics, for the sender; returns their size, which is the same for all."""
    made = [pack(range(at, at + each)) for at in range(0, 2000, each)]
    size = max(map(len, made))
    # Blanks behind JSON mean nothing; MessagePack is all of one size.
    check(pack is pack_json or {len(one) for one in made} == {size}, "MessagePack of one size")
    path.write_bytes(b"".join(one.ljust(size) for one in made))
    return size


def thread_cpu_ns(pid: int, name: str) -> int:
    """Processor time of one thread of the agent."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int((task / "schedstat").read_text().split()[0])
    raise AssertionError(f"no thread {name}")


def start_sender(data: Path, size: int, to: int, seconds: float, rate: float = 0) -> "subprocess.Popen[str]":
    # It stands for senders on other machines: it takes what the agent leaves of the processors.
    command = ["nice", "-n", "19", sys.executable, "-c", SENDER]
    command += [str(data), str(size), str(to), str(seconds), str(rate)]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    check_equal(sender.stdout.readline(), "ready\n", "the sender says that it is ready")
    return sender


def config(format: str, address: str, port: int) -> str:
    null = '[[output]]\nname = "null"\ntype = "null"\n'
    lines = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'
    return f'{lines}[[listen]]\nname = "objects"\naddress = "{address}"\nformat = "{format}"\n{null}'


def account(agent: AgentRun) -> dict[str, int]:
    return next(one for one in agent.status()["listeners"] if one["name"] == "objects")


def verify(run: Run, format: str, pack: Callable[[range], bytes]) -> None:
    """What comes out of the agent is what was sent, metric by metric."""
    with run.place() as folder:
        path, out = folder / "objects.sock", folder / "out"
        file = f'[[output]]\nname = "out"\ntype = "file"\npath = "{out}"\n'
        listen = f'[[listen]]\nname = "objects"\naddress = "unixgram://{path}"\nformat = "{format}"\n'
        with AgentRun(folder, listen + file) as agent:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(str(path))
                for at in range(0, 2000, 5):
                    sock.send(pack(range(at, at + 5)))
            poll(lambda: account(agent)["accepted"] == 2000, 20.0, "2,000 metrics accepted")
        lines = sorted(b"".join(one.read_bytes() for one in out.iterdir()).splitlines())
    mark = "" if format == "json" else "i"
    expected = []
    for number in range(2000):
        fields = metric(number)["fields"]
        assert isinstance(fields, dict)
        text = ",".join(f"{key}={written(value, mark)}" for key, value in fields.items())
        tags = f"cpu=cpu{10 + number % 16},host=server{number % 100:03d}.example.org,dc=eu1"
        expected.append(f"cpu,{tags} {text} {1_700_000_000 + number}000000000".encode())
    check_equal(lines, sorted(expected), "what came out")


def written(value: object, mark: str) -> str:
    """A field's value in a line; *mark* is behind whole numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value}{mark}" if isinstance(value, int) else repr(value).removesuffix(".0")


def measure(run: Run, format: str, pack: Callable[[range], bytes]) -> None:
    """A flood of datagrams: what is read of it, by the processor time of the thread that does."""
    verify(run, format, pack)
    seconds = run.size(4, 1)
    with run.place() as folder:
        data, port, objects = folder / "data", free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        with AgentRun(folder, config(format, f"udp://127.0.0.1:{objects}", port)) as agent:
            for each in PER_DATAGRAM:
                size = write_datagrams(data, pack, each)
                figure = run.figure(
                    f"{each} in a datagram of {size} bytes",
                    "metrics/core-s",
                    target=Target(TARGET, at_least=True),
                    note="of the reading thread, kernel time included",
                )
                for _ in run.rounds(f"{each} in a datagram"):
                    before, cpu = account(agent), thread_cpu_ns(agent.pid, f"{format}-1")
                    sender = start_sender(data, size, objects, seconds)
                    sent = int(sender.communicate()[0])
                    after = _read_empty(agent, before, each)
                    cpu = thread_cpu_ns(agent.pid, f"{format}-1") - cpu
                    datagrams = after["datagrams"] - before["datagrams"]
                    # What the kernel counts for a run that it drops is not the number of its datagrams.
                    check(0 < datagrams <= sent, "no more is received than was sent")
                    accepted = after["accepted"] - before["accepted"]
                    check_equal(accepted, datagrams * each, "metrics accepted")
                    figure.add(accepted / cpu * 1e9)


def _read_empty(agent: AgentRun, before: dict[str, int], each: int) -> dict[str, int]:
    """Wait until the kernel holds no datagram of objects, and all read since *before* are decoded too.

    A burst is counted as received when it is read, and its metrics, *each* of a datagram, when it is
    decoded: up to a rest of its thread later.
    """
    now: dict[str, int] = {}

    def look() -> bool:
        now.update(account(agent))
        decoded = now["accepted"] - before["accepted"] >= (now["datagrams"] - before["datagrams"]) * each
        return decoded and not now["queue_bytes"]

    try:
        poll(look, 60.0, "the queue is read empty and decoded")
    except CheckError as error:
        raise CheckError(f"{error}; from {before} to {now}") from None
    return now


def measure_json(run: Run) -> None:
    """JSON, and a flood of it beside a lane."""
    measure(run, "json", pack_json)
    measure_flood(run)


def measure_msgpack(run: Run) -> None:
    """The same metrics as MessagePack."""
    measure(run, "msgpack", pack_msgpack)


def measure_flood(run: Run) -> None:
    """What a lane takes of a flood of lines, alone and beside a flood of JSON that never ends."""
    load = Load(Lines(shape=117), count=run.size(600_000, 60_000), pack=1432)
    with run.place() as folder:
        data = folder / "data"
        size = write_datagrams(data, pack_json, 5)
        port, objects = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
        with AgentRun(folder, config("json", f"udp://127.0.0.1:{objects}", port)) as agent:
            receive.warm_up(agent, {port: True})
            rate = run.figure(
                "lines that a lane takes of a flood, beside a flood of JSON",
                "M lines/s",
                baseline="the same flood to a socket that nobody reads",
                target=Target(0.95, at_least=True, of_ratio=True),
            )
            read = run.figure("JSON that is read meanwhile", "metrics/s")
            for _ in run.rounds("flood"):
                # What it costs the machine to send it is in both.
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
                    nobody.bind(("127.0.0.1", 0))
                    with _flood(data, size, nobody.getsockname()[1]):
                        alone = _lines_per_s(agent, load, port)
                before = account(agent)
                with _flood(data, size, objects):
                    started = time.monotonic()
                    beside = _lines_per_s(agent, load, port)
                    took = time.monotonic() - started
                    read.add((account(agent)["accepted"] - before["accepted"]) / took)
                _read_empty(agent, before, 5)
                rate.add(beside / 1e6, alone / 1e6)


@contextmanager
def _flood(data: Path, size: int, to: int) -> Iterator[None]:
    sender = start_sender(data, size, to, 600.0, FLOOD_RATE)
    try:
        yield
    finally:
        sender.kill()
        sender.communicate()


def _lines_per_s(agent: AgentRun, load: Load, port: int) -> float:
    before, started = agent.read(port), time.monotonic()
    load.send(f"127.0.0.1:{port}")
    took = time.monotonic() - started
    now = agent.read(port)
    check(now.received > before.received, "lines were received")
    return (now.accepted - before.accepted) / took


def measure_host(run: Run) -> None:
    """Processor time and memory of ``[host]`` with all its collectors, every 10 seconds."""
    share = run.figure(
        "CPU with [host] every 10 s",
        "%",
        baseline="the same agent without",
        target=Target(0.3, at_least=False),
        note="of one processor, the whole process",
    )
    added = run.figure("CPU that [host] adds", "%", target=Target(0.3, at_least=False))
    memory = run.figure("RSS with [host]", "MB", baseline="the same agent without")
    seconds = run.size(60, 11)
    null = '[[output]]\nname = "null"\ntype = "null"\n'
    for _ in run.rounds("idle for a minute, with and without", runs=1 if run.quick else 3):
        port = free_port(socket.SOCK_DGRAM)
        listen = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\n'
        with run.place() as one, run.place() as other:
            with AgentRun(one, listen + null) as without, AgentRun(other, "[host]\n" + null) as agent:
                poll(lambda: _collected(agent), 30.0, "the first metrics of the host")
                cpu, plain_cpu, started = agent.cpu_ns(), without.cpu_ns(), time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - started
                used, plain_used = agent.cpu_ns() - cpu, without.cpu_ns() - plain_cpu
                share.add(used / took / 1e7, plain_used / took / 1e7)
                added.add((used - plain_used) / took / 1e7)
                memory.add(agent.memory()[0] / 1e6, without.memory()[0] / 1e6)
                check(_collected(agent) > 30, "all collectors said something")


def _collected(agent: AgentRun) -> int:
    return sum(int(one["accepted"]) for one in agent.status()["listeners"] if one["name"] == "host")
