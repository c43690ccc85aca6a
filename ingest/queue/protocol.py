"""The durable queue, as the gateway and the writer see it.

A queue has partitions, numbered from 0. A partition is a sequence of records; each has an *offset*, and the
offset after it is ``next_offset`` (offsets grow, not necessarily by one). A consumer commits, per partition,
the offset up to which everything is applied; after a restart it begins there. Delivery is at least once.

Every implementation passes ``tests/contracts/test_queue.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds that the reader has not committed yet."""

    bytes: int
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class Message:
    """One record on its way to the writer.

    ``fault`` is set when the stored bytes are damaged (a checksum does not match); ``payload`` is then
    whatever could be read, to go to the dead letters. ``flush`` marks an empty record by which a reader asks
    the writer to write what it holds at once: it is nothing to decode, and its offset counts like any other.
    """

    partition: int
    offset: int
    next_offset: int
    payload: bytes
    fault: str | None = None
    flush: bool = False


class Producer(Protocol):
    """Appends records durably. Safe for many tasks of one event loop."""

    def route(self, run_id: str) -> int:
        """The partition that this producer writes a run's points to. Never blocks."""
        ...

    async def append(self, partition: int, record: bytes) -> None:
        """Append one record; returns when it is durable.

        Raises ``QueueFullError`` when the bound on unconsumed bytes is reached and ``QueueUnavailableError``
        when the record could not be made durable within the producer's deadline. After either the record may
        or may not be stored: the caller must not acknowledge, and repeating it is harmless.
        """
        ...

    def depth(self) -> Depth:
        """Unconsumed bytes as this producer knows them; never blocks."""
        ...

    async def check(self) -> None:
        """Raise what an append would raise now, as far as that can be told without one."""
        ...

    async def close(self) -> None:
        """Finish what is under way and release everything."""
        ...


RevokeHandler = Callable[[Sequence[int]], Awaitable[None]]


class Consumer(Protocol):
    """Reads records of the partitions assigned to it. Belongs to one task."""

    async def start(self, on_revoke: RevokeHandler | None = None) -> None:
        """Begin at the committed offsets. ``on_revoke`` is awaited before partitions are handed to another
        consumer: what is in flight for them must be finished or dropped, and nothing of them committed
        after."""
        ...

    async def poll(self, *, max_bytes: int, timeout_s: float) -> list[Message]:
        """Up to about ``max_bytes`` of records (at least one if there is any), in order within each
        partition. Waits up to ``timeout_s`` for the first; returns an empty list when there is none."""
        ...

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Record that everything below ``offsets[partition]`` is applied. Consumed storage may be removed."""
        ...

    async def end_offsets(self) -> dict[int, int]:
        """The offset after the newest record of each partition that this consumer has, appended by anybody,
        at the time of the call."""
        ...

    async def committed(self) -> dict[int, int]:
        """The committed offset of each partition that this consumer has."""
        ...

    async def dead_letter(self, message: Message, reason: str) -> None:
        """Store a record that cannot be applied, durably, with its origin and the reason."""
        ...

    async def close(self) -> None:
        """Leave the group and release everything; commits nothing."""
        ...
