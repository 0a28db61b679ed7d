"""Signs of life: which threads come round, what each is called, and the line that says how all fares."""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from agent.admin.status import OutputState
from agent.ledger import Ledger

PATIENCE_S = 3.0
"""So long a thread may take to come round, at least; an idle one does once a second when it is looked at."""

_REASON_CHARS_MAX = 120


class Beats:
    """Tells which threads hang, from how often each has come round. One thread's.

    *watchdog* is systemd's interval in seconds, None without one. A thread hangs if it has not come round for
    a third of it: what is killed for that is running again within twice the interval, and a disk or a machine
    that stands still for a moment is not taken for a hang.
    """

    def __init__(self, watchdog: float | None = None) -> None:
        self._patience = max(PATIENCE_S, (watchdog or 0.0) / 3)
        self._seen: dict[str, tuple[int, float]] = {}

    def hanging(self, beats: Mapping[str, int]) -> dict[str, float]:
        """Which of the threads hang, and for how many seconds; *beats* has all that should come round."""
        now = time.monotonic()
        self._seen = {
            name: before if (before := self._seen.get(name)) and before[0] == count else (count, now)
            for name, count in beats.items()
        }
        return {name: now - seen for name, (_, seen) in self._seen.items() if now - seen >= self._patience}


class ThreadNames:
    """Tells the kernel what each thread is called, for ``top -H``, ``ps -L`` and debuggers.

    Python does not before 3.14. A name is cut to 15 bytes there; the main thread has that of the process.
    """

    def __init__(self) -> None:
        self._known: set[int | None] = {threading.main_thread().native_id}

    def tell(self) -> None:
        """Name the threads that are new since the last call."""
        threads = {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        for number in threads.keys() - self._known:
            # It may have ended by now; and a name is not worth an error.
            with suppress(OSError):
                Path(f"/proc/self/task/{number}/comm").write_bytes(threads[number].encode()[:15])
        self._known &= threads.keys() | {threading.main_thread().native_id}
        self._known |= threads.keys()


class ThreadTimes:
    """How much processor time each thread has had, from what the kernel says of them. One thread's.

    Those that send for one output are one name. What has ended stays in its name, but for its last second.
    """

    def __init__(self) -> None:
        self._ended: dict[str, int] = {}
        self._running: dict[int, tuple[str, int]] = {}

    def read(self) -> dict[str, int]:
        """Nanoseconds by name, ``main`` first; empty where the kernel does not tell."""
        names = {thread.native_id: _family(thread.name) for thread in threading.enumerate()}
        names[threading.main_thread().native_id] = "main"
        running = {}
        with suppress(OSError):
            for number in map(int, os.listdir("/proc/self/task")):
                before = self._running.get(number)
                name = names.get(number) or (before[0] if before else "other")
                with suppress(OSError):  # it has ended
                    running[number] = name, _processor_time(number)
        for number, (name, spent) in self._running.items():
            now = running.get(number)
            # A number may be given to another thread.
            if now is None or now[0] != name or now[1] < spent:
                self._ended[name] = self._ended.get(name, 0) + spent
        self._running = running
        times = {"main": 0, **self._ended} if running else {}
        for name, spent in running.values():
            times[name] = times.get(name, 0) + spent
        return times


def _family(name: str) -> str:
    """``send-influx-2`` is one of ``send-influx``."""
    return name.rpartition("-")[0] if name.startswith("send-") else name


def _processor_time(thread: int) -> int:
    """Nanoseconds, finer than ``stat`` has it. Format: Documentation/scheduler/sched-stats.rst of Linux."""
    with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
        return int(file.read().split()[0])


class StatusLine:
    """What ``systemctl status`` shows, written anew from one reading of the ledger after the other."""

    def __init__(self) -> None:
        self._received = 0
        self._read_at: float | None = None

    def text(self, ledger: Ledger, outputs: Iterable[OutputState]) -> str:
        """Such as ``receiving 1,200 metrics/s on 2 listeners; influx ok, 300 waiting``.

        The rate is that since the call before. What was lost is always said, with what lost it.
        """
        now, received = time.monotonic(), sum(one.received for one in ledger.listeners)
        listening = [one for one in ledger.listeners if one.sockets]
        rate = ""
        if self._read_at is not None and now > self._read_at:
            rate = f" {(received - self._received) / (now - self._read_at):,.0f} metrics/s"
        self._received, self._read_at = received, now
        parts = [f"receiving{rate} on {_count(len(listening), 'listener')}"]
        accounts = {one.name: one for one in ledger.outputs}
        for output in outputs:
            part = f"{output.name} {output.state}"
            if output.state != "ok":
                part += f" for {time.time() - output.since:,.0f} s: {output.last_error[:_REASON_CHARS_MAX]}"
            if (account := accounts.get(output.name)) is not None:
                kept = {"waiting": account.waiting, "in the spool": account.spooled}
                part += "".join(f", {number:,} {where}" for where, number in kept.items() if number)
            parts.append(part)
        drops = [one.dropped for one in ledger.listeners] + [one.dropped for one in ledger.outputs]
        lost = {
            "dropped": sum(sum(reasons.values()) for reasons in drops),
            "rejected": sum(one.rejected for one in ledger.outputs),
            "missed": sum(one.missed for one in ledger.outputs),
            "lost in the kernel": sum(one.kernel_drops for one in ledger.listeners),
        }
        parts += [f"{number:,} {what}" for what, number in lost.items() if number]
        return "; ".join(parts)


def _count(number: int, what: str) -> str:
    """``1 listener``, ``2 listeners``."""
    return f"{number} {what}{'s'[: number != 1]}"
