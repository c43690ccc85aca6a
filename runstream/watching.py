"""The small web server of a role that serves nobody else: health, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

# Whether a part works now; may block, never raises.
Check = Callable[[], bool]


def watch_app(expose: Callable[[], bytes], checks: Mapping[str, Check]) -> web.Application:
    """``/health`` is 200 while the process lives, ``/ready`` 503 with the names of the parts that fail."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def ready(_: web.Request) -> web.Response:
        results = await asyncio.gather(*(asyncio.to_thread(check) for check in checks.values()))
        away = [name for name, works in zip(checks, results, strict=True) if not works]
        return web.Response(status=503 if away else 200, text=f"away: {', '.join(away)}" if away else "ready")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=await asyncio.to_thread(expose), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    return app
