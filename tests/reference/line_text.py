"""The small parts of the reference line reader: where a line ends, what separates parts, field values."""

from __future__ import annotations

import math
import re

LF, CR, TAB, SPACE, NUL = b"\n", b"\r", b"\t", b" ", b"\0"
BACKSLASH, QUOTE, COMMA, EQUALS = b"\\", b'"', b",", b"="

INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
BOOLEANS = frozenset(b"t T true True TRUE f F false False FALSE".split())

INTEGER = re.compile(rb"(-?)0*([0-9]+)i")
UNSIGNED = re.compile(rb"0*([0-9]+)u")
FLOAT = re.compile(rb"(-?)([0-9]*)(\.?)([0-9]*)([eE][-+]?[0-9]+)?")
UNDERSCORE = re.compile(rb"(?<=[0-9])_(?=[0-9])")


class Malformed(Exception):
    """A line that cannot be brought into the safe subset; its only argument is the reason."""


def line_ends(data: bytes, at: int) -> bool:
    """Whether the line's text ends at *at*: LF, CR LF, end of data, or CR at the end of data."""
    return data[at : at + 1] in (b"", LF) or data[at : at + 2] in (CR, CR + LF)


def find_line_feed(data: bytes, at: int) -> int:
    """Offset of the first LF at or behind *at*, or the length of the data."""
    found = data.find(LF, at)
    return len(data) if found < 0 else found


def skip_blanks(data: bytes, at: int) -> int:
    while data[at : at + 1] in (SPACE, TAB, NUL):
        at += 1
    return at


def is_separator(data: bytes, at: int) -> bool:
    return data[at : at + 1] in (SPACE, TAB)


def is_utf8(text: bytes) -> bool:
    """Well-formed UTF-8: no surrogates, no overlong forms, nothing above U+10FFFF."""
    try:
        text.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return False
    return True


def read_value(data: bytes, at: int, unsigned: bool) -> tuple[bytes, bool, int]:
    """A field value as it is written, whether it was clamped, and the offset behind it."""
    if data[at : at + 1] == QUOTE:
        value, at = read_string(data, at)
        return value, False, at
    begin = at
    while not (data[at : at + 1] == COMMA or is_separator(data, at) or line_ends(data, at)):
        at += 1
    token = data[begin:at]
    if token in BOOLEANS:
        return token, False, at
    if token[:1] and token[:1] in b"-+.0123456789NnIi":
        value, was_clamped = read_number(token, unsigned)
        return value, was_clamped, at
    raise Malformed("field")


def read_string(data: bytes, at: int) -> tuple[bytes, int]:
    """A quoted string: ``\\"`` and ``\\\\`` are escapes, other backslashes are themselves and get doubled.

    Except before n, r and t: there line-protocol v2 reads a control character, and the others do not.
    """
    value = bytearray(QUOTE)
    at += 1
    while data[at : at + 1] != QUOTE:
        byte, following = data[at : at + 1], data[at + 1 : at + 2]
        if byte == b"":
            raise Malformed("string")
        if byte != BACKSLASH:
            value += byte
            at += 1
        elif following in (QUOTE, BACKSLASH):
            value += byte + following
            at += 2
        elif following in (b"n", b"r", b"t"):
            raise Malformed("backslash")
        else:
            value += BACKSLASH * 2
            at += 1
    at += 1
    if not (data[at : at + 1] == COMMA or is_separator(data, at) or line_ends(data, at)):
        raise Malformed("string")
    return bytes(value + QUOTE), at


def read_number(token: bytes, unsigned: bool) -> tuple[bytes, bool]:
    """An integer, unsigned integer or float as it is written, and whether it was clamped."""
    if match := INTEGER.fullmatch(token):
        number = decimal(match[1] + match[2])
        if not INT64_MIN <= number <= INT64_MAX:
            raise Malformed("number")
        return b"%di" % number, False
    if match := UNSIGNED.fullmatch(token):
        number = decimal(match[1])
        if number > UINT64_MAX:
            raise Malformed("number")
        if unsigned:
            return b"%du" % number, False
        return b"%di" % min(number, INT64_MAX), number > INT64_MAX
    match = FLOAT.fullmatch(UNDERSCORE.sub(b"", token))
    if match is None or not (match[2] or match[4]):
        raise Malformed("number")
    sign, whole, point, fraction, exponent = (part or b"" for part in match.groups())
    text = sign + (whole or b"0") + point + (fraction or b"0" * len(point)) + exponent
    if math.isinf(float(text)):
        raise Malformed("number")
    return text, False


def decimal(digits: bytes) -> int:
    """The integer that *digits* spell; if it is too great for 64 bits, some integer that is."""
    sign, digits = digits[:1] == b"-", digits.lstrip(b"-").lstrip(b"0")
    # Python refuses to convert thousands of digits at once.
    magnitude = int(digits or b"0") if len(digits) <= 20 else 10**20
    return -magnitude if sign else magnitude
