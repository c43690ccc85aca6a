"""Read your writes over Kafka: what a reader waits for before it reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runstream.ingest.queue.kafka.offsets import KafkaOffsets
from runstream.ingest.queue.kafka.producer import KafkaProducerQueue
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.schemas.errors import ConfigError, QueueFullError, QueueUnavailableError
from runstream.schemas.tasks import kept_running, shared

logger = logging.getLogger(__name__)

_MARKER_EVERY_S = 0.01
_POLL_S = (0.002, 0.025)


@dataclass(slots=True, eq=False)
class _Waiter:
    targets: Mapping[int, int]
    applied: asyncio.Future[bool]


class KafkaBarrier:
    """Waits until the writers have committed what the partitions of some runs held when the wait began.

    A wait first asks where these partitions end. If the writers are there already, that is all. If not, a
    flush marker in each makes its writer write at once, and the committed offsets are watched until they pass
    that end. Concurrent waits share the question, the markers and the watching. For any number of tasks of
    one event loop.
    """

    def __init__(self, settings: KafkaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._offsets = KafkaOffsets(settings)
        self._producer = KafkaProducerQueue(settings)
        self._clock = clock
        self._committed: dict[int, int] = {}
        self._waiters: list[_Waiter] = []
        self._watching: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[dict[int, int]] | None = None
        self._asking_next: asyncio.Task[dict[int, int]] | None = None
        self._marked: dict[int, tuple[int, float]] = {}
        self._marking: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connect. Raises ``ConfigError`` with one line if Kafka does not answer or the topic is missing."""
        await self._producer.start()
        try:
            await self._offsets.start()
        except QueueUnavailableError as error:
            raise ConfigError(str(error)) from error

    async def wait(self, run_ids: Sequence[str] | None, timeout_s: float, *, newest: bool = True) -> bool:
        """See ``runstream.schemas.ports.barrier.Barrier``. Committed offsets, which is all that is seen from
        here, stand for the newest values too, so that ``newest`` makes no difference."""
        try:
            async with asyncio.timeout(timeout_s):
                ends = await self._ends()
                if run_ids is not None:
                    mine = {self._producer.route(run_id) for run_id in run_ids}
                    ends = {partition: end for partition, end in ends.items() if partition in mine}
                return await self._until(ends)
        except TimeoutError:
            return False
        except (QueueUnavailableError, QueueFullError) as error:
            logger.warning("cannot wait for the writers: %s", error)
            return False

    async def close(self) -> None:
        """Let nobody wait any longer, and release everything."""
        tasks = [self._watching, self._asking, self._asking_next, *self._marking.values()]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for waiter in self._waiters:
            if not waiter.applied.done():
                waiter.applied.set_result(False)
        await self._offsets.close()
        await self._producer.close()

    async def _ends(self) -> dict[int, int]:
        """Where the partitions end, asked after this call began: a question under way may be too old, so the
        next one is shared by all who come in the meantime."""
        if self._asking is None or self._asking.done():
            self._asking = shared(self._offsets.ends())
            return await asyncio.shield(self._asking)
        if self._asking_next is None or self._asking_next.done():
            self._asking_next = shared(self._ask_after(self._asking))
        return await asyncio.shield(self._asking_next)

    async def _ask_after(self, before: asyncio.Task[dict[int, int]]) -> dict[int, int]:
        await asyncio.wait([before])
        self._asking, self._asking_next = self._asking_next, None
        return await self._offsets.ends()

    async def _until(self, targets: Mapping[int, int]) -> bool:
        if self._reached(targets):
            return True
        waiter = _Waiter(targets, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if self._watching is None or self._watching.done():
            self._watching = kept_running("watching the writers", self._watch)
        try:
            return await waiter.applied
        finally:
            self._waiters.remove(waiter)

    def _reached(self, targets: Mapping[int, int]) -> bool:
        return all(self._committed.get(partition, 0) >= end for partition, end in targets.items())

    async def _watch(self) -> None:
        pause, longest = _POLL_S
        while self._waiters:
            try:
                self._committed |= await self._offsets.committed()
                if not all(waiter.targets.keys() <= self._committed.keys() for waiter in self._waiters):
                    # Nothing was ever committed there: what retention has removed need not be waited for.
                    self._committed = await self._offsets.beginnings() | self._committed
            except QueueUnavailableError as error:
                logger.warning("cannot watch the writers: %s", error)
                pause = longest
            wanted: dict[int, int] = {}
            for waiter in self._waiters:
                if self._reached(waiter.targets):
                    if not waiter.applied.done():
                        waiter.applied.set_result(True)
                    continue
                for partition, end in waiter.targets.items():
                    if self._committed.get(partition, 0) < end:
                        wanted[partition] = max(end, wanted.get(partition, 0))
            for partition, end in wanted.items():
                self._mark(partition, end)
            await asyncio.sleep(pause)
            pause = min(longest, pause * 1.3)

    def _mark(self, partition: int, end: int) -> None:
        """Append a marker behind ``end`` unless there is one, or one was appended just now."""
        covered, at = self._marked.get(partition, (-1, float("-inf")))
        if covered >= end or partition in self._marking or self._clock() < at + _MARKER_EVERY_S:
            return
        self._marked[partition] = (end, self._clock())
        task = asyncio.create_task(self._append_marker(partition))
        self._marking[partition] = task
        task.add_done_callback(lambda _: self._marking.pop(partition, None))

    async def _append_marker(self, partition: int) -> None:
        try:
            offset = await self._producer.append_flush(partition)
            covered, at = self._marked[partition]
            self._marked[partition] = (max(covered, offset + 1), at)
        except (QueueUnavailableError, QueueFullError) as error:
            logger.warning("cannot ask for a flush: %s", error)
            self._marked.pop(partition, None)
