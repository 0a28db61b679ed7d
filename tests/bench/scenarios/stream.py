"""One connection, TCP and Unix, in writes of 64 KiB: lines per second of the lane's processor time."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import native
from tests.bench.agent_run import AgentRun, free_port
from tests.bench.harness import Run, Target, check_equal, poll, processors
from tests.bench.native import Beside, Lines
from tests.bench.verify import check_dump, sink_config

RECEIVER, SENDER = processors()


@dataclass(frozen=True)
class Stream:
    """An address that is sent to, as the sender and as the bare loop have it."""

    name: str
    to: str
    bare: dict[str, object]

    def send(self, lines: Lines, count: int, to: str = "") -> dict[str, Any]:
        """Send *count* lines from a processor of its own."""
        options = {name: value for name, value in lines.options.items() if name not in _DATAGRAMS}
        sent = native.run("stream_send", cpus=SENDER, to=to or self.to, count=count, **options)
        check_equal(sent["lines"], count, "lines sent")
        return sent


_DATAGRAMS = ("no_timestamps", "scatter")


def measure(run: Run) -> None:
    """Both lengths of line; kernel time included."""
    with run.place() as folder:
        port = free_port(socket.SOCK_STREAM)
        streams = [
            Stream("tcp", f"127.0.0.1:{port}", {}),
            Stream("unix", f"unix:{folder}/in.sock", {"unix": f"{folder}/bare.sock"}),
        ]
        for stream in streams:
            _verify(run, stream, folder)
        with AgentRun(
            folder, f'{_listeners(folder, port)}[[output]]\nname = "null"\ntype = "null"\n'
        ) as agent:
            for stream in streams:
                _agent(stream, Lines(), 50_000, agent)
            for cpu in RECEIVER:
                agent.pin_lane(cpu)
            for shape in (64, 117):
                count = run.size(6_000_000, 400_000)
                figures = {
                    stream.name: run.figure(
                        f"{stream.name}, {shape}-byte lines in writes of 64 KiB",
                        "M lines/core-s",
                        baseline="bare recv of 64 KiB",
                        target=Target(6, at_least=True),
                    )
                    for stream in streams
                }
                for _ in run.rounds(f"{shape}-byte lines"):
                    for stream in streams:
                        plain = _bare(stream, Lines(shape=shape), count)
                        got = _agent(stream, Lines(shape=shape), count, agent)
                        figures[stream.name].add(count / got * 1e3, count / plain * 1e3)


def _listeners(folder: Path, port: int) -> str:
    addresses = (f"tcp://127.0.0.1:{port}", f"unix://{folder}/in.sock")
    return "".join(f'[[listen]]\naddress = "{address}"\n' for address in addresses)


def _bare(stream: Stream, lines: Lines, count: int) -> int:
    """Nanoseconds of the loop that reads and forgets."""
    if "unix" in stream.bare:
        Path(str(stream.bare["unix"])).unlink(missing_ok=True)
    with Beside("stream_discard", cpus=RECEIVER, **stream.bare) as sink:
        to = f"unix:{stream.bare['unix']}" if "unix" in stream.bare else sink.address
        sent = stream.send(lines, count, to)
        got = sink.stop(ask=False)
    check_equal(got["bytes"], sent["bytes"], "bytes of the bare loop")
    return int(got["cpu_ns"])


def _agent(stream: Stream, lines: Lines, count: int, agent: AgentRun) -> int:
    """Nanoseconds of the lane; each line is accounted for."""

    def received() -> int:
        return sum(one["received"] for one in agent.status()["listeners"])

    before, cpu = received(), agent.read_lane_cpu_ns()
    stream.send(lines, count)
    poll(lambda: received() == before + count or None, 60.0, f"{count} lines received")
    took = agent.read_lane_cpu_ns() - cpu
    for one in agent.status()["listeners"]:
        check_equal(one["accepted"], one["received"], "lines accepted of those received")
        check_equal(one["rewritten"], 0, "lines rewritten, though all are clean")
    return took


def _verify(run: Run, stream: Stream, folder: Path) -> None:
    """What comes out is what went in, byte for byte; rings are small, so that the sender is pushed back."""
    run.say(f"checking what arrives by {stream.name}")
    dump, count = folder / f"{stream.name}.dump", 100_000
    with Beside("http_null", dump=dump) as sink:
        config = sink_config(0, sink.address, ring="2MiB")
        listener = config[: config.index("[flush]")]
        port = int(stream.to.rpartition(":")[2]) if stream.name == "tcp" else free_port(socket.SOCK_STREAM)
        with AgentRun(folder, config.replace(listener, _listeners(folder, port))) as agent:
            stream.send(Lines(), count)

            def delivered() -> bool | None:
                [output] = agent.status()["outputs"]
                return output["ledger"]["delivered"] == count or None

            poll(delivered, 60.0, f"{count} lines delivered")
            check_equal(agent.status()["ledger"]["balance"], "balanced", "the ledger")
        sink.stop()
    check_dump(dump, Lines(), count, gzip=False)
