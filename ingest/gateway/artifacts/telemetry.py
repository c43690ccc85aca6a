"""What a gateway process counts about artifacts, for Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class ArtifactTelemetry:
    """Counters of one process; they add up over processes."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(
            "runstream_artifact_requests",
            "Artifact requests answered by the gateway",
            ["route", "status"],
            registry=registry,
        )
        self._bytes = Counter(
            "runstream_artifact_bytes", "Bytes of artifacts moved", ["direction"], registry=registry
        )
        self._under_way = Gauge(
            "runstream_artifact_transfers",
            "Transfers under way",
            ["direction"],
            multiprocess_mode="livesum",
            registry=registry,
        )

    def answered(self, route: str, status: int) -> None:
        """A request on one of the artifact routes was answered."""
        self._requests.labels(route, str(status)).inc()

    def began(self, direction: str) -> None:
        """A transfer (``up`` or ``down``) began."""
        self._under_way.labels(direction).inc()

    def ended(self, direction: str, size: int) -> None:
        """A transfer ended after ``size`` bytes."""
        self._under_way.labels(direction).dec()
        self._bytes.labels(direction).inc(size)
