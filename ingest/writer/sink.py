"""Applies a batch: dead letters, one block into ClickHouse, newest values kept for ``latest_metrics``."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from runstream.ingest.queue.protocol import Consumer, Message
from runstream.ingest.writer.batch import Batch, Entry
from runstream.ingest.writer.blocks import merge, native_block
from runstream.ingest.writer.latest import LatestValues
from runstream.ingest.writer.newest import latest_rows, newest
from runstream.ingest.writer.retry import Retry
from runstream.ingest.writer.runs import Runs
from runstream.ingest.writer.stats import Flush, WriterStats
from runstream.schemas.migrations import METRICS_COLUMNS, METRICS_TABLE
from runstream.schemas.names import Names
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.record import PointColumns

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What ClickHouse says of the content of a block (src/Common/ErrorCodes.cpp). Whatever else it says, a record is never
# given up for it: an error without a code can be a proxy's, and one of the system (1000 to 1002) a full disk.
_ABOUT_DATA = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        33,  # CANNOT_READ_ALL_DATA
        36,  # BAD_ARGUMENTS
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        117,  # INCORRECT_DATA
        128,  # TOO_LARGE_ARRAY_SIZE
        131,  # TOO_LARGE_STRING_SIZE
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        469,  # VIOLATED_CONSTRAINT
    }
)


def _no_points() -> PointColumns:
    codes, numbers = np.empty(0, np.uint32), np.empty(0, np.int64)
    return PointColumns([], [], codes, codes, numbers, numbers, np.empty(0, np.float64), 0)


class Sink:
    """Writes batches, one at a time; blocking work runs in two threads of its own.

    ``apply`` makes a batch's points readable in ClickHouse; ``settle`` writes the newest values of everything
    applied before it began. Offsets of those may be committed only after ``settle``. Everything may be
    repeated. One ``apply`` and one ``settle`` may be under way at a time. ``unsettled`` holds the runs whose
    newest values the next ``settle`` will write, ``settling`` those of the one under way.
    """

    def __init__(
        self,
        consumer: Consumer,
        database: Database,
        latest: LatestValues,
        stats: WriterStats,
        retry: Retry,
        *,
        stream: str,
        max_newest_bytes: int,
    ) -> None:
        self._consumer = consumer
        self._database = database
        self._latest = latest
        self._stats = stats
        self._retry = retry
        self._stream = stream
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runstream-writer")
        # Newest values have a thread of their own: upserts of many series take as long as the inserts.
        self._latest_thread = ThreadPoolExecutor(1, thread_name_prefix="runstream-latest")
        self._max_newest_bytes = max_newest_bytes
        self._newest: list[PointColumns] = []
        self._newest_bytes = 0
        self.unsettled = Runs()
        self.settling = Runs()

    async def apply(self, batch: Batch) -> None:
        """Store the batch's points; what cannot be stored becomes a dead letter. Retries for ever."""
        good = []
        for entry in batch.entries:
            if entry.reason is not None:
                await self._dead_letter(entry.message, entry.reason)
            elif entry.points is not None and len(entry.points):
                good.append(entry)
        if good:
            await self._insert(good)
        self._stats.records += len(batch.entries)
        self._stats.record_bytes += sum(len(entry.message.payload) for entry in batch.entries)

    def crowded(self) -> bool:
        """Whether the newest values take so much memory that they should be written now."""
        return len(self._newest) == 1 and self._newest_bytes * 2 > self._max_newest_bytes

    async def settle(self) -> float:
        """Write the newest values; returns the seconds that it took."""
        if not self._newest:
            return 0.0
        pending, self._newest, self._newest_bytes = self._newest, [], 0
        self.settling, self.unsettled = self.unsettled, Runs()
        started = time.monotonic()
        rows = await self._run(lambda: latest_rows(newest(merge(pending))), self._latest_thread)
        await self._retry(
            "latest values", lambda: self._run(lambda: self._latest.upsert(rows), self._latest_thread)
        )
        self.settling = Runs()
        took = time.monotonic() - started
        self._stats.latest_rows += len(rows)
        self._stats.latest_s += took
        return took

    async def close(self) -> None:
        """Wait for the threads; what is unsettled is forgotten, and will be delivered again."""
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._latest_thread.shutdown)

    async def _insert(self, entries: list[Entry]) -> None:
        parts = [entry.points for entry in entries if entry.points is not None]

        def encode() -> tuple[bytes, PointColumns, int]:
            points = merge(parts)
            return native_block(points), newest(points), len(points)

        block, new, rows = await self._run(encode)
        token = deduplication_token(self._stream, [entry.message for entry in entries], block)
        started = time.monotonic()
        try:
            await self._retry("insert", lambda: self._insert_block(block, token))
        except DatabaseError as error:
            del block
            await self._divide(entries, error)
            return
        took = time.monotonic() - started
        await self._keep(new)
        self._stats.points += rows
        self._stats.block_bytes += len(block)
        self._stats.flushes += 1
        self._stats.insert_s += took
        self._stats.on_flush(Flush(rows, len(block), took))

    async def _keep(self, new: PointColumns) -> None:
        """Keep newest points until they are settled; what several blocks have of a series becomes one."""
        pending = self._newest
        pending.append(new)
        self.unsettled.add(new.runs)
        self._newest_bytes += _memory(new)
        if self._newest_bytes > self._max_newest_bytes and len(pending) > 1:
            fewer = await self._run(lambda: newest(merge(pending)))
            # If a settle began meanwhile it has taken these, and their offsets wait for it.
            if self._newest is pending:
                self._newest = [fewer]
                self._newest_bytes = _memory(fewer)
                self.unsettled = Runs()
                self.unsettled.add(fewer.runs)

    async def _insert_block(self, block: bytes, token: str) -> None:
        try:
            await self._run(
                lambda: self._database.insert_native(
                    METRICS_TABLE, METRICS_COLUMNS, block, deduplication_token=token
                )
            )
        except DatabaseError as error:
            if error.retryable or (error.code in _ABOUT_DATA and await self._accepts_inserts()):
                raise
            # The place, the table, the rights or the settings are wrong, not these records: that passes, or somebody
            # has to repair it.
            raise DatabaseError(str(error), code=error.code, retryable=True) from error

    async def _accepts_inserts(self) -> bool:
        """Whether a block without rows goes in, by the same way as any other."""
        try:
            await self._run(
                lambda: self._database.insert_native(
                    METRICS_TABLE, METRICS_COLUMNS, native_block(_no_points())
                )
            )
        except DatabaseError as error:
            logger.debug("an empty block is refused too: %s", error)
            return False
        return True

    async def _divide(self, entries: list[Entry], error: DatabaseError) -> None:
        """ClickHouse refuses this block but not others: find the records it is about."""
        if len(entries) == 1:
            await self._dead_letter(entries[0].message, f"ClickHouse refused the points: {error}")
            return
        middle = len(entries) // 2
        await self._insert(entries[:middle])
        await self._insert(entries[middle:])

    async def _dead_letter(self, message: Message, reason: str) -> None:
        logger.error(
            "record at offset %d of partition %d becomes a dead letter: %s",
            message.offset,
            message.partition,
            reason,
        )
        await self._retry("dead letter", lambda: self._consumer.dead_letter(message, reason))
        self._stats.dead_letters += 1

    async def _run(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)


def _memory(points: PointColumns) -> int:
    """About how many bytes the points take."""
    return 32 * len(points) + Names.of(points.keys).size_bytes + Names.of(points.runs).size_bytes


def deduplication_token(stream: str, messages: Sequence[Message], block: bytes) -> str:
    """Names an insert by where its records are, and by its content.

    The content belongs to it because offsets begin anew when a queue is made anew.
    """
    spans: dict[int, tuple[int, int]] = {}
    for message in messages:
        first, _ = spans.get(message.partition, (message.offset, 0))
        spans[message.partition] = (first, message.offset)
    places = ";".join(f"{partition}:{first}-{last}" for partition, (first, last) in sorted(spans.items()))
    digest = hashlib.blake2b(places.encode(), digest_size=16).hexdigest() if len(places) > 200 else places
    return f"{stream}/{digest}/{zlib.crc32(block):08x}"
