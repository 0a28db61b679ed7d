"""A person's terminal: its size, one key at a time, a screen of our own, and what may be written to it.

Whatever ends the program but ``kill -9``, the terminal is afterwards as it was before: see :class:`Screen`.
"""

import os
import re
import select
import shutil
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What a terminal would obey, what would turn text around, and what nobody sees."""

_KEYS = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
}
_KEY = re.compile(rb"\x1b(?:O[@-~]|\[[0-?]*[ -/]*[@-~])|\x1b(?![\[O]|\Z)|[^\x1b]")
"""A whole sequence of a special key, an escape by itself, or a byte."""

# Another screen than the one with the shell's lines, no cursor, and nothing runs over into the next row.
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
_LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"

_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HANDLED = (*_ENDINGS, signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH)


class Ended(BaseException):
    """A signal that asks for the end; passed on to this process once the terminal is as it was."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def printable(text: str) -> str:
    """*text* of one line as a terminal may have it: what it would obey is written as an escape."""
    return _CONTROL.sub(_escape, text)


def printable_lines(text: str) -> str:
    """The same of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def size(fd: int) -> tuple[int, int]:
    """Columns and lines of the terminal *fd* as it is now."""
    with suppress(OSError):
        columns, lines = os.get_terminal_size(fd)
        if columns and lines:
            return columns, lines
    # Some that are no windows do not know.
    columns, lines = shutil.get_terminal_size()
    return columns, lines


def is_dumb() -> bool:
    """Whether the terminal, by its name, can do nothing but write one line below the other."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


def silent_end() -> None:
    """Whoever read standard output has what it wanted: what is buffered must not fail once more at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen:
    """A terminal that shows one frame after the other and gives keys. In the main thread; see :func:`opened`.

    A *dumb* one gets each frame below the last one. Keys are read from *keys*, a terminal too, or from
    nowhere if that is None.
    """

    def __init__(self, out: int, keys: int | None, *, dumb: bool) -> None:
        self._out, self._keys, self.dumb = out, keys, dumb
        self._before: list[Any] | None = termios.tcgetattr(keys) if keys is not None else None
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._pending = b""

    def wake(self) -> None:
        """End the :meth:`wait` of now, or the next one. Any thread."""
        with suppress(BlockingIOError, OSError):
            os.write(self._waker, b"\0")

    def wait(self, timeout: float) -> list[str]:
        """The keys that were pressed: a character each, or ``up`` and the like.

        Returns without any after *timeout* seconds, when it is woken, and when the size has changed. Raises
        EOFError once the terminal has gone away.
        """
        wanted = [self._woken, *((self._keys,) if self._keys is not None else ())]
        ready, _, _ = select.select(wanted, [], [], timeout)
        if self._woken in ready:
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self._keys not in ready or self._keys is None:
            return []
        data = os.read(self._keys, 1024)
        if not data:
            raise EOFError
        return list(self._taken_apart(data))

    def show(self, lines: Sequence[str]) -> None:
        """Show *lines*, which fit, in place of the last frame."""
        if self.dumb:
            text = "".join(f"{line}\n" for line in (*lines, ""))
        else:
            # Before the text: behind a line that is full the cursor still stands on its last character.
            text = "\x1b[H" + "\r\n".join(f"\x1b[2K{line}" for line in lines)
            text += "\r\n\x1b[J" if len(lines) < size(self._out)[1] else ""
        _write(self._out, text.encode(sys.stdout.encoding or "utf-8", "replace"))

    def _taken_apart(self, data: bytes) -> Iterator[str]:
        data = self._pending + data
        position = 0
        for match in _KEY.finditer(data):
            position = match.end()
            yield _KEYS.get(match[0], match[0].decode("latin-1"))
        # What has begun goes on in the next read; an escape that is pressed by itself waits there too.
        self._pending = data[position:][:16]

    def enter(self) -> None:
        if self._keys is not None:
            mode = termios.tcgetattr(self._keys)
            # Keys one by one and not echoed; Ctrl-C and Ctrl-Z are signals as ever. Ctrl-S must not keep us
            # from writing: not even a signal would get us out of that.
            mode[0] &= ~termios.IXON
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._keys, termios.TCSADRAIN, mode)
        if not self.dumb:
            _write(self._out, _ENTER)

    def leave(self) -> None:
        """As it was. What is not possible any more, with a terminal that went away, is left."""
        if not self.dumb:
            with suppress(OSError):
                _write(self._out, _LEAVE)
        if self._keys is not None and self._before is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)

    def suspend(self, number: int, _: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, until we are wanted again."""
        self.leave()
        handler = signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)
        signal.signal(number, handler)
        self.enter()
        self.wake()

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._waker)

    @property
    def waker(self) -> int:
        """Written to by every signal."""
        return self._waker


@contextmanager
def opened(out: int, keys: int | None, *, dumb: bool) -> Iterator[Screen]:
    """A screen, with signals such that the terminal is as it was behind it, whatever ends what is in it.

    SIGTERM, SIGHUP and SIGQUIT end this process as ever, behind that; Ctrl-C is a KeyboardInterrupt.
    """
    screen = Screen(out, keys, dumb=dumb)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    handlers = {number: signal.getsignal(number) for number in _HANDLED}
    waker = signal.set_wakeup_fd(screen.waker, warn_on_full_buffer=False)
    ended_by = 0
    try:
        for number in _ENDINGS:
            signal.signal(number, _end)
        signal.signal(signal.SIGTSTP, screen.suspend)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        screen.enter()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield screen
    except Ended as ended:
        ended_by = ended.number
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        screen.leave()
        signal.set_wakeup_fd(waker)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        screen.close()
        if ended_by:
            # Once more, now as if nobody had taken it; it waits until signals are let in.
            signal.signal(ended_by, signal.SIG_DFL)
            os.kill(os.getpid(), ended_by)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
