"""Records that become one block together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from runstream.ingest.queue.protocol import Message
from runstream.ingest.writer.runs import Runs
from runstream.schemas.errors import BadRecordError
from runstream.schemas.names import Names
from runstream.schemas.record import PointColumns, decode

logger = logging.getLogger(__name__)

_POINT_BYTES = 8 + 8 + 8 + 4 + 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A record: its points, or why it has none (``reason``); a flush marker has neither."""

    message: Message
    points: PointColumns | None
    reason: str | None = None


def decode_all(messages: Sequence[Message]) -> list[Entry]:
    """Decode each record; what cannot be decoded gets a reason. Blocks for the CPU time it takes."""
    return [_decode(message) for message in messages]


def _decode(message: Message) -> Entry:
    if message.fault is not None:
        return Entry(message, None, message.fault)
    if message.flush:
        return Entry(message, None)
    try:
        return Entry(message, decode(message.payload))
    except BadRecordError as error:
        return Entry(message, None, str(error))
    except Exception as error:  # one record must never stop the rest
        logger.exception("decoding a record failed in an unknown way")
        return Entry(message, None, f"{type(error).__name__}: {error}")


class Batch:
    """Collects entries, in order within each partition.

    ``next_offsets`` is, per partition, where the consumer continues once the batch is applied; ``size_bytes``
    what the points take in memory; ``oldest_ms`` when the oldest request in it was accepted; ``flush`` whether
    a reader waits for it; ``runs`` whose points they are.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.next_offsets: dict[int, int] = {}
        self.rows = 0
        self.size_bytes = 0
        self.oldest_ms: int | None = None
        self.flush = False
        self.runs = Runs()
        self.started_at: float | None = None

    def __bool__(self) -> bool:
        return bool(self.next_offsets)

    def add(self, entries: Iterable[Entry], now: float) -> None:
        """Add entries; ``now`` is the monotonic time."""
        for entry in entries:
            if self.started_at is None:
                self.started_at = now
            self.next_offsets[entry.message.partition] = entry.message.next_offset
            points = entry.points
            if points is not None:
                self.runs.add(points.runs)
                self.rows += len(points)
                self.size_bytes += len(points) * _POINT_BYTES + Names.of(points.keys).size_bytes
                if self.oldest_ms is None or points.created_at_ms < self.oldest_ms:
                    self.oldest_ms = points.created_at_ms
            self.flush |= entry.message.flush
            self.entries.append(entry)

    def without(self, partitions: Collection[int]) -> Batch:
        """A batch without the entries of partitions that belong to another consumer now."""
        kept = Batch()
        if self.started_at is not None:
            kept.add(
                [entry for entry in self.entries if entry.message.partition not in partitions],
                self.started_at,
            )
        return kept
