"""The batches of a real agent, as relays would see them: none is missing, and what is lost is told."""

import socket
import threading
import time
from pathlib import Path

import pytest

from agent.config import load
from agent.outputs.base import Payload, Verdict
from agent.outputs.null import NullSink
from agent.pipeline import Pipeline
from agent.relay.fleet import Whole, unite
from agent.relay.message import Message, headers, parse
from agent.relay.sources import Sources
from tests.conftest import wait_until

LINES = 3000
CONFIG = """
[agent]
lanes = 2
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
[flush]
batch_lines = 20
interval = "5ms"
[[listen]]
address = "udp://127.0.0.1:0"
[[output]]
name = "void"
type = "null"
"""


class Broker:
    """Takes what an output posts as messages, and deals them out to relays in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # They were there long before the agent: what lacks is missing, and not before their time.
        self.relays = [Sources(time.time_ns() - 60 * 10**9 + number) for number in range(3)]
        self.messages: list[Message] = []
        self.lose = False
        self._lock = threading.Lock()
        post = NullSink.post

        def taken(sink: NullSink, payload: Payload, deadline: float = 0.0) -> Verdict:
            message = parse(headers(payload, "edge-1"), bytes(payload.data))
            with self._lock:
                if not self.lose:
                    self.relays[len(self.messages) % 3].seen(message, time.time_ns())
                    self.messages.append(message)
            return post(sink, payload, deadline)

        monkeypatch.setattr(NullSink, "post", taken)

    def metrics(self) -> int:
        return sum(message.payload.metrics for message in self.messages)

    def whole(self, later: float) -> Whole:
        """What is known so many seconds later."""
        at = time.time_ns() + round(later * 1e9)
        return unite([(f"r{number}", one.view(at)) for number, one in enumerate(self.relays)])


def test_no_batch_of_an_agent_is_missing_but_those_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "penstock.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    broker, pipeline = Broker(monkeypatch), Pipeline()
    pipeline.apply(load(path))
    try:
        [door] = pipeline.layout.doors
        port = door.sockets[0].sock.getsockname()[1]
        sent = 0

        def all_accepted() -> bool:
            return sum(one.accepted for one in pipeline.ledger().listeners) == sent

        def send(count: int) -> None:
            """From several ports, so that both lanes have some."""
            nonlocal sent
            for number in range(count):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"m v=1i\n", ("127.0.0.1", port))
                sent += 1
                if number % 50 == 0:
                    wait_until(all_accepted)
            wait_until(all_accepted)

        send(LINES)
        wait_until(lambda: broker.metrics() == LINES)
        found = broker.whole(30)
        [source] = found.sources
        assert (source.missing, source.late, source.unsure, source.repeated) == (0, 0, 0, 0)
        assert source.metrics == LINES and source.ring_count == 2 and len(source.relays) == 3
        # A relay by itself has seen a third of them.
        assert all(one.view(time.time_ns() + 30 * 10**9).missing for one in broker.relays)

        broker.lose = True
        send(40)
        wait_until(lambda: sum(one.delivered for one in pipeline.ledger().outputs) == sent)
        broker.lose = False
        send(400)
        wait_until(lambda: broker.metrics() == LINES + 400)
        assert broker.whole(5).sources[0].late > 0
        assert broker.whole(30).missing > 0
    finally:
        pipeline.stop(5)
