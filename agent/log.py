"""Log lines on standard error: JSON for machines, readable text on a terminal, never a flood.

Every module has ``logger = logging.getLogger(__name__)`` and writes a constant message with the variable
parts in ``extra``::

    logger.warning("the server refused a batch", extra={"output": "influx", "status": 400})

The constant message is what the rate limit counts by. In ``extra``, names that :class:`logging.LogRecord`
has itself (``name``, ``msg``, ``args``, ``process``, ...) are refused by :mod:`logging`.
"""

import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

logger = logging.getLogger(__name__)

LIMIT_COUNT = 10
LIMIT_SECONDS = 10.0
"""At most LIMIT_COUNT lines with the same message leave within LIMIT_SECONDS."""

LEFT_OUT_S = 30.0
"""After so long without a further line of their message, those that were held back are told of."""

UNLIMITED = frozenset({"agent.log", "agent.objectives"})
"""Loggers whose lines all leave: there are few of them, and each is wanted."""

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Attributes that every record has; whatever else one has came in by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = frozenset({"time", "level", "logger", "message", "exception"})
# What may stand in a line of text without quotes.
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,*-]+")
# A message must stay on its line and must not steer a terminal.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given in ``extra``; a name that the line has itself gets an underscore at its end."""
    return {
        f"{name}_" if name in _OURS else name: value
        for name, value in vars(record).items()
        if name not in _STANDARD
    }


def _plain(value: object) -> object:
    """What orjson cannot write, as text. Config structs come here and mask their secrets in ``repr``."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode(errors="backslashreplace")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (BaseException, os.PathLike)):
        return str(value)
    return repr(value)


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _spelled(value: object) -> object:
    """*value* in a form that orjson always takes."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return _utf8(value if isinstance(value, str) else str(_plain(value)))


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC, microseconds), ``level``, ``logger``, ``message``,
    then the fields of ``extra``, then ``exception`` with its traceback."""

    _options = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, _plain, self._options).decode()
        except TypeError:
            # Lone surrogates, integers beyond 64 bits: no reason to lose the line.
            return orjson.dumps({_utf8(str(key)): _spelled(value) for key, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """``07:31:05.123 WARNING listeners: message key=value``, with local time, each record on one line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        name = record.name.removeprefix("agent.")
        parts = [f"{moment} {record.levelname:<7} {name}: {_escape(record.getMessage())}"]
        for key, value in _fields(record).items():
            parts.append(f"{_escape(key)}={self._shown(value)}")
        line = " ".join(parts)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n  {_escape(one)}" for one in trace.splitlines())
        return line

    @staticmethod
    def _shown(value: object) -> str:
        text = value if isinstance(value, str) else str(_plain(value))
        if isinstance(value, (int, float)) or _BARE.fullmatch(text):
            return text
        return '"' + _escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class RateLimit(logging.Filter):
    """Lets *count* records of one message pass within *seconds*, and counts the others.

    The number that was held back stands as ``suppressed`` in the next one that passes, or is told by
    :meth:`left_out` where none does, so that no line is lost without a trace. Messages are told apart by
    logger, level and text before its arguments are put in. Safe from any thread.
    """

    templates_max = 1024
    """Messages remembered; beyond it the one that was seen first is forgotten, and what it held back told."""

    def __init__(
        self,
        count: int = LIMIT_COUNT,
        seconds: float = LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._count = count
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        # Message → [start of its period, passed in it, held back since one passed, since when]
        self._seen: OrderedDict[tuple[str, int, str], list[float]] = OrderedDict()
        self._forgotten: list[tuple[str, int]] = []
        self.held_back = 0
        """Lines that did not pass, in all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name in UNLIMITED:
            return True
        key = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        with self._lock:
            seen = self._seen.get(key)
            if seen is None:
                seen = self._seen[key] = [now, 0, 0, now]
                if len(self._seen) > self.templates_max:
                    (_, _, message), (_, _, count, _) = self._seen.popitem(last=False)
                    if count:
                        self._forgotten.append((message, int(count)))
            elif now - seen[0] >= self._seconds:
                seen[0], seen[1] = now, 0
            if seen[1] >= self._count:
                if not seen[2]:
                    seen[3] = now
                seen[2] += 1
                self.held_back += 1
                return False
            seen[1] += 1
            suppressed, seen[2] = int(seen[2]), 0
        if suppressed:
            record.suppressed = suppressed
        return True

    def left_out(self, everything: bool = False) -> list[tuple[str, int]]:
        """Messages with how many lines of them were held back, where no further line has told that.

        Those of the last :data:`LEFT_OUT_S` may still be told so, and wait unless *everything* is wanted.
        What is returned is not returned again.
        """
        before = self._clock() - (0.0 if everything else LEFT_OUT_S)
        with self._lock:
            found, self._forgotten = self._forgotten, []
            for (_, _, message), seen in self._seen.items():
                if seen[2] and seen[3] <= before:
                    found.append((message, int(seen[2])))
                    seen[2] = 0
        return found


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error. A line that cannot be written is lost: the agent goes on without its log."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handleError(record)


_handler: _Handler | None = None
_limit: RateLimit | None = None


def setup(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Send all log lines to standard error from now on. May be called again, as a reload does.

    *level* is debug, info, warning or error, and applies to the agent's own loggers; libraries are heard
    from warning on, since their debug output quotes requests. *format* is json, text, or auto: text on
    a terminal, else JSON, also into the journal. *stream* takes the place of standard error.
    Counts of the rate limit live on across calls.
    """
    global _handler, _limit
    target = stream if stream is not None else sys.stderr
    if _handler is None:
        _handler = _Handler()
        _limit = RateLimit()
        _handler.addFilter(_limit)
        logging.getLogger().addHandler(_handler)
        logging.captureWarnings(True)
    _handler.setStream(target)
    text = format == "text" or (format == "auto" and target.isatty())
    _handler.setFormatter(TextFormatter() if text else JsonFormatter())
    own = _LEVELS[level]
    logging.getLogger("agent").setLevel(own)
    logging.getLogger().setLevel(max(own, logging.WARNING))


def sweep(everything: bool = False) -> None:
    """Tell of lines that were left out, and of which no further line tells. For once a second, and the end.

    *everything*: also of those that a further line may still tell of.
    """
    # Where it would not be heard, it is kept for when it is, or for that further line.
    if _limit is not None and logger.isEnabledFor(logging.INFO):
        for message, count in _limit.left_out(everything):
            logger.info("lines of the log were left out", extra={"of": message, "suppressed": count})


def suppressed() -> int:
    """Lines that the limit has left out so far."""
    return _limit.held_back if _limit is not None else 0


def teardown() -> None:
    """Undo :func:`setup`, for whoever embeds the agent or tests it."""
    global _handler, _limit
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        logging.captureWarnings(False)
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("agent").setLevel(logging.NOTSET)
        _handler = _limit = None
