"""Consumed segments that stay for a while: what they hold can be written again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runstream.ingest.queue.local.files import list_segments, list_streams, stream_dir
from runstream.ingest.queue.local.segment import SegmentReader
from runstream.ingest.queue.protocol import Message

_DAY_S = 86_400.0
_READ_BYTES = 4 << 20


@dataclass(slots=True)
class Retention:
    """When a consumed segment may go: what was made of it is known to have survived, or it is too old, or consumed
    segments take more than ``max_bytes`` together. Times are Unix times, in seconds.

    ``survived`` is the time before which whatever had been consumed is known to be well kept elsewhere. Set by
    another thread than the one that reads it.
    """

    max_bytes: int
    max_age_s: float = _DAY_S
    survived: float = 0.0

    def has_survived(self, before: float) -> None:
        """Whatever had been consumed before a time is well kept elsewhere."""
        self.survived = before

    def is_over(self, consumed_at: float, now: float) -> bool:
        """Whether what was consumed at a time may go for its age or because it has survived."""
        return consumed_at < self.survived or consumed_at + self.max_age_s < now


def kept_records(log: Path) -> Iterator[Message]:
    """Every whole record that a log folder holds, consumed or not, stream by stream. Blocks; for any thread, beside
    producers and a consumer. Raises ``OSError``."""
    for number in list_streams(log):
        directory = stream_dir(log, number)
        for base in list_segments(directory):
            try:
                reader = SegmentReader(directory, base)
            except FileNotFoundError:  # consumed meanwhile
                continue
            try:
                offset = base
                while frames := reader.read(offset, _READ_BYTES, closed=False):
                    offset = frames[-1].next_offset
                    for frame in frames:
                        if frame.fault is None:
                            yield Message(number, frame.offset, frame.next_offset, frame.payload)
            finally:
                reader.close()
