"""What a gateway process needs to know; filled from settings by the composition in ``runstream``."""

from __future__ import annotations

from dataclasses import dataclass

from runstream.ingest.gateway.artifacts.config import ArtifactConfig


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Addresses and bounds of one gateway process.

    ``tracking_url`` is the MLflow server, ``query_url`` the query service, both without a trailing slash.
    ``internal_token`` is shared with both and never leaves the server's machines; ``metrics_token`` is
    Prometheus'. ``basic_auth`` says that the MLflow server runs with ``--app-name basic-auth``; how else it
    tells callers apart is learnt from it. ``metadata`` is the address of its database, with which
    experiments, runs and models are served here. ``artifacts=None`` and ``metadata=None`` leave those to it.
    What has surely not been processed, because a part is away, is held for ``hold_s`` at most:
    ``hold_requests`` at once, with bodies of ``hold_bytes``. Past that callers are told to come again, in
    ``retry_after_s`` at least.
    """

    tracking_url: str
    query_url: str
    internal_token: str
    metrics_token: str = ""
    allowed_hosts: str | None = None
    cors_allowed_origins: str | None = None
    static_prefix: str = ""
    basic_auth: bool = False
    artifacts: ArtifactConfig | None = None
    metadata: str | None = None
    max_body_bytes: int = 16 << 20
    max_arriving_bytes: int = 64 << 20
    max_connections: int = 10_000
    linger_ms: float = 1.0
    max_record_bytes: int = 1 << 20
    max_pending_bytes: int = 128 << 20
    append_timeout_s: float = 15.0
    verdict_ttl_s: float = 30.0
    verdict_stale_s: float = 900.0
    verdict_entries: int = 100_000
    barrier_timeout_s: float = 10.0
    upstream_timeout_s: float = 20.0
    hold_s: float = 45.0
    hold_requests: int = 1_000
    hold_bytes: int = 64 << 20
    retry_after_s: int = 5
    drain_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
