"""The gateway role."""

from __future__ import annotations

import gc
import os

from runstream.ingest.artifacts import locations
from runstream.ingest.gateway.app import GatewayParts, create_gateway
from runstream.ingest.gateway.artifacts.config import ArtifactConfig
from runstream.ingest.gateway.config import GatewayConfig
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.process import logs
from runstream.process.http import inherited_socket, max_connections, serve, stop_on_signals
from runstream.process.prometheus import exposer
from runstream.process.tls import certificate_of, tell_hsts
from runstream.roles import wiring
from runstream.roles.queues import existing, is_local, log_reserve, open_producer
from runstream.settings import GatewaySettings


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM."""
    logs.configure("gateway", settings.log_level)
    wiring.run(_gateway(settings))


async def _gateway(settings: GatewaySettings) -> None:
    config = _config(settings)
    certificate = certificate_of(settings.tls_cert_file, settings.tls_key_file)
    stop = stop_on_signals()
    listener = wiring.listener(settings)
    parts = GatewayParts(
        config=config,
        producer=await open_producer(
            settings,
            append_timeout_s=settings.append_timeout_s,
            max_pending_bytes=settings.max_pending_bytes,
        ),
        telemetry=GatewayTelemetry(),
        expose=exposer(),
        epochs_path=settings.run_dir / "epochs" if settings.run_dir else None,
    )
    made = create_gateway(parts)
    _calm_collector()
    if certificate is not None and settings.tls_hsts_s:
        tell_hsts(made.app, settings.tls_hsts_s)
    await serve(
        made.app,
        listener,
        stop,
        drain_s=settings.drain_timeout_s,
        front=made.front,
        certificate=certificate,
        inner=[inherited_socket(settings.inner_fd)] if settings.inner_fd is not None else [],
    )


def _calm_collector() -> None:
    """Python's collector looks at every container in the process, again and again, when a request makes thousands of
    short-lived ones: a page of runs took ten times as long. What is here now stays; the rest may grow a little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _room(settings: GatewaySettings) -> tuple[str | None, int]:
    """The folder and the free bytes that artifacts leave of a disk that the log is on as well: twice what the log
    leaves. A server that is full of artifacts still takes points."""
    location = locations.parse(settings.artifacts, os.environ)
    if location.scheme != "file" or not is_local(settings):
        return None, 0
    folder, (log, reserve_bytes) = existing(location.prefix), log_reserve(settings)
    if folder.stat().st_dev != log.stat().st_dev:
        return None, 0
    return str(folder), 2 * reserve_bytes


def _config(settings: GatewaySettings) -> GatewayConfig:
    shared_disk, keep_free_bytes = _room(settings)
    return GatewayConfig(
        tracking_url=settings.tracking,
        query_url=settings.query,
        internal_token=wiring.token(settings),
        metrics_token=settings.metrics_token.get_secret_value(),
        allowed_hosts=settings.allowed_hosts or os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"),
        cors_allowed_origins=settings.cors_allowed_origins
        or os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"),
        static_prefix=settings.static_prefix,
        basic_auth=settings.basic_auth,
        metadata=settings.metadata.get_secret_value() if settings.metadata else None,
        artifacts=ArtifactConfig(
            url=settings.artifacts,
            max_bytes=settings.artifacts_max_bytes,
            max_files=settings.artifacts_max_files,
            transfer_memory_bytes=settings.artifacts_memory,
            stall_s=settings.artifacts_stall_s,
            direct=settings.artifacts_direct,
            public_endpoint=settings.artifacts_public_endpoint,
            shared_disk=shared_disk,
            keep_free_bytes=keep_free_bytes,
        ),
        max_body_bytes=settings.max_body_bytes,
        max_arriving_bytes=settings.max_arriving_bytes,
        max_connections=max_connections(),
        linger_ms=settings.linger_ms,
        max_record_bytes=settings.max_record_bytes,
        max_pending_bytes=settings.max_pending_bytes,
        append_timeout_s=settings.append_timeout_s,
        hold_s=settings.hold_s,
        verdict_ttl_s=settings.verdict_ttl_s,
        barrier_timeout_s=settings.barrier_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
    )
