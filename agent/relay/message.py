"""A message of a broker: the body of one request as it stands, and headers that say all about it.

===================== =================================================================================
``Penstock-Version``  1
``Penstock-Agent``    ``[agent] id`` of who sent it
``Penstock-Batch``    the id of the batch, see :mod:`agent.batch_id`
``Penstock-Encoding`` ``lp``, line protocol, or ``pb``, TimeSeries records of remote write; both as they are
                      in the spool, with timestamps in nanoseconds or, of samples, milliseconds
``Penstock-Compression`` ``none``, ``gz``, or ``sz``, snappy's block format
``Penstock-Metrics``  lines, or samples
``Penstock-Bytes``    of the body before compression
``Penstock-Oldest``   when the oldest metric arrived, nanoseconds since 1970
``traceparent``       of the attempt
===================== =================================================================================

A batch may come in several messages, parts of it: each has an identity of its own, :attr:`Message.identity`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from isal import isal_zlib

from agent.batch_id import Place, chance_id, place_of
from agent.outputs.base import PLAIN_BYTES_MAX, TEXT_CHARS_MAX, Payload

VERSION = "1"

_COMPRESSIONS = {"none": "", "gz": "gz", "sz": "sz"}
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")
_AGENT = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True)
class Message:
    """One that was received."""

    payload: Payload
    agent: str
    batch: str
    oldest_ns: int

    @property
    def place(self) -> Place | None:
        """Where in which ring of the agent the batch lay."""
        return place_of(self.batch)

    @property
    def identity(self) -> str:
        """What two messages have in common that are the same: the batch, and which bytes of it."""
        return identity(self.batch, self.payload.data)


def identity(batch: str, data: bytes | memoryview) -> str:
    """The same for what is to be sent."""
    return f"{batch}-{isal_zlib.crc32(data):08x}"


def headers(payload: Payload, agent: str) -> dict[str, str]:
    """What is said of *payload*, which is in an attempt, or was in none."""
    own = {
        "Penstock-Version": VERSION,
        "Penstock-Agent": agent,
        "Penstock-Batch": payload.batch or chance_id(),
        "Penstock-Encoding": payload.encoding,
        "Penstock-Compression": payload.compression or "none",
        "Penstock-Metrics": str(payload.metrics),
        "Penstock-Bytes": str(payload.raw_bytes),
        "Penstock-Oldest": str(payload.oldest_ns),
    }
    return own | {"traceparent": payload.trace} if payload.trace else own


def parse(found: Mapping[str, str], body: bytes) -> Message:
    """The message with headers *found*, their names in any case. Raises ValueError, which says what is wrong.

    The body is not looked at.
    """
    told = {name.lower(): value for name, value in found.items()}
    version = told.get("penstock-version")
    if version is None:
        raise ValueError("it has no header Penstock-Version: no agent has sent it")
    if version != VERSION:
        raise ValueError(f"Penstock-Version is {_shown(version)}, and not {VERSION}")
    encoding, compression = _one(told, "Encoding"), _one(told, "Compression")
    if encoding not in ("lp", "pb"):
        raise ValueError(f"Penstock-Encoding is {_shown(encoding)}, and not lp or pb")
    if compression not in _COMPRESSIONS:
        raise ValueError(f"Penstock-Compression is {_shown(compression)}, and not none, gz or sz")
    agent, batch = _one(told, "Agent"), _one(told, "Batch")
    if not _AGENT.fullmatch(agent):
        raise ValueError(f"Penstock-Agent is {_shown(agent)}: 1 to 256 printable ASCII characters are wanted")
    try:
        place_of(batch)
    except ValueError as error:
        raise ValueError(f"Penstock-Batch: {error}") from error
    metrics, raw, oldest = (_number(told, name) for name in ("Metrics", "Bytes", "Oldest"))
    if not metrics or not body:
        raise ValueError("it holds no metric")
    if raw > PLAIN_BYTES_MAX:
        raise ValueError(f"Penstock-Bytes is {raw}: a body has {PLAIN_BYTES_MAX} at most")
    if metrics > raw:
        raise ValueError(f"Penstock-Metrics is {metrics}: there are no more than bytes, {raw}")
    payload = Payload(body, metrics, raw, encoding, _COMPRESSIONS[compression], oldest_ns=oldest)
    return Message(payload, agent, batch, oldest)


def _one(told: Mapping[str, str], name: str) -> str:
    value = told.get(f"penstock-{name.lower()}")
    if value is None:
        raise ValueError(f"it has no header Penstock-{name}")
    return value


def _number(told: Mapping[str, str], name: str) -> int:
    value = _one(told, name)
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"Penstock-{name} is {_shown(value)}, and not a number")
    return int(value)


def _shown(value: str) -> str:
    return repr(value if len(value) <= TEXT_CHARS_MAX // 8 else value[: TEXT_CHARS_MAX // 8] + "…")
