"""Load for a listener: messages of ``penstock_bench``, sent at a rate by one thread for each connection.

All messages of a run have the same size and number of metrics, so that the kernel can cut many datagrams out
of one call (``UDP_SEGMENT``), and a lost datagram is a known number of metrics.
"""

import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.errors import WireError
from agent.wire import Secrets, Sink, datagram_socket, open_sink, parse

MEASUREMENT = "penstock_bench"

_UDP_SEGMENT = 103
_SEGMENTS_MAX = 64
_SEND_BYTES_MAX = 65_000

_TICK_S = 0.001
"""How often it is looked at what is due: bursts are that short."""


class Messages(NamedTuple):
    """What is sent, over and over."""

    messages: Sequence[bytes]
    metrics: int
    """In each of them."""


class Sent(NamedTuple):
    """How much was sent."""

    messages: int
    metrics: int
    bytes: int
    seconds: float


def prepare(format: str, series: int, fields: int, message_bytes: int) -> Messages:
    """Messages of up to *message_bytes*, at least one metric each, in which all *series* come round."""
    digits = len(str(series - 1))
    write: Callable[[int], bytes] = {
        "line": lambda number: _line(number, digits, fields),
        "statsd": lambda number: b"%s.%0*d:1|c\n" % (MEASUREMENT.encode(), digits, number),
        "graphite": lambda number: b"%s.%0*d 1 %d\n" % (MEASUREMENT.encode(), digits, number, time.time()),
        "json": lambda number: _json(number, digits, fields),
    }[format]
    metrics = [write(number) for number in range(series)]
    each = max(1, message_bytes // len(metrics[0]))
    # The last one begins the next round, if need be.
    count = series // math.gcd(series, each) if series * each <= 1 << 20 else math.ceil(series / each)
    messages = [
        b"".join(metrics[(first + at) % series] for at in range(each))
        for first in range(0, count * each, each)
    ]
    return Messages(messages, each)


def _line(number: int, digits: int, fields: int) -> bytes:
    values = ",".join(f"f{field}={field + 1}.5" for field in range(fields))
    return f"{MEASUREMENT},series={number:0{digits}d} {values}\n".encode()


def _json(number: int, digits: int, fields: int) -> bytes:
    values = ",".join(f'"f{field}":{field + 1}.5' for field in range(fields))
    tags = f'{{"series":"{number:0{digits}d}"}}'
    return f'{{"name":"{MEASUREMENT}","tags":{tags},"fields":{{{values}}}}}\n'.encode()


class Load:
    """Sends *messages* to *address*, *rate* metrics a second, or as fast as it goes if that is 0."""

    def __init__(
        self, address: str, secrets: Secrets, messages: Messages, rate: float, connections: int
    ) -> None:
        self.failure = ""
        """Why a connection has ended before its time; empty if none has."""
        self._messages, self._rate = messages, rate / connections
        self._open: list[Sink | _Segmented] = []
        try:
            for _ in range(connections):
                self._open.append(_open(address, secrets, len(messages.messages[0])))
        except BaseException:
            self._close()
            raise
        self._counts = [0] * connections
        self._over = threading.Event()

    def run(self, seconds: float, told: Callable[[float], None]) -> Sent:
        """Send for *seconds*, or until Ctrl-C; *told* is called with the seconds since the begin."""
        threads = [threading.Thread(target=self._send, args=(at, seconds)) for at in range(len(self._open))]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    told(min(seconds, time.monotonic() - start))
        except KeyboardInterrupt:
            self._over.set()
            for thread in threads:
                thread.join()
        elapsed = time.monotonic() - start
        self._close()
        count = sum(self._counts)
        return Sent(count, count * self._messages.metrics, count * len(self._messages.messages[0]), elapsed)

    def _send(self, at: int, seconds: float) -> None:
        try:
            self._send_at_rate(at, seconds)
        except WireError as error:
            self.failure = str(error)
            self._over.set()

    def _send_at_rate(self, at: int, seconds: float) -> None:
        sink, messages = self._open[at], self._messages.messages
        burst = sink.messages_max if isinstance(sink, _Segmented) else 1
        rate = self._rate / self._messages.metrics
        # Each connection begins at another series.
        place = at * len(messages) // len(self._open)
        start = now = time.monotonic()
        wanted = math.ceil(rate * seconds) if rate else None
        while not self._over.is_set() and now - start < seconds + (1.0 if rate else 0.0):
            count = self._counts[at]
            # What should have been sent by the end of this tick; what did not keep up may come later.
            due = (
                min(wanted, math.ceil(rate * (now - start + _TICK_S)))
                if wanted is not None
                else count + burst
            )
            if wanted is not None and count >= wanted:
                return
            if due <= count:
                time.sleep(_TICK_S)
            else:
                number = min(burst, due - count, len(messages) - place)
                if isinstance(sink, _Segmented):
                    sink.send_many(messages[place : place + number])
                else:
                    sink.send(messages[place])
                self._counts[at] = count + number
                place = (place + number) % len(messages)
            now = time.monotonic()

    def _close(self) -> None:
        for sink in self._open:
            try:
                sink.close()
            except WireError as error:
                self.failure = self.failure or str(error)
        self._open = []


def _open(address: str, secrets: Secrets, size: int) -> "Sink | _Segmented":
    sink = open_sink(address, secrets)
    parts, _ = parse(address)
    if parts.scheme != "udp" or size > _SEND_BYTES_MAX // 2:
        return sink
    try:
        sock = datagram_socket(parts)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, size)
    except OSError:
        return sink  # a kernel that does not know it
    return _Segmented(sink, sock, size)


class _Segmented:
    """Many datagrams of one size in a call, as long as the way there can do that; else one by one."""

    def __init__(self, sink: Sink, sock: socket.socket, size: int) -> None:
        self._sink = sink
        self._sock: socket.socket | None = sock
        self.messages_max = min(_SEGMENTS_MAX, _SEND_BYTES_MAX // size)

    def send_many(self, messages: Sequence[bytes]) -> None:
        if self._sock is not None:
            try:
                self._sock.send(b"".join(messages))
                return
            except ConnectionRefusedError:
                pass  # told by the other socket
            except OSError:
                # A network card that cannot; nothing of it was sent.
                self._sock.close()
                self._sock = None
        for message in messages:
            self._sink.send(message)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sink.close()
