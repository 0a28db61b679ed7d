"""Durations, sizes and addresses as a configuration writes them, and how messages quote what it holds.

Every function that parses raises :class:`ValueError` with a message that says what is wanted.
"""

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_DURATION_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
# Limited, so that no text makes the arithmetic expensive; 30 digits spell any float from 1e-9 on.
_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,30})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}(ns|us|ms|s|m|h|d))")
_SIZE = re.compile(rf"{_NUMBER} ?([A-Za-z]+)")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")

# sun_path is 108 bytes with its closing NUL.
_SOCKET_PATH_BYTES_MAX = 107


class Filled(str):
    """A text in which references such as ``${NAME}`` were replaced; ``raw`` is what the file says.

    Messages quote ``raw``: what a reference stands for may be a secret, wherever it was used.
    """

    raw: str

    def __new__(cls, text: str, raw: str) -> "Filled":
        filled = super().__new__(cls, text)
        filled.raw = raw
        return filled


def quote(value: object) -> str:
    """*value* for a message: as TOML would spell it, control characters escaped, cut to 80 characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "an array"
    if isinstance(value, str):
        text = value.raw if isinstance(value, Filled) else value
        shown = json.dumps(text if len(text) <= 80 else text[:77] + "...", ensure_ascii=False)
        return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", shown)
    return str(value)[:80]


def one_of(words: Iterable[str]) -> str:
    """``"a" or "b"``, ``one of "a", "b", "c"``: what may stand somewhere."""
    quoted = [quote(word) for word in words]
    return " or ".join(quoted) if len(quoted) < 3 else f"one of {', '.join(quoted)}"


def hint(word: str, known: list[str], mark: str = '"') -> str:
    """``; did you mean "…"?`` if *word* is close to one of *known*, else nothing."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        close = [name for name in known if name.lower() == word.lower()][:1]
    return f"; did you mean {mark}{close[0]}{mark}?" if close else ""


def parse_duration(text: str) -> float:
    """Seconds in *text*: ``"200ms"``, ``"1.5s"``, ``"1m30s"``. Units ns, us, ms, s, m, h, d, largest first.

    The result is the float nearest to the exact value. Raises ValueError.
    """
    total = Fraction(0)
    position = 0
    last: Fraction | None = None
    for match in _DURATION.finditer(text):
        unit = _DURATION_UNITS[match[2]]
        if match.start() != position or (last is not None and unit >= last):
            break
        total += Fraction(match[1]) * unit
        position, last = match.end(), unit
    if position == 0 or position != len(text):
        raise ValueError('wanted a duration with its unit, such as "200ms", "30s" or "1m30s"')
    return float(total)


def format_duration(seconds: float) -> str:
    """The shortest text that :func:`parse_duration` reads as exactly *seconds*: ``0.2`` gives ``"200ms"``."""
    exact = Fraction(Decimal(repr(float(seconds))))
    if exact == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        count = exact / _DURATION_UNITS[unit]
        if count.denominator == 1 and count < 10**18:
            return f"{count.numerator}{unit}"
    return f"{Decimal(repr(float(seconds))):f}s"


def parse_size(text: str) -> int:
    """Bytes in *text*: ``"64KiB"`` (powers of 1024), ``"25MB"`` (of 1000), ``"512B"``. Raises ValueError."""
    wanted = 'wanted a size with its unit, such as "1MiB", "25MB" or "512B"'
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(wanted)
    if match[2] not in _SIZE_UNITS:
        raise ValueError(f"unknown unit {quote(match[2])}{hint(match[2], list(_SIZE_UNITS))}; {wanted}")
    size = Fraction(match[1]) * _SIZE_UNITS[match[2]]
    if size.denominator != 1:
        raise ValueError("not a whole number of bytes")
    return size.numerator


def format_size(size_bytes: int) -> str:
    """The shortest text that :func:`parse_size` reads as *size_bytes*: ``1048576`` gives ``"1MiB"``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


class Address(NamedTuple):
    """Where a listener is bound: *host* and *port*, or for a Unix socket its *path*.

    Or the *brokers* that it takes messages from, each with its port.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    brokers: tuple[tuple[str, int], ...] = ()


def parse_host_port(text: str) -> tuple[str, int]:
    """``127.0.0.1:8690``, ``[::1]:8690`` or ``localhost:8690`` as (host, port). Raises ValueError."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65535:
        raise ValueError("a port from 0 to 65535 is missing at its end")
    if host.startswith("[") and host.endswith("]"):
        try:
            address = ip_address(host[1:-1])
        except ValueError:
            address = None
        if address is None or address.version != 6:
            raise ValueError(f"{quote(host)} is not an IPv6 address")
        return host[1:-1], int(port_text)
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port_text}")
    if not host:
        raise ValueError(
            f'the host is missing; "0.0.0.0:{port_text}" means every IPv4 address of this machine'
        )
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"{quote(host)} is not an IPv4 address") from None
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{quote(host)} is not a host name")
    return host, int(port_text)


INET_SCHEMES = ("udp", "tcp", "http")
UNIX_SCHEMES = ("unixgram", "unix")
BROKER_SCHEMES = ("nats", "kafka")

LISTEN_ADDRESSES = one_of(
    [f"{one}://HOST:PORT" for one in INET_SCHEMES]
    + [f"{one}:///PATH" for one in UNIX_SCHEMES]
    + [f"{one}://HOST:PORT,HOST:PORT" for one in BROKER_SCHEMES]
)
"""What a listener's address may look like, for a message."""


def parse_listen_address(text: str) -> Address:
    """The parts of an address such as ``udp://HOST:PORT`` or ``unix:///PATH``. Raises ValueError."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(f"wanted {LISTEN_ADDRESSES}")
    if scheme in INET_SCHEMES:
        host, port = parse_host_port(rest.removesuffix("/") if scheme == "http" else rest)
        return Address(scheme, host, port)
    if scheme in UNIX_SCHEMES:
        if not rest.startswith("/") or rest.endswith("/"):
            raise ValueError(
                f'wanted the absolute path of a socket, such as "{scheme}:///run/penstock/line.sock"'
            )
        if len(rest.encode()) > _SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"the path of a socket may have {_SOCKET_PATH_BYTES_MAX} bytes at most")
        return Address(scheme, path=rest)
    if scheme in BROKER_SCHEMES:
        brokers = tuple(parse_host_port(one) for one in rest.removesuffix("/").split(","))
        if not all(port for _, port in brokers):
            raise ValueError("a port from 1 to 65535 is missing")
        return Address(scheme, brokers=brokers)
    if scheme == "https":
        raise ValueError('TLS is a matter of the keys "cert" and "key"; the address begins with "http://"')
    known = [*INET_SCHEMES, *UNIX_SCHEMES, *BROKER_SCHEMES]
    raise ValueError(f"unknown scheme {quote(scheme)}{hint(scheme, known)}; wanted {LISTEN_ADDRESSES}")
