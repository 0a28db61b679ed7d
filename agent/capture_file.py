"""The file of a capture: datagrams with their times of arrival. Written by clients, never by the agent.

Little endian::

    0   magic "PNSCAP1\\n" | u32 length of the header | header: JSON
        {"version": 1, "agent", "host", "created_ns", "listeners": [{"name", "address", "format"}]}
    …   blocks, each of 32 bytes and what is stored behind them:
        0 u32 "BLK1" | 4 u8 kind: 1 datagrams, 2 end, 3 note | 5 u8 compression: 0 none, 1 zlib | 6 u16 0
        8 u32 bytes stored | 12 u32 bytes raw | 16 u32 datagrams | 20 i64 first arrival, ns since 1970
        28 u32 crc32 of bytes 0 to 27 and of what is stored

The raw bytes of datagrams, one behind the other: varint, zigzag: arrival less the one before (the first: less
the first arrival) | varint: place of the listener in the header | varint: length | bytes. Those of the end:
JSON ``{"datagrams", "bytes", "missed", "ended"}``; bytes are those of all raw blocks of datagrams. A
note, JSON ``{"missed"}``, tells how it is so far; the agent sends one a second.

They are in the order of arrival, but for steps of the clock. A file without an end was cut off: all whole
blocks of it can be read. No length is believed before it is compared with what is there.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import IO, Any, NamedTuple

from agent.errors import CaptureError

MAGIC = b"PNSCAP1\n"
VERSION = 1
RAW_BYTES_MAX = 1 << 20
"""Of a block, before it is compressed."""
HEADER_BYTES_MAX = 1 << 20

_BLOCK = b"BLK1"
_HEAD = struct.Struct("<4sBBHIIIq")
_SUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")


class Kind(IntEnum):
    DATAGRAMS = 1
    END = 2
    NOTE = 3


_KINDS = frozenset(Kind)


class Datagram(NamedTuple):
    arrival_ns: int
    listener: int
    """Its place in the header."""
    text: bytes


@dataclass(frozen=True)
class Block:
    """One block, whole and checked."""

    kind: Kind
    raw: bytes
    datagrams: int
    first_ns: int


@dataclass(frozen=True)
class Header:
    """What a file is of."""

    agent: str
    host: str
    created_ns: int
    listeners: tuple[Mapping[str, str], ...]
    """Each with ``name``, ``address`` and ``format``."""


# ---- writing ----


def header_bytes(header: Header) -> bytes:
    """The beginning of a file."""
    text = json.dumps(
        {
            "version": VERSION,
            "agent": header.agent,
            "host": header.host,
            "created_ns": header.created_ns,
            "listeners": [dict(one) for one in header.listeners],
        }
    ).encode()
    return MAGIC + _LENGTH.pack(len(text)) + text


def block_bytes(block: Block, compressed: bool) -> bytes:
    """A block, *compressed* if that makes it smaller."""
    stored = zlib.compress(block.raw, 1) if compressed else block.raw
    compression = int(len(stored) < len(block.raw))
    if not compression:
        stored = block.raw
    head = _HEAD.pack(
        _BLOCK, block.kind, compression, 0, len(stored), len(block.raw), block.datagrams, block.first_ns
    )
    return head + _SUM.pack(zlib.crc32(stored, zlib.crc32(head))) + stored


def end_block(datagrams: int, nbytes: int, missed: int, ended: str) -> Block:
    """The last block of a file. *ended*: ``time``, ``count``, ``client``, ``stopped`` or ``size``."""
    text = {"datagrams": datagrams, "bytes": nbytes, "missed": missed, "ended": ended}
    return Block(Kind.END, json.dumps(text).encode(), 0, 0)


def note_block(missed: int) -> Block:
    """How many datagrams were missed so far."""
    return Block(Kind.NOTE, json.dumps({"missed": missed}).encode(), 0, 0)


# ---- reading ----


class Reader:
    """A file, read once from its beginning. Raises CaptureError, OSError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.end: Mapping[str, Any] | None = None
        """What the last block says, as soon as all before it is read; None still if the file was cut off."""
        self.missed = 0
        """Datagrams, as far as is told."""
        self.header = self._header()

    def blocks(self) -> Iterator[Block]:
        """The whole blocks, datagrams and notes, up to the end or to where the file was cut off."""
        while (block := self._block()) is not None:
            if block.kind is not Kind.DATAGRAMS:
                fields = _json(block.raw, "its end")
                self.missed = _count(fields.get("missed", 0))
                if block.kind is Kind.NOTE:
                    yield block
                    continue
                self.end = fields
                if self._file.read(1):
                    raise CaptureError("there is something behind the end")
                return
            yield block

    def datagrams(self) -> Iterator[Datagram]:
        """All of them, in their order."""
        for block in self.blocks():
            if block.kind is Kind.DATAGRAMS:
                yield from taken_apart(block, len(self.header.listeners))

    def _header(self) -> Header:
        start = self._read(len(MAGIC) + _LENGTH.size)
        if start[: len(MAGIC)] != MAGIC:
            raise CaptureError("it is no capture of Penstock's")
        if len(start) < len(MAGIC) + _LENGTH.size:
            raise CaptureError("it is cut off in its header")
        [length] = _LENGTH.unpack(start[len(MAGIC) :])
        if length > HEADER_BYTES_MAX:
            raise CaptureError("its header is damaged")
        text = self._read(length)
        if len(text) < length:
            raise CaptureError("it is cut off in its header")
        fields = _json(text, "its header")
        if (version := fields.get("version")) != VERSION:
            raise CaptureError(f"it is of version {version!r}; this Penstock reads version {VERSION}")
        try:
            listeners = tuple(
                {key: str(one[key]) for key in ("name", "address", "format")} for one in fields["listeners"]
            )
            return Header(str(fields["agent"]), str(fields["host"]), int(fields["created_ns"]), listeners)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CaptureError("its header is damaged") from error

    def _block(self) -> Block | None:
        head = self._read(_HEAD.size + _SUM.size)
        if len(head) < _HEAD.size + _SUM.size:
            return None
        magic, kind, compression, zero, stored_bytes, raw_bytes, datagrams, first_ns = _HEAD.unpack(
            head[: _HEAD.size]
        )
        damaged = magic != _BLOCK or zero or kind not in _KINDS or compression > 1
        if damaged or raw_bytes > RAW_BYTES_MAX or stored_bytes > raw_bytes:
            raise CaptureError("a block is damaged")
        stored = self._read(stored_bytes)
        if len(stored) < stored_bytes:
            return None
        if _SUM.unpack(head[_HEAD.size :])[0] != zlib.crc32(stored, zlib.crc32(head[: _HEAD.size])):
            raise CaptureError("a block is damaged")
        return Block(Kind(kind), _inflated(stored, raw_bytes) if compression else stored, datagrams, first_ns)

    def _read(self, n: int) -> bytes:
        """So many bytes, or what is left."""
        parts = []
        while n > 0 and (part := self._file.read(n)):
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


