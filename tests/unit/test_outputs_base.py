"""What all outputs share: payloads and texts."""

import gzip

import pytest

from agent.outputs import base
from agent.outputs.base import Payload, one_line, plain

BODY = b"m v=1 1\n" * 1000


def packed(data):
    return Payload(data, 1000, len(BODY), compression="gz")


def test_a_body_that_is_not_compressed_is_plain_as_it_is():
    view = memoryview(BODY)
    assert plain(Payload(view, 1000, len(BODY))) is view


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_compressed_body_is_uncompressed(kind):
    assert plain(packed(kind(gzip.compress(BODY)))) == BODY


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"m v=1 1\n",
        lambda data: data[:-1],
        lambda data: data[:-9],
        lambda data: b"x" + data,
        lambda data: data + b"x",
        lambda data: data + data,
        lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:],
    ],
)
def test_damage_is_noticed(damage):
    with pytest.raises(ValueError, match="gzip"):
        plain(packed(damage(gzip.compress(BODY))))


def test_what_is_too_large_uncompressed_is_damaged(monkeypatch):
    monkeypatch.setattr(base, "PLAIN_BYTES_MAX", len(BODY) - 1)
    with pytest.raises(ValueError, match="gzip"):
        plain(packed(gzip.compress(BODY)))


def test_an_unknown_compression_is_an_error():
    with pytest.raises(ValueError, match="zz"):
        plain(Payload(BODY, 1000, len(BODY), compression="zz"))


def test_a_text_becomes_one_printable_line():
    assert one_line("a\n b\t\x1b c") == "a b � c"
