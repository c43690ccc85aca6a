"""What a gateway process counts, for Prometheus."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from runstream.schemas.errors import QueueFullError

# Why a request is refused: see refusals.reason.
REASONS = (
    "verdict",
    "invalid",
    "queue_full",
    "queue_away",
    "tracking_away",
    "query_away",
    "too_large",
    "other",
)
_APPEND_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class AppendTelemetry(Protocol):
    """What the batcher reports."""

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        """One append has ended."""
        ...


class GatewayTelemetry:
    """Counters of one process; in a multi-process server they add up in Prometheus' multi-process folder."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(
            "runstream_gateway_requests", "Requests on the hot routes", ["route"], registry=registry
        )
        self._refused = Counter(
            "runstream_gateway_refused", "Requests that were refused", ["reason"], registry=registry
        )
        self._points = Counter(
            "runstream_gateway_points", "Points acknowledged as durable", registry=registry
        )
        self._appends = Histogram(
            "runstream_gateway_append_seconds",
            "Time until a record was durable",
            buckets=_APPEND_SECONDS,
            registry=registry,
        )
        self._record_points = Histogram(
            "runstream_gateway_record_points",
            "Points that shared one record",
            buckets=(1, 10, 100, 1_000, 10_000, 100_000),
            registry=registry,
        )
        self._stale = Counter(
            "runstream_gateway_stale_reads", "Reads answered before everything was applied", registry=registry
        )
        self._queue_bytes = Gauge(
            "runstream_queue_unconsumed_bytes",
            "Bytes in this gateway's part of the queue that the writer has not applied",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._pending_bytes = Gauge(
            "runstream_gateway_pending_bytes",
            "Bytes accepted and not durable yet",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._held_requests = Gauge(
            "runstream_gateway_held_requests",
            "Requests that wait here until a part that they need is back",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._by_route = {
            route: self._requests.labels(route)
            for route in ("log-batch", "log-metric", "append", "history", "proxy")
        }

        # Requests of the routes since the counters were last brought up to date: a counter costs a system call.
        self._since = dict.fromkeys(self._by_route, 0)
        for reason in REASONS:
            # From zero, or the first refusal would not show as a rate.
            self._refused.labels(reason)

    def request(self, route: str) -> None:
        """A request on a route, of which there are few; counted with the next append or ``depth``."""
        try:
            self._since[route] += 1
        except KeyError:
            self._by_route[route] = self._requests.labels(route)
            self._since[route] = 1

    def refused(self, reason: str) -> None:
        """A request answered with an error; ``reason`` is one of few words."""
        self._refused.labels(reason).inc()

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        """See ``AppendTelemetry``."""
        self._count_requests()
        self._appends.observe(seconds)
        if error is None:
            self._points.inc(points)
            self._record_points.observe(points)
        else:
            self._refused.labels("queue_full" if isinstance(error, QueueFullError) else "queue_away").inc()

    def stale_read(self) -> None:
        """A read that did not wait for everything."""
        self._stale.inc()

    def depth(self, queue_bytes: int, pending_bytes: int, held_requests: int) -> None:
        """How much waits now."""
        self._count_requests()
        self._held_requests.set(held_requests)
        self._queue_bytes.set(queue_bytes)
        self._pending_bytes.set(pending_bytes)

    def _count_requests(self) -> None:
        for route, number in self._since.items():
            if number:
                self._by_route[route].inc(number)
                self._since[route] = 0
