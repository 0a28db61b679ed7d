"""What ``penstock spool`` and ``penstock rejected`` ask of a running agent, on the control socket only.

    GET  /api/keep                                        counters of every output that keeps something
    POST /api/keep/KIND/drop?output=NAME&name=…&before=…  remove files; before: nanoseconds since 1970
    POST /api/keep/spool/add?output=NAME&path=…           put the lines of a file into the spool
    POST /api/keep/rejected/retry?output=NAME&name=…      send rejected lines once more

KIND is ``spool`` or ``rejected``. Whoever may connect to that socket is the agent's own user or root, and
could do all of it without the agent; here it stays in the ledger.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
from aiohttp import web

from agent.admin.status import Provider
from agent.errors import StoreError
from agent.keeping import REJECTED, SPOOL, Keeper, pieces_of

PREFIX = "/api/keep"


def add_routes(app: web.Application, provider: Provider) -> None:
    """Answer these requests too."""
    handlers = _Handlers(provider)
    app.router.add_get(PREFIX, handlers.show)
    app.router.add_post(f"{PREFIX}/{{kind:{SPOOL}|{REJECTED}}}/drop", handlers.drop)
    app.router.add_post(f"{PREFIX}/{SPOOL}/add", handlers.add)
    app.router.add_post(f"{PREFIX}/{REJECTED}/retry", handlers.retry)


class _Handlers:
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def show(self, _: web.Request) -> web.Response:
        return _json(
            {
                name: {
                    SPOOL: msgspec.to_builtins(keeper.spool.counters) if keeper.spool else None,
                    REJECTED: msgspec.to_builtins(keeper.rejected.counters) if keeper.rejected else None,
                }
                for name, keeper in self._provider.keepers().items()
            }
        )

    async def drop(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        names = request.query.getall("name", [])
        before = request.query.get("before")
        try:
            before_ns = float(before) if before is not None else None
        except ValueError:
            return _json({"error": "before is a number of nanoseconds"}, 400)
        return await self._do(request, lambda keeper: {"files": keeper.drop(kind, names, before_ns)})

    async def add(self, request: web.Request) -> web.Response:
        path = Path(request.query.get("path", ""))

        def add(keeper: Keeper) -> dict[str, int]:
            metrics = 0
            for payload, oldest_ns in pieces_of(path):
                keeper.add(payload, oldest_ns)
                metrics += payload.metrics
            return {"metrics": metrics}

        return await self._do(request, add)

    async def retry(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        return await self._do(request, lambda keeper: {"metrics": keeper.retry(name)})

    async def _do(self, request: web.Request, what: Callable[[Keeper], dict[str, int]]) -> web.Response:
        """Do something in a thread of its own, since disks may be slow."""
        output = request.query.get("output", "")
        keeper = self._provider.keepers().get(output)
        if keeper is None:
            return _json({"error": f"{output}: no such output keeps anything"}, 404)
        try:
            return _json(await asyncio.to_thread(what, keeper))
        except StoreError as error:
            return _json({"error": str(error)}, 409)


def _json(content: Any, status: int = 200) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")
