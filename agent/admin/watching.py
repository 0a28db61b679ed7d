"""Answers without an end, on the control socket only: what passes, as it passes.

    GET /api/capture?listener=NAME&seconds=N&last=N&datagrams=N   a file of agent/capture_file.py
    GET /api/tap?match=GLOB&listener=NAME&output=NAME&rate=N   JSON lines, ten a second while something comes:
        {"lines": "cpu,host=a idle=1 17\\n", "passed": 9, "matched": 3, "shown": 1, "skipped": 0}

*listener* may be given several times. The numbers are metrics since the beginning. An empty frame, or a
note, comes once a second, so that whoever listens knows that somebody is there; the last one says why there
are no more: ``{"ended": "reload"}``. What metrics say is shown to the agent's own user and to root only.
"""

import asyncio
import time

import orjson
from aiohttp import web

from agent.admin.guard import Guards
from agent.capture_file import block_bytes, header_bytes, note_block
from agent.captures import CaptureSession
from agent.errors import ControlError
from agent.sessions import Sessions, TapSession

FRAME_S = 0.1
QUIET_FRAMES = 10
"""After so many frames that would be empty, one is."""


LOOK_S = 0.02
"""How often a capture looks whether there is so much that it takes a block,"""
BLOCK_BYTES = 512 << 10
BLOCK_S = 0.5
"""and after what time it takes what there is."""
NOTE_S = 1.0
"""How often it tells what was missed, and that it is there."""


async def tap(request: web.Request, sessions: Sessions, guards: Guards) -> web.StreamResponse:
    """Show lines until the client goes away, or the tap ends."""
    query = request.query
    try:
        rate = int(query.get("rate", "1000"))
    except ValueError:
        return _refused("rate is a number of lines a second")
    try:
        session = sessions.open_tap(
            match=query.get("match", ""),
            listeners=query.getall("listener", []),
            output=query.get("output", ""),
            rate=rate,
        )
    except ControlError as error:
        return _refused(str(error))
    try:
        return await _frames(request, session, guards)
    finally:
        sessions.close_tap(session)


async def _frames(request: web.Request, session: TapSession, guards: Guards) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.force_close()
    await response.prepare(request)
    guards.stream(request.transport)
    quiet = 0
    told = (0, 0, 0, 0)
    try:
        while request.transport is not None:
            ended = session.ended
            frame = session.take()
            numbers = frame.passed, frame.matched, frame.shown, frame.skipped
            quiet = 0 if numbers != told else quiet + 1
            told = numbers
            if not quiet or quiet == QUIET_FRAMES:
                quiet = 0
                # Nothing but UTF-8 is ever written into a ring; what is read from one is taken as it is.
                lines = frame.lines.decode("utf-8", "backslashreplace")
                await _write(
                    response,
                    {
                        "lines": lines,
                        "passed": frame.passed,
                        "matched": frame.matched,
                        "shown": frame.shown,
                        "skipped": frame.skipped,
                    },
                )
            if ended:
                await _write(response, {"ended": ended})
                await response.write_eof()
                break
            await asyncio.sleep(FRAME_S)
    except ConnectionError:
        pass  # the client has gone
    return response


async def capture(request: web.Request, sessions: Sessions, guards: Guards) -> web.StreamResponse:
    """Send datagrams as they came until the client goes away, or the capture ends."""
    query = request.query
    try:
        last, seconds = (_seconds(query.get(key, "0")) for key in ("last", "seconds"))
        datagrams = int(query.get("datagrams", "0"))
        if datagrams < 0:
            raise ValueError
    except ValueError:
        return _refused("last and seconds are seconds, datagrams is their number")
    try:
        session = sessions.open_capture(
            listeners=query.getall("listener", []), last=last, seconds=seconds, datagrams=datagrams
        )
    except ControlError as error:
        return _refused(str(error))
    try:
        return await _blocks(request, session, guards)
    finally:
        sessions.close_capture(session)


async def _blocks(request: web.Request, session: CaptureSession, guards: Guards) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.force_close()
    await response.prepare(request)
    guards.stream(request.transport)
    try:
        await response.write(header_bytes(session.header))
        taken_at = told_at = time.monotonic()
        while not session.ended and request.transport is not None:
            now = time.monotonic()
            if session.waiting >= BLOCK_BYTES or now - taken_at >= BLOCK_S:
                taken_at = now
                while (block := session.take()) is not None:
                    # It is compressed by the client, whose time that is.
                    await response.write(block_bytes(block, compressed=False))
            if now - told_at >= NOTE_S:
                told_at = now
                await response.write(block_bytes(note_block(session.missed), compressed=False))
            if not session.ended:
                await asyncio.sleep(LOOK_S)
        await response.write(block_bytes(session.end(), compressed=False))
        await response.write_eof()
    except ConnectionError:
        pass  # the client has gone
    return response


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 1e9:
        raise ValueError(text)
    return seconds


async def _write(response: web.StreamResponse, frame: dict[str, object]) -> None:
    await response.write(orjson.dumps(frame, option=orjson.OPT_APPEND_NEWLINE))


def _refused(why: str) -> web.Response:
    body = orjson.dumps({"error": why}, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=409, content_type="application/json")
