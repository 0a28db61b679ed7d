"""A headless Chromium with one tab, driven by its DevTools protocol over a WebSocket: no driver is needed.

    async with chromium(tmp_path) as tab:
        await tab.open("http://127.0.0.1:8690/")
        assert await tab.evaluate("document.title") == "Penstock"
        assert tab.problems() == []

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import itertools
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import need

_START_S = 60.0
_ANSWER_S = 60.0
_MESSAGE_BYTES_MAX = 64 << 20

_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


@dataclass
class Request:
    """What the tab has asked for."""

    url: str
    bytes: int = 0
    """Of the answer, with its head, as they came."""
    status: int = 0


@dataclass
class Tab:
    """One page, and what the browser says of it. Made by :func:`chromium`."""

    socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    requests: dict[str, Request] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    """Errors and warnings of the console and of the log, and exceptions that nobody caught."""

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()

    # ---- what a test does ----

    async def open(self, url: str) -> None:
        """Go there and wait until all of it is loaded."""
        self._loaded.clear()
        answer = await self.send("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await asyncio.wait_for(self._loaded.wait(), _ANSWER_S)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, timeout: float = 20.0) -> Any:
        """Evaluate it until it is true; returns its value."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not (value := await self.evaluate(expression)):
            assert asyncio.get_running_loop().time() < deadline, f"not within {timeout:g} s: {expression}"
            await asyncio.sleep(0.1)
        return value

    async def before_load(self, script: str) -> None:
        """Run *script* in every page before its own ones."""
        await self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def resize(self, width: int, height: int) -> None:
        """Be as large as that, in pixels of CSS."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, **features: str) -> None:
        """Such as ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=wanted)

    async def press(self, key: str) -> None:
        """Press a key and let it go: ``Tab``, ``Enter``."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )

    async def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    # ---- the protocol ----

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call *method* and return its result."""
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self.socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
        answer = await asyncio.wait_for(future, _ANSWER_S)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    async def listen(self) -> None:
        """Take what the browser says until it says no more."""
        async for message in self.socket:
            document = message.json()
            if "id" in document:
                self._answers.pop(document["id"]).set_result(document)
            else:
                self._take(document["method"], document["params"])

    def _take(self, method: str, event: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests[event["requestId"]] = Request(event["request"]["url"])
        elif method == "Network.responseReceived" and event["requestId"] in self.requests:
            self.requests[event["requestId"]].status = event["response"]["status"]
        elif method == "Network.loadingFinished" and event["requestId"] in self.requests:
            self.requests[event["requestId"]].bytes = event["encodedDataLength"]
        elif method == "Runtime.exceptionThrown":
            self.told.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.told.append(f"console.{event['type']}: {event['args']}")
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.told.append(
                f"{event['entry']['level']}: {event['entry']['text']} {event['entry'].get('url')}"
            )


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Tab]:
    """Start the browser with a profile of its own below *folder*; it is gone afterwards."""
    flags = [*_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # it does not run as root otherwise
    process = await asyncio.create_subprocess_exec(
        need("chromium"),
        *flags,
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    reader = None
    try:
        address = await asyncio.wait_for(_address(process), _START_S)
        reader = asyncio.create_task(_discard(process))
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(address, max_msg_size=_MESSAGE_BYTES_MAX) as socket,
        ):
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            target = await tab.send("Target.createTarget", url="about:blank")
            attached = await tab.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            tab.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.send(f"{domain}.enable")
            try:
                yield tab
            finally:
                listening.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if reader is not None:
            await reader


async def _address(process: asyncio.subprocess.Process) -> str:
    """Where it listens, which it says on standard error."""
    assert process.stderr is not None
    said = b""
    while line := await process.stderr.readline():
        said += line
        if found := re.search(rb"DevTools listening on (ws://\S+)", line):
            return found[1].decode()
    raise AssertionError(f"chromium has ended: {said.decode(errors='replace')}")


async def _discard(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.read(65536):
        pass
