"""The query service: an aiohttp application over a ClickHouse engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import orjson
from aiohttp import web

from runstream.query.api.routes import MetricsRoutes
from runstream.query.http.errors import errors_to_answers
from runstream.query.http.roles_only import roles_only
from runstream.query.http.workers import Workers
from runstream.query.live.hub import Hub
from runstream.query.live.polled_feed import PolledFeed
from runstream.query.live.routes import LiveRoutes
from runstream.query.mlflow.history import HistoryReader
from runstream.query.mlflow.role_routes import RoleRoutes
from runstream.query.mlflow.routes import MlflowRoutes
from runstream.query.openapi import document
from runstream.query.page.routes import PageRoutes
from runstream.query.points.rollup_builder import RollupBuilder
from runstream.query.points.small_runs import SmallRuns
from runstream.query.sql.routes import SqlRoute
from runstream.query.sql.threads import SqlThreads
from runstream.query.warm_up import warm_up
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.database import Database
from runstream.schemas.ports.statements import Statements
from runstream.schemas.tasks import kept_running
from runstream.schemas.wire import API

_MAX_BODY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How a query service is set up.

    ``internal_token`` is what every caller must carry: rights are asked for by the gateway. With ``for_roles_only``
    off, only the routes of Runstream's own processes demand it. ``barrier_timeout_s`` bounds how long a read waits for
    earlier writes, ``read_timeout_s`` how long it waits for a thread and the database. ``threads`` reads
    run at once, ``max_waiting`` more may wait; beyond that the answer is 503. ``snapshot_bytes`` is for long series
    that are being paged through. Runstream's own API has threads of its own, ``bounded_threads`` for answers of
    bounded length and ``stream_threads`` for long ones, which keep a thread as long as they are being read; each
    statement in ClickHouse is bounded by ``stream_timeout_s``; ``sql`` says whether users may send SQL, and
    ``sql_timeout_s`` bounds each of their statements.
    """

    internal_token: str
    for_roles_only: bool = True
    static_prefix: str = ""
    barrier_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    threads: int = 4
    max_waiting: int = 256
    bounded_threads: int = 2
    stream_threads: int = 8
    stream_timeout_s: float = 600.0
    sql: bool = True
    sql_timeout_s: float = 30.0
    snapshot_bytes: int = 128 << 20


def create_app(
    database: Database,
    barrier: Barrier,
    config: QueryConfig,
    hub: Hub | None = None,
    statements: Statements | None = None,
    small: SmallRuns | None = None,
) -> web.Application:
    """The application; it owns its threads, not the database or the barrier.

    ``hub`` is where new points are published for live listeners; without one the service looks for new
    points in ClickHouse by itself while somebody listens. ``small`` are runs in memory; its owner has it told of
    every change. ``statements`` runs the SQL of users, and is closed with the
    application; without it threads do, on ``database``.
    """
    guards = [roles_only(config.internal_token)] if config.for_roles_only else []
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[errors_to_answers, *guards])

    async def life(app: web.Application) -> AsyncIterator[None]:
        await workers.run(warm_up, database, reader)
        background = [kept_running("rollups", RollupBuilder(database).run)]
        if hub is None:
            background.append(kept_running("live points", feed.run))
        yield
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        if statements is not None:
            await statements.close()
        await workers.close()
        await bounded.close()
        await streams.close()
        await looking.close()

    if not config.sql:
        statements = None
    elif statements is None:
        statements = SqlThreads(database, max_query_s=config.sql_timeout_s)
    reader = HistoryReader(
        database,
        snapshot_bytes=config.snapshot_bytes,
        max_query_s=config.read_timeout_s,
        small=small,
    )
    workers = Workers(threads=config.threads, max_waiting=config.max_waiting, timeout_s=config.read_timeout_s)
    bounded, streams = (
        Workers(threads=threads, max_waiting=config.max_waiting, timeout_s=config.read_timeout_s)
        for threads in (config.bounded_threads, config.stream_threads)
    )
    live = hub if hub is not None else Hub(looked_for=True)
    looking = Workers(threads=1, max_waiting=1, timeout_s=config.read_timeout_s)
    feed = PolledFeed(database, looking, barrier, live)
    app.cleanup_ctx.append(life)
    app.router.add_get("/health", _health)
    MlflowRoutes(reader, workers, barrier, barrier_timeout_s=config.barrier_timeout_s).add_to(
        app, config.static_prefix
    )
    RoleRoutes(
        reader,
        workers,
        barrier,
        token=config.internal_token,
        barrier_timeout_s=config.barrier_timeout_s,
    ).add_to(app)
    MetricsRoutes(
        database,
        short=bounded,
        long=streams,
        barrier=barrier,
        barrier_timeout_s=config.barrier_timeout_s,
        max_query_s=config.stream_timeout_s,
    ).add_to(app)
    SqlRoute(statements, barrier, barrier_timeout_s=config.barrier_timeout_s).add_to(app)
    description = orjson.dumps(document(_version()))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/json")

    app.router.add_get(f"{API}/openapi.json", openapi)
    LiveRoutes(live).add_to(app)
    PageRoutes(config.static_prefix).add_to(app)
    return app


def _version() -> str:
    try:
        return version("runstream")
    except PackageNotFoundError:
        return "0"


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="OK")
