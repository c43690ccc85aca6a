"""The gateway application: its parts, its routes, its life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from ingest.gateway.admission import Admission
from ingest.gateway.batching import Batcher
from ingest.gateway.config import GatewayConfig
from ingest.gateway.epochs import Epochs
from ingest.gateway.hosts import HostRules
from ingest.gateway.metric_routes import MetricRoutes
from ingest.gateway.read_routes import ReadRoutes
from ingest.gateway.telemetry import GatewayTelemetry
from ingest.gateway.upstream import Upstream, UpstreamUnavailableError
from ingest.queue.protocol import Producer

_log = logging.getLogger(__name__)
_GAUGE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What the composition hands to a gateway process.

    ``expose`` renders the metrics of all processes in Prometheus' text format.
    """

    config: GatewayConfig
    producer: Producer
    telemetry: GatewayTelemetry
    expose: Callable[[], bytes]
    epochs_path: Path | None = None


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


def create_app(parts: GatewayParts) -> web.Application:
    """The gateway as an aiohttp application; it opens its connections when it starts and drains when it stops."""
    config = parts.config
    app = web.Application(client_max_size=config.max_body_bytes)
    app.cleanup_ctx.append(_life(app, parts))
    return app


def _life(app: web.Application, parts: GatewayParts) -> Callable[[web.Application], AsyncIterator[None]]:
    config = parts.config
    epochs = Epochs(parts.epochs_path)
    hosts = HostRules(config.allowed_hosts)
    tracking = Upstream("tracking", config.tracking_url, timeout_s=config.upstream_timeout_s)
    query = Upstream("query", config.query_url, timeout_s=config.upstream_timeout_s)
    batcher = Batcher(
        parts.producer,
        parts.telemetry,
        linger_ms=config.linger_ms,
        max_record_bytes=config.max_record_bytes,
        max_pending_bytes=config.max_pending_bytes,
        append_timeout_s=config.append_timeout_s,
    )
    reads = ReadRoutes(
        tracking=tracking,
        query=query,
        epochs=epochs,
        hosts=hosts,
        telemetry=parts.telemetry,
        internal_token=config.internal_token,
        barrier_timeout_s=config.barrier_timeout_s,
        retry_after_s=config.retry_after_s,
    )
    writes = MetricRoutes(
        batcher=batcher,
        admission=Admission(
            tracking,
            epochs,
            ttl_s=config.verdict_ttl_s,
            stale_s=config.verdict_stale_s,
            max_entries=config.verdict_entries,
        ),
        tracking=tracking,
        relay=reads.relay,
        hosts=hosts,
        telemetry=parts.telemetry,
        internal_token=config.internal_token,
        max_body_bytes=config.max_body_bytes,
        retry_after_s=config.retry_after_s,
    )
    readiness = Readiness(tracking, query)

    async def health(_: web.Request) -> web.Response:
        if await readiness.healthy():
            return web.Response(text="OK")
        return web.Response(status=503, text="starting", headers={"Retry-After": "1"})

    async def ready(_: web.Request) -> web.Response:
        away = await readiness.away()
        if not away:
            return web.Response(text="ready")
        return web.Response(status=503, text=f"away: {', '.join(away)}", headers={"Retry-After": "1"})

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(parts.expose)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    writes.add_to(app, config.static_prefix)
    reads.add_to(app, config.static_prefix)

    async def life(_: web.Application) -> AsyncIterator[None]:
        gauges = asyncio.create_task(_keep_gauges(parts, batcher))
        yield
        gauges.cancel()
        try:
            async with asyncio.timeout(config.drain_timeout_s):
                await batcher.drain()
        except TimeoutError:
            _log.warning("gave up draining appends", extra={"pending_bytes": batcher.pending_bytes})
        await parts.producer.close()
        await tracking.close()
        await query.close()
        epochs.close()

    return life


async def _keep_gauges(parts: GatewayParts, batcher: Batcher) -> None:
    while True:
        parts.telemetry.depth(parts.producer.depth().bytes, batcher.pending_bytes)
        await asyncio.sleep(_GAUGE_INTERVAL_S)
