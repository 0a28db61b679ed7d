"""``kill -9``, again and again at random moments under load: what was sent is in the database.

Each line has a number of its own, in the order of sending, and a tag that says which run of the agent has
accepted it. The socket is the test's, as it would be systemd's: what waits in it is read by the next run, and
so is what a run had taken from it and not yet written. So no line may be missing, of each run there must be
as many as the agent had told to have accepted, and only what was in hand when a run was killed, one call of
``recvmmsg``, can be there as two runs' lines.
"""

import os
import random
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from agent.errors import EXIT_OK
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    load,
    output,
)
from tests.integration.servers import Influxd, influxd

KILLS = 20
RATE = 200_000
IN_HAND = 64
"""Datagrams of one recvmmsg: taken from the socket, and not yet known to be in every ring."""
LINES_FIRST_ID = 1_000_000_000
RING_BYTES = 512 << 20
"""All that is sent: a run may be too short to deliver anything, and what is dropped proves nothing."""
BUFFER_BYTES = 512 << 20
"""Of the socket: two seconds without a reader, at 832 bytes a datagram."""
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55


def memory() -> str | None:
    """A file system in memory for the rings, as on a real system, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def door() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind(("127.0.0.1", 0))
        yield sock


def kernel_drops(sock: socket.socket) -> int:
    return int(struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[8])


def accepted_so_far(agent: AgentProcess) -> int:
    found = re.search(
        r'^penstock_lane_accepted_metrics_total{lane="0"} (\S+)$', agent.metrics(), re.MULTILINE
    )
    assert found is not None
    return int(float(found[1]))


def config(run: int, port: int, url: str, database: str) -> str:
    return f"""
        [agent]
        admin = ""
        tags = {{ run = "{run}" }}
        [[listen]]
        name = "door"
        address = "udp://127.0.0.1:{port}"
        gro = false
        [[output]]
        name = "db"
        type = "influxdb"
        version = 1
        url = "{url}"
        database = "{database}"
        ring_bytes = "{RING_BYTES}B"
    """


def stored(server: Influxd, database: str, run: int) -> np.ndarray:
    """The numbers of the lines of one run that the database has, in order."""
    query = f"/query?db={database}&q=SELECT+id+FROM+load1+WHERE+run%3D'{run}'&epoch=ns"
    answer = server.request("GET", query, headers={"Accept": "application/csv"}, seconds_max=120)
    assert answer.status == 200, answer.text[:1000]
    rows = answer.body.splitlines()[1:]
    return np.sort(np.array([row.rsplit(b",", 1)[1] for row in rows], dtype=np.int64)) - LINES_FIRST_ID


def check(found: list[np.ndarray], told: list[int], sent: int, dropped: int) -> None:
    """Nothing is missing; *told* is what each run said that it had accepted.

    *dropped* is what the kernel had no room for, before any run saw it; 0 where the machine is fast enough.
    """
    next_id, kills, wrong = 0, 0, []
    for run, (ids, accepted) in enumerate(zip(found, told, strict=True)):
        again = next_id - int(ids[0]) if len(ids) else 0
        print(
            f"run {run}: {accepted} lines told, {len(ids)} there, {max(again, 0)} of them another's as well"
        )
        if len(ids) < accepted:
            wrong.append(f"run {run} has accepted {accepted} lines, and {len(ids)} are there")
        if again > kills * IN_HAND:
            wrong.append(f"{again} lines of run {run} are there that belong to another")
        if len(ids):
            next_id, kills = int(ids[-1]) + 1, 0
        kills += 1
    missing = sent - len(np.unique(np.concatenate(found)))
    if missing != dropped:
        wrong.append(f"of {sent} lines {missing} are missing; the kernel has dropped {dropped}")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("outages", [False, True], ids=["steady", "the database too"])
def test_every_accepted_line_survives_kills(tmp_path: Path, door: socket.socket, outages: bool) -> None:
    moments = random.Random(17)
    port = door.getsockname()[1]
    told: list[int] = []
    agent = AgentProcess(tmp_path, "", pass_fds={"door": door})
    with influxd(tmp_path) as server, closing(agent), TemporaryDirectory(dir=memory()) as run_dir:
        agent.runtime_dir = Path(run_dir)
        database = server.create_database()
        agent.write_config(config(0, port, server.url, database))
        agent.start()
        with load(port, RATE, seconds=300) as sender:
            for run in range(KILLS):
                if outages and run % 5 == 1:
                    server.kill()
                if outages and run % 5 == 3:
                    server.start()
                until = time.monotonic() + moments.uniform(0.05, 1.2)
                accepted = 0
                while time.monotonic() < until:
                    accepted = accepted_so_far(agent)
                agent.signal(signal.SIGKILL)
                agent.wait()
                told.append(accepted)
                agent.write_config(config(run + 1, port, server.url, database))
                agent.spawn()
                agent.wait_notified("READY", run + 2)
            sent = sender.finish()
        status = agent.wait_for(
            lambda status: at_rest(status) and status["lanes"][0]["receives"], 200, "all is delivered"
        )
        assert_balanced(status)
        told.append(status["lanes"][0]["accepted"])
        account = output(status, "db")
        assert account["restored"] > 0 and account["rejected"] == 0 and not any(account["dropped"].values())
        assert agent.stop() == EXIT_OK
        assert agent.log("stopped")[-1]["balanced"] is True
        assert not list((agent.runtime_dir / "rings").iterdir())
        assert not list((agent.runtime_dir / "bursts").iterdir())
        found = [stored(server, database, run) for run in range(KILLS + 1)]
        check(found, told, sent, kernel_drops(door))
