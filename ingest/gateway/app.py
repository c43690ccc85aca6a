"""The gateway application: its parts, its routes, its life."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from runstream.ingest.control.plane import ControlPlane
from runstream.ingest.control.processes.pool import SearchLimits, SearchProcesses
from runstream.ingest.gateway.artifacts.access import ArtifactVerdicts
from runstream.ingest.gateway.artifacts.mount import add_artifact_routes
from runstream.ingest.gateway.artifacts.pace import Pace
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.ingest.gateway.config import GatewayConfig
from runstream.ingest.gateway.control.access import Control
from runstream.ingest.gateway.control.fresh import FreshRuns
from runstream.ingest.gateway.control.onward import Onward
from runstream.ingest.gateway.control.routes import ControlRoutes
from runstream.ingest.gateway.control.searches import SearchRoutes
from runstream.ingest.gateway.control.tables import TableRoutes
from runstream.ingest.gateway.http.admission import Admission
from runstream.ingest.gateway.http.door import Bounds, Door
from runstream.ingest.gateway.http.epochs import Epochs
from runstream.ingest.gateway.http.front import Front
from runstream.ingest.gateway.http.handling import Routes
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.http.mount import MountedRoutes, normalise, refusing_odd
from runstream.ingest.gateway.http.origins import Origins
from runstream.ingest.gateway.http.probes import HealthRoutes, Readiness
from runstream.ingest.gateway.http.rights import Rights
from runstream.ingest.gateway.http.scraping import Scraping
from runstream.ingest.gateway.http.server_mode import ModeWatch
from runstream.ingest.gateway.http.upstream import Upstream
from runstream.ingest.gateway.http.whole import count_bodies
from runstream.ingest.gateway.reads.routes import ReadRoutes
from runstream.ingest.gateway.reads.verdicts import RunVerdicts
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.gateway.writes.aside import Aside
from runstream.ingest.gateway.writes.batching import Batcher
from runstream.ingest.gateway.writes.ingest import Ingest
from runstream.ingest.gateway.writes.intake import Intake
from runstream.ingest.gateway.writes.routes import MetricWrites
from runstream.ingest.queue.protocol import Producer
from runstream.schemas.tasks import kept_running

_log = logging.getLogger(__name__)
_GAUGE_INTERVAL_S = 1.0
# More than the listeners that a query service admits.
_OWN_CONNECTIONS = 2_000
_READ_CONNECTIONS = 256


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


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway of one process: the full application, and the door that stands before it."""

    app: web.Application
    front: Callable[[web.Server, Callable[[], RequestHandler]], _Front]


@dataclass(frozen=True, slots=True)
class _Front:
    """The front; a gateway that stops holds nothing any more, so that who waits can go to another one."""

    front: Front
    holding: Holding

    def __call__(self) -> asyncio.Protocol:
        return self.front()

    async def drain(self) -> None:
        self.holding.end()
        await self.front.drain()


