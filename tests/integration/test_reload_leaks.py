"""Reloads leave nothing behind: descriptors, threads and memory are the same after hundreds of them."""

from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.integration.agent_process import (
    AgentProcess,
    assert_balanced,
    at_rest,
    free_port,
    load,
    open_files,
)
from tests.integration.test_stop import udp_listener

WARM_UP = 300
"""Reloads after which what is kept for good has been allocated: buffers, arenas of the allocator."""

ROUNDS = 4
RELOADS = 100

WORKERS_MAX = 6
"""Threads of asyncio's pool that a busy machine may want besides, once."""

ROUND_KIB_MAX = 16
"""What the best of the rounds may add: a single leaked object of 164 bytes in each reload is as much."""


def anonymous_kib(pid: int) -> int:
    """Memory that is nobody else's and no file's."""
    [line] = [
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("RssAnon:")
    ]
    return int(line.split()[1])


def count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.timeout(180)
def test_hundreds_of_reloads_under_load_leak_nothing(tmp_path: Path) -> None:
    """A listener and another batch size come and go. A leak shows in every round, noise only in some."""
    port, other = free_port(), free_port()
    quiet = f'[agent]\nadmin = ""\n{udp_listener(port)}[[output]]\nname = "x"\ntype = "null"\n'
    changed = f"{quiet}{udp_listener(other, 'other')}[flush]\nbatch_lines = 3000\n"
    with AgentProcess(tmp_path, quiet) as agent, load(port, 5_000) as sender:

        def reload(times: int) -> None:
            for turn in range(times):
                assert agent.reload(quiet if turn % 2 else changed)["applied"]

        reload(WARM_UP)
        files, threads = len(open_files(agent.pid)), count_threads(agent.pid)
        growth = []
        for _ in range(ROUNDS):
            before = anonymous_kib(agent.pid)
            reload(RELOADS)
            growth.append(anonymous_kib(agent.pid) - before)
        print(f"KiB that each {RELOADS} reloads add: {growth}")
        assert min(growth) <= ROUND_KIB_MAX
        # The connection that asked for the last reload may still be closing, then and now.
        wait_until(lambda: len(open_files(agent.pid)) <= files, what="descriptors are closed")
        wait_until(lambda: count_threads(agent.pid) <= threads + WORKERS_MAX, what="threads have ended")
        sent = sender.finish()
        status = agent.wait_for(lambda status: at_rest(status) and status["listeners"][0]["received"] == sent)
        assert_balanced(status)
