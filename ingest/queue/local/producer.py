"""The local log's producer: many concurrent appends share one synced write."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from runstream.ingest.queue.local.files import (
    PRODUCER_LOCK,
    CommitFile,
    is_deleted,
    lock_file,
    make_dir,
    stream_dir,
)
from runstream.ingest.queue.local.frame import HEADER_BYTES, MAX_PAYLOAD_BYTES
from runstream.ingest.queue.local.segment import SegmentWriter, set_aside_foreign
from runstream.ingest.queue.protocol import Depth
from runstream.schemas.errors import ConfigError, QueueFullError, QueueUnavailableError

logger = logging.getLogger(__name__)

# One write takes at most this much: a header and a payload are two buffers, and IOV_MAX is 1024.
_GROUP_RECORDS = 500
_GROUP_BYTES = 16 << 20
_MAX_STREAMS = 10_000
_RETRY_S = 0.2
# A write that has failed is taken for what the next would meet for so long.
_FAILED_S = 10.0
_COMMITTED_EVERY_S = 0.02
_DEPTH_EVERY_S = 0.5
_FREE_EVERY_S = 0.05

_Entry = tuple[bytes, "asyncio.Future[None]", float]


class LocalLogProducer:
    """Appends to one stream of the log folder ``path``; the stream number is the partition.

    A process claims the lowest stream whose lock is free, so no two processes ever write the same file, and a
    restarted one finds one. Group commit: what arrives while a write is under way forms the next write.
    Writing and syncing happen in one thread of this producer's own; the event loop never blocks.

    ``max_bytes`` bounds the unconsumed bytes of this stream on the disk, ``max_pending_bytes`` those in
    memory on their way there (``QueueFullError``). ``deadline_s`` bounds each append
    (``QueueUnavailableError``). Nothing is taken while less than ``reserve_bytes`` are free on the disk
    (``QueueFullError``): whoever consumes the log needs room to make some. ``clock`` counts seconds, monotonic.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 4 << 30,
        max_pending_bytes: int = 64 << 20,
        segment_bytes: int = 64 << 20,
        deadline_s: float = 10.0,
        reserve_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = Path(path)
        self._max_bytes = max_bytes
        self._max_pending_bytes = max_pending_bytes
        self._segment_bytes = segment_bytes
        self._deadline_s = deadline_s
        self._reserve_bytes = reserve_bytes
        self._free_bytes = 0
        self._free_read_at = float("-inf")
        self._clock = clock
        self._stream = -1
        self._lock: int | None = None
        self._commit_file: CommitFile | None = None
        self._committed = 0
        self._committed_read_at = float("-inf")
        self._writer: SegmentWriter | None = None
        self._end = 0
        self._pending: deque[_Entry] = deque()
        self._under_way: list[_Entry] = []
        self._unwritten_bytes = 0
        self._kick_scheduled = False
        self._refused_until = float("-inf")
        self._refusal = ""
        self._failed_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._closed = True
        self._groups: SimpleQueue[list[_Entry] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def stream(self) -> int:
        """The number of the claimed stream."""
        return self._stream

    async def start(self) -> None:
        """Claim a stream, recover its newest segment and begin. Raises ``ConfigError`` with one line if the
        folder cannot be used."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open)
        self._closed = False
        self._thread = threading.Thread(target=self._write_groups, name="runstream-log", daemon=True)
        self._thread.start()

    def route(self, run_id: str) -> int:
        """This producer's stream, whatever the run: nothing depends on the order of points across streams."""
        return self._stream

    async def append(self, partition: int, record: bytes) -> None:
        """See ``Producer.append``. ``partition`` must be this producer's stream."""
        size = HEADER_BYTES + len(record)
        if partition != self._stream or len(record) > MAX_PAYLOAD_BYTES:
            raise ValueError(
                f"cannot append {len(record)} bytes to stream {partition} from stream {self._stream}"
            )
        if self._closed:
            raise QueueUnavailableError("the log is closed")
        now = self._clock()
        if now < self._refused_until:
            raise QueueUnavailableError(self._refusal)
        self._check_bounds(size, now)
        future = self._loop.create_future()
        self._pending.append((record, future, now + self._deadline_s))
        self._unwritten_bytes += size
        if not self._under_way and not self._kick_scheduled:
            # At the end of this turn of the loop, so that all appends of the turn share the write.
            self._kick_scheduled = True
            self._loop.call_soon(self._kick)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline_s, self._expire)
        await future

    def depth(self) -> Depth:
        """Unconsumed bytes of this stream, at most half a second old where they depend on the consumer."""
        now = self._clock()
        if self._end > self._committed and now - self._committed_read_at >= _DEPTH_EVERY_S:
            self._read_committed(now)
        return Depth(max(0, self._end - self._committed) + self._unwritten_bytes, self._max_bytes)

    async def check(self) -> None:
        """See ``Producer.check``: the bounds, room on the disk, and for some seconds what the last write met."""
        now = self._clock()
        if self._closed:
            raise QueueUnavailableError("the log is closed")
        self._check_bounds(0, now)
        if self._failed_at is not None and now - self._failed_at < _FAILED_S:
            raise QueueUnavailableError(self._refusal)

    async def close(self) -> None:
        """Finish what is under way (within the deadline of an append) and release the stream."""
        if self._closed:
            return
        self._closed = True
        if self._pending or self._under_way:
            self._idle = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle, self._deadline_s)
        if self._timer is not None:
            self._timer.cancel()
        self._groups.put(None)
        assert self._thread is not None
        await asyncio.to_thread(self._thread.join, self._deadline_s)
        if self._thread.is_alive():
            logger.error("the log's writing thread hangs in the disk; leaving it behind")
            return
        await asyncio.to_thread(self._release)

    # In the event loop

    def _check_bounds(self, size: int, now: float) -> None:
        if self._unwritten_bytes + size > self._max_pending_bytes:
            raise QueueFullError(f"{self._unwritten_bytes} bytes wait for the disk")
        held = self._end + self._unwritten_bytes + size - self._max_bytes
        if held > self._committed and now - self._committed_read_at >= _COMMITTED_EVERY_S:
            self._read_committed(now)
        if self._reserve_bytes and now - self._free_read_at >= _FREE_EVERY_S:
            facts = os.statvfs(self._log)
            self._free_bytes = facts.f_bavail * facts.f_frsize
            self._free_read_at = now
        if self._reserve_bytes > self._free_bytes:
            raise QueueFullError(
                f"the disk is nearly full: {self._free_bytes >> 20} MiB are free, {self._reserve_bytes >> 20} are kept"
            )
        if held > self._committed:
            raise QueueFullError(f"the log holds {self._max_bytes} bytes that the writer has not consumed")

    def _read_committed(self, now: float) -> None:
        """A read of a kilobyte that is always in memory: microseconds, so it may happen in the loop."""
        assert self._commit_file is not None
        self._committed_read_at = now
        with contextlib.suppress(OSError):
            self._committed = max(self._committed, self._commit_file.read() or 0)

    def _kick(self) -> None:
        self._kick_scheduled = False
        if self._under_way or not self._pending:
            return
        group: list[_Entry] = []
        size = 0
        while self._pending and len(group) < _GROUP_RECORDS and size < _GROUP_BYTES:
            entry = self._pending.popleft()
            group.append(entry)
            size += len(entry[0])
        self._under_way = group
        self._groups.put(group)

    def _written(self, end: int, failure: Exception | None) -> None:
        group, self._under_way = self._under_way, []
        self._end = end
        if failure is None:
            self._refused_until = float("-inf")
            self._failed_at = None
        else:
            self._failed_at = self._clock()
            reason = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
            self._refusal = f"the log cannot be written: {reason}"
            self._refused_until = self._clock() + _RETRY_S
            logger.error("append to %s failed: %s", stream_dir(self._log, self._stream), failure)
        for record, future, _ in group:
            self._unwritten_bytes -= HEADER_BYTES + len(record)
            if not future.done():
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(QueueUnavailableError(self._refusal))
        if failure is not None:  # what waited behind it would meet the same
            self._fail_pending(float("inf"), self._refusal)
        self._kick()
        if self._idle is not None and not self._under_way and not self._idle.done():
            self._idle.set_result(None)

    def _expire(self) -> None:
        """Fail what has waited longer than the deadline, and look again when the next is due."""
        self._timer = None
        now = self._clock()
        message = f"the record was not durable within {self._deadline_s:g} s"
        for _, future, due in self._under_way:
            if due <= now and not future.done():
                future.set_exception(QueueUnavailableError(message))
        self._fail_pending(now, message)
        waiting = [due for _, future, due in self._under_way if not future.done()]
        if self._pending:
            waiting.append(self._pending[0][2])
        if waiting:
            self._timer = self._loop.call_later(max(0.001, min(waiting) - now), self._expire)

    def _fail_pending(self, due_before: float, message: str) -> None:
        while self._pending and self._pending[0][2] <= due_before:
            record, future, _ = self._pending.popleft()
            self._unwritten_bytes -= HEADER_BYTES + len(record)
            if not future.done():
                future.set_exception(QueueUnavailableError(message))

    # In other threads

    def _open(self) -> None:
        make_dir(self._log)
        for stream in range(_MAX_STREAMS):
            directory = stream_dir(self._log, stream)
            make_dir(directory)
            lock = lock_file(directory / PRODUCER_LOCK)
            if lock is None:
                continue
            try:
                self._commit_file = CommitFile(directory)
                self._commit_file.reserve()
                self._committed = self._commit_file.read() or 0
                set_aside_foreign(directory)
                self._writer = SegmentWriter(
                    directory, segment_bytes=self._segment_bytes, at_least=self._committed
                )
            except OSError as error:
                os.close(lock)
                raise ConfigError(f"cannot open the log stream {directory}: {error.strerror}") from error
            self._lock, self._stream, self._end = lock, stream, self._writer.end
            return
        raise ConfigError(f"all {_MAX_STREAMS} streams of the log {self._log} are in use")

    def _write_groups(self) -> None:
        assert self._writer is not None
        while (group := self._groups.get()) is not None:
            failure: Exception | None = None
            try:
                self._keep_lock()
                self._writer.append([record for record, _, _ in group])
            except Exception as error:
                # Of the disk, or of this process (no memory): either can pass, and without this thread nothing would.
                failure = error
            try:
                self._loop.call_soon_threadsafe(self._written, self._writer.end, failure)
            except RuntimeError:  # the loop was closed without closing this producer
                return

    def _keep_lock(self) -> None:
        """Take the stream anew if somebody has deleted its lock, before anybody else can. Raises ``OSError``."""
        if self._lock is None or not is_deleted(self._lock):
            return
        directory = stream_dir(self._log, self._stream)
        directory.mkdir(parents=True, exist_ok=True)
        lock = lock_file(directory / PRODUCER_LOCK)
        if lock is None:
            raise OSError(
                errno.ESTALE, "the log's files were deleted, and another process has taken the stream"
            )
        os.close(self._lock)
        self._lock = lock
        logger.error("the files of %s were deleted beneath this process: it begins anew", directory)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._commit_file is not None:
            self._commit_file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
