"""Points that ClickHouse has lost are written again from the log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from runstream.ingest.queue.local.retention import kept_records
from runstream.ingest.queue.protocol import Message
from runstream.ingest.writer.batch import decode_all
from runstream.ingest.writer.blocks import merge, native_block
from runstream.schemas.migrations import METRICS_COLUMNS, METRICS_TABLE
from runstream.schemas.ports.database import Database

_BATCH_BYTES = 2 << 20


def rewrite(log: Path, database: Database) -> int:
    """Insert the points of every record that the log still holds; how many there were. Blocks.

    What is there already is there twice until the next merge, which no reader sees. Newest values and offsets have
    nothing to do with it: they were written when the points were. Raises ``DatabaseError`` and ``OSError``; then it
    may be repeated.
    """
    rows = 0
    for messages in _batches(kept_records(log)):
        points = [
            entry.points for entry in decode_all(messages) if entry.points is not None and len(entry.points)
        ]
        if points:
            block = merge(points)
            database.insert_native(METRICS_TABLE, METRICS_COLUMNS, native_block(block))
            rows += len(block)
    return rows


def _batches(records: Iterator[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    size = 0
    for message in chain(records, (None,)):
        if message is not None:
            batch.append(message)
            size += len(message.payload)
        if batch and (message is None or size >= _BATCH_BYTES):
            yield batch
            batch, size = [], 0
