"""``/api/stream`` tells each second to all who look on, and is held up by nobody."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.admin import server
from agent.admin.stream import STREAMS_MAX
from tests.unit.test_admin import NAME, Running, run

Event = tuple[str, int, dict[str, Any]]


class Clock:
    """Ticks the sampler whenever it is told to."""

    def __init__(self, running: Running) -> None:
        self._sampler = running.service.sampler
        self._now = 1000.0

    def tick(self) -> None:
        self._now += 1.0
        self._sampler.tick(self._now)


@contextlib.asynccontextmanager
async def opened(client: aiohttp.ClientSession) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.get("/api/stream") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        yield events(response)


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Name, number and data of each event, by the rules of the format."""
    assert await response.content.readline() == b"retry: 2000\n"
    fields: dict[bytes, bytes] = {}
    while line := await response.content.readuntil(b"\n"):
        if line != b"\n":
            name, _, value = line[:-1].partition(b": ")
            assert name not in fields
            fields[name] = value
        else:
            yield fields[b"event"].decode(), int(fields[b"id"]), json.loads(fields[b"data"])
            fields = {}


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def gone(running: Running, clock: Clock) -> None:
    """All clients have gone, which shows when they are told something."""

    def noticed() -> bool:
        clock.tick()
        return running.service.sampler.clients == 0

    await until(noticed)


def test_a_stream_says_hello_and_then_tells_each_second(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        clock = Clock(running)
        clock.tick()
        clock.tick()
        async with opened(running.over_tcp) as stream, opened(running.over_unix) as other:
            name, number, hello = await anext(stream)
            assert (name, number) == ("hello", 2)
            assert (hello["started"], hello["config"], hello["truncated"]) == (1000.0, "/c.toml", 0)
            assert len(hello["seconds"]["time"]) == 2
            assert hello["seconds"]["outputs"]["influx"]["waiting"] == [0.0, 0.0]
            # The second that has just been is there at once.
            name, number, second = await anext(stream)
            assert (name, number, second["id"]) == ("second", 2, 2)
            running.service.ring.put(b"m v=1 1\n", 1, 1)
            clock.tick()
            name, number, second = await anext(stream)
            assert (name, number, second["id"]) == ("second", 3, 3)
            assert second["rates"]["outputs"]["influx"]["waiting"] == 1
            assert second["rates"]["listeners"][NAME] == {"received": 0, "lost": 0}
            # It is the document that whoever asks gets.
            asked = json.loads((await running.get("/api/status"))[1])
            shown = second["status"]
            assert shown.pop("uptime") <= asked.pop("uptime")
            assert shown == asked
            await anext(other)
            await anext(other)
            assert (await anext(other))[2]["rates"] == second["rates"]
            assert running.service.sampler.clients == 2
        await gone(running, clock)

    run(tmp_path, body)


def test_a_second_is_encoded_once_and_only_if_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = []
    compose = server.document.__globals__["compose"]
    monkeypatch.setattr("agent.sampler.compose", lambda *a, **k: composed.append(a) or compose(*a, **k))

    async def body(running: Running) -> None:
        clock = Clock(running)
        clock.tick()
        assert not composed
        async with opened(running.over_tcp) as one, opened(running.over_unix) as other:
            for stream in (one, other):
                await anext(stream)
                await anext(stream)
            assert len(composed) == 1
            clock.tick()
            first, second = await anext(one), await anext(other)
            assert first == second
            assert len(composed) == 2

    run(tmp_path, body)


def test_there_are_so_many_streams_and_no_more(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        clock = Clock(running)
        clock.tick()
        async with contextlib.AsyncExitStack() as stack:
            for number in range(STREAMS_MAX):
                client = running.over_tcp if number % 2 else running.over_unix
                await anext(await stack.enter_async_context(opened(client)))
            assert running.service.sampler.clients == STREAMS_MAX
            for client in (running.over_tcp, running.over_unix):
                async with client.get("/api/stream") as response:
                    assert response.status == 503
            assert (await running.get("/healthz"))[0] == 200
        await gone(running, clock)
        async with opened(running.over_tcp) as stream:
            await anext(stream)

    run(tmp_path, body)


def deaf(running: Running) -> socket.socket:
    """A client that asks for the stream, and reads nothing of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, _, port = running.tcp.address.rpartition(":")
    sock.connect((host, int(port)))
    sock.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock


def test_who_reads_nothing_is_cut_and_nobody_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # How long a client may take nothing is what its request may take.
    monkeypatch.setattr(server, "_REQUEST_TIMEOUT", 0.8)
    monkeypatch.setattr(server, "_ANSWER_TIMEOUT", 0.4)

    async def body(running: Running) -> None:
        clock = Clock(running)
        # Each second is larger than all the buffers between: nothing is taken of the second one.
        monkeypatch.setattr(running.service.sampler, "second", lambda: b" " * (8 << 20))
        clock.tick()
        with deaf(running):
            await until(lambda: running.service.sampler.clients == 1)
            began = time.monotonic()
            async with running.over_tcp.get("/api/stream", read_bufsize=1 << 24) as response:
                received = 0
                while running.service.sampler.clients == 2 or time.monotonic() < began + 2.0:
                    assert time.monotonic() < began + 10
                    clock.tick()
                    received += len(await response.content.readany())
                took = time.monotonic() - began
                assert running.service.sampler.clients == 1
                assert took > 0.8 and received > 16 << 20
        await until(lambda: running.service.sampler.clients == 0)

    run(tmp_path, body)


def test_a_stream_of_an_idle_agent_outlives_what_a_request_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_REQUEST_TIMEOUT", 0.2)
    monkeypatch.setattr(server, "_ANSWER_TIMEOUT", 0.2)

    async def body(running: Running) -> None:
        clock = Clock(running)
        async with opened(running.over_tcp) as stream:
            for _ in range(2):
                await anext(stream)
            with running.connect() as other:
                # Whoever asks for nothing is cut meanwhile.
                assert await asyncio.to_thread(other.recv, 1) == b""
            clock.tick()
            assert (await anext(stream))[0] == "second"

    run(tmp_path, body)


def test_streams_end_with_their_server(tmp_path: Path) -> None:
    async def body(running: Running) -> None:
        clock = Clock(running)
        clock.tick()
        async with opened(running.over_tcp) as stream, opened(running.over_unix) as other:
            for one in (stream, other):
                await anext(one)
                await anext(one)
            began = time.monotonic()
            await running.tcp.aclose()
            assert time.monotonic() - began < 0.8
            with pytest.raises((StopAsyncIteration, asyncio.IncompleteReadError, aiohttp.ClientError)):
                await anext(stream)
            clock.tick()
            assert (await anext(other))[2]["id"] == 2

    run(tmp_path, body)
