"""The roles around ClickHouse: writer, query service, and both in one process for an embedded engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from runstream.clickhouse import connect, parse_url
from runstream.clickhouse.embedded import EmbeddedDatabase
from runstream.clickhouse.migrate import migrate, status
from runstream.clickhouse.part_guard import PartGuard
from runstream.importing.adoption import AdoptingBarrier
from runstream.ingest.writer.barrier import LocalBarrier
from runstream.ingest.writer.config import WriterConfig
from runstream.ingest.writer.latest import LatestValues, open_latest
from runstream.ingest.writer.pipeline import Writer
from runstream.ingest.writer.removed import RemovedRuns
from runstream.process import logs
from runstream.process.http import serve, stop_on_signals
from runstream.process.probes import add_watch_routes, watch_app
from runstream.process.prometheus import exposer
from runstream.process.writer_metrics import WriterMetrics
from runstream.query.live.hub import Hub
from runstream.query.points.small_runs import SmallRuns
from runstream.query.service import QueryConfig, create_app
from runstream.query.sql.threads import SqlThreads
from runstream.roles import wiring
from runstream.roles.collector import Collector
from runstream.roles.queues import is_local, kafka_settings, local_path, log_retention, make_consumer
from runstream.roles.rewrite import rewrite
from runstream.roles.sql_process import SqlProcess
from runstream.schemas.errors import ConfigError
from runstream.schemas.migrations import METRICS_TABLE, Flavour
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.tasks import kept_running
from runstream.settings import StorageSettings

_READ_DRAIN_S = 5.0
# In the engine's folder, because links do not cross file systems.
_SQL_FOLDER = "runstream-sql"
# Statements that change no points.
_HARMLESS = re.compile(r"\s*(SYSTEM|(INSERT INTO|DELETE FROM) metric_rollups)\b")
_GUARDED = (METRICS_TABLE, "metric_rollups")
DatabaseT = TypeVar("DatabaseT", bound=Database)
# What a statement that nobody can end gets beyond the writer's deadline.
_LEAVE_S = 3.0


def run_storage(settings: StorageSettings) -> None:
    """Write and answer reads in one process, until SIGTERM; what was acknowledged is applied before it ends."""
    logs.configure("storage", settings.log_level)
    wiring.run(_storage(settings))


async def _storage(settings: StorageSettings) -> None:
    config = _query_config(settings)
    stop = stop_on_signals()
    listener = wiring.listener(settings)
    local = is_local(settings)
    retention = log_retention(settings) if local else None
    consumer = make_consumer(settings, retention)
    async with _opened(_open_embedded, settings) as (database, latest):
        # Whoever listens to live points hears of them before they are in ClickHouse.
        hub = Hub()
        small = SmallRuns(database)
        database.changing = lambda sql: nullcontext() if _HARMLESS.match(sql) else small.changing()
        writer = Writer(
            consumer, database, latest, _writer_config(settings), on_points=hub.publish, inserts=small
        )
        folder = Path(parse_url(settings.clickhouse.get_secret_value()).path or "") / _SQL_FOLDER
        statements = SqlProcess(database, folder, max_query_s=config.sql_timeout_s)
        barrier = AdoptingBarrier(
            LocalBarrier(consumer, writer),
            settings.metadata.get_secret_value(),
            database,
            changing=small.changing,
        )
        app = create_app(database, barrier, config, hub, statements, small)

        def rewritten() -> int:
            with small.changing():
                return rewrite(Path(local_path(settings.queue)), database)

        guard = PartGuard(
            database,
            _GUARDED,
            rewrite=rewritten if local else None,
            survived=retention.has_survived if retention is not None else None,
        )
        guarding = kept_running("part guard", guard.run)
        try:
            async with collecting(database, settings), writing(writer, stop, settings.drain_timeout_s):
                await serve(app, listener, stop, drain_s=_READ_DRAIN_S)
        finally:
            guarding.cancel()


def run_writer(settings: StorageSettings) -> None:
    """Take points from the queue to ClickHouse until SIGTERM; what it has read is applied before it ends."""
    _check_apart(settings)
    logs.configure("writer", settings.log_level)
    wiring.run(_writer(settings))


async def _writer(settings: StorageSettings) -> None:
    stop = stop_on_signals()
    listener = wiring.listener(settings)
    consumer = make_consumer(settings)
    async with _opened(_open_migrated, settings) as (database, latest):
        writer = Writer(consumer, database, latest, _writer_config(settings))
        app = watch_app(
            exposer(), {"clickhouse": database.ping, "queue": lambda: writer.stats.failure is None}
        )
        # Other members take the partitions over: leave with what is in memory applied, the rest stays queued.
        async with (
            collecting(database, settings),
            writing(writer, stop, settings.drain_timeout_s, drain=False),
        ):
            await serve(app, listener, stop, drain_s=_READ_DRAIN_S)


def run_query(settings: StorageSettings) -> None:
    """Answer reads until SIGTERM."""
    _check_apart(settings)
    logs.configure("query", settings.log_level)
    wiring.run(_query(settings))


async def _query(settings: StorageSettings) -> None:
    from runstream.ingest.queue.kafka import KafkaBarrier

    config = _query_config(settings)
    stop = stop_on_signals()
    listener = wiring.listener(settings)
    database = await asyncio.to_thread(_open_migrated, settings)
    # Connections of its own, whoever its user is.
    for_sql = connect((settings.sql_clickhouse or settings.clickhouse).get_secret_value())
    statements = SqlThreads(for_sql, max_query_s=config.sql_timeout_s, named=True)
    barrier = KafkaBarrier(kafka_settings(settings))
    try:
        await barrier.start()
        adopting = AdoptingBarrier(barrier, settings.metadata.get_secret_value(), database)
        app = create_app(database, adopting, config, statements=statements)
        add_watch_routes(app, exposer(), {"clickhouse": database.ping})
        await serve(app, listener, stop, drain_s=_READ_DRAIN_S)
    finally:
        await barrier.close()
        await asyncio.to_thread(for_sql.close)
        await asyncio.to_thread(database.close)


def _check_apart(settings: StorageSettings) -> None:
    if settings.clickhouse.get_secret_value().startswith("chdb:"):
        raise ConfigError(
            "chdb:// belongs to one process; run `runstream storage`, or name a server with http://"
        )
    if is_local(settings):
        raise ConfigError(
            "local:// needs writer and query in one process; run `runstream storage`, or use kafka://"
        )


def _open_migrated(settings: StorageSettings) -> Database:
    """A server's database, checked to have every migration: `runstream migrate` applies them, once."""
    database = connect(settings.clickhouse.get_secret_value())
    try:
        missing = [entry.migration.name for entry in status(database) if not entry.applied]
    except DatabaseError as error:
        database.close()
        raise ConfigError(f"ClickHouse does not answer: {error}") from error
    except BaseException:
        database.close()
        raise
    if missing:
        database.close()
        raise ConfigError(f"ClickHouse lacks {', '.join(missing)}; run `runstream migrate`")
    return database


