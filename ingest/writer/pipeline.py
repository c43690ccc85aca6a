"""The writer: queue -> columns -> blocks in ClickHouse -> newest values -> committed offsets.

Contract. A record's offset is committed only after its points are readable in ClickHouse, their newest
values are in ``latest_metrics`` or newer ones were, and records that cannot be stored are durable dead
letters. Offsets are committed as contiguous prefixes: records are applied in the order of their partition.
Being killed at any point is harmless: what was not committed is delivered again, and applying it twice
changes nothing that readers see. Nothing is given up because ClickHouse, the metadata database or the queue
is away: it is tried again for ever, and polling pauses meanwhile, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from runstream.ingest.queue.protocol import Consumer, Message
from runstream.ingest.writer.batch import Batch, Entry, decode_all
from runstream.ingest.writer.config import WriterConfig
from runstream.ingest.writer.latest import LatestValues
from runstream.ingest.writer.progress import Progress
from runstream.ingest.writer.retry import Retry
from runstream.ingest.writer.sink import Sink
from runstream.ingest.writer.stats import WriterStats
from runstream.ingest.writer.waiting import Step, Waiters
from runstream.schemas.errors import RunstreamError
from runstream.schemas.ports.database import Database
from runstream.schemas.ports.inserts import InsertWatch
from runstream.schemas.record import PointColumns

logger = logging.getLogger(__name__)

_POLL_S = 1.0


class Writer:
    """Runs the pipeline. All methods belong to one event loop; ``consumer`` must not be started yet.

    The writer starts and closes the consumer; the database and the latest values stay the caller's. ``on_points``
    is told of the points of every record as soon as it is decoded: they are durable, and not in ClickHouse yet. It is
    called on the event loop and must not block. ``inserts`` is told of what is put into ClickHouse.
    """

    def __init__(
        self,
        consumer: Consumer,
        database: Database,
        latest: LatestValues,
        config: WriterConfig | None = None,
        stats: WriterStats | None = None,
        *,
        on_points: Callable[[PointColumns], None] | None = None,
        inserts: InsertWatch | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config or WriterConfig()
        self.stats = stats or WriterStats()
        self._consumer = consumer
        self._on_points = on_points
        self._inserts = inserts
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._retry = Retry(self.stats)
        self._sink = Sink(
            consumer,
            database,
            latest,
            self.stats,
            self._retry,
            stream=self.config.stream,
            max_newest_bytes=self.config.max_latest_bytes,
        )
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="runstream-decode")

        self._batch = Batch()
        self._in_flight: Batch | None = None
        self._progress = Progress()
        self._settle_task: asyncio.Task[None] | None = None
        self._settle_after = 0.0
        self._waited_at = float("-inf")
        self._flush_asked = False
        self._waiters = Waiters(self._progress.at)
        self._revocations: dict[int, int] = {}
        self._revoking: set[int] = set()

        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False
        self._started = asyncio.Event()
        self._finished = asyncio.Event()

    async def run(self) -> None:
        """Work until ``stop``. Raises what the consumer's ``start`` raises (``ConfigError``), and only bugs else."""
        self._running = asyncio.current_task()
        poller: asyncio.Task[None] | None = None
        try:
            await self._consumer.start(self._revoke)
            self._progress.start(await self._consumer.committed())
            self._started.set()
            poller = asyncio.create_task(self._poll(), name="writer-poll")
            poller.add_done_callback(lambda _: self._wake.set())
            await self._write(poller)
        finally:
            tasks = [task for task in (poller, self._settle_task) if task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            self._waiters.release()
            self._decoder.shutdown(wait=False)
            await self._sink.close()
            await self._consumer.close()
            self._finished.set()

    async def stop(self, timeout_s: float, *, drain: bool = True) -> bool:
        """Apply what the queue holds now (``drain``) or what is in memory, commit it, and end ``run``.

        ``False`` if ``timeout_s`` passed first: the rest stays in the queue, and ``run`` is cancelled; it
        ends once a statement that is under way in its thread does.
        """
        deadline = self._monotonic() + timeout_s
        if drain and not self._finished.is_set():
            ends: dict[int, int] = {}
            try:
                async with asyncio.timeout(timeout_s):
                    ends = await self._consumer.end_offsets()
            except (RunstreamError, TimeoutError) as error:
                logger.warning("cannot ask the queue for its end: %s", error)
            mine = {partition: end for partition, end in ends.items() if self._progress.is_mine(partition)}
            await self.flush_until(mine, deadline - self._monotonic())
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(max(0.0, deadline - self._monotonic())):
                await self._finished.wait()
            return True
        except TimeoutError:
            logger.warning("the writer did not finish within %.1f s; the rest stays in the queue", timeout_s)
            if self._running is not None:
                self._running.cancel()
            return False

    async def flush_until(
        self,
        offsets: Mapping[int, int],
        timeout_s: float,
        *,
        runs: Collection[str] | None = None,
        newest: bool = True,
    ) -> bool:
        """Write at once, and wait until everything below ``offsets`` (per partition) is applied.

        With ``runs``, until everything of these runs is: if nothing of theirs is under way, other runs' points are
        neither written for it nor waited for. Without ``newest``, until the points are readable in ClickHouse,
        their newest values perhaps not written yet. ``False`` after ``timeout_s``. Callers at the same time share
        one block. For any task of the event loop.
        """
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await self._wait_until(offsets, runs, Step.SETTLED if newest else Step.INSERTED)
        except TimeoutError:
            return False
        except RunstreamError as error:
            logger.warning("cannot ask the queue for what is committed: %s", error)
            return False

    def lag_s(self) -> float:
        """Age of the oldest polled point that is not applied yet; 0 when there is none."""
        ages = (self._batch.oldest_ms, self._progress.oldest_ms())
        known = [age for age in ages if age is not None]
        return max(0.0, self._wall_clock() - min(known) / 1000) if known else 0.0

    def pending_points(self) -> int:
        """Points polled and not yet in ClickHouse."""
        return self._batch.rows + (self._in_flight.rows if self._in_flight else 0)

    # Waiting for a flush

    async def _wait_until(self, offsets: Mapping[int, int], runs: Collection[str] | None, step: Step) -> bool:
        await self._started.wait()
        if not self._progress.knows(offsets):
            self._progress.learn(await self._consumer.committed())
        if runs is not None:
            # Only what has been read shows whose points it has.
            if not await self._wait(offsets, Step.POLLED):
                return False
            offsets = self._of_runs(offsets, runs, step)
        return await self._wait(offsets, step)

    async def _wait(self, offsets: Mapping[int, int], step: Step) -> bool:
        if self._waiters.reached(offsets, step):
            return True
        if self._finished.is_set():
            return False
        self._waited_at = self._monotonic()
        self._wake.set()
        self._hurry.set()
        return await self._waiters.wait(offsets, step)

    def _of_runs(self, offsets: Mapping[int, int], runs: Collection[str], step: Step) -> Mapping[int, int]:
        """Offsets, none behind ``offsets``, below which lies everything of the runs that has not come to ``step``:
        as far as the newest part of the pipeline that holds points of theirs reaches."""
        if not self._waiters.reached(offsets, Step.POLLED):
            return offsets  # Revoked just now.
        progress = self._progress
        parts = [(self._batch.runs, progress.at(Step.POLLED))]
        if self._in_flight is not None:
            parts.append((self._in_flight.runs, progress.inserting()))
        if step is Step.SETTLED:
            parts.append((self._sink.unsettled, progress.at(Step.INSERTED)))
            parts.append((self._sink.settling, progress.settling()))
        for held, positions in parts:
            if held.any_of(runs):
                known = offsets.keys() & positions.keys()
                return {partition: min(offsets[partition], positions[partition]) for partition in known}
        return {}

    # Polling

    async def _poll(self) -> None:
        config = self.config
        loop = asyncio.get_running_loop()
        while not self._stopping:
            await self._room.wait()
            messages = await self._retry("poll", lambda: self._poll_once(config.poll_bytes))
            if not messages:
                continue
            revocations = dict(self._revocations)
            entries: list[Entry] = await loop.run_in_executor(self._decoder, decode_all, messages)
            if self._revoking or revocations != self._revocations:
                entries = [
                    entry
                    for entry in entries
                    if entry.message.partition not in self._revoking
                    and revocations.get(entry.message.partition)
                    == self._revocations.get(entry.message.partition)
                ]
            self._batch.add(entries, self._monotonic())
            for entry in entries:
                self._progress.poll(entry.message.partition, entry.message.next_offset)
            self._tell(entries)
            few = sum(len(message.payload) for message in messages) * 4 < config.poll_bytes
            if self._batch.rows >= self._max_rows() or self._batch.size_bytes >= config.max_bytes:
                self._room.clear()
            self._waiters.notify()
            self._wake.set()
            if few and not self._stopping:
                await self._pause()

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self._on_points is None:
            return
        try:
            for entry in entries:
                if entry.points is not None:
                    self._on_points(entry.points)
        except Exception:  # whoever looks on does not stop the points
            logger.exception("telling of new points failed")

    async def _pause(self) -> None:
        """Let small records gather, for a poll costs as much as decoding many; ends when somebody waits."""
        self._hurry.clear()
        if not self._waiters:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.poll_pause_s):
                    await self._hurry.wait()

    async def _poll_once(self, max_bytes: int) -> list[Message]:
        return await self._consumer.poll(max_bytes=max_bytes, timeout_s=_POLL_S)

    # Writing

    async def _write(self, poller: asyncio.Task[None]) -> None:
        while True:
            self._wake.clear()
            if poller.done():
                poller.result()
            if self._settle_task is not None and self._settle_task.done():
                self._settle_task.result()
                self._settle_task = None
            now = self._monotonic()
            # First what is owed: under full load there is always another batch to write.
            settle_in = self._settle_in(now)
            if settle_in <= 0:
                self._begin_settling()
                continue
            due_in = self._due_in(now)
            if due_in <= 0:
                await self._apply()
                continue
            if self._stopping and self._settle_task is None:
                return
            try:
                async with asyncio.timeout(min(due_in, settle_in, 60.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _due_in(self, now: float) -> float:
        """Seconds until the batch should be written."""
        batch, config = self._batch, self.config
        if not batch or batch.started_at is None:
            return float("inf")
        if self._settle_task is not None and self._sink.crowded():
            # No room for more newest values: wait until they are written, with what is queued.
            return float("inf")
        if not self._room.is_set() or batch.flush or self._stopping or self._waiters.wanted(Step.INSERTED):
            return 0
        if batch.rows >= self._max_rows():
            return 0
        busy = batch.rows * 10 >= config.max_rows
        return batch.started_at + (config.max_linger_s if busy else config.linger_s) - now

    def _max_rows(self) -> int:
        """Smaller blocks while there are readers: each waits for the block under way, then for its own. Larger ones
        behind an insert, while more comes in than inserts keep up with: fewer parts are cheaper to merge."""
        config = self.config
        if self._monotonic() - self._waited_at < config.readers_s:
            return min(config.max_rows, config.readers_rows)
        return config.max_rows if self._in_flight is None else config.max_rows * config.behind_factor

    def _settle_in(self, now: float) -> float:
        """Seconds until newest values should be written and offsets committed."""
        if not self._progress.has_unsettled or self._settle_task is not None:
            return float("inf")
        if self._stopping or self._flush_asked or self._sink.crowded():
            return 0
        if self._waiters.wanted(Step.SETTLED):
            return 0
        return self._settle_after - now

    async def _apply(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._in_flight = batch
        self._progress.begin_insert(batch.next_offsets, batch.oldest_ms)
        self._room.set()
        if self._inserts is not None:
            self._inserts.inserting(batch.runs)
        await self._sink.apply(batch)
        if self._inserts is not None:
            self._inserts.inserted()
        self._in_flight = None
        self._flush_asked |= batch.flush
        self._progress.end_insert()
        self._waiters.notify()

    def _begin_settling(self) -> None:
        """Have everything applied so far settled, beside the next inserts."""
        self._flush_asked = False
        settling = self._settle(self._progress.begin_settle())
        self._settle_task = asyncio.create_task(settling, name="writer-settle")
        self._settle_task.add_done_callback(lambda _: self._wake.set())

    async def _settle(self, offsets: dict[int, int]) -> None:
        # Partitions that are revoked meanwhile disappear from ``offsets``.
        took = await self._sink.settle()
        await self._retry("commit", lambda: self._consumer.commit(offsets))
        self._progress.end_settle()
        self._settle_after = self._monotonic() + took * self.config.latest_pause
        self._waiters.notify()

    # Partitions that go to another consumer

    async def _revoke(self, partitions: Sequence[int]) -> None:
        """Finish what is in flight if that takes no longer than the bound; never commit after."""
        self._revoking.update(partitions)
        for partition in partitions:
            self._revocations[partition] = self._revocations.get(partition, 0) + 1
        mine = self._progress.forget_polled(partitions)
        self._batch = self._batch.without(partitions)
        self._room.set()
        try:
            if mine and not await self.flush_until(mine, self.config.revoke_timeout_s):
                logger.warning("partitions %s were revoked before their points were applied", sorted(mine))
        finally:
            self._revoking.difference_update(partitions)
            for partition in partitions:
                # What was polled meanwhile goes with what was dropped before it.
                self._revocations[partition] += 1
            self._progress.revoke(partitions)
