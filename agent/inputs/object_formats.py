"""Datagrams of JSON and MessagePack in Telegraf's shape: decoded here, made into points by the core.

A thread for each socket receives many datagrams at once, without Python's lock, decodes them, and hands what
they hold to the feed, some :data:`SLICE_BYTES` at a time, so that other threads have their turn. Until all
are there, they are in hand: a process that is killed leaves them in the file of its burst to the next one.

A datagram of JSON holds an object, an array of them, ``{"metrics": [...]}``, or several of these one behind
the other, with or without line feeds between them. One of MessagePack holds maps, or arrays of maps, one
behind the other. What is malformed is counted, and costs itself only: in JSON one value, in MessagePack, that
has no marks to go on from, the rest of its datagram.
"""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import orjson

from agent._core import AsIs, Burst, LeftBurst, Receiver, split_json
from agent.config import Listen
from agent.inputs.base import Input, Source
from agent.listeners import BoundSocket

logger = logging.getLogger(__name__)

SLICE_BYTES = 64 * 1024
"""Bytes of datagrams, and at most a datagram more, that are decoded before their points are written."""

MALFORMED_MAX = 64
"""Malformed values of one datagram that are told apart; what comes behind them counts as one."""

ARRAY_MAX = 4096
"""Members of one array of MessagePack. A datagram has no room for more metrics, and each level of a bomb of
nested arrays has its list made before its members are looked at."""

EXACT_DATAGRAMS = 64
"""Datagrams of MessagePack behind one with binary data that are taken to hold some, too."""

GIVE_WAY_S = 0.002
"""Processor time after which a decoding thread looks whether others want the processor."""

GIVE_WAY_FACTOR = 60.0
"""For how many times what it has used it rests if they do: it is left a sixtieth then."""

GIVE_WAY_S_MAX = 0.25
"""It rests no longer than this at a time, whatever it has used: on a busy machine a slice takes seconds."""

GIVE_WAY_SHARE = 0.25
"""Part of its time that a thread has waited for a processor, from which on it is scarce; and part of the time
that the other threads of the agent have run, from which on they are busy."""

_MALFORMED = (msgpack.FormatError, msgpack.StackError, msgpack.OutOfData)
"""What is no MessagePack, nested too deep, or cut off."""

_WAIT_S = 1.0
_BYTES_MAX = 65_536

Malformed = tuple[str, bytes]
"""The reason by which it is counted, and what it was."""


class Decoder(ABC):
    """Decodes the datagrams of one socket. One thread."""

    @abstractmethod
    def decode(self, datagrams: Sequence[bytes], malformed: list[Malformed]) -> Iterator[object]:
        """What *datagrams* hold, one by one; what cannot be decoded is added to *malformed* by the way.

        So an object is gone before the next one is made, which costs far less: its memory is still at hand,
        and the garbage collector has nothing to look at.
        """


class JsonDecoder(Decoder):
    """Values of JSON, in any number."""

    def __init__(self) -> None:
        self._several = False
        """Whether the last datagram held several values, which the next one does then, too."""

    def decode(self, datagrams: Sequence[bytes], malformed: list[Malformed]) -> Iterator[object]:
        loads = orjson.loads
        for datagram in datagrams:
            if not self._several:
                try:
                    yield loads(datagram)
                    continue
                except orjson.JSONDecodeError:
                    pass
            lines = datagram.split(b"\n")
            self._several = len(lines) > 1 and lines[1] != b""
            left = iter(lines)
            for line in left:
                try:
                    if line:
                        yield loads(line)
                except orjson.JSONDecodeError:
                    self._several = False
                    # What came before were whole values, so the rest begins with one.
                    yield from self._decode_pieces(b"\n".join([line, *left]), malformed)

    def _decode_pieces(self, text: bytes, malformed: list[Malformed]) -> Iterator[object]:
        count = 0
        for piece in split_json(text):
            try:
                yield orjson.loads(piece)
            except orjson.JSONDecodeError:
                malformed.append(("json", piece[:256]))
                count += 1
                if count == MALFORMED_MAX:
                    return


