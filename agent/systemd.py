"""What the agent says to systemd, and what systemd hands to it; without systemd, all of it does nothing.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

import logging
import os
import re
import socket
import time
from typing import NamedTuple

logger = logging.getLogger(__name__)

_LISTEN_FDS_START = 3
_LISTEN_FDS_MAX = 1024
_STATUS_CHARS_MAX = 512
_CONTROL = re.compile(r"[\x00-\x1f]")
# systemd reads its socket at once; if it does not, the agent must not wait for it.
_SEND_TIMEOUT_S = 1.0


class PassedSocket(NamedTuple):
    """A socket that systemd opened for us. *name* is its ``FileDescriptorName=``, or the unit's name."""

    fd: int
    name: str


def notify(**fields: str | int) -> bool:
    """Send *fields* as one message, such as ``notify(READY=1, STATUS="receiving")``. True if it was sent.

    Control characters in values become spaces, so that no value can pose as a field. Never raises.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    target = f"\0{address[1:]}" if address.startswith("@") else address
    lines = (f"{name}={_CONTROL.sub(' ', str(value))}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.sendto("\n".join(lines).encode(errors="replace"), target)
    except OSError as error:
        logger.warning("cannot notify systemd", extra={"socket": address, "error": error})
        return False
    return True


def ready(status: str = "") -> bool:
    """The service is up, or a reload has ended. *status* is what ``systemctl status`` shows."""
    return notify(READY=1, STATUS=status[:_STATUS_CHARS_MAX]) if status else notify(READY=1)


def reloading() -> bool:
    """A reload begins; :func:`ready` must follow. To be sent first thing when SIGHUP is handled."""
    return notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


def stopping(status: str = "") -> bool:
    """The service goes down on its own or because it was told to."""
    return notify(STOPPING=1, STATUS=status[:_STATUS_CHARS_MAX]) if status else notify(STOPPING=1)


def status(text: str) -> bool:
    """Change the line that ``systemctl status`` shows."""
    return notify(STATUS=text[:_STATUS_CHARS_MAX])


def watchdog() -> bool:
    """A sign of life, due within every :func:`watchdog_interval`."""
    return notify(WATCHDOG=1)


def watchdog_interval() -> float | None:
    """Seconds after which systemd takes silence for death; None if it does not watch this process.

    Call :func:`watchdog` at half of it.
    """
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not re.fullmatch(r"[0-9]{1,18}", microseconds) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000


def passed_sockets() -> list[PassedSocket]:
    """The sockets that systemd passed to this process, once: the next call finds none.

    They are made close-on-exec, and the variables that tell of them are removed from the environment, so that
    no child takes them for its own. The caller owns the descriptors.
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not re.fullmatch(r"[0-9]{1,4}", count):
        return []
    number = min(int(count), _LISTEN_FDS_MAX)
    named = names.split(":") if names else []
    passed = []
    for index in range(number):
        fd = _LISTEN_FDS_START + index
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            logger.warning("a socket announced by systemd is not open", extra={"fd": fd, "error": error})
            continue
        passed.append(PassedSocket(fd, named[index] if index < len(named) and named[index] else "unknown"))
    return passed
