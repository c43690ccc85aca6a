"""The gateway role."""

from __future__ import annotations

from ingest.gateway.app import GatewayParts, create_gateway
from ingest.gateway.artifact_config import ArtifactConfig
from ingest.gateway.config import GatewayConfig
from ingest.gateway.telemetry import GatewayTelemetry
from runstream import logs
from runstream.exposition import exposer
from runstream.queues import open_producer
from runstream.roles import common
from runstream.settings import GatewaySettings
from runstream.webserver import serve, stop_on_signals


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM."""
    logs.configure("gateway", settings.log_level)
    common.run(_gateway(settings))


async def _gateway(settings: GatewaySettings) -> None:
    config = _config(settings)
    stop = stop_on_signals()
    listener = common.listener(settings)
    parts = GatewayParts(
        config=config,
        producer=await open_producer(settings),
        telemetry=GatewayTelemetry(),
        expose=exposer(),
        epochs_path=settings.run_dir / "epochs" if settings.run_dir else None,
    )
    made = create_gateway(parts)
    await serve(made.app, listener, stop, drain_s=settings.drain_timeout_s, front=made.front)


def _config(settings: GatewaySettings) -> GatewayConfig:
    return GatewayConfig(
        tracking_url=settings.tracking,
        query_url=settings.query,
        internal_token=common.token(settings),
        allowed_hosts=settings.allowed_hosts,
        static_prefix=settings.static_prefix,
        mlflow_judges_reads=settings.basic_auth,
        artifacts=ArtifactConfig(
            url=settings.artifacts,
            max_bytes=settings.artifacts_max_bytes,
            max_files=settings.artifacts_max_files,
            transfer_memory_bytes=settings.artifacts_memory,
            stall_s=settings.artifacts_stall_s,
            direct=settings.artifacts_direct,
            public_endpoint=settings.artifacts_public_endpoint,
        ),
        max_body_bytes=settings.max_body_bytes,
        linger_ms=settings.linger_ms,
        max_record_bytes=settings.max_record_bytes,
        max_pending_bytes=settings.max_pending_bytes,
        append_timeout_s=settings.append_timeout_s,
        verdict_ttl_s=settings.verdict_ttl_s,
        barrier_timeout_s=settings.barrier_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
    )