def _open_unpacker(raw: bool, max_bin_len: int) -> Any:
    # Every limit counts for what a header may claim, before a byte of it has been seen.
    return msgpack.Unpacker(
        timestamp=2,  # whole nanoseconds
        raw=raw,
        unicode_errors="surrogateescape",  # the core drops a text that is no UTF-8, with its metric only
        strict_map_key=True,
        read_size=_BYTES_MAX,
        max_buffer_size=4 * _BYTES_MAX,
        max_str_len=_BYTES_MAX,
        max_bin_len=max_bin_len,
        max_ext_len=_BYTES_MAX,
        max_map_len=_BYTES_MAX,
        max_array_len=ARRAY_MAX,
    )


class MsgpackDecoder(Decoder):
    """Maps of MessagePack, in any number.

    A text is left as the bytes that it came as, which takes two thirds of the time: no str is made of it, and
    the library looks none up among those that Python keeps as names. Binary data, which would look the same,
    is refused; what is not plainly malformed then is decoded once more, with texts and binary data apart.
    """

    def __init__(self) -> None:
        self._exact = 0
        """How many datagrams are decoded that way from the start, since one before them held binary data."""
        self._begin()
        self._begin_exact()

    def _begin(self) -> None:
        # No length is as small as that, not even 0; -1 is its word for the default.
        self._unpacker = _open_unpacker(raw=True, max_bin_len=-2)
        self._fed = 0

    def _begin_exact(self) -> None:
        self._exact_unpacker = _open_unpacker(raw=False, max_bin_len=_BYTES_MAX)

    def decode(self, datagrams: Sequence[bytes], malformed: list[Malformed]) -> Iterator[object]:
        unpack, tell, feed = self._unpacker.unpack, self._unpacker.tell, self._unpacker.feed
        for datagram in datagrams:
            if self._exact:
                self._exact -= 1
                yield from self._decode_exactly(datagram, malformed)
                continue
            at = self._fed
            self._fed = end = at + len(datagram)
            feed(datagram)
            try:
                while at < end:
                    yield unpack()
                    at = tell()
            # It raises ValueError of its own and Python's, and whatever making a dict of odd keys does.
            except Exception as error:
                self._begin()
                unpack, tell, feed = self._unpacker.unpack, self._unpacker.tell, self._unpacker.feed
                rest = datagram[len(datagram) - (end - at) :]
                if isinstance(error, _MALFORMED):
                    malformed.append(("msgpack", rest[:256]))
                    continue
                count = len(malformed)
                yield from self._decode_exactly(rest, malformed)
                if len(malformed) == count:
                    self._exact = EXACT_DATAGRAMS

    def _decode_exactly(self, datagram: bytes, malformed: list[Malformed]) -> Iterator[object]:
        unpacker = self._exact_unpacker
        start = at = unpacker.tell()
        unpacker.feed(datagram)
        try:
            while at < start + len(datagram):
                yield AsIs(unpacker.unpack())
                at = unpacker.tell()
        except Exception:
            malformed.append(("msgpack", datagram[at - start :][:256]))
            self._begin_exact()


DECODERS: Mapping[str, Callable[[], Decoder]] = {"json": JsonDecoder, "msgpack": MsgpackDecoder}


