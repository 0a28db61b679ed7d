"""What it costs a lane that its ring outlives the process: checksums of all that it writes.

One lane with one socket writes by turns into two rings, each in memory: a file, as an agent has it, and an
anonymous one, which takes no checksums since nobody could ever look at them. Everything else is the same.
What is sent waits in the socket until all of it is there: so the lane always finds full bursts, whose cost
does not depend on who else wants the processor.
"""

import os
import socket
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent._core import Lane, Ring, Waker
from tests.bench.harness import Run, Target, check, processors
from tests.bench.native import Lines
from tests.bench.receive import Load

RING_BYTES = 64 << 20
PACK_BYTES = 1432
DATAGRAMS_PER_S = 300_000
DATAGRAM_COST_BYTES = 2560
"""What a datagram takes of the receive buffer, at most."""
PAIRS = 4
"""Of new rings in one round: where their pages happen to lie makes a difference of some per cent."""
TURNS = 5
"""Of each ring of a pair. They change places each time; the median of all turns of a round counts."""

_SO_RCVBUFFORCE = 33


class Pipe:
    """A lane that reads one socket, and a thread that takes what it writes."""

    def __init__(self, folder: Path) -> None:
        self.waker = Waker()
        self.rings = {
            "safe": Ring(str(folder / "bench.ring"), RING_BYTES, self.waker),
            "anonymous": Ring(None, RING_BYTES, self.waker),
        }
        self.lane = Lane(0)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 128 << 20)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 20)
        room = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.datagrams_max = room // DATAGRAM_COST_BYTES
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.lane.add_socket(0, self.socket.fileno())
        self.done = False
        self.threads = [threading.Thread(target=self._receive), threading.Thread(target=self._drain)]
        for thread in self.threads:
            thread.start()

    def _receive(self) -> None:
        receiver, _ = processors()
        if receiver:
            os.sched_setaffinity(0, receiver)
        self.lane.run()

    def _drain(self) -> None:
        while not self.done:
            self.waker.wait(0.05)
            for ring in self.rings.values():
                while (batch := ring.take(1 << 20, 10_000, True)) is not None:
                    batch.release()
                ring.arm(1 << 20, 10_000)

    def turn(self, name: str, load: Load) -> float:
        """Send *load* through the ring of that name; nanoseconds of the lane's processor time for a line."""
        ring = self.rings[name]
        self.lane.set_layout((), [ring])
        before, written = self.lane.stats(), ring.stats()["written"]
        self.lane.remove_socket(self.socket.fileno(), drain=False)
        load.send(self.address)
        self.lane.add_socket(0, self.socket.fileno())
        deadline, quiet, last = time.monotonic() + 20, 0, -1
        while quiet < 3:
            check(time.monotonic() < deadline, "everything that was sent is read and in the ring")
            time.sleep(0.005)
            now, in_ring = self.lane.stats(), ring.stats()["written"] - written
            accepted = now["accepted"] - before["accepted"]
            empty = not now["listeners"][0]["queue_bytes"] and accepted and in_ring == accepted == last
            quiet, last = quiet + 1 if empty else 0, accepted
        return (now["cpu_ns"] - before["cpu_ns"]) / accepted

    def close(self) -> None:
        self.lane.stop(1.0)
        self.done = True
        self.waker.wake()
        for thread in self.threads:
            thread.join(20)
        for ring in self.rings.values():
            ring.close()
        self.socket.close()


@contextmanager
def pipe(run: Run) -> Iterator[Pipe]:
    with run.place() as folder:
        one = Pipe(folder)
        try:
            yield one
        finally:
            one.close()


def measure(run: Run) -> None:
    """Lines packed into datagrams, where the kernel's part is small, and one line in each."""
    kinds = []
    for shape, pack in ((117, PACK_BYTES), (64, PACK_BYTES), (64, 0)):
        each = max(pack // shape, 1)
        figure = run.figure(
            f"lane CPU, {shape}-byte lines, {each} in a datagram",
            "ns/line",
            baseline="an anonymous ring",
            target=Target(1.03, at_least=False, of_ratio=True),
        )
        count = run.size(400_000 if pack else 50_000, 20_000) // each
        kinds.append((figure, Load(Lines(shape=shape), count=count, rate=DATAGRAMS_PER_S, pack=pack)))
    for _ in run.rounds("by turns"):
        costs: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(run.size(PAIRS, 1)):
            with pipe(run) as one:
                for figure, load in kinds:
                    load = replace(load, count=min(load.count, one.datagrams_max))
                    for name in one.rings:
                        one.turn(name, load)  # faults the pages in
                    for at in range(run.size(TURNS, 1)):
                        for name in list(one.rings)[:: 1 if at % 2 else -1]:
                            costs[figure.name, name].append(one.turn(name, load))
        for figure, _ in kinds:
            figure.add(
                statistics.median(costs[figure.name, "safe"]),
                statistics.median(costs[figure.name, "anonymous"]),
            )
