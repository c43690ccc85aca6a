"""Health, readiness and metrics of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError


class Readiness:
    """Whether the parts that the gateway needs answer. Healthy from the first time that all of them did."""

    def __init__(self, tracking: Upstream, query: Upstream) -> None:
        self._parts = {"tracking": (tracking, "/health"), "query": (query, "/health")}
        self._healthy = False

    async def away(self) -> list[str]:
        """Names of the needed parts that do not answer now."""
        names = list(self._parts)
        answers = await asyncio.gather(*(self._answers(*self._parts[name]) for name in names))
        away = [name for name, answers_now in zip(names, answers, strict=True) if not answers_now]
        self._healthy = self._healthy or not away
        return away

    async def healthy(self) -> bool:
        """Whether everything has answered at least once since this process began."""
        if not self._healthy:
            await self.away()
        return self._healthy

    @staticmethod
    async def _answers(upstream: Upstream, path: str) -> bool:
        try:
            return (await upstream.get(path)).status == 200
        except UpstreamUnavailableError:
            return False


class HealthRoutes:
    """``/health``, ``/ready`` and ``/metrics``. ``expose`` renders Prometheus' text; it may read files."""

    def __init__(self, readiness: Readiness, expose: Callable[[], bytes]) -> None:
        self._readiness = readiness
        self._expose = expose

    def add_to(self, app: web.Application, prefix: str = "") -> None:
        """Mount the routes; the first two also below ``prefix``, for whoever knows only that address."""
        for base in {"", prefix}:
            app.router.add_get(f"{base}/health", self.health)
            app.router.add_get(f"{base}/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)

    async def health(self, _: web.Request) -> web.Response:
        """200 from the first time that every part answered: restarting this process cannot help the others."""
        if await self._readiness.healthy():
            return web.Response(text="OK")
        return web.Response(status=503, text="starting", headers={"Retry-After": "1"})

    async def ready(self, _: web.Request) -> web.Response:
        """200 while every part answers, else 503 and the names of those that do not."""
        away = await self._readiness.away()
        if not away:
            return web.Response(text="ready")
        return web.Response(status=503, text=f"away: {', '.join(away)}", headers={"Retry-After": "1"})

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        body = await asyncio.to_thread(self._expose)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
