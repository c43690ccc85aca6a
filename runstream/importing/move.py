"""Moving the points of an MLflow database into the queue, part by part, while the server is serving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np

from runstream.importing.metrics_table import MetricsTable, ahead
from runstream.ingest.queue.protocol import Producer
from runstream.schemas.errors import QueueFullError, QueueUnavailableError, RunstreamError
from runstream.schemas.record import PointColumns, RecordBuilder

# A record's points: Kafka's topic takes records of up to 8 MiB, and 28 bytes a point may not get smaller.
_RECORD_POINTS = 100_000
_UNDER_WAY = 4
# The writer makes room: none for so long means that there is none.
_PATIENCE_S = 600.0
_PAUSE_S = 0.1


class StuckError(RunstreamError):
    """The queue has taken nothing for a long time."""


def records(
    points: PointColumns, route: Callable[[str], int], created_at_ms: int
) -> Iterator[tuple[int, bytes]]:
    """The points as records of the queue, each for its partition."""
    runs = list(points.runs)
    keys = list(points.keys)
    # 16 bits are sorted by counting.
    narrow = points.run_codes.astype(np.uint16) if len(runs) <= 1 << 16 else points.run_codes
    in_order = bool((narrow[:-1] <= narrow[1:]).all())
    order = np.arange(len(points)) if in_order else np.argsort(narrow, kind="stable")
    ends = np.cumsum(np.bincount(points.run_codes, minlength=len(runs)))
    builders: dict[int, RecordBuilder] = {}
    start = 0
    for run_id, end in zip(runs, ends.tolist(), strict=True):
        partition = route(run_id)
        while start < end:
            builder = builders.setdefault(partition, RecordBuilder(created_at_ms))
            stop = min(end, start + _RECORD_POINTS - builder.points)
            places = order[start:stop]
            builder.add_columns(
                run_id,
                keys,
                points.key_codes[places],
                points.steps[places],
                points.timestamps[places],
                points.values[places],
            )
            start = stop
            if builder.points >= _RECORD_POINTS:
                yield partition, builders.pop(partition).build()
    for partition, builder in builders.items():
        yield partition, builder.build()


class Mover:
    """Appends blocks of points to a queue; a few appends are under way at once. Belongs to one event loop."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._under_way: set[asyncio.Task[None]] = set()

    def move(self, table: MetricsTable, start: int, end: int) -> AsyncIterator[int]:
        """Move a part of the table; the number of points of each block. When it ends, all of it is durable.

        Raises ``SourceError``, and ``StuckError`` where the queue takes nothing for ten minutes.
        """
        return self.move_blocks(lambda: table.read(start, end))

    def move_run(self, table: MetricsTable, run_id: str) -> AsyncIterator[int]:
        """Move the points of one run, likewise."""
        return self.move_blocks(lambda: table.of_run(run_id))

    async def move_blocks(self, read: Callable[[], Iterator[PointColumns]]) -> AsyncIterator[int]:
        """Move whatever points there are, likewise."""

        def work() -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
            now_ms = time.time_ns() // 1_000_000
            for points in read():
                yield len(points), list(records(points, self._producer.route, now_ms))

        made = ahead(work)
        try:
            while (block := await asyncio.to_thread(next, made, None)) is not None:
                count, packed = block
                for partition, record in packed:
                    await self._append(partition, record)
                yield count
            await self._drain(0)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.to_thread(made.close)

    async def _append(self, partition: int, record: bytes) -> None:
        await self._drain(_UNDER_WAY - 1)
        self._under_way.add(asyncio.create_task(self._append_held(partition, record)))

    async def _drain(self, left: int) -> None:
        while len(self._under_way) > left:
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _append_held(self, partition: int, record: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                await self._producer.append(partition, record)
                return
            except (QueueFullError, QueueUnavailableError) as error:
                if time.monotonic() > deadline:
                    raise StuckError(f"the queue takes no points: {error}; is the server running?") from error
                await asyncio.sleep(_PAUSE_S)
