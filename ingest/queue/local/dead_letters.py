"""Where the local log keeps records that cannot be applied."""

from __future__ import annotations

import contextlib
import json
import logging
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runstream.ingest.queue.local.files import (
    DEAD_LETTERS,
    list_segments,
    make_dir,
    segment_name,
)
from runstream.ingest.queue.local.segment import SegmentReader, SegmentWriter

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be applied. ``origin`` says where it was (stream, offset, next_offset, and
    ``at_ms``, when it was set aside)."""

    reason: str
    origin: dict[str, int]
    payload: bytes


class DeadLetters:
    """Appends to ``LOG/dead-letters``; blocks. At most about ``max_bytes`` are kept, as Kafka's retention
    would: beyond it the oldest file is removed, and how many letters went with it is logged and added to
    ``discarded``."""

    def __init__(
        self,
        log: Path,
        *,
        max_bytes: int,
        file_bytes: int | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = log / DEAD_LETTERS
        self._max_bytes = max_bytes
        self._wall_clock = wall_clock
        self.stored = 0
        self._discarded = 0
        make_dir(self._directory)
        self._writer = SegmentWriter(
            self._directory, segment_bytes=file_bytes or max(1, min(16 << 20, max_bytes // 4))
        )

    def add(self, payload: bytes, reason: str, origin: dict[str, int]) -> None:
        """Store one letter durably. Raises ``OSError``."""
        head = {"reason": reason, "origin": {**origin, "at_ms": int(self._wall_clock() * 1000)}}
        packed = json.dumps(head).encode()
        self._writer.append([_LENGTH.pack(len(packed)) + packed + payload])
        self.stored += 1
        self._enforce_bound()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _enforce_bound(self) -> None:
        segments = list_segments(self._directory)
        sizes = [(self._directory / segment_name(base)).stat().st_size for base in segments]
        total = sum(sizes)
        for base, size in zip(segments[:-1], sizes[:-1], strict=True):
            if total <= self._max_bytes:
                return
            lost = sum(1 for _ in _letters(self._directory, base))
            (self._directory / segment_name(base)).unlink()
            total -= size
            self._discarded += lost
            logger.error(
                "dead letters exceed %d bytes: discarded the %d oldest (%d since the start)",
                self._max_bytes,
                lost,
                self._discarded,
            )


def read_dead_letters(log: Path) -> Iterator[DeadLetter]:
    """The letters of a log folder, oldest first. May be called while a consumer runs."""
    directory = log / DEAD_LETTERS
    if not directory.is_dir():
        return
    for base in list_segments(directory):
        with contextlib.suppress(FileNotFoundError):
            yield from _letters(directory, base)


def _letters(directory: Path, base: int) -> Iterator[DeadLetter]:
    reader = SegmentReader(directory, base)
    try:
        offset = base
        while frames := reader.read(offset, 1 << 20, closed=False):
            for frame in frames:
                if frame.fault is None:
                    (length,) = _LENGTH.unpack_from(frame.payload)
                    head = json.loads(frame.payload[4 : 4 + length])
                    yield DeadLetter(head["reason"], head["origin"], frame.payload[4 + length :])
            offset = frames[-1].next_offset
    finally:
        reader.close()
