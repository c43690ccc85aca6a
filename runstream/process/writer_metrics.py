"""What a writer process shows to Prometheus."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from runstream.ingest.writer.pipeline import Writer
from runstream.ingest.writer.stats import Flush

_INTERVAL_S = 1.0
_COUNTED = {
    "points": "Points inserted into ClickHouse",
    "records": "Queue records applied",
    "record_bytes": "Bytes of queue records applied",
    "block_bytes": "Bytes of blocks inserted",
    "latest_rows": "Newest values written to the metadata database",
    "dead_letters": "Records that could not be stored",
    "retries": "Operations that were tried again",
}


class WriterMetrics:
    """Follows one writer; ``watch`` runs beside it."""

    def __init__(self, writer: Writer, registry: CollectorRegistry = REGISTRY) -> None:
        self._writer = writer
        self._counters = {
            name: Counter(f"runstream_writer_{name}", text, registry=registry)
            for name, text in _COUNTED.items()
        }
        self._seen = dict.fromkeys(_COUNTED, 0)
        self._insert_points = Histogram(
            "runstream_writer_insert_points",
            "Points per block",
            buckets=(1, 10, 100, 1_000, 10_000, 100_000, 1_000_000),
            registry=registry,
        )
        self._insert_seconds = Histogram(
            "runstream_writer_insert_seconds",
            "Time to insert a block, durable",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._lag = Gauge(
            "runstream_writer_lag_seconds",
            "Age of the oldest point that was read from the queue and is not applied yet",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._pending = Gauge(
            "runstream_writer_pending_points",
            "Points read from the queue and not yet in ClickHouse",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._failing = Gauge(
            "runstream_writer_failing",
            "1 while something fails and is being retried",
            multiprocess_mode="livemax",
            registry=registry,
        )
        writer.stats.on_flush = self._flushed

    def _flushed(self, flush: Flush) -> None:
        self._insert_points.observe(flush.points)
        self._insert_seconds.observe(flush.insert_s)

    async def watch(self) -> None:
        """Copy the writer's figures every second, until cancelled."""
        while True:
            self.update()
            await asyncio.sleep(_INTERVAL_S)

    def update(self) -> None:
        """Copy the writer's figures now."""
        stats = self._writer.stats
        for name, counter in self._counters.items():
            now = getattr(stats, name)
            counter.inc(now - self._seen[name])
            self._seen[name] = now
        self._lag.set(self._writer.lag_s())
        self._pending.set(self._writer.pending_points())
        self._failing.set(0 if stats.failure is None else 1)
