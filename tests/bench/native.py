"""The native tools of ``native/``: built when they are first wanted, run to their end or beside something.

Each tool prints JSON; what a call here returns is that, as a dict. The C sources say what the keys mean.
"""

import json
import struct
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).with_name("native")
_BODY_HEADER = struct.Struct("=III")  # body_header_t of tool.h
_BODY_GZIP = 1

Result = dict[str, Any]


class NativeError(RuntimeError):
    """A tool could not be built, or failed; the message carries what it said."""


@cache
def build() -> Path:
    """The folder of the tools, up to date. Needs ``make`` and a C compiler."""
    try:
        subprocess.run(["make", "-s", "-C", str(_FOLDER)], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NativeError(f"the native tools need {error.filename}") from None
    except subprocess.CalledProcessError as error:
        raise NativeError(f"building the native tools failed:\n{error.stderr}") from None
    return _FOLDER / "build"


def _command(name: str, options: dict[str, object], cpus: Iterable[int] | None) -> list[str]:
    """``count=5, gro=True`` become ``--count 5 --gro``; None and False are left out."""
    command = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
    command.append(str(build() / name))
    for key, value in options.items():
        option = "--" + key.replace("_", "-")
        if value is True:
            command.append(option)
        elif isinstance(value, list | tuple):
            command += [text for item in value for text in (option, str(item))]
        elif value is not None and value is not False:
            command += [option, str(value)]
    return command


def run(name: str, *, cpus: Iterable[int] | None = None, timeout: float = 300.0, **options: object) -> Result:
    """Run a tool to its end, on the processors *cpus*, and return what it printed.

    Raises NativeError if it fails, subprocess.TimeoutExpired after *timeout* seconds.
    """
    done = subprocess.run(_command(name, options, cpus), capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise NativeError(f"{name} ended with {done.returncode}: {done.stderr.strip()}")
    result: Result = json.loads(done.stdout)
    return result


class Beside:
    """A tool that runs beside something, from the moment its port is known until :meth:`stop`.

    A context manager: leaving it ends the tool, whatever happened.
    """

    def __init__(self, name: str, *, cpus: Iterable[int] | None = None, **options: object) -> None:
        self.name = name
        self.process = subprocess.Popen(
            _command(name, options, cpus), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = 0
        try:
            assert self.process.stdout is not None
            self.port = int(json.loads(self.process.stdout.readline() or "{}").get("port", 0))
        finally:
            if not self.port:
                self._fail()

    def _fail(self) -> None:
        self.process.kill()
        _, said = self.process.communicate()
        raise NativeError(f"{self.name} ended with {self.process.returncode}: {said.strip()}")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self, *, ask: bool = True, timeout: float = 30.0) -> Result:
        """Ask the tool to end (or, with *ask* false, wait until it does), and return what it printed."""
        if ask:
            self.process.terminate()
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._fail()
        if self.process.returncode:
            raise NativeError(f"{self.name} ended with {self.process.returncode}")
        result: Result = json.loads(out)
        return result

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Lines(NamedTuple):
    """Which lines are sent: the options that udp_send and lines share. Times are nanoseconds since 1970."""

    shape: int = 117
    series: int = 100
    time_ns: int = 1_700_000_000_000_000_000
    step_ns: int = 1_000_000
    no_timestamps: bool = False
    scatter: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return self._asdict()

    def text(self, count: int) -> bytes:
        """The first *count* lines, as they are sent."""
        command = _command("lines", {"count": count, **self.options}, None)
        return subprocess.run(command, check=True, capture_output=True).stdout

    def bodies(self, path: Path, count: int, body_lines: int) -> Path:
        """Write the first *count* lines to *path*, as prepared bodies of *body_lines* lines each."""
        command = _command("lines", {"count": count, "body_lines": body_lines, **self.options}, None)
        with path.open("wb") as file:
            subprocess.run(command, check=True, stdout=file)
        return path


class Body(NamedTuple):
    """One request body of a file of them; *lines* is 0 where the writer did not know."""

    data: bytes
    lines: int
    gzip: bool


def read_bodies(path: Path) -> Iterator[Body]:
    """The bodies that http_null dumped or that :meth:`Lines.bodies` wrote."""
    with path.open("rb") as file:
        while head := file.read(_BODY_HEADER.size):
            size, lines, flags = _BODY_HEADER.unpack(head)
            data = file.read(size)
            if len(data) != size:
                raise NativeError(f"{path} ends within a body")
            yield Body(data, lines, bool(flags & _BODY_GZIP))


def write_bodies(path: Path, bodies: Iterable[Body]) -> Path:
    """Write bodies for http_post."""
    with path.open("wb") as file:
        for body in bodies:
            file.write(_BODY_HEADER.pack(len(body.data), body.lines, _BODY_GZIP if body.gzip else 0))
            file.write(body.data)
    return path
