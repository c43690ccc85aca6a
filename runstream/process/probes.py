"""Health, readiness and metrics of the roles behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

# Whether a part works now; may block, never raises.
Check = Callable[[], bool]


def watch_app(expose: Callable[[], bytes], checks: Mapping[str, Check]) -> web.Application:
    """These routes alone, and ``/health``, which is 200 while the process lives."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_get("/health", health)
    add_watch_routes(app, expose, checks)
    return app


def add_watch_routes(app: web.Application, expose: Callable[[], bytes], checks: Mapping[str, Check]) -> None:
    """``/ready`` is 503 with the names of the parts that fail; ``/metrics`` is for Prometheus."""

    async def ready(_: web.Request) -> web.Response:
        results = await asyncio.gather(*(asyncio.to_thread(check) for check in checks.values()))
        away = [name for name, works in zip(checks, results, strict=True) if not works]
        return web.Response(status=503 if away else 200, text=f"away: {', '.join(away)}" if away else "ready")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=await asyncio.to_thread(expose), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
