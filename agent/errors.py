"""Every error that the agent raises on purpose, and the exit codes of the command.

One tree, so that a caller can catch :class:`PenstockError` and know that the message was written for
a person: what was wrong, where, and what to do. Malformed input is never an error here; it is counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
# EX_CONFIG of sysexits.h; systemd prints it as "CONFIG".
EXIT_CONFIG = 78


class PenstockError(Exception):
    """Base of all errors whose message is meant for the person who runs the agent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration.

    *path* is the key (``output[0].url``) or, where a file could not be read at all, the file.
    *message* says what was found and what is wanted; it never contains a secret.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(PenstockError):
    """A configuration was refused. ``problems`` holds every reason, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ListenError(PenstockError):
    """A listener could not be opened: the address is taken, not ours to bind, or malformed."""


class OutputError(PenstockError):
    """An output could not be set up: a folder that cannot be written, a certificate that cannot be read."""


class ControlError(PenstockError):
    """The running agent could not be reached, or refused what it was asked to do."""


class NoAgentError(ControlError):
    """No agent is running there."""


class WireError(PenstockError):
    """An address that metrics are to be sent to cannot be reached, or refuses them."""


class TrialError(PenstockError):
    """A file of cases cannot be read, or asks for what cannot be tried."""


class StoreError(PenstockError):
    """A file of a spool or of rejected metrics could not be read, brought back or removed."""


class CaptureError(PenstockError):
    """A file of captured datagrams cannot be read, or is damaged."""


class RingError(PenstockError):
    """A ring file that an earlier process left cannot be adopted as it is.

    *kind* is ``foreign`` (no ring, or not of its size), ``older`` (of another version, or from before the
    machine was started), ``torn`` (damaged; *salvageable* says whether runs in it can still be told from
    damaged ones) or ``unfinished`` (its maker was killed at it; nothing can be in it).
    """

    def __init__(self, kind: str, message: str, *, salvageable: bool = False) -> None:
        self.kind = kind
        self.salvageable = salvageable
        super().__init__(message)