def create_gateway(parts: GatewayParts) -> Gateway:
    """Build a gateway; call it inside the running loop, for connections to the parts behind are opened.

    They are closed, after a drain, when the application is cleaned up.
    """
    config = parts.config
    epochs = Epochs(parts.epochs_path)
    hosts = HostRules(config.allowed_hosts)
    prefix = config.static_prefix
    holding = Holding(max_s=config.hold_s, max_requests=config.hold_requests, max_bytes=config.hold_bytes)
    tracking = Upstream(
        "tracking", config.tracking_url, timeout_s=config.upstream_timeout_s, prefix=prefix, holding=holding
    )
    query, own = (
        Upstream(
            "query",
            config.query_url,
            timeout_s=config.upstream_timeout_s,
            token=config.internal_token,
            reads_only=True,
            holding=holding,
            max_connections=connections,
        )
        for connections in (_READ_CONNECTIONS, _OWN_CONNECTIONS)
    )
    pace = Pace(urgent=lambda: batcher.pending_bytes > 0)
    batcher = Batcher(
        parts.producer,
        pace.over(parts.telemetry),
        linger_ms=config.linger_ms,
        max_record_bytes=config.max_record_bytes,
        max_pending_bytes=config.max_pending_bytes,
        append_timeout_s=config.append_timeout_s,
        holding=holding,
    )
    server = ModeWatch(tracking.get, basic_auth=config.basic_auth)
    plane = ControlPlane(config.metadata) if config.metadata else None
    rights = Rights(
        ttl_s=config.verdict_ttl_s,
        stale_s=config.verdict_stale_s,
        epoch=lambda: epochs.of("")[1],
        is_away=lambda: server.is_away,
    )
    control = Control(plane, server, rights)
    admission = Admission(
        tracking,
        epochs,
        control.verdict,
        control.granted,
        ttl_s=config.verdict_ttl_s,
        stale_s=config.verdict_stale_s,
        max_entries=config.verdict_entries,
    )
    intake = Intake(batcher, admission, tracking, control)
    verdicts = RunVerdicts(get=tracking.get_held, post=tracking.post_held, rights=rights)
    reads = ReadRoutes(
        tracking=tracking,
        query=query,
        own=own,
        epochs=epochs,
        hosts=hosts,
        origins=Origins(config.cors_allowed_origins),
        telemetry=parts.telemetry,
        barrier_timeout_s=config.barrier_timeout_s,
        retry_after_s=config.retry_after_s,
        server=server,
        verdicts=verdicts,
        verdict_ttl_s=config.verdict_ttl_s,
        let_in=intake.let_in,
    )
    routes = Routes(
        parts.telemetry,
        max_body_bytes=config.max_body_bytes,
        retry_after_s=config.retry_after_s,
        let_in=intake.let_in,
    )
    aside = Aside()
    MetricWrites(intake, aside, internal_token=config.internal_token).add_to(routes, prefix)
    Ingest(
        batcher,
        admission,
        max_body_bytes=config.max_body_bytes,
        creates=lambda: control.store(()) is not None,
    ).add_to(routes, prefix)
    fresh = FreshRuns(reads.barrier)
    ControlRoutes(control, fresh, Onward(tracking), epochs, holding.line()).add_to(routes, prefix)
    searches = SearchProcesses(config.metadata) if config.metadata else None
    SearchRoutes(control, searches, Onward(tracking), reads.barrier).add_to(routes, prefix)
    # Long ones must not stand in the way of MLflow's searches.
    tables = (
        SearchProcesses(
            config.metadata,
            SearchLimits(processes=1, timeout_s=60.0),
            (config.query_url, config.internal_token),
        )
        if config.metadata
        else None
    )
    TableRoutes(plane, tables, server, verdicts.check_experiments, reads.barrier).add_to(routes, prefix)
    probes = {f"{base}/{probe}" for base in ("", prefix) for probe in ("health", "ready", "metrics")}
    app = web.Application(client_max_size=config.max_body_bytes, middlewares=[refusing_odd(hosts, probes)])
    if config.artifacts is not None:
        artifact_verdicts = ArtifactVerdicts(
            get=tracking.get_held,
            post=tracking.post_held,
            ttl_s=config.verdict_ttl_s,
            epoch=lambda: epochs.of(""),
        )
        add_artifact_routes(
            app,
            config.artifacts,
            prefix=prefix,
            ask=tracking.get_held,
            relay=reads.relay,
            server=server,
            hosts=hosts,
            telemetry=ArtifactTelemetry(),
            authorize=artifact_verdicts,
            give_way=pace,
            holding=holding,
        )
    HealthRoutes(
        Readiness(tracking, query, parts.producer.check),
        parts.expose,
        Scraping(config.metrics_token, server, admission).check,
        config.retry_after_s,
    ).add_to(app, prefix)
    MountedRoutes(routes, relay=reads.relay, hosts=hosts).add_to(app)
    reads.add_to(app, prefix)

    async def life(_: web.Application) -> AsyncIterator[None]:
        await aside.start()
        background: list[asyncio.Task[None]] = []
        gauges = kept_running("gauges", lambda: _keep_gauges(parts, batcher, holding))
        watching = kept_running("mode of the MLflow server", server.watch)
        if plane is not None:
            await plane.start()
        if searches is not None and plane is not None:
            keep = functools.partial(searches.keep_indexes, lambda: plane.store is not None)
            background.append(kept_running("indexes of searches", keep))
        yield
        for task in background:
            task.cancel()
        gauges.cancel()
        watching.cancel()
        try:
            async with asyncio.timeout(config.drain_timeout_s):
                await batcher.drain()
        except TimeoutError:
            _log.warning("gave up draining appends", extra={"pending_bytes": batcher.pending_bytes})
        await fresh.close()
        for processes in (searches, tables):
            if processes is not None:
                await processes.close()
        if plane is not None:
            await plane.close()
        await aside.close()
        await parts.producer.close()
        await tracking.close()
        await query.close()
        await own.close()
        epochs.close()

    app.cleanup_ctx.append(life)

    async def end_streams(_: web.Application) -> None:
        holding.end()
        own.end_streams()

    app.on_shutdown.append(end_streams)

    def front(server: web.Server, make_handler: Callable[[], RequestHandler]) -> _Front:
        door = Door(
            routes,
            hosts,
            make_handler,
            Bounds(
                idle_s=config.idle_timeout_s,
                arriving_bytes=max(config.max_arriving_bytes, 2 * config.max_body_bytes),
                connections=config.max_connections,
            ),
        )
        count_bodies(server, door.arriving)
        normalise(server)
        return _Front(Front(door), holding)

    return Gateway(app, front)


async def _keep_gauges(parts: GatewayParts, batcher: Batcher, holding: Holding) -> None:
    while True:
        parts.telemetry.depth(parts.producer.depth().bytes, batcher.pending_bytes, holding.requests)
        await asyncio.sleep(_GAUGE_INTERVAL_S)
