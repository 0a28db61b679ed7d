"""Three outputs, one of them dead for the whole run, beside the same without the dead one.

All rings take the same lines, and the two servers that live forget what they get. Nobody answers on the port
of the third, so that its lines go to its spool, on the disk.
"""

import socket
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench import native
from tests.bench.agent_run import AgentRun, check_lossless, free_port
from tests.bench.harness import Run, Target, check, poll
from tests.bench.native import Beside, Lines

LINES = Lines()
LINES_PER_S = 300_000
"""With three outputs and a sender, two processors have room for this."""

_OUTPUT = """
[[output]]
name = "{name}"
type = "influxdb"
url = "http://{address}"
org = "o"
bucket = "b"
token = "t"

[output.spool]
min_free_space = "0B"
"""


def _rate(run: Run, count: int, dead: bool) -> float:
    """Lines a second of the slower one of the outputs that live, from the first line to the last."""
    port = free_port(socket.SOCK_DGRAM)
    config = f'[[listen]]\naddress = "udp://127.0.0.1:{port}"\nreceive_buffer = "64MiB"\n'
    with ExitStack() as stack:
        sinks = [stack.enter_context(Beside("http_null")) for _ in range(2)]
        addresses = [sink.address for sink in sinks]
        if dead:
            addresses.insert(0, f"127.0.0.1:{free_port(socket.SOCK_STREAM)}")
        for number, address in enumerate(addresses):
            config += _OUTPUT.replace("{name}", f"out-{number}").replace("{address}", address)
        state = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "state"
        agent = stack.enter_context(AgentRun(stack.enter_context(run.place()), config, state=state))
        last = f"out-{len(addresses) - 1}"
        before = agent.read(output=last)
        sent = native.run(
            "udp_send",
            to=f"127.0.0.1:{port}",
            count=count // 12,
            rate=LINES_PER_S // 12,
            pack=12 * LINES.shape,
            segment=True,
            **LINES.options,
        )
        live = [f"out-{number}" for number in range(len(addresses))][-2:]

        def delivered() -> bool:
            return all(agent.read(output=name).delivered >= count for name in live)

        poll(delivered, 60, "all delivered")
        check_lossless(agent.read(output=last).since(before), "three outputs")
        check(all(agent.read(output=name).retries == 0 for name in live), "attempts failed that should not")
        ended_ns = max(sink.stop()["last_ns"] for sink in sinks)
    return float(count / (ended_ns - sent["start_ns"]) * 1e9)


def measure(run: Run) -> None:
    """The slower one of two outputs that live, with and without a dead one beside them."""
    count = run.size(1_500_000, 120_000)
    figure = run.figure(
        "outputs beside a dead one",
        "lines/s",
        baseline="without it",
        target=Target(0.95, at_least=True, of_ratio=True),
        note=f"{LINES_PER_S:,} lines/s come",
    )
    for number in run.rounds("three outputs"):
        rates = {}
        for dead in (False, True) if number % 2 == 0 else (True, False):
            rates[dead] = run.retry(partial(_rate, run, count, dead))
        figure.add(rates[True], rates[False])
