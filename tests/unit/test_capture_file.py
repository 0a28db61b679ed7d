"""The file of a capture: what is written is read; whatever else is in it is an error, or a shorter file."""

import io
import json
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import capture_file
from agent.capture_file import Block, Datagram, Header, Kind, Reader, block_bytes, end_block, header_bytes
from agent.errors import CaptureError

HEADER = Header("1.2", "host", 17, ({"name": "a", "address": "udp://x", "format": "line"},) * 2)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block_of(datagrams: list[Datagram]) -> Block:
    raw, before = b"", datagrams[0].arrival_ns
    for one in datagrams:
        after = one.arrival_ns - before
        before = one.arrival_ns
        zigzag = after << 1 if after >= 0 else (-after << 1) - 1
        raw += varint(zigzag) + varint(one.listener) + varint(len(one.text)) + one.text
    return Block(Kind.DATAGRAMS, raw, len(datagrams), datagrams[0].arrival_ns)


def file_of(*blocks: list[Datagram], compressed: bool = False, ended: bool = True) -> bytes:
    data = header_bytes(HEADER)
    data += b"".join(block_bytes(block_of(block), compressed) for block in blocks)
    return data + block_bytes(end_block(9, 99, 3, "time"), False) * ended


def read(data: bytes) -> tuple[list[Datagram], object]:
    reader = Reader(io.BytesIO(data))
    assert reader.header == HEADER
    return list(reader.datagrams()), reader.end


ONE = [
    Datagram(10**18, 0, b"a v=1\n\0"),
    Datagram(10**18 + 5, 1, b""),
    Datagram(10**18 - 10**9, 1, b"\xff" * 300),
]
TWO = [Datagram(10**18 + 7, 1, b"b v=1")]

datagrams = st.lists(
    st.builds(Datagram, st.integers(0, 2**62), st.integers(0, 1), st.binary(max_size=300)),
    min_size=1,
    max_size=9,
)


@given(st.lists(datagrams, max_size=3), st.booleans())
def test_what_is_written_is_read(blocks: list[list[Datagram]], compressed: bool) -> None:
    found, end = read(file_of(*blocks, compressed=compressed))
    assert found == [one for block in blocks for one in block]
    assert end == {"datagrams": 9, "bytes": 99, "missed": 3, "ended": "time"}


def test_a_block_is_compressed_only_if_that_makes_it_smaller() -> None:
    large = [Datagram(1, 0, b"x" * 1000)]
    assert len(file_of(large, compressed=True)) < len(file_of(large)) - 900
    assert file_of(TWO, compressed=True) == file_of(TWO)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_off_is_read_to_its_last_whole_block(compressed: bool) -> None:
    data = file_of(ONE, TWO, compressed=compressed)
    header = len(header_bytes(HEADER))
    first, second = (
        len(file_of(*blocks, compressed=compressed, ended=False)) for blocks in ([ONE], [ONE, TWO])
    )
    for cut in range(len(data)):
        if cut < header:
            with pytest.raises(CaptureError):
                Reader(io.BytesIO(data[:cut]))
            continue
        found, end = read(data[:cut])
        assert found == ONE * (cut >= first) + TWO * (cut >= second)
        assert end is None


@pytest.mark.parametrize("compressed", [False, True])
def test_a_byte_that_was_changed_in_a_block_is_noticed(compressed: bool) -> None:
    data = file_of(ONE, TWO, compressed=compressed)
    for at in range(len(header_bytes(HEADER)), len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        try:
            found, end = read(bytes(changed))
        except CaptureError:
            continue
        # A length that has become larger than the file: as if it was cut off there.
        assert found in ([], ONE, ONE + TWO) and end is None


def test_a_header_that_was_changed_raises_nothing_else() -> None:
    data = file_of(ONE)
    for at in range(len(header_bytes(HEADER))):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                reader = Reader(io.BytesIO(bytes(changed)))
                list(reader.datagrams())
            except CaptureError:
                pass


def packed(
    kind: int = 1, compression: int = 0, stored: bytes = b"", raw: int | None = None, count: int = 0
) -> bytes:
    head = struct.pack(
        "<4sBBHIIIq",
        b"BLK1",
        kind,
        compression,
        0,
        len(stored),
        len(stored) if raw is None else raw,
        count,
        0,
    )
    return head + struct.pack("<I", zlib.crc32(stored, zlib.crc32(head))) + stored


def lying() -> Iterator[bytes]:
    """Blocks whose sum is right, and whose numbers are not."""
    yield packed(stored=varint(0) + varint(0) + varint(5) + b"abc", count=1)  # longer than the block
    yield packed(stored=varint(0) + varint(2) + varint(0), count=1)  # no such listener
    yield packed(stored=varint(0) + varint(0) + varint(0), count=2)  # fewer than it says
    yield packed(stored=varint(0) + varint(0), count=1)
    yield packed(stored=b"\xff" * 20, count=1)
    yield packed(stored=b"\xff", count=1)
    yield packed(compression=1, stored=b"no zlib", raw=100, count=1)
    yield packed(compression=1, stored=zlib.compress(bytes(10_000)), raw=9_999, count=1)
    yield packed(compression=1, stored=zlib.compress(bytes(10_000)), raw=10_001, count=1)
    yield packed(compression=1, stored=zlib.compress(bytes(1 << 24)), raw=1 << 24, count=1)
    yield packed(kind=4)
    yield packed(kind=3, stored=b'{"missed": "x"}')
    yield packed(kind=2, stored=b'{"missed": -1}')
    yield packed(kind=2, stored=b"[]")
    yield packed(kind=2, stored=b"{")
    yield packed(kind=2, stored=b"{}") + b"x"


@pytest.mark.parametrize("block", [*lying()])
def test_no_number_is_believed(block: bytes) -> None:
    with pytest.raises(CaptureError):
        list(Reader(io.BytesIO(header_bytes(HEADER) + block)).datagrams())


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"listeners": [{}]},
        {"listeners": None},
        {"created_ns": "x"},
        {"created_ns": float("inf")},
    ],
)
def test_another_header_is_refused(fields: dict[str, object]) -> None:
    text = header_bytes(HEADER)[12:]
    other = json.dumps(json.loads(text) | fields).encode()
    data = capture_file.MAGIC + struct.pack("<I", len(other)) + other
    with pytest.raises(CaptureError):
        Reader(io.BytesIO(data))
