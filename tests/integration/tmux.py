"""A terminal that tests can type into and look at: tmux, with a server of its own.

with terminal(tmp_path, 80, 24) as term:
    term.run("penstock top")
    term.wait_for("LISTENER")
    term.keys("q")
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need, wait_until
from tests.integration.agent_process import ROOT

PROMPT = "READY>"


class Terminal:
    """One window of tmux, with a shell in it. Its screen is text; colours are in :meth:`painted`."""

    def __init__(self, folder: Path, columns: int, lines: int, env: Mapping[str, str]) -> None:
        self._tmux = need("tmux")
        self._socket = str(folder / "tmux")
        config = folder / "tmux.conf"
        config.write_text(
            "set -g status off\nset -g escape-time 0\nset -g default-terminal screen-256color\n"
        )
        self._config = str(config)
        profile = folder / "profile"
        profile.write_text(f"PS1='{PROMPT}'\n")
        self._env = {key: value for key, value in os.environ.items() if key not in ("TMUX", "NO_COLOR")}
        self._env |= {"ENV": str(profile), "LC_ALL": "C.UTF-8"}
        shell = ["env", *(f"{key}={value}" for key, value in env.items()), "sh"]
        self._ask("new-session", "-d", "-x", str(columns), "-y", str(lines), shlex.join(shell))
        self.wait_for(PROMPT)

    def run(self, command: str) -> None:
        """Type *command*."""
        self.keys(command, "Enter")

    def keys(self, *keys: str) -> None:
        """Type keys, or texts: tmux knows ``Enter``, ``C-c``, ``Down`` and the like."""
        self._ask("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._ask("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def rows(self) -> list[str]:
        """What can be seen, row by row."""
        return self._ask("capture-pane", "-p").split("\n")[:-1]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    @property
    def painted(self) -> str:
        """The same with its colours, as escape sequences."""
        return self._ask("capture-pane", "-p", "-e")

    @property
    def modes(self) -> tuple[str, str, str]:
        """Whether another screen is shown, whether there is a cursor, and whether lines wrap."""
        told = self._ask("display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}").split()
        return told[0], told[1], told[2]

    @property
    def tty(self) -> str:
        """How the terminal is set, as stty tells it."""
        device = self._ask("display-message", "-p", "#{pane_tty}").strip()
        return subprocess.run(
            ["stty", "-a", "-F", device], check=True, capture_output=True, text=True
        ).stdout.partition("\n")[2]

    def wait_for(
        self, wanted: str | Callable[[list[str]], object], timeout: float = 20.0, what: str = ""
    ) -> list[str]:
        """Wait until *wanted* can be seen, or until it is true of the rows; returns them."""
        last: list[str] = []

        def seen() -> bool:
            last[:] = self.rows
            return bool(wanted in "\n".join(last) if isinstance(wanted, str) else wanted(last))

        try:
            wait_until(seen, timeout)
        except pytest.fail.Exception:
            pytest.fail(f"not within {timeout:g} s: {what or wanted}\n" + "\n".join(last))
        return last

    def close(self) -> None:
        subprocess.run([self._tmux, "-S", self._socket, "kill-server"], capture_output=True, check=False)

    def _ask(self, *arguments: str) -> str:
        command = [self._tmux, "-S", self._socket, "-f", self._config, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def terminal(
    folder: Path, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A terminal of that size. *env* is what programs in it have besides."""
    term = Terminal(folder, columns, lines, env or {})
    try:
        yield term
    finally:
        term.close()