class GiveWay:
    """Rests where processors are scarce and the lanes busy, which lose datagrams when they wait.

    A lower priority would not do: a thread that is kept from running while it holds Python's lock holds up
    everyone who wants that. One thread's; it has no effect where the kernel keeps no such account.
    """

    def __init__(self) -> None:
        self._file = None
        with suppress(OSError):
            self._file = open(f"/proc/self/task/{threading.get_native_id()}/schedstat", "rb", buffering=0)
        self._last = self._read()

    def _read(self) -> tuple[int, int, int, int]:
        """Nanoseconds that this thread has run, and waited for a processor; of the process; of all time."""
        used = waited = 0
        if self._file is not None:
            used, waited, _ = map(int, os.pread(self._file.fileno(), 64, 0).split())
        return used, waited, time.process_time_ns(), time.monotonic_ns()

    def look(self) -> float:
        """For how long to rest now, in seconds."""
        if time.thread_time_ns() - self._last[0] < GIVE_WAY_S * 1e9:
            return 0.0
        now = self._read()
        used, waited, together, passed = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        scarce = waited > GIVE_WAY_SHARE * used
        busy = together - used > GIVE_WAY_SHARE * passed
        return min(used * GIVE_WAY_FACTOR / 1e9, GIVE_WAY_S_MAX) if scarce and busy else 0.0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class ObjectInput(Input):
    """A listener of datagrams that hold decoded objects."""

    def __init__(
        self,
        config: Listen,
        source: Source,
        sockets: Sequence[BoundSocket],
        open_burst: Callable[[str], Burst] = lambda name: Burst(),
    ) -> None:
        self._config = config
        self._source = source
        self._sockets = sockets
        self._open_burst = open_burst
        self._receivers: list[Receiver] = []
        self._bursts: list[Burst] = []
        self._threads: list[threading.Thread] = []
        self._beats: dict[str, int] = {}
        self._stop_at: float | None = None
        self._stopping = threading.Event()

    def check(self, config: Listen) -> None:
        pass

    def start(self) -> None:
        for index, one in enumerate(self._sockets):
            name = f"{self._config.format}-{self._source.number}" + (f"-{index}" if index else "")
            self._bursts.append(burst := self._open_burst(name))
            self._receivers.append(receiver := Receiver(one.fd, burst, gro=self._config.gro))
            self._source.feed.watch(self._source.number, receiver)
            self._beats[name] = 0
            self._threads.append(
                threading.Thread(target=self._guard, args=(receiver, burst, name), name=name)
            )
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def reconfigure(self, config: Listen) -> None:
        self._config = config
        for receiver in self._receivers:
            receiver.set_gro(config.gro)
            receiver.wake()  # others may be allowed to send
            self._source.feed.watch(self._source.number, receiver)

    def stop(self, drain: float) -> None:
        self._stop_at = time.monotonic() + drain
        self._stopping.set()
        for receiver in self._receivers:
            receiver.wake()
        for thread in self._threads:
            thread.join()
        for receiver in self._receivers:
            self._source.feed.unwatch(receiver)
        if not self.failure:
            for burst in self._bursts:
                burst.remove()

    def receivers(self) -> Sequence[Receiver]:
        return self._receivers

    def replay(self, left: LeftBurst) -> bool:
        datagrams, large = left.parts(self._config.max_datagram)
        self._handle(DECODERS[self._config.format](), datagrams, large, left)
        return True

    def beats(self) -> Mapping[str, int]:
        return self._beats

    def _guard(self, receiver: Receiver, burst: Burst, name: str) -> None:
        try:
            self._run(receiver, burst, name)
        except Exception as error:
            self.failure = f"the thread {name} ended: {error}"
            logger.exception("the thread of a listener ended", extra={"listener": self._config.name})

    def _run(self, receiver: Receiver, burst: Burst, name: str) -> None:
        decoder = DECODERS[self._config.format]()
        with closing(GiveWay()) as way:
            self._loop(receiver, burst, name, decoder, way)

    def _loop(self, receiver: Receiver, burst: Burst, name: str, decoder: Decoder, way: GiveWay) -> None:
        named = None
        while True:
            stop_at, config = self._stop_at, self._config
            if named != (config.name, config.address):
                named = config.name, config.address
                burst.name(0, *named)
            receiver.ask(self._source.sources)
            datagrams, large = receiver.receive(
                _WAIT_S if stop_at is None else 0.0, config.max_datagram, SLICE_BYTES
            )
            self._beats[name] += 1
            refused = self._source.feed.refuse(self._source.number, receiver)
            if datagrams or large:
                receiver.done(self._handle(decoder, datagrams, large, receiver))
            elif refused:
                receiver.done()
            elif stop_at is not None:
                return
            if stop_at is not None and time.monotonic() > stop_at and not receiver.holds:
                return
            if stop_at is None and (rest := way.look()):
                self._stopping.wait(rest)

    def _handle(
        self,
        decoder: Decoder,
        datagrams: Sequence[bytes],
        large: Sequence[bytes],
        burst: Receiver | LeftBurst,
    ) -> int:
        """Put what they hold into the rings; returns how many metrics that is."""
        config = self._config
        malformed = [("datagram_too_large", one[:256]) for one in large]
        result = self._source.write(
            decoder.decode(datagrams, malformed),
            precision=config.precision,
            as_written=config.numbers == "as_written",
            line_bytes_max=config.max_line,
            datagrams=len(datagrams) + len(large),
            nbytes=sum(map(len, datagrams)) + sum(map(len, large)),
            malformed=malformed,
            burst=burst,
        )
        return result["received"]
