"""A queue in memory with everything a consumer group does: partitions, hand-over, failures on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runstream.ingest.queue.protocol import Message, RevokeHandler
from runstream.schemas.errors import QueueUnavailableError


@dataclass
class MemoryQueue:
    """What outlives a consumer. Offsets grow by ``stride``, as some queues' offsets have gaps."""

    partitions: int = 2
    stride: int = 3
    records: dict[int, list[Message]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    commits: list[dict[int, int]] = field(default_factory=list)
    letters: list[tuple[Message, str]] = field(default_factory=list)
    failures: int = 0
    on_commit: Callable[[Mapping[int, int]], None] = lambda _: None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def append(
        self, partition: int, payload: bytes, *, fault: str | None = None, flush: bool = False
    ) -> Message:
        messages = self.records.setdefault(partition, [])
        offset = messages[-1].next_offset if messages else 0
        message = Message(partition, offset, offset + self.stride, payload, fault, flush)
        messages.append(message)
        self.changed.set()
        return message

    def ends(self) -> dict[int, int]:
        return {
            partition: messages[-1].next_offset if (messages := self.records.get(partition)) else 0
            for partition in range(self.partitions)
        }

    def fail(self, times: int) -> None:
        """Make the next ``times`` commits and dead letters fail."""
        self.failures = times

    def fail_now(self) -> None:
        if self.failures:
            self.failures -= 1
            raise QueueUnavailableError("failing as the test wants it")


class MemoryConsumer:
    """See ``runstream.ingest.queue.protocol.Consumer``."""

    def __init__(self, queue: MemoryQueue, assigned: set[int] | None = None) -> None:
        self.queue = queue
        self.assigned = assigned if assigned is not None else set(range(queue.partitions))
        self.positions: dict[int, int] = {}
        self.closed = False
        self._on_revoke: RevokeHandler | None = None

    async def start(self, on_revoke: RevokeHandler | None = None) -> None:
        self._on_revoke = on_revoke
        self.positions = {partition: self.queue.committed.get(partition, 0) for partition in self.assigned}

    async def poll(self, *, max_bytes: int, timeout_s: float) -> list[Message]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            self.queue.changed.clear()
            found: list[Message] = []
            for partition in sorted(self.assigned):
                for message in self.queue.records.get(partition, []):
                    if message.offset >= self.positions[partition] and max_bytes > 0:
                        max_bytes -= len(message.payload)
                        self.positions[partition] = message.next_offset
                        found.append(message)
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return found
            try:
                async with asyncio.timeout(left):
                    await self.queue.changed.wait()
            except TimeoutError:
                pass

    async def commit(self, offsets: Mapping[int, int]) -> None:
        self.queue.fail_now()
        assert set(offsets) <= self.assigned, "committed for a partition of another consumer"
        for partition, offset in offsets.items():
            assert offset > self.queue.committed.get(partition, 0), "committed backwards"
        self.queue.on_commit(offsets)
        self.queue.committed.update(offsets)
        self.queue.commits.append(dict(offsets))

    async def end_offsets(self) -> dict[int, int]:
        return self.queue.ends()

    async def committed(self) -> dict[int, int]:
        return {
            partition: self.queue.committed.get(partition, 0) for partition in range(self.queue.partitions)
        }

    async def dead_letter(self, message: Message, reason: str) -> None:
        self.queue.fail_now()
        self.queue.letters.append((message, reason))

    async def close(self) -> None:
        self.closed = True

    async def revoke(self, *partitions: int) -> None:
        """Hand partitions over, as a group's coordinator does."""
        if self._on_revoke is not None:
            await self._on_revoke(partitions)
        self.assigned -= set(partitions)
        for partition in partitions:
            self.positions.pop(partition, None)
