"""Health, readiness and metrics of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.admission import Identity
from runstream.ingest.gateway.http.handling import identity_of
from runstream.ingest.gateway.http.mount import lower_case
from runstream.ingest.gateway.http.upstream import Upstream, UpstreamUnavailableError
from runstream.schemas.errors import RunstreamError

# Probes are asked often, and by those that do not wait long themselves.
_WITHIN_S = 1.5


class Readiness:
    """Whether the parts that the gateway needs answer, each within a second or two. Healthy from the first time that
    the servers behind it did; ``check_queue`` raises while the queue takes nothing."""

    def __init__(
        self, tracking: Upstream, query: Upstream, check_queue: Callable[[], Awaitable[None]]
    ) -> None:
        self._servers = {"tracking": tracking, "query": query}
        self._check_queue = check_queue
        self._healthy = False

    async def away(self) -> list[str]:
        """Names of the needed parts that do not answer now."""
        checks: dict[str, Awaitable[None]] = {
            name: self._answers(server) for name, server in self._servers.items()
        }
        checks["queue"] = self._check_queue()
        works = await asyncio.gather(*(_works(check) for check in checks.values()))
        away = [name for name, works_now in zip(checks, works, strict=True) if not works_now]
        self._healthy = self._healthy or not set(away).intersection(self._servers)
        return away

    async def healthy(self) -> bool:
        """Whether the servers behind have answered at least once since this process began."""
        if not self._healthy:
            await self.away()
        return self._healthy

    @staticmethod
    async def _answers(server: Upstream) -> None:
        answer = await server.get("/health")
        if answer.status != 200:
            raise UpstreamUnavailableError(f"the {server.name} server is not healthy")


async def _works(check: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_WITHIN_S):
            await check
    except (TimeoutError, RunstreamError):
        return False
    return True


class HealthRoutes:
    """``/health``, ``/ready`` and ``/metrics``. ``expose`` renders Prometheus' text; it may read files. ``may_scrape``
    raises for callers for whom it is not; refusals ask them to come again after ``retry_after_s`` if that helps."""

    def __init__(
        self,
        readiness: Readiness,
        expose: Callable[[], bytes],
        may_scrape: Callable[[Identity], Awaitable[None]],
        retry_after_s: int,
    ) -> None:
        self._readiness = readiness
        self._expose = expose
        self._may_scrape = may_scrape
        self._retry_after_s = retry_after_s

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

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text format."""
        try:
            await self._may_scrape(identity_of(lower_case(request.headers)))
        except Exception as error:
            refused = refusals.refusal(error, self._retry_after_s)
            if refused.status == 401:
                refused.headers.setdefault("WWW-Authenticate", 'Bearer realm="metrics"')
            return refused
        body = await asyncio.to_thread(self._expose)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
