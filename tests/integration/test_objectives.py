"""The log tells when an error budget burns, and when no more, where calculation says so: a scripted incident.

The oracle knows when each line was sent and when the database answered for it, and nothing of the agent.
"""

import math
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import pytest

from tests.conftest import QUIET
from tests.integration.agent_process import AgentProcess, at_rest, free_port, output, send_udp
from tests.integration.fake_influxdb import Answer, FakeInfluxDB, Request
from tests.reference import objectives as reference

WITHIN, WINDOW, SHARE = 1.0, 43_200.0, Fraction(999, 1000)
CHUNK, PERIOD_S = 10, 0.01
"""Lines a chunk, and a chunk each period: 1,000 lines a second."""

CONFIG = """
[[listen]]
address = "udp://127.0.0.1:{port}"
[slo]
window = "12h"
[flush]
interval = "100ms"
[[output]]
name = "influx"
type = "influxdb"
url = "{url}"
org = "an org"
bucket = "metrics"
token = "t0ken=="
retry_max = "1s"
"""

MESSAGE = re.compile("an error budget burns.*")


class Database(FakeInfluxDB):
    """An InfluxDB that notes when it answered for which line, and is as slow as it is told to be."""

    def __init__(self) -> None:
        self.answered: dict[int, float] = {}
        self.pause = 0.0
        self.away = False
        super().__init__(2)
        self.rule = self._rule

    def _rule(self) -> Answer | None:
        if self.away:
            return Answer(cut="reset")
        if not self.pause:
            return None
        gate = threading.Event()
        threading.Timer(self.pause, gate.set).start()
        return Answer(gate=gate)

    def note(self, request: Request) -> None:
        if request.status == 204:
            now = time.time()
            for number in re.findall(rb" v=(\d+)i ", request.body):
                self.answered.setdefault(int(number), now)


@dataclass
class Sender:
    """A thousand lines a second, in a thread of its own."""

    port: int
    sent: list[float] = field(default_factory=list)
    """When each line was."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        chunk = 0
        while not self._stop.wait(max(began + chunk * PERIOD_S - time.monotonic(), 0)):
            first, now = chunk * CHUNK, time.time()
            # Each has a series of its own second: nothing is one point with another.
            text = b"\n".join(b"m v=%di %d" % (first + i, first + i) for i in range(CHUNK))
            send_udp(self.port, text)
            self.sent += [now] * CHUNK
            chunk += 1


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def told(agent: AgentProcess) -> list[tuple[float, str]]:
    """When the log told which state."""
    records = [one for one in agent.log() if MESSAGE.fullmatch(one["message"])]
    return [(seconds(one["time"]), one["state"]) for one in records]


def expected(sender: Sender, database: Database, began: float, until: float) -> list[tuple[float, str]]:
    """The same by the oracle, which looks ten times a second where the agent looks once."""
    answered = [database.answered.get(number, math.inf) for number in range(len(sender.sent))]
    moments = [began + step for step in range(1, int(until - began) + 1)]
    counters = reference.promised(sender.sent, answered, WITHIN, moments)
    return reference.states(
        SHARE, WINDOW, began, [(at, *count) for at, count in zip(moments, counters, strict=True)]
    )


@pytest.mark.slow
def test_an_incident_is_told_when_calculation_says_so(tmp_path: Path) -> None:
    port = free_port()
    with Database() as database, AgentProcess(tmp_path, CONFIG.format(port=port, url=database.url)) as agent:
        began = seconds(agent.log("ready")[0]["time"])
        sender = Sender(port)
        try:

            def last(wanted: float) -> None:
                """Let so many seconds pass: this is a script, and waits for nothing else."""
                time.sleep(wanted)

            last(8)
            # Slow, and still in time.
            database.pause = 0.25
            last(8)
            # A moment's trouble: 0.3 to 0.5 s of lateness, and the alarm wants 0.864.
            database.pause = 1.3
            last(0.2)
            database.pause = 0.0
            last(8)
            slow_from = time.time()
            database.pause = 3.0
            last(10)
            database.away = True
            last(10)
            # It was told before the trouble was over, and once.
            assert told(agent)[-1][1] == "fast"
            database.away, database.pause = False, 0.0
            agent.wait_for(lambda _: told(agent)[-1][1] == "trickle", timeout=90)
        finally:
            sender.stop()
        until = time.time()
        agent.wait_for(at_rest, timeout=60)
        status = agent.wait_for(
            lambda status: status["slo"][0]["due"] == len(sender.sent), what="all that was sent is due"
        )
        oracle, found = expected(sender, database, began, until + 1), told(agent)
        assert [state for _, state in found] == [state for _, state in oracle]
        # On a machine that is busy with something else, there may have been real trouble before.
        scripted = [(at, state) for at, state in found if at > slow_from]
        assert [state for _, state in scripted] == ["fast", "slow", "trickle"]
        for (at, state), (wanted, _) in zip(found, oracle, strict=True):
            assert abs(at - wanted) <= 1.5, f"{state} {at - wanted:+.2f} s from where it should be"
        assert 1.2 <= scripted[0][0] - slow_from <= 4.2
        # The counters are the oracle's, but for lines that took about a second: it knows neither when a lane
        # came to read them nor when the answer was read, which on a busy machine takes its time.
        about = 0.1 if QUIET else 0.4
        answers = [database.answered[number] for number in range(len(sender.sent))]
        (_, most), (_, least) = (
            reference.promised(sender.sent, answers, within, [math.inf])[0]
            for within in (WITHIN - about, WITHIN + about)
        )
        late = status["slo"][0]["late"]
        assert least <= late <= most
        assert status["slo"][0]["state"] == "trickle"
        assert output(status, "influx")["delivered"] == len(sender.sent)
        metrics = agent.metrics()
        assert f'penstock_slo_late_metrics_total{{output="influx"}} {float(late)}' in metrics
        assert f'penstock_slo_due_metrics_total{{output="influx"}} {float(len(sender.sent))}' in metrics
        assert 'penstock_slo_state{output="influx",state="trickle"} 1.0' in metrics
