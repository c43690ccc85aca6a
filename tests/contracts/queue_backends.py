"""The queues that the contract suite runs on: all are opened, filled, read and looked into alike."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer

from runstream.ingest.queue.kafka import (
    KafkaBarrier,
    KafkaConsumerQueue,
    KafkaProducerQueue,
    KafkaSettings,
    ensure_topics,
)
from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer, read_dead_letters
from runstream.ingest.queue.protocol import Consumer, Message, Producer, RevokeHandler


@dataclass(frozen=True)
class StoredLetter:
    """A dead letter as a person would find it."""

    payload: bytes
    reason: str
    partition: int
    offset: int


class Backend(Protocol):
    """One queue, empty at first, that producers and consumers can be opened on any number of times."""

    async def producer(self) -> Producer:
        """A started producer; closed at the end of the test if the test has not."""
        ...

    async def consumer(self) -> Consumer:
        """A started consumer, which resumes at the committed offsets."""
        ...

    async def dead_letters(self) -> list[StoredLetter]: ...

    async def close(self) -> None: ...


class LocalBackend:
    """The local log in a folder."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path
        self._options = options
        self._open: list[Any] = []

    async def producer(self) -> Producer:
        producer = LocalLogProducer(self._path, **self._options)
        await producer.start()
        self._open.append(producer)
        return producer

    async def consumer(self) -> Consumer:
        consumer = LocalLogConsumer(self._path)
        await consumer.start()
        self._open.append(consumer)
        return consumer

    def consumer_of_a_writer(self) -> LocalLogConsumer:
        """A consumer that whoever is given it starts and closes."""
        return LocalLogConsumer(self._path)

    async def dead_letters(self) -> list[StoredLetter]:
        return [
            StoredLetter(letter.payload, letter.reason, letter.origin["stream"], letter.origin["offset"])
            for letter in read_dead_letters(self._path)
        ]

    async def close(self) -> None:
        for part in self._open:
            await part.close()


class KafkaBackend:
    """Topics and a group of their own on a Kafka that runs."""

    def __init__(self, servers: tuple[str, ...], **options: Any) -> None:
        name = f"test-{uuid.uuid4().hex}"
        defaults: dict[str, Any] = {
            "topic": name,
            "dead_letter_topic": f"{name}.dlq",
            "group": name,
            "partitions": 3,
            "replication_factor": 1,
            "min_insync_replicas": 1,
            "start_timeout_ms": 20_000,
        }
        self.settings = KafkaSettings(servers=servers, **(defaults | options))
        self._created = False
        self._open: list[Any] = []

    async def producer(self) -> KafkaProducerQueue:
        await self._create()
        producer = KafkaProducerQueue(self.settings)
        self._open.append(producer)
        await producer.start()
        return producer

    async def consumer(self, on_revoke: RevokeHandler | None = None) -> KafkaConsumerQueue:
        await self._create()
        consumer = KafkaConsumerQueue(self.settings)
        self._open.append(consumer)
        await consumer.start(on_revoke)
        return consumer

    def consumer_of_a_writer(self) -> KafkaConsumerQueue:
        """A consumer that whoever is given it starts and closes."""
        return KafkaConsumerQueue(self.settings)

    async def barrier(self) -> KafkaBarrier:
        """What the query service waits with."""
        await self._create()
        barrier = KafkaBarrier(self.settings)
        self._open.append(barrier)
        await barrier.start()
        return barrier

    async def dead_letters(self) -> list[StoredLetter]:
        reader = AIOKafkaConsumer(
            self.settings.dead_letter_topic,
            bootstrap_servers=list(self.settings.servers),
            auto_offset_reset="earliest",
        )
        await reader.start()
        try:
            letters = []
            for records in (await reader.getmany(timeout_ms=2000)).values():
                for record in records:
                    headers = {name: value.decode() for name, value in record.headers}
                    partition, offset = int(headers["origin.partition"]), int(headers["origin.offset"])
                    letters.append(StoredLetter(record.value, headers["reason"], partition, offset))
            return letters
        finally:
            await reader.stop()

    async def close(self) -> None:
        for part in reversed(self._open):
            await part.close()

    async def _create(self) -> None:
        if not self._created:
            self._created = True
            await ensure_topics(self.settings)


async def drain(consumer: Consumer, count: int, *, max_bytes: int = 1 << 20) -> list[Message]:
    """Poll until ``count`` messages have come; fails if they do not within 30 s."""
    found: list[Message] = []
    for _ in range(300):
        found += await consumer.poll(max_bytes=max_bytes, timeout_s=0.1)
        if len(found) >= count:
            return found
    raise AssertionError(f"only {len(found)} of {count} messages came")
