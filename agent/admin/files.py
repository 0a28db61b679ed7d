"""The page: its files, read once, and what every answer says to a browser.

Nothing on the page is fetched from anywhere else, neither by us nor by a browser, which is told so. The
library that draws the plots is put beside the page's own files when Penstock is built, by
packages/build_page.py, and may be missing; the page is the same without plots then, and does not ask for it.
"""

import gzip
import hashlib
from functools import cache
from importlib.resources import files

from aiohttp import web

PLOTS = ("uplot.js", "uplot.css")
"""Not ours, and all there or not."""

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PLOTS_MARK = b"<!-- plots -->"
_PLOTS_TAGS = b'<link rel="stylesheet" href="/uplot.css">\n  <script src="/uplot.js" defer></script>'

HEADERS = {
    # Whatever a name or a line that was received may say, it runs nothing, and reaches nobody.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of all answers."""


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Before the first byte of any answer, so that streams have them too."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class PageFile:
    """One file, as it is sent."""

    def __init__(self, name: str, body: bytes) -> None:
        self._type = _TYPES[name[name.rindex(".") :]]
        self.body = body
        self._packed = gzip.compress(body, mtime=0)
        self._tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'

    async def serve(self, request: web.Request) -> web.Response:
        """Send it, unless the client has it: a browser asks each time, and is mostly told that it has."""
        headers = {"Cache-Control": "no-cache", "ETag": self._tag, "Vary": "Accept-Encoding"}
        # Proxies make a tag weak when they pack what it is of.
        if any(tag.value == self._tag.strip('"') for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        body = self.body
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = self._packed
        return web.Response(body=body, headers=headers, content_type=self._type, charset="utf-8")


@cache
def read_page() -> dict[str, PageFile]:
    """All files of the page by their paths, ``/`` among them."""
    folder = {one.name: one for one in files("agent.admin").joinpath("page").iterdir()}
    plots = all(name in folder for name in PLOTS)
    page = {}
    for name, one in folder.items():
        if name[name.rfind(".") :] not in _TYPES or (name in PLOTS and not plots):
            continue
        body = one.read_bytes()
        if name == "index.html":
            body = body.replace(_PLOTS_MARK, _PLOTS_TAGS if plots else b"")
        page["/" if name == "index.html" else f"/{name}"] = PageFile(name, body)
    return page
