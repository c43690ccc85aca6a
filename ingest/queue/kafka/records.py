"""How queue messages look as Kafka records."""

from __future__ import annotations

from typing import Any

from runstream.ingest.queue.protocol import Message

# A record with this header is empty and asks the writer to write what it holds at once.
FLUSH_HEADER = "flush"


def to_message(partition: int, record: Any) -> Message:
    """The message in a record that aiokafka has parsed."""
    flush = any(name == FLUSH_HEADER for name, _ in record.headers)
    return Message(partition, record.offset, record.offset + 1, bytes(record.value or b""), flush=flush)
