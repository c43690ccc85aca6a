"""Group commit: many requests share one queue record.

A batch opens with its first request. It is sealed (packed and appended) at once if no append of its partition is
under way, so that a lone request never waits; otherwise it collects until that append ends, ``linger_ms`` have
passed, or it is full. Every request of a batch is answered by the one append. While the queue is away, records are
held and appended again, and those that follow collect for longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.telemetry import AppendTelemetry
from runstream.ingest.queue.protocol import Producer
from runstream.schemas.errors import QueueFullError, QueueUnavailableError, RunstreamError
from runstream.schemas.record import RecordBuilder
from runstream.schemas.tasks import Tasks

# How long points collect for one record while the queue is away.
_HELD_LINGER_S = 1.0


@dataclass(slots=True)
class Points:
    """Points of one run, as columns of equal length."""

    run_id: str
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float]

    def add_to(self, builder: RecordBuilder) -> None:
        """Put them into a queue record."""
        builder.add(self.run_id, self.keys, self.steps, self.timestamps, self.values)


class RunPoints(Protocol):
    """Points of one run, in whatever form they came."""

    run_id: str

    def add_to(self, builder: RecordBuilder) -> None:
        """Put them into a queue record."""
        ...


class _Batch:
    __slots__ = ("builder", "durable", "sealed")

    def __init__(self, created_at_ms: int, loop: asyncio.AbstractEventLoop) -> None:
        self.builder = RecordBuilder(created_at_ms)
        self.durable: asyncio.Future[None] = loop.create_future()
        self.sealed = False


class Batcher:
    """Belongs to one event loop. Memory is bounded by ``max_pending_bytes`` over all partitions, what is held included.

    An append takes at most ``append_timeout_s``; a record is held, with ``holding``, as long as that allows.
    """

    def __init__(
        self,
        producer: Producer,
        telemetry: AppendTelemetry,
        *,
        linger_ms: float,
        max_record_bytes: int,
        max_pending_bytes: int,
        append_timeout_s: float,
        holding: Holding | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._producer = producer
        self._telemetry = telemetry
        self._linger_s = linger_ms / 1000
        self._max_record_bytes = max_record_bytes
        self._max_pending_bytes = max_pending_bytes
        self._append_timeout_s = append_timeout_s
        self._holding = holding
        self._line = holding.line() if holding is not None else None
        self._clock_ms = clock_ms
        self._open: dict[int, _Batch] = {}
        self._appending: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._tasks = Tasks("append")
        self._pending_bytes = 0

    async def add(self, points: RunPoints) -> None:
        """Make the points durable; returns when they are.

        Raises ``QueueFullError`` (bound reached) or ``QueueUnavailableError`` (not durable in time): nothing may
        be acknowledged then, and the caller may send the same again.
        """
        # Shielded: one caller that goes away must not take the others' answer with it.
        await asyncio.shield(self.add_nowait(points))

    def add_nowait(self, points: RunPoints) -> asyncio.Future[None]:
        """Like ``add``, without waiting: the future is that of the whole record, so it must not be cancelled."""
        if self._pending_bytes >= self._max_pending_bytes:
            full = QueueFullError("the gateway holds as many unwritten points as it may")
            full.away_s = self.away_s
            raise full
        partition = self._producer.route(points.run_id)
        batch = self._open.get(partition)
        if batch is None:
            batch = _Batch(self._clock_ms(), asyncio.get_running_loop())
            self._open[partition] = batch
            self._pending_bytes += batch.builder.approximate_bytes
            self._schedule(partition, batch)
        before = batch.builder.approximate_bytes
        points.add_to(batch.builder)
        self._pending_bytes += batch.builder.approximate_bytes - before
        if batch.builder.approximate_bytes >= self._max_record_bytes:
            self._seal(partition, batch)
        return batch.durable

    def _schedule(self, partition: int, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        if self._appending.get(partition):
            # One append more would not help a queue that is away.
            linger_s = _HELD_LINGER_S if self._held.get(partition) else self._linger_s
            loop.call_later(linger_s, self._seal, partition, batch)
        else:
            # At the end of this turn of the loop: requests read in the same turn share the record.
            loop.call_soon(self._seal, partition, batch)

    def _seal(self, partition: int, batch: _Batch) -> None:
        if batch.sealed:
            return
        batch.sealed = True
        if self._open.get(partition) is batch:
            del self._open[partition]
        self._appending[partition] = self._appending.get(partition, 0) + 1
        self._tasks.start(self._append(partition, batch))

    async def _append(self, partition: int, batch: _Batch) -> None:
        size = batch.builder.approximate_bytes
        started = time.perf_counter()
        error: RunstreamError | None = None
        try:
            error = await self._append_held(partition, batch.builder.build())
        finally:
            self._appending[partition] -= 1
            self._pending_bytes -= size
        self._telemetry.appended(batch.builder.points, time.perf_counter() - started, error)
        if not batch.durable.done():
            if error is None:
                batch.durable.set_result(None)
            else:
                batch.durable.set_exception(error)
                batch.durable.exception()  # read here, so that no waiter left does not mean a warning
        waiting = self._open.get(partition)
        if waiting is not None and not self._appending[partition]:
            self._seal(partition, waiting)

    async def _append_held(self, partition: int, record: bytes) -> RunstreamError | None:
        """Append a record, again and again while the queue is away, and tell the last error."""
        error = await self._append_once(partition, record)
        if error is None or self._holding is None or self._line is None or not error.nothing_done:
            return error
        until = self._holding.deadline()
        self._held[partition] = self._held.get(partition, 0) + 1
        try:
            while error is not None and error.nothing_done:
                self._line.failed(error)
                if not await self._line.turn(until):
                    return error
                error = await self._append_once(partition, record)
        finally:
            self._held[partition] -= 1
        if error is None:
            self._line.succeeded()
        return error

    async def _append_once(self, partition: int, record: bytes) -> RunstreamError | None:
        try:
            async with asyncio.timeout(self._append_timeout_s):
                await self._producer.append(partition, record)
        except TimeoutError:
            return QueueUnavailableError("the queue did not make the points durable in time")
        except (QueueFullError, QueueUnavailableError) as refused:
            return refused
        except Exception as unexpected:
            error = QueueUnavailableError(f"append failed: {unexpected!r}")
            error.nothing_done = False  # no fault of the queue's: again, it would be the same
            return error
        return None

    @property
    def away_s(self) -> float:
        """How long the queue has been away, as far as appends have shown; 0 if it is not known to be."""
        return self._line.away_s if self._line is not None else 0.0

    @property
    def pending_bytes(self) -> int:
        """Bytes that were accepted and are not durable yet."""
        return self._pending_bytes

    async def drain(self) -> None:
        """Seal what is open and wait until every append has ended."""
        for partition, batch in list(self._open.items()):
            self._seal(partition, batch)
        await self._tasks.ended()
