"""Segments of a stream: reading the frames of one, and appending to the newest."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from runstream.ingest.queue.local.files import (
    is_deleted,
    list_segments,
    segment_name,
    sync_dir,
    write_durably,
)
from runstream.ingest.queue.local.frame import HEADER_BYTES, MAGIC, encode_header, parse_header

logger = logging.getLogger(__name__)

# Damaged bytes are handed on in pieces of at most this size.
_FAULT_BYTES = 4 << 20
_SEARCH_BYTES = 1 << 20
# Failed writes leave gaps between segments, of what they would have written: never so much.
_FARTHEST_JUMP_BYTES = 1 << 48


@dataclass(frozen=True, slots=True)
class Frame:
    """One record, or a piece of damage, and the offsets where it begins and ends."""

    offset: int
    next_offset: int
    payload: bytes
    fault: str | None = None


class SegmentReader:
    """Reads the frames of one segment file. Blocks; belongs to one thread at a time.

    A segment is *closed* when a later one exists: nothing will be added, and its writer has cut off what it
    could not complete. In a closed segment whatever is not a whole frame is damage. In the newest one, bytes
    at the end that are no whole frame may be a write under way: they are left alone until they are complete,
    or followed by a frame, or closed.
    """

    def __init__(self, directory: Path, base: int) -> None:
        self.base = base
        self._fd = os.open(directory / segment_name(base), os.O_RDONLY)
        self._fruitless: tuple[int, int] | None = None

    def is_deleted(self) -> bool:
        """Whether the file has no name any more."""
        return is_deleted(self._fd)

    def end(self) -> int:
        """The offset after the last byte in the file."""
        return self.base + os.fstat(self._fd).st_size

    def read(self, offset: int, max_bytes: int, *, closed: bool) -> list[Frame]:
        """Whole frames from ``offset`` on: about ``max_bytes`` of them, at least one if there is one."""
        end = self.end()
        available = end - offset
        if available <= 0:
            return []
        frames = self._parse(offset, min(max(max_bytes, HEADER_BYTES), available))
        if frames or (available < HEADER_BYTES and not closed):
            return frames
        header = self._header(offset) if available >= HEADER_BYTES else None
        if header is None:
            return self._skip_damage(offset, end, closed)
        frame_bytes = HEADER_BYTES + header[0]
        if frame_bytes <= available:  # a single frame larger than max_bytes
            return self._parse(offset, frame_bytes)
        if closed:
            return self._faults(offset, end, "the record is cut short")
        return []

    def skip_frames(self, offset: int) -> int:
        """The end of the last whole frame from ``offset`` on, by the headers alone: it reads 16 bytes of
        each."""
        end = self.end()
        at = offset
        while end - at >= HEADER_BYTES:
            header = self._header(at)
            if header is None:
                found = self.find_frame(at + 1, end)
                if found is None:
                    break
                at = found
            elif at + HEADER_BYTES + header[0] > end:
                break
            else:
                at = offset = at + HEADER_BYTES + header[0]
        return offset

    def find_frame(self, offset: int, end: int) -> int | None:
        """Where the first whole, valid frame after ``offset`` begins."""
        at = offset
        while end - at >= HEADER_BYTES:
            chunk = self._pread(at, min(_SEARCH_BYTES, end - at))
            hit = chunk.find(MAGIC)
            while hit >= 0:
                if self._is_frame(at + hit, end):
                    return at + hit
                hit = chunk.find(MAGIC, hit + 1)
            if len(chunk) <= len(MAGIC):
                break
            at += len(chunk) - len(MAGIC) + 1  # the magic may straddle two chunks
        return None

    def torn_tail(self, offset: int) -> bool:
        """Whether the bytes from ``offset`` to the end are surely an append that was not completed: part of a
        header, a header with too few bytes after it, or nothing but zeros. Anything else is damage."""
        end = self.end()
        if end - offset < HEADER_BYTES:
            return end > offset
        header = self._header(offset)
        if header is not None:
            return offset + HEADER_BYTES + header[0] > end
        while offset < end:
            chunk = self._pread(offset, min(_SEARCH_BYTES, end - offset))
            if chunk.strip(b"\0"):
                return False
            offset += len(chunk)
        return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset - self.base)

    def _header(self, offset: int) -> tuple[int, int] | None:
        buffer = self._pread(offset, HEADER_BYTES)
        return parse_header(buffer, 0, offset) if len(buffer) == HEADER_BYTES else None

    def _is_frame(self, offset: int, end: int) -> bool:
        if end - offset < HEADER_BYTES:
            return False
        header = self._header(offset)
        if header is None or offset + HEADER_BYTES + header[0] > end:
            return False
        return crc32(self._pread(offset + HEADER_BYTES, header[0])) == header[1]

    def _parse(self, offset: int, size: int) -> list[Frame]:
        """The frames that lie whole in ``size`` bytes from ``offset``, up to the first bad header."""
        chunk = self._pread(offset, size)
        frames: list[Frame] = []
        at = 0
        limit = len(chunk)
        while limit - at >= HEADER_BYTES:
            start = offset + at
            header = parse_header(chunk, at, start)
            if header is None:
                break
            stop = at + HEADER_BYTES + header[0]
            if stop > limit:
                break
            payload = chunk[at + HEADER_BYTES : stop]
            fault = None
            if crc32(payload) != header[1]:
                # Read again before calling it damage: only what the disk says twice is believed.
                payload = self._pread(start + HEADER_BYTES, header[0])
                if crc32(payload) != header[1]:
                    fault = "the record's checksum does not match"
            frames.append(Frame(start, offset + stop, payload, fault))
            at = stop
        return frames

    def _skip_damage(self, offset: int, end: int, closed: bool) -> list[Frame]:
        """Damage from ``offset`` to the next frame, or to the end if the segment is closed."""
        if not closed and self._fruitless == (offset, end):
            return []
        stop = self.find_frame(offset + 1, end)
        if stop is None:
            if not closed:
                self._fruitless = (offset, end)
                return []
            stop = end
        return self._faults(offset, stop, "the record's header is damaged")

    def _faults(self, offset: int, stop: int, reason: str) -> list[Frame]:
        frames = []
        while offset < stop:
            piece = self._pread(offset, min(_FAULT_BYTES, stop - offset))
            if not piece:  # the file became shorter under our hands
                break
            frames.append(Frame(offset, offset + len(piece), piece, reason))
            offset += len(piece)
        return frames


class SegmentWriter:
    """Appends frames durably to the newest segment of a folder. Blocks; belongs to one thread.

    ``end`` is the offset after the last durable record (or damage). Opening recovers: a torn tail of the
    newest segment is cut off, and the next record goes to a new segment that begins at or after ``at_least``
    (the committed offset, which can lie past the end when the machine lost power after a record was consumed
    and before it was synced).
    """

    def __init__(self, directory: Path, *, segment_bytes: int, at_least: int = 0) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fd: int | None = None
        self._base = 0
        self.end, begin, damaged = self._recover()
        self._next = max(begin, at_least)
        if damaged:  # close the old segment, so that readers report the damage and pass it
            self._begin_segment()

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write the records and return when they are durable.

        Raises ``OSError`` when they are not, or whatever else went wrong. Then the file is cut back to its last
        durable record, and a new segment begins behind it: after a failed sync the kernel may have dropped the dirty
        pages, so the old file is never written again, and no offset that a reader may have seen is used again.
        """
        begin = at = self._next
        buffers: list[bytes] = []
        for payload in payloads:
            buffers += (encode_header(at, payload), payload)
            at += HEADER_BYTES + len(payload)
        try:
            fd = self._begin_segment() if self._fd is None else self._fd
            write_durably(fd, buffers, begin - self._base)
        except BaseException:
            self._next = at
            self._abandon_segment()
            raise
        self._next = self.end = at
        if at - self._base >= self._segment_bytes:
            self._close_segment()

    def close(self) -> None:
        """Close the file. What was appended is durable already."""
        self._close_segment()

    def _recover(self) -> tuple[int, int, bool]:
        """Cut a torn tail off; return where the last record ends, where the next segment may begin, and
        whether the newest segment ends in damage."""
        segments = list_segments(self._directory)
        if not segments:
            return 0, 0, False
        base = segments[-1]
        if len(segments) > 1 and not (self._directory / segment_name(base)).stat().st_size:
            # Begun and never written: records end where the one before ends, which was closed then.
            last = segments[-2]
            return last + (self._directory / segment_name(last)).stat().st_size, base, False
        reader = SegmentReader(self._directory, base)
        try:
            end = reader.end()
            offset = base
            while frames := reader.read(offset, _FAULT_BYTES, closed=False):
                offset = frames[-1].next_offset
            if offset < end and reader.torn_tail(offset):
                logger.info(
                    "cutting a torn tail of %d bytes off %s at %d", end - offset, self._directory, offset
                )
                self._cut(base, offset)
                return offset, end, False
            return end, end, offset < end
        finally:
            reader.close()

    def _begin_segment(self) -> int:
        # The file exists if an earlier try got no further than creating it: then it is empty.
        self._directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._directory / segment_name(self._next), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(fd).st_size:
                raise OSError(errno.EEXIST, "the new segment holds data already")
            sync_dir(self._directory)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._base = fd, self._next
        return fd

    def _close_segment(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _abandon_segment(self) -> None:
        """Give back the space that a failed write took, and close the segment by beginning the next at once.

        An empty file needs no space, and it makes the old segment removable when it is consumed: a log that
        has filled the disk frees it that way. It also tells a restarted producer which offsets are used up.
        All of this is best effort: what cannot be cut off is damage, which readers report and pass.
        """
        if self._fd is None:
            return
        old, keep = self._base, max(self._base, self.end)
        self._close_segment()
        with contextlib.suppress(OSError):
            self._cut(old, keep)
        with contextlib.suppress(OSError):
            self._begin_segment()
            if keep == old:
                (self._directory / segment_name(old)).unlink()

    def _cut(self, base: int, offset: int) -> None:
        fd = os.open(self._directory / segment_name(base), os.O_RDWR)
        try:
            os.ftruncate(fd, offset - base)
            os.fsync(fd)
        finally:
            os.close(fd)


def set_aside_foreign(directory: Path) -> list[Path]:
    """Rename what is named like a segment and cannot be one of this stream's; the new paths.

    Readers and the producer find their way by names, so such a file would hide records, or put the stream's end out
    of reach. Foreign is what is no plain file, what claims offsets within the segment before it, and what begins
    further on than any stream gets in practice; unless its first frame is whole, for a frame's checksum covers its
    place. Blocks; raises ``OSError``. For the opening of a stream, before anything is read or written.
    """
    foreign = []
    end = 0
    for base in list_segments(directory):
        path = directory / segment_name(base)
        if stat.S_ISREG(path.lstat().st_mode):
            size = path.stat().st_size
            if end <= base < end + _FARTHEST_JUMP_BYTES or (size and _begins_whole(directory, base)):
                end = max(end, base + size)
                continue
        aside = path.with_name(f"{path.name}.foreign")
        path.rename(aside)
        logger.error("%s is no segment of this stream: it is %s now, and not read", path, aside.name)
        foreign.append(aside)
    return foreign


def _begins_whole(directory: Path, base: int) -> bool:
    reader = SegmentReader(directory, base)
    try:
        frames = reader.read(base, HEADER_BYTES, closed=False)
        return bool(frames) and frames[0].offset == base and frames[0].fault is None
    finally:
        reader.close()
