"""The consumer's side of one stream of the local log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from runstream.ingest.queue.local.files import (
    CommitFile,
    list_segments,
    segment_name,
    stream_dir,
)
from runstream.ingest.queue.local.retention import Retention
from runstream.ingest.queue.local.segment import SegmentReader, set_aside_foreign
from runstream.ingest.queue.protocol import Message

logger = logging.getLogger(__name__)


class _Cursor:
    """A place in a stream, with the segment open that it lies in."""

    def __init__(self, directory: Path, offset: int) -> None:
        self._directory = directory
        self.offset = offset
        self.reader: SegmentReader | None = None
        self.closed = False

    def settle(self) -> bool:
        """Open the segment of ``offset``, moving past the end of closed ones; ``False`` if there is none yet.

        ``closed`` says whether a later segment existed before ``end()`` of the reader is asked, so a closed
        reader's end is final.
        """
        while True:
            try:
                segments = list_segments(self._directory)
            except FileNotFoundError:  # somebody has deleted the stream
                segments = []
            if self.reader is not None and self.offset < self.reader.end():
                # To its end, whatever files there are: also when it has been deleted, or another claims its offsets.
                self.closed = any(base > self.offset for base in segments) or self.reader.is_deleted()
                return True
            current = max((base for base in segments if base <= self.offset), default=None)
            later = min((base for base in segments if base > self.offset), default=None)
            if current is None:
                if later is None:
                    return False
                self.offset = current = later
                later = min((base for base in segments if base > current), default=None)
            if self.reader is None or self.reader.base != current:
                self.close()
                try:
                    self.reader = SegmentReader(self._directory, current)
                except FileNotFoundError:  # removed since it was listed
                    continue
            self.closed = later is not None
            if later is None or self.offset < self.reader.end():
                return True
            self.offset = later

    def stale_end(self) -> int:
        """The end of the open segment, without looking for another."""
        return self.reader.end() if self.reader is not None else self.offset

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class StreamConsumer:
    """Reads one stream from its committed offset on. Blocks.

    ``read``, ``commit`` and ``end`` may each run in another thread, but each in one thread at a time.
    ``delivered`` is the offset after the last record that was read.
    """

    def __init__(self, log: Path, stream: int, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.stream = stream
        self._wall_clock = wall_clock
        # When each segment that stays was found to be wholly consumed.
        self._consumed_at: dict[int, float] = {}
        self._directory = stream_dir(log, stream)
        set_aside_foreign(self._directory)
        self._commit_file = CommitFile(self._directory)
        self.committed = self._commit_file.read() or 0
        self.delivered = self.committed
        self._cursor = _Cursor(self._directory, self.committed)
        self._walk = _Cursor(self._directory, self.committed)
        self._end = self.committed
        self._seen: tuple[int, int] | None = None

    def has_news(self) -> bool:
        """Whether a read may bring something: two or three system calls on memory, no disk."""
        if not self._cursor.settle():
            return False
        seen = (self._cursor.offset, self._cursor.stale_end())
        return seen[1] > seen[0] and (self._cursor.closed or seen != self._seen)

    def read(self, max_bytes: int) -> list[Message]:
        """The next records, about ``max_bytes`` of them; at least one if there is one."""
        messages: list[Message] = []
        while max_bytes > 0 and self._cursor.settle():
            cursor = self._cursor
            assert cursor.reader is not None
            seen = (cursor.offset, cursor.stale_end())
            try:
                frames = cursor.reader.read(cursor.offset, max_bytes, closed=cursor.closed)
            except OSError:
                if messages:  # they count as delivered: hand them over first
                    break
                raise
            if not frames:
                self._seen = seen  # an incomplete end: nothing to read until it grows
                break
            for frame in frames:
                if frame.fault is not None:
                    logger.error(
                        "stream %d is damaged from %d to %d: %s",
                        self.stream,
                        frame.offset,
                        frame.next_offset,
                        frame.fault,
                    )
                messages.append(
                    Message(self.stream, frame.offset, frame.next_offset, frame.payload, frame.fault)
                )
            max_bytes -= frames[-1].next_offset - cursor.offset
            cursor.offset = self.delivered = frames[-1].next_offset
        return messages

    def end(self) -> int:
        """The offset after the newest whole record; never one that no record will reach."""
        walk = self._walk
        if walk.stale_end() < walk.offset:  # cut back after a failed write that we had seen
            self._end = min(self._end, walk.stale_end())
        if self.delivered > self._end:
            self._end = self.delivered
            walk.offset = max(walk.offset, self._end)
        while walk.settle():
            assert walk.reader is not None
            stop = walk.reader.skip_frames(walk.offset)
            if walk.closed:
                stop = walk.stale_end()  # damage included: it is handed on too
            if stop <= walk.offset:
                break
            walk.offset = self._end = stop
        return self._end

    def commit(self, offset: int) -> None:
        """Store the committed offset durably. Raises ``OSError``."""
        if offset <= self.committed:
            return
        self._commit_file.write(offset)
        self.committed = offset

    def release(self, retention: Retention) -> None:
        """Remove segments that are wholly consumed and need not stay, oldest first. The newest stays: it is being
        written. Raises ``OSError``."""
        now = self._wall_clock()
        consumed: dict[int, int] = {}
        for base in list_segments(self._directory)[:-1]:
            with contextlib.suppress(FileNotFoundError):
                size = (self._directory / segment_name(base)).stat().st_size
                if base + size > self.committed:
                    break
                consumed[base] = size
        self._consumed_at = {base: self._consumed_at.get(base, now) for base in consumed}
        total = sum(consumed.values())
        for base, size in consumed.items():
            if total <= retention.max_bytes and not retention.is_over(self._consumed_at[base], now):
                break
            (self._directory / segment_name(base)).unlink(missing_ok=True)
            total -= size

    def close(self) -> None:
        """Close the files; commits nothing."""
        self._cursor.close()
        self._walk.close()
        self._commit_file.close()
