"""The gateway's side of the Kafka queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from runstream.ingest.queue.kafka.records import FLUSH_HEADER
from runstream.ingest.queue.kafka.sender import Headers, Sender
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.ingest.queue.protocol import Depth
from runstream.schemas.errors import QueueFullError, QueueUnavailableError
from runstream.schemas.topics import partition_of


class KafkaProducerQueue:
    """Appends to the metrics topic; a run's partition is a stable hash of its id.

    ``max_pending_bytes`` bounds what is on its way (``QueueFullError``), ``append_timeout_ms`` each append
    (``QueueUnavailableError``). The number of partitions is read once, at the start.
    """

    def __init__(self, settings: KafkaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._sender = Sender(settings, settings.topic, clock=clock)
        self._pending_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def start(self) -> None:
        """Connect. Raises ``ConfigError`` with one line if Kafka does not answer or the topic is missing."""
        await self._sender.start()

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self._sender.partitions

    @property
    def rebuilds(self) -> int:
        """How often the watchdog has replaced a stuck producer."""
        return self._sender.rebuilds

    def route(self, run_id: str) -> int:
        """The partition of a run."""
        return partition_of(run_id, self._sender.partitions)

    async def append(self, partition: int, record: bytes) -> None:
        """See ``Producer.append``. ``ValueError`` for a record larger than ``max_record_bytes``."""
        if len(record) > self._settings.max_record_bytes - 1024:  # headers and framing
            raise ValueError(f"a record of {len(record)} bytes exceeds {self._settings.max_record_bytes}")
        await self._send(partition, record)

    async def append_flush(self, partition: int) -> int:
        """Append a marker that makes the partition's writer write what it holds at once; raises like
        ``append``. Returns its offset, or -1 in the rare case that the broker does not say.

        It reaches the writer as a ``Message`` with ``flush`` set, after everything appended before it.
        """
        return await self._send(partition, b"", [(FLUSH_HEADER, b"1")])

    def depth(self) -> Depth:
        """Bytes on their way to Kafka. What the writer has still to read is for the consumer's lag to say."""
        return Depth(self._pending_bytes, self._settings.max_pending_bytes)

    async def check(self) -> None:
        """See ``Producer.check``: whether a broker answers now."""
        await self._sender.check()

    async def close(self) -> None:
        """Finish what is under way, within the deadline of an append, and release everything."""
        if self._closed:
            return
        self._closed = True
        await self._idle.wait()
        await self._sender.close()

    async def _send(self, partition: int, value: bytes, headers: Headers = ()) -> int:
        if self._closed:
            raise QueueUnavailableError("the Kafka queue is closed")
        if self._pending_bytes and self._pending_bytes + len(value) > self._settings.max_pending_bytes:
            raise QueueFullError(f"{self._pending_bytes} bytes are on their way to Kafka")
        size = len(value) + 1
        self._pending_bytes += size
        self._idle.clear()
        try:
            return await self._sender.send(partition, value, headers)
        finally:
            self._pending_bytes -= size
            if not self._pending_bytes:
                self._idle.set()