def taken_apart(block: Block, listeners: int) -> Iterator[Datagram]:
    """The datagrams of *block*, which are of so many *listeners*. Raises CaptureError."""
    raw, at, arrival_ns, count = block.raw, 0, block.first_ns, 0
    try:
        while at < len(raw):
            after, at = _varint(raw, at)
            listener, at = _varint(raw, at)
            length, at = _varint(raw, at)
            arrival_ns += (after >> 1) ^ -(after & 1)
            if listener >= listeners or length > len(raw) - at:
                raise CaptureError("a block is damaged")
            yield Datagram(arrival_ns, listener, raw[at : at + length])
            at += length
            count += 1
    except IndexError:
        raise CaptureError("a block is damaged") from None
    if count != block.datagrams:
        raise CaptureError("a block is damaged")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    byte = raw[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise CaptureError("a block is damaged")


def _inflated(stored: bytes, raw_bytes: int) -> bytes:
    """What was compressed; never more than *raw_bytes* of it are made."""
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(stored, raw_bytes) if raw_bytes else b""
    except zlib.error as error:
        raise CaptureError("a block is damaged") from error
    if len(raw) != raw_bytes or inflater.unconsumed_tail:
        raise CaptureError("a block is damaged")
    return raw


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise CaptureError("its end is damaged")
    return value


def _json(text: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"{what} is damaged") from error
    if not isinstance(fields, dict):
        raise CaptureError(f"{what} is damaged")
    return fields
