"""Read your writes, for each way of setting the roles up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from runstream.ingest.queue.protocol import Consumer
from runstream.ingest.writer.pipeline import Writer
from runstream.schemas.errors import QueueUnavailableError

_RETRY_S = 0.05


class LocalBarrier:
    """For a writer in the same process: look where the queue ends, and have the writer come that far at once."""

    def __init__(self, consumer: Consumer, writer: Writer) -> None:
        self._consumer = consumer
        self._writer = writer

    async def wait(self, run_ids: Sequence[str] | None, timeout_s: float, *, newest: bool = True) -> bool:
        """See ``runstream.schemas.ports.barrier.Barrier``."""
        deadline = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                ends = await self._end_offsets()
        except TimeoutError:
            return False
        left_s = deadline - time.monotonic()
        return await self._writer.flush_until(ends, left_s, runs=run_ids, newest=newest)

    async def _end_offsets(self) -> dict[int, int]:
        """Tried again while the log cannot be asked: also while the writer is still opening it after a crash."""
        while True:
            try:
                return await self._consumer.end_offsets()
            except QueueUnavailableError:
                await asyncio.sleep(_RETRY_S)
