"""The queues that the contract suite runs on: all are opened, filled, read and looked into alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ingest.queue.local import LocalLogConsumer, LocalLogProducer, read_dead_letters
from ingest.queue.protocol import Consumer, Message, Producer


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

    async def dead_letters(self) -> list[StoredLetter]:
        return [
            StoredLetter(letter.payload, letter.reason, letter.origin["stream"], letter.origin["offset"])
            for letter in read_dead_letters(self._path)
        ]

    async def close(self) -> None:
        for part in self._open:
            await part.close()


@asynccontextmanager
async def opened(build: Callable[[], Backend]) -> AsyncIterator[Backend]:
    """The backend, closed at the end."""
    backend = build()
    try:
        yield backend
    finally:
        await backend.close()


async def drain(consumer: Consumer, count: int, *, max_bytes: int = 1 << 20) -> list[Message]:
    """Poll until ``count`` messages have come; fails if they do not within 30 s."""
    found: list[Message] = []
    for _ in range(300):
        found += await consumer.poll(max_bytes=max_bytes, timeout_s=0.1)
        if len(found) >= count:
            return found
    raise AssertionError(f"only {len(found)} of {count} messages came")
