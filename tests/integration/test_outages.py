"""Outages of a real database under load: nothing is lost, memory stays flat, and live data comes first after.

Each kind lasts a few seconds here, and some a minute in the slow tests.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import QUIET, wait_until
from tests.integration.agent_process import AgentProcess, assert_balanced, at_rest, output
from tests.integration.fault_proxy import Fault, FaultProxy
from tests.integration.outage import DelayWatch, MemoryWatch, Traffic, stored
from tests.integration.servers import Influxd, influxd

RATE = 20_000
LATE_S_MAX = 1.0 if QUIET else 2.0
"""Behind the backlog of a minute, which takes three seconds and more, it would be later."""
RESPONSE_TIMEOUT_S = 2
"""Where connections die without a word: nothing else tells."""
GROWTH_KIB_MAX = 32 << 10
WATCH_S = 3.0
"""So long the delay of live data is watched once the server is back."""

CONFIG = """
[flush]
interval = "200ms"

[[listen]]
name = "door"
address = "unixgram://{folder}/door.sock"

[[output]]
name = "influx"
type = "influxdb"
version = 1
database = "%(database)s"
url = "%(url)s"
ring_bytes = "4MiB"
%(settings)s

[output.spool]
min_free_space = "0B"
"""

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


@dataclass(frozen=True)
class Scene:
    server: Influxd
    proxy: FaultProxy


@dataclass(frozen=True)
class Outage:
    """How one begins, and how it ends."""

    begin: Callable[[Scene], object]
    end: Callable[[Scene], object]
    settings: str = ""
    """Of the output."""
    late_s_max: float = LATE_S_MAX


def fault(fault: Fault, settings: str = "", late_s_max: float = LATE_S_MAX) -> Outage:
    def begin(scene: Scene) -> None:
        scene.proxy.fault = fault

    return Outage(begin, lambda scene: scene.proxy.heal(), settings, late_s_max)


OUTAGES = {
    "stopped": Outage(lambda scene: scene.server.stop(), lambda scene: scene.server.start()),
    "killed": Outage(lambda scene: scene.server.kill(), lambda scene: scene.server.start()),
    "frozen": Outage(lambda scene: scene.server.freeze(), lambda scene: scene.server.thaw()),
    "refused": Outage(lambda scene: scene.proxy.refuse(), lambda scene: scene.proxy.heal()),
    "503": fault(Fault(answer=UNAVAILABLE)),
    "stalled": fault(Fault(stall=True)),
    "stalled and forgotten": fault(
        Fault(stall=True, forget=True),
        f'response_timeout = "{RESPONSE_TIMEOUT_S}s"',
        LATE_S_MAX + RESPONSE_TIMEOUT_S,
    ),
    "cut": fault(Fault(cut_after=1000)),
    "reset": fault(Fault(cut_after=1000, reset=True)),
    "truncated": fault(Fault(truncate_after=8)),
}


FULL = ("killed", "frozen", "503", "stalled")
LENGTHS = [
    *(pytest.param(kind, 3, id=f"{kind}-short") for kind in OUTAGES),
    *(
        pytest.param(kind, 60, id=f"{kind}-full", marks=[pytest.mark.slow, pytest.mark.timeout(300)])
        for kind in (OUTAGES if QUIET else FULL)
    ),
]


@pytest.mark.parametrize(("kind", "seconds"), LENGTHS)
def test_an_outage_costs_nothing_but_time(tmp_path: Path, kind: str, seconds: int) -> None:
    with influxd(tmp_path) as server, FaultProxy(server.host, server.port) as proxy:
        scene, outage = Scene(server, proxy), OUTAGES[kind]
        database = server.create_database()
        config = CONFIG % {"database": database, "url": proxy.url, "settings": outage.settings}
        with AgentProcess(tmp_path, config) as agent, Traffic(tmp_path / "door.sock", RATE) as traffic:
            wait_until(lambda: stored(server, database) > RATE, 20)
            memory = MemoryWatch(agent.pid)
            outage.begin(scene)
            began = time.monotonic()
            memory.look_until(lambda: time.monotonic() - began >= seconds)
            backlog = undelivered(agent)
            # Otherwise it was none.
            assert backlog > RATE * seconds / 2
            outage.end(scene)
            ended = time.monotonic()
            delays = DelayWatch(server, database, traffic)

            def drained() -> bool:
                delays.look()
                return undelivered(agent) < RATE and time.monotonic() - ended >= WATCH_S

            memory.look_until(drained, 30 + seconds)
            sent = traffic.finish()
            wait_until(lambda: delays.look() or delays.is_complete, 10, "live data to arrive")
            status = agent.wait_for(at_rest, what="rest")
            assert delays.differences() == []
            print(f"{kind}: {backlog} of {sent} lines were held up. {delays}. {memory}")
            assert delays.worst < outage.late_s_max, delays.all
            assert memory.growth_kib < GROWTH_KIB_MAX
            assert_balanced(status)
            account = output(status, "influx")
            assert account["written"] == account["delivered"] == sent and not account["rejected"]
            assert agent.stop() == 0


def undelivered(agent: AgentProcess) -> int:
    """Lines in the ring and in the spool."""
    account = output(agent.status(), "influx")
    return int(account["waiting"] + account["spooled"])