@asynccontextmanager
async def _opened(
    open_database: Callable[[StorageSettings], DatabaseT], settings: StorageSettings
) -> AsyncIterator[tuple[DatabaseT, LatestValues]]:
    """Both databases of a writer, closed again at the end of the block."""
    database = await asyncio.to_thread(open_database, settings)
    try:
        latest = open_latest(settings.metadata.get_secret_value())
        try:
            yield database, latest
        finally:
            latest.close()
    finally:
        await asyncio.to_thread(database.close)


@asynccontextmanager
async def collecting(database: Database, settings: StorageSettings) -> AsyncIterator[None]:
    """Remove the points of runs that MLflow's database has no more, beside the block."""
    removed = RemovedRuns(settings.metadata.get_secret_value())
    task = kept_running("removed runs", Collector(database, removed).run)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def writing(
    writer: Writer, stop: asyncio.Event, drain_s: float, *, drain: bool = True
) -> AsyncIterator[None]:
    """Run a writer beside the block; it drains when the block ends, and ``stop`` is set if it fails.

    Takes ``drain_s`` and a little more: a statement that is still under way in its thread then, and would keep the
    process for as long as ClickHouse likes, ends with the process.
    """
    watching = kept_running("writer metrics", WriterMetrics(writer).watch)
    running = asyncio.create_task(writer.run())
    running.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        if not running.done() and not await writer.stop(drain_s, drain=drain):
            wiring.end_within(_LEAVE_S)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _open_embedded(settings: StorageSettings) -> EmbeddedDatabase:
    database = connect(settings.clickhouse.get_secret_value(), reserve=settings.disk_reserve_bytes)
    if not isinstance(database, EmbeddedDatabase):
        database.close()
        raise ConfigError("`runstream storage` is for chdb://; run writer and query apart with a server")
    try:
        migrate(database, Flavour())
    except BaseException:
        database.close()
        raise
    return database


def _query_config(settings: StorageSettings) -> QueryConfig:
    return QueryConfig(
        internal_token=wiring.token(settings), static_prefix=settings.static_prefix, sql=settings.sql
    )


def _writer_config(settings: StorageSettings) -> WriterConfig:
    return WriterConfig(max_rows=settings.flush_rows, linger_s=settings.flush_ms / 1000)
