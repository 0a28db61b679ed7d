"""A TCP proxy that fails on demand: it delays, stalls, cuts, resets, truncates, refuses, or answers itself.

    with FaultProxy(server.host, server.port) as proxy:
        proxy.fault = Fault(stall=True)      # holds for the connections that are open, too
        ...
        proxy.heal()

It runs in a thread of its own. What it is to do can be changed by any thread at any time, and is so when the
assignment returns. It copies bytes and knows of HTTP only that a client speaks first and waits for the
answer: an *exchange* begins with the first byte from the client after bytes from the server.
"""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, Self

_CHUNK = 64 << 10
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """What goes wrong; nothing by default. Byte counts are those of one exchange."""

    delay_s: float = 0.0
    """Each chunk arrives so much later."""
    stall: bool = False
    """Connections are accepted, and nothing is read from either side. What was held flows when it is over."""
    forget: bool = False
    """With ``stall``: what was stalled stays so for ever, as behind a firewall that lost its state."""
    cut_after: int | None = None
    """Of the request so many bytes reach the server, then the connection is closed."""
    truncate_after: int | None = None
    """Of the answer so many bytes reach the client, then the connection is closed."""
    reset: bool = False
    """Those two are closed with an RST."""
    answer: bytes = b""
    """Requests are answered with this, and not passed on."""


HEALTHY = Fault()


class _Cut(OSError):
    """This connection is over."""


class _Pair:
    """One connection: the client's socket, the server's, and where their exchange is."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.up = self.down = 0  # bytes of this exchange
        self.lost = False  # it was stalled by a fault that forgets
        self.reset = False  # how it is closed

    def close(self) -> None:
        for sock in (self.client, self.server):
            if sock is not None:
                if self.reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()


class FaultProxy:
    """A proxy on a free port of 127.0.0.1 to *host* and *port*, from construction to :meth:`close`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._fault = HEALTHY
        self._pairs: dict[_Pair, asyncio.Task[None]] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self.accepted = 0
        """Connections so far."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        async def change() -> None:
            if self._fault.forget:
                for pair in self._pairs:
                    pair.lost = True
            self._fault = fault
            if fault.stall:
                self._flowing.clear()
            else:
                self._flowing.set()

        self._do(change())

    def heal(self) -> None:
        """Do nothing wrong any more; listen again if it did not."""
        self.fault = HEALTHY
        if self._listener is None:
            self.listen()

    def listen(self) -> None:
        """Accept connections; a second time on the same port."""

        async def start() -> None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._listener = listener
            self._loop.add_reader(listener, self._accept, listener)

        self._do(start())

    def refuse(self) -> None:
        """Close the port, so that connecting is refused, and all connections."""

        async def stop() -> None:
            if self._listener is not None:
                self._loop.remove_reader(self._listener)
                self._listener.close()
                self._listener = None
            await self._drop(reset=True)

        self._do(stop())

    def drop_connections(self, reset: bool = False) -> None:
        """Close every connection, and go on accepting new ones."""
        self._do(self._drop(reset))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def close(self) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- in the thread of the loop ----

    async def _drop(self, reset: bool) -> None:
        pairs = dict(self._pairs)
        for pair, task in pairs.items():
            pair.reset = reset
            task.cancel()
        await asyncio.gather(*pairs.values(), return_exceptions=True)
        for pair in pairs:
            # One whose task had not begun had nothing to end with.
            if self._pairs.pop(pair, None) is not None:
                pair.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        self.accepted += 1
        pair = _Pair(_prepare(client))
        self._pairs[pair] = self._loop.create_task(self._serve(pair))

    async def _serve(self, pair: _Pair) -> None:
        """Everything that happens on one connection."""
        try:
            await self._may_flow(pair)
            if self._fault.answer:
                await self._answer(pair)
            pair.server = _prepare(socket.socket())
            await self._loop.sock_connect(pair.server, self._target)
            async with asyncio.TaskGroup() as pumps:
                # Either side may end first, and both ends are passed on.
                pumps.create_task(self._pump(pair, pair.client, pair.server, up=True))
                pumps.create_task(self._pump(pair, pair.server, pair.client, up=False))
        except* OSError:
            pass
        finally:
            del self._pairs[pair]
            pair.close()

    async def _may_flow(self, pair: _Pair) -> None:
        await self._flowing.wait()
        if pair.lost:
            await asyncio.Event().wait()

    async def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket, up: bool) -> None:
        while True:
            await self._may_flow(pair)
            data = await self._loop.sock_recv(source, _CHUNK)
            # What arrived just as a stall began is held as well.
            await self._may_flow(pair)
            fault = self._fault
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            if up and (pair.down or not pair.up):
                pair.up = pair.down = 0
                if fault.answer:
                    await self._answer(pair, data)
            before, limit = (pair.up, fault.cut_after) if up else (pair.down, fault.truncate_after)
            if up:
                pair.up += len(data)
            else:
                pair.down += len(data)
            if limit is not None and before + len(data) > limit:
                await self._loop.sock_sendall(sink, data[: max(limit - before, 0)])
                pair.reset = fault.reset
                raise _Cut
            await self._loop.sock_sendall(sink, data)

    async def _answer(self, pair: _Pair, data: bytes = b"") -> NoReturn:
        """Take requests and answer each for as long as that is the fault; then the connection is over."""
        while answer := self._fault.answer:
            while b"\r\n\r\n" not in data:
                data += await self._receive(pair.client)
            head, _, rest = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            left = int(length[1]) - len(rest) if length else 0
            while left > 0:
                left -= len(await self._receive(pair.client))
            await self._loop.sock_sendall(pair.client, answer)
            data = b""
        raise _Cut

    async def _receive(self, sock: socket.socket) -> bytes:
        data = await self._loop.sock_recv(sock, _CHUNK)
        if not data:
            raise _Cut
        return data


def _prepare(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
