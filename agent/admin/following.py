"""Follows a running agent: what ``/api/stream`` tells, for whoever shows it; on when it is back."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agent.admin.client import NOTHING, Credentials, stream
from agent.errors import ControlError

_SILENCE_S = 10.0
"""An agent that says nothing for so long does not answer: it says something once a second."""

_RETRY_S = 1.0


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """The events of a stream of server-sent ones, each with its JSON, see :mod:`agent.admin.stream`."""
    name = data = b""
    for line in lines:
        key, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if key == b"event":
            name = value
        elif key == b"data":
            data = value
        elif not key:
            if data:
                yield name.decode(), json.loads(data)
            name = data = b""


def seconds(where: str, shown: Credentials = NOTHING) -> Iterator[dict[str, Any]]:
    """What each second of the agent at *where* brings. Raises ControlError when it goes away."""
    with stream(where, "/api/stream", _SILENCE_S, shown) as answer:
        for name, document in events(answer):
            if name == "second":
                yield document
    raise ControlError(f"{where}: the agent has ended")


class Follower:
    """The last second of an agent, kept up to date by a thread of its own."""

    def __init__(self, where: str, shown: Credentials = NOTHING) -> None:
        self.last: dict[str, Any] | None = None
        self.trouble = ""
        """Why nothing comes now; empty while something does."""
        self._where = where
        self._credentials = shown
        self._call: Callable[[], None] = lambda: None
        self._came = threading.Event()
        self._over = threading.Event()

    def start(self) -> None:
        # Nobody waits for it at the end: it may be in the network, and ends with the process.
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def first(self, timeout: float) -> bool:
        """Whether the agent has said anything; waits until it has, or until that has failed."""
        self._came.wait(timeout)
        return self.last is not None

    def call(self, changed: Callable[[], None]) -> None:
        """Have *changed* called from now on when there is something new, in that thread."""
        self._call = changed

    def stop(self) -> None:
        self._over.set()
        self._call = lambda: None

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                for document in seconds(self._where, self._credentials):
                    self.last, self.trouble = document, ""
                    self._changed()
                    if self._over.is_set():
                        return
            except ControlError as error:
                self.trouble = str(error).removeprefix(f"{self._where}: ")
            except ValueError:
                self.trouble = f"{self._where}: answers, but not as Penstock does"
            self._changed()
            self._over.wait(_RETRY_S)

    def _changed(self) -> None:
        self._came.set()
        self._call()
