"""The roles around ClickHouse: writer, query service, and both in one process for an embedded engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ingest.writer.latest import open_latest
from ingest.writer.pipeline import Writer, WriterConfig
from query.service import QueryConfig, create_app
from runstream import logs
from runstream.barriers import LocalBarrier
from runstream.clickhouse import connect
from runstream.migrate import migrate
from runstream.queues import open_consumer
from runstream.roles import common
from runstream.settings import StorageSettings
from runstream.webserver import serve, stop_on_signals
from runstream.writer_metrics import WriterMetrics
from schemas.database import Database
from schemas.migrations import Flavour

_READ_DRAIN_S = 5.0


def run_storage(settings: StorageSettings) -> None:
    """Write and answer reads in one process, until SIGTERM; what was acknowledged is applied before it ends."""
    logs.configure("storage", settings.log_level)
    common.run(_storage(settings))


async def _storage(settings: StorageSettings) -> None:
    config = QueryConfig(internal_token=common.token(settings))
    stop = stop_on_signals()
    listener = common.listener(settings)
    database = await asyncio.to_thread(_open_embedded, settings)
    latest = open_latest(settings.metadata.get_secret_value())
    try:
        consumer = await open_consumer(settings)
        writer = Writer(consumer, database, latest, _writer_config(settings))
        app = create_app(database, LocalBarrier(consumer, writer), config)
        async with _writing(writer, stop, settings.drain_timeout_s):
            await serve(app, listener, stop, drain_s=_READ_DRAIN_S)
    finally:
        latest.close()
        await asyncio.to_thread(database.close)


@asynccontextmanager
async def _writing(writer: Writer, stop: asyncio.Event, drain_s: float) -> AsyncIterator[None]:
    """Run a writer beside the block; it drains when the block ends, and ``stop`` is set if it fails."""
    watching = asyncio.create_task(WriterMetrics(writer).watch())
    running = asyncio.create_task(writer.run())
    running.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        if not running.done():
            await writer.stop(drain_s)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _open_embedded(settings: StorageSettings) -> Database:
    database = connect(settings.clickhouse.get_secret_value())
    try:
        migrate(database, Flavour())
    except BaseException:
        database.close()
        raise
    return database


def _writer_config(settings: StorageSettings) -> WriterConfig:
    return WriterConfig(max_rows=settings.flush_rows, linger_s=settings.flush_ms / 1000)
