"""Health, readiness and metrics of the roles behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

# Whether a part works now; may block, never raises.
Check = Callable[[], bool]
# Probes are asked often, and by those that do not wait long themselves.
_WITHIN_S = 1.5


def watch_app(expose: Callable[[], bytes], checks: Mapping[str, Check]) -> web.Application:
    """These routes alone, and ``/health``, which is 200 while the process lives."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_get("/health", health)
    add_watch_routes(app, expose, checks)
    return app


def add_watch_routes(app: web.Application, expose: Callable[[], bytes], checks: Mapping[str, Check]) -> None:
    """``/ready`` is 503 with the names of the parts that fail, within two seconds; ``/metrics`` is for Prometheus."""
    # The one check of each part that is under way: one that hangs must not take more than one thread.
    asking: dict[str, asyncio.Task[bool]] = {}

    async def ready(_: web.Request) -> web.Response:
        for name, check in checks.items():
            if name not in asking or asking[name].done():
                asking[name] = asyncio.create_task(asyncio.to_thread(check))
        if asking:
            await asyncio.wait(asking.values(), timeout=_WITHIN_S)
        away = [name for name, task in asking.items() if not (task.done() and task.result())]
        return web.Response(status=503 if away else 200, text=f"away: {', '.join(away)}" if away else "ready")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=await asyncio.to_thread(expose), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
