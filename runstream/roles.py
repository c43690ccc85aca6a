"""Settings into running roles: the one place where parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

from ingest.gateway.app import GatewayParts, create_gateway
from ingest.gateway.config import GatewayConfig
from ingest.gateway.telemetry import GatewayTelemetry
from runstream import logs
from runstream.exposition import exposer
from runstream.queues import open_producer
from runstream.settings import GatewaySettings
from runstream.webserver import inherited_socket, listening_socket, serve, stop_on_signals
from schemas.errors import ConfigError


def run_gateway(settings: GatewaySettings) -> None:
    """Serve until SIGTERM."""
    logs.configure("gateway", settings.log_level)
    _run(_gateway(settings))


async def _gateway(settings: GatewaySettings) -> None:
    if not settings.internal_token.get_secret_value():
        raise ConfigError("RUNSTREAM_INTERNAL_TOKEN is not set; give every role the same secret")
    stop = stop_on_signals()
    listener = (
        inherited_socket(settings.fd)
        if settings.fd is not None
        else listening_socket(settings.host, settings.port, reuse_port=True)
    )
    parts = GatewayParts(
        config=GatewayConfig(
            tracking_url=settings.tracking,
            query_url=settings.query,
            internal_token=settings.internal_token.get_secret_value(),
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


def _run(role: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(role)
