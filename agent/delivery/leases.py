"""An output under the attempts that use it, which may be exchanged for another one at any time."""

import threading
from dataclasses import dataclass

from agent.outputs.base import Output


@dataclass(slots=True, eq=False)
class Lease:
    """An output, and how many attempts are using it."""

    output: Output
    users: int = 0


class Leases:
    """The output of now, and former ones: each is closed after its last attempt. Any thread."""

    def __init__(self, output: Output) -> None:
        self._lock = threading.Lock()
        self._current = Lease(output)
        self._former: list[Lease] = []

    @property
    def output(self) -> Output:
        """The output of now."""
        return self._current.output

    @property
    def outputs(self) -> list[Output]:
        """All that may be in use."""
        with self._lock:
            return [lease.output for lease in (self._current, *self._former)]

    def is_current(self, lease: Lease) -> bool:
        return lease is self._current

    def begin(self) -> Lease:
        """Use the output of now, until :meth:`end`."""
        with self._lock:
            self._current.users += 1
            return self._current

    def end(self, lease: Lease) -> None:
        """An attempt has ended; its output is closed if it was the last one of a former output."""
        with self._lock:
            lease.users -= 1
            last = not lease.users and lease in self._former
            if last:
                self._former.remove(lease)
        if last:
            lease.output.close()

    def replace(self, output: Output) -> bool:
        """Use *output* from the next attempt on; False if it is the one of now already."""
        with self._lock:
            former = self._current
            if former.output is output:
                return False
            self._current = Lease(output)
            if former.users:
                self._former.append(former)
        if not former.users:
            former.output.close()
        return True
