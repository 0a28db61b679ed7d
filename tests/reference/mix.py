"""The hash of ``ext/mix.h`` with its fixed key: which output a series belongs to hangs on it."""

WORD = (1 << 64) - 1
FIXED = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)


def fold(a: int, b: int) -> int:
    """Both halves of a product, folded."""
    product = a * b
    return product & WORD ^ product >> 64


def mix_bytes(h: int, text: bytes) -> int:
    """The bytes, mixed into ``h``: sixteen to each of two streams by turns, the last to the second."""
    a, b = h ^ FIXED[0], h ^ FIXED[1]
    left = text
    while len(left) > 32:
        words = [int.from_bytes(left[at : at + 8], "little") for at in range(0, 32, 8)]
        a = fold(words[0] ^ FIXED[2], words[1] ^ a)
        b = fold(words[2] ^ FIXED[3], words[3] ^ b)
        left = left[32:]
    if len(left) > 16:
        a = fold(int.from_bytes(left[:8], "little") ^ FIXED[2], int.from_bytes(left[8:16], "little") ^ a)
        left = left[16:]
    b = fold(int.from_bytes(left[:8], "little") ^ FIXED[3], int.from_bytes(left[8:], "little") ^ b)
    return fold(a ^ FIXED[1], b ^ FIXED[2] ^ len(text))


def mix_pair(key: bytes, value: bytes) -> int:
    """A tag, with the border between its key and its value."""
    return mix_bytes(mix_bytes(FIXED[2], key), value)
