"""Bodies of requests: read within the limits, and decompressed within the same.

What is decompressed never takes more memory than ``max_body``, whatever it claims to be: a bomb costs that
much, and is answered with 413. All bodies that are arriving together are bounded by a :class:`Budget`.
"""

import zlib
from typing import cast
from urllib.parse import parse_qs

import cramjam
from aiohttp import web
from isal import igzip_lib, isal_zlib

from agent.inputs.http.refused import Refused

ENCODINGS = ("identity", "gzip", "deflate", "snappy")
"""Values of ``Content-Encoding``, besides ``x-gzip``, which is gzip."""

_DAMAGED: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.error),
    cramjam.DecompressionError,
    EOFError,
    ValueError,
)
_GZIP_MEMBERS_MAX = 4096
_BUDGET_BODIES = 8


class Budget:
    """Bytes that bodies may take while they arrive: :data:`_BUDGET_BODIES` times the largest."""

    def __init__(self) -> None:
        self.used = 0

    def has(self, size: int, body_max: int) -> bool:
        return self.used + size <= _BUDGET_BODIES * body_max


def encoding_of(request: web.BaseRequest, known: tuple[str, ...]) -> str:
    """The Content-Encoding of *request*, the first of *known* if it has none.

    Raises Refused, 415, if it is not one of *known*.
    """
    encoding = request.headers.get("Content-Encoding", "").strip().lower() or known[0]
    if encoding == "x-gzip":
        encoding = "gzip"
    if encoding not in known:
        raise Refused(
            415, f"Content-Encoding {encoding!r} is not known here; {', '.join(known)} are", headers={}
        )
    return encoding


async def receive(request: web.BaseRequest, body_max: int, budget: Budget) -> bytes:
    """The whole body as it came. Raises Refused: 413 over *body_max* bytes, 429 over the budget, 400."""
    size = 0
    parts = []
    read = request.content.readany
    try:
        while part := await read():
            size += len(part)
            if size > body_max:
                raise too_large(body_max)
            if not budget.has(len(part), body_max):
                raise Refused(
                    429,
                    "too many bodies are on their way at once; send it again",
                    headers={"Retry-After": "1"},
                )
            budget.used += len(part)
            parts.append(part)
    except (web.RequestPayloadError, ValueError) as error:
        raise Refused(400, f"the body is malformed: {error}") from error
    finally:
        budget.used -= sum(map(len, parts))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(body_max: int) -> Refused:
    return Refused(
        413, f"the body is larger than {body_max} bytes, also when decompressed; send less at once"
    )


def decompress(data: bytes, encoding: str, body_max: int) -> bytes:
    """*data* without its *encoding*. Raises Refused: 400 if it is damaged, 413 over *body_max* bytes."""
    if encoding == "identity":
        return data
    try:
        if encoding == "snappy":
            return _snappy(data, body_max)
        if encoding == "gzip":
            return _gzip(data, body_max)
        return _deflate(data, body_max)
    except _DAMAGED as error:
        raise Refused(400, f"the body is no {encoding}, or damaged: {error}") from error


def _snappy(data: bytes, body_max: int) -> bytes:
    """The block format, which begins with the size of what it holds."""
    size = _snappy_size(data)
    if size > body_max:
        raise too_large(body_max)
    found = bytes(cramjam.snappy.decompress_raw(data))
    if len(found) != size:
        raise ValueError("it is shorter than it says")
    return found


def _snappy_size(data: bytes) -> int:
    size = 0
    for index, byte in enumerate(data[:5]):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return size
    raise ValueError("its size is missing")


def _gzip(data: bytes, body_max: int) -> bytes:
    """One or several members, one behind the other."""
    parts: list[bytes] = []
    room = body_max
    for _ in range(_GZIP_MEMBERS_MAX):
        member = isal_zlib.decompressobj(wbits=31)
        part = member.decompress(data, room + 1)
        if len(part) > room:
            raise too_large(body_max)
        if not member.eof:
            raise EOFError("its end is missing")
        parts.append(part)
        room -= len(part)
        data = member.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise ValueError(f"it has more than {_GZIP_MEMBERS_MAX} members")


def _deflate(data: bytes, body_max: int) -> bytes:
    """With the frame of zlib, as the standard wants it, or bare, as some send it."""
    framed = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    stream = isal_zlib.decompressobj(wbits=zlib.MAX_WBITS if framed else -zlib.MAX_WBITS)
    found = stream.decompress(data, body_max + 1)
    if len(found) > body_max:
        raise too_large(body_max)
    if not stream.eof:
        raise EOFError("its end is missing")
    return found


def form_value(data: bytes, name: str) -> str:
    """The first value of *name* in a form of the kind that browsers send; empty if there is none."""
    try:
        return parse_qs(data.decode("ascii", "replace")).get(name, [""])[0]
    except ValueError:
        return ""
