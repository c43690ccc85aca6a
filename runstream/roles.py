"""Settings into running roles: the one place where parts are put together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from ingest.gateway.app import GatewayParts, create_gateway
from ingest.gateway.config import GatewayConfig
from ingest.gateway.telemetry import GatewayTelemetry
from ingest.writer.latest import open_latest
from ingest.writer.pipeline import Writer, WriterConfig
from query.service import QueryConfig
from query.service import create_app as create_query_app
from runstream import logs
from runstream.barriers import LocalBarrier
from runstream.clickhouse import connect
from runstream.exposition import exposer
from runstream.migrate import migrate
from runstream.queues import open_consumer, open_producer
from runstream.settings import GatewaySettings, StorageSettings
from runstream.webserver import inherited_socket, listening_socket, serve, stop_on_signals
from runstream.writer_metrics import WriterMetrics
from schemas.database import Database
from schemas.errors import ConfigError
from schemas.migrations import Flavour

_READ_DRAIN_S = 5.0


def run_gateway(settings: GatewaySettings) -> None:
    """Serve until SIGTERM."""
    logs.configure("gateway", settings.log_level)
    _run(_gateway(settings))


async def _gateway(settings: GatewaySettings) -> None:
    token = _token(settings)
    stop = stop_on_signals()
    listener = _listener(settings)
    parts = GatewayParts(
        config=GatewayConfig(
            tracking_url=settings.tracking,
            query_url=settings.query,
            internal_token=token,
            allowed_hosts=settings.allowed_hosts,
            static_prefix=settings.static_prefix,
            max_body_bytes=settings.max_body_bytes,
            linger_ms=settings.linger_ms,
            max_record_bytes=settings.max_record_bytes,
            max_pending_bytes=settings.max_pending_bytes,
            append_timeout_s=settings.append_timeout_s,
            verdict_ttl_s=settings.verdict_ttl_s,
            barrier_timeout_s=settings.barrier_timeout_s,
            drain_timeout_s=settings.drain_timeout_s,
        ),
        producer=await open_producer(settings),
        telemetry=GatewayTelemetry(),
        expose=exposer(),
        epochs_path=settings.run_dir / "epochs" if settings.run_dir else None,
    )
    made = create_gateway(parts)
    await serve(made.app, listener, stop, drain_s=settings.drain_timeout_s, front=made.front)


def run_storage(settings: StorageSettings) -> None:
    """Write and answer reads in one process, until SIGTERM; what was acknowledged is applied before it ends."""
    logs.configure("storage", settings.log_level)
    _run(_storage(settings))


async def _storage(settings: StorageSettings) -> None:
    stop = stop_on_signals()
    listener = _listener(settings)
    database = await asyncio.to_thread(_open_database, settings)
    latest = open_latest(settings.metadata.get_secret_value())
    try:
        consumer = await open_consumer(settings)
        writer = Writer(consumer, database, latest, _writer_config(settings))
        app = create_query_app(database, LocalBarrier(consumer, writer), _query_config(settings))
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
        await running


def _open_database(settings: StorageSettings) -> Database:
    url = settings.clickhouse.get_secret_value()
    database = connect(url)
    try:
        migrate(database, Flavour())
    except BaseException:
        database.close()
        raise
    return database


def _writer_config(settings: StorageSettings) -> WriterConfig:
    return WriterConfig(max_rows=settings.flush_rows, linger_s=settings.flush_ms / 1000)


def _query_config(settings: StorageSettings) -> QueryConfig:
    return QueryConfig(internal_token=_token(settings))


def _token(settings: GatewaySettings | StorageSettings) -> str:
    token = settings.internal_token.get_secret_value()
    if not token:
        raise ConfigError("RUNSTREAM_INTERNAL_TOKEN is not set; give every role the same secret")
    return token


def _listener(settings: GatewaySettings | StorageSettings) -> socket.socket:
    if settings.fd is not None:
        return inherited_socket(settings.fd)
    return listening_socket(settings.host, settings.port, reuse_port=isinstance(settings, GatewaySettings))


def _run(role: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(role)
