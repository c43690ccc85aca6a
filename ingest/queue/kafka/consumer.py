"""The writer's side of the Kafka queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, CorruptRecordException, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from runstream.ingest.queue.kafka.damage import read_damage
from runstream.ingest.queue.kafka.dead_letters import KafkaDeadLetters
from runstream.ingest.queue.kafka.offsets import KafkaOffsets
from runstream.ingest.queue.kafka.quiet import quieten
from runstream.ingest.queue.kafka.records import to_message
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.ingest.queue.protocol import Message, RevokeHandler
from runstream.schemas.errors import ConfigError, QueueUnavailableError
from runstream.schemas.tasks import shared

logger = logging.getLogger(__name__)

_FETCH_WAIT_MS = 250
_STOP_S = 10.0
# Heartbeats prove that this process lives. Polling may pause for as long as ClickHouse is away; leaving the
# group for that would only hand the same trouble to another writer, over and over.
_MAX_POLL_INTERVAL_MS = 86_400_000


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(
        self,
        on_revoked: Callable[[Collection[TopicPartition]], Awaitable[None]],
        on_assigned: Callable[[Collection[TopicPartition]], None],
    ) -> None:
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._on_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._on_assigned(assigned)


class KafkaConsumerQueue:
    """A member of the writers' group. Partitions are shared out over the members; one that joins or leaves
    makes them all hand theirs back and share anew.

    aiokafka 0.14 has no incremental (cooperative) rebalancing: in every rebalance a member gives up all its
    partitions and gets most of the same again (sticky). So the hand-over is made gentle here: ``on_revoke``
    may finish and commit what is in flight while the member still holds its partitions, what is buffered is
    dropped, and nothing of them is committed afterwards. Reading continues at the committed offsets.

    ``end_offsets`` and ``committed`` speak of the partitions that this member has now.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._offsets = KafkaOffsets(settings)
        self._dead_letters = KafkaDeadLetters(settings, wall_clock=wall_clock)
        self._consumer: AIOKafkaConsumer | None = None
        self._on_revoke: RevokeHandler | None = None
        self._owned: frozenset[int] = frozenset()
        self._assignments = 0
        self._positioned = -1
        self._positions: dict[int, int] = {}
        self._buffer: deque[Message] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def dead_letters_stored(self) -> int:
        """Dead letters stored since the start."""
        return self._dead_letters.stored

    async def start(self, on_revoke: RevokeHandler | None = None) -> None:
        """Join the group, waiting for Kafka up to ``start_timeout_ms``. Raises ``ConfigError`` with one line
        if it does not answer or has no such topic."""
        quieten()
        self._on_revoke = on_revoke
        deadline = self._clock() + self._settings.start_timeout_ms / 1000
        while True:
            try:
                await self._offsets.start()
                await self._join()
                return
            except QueueUnavailableError as error:
                if self._clock() >= deadline:
                    servers = ", ".join(self._settings.servers)
                    raise ConfigError(
                        f"cannot read {self._settings.topic} from Kafka at {servers}: {error}"
                    ) from error
                logger.warning("%s; trying again", error)
                await self._offsets.close()
                await asyncio.sleep(1.0)

    async def poll(self, *, max_bytes: int, timeout_s: float) -> list[Message]:
        """See ``Consumer.poll``. Raises ``QueueUnavailableError`` while Kafka is away. While nobody polls, at
        most two fetches per broker are held in memory, and the rest stays in Kafka."""
        if not self._buffer:
            deadline = self._clock() + timeout_s
            while not self._buffer:
                left = deadline - self._clock()
                await self._fetch(max(0.0, left))
                if left <= 0:
                    break
        messages: list[Message] = []
        while self._buffer and (not messages or max_bytes > 0):
            message = self._buffer.popleft()
            max_bytes -= len(message.payload)
            if messages and max_bytes < 0:
                self._buffer.appendleft(message)
                break
            messages.append(message)
        return messages

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See ``Consumer.commit``. Offsets of partitions that this member has lost are ignored: their new
        owner reads from the last commit, and applying a record twice changes nothing."""
        consumer = self._consumer
        mine = {
            TopicPartition(self._settings.topic, partition): offset
            for partition, offset in offsets.items()
            if partition in self._owned
        }
        if not mine or consumer is None:
            return
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                # aiokafka tries a commit again for ever. One that takes too long is not cancelled but left alone,
                # and the next waits for it: never two at a time, so an offset never goes back.
                if self._committing is not None:
                    await asyncio.wait([self._committing])
                task = self._committing = shared(consumer.commit(mine))
                await asyncio.wait([task])
            if task.cancelled():
                raise QueueUnavailableError("left the group before the offsets were committed")
            task.result()
        except (CommitFailedError, IllegalStateError) as error:
            partitions = sorted(tp.partition for tp in mine)
            logger.warning("partitions %s are somebody else's now: %s", partitions, error)
        except (KafkaError, TimeoutError) as error:
            raise QueueUnavailableError(f"Kafka does not take the committed offsets: {error!r}") from error

    async def end_offsets(self) -> dict[int, int]:
        """See ``Consumer.end_offsets``."""
        return self._mine(await self._offsets.ends())

    async def committed(self) -> dict[int, int]:
        """See ``Consumer.committed``. A partition without a commit counts as committed up to its oldest
        record."""
        committed = await self._offsets.committed()
        if not self._owned <= committed.keys():
            committed = await self._offsets.beginnings() | committed
        return self._mine(committed)

    async def dead_letter(self, message: Message, reason: str) -> None:
        """See ``Consumer.dead_letter``."""
        await self._dead_letters.add(message, reason)

    async def close(self) -> None:
        """Leave the group at once, so that others take over, and release everything."""
        self._closed = True
        self._owned = frozenset()
        self._buffer.clear()
        await self._leave()
        await self._dead_letters.close()
        await self._offsets.close()

    def _mine(self, offsets: dict[int, int]) -> dict[int, int]:
        return {partition: offset for partition, offset in offsets.items() if partition in self._owned}

    # Membership

    async def _join(self) -> None:
        settings = self._settings
        # Its state is the class's own, so each member gets a class: several members may share a process.
        assignor: Any = type("StickyAssignor", (StickyPartitionAssignor,), {})
        consumer = AIOKafkaConsumer(
            **settings.client_options(),
            group_id=settings.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(assignor,),
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            fetch_max_bytes=settings.fetch_bytes,
            max_partition_fetch_bytes=settings.partition_fetch_bytes,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        )
        consumer.subscribe([settings.topic], listener=_Listener(self._revoked, self._assigned))
        self._consumer = consumer
        try:
            async with asyncio.timeout((settings.rebalance_timeout_ms + settings.request_timeout_ms) / 1000):
                await consumer.start()
        except BaseException as error:
            await self._leave()
            if isinstance(error, (KafkaError, TimeoutError)):
                raise QueueUnavailableError(f"cannot join the group {settings.group}: {error!r}") from error
            raise

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        committing, self._committing = self._committing, None
        if committing is not None and not committing.done():
            committing.cancel()
            await asyncio.wait([committing])
        try:
            async with asyncio.timeout(_STOP_S):
                await consumer.stop()
        # Whatever is wrong with it, it must not keep this process from going on.
        except Exception as error:
            logger.debug("leaving the group: %r", error)
            await consumer._client.close()

    async def _rejoin(self, error: Exception) -> None:
        """Give the membership up, with everything that hangs on it, and join anew."""
        logger.warning("leaving and joining the group %s again: %r", self._settings.group, error)
        await self._revoked([TopicPartition(self._settings.topic, partition) for partition in self._owned])
        await self._leave()

    def _assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._owned = frozenset(tp.partition for tp in assigned)
        self._assignments += 1
        self._positions.clear()
        logger.info("partitions of %s: %s", self._settings.topic, sorted(self._owned))

    async def _revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._assignments += 1
        self._positions.clear()
        self._buffer.clear()
        partitions = sorted(tp.partition for tp in revoked)
        try:
            if partitions and self._on_revoke is not None:
                # Other members wait for this one, and Kafka waits for no longer than its rebalance timeout.
                async with asyncio.timeout(self._settings.rebalance_timeout_ms / 2000):
                    await self._on_revoke(partitions)
        except TimeoutError:
            logger.warning("what was in flight of partitions %s was dropped", partitions)
        finally:
            self._owned = frozenset()

    # Reading

    async def _fetch(self, timeout_s: float) -> None:
        """Wait for records and put them into the buffer."""
        if self._closed:
            raise QueueUnavailableError("the Kafka queue is closed")
        if self._consumer is None:
            await self._join()
        consumer, assignment = self._consumer, self._assignments
        assert consumer is not None
        if self._positioned != assignment:
            await self._seek()
        try:
            # The outer bound is for a rebalance, which getmany waits for without one.
            async with asyncio.timeout(timeout_s + 0.2):
                batches = await consumer.getmany(timeout_ms=int(timeout_s * 1000))
        except TimeoutError:
            return
        except CorruptRecordException:
            await self._take_damage()
            return
        except KafkaError as error:
            await self._rejoin(error)
            raise QueueUnavailableError(f"Kafka cannot be read: {error!r}") from error
        # Nothing may be awaited from here on: what getmany gave would be lost.
        if assignment != self._assignments or self._positioned != assignment:
            return
        for tp, records in batches.items():
            self._take(tp.partition, records)

    def _take(self, partition: int, records: list[Any]) -> None:
        expected = self._positions.get(partition)
        if expected is not None and records[0].offset > expected:
            logger.error(
                "partition %d: records %d to %d are gone, past their retention or lost with a broker",
                partition,
                expected,
                records[0].offset - 1,
            )
        self._buffer.extend(to_message(partition, record) for record in records)
        self._positions[partition] = records[-1].offset + 1

    async def _seek(self) -> None:
        """Place the consumer where this member's reading begins: what it has read, and else what is
        committed.

        aiokafka's own idea of the committed offsets is not to be trusted; see ``KafkaOffsets``.
        """
        assignment = self._assignments
        positions = dict(self._positions)
        if self._owned - positions.keys():
            if not self._owned <= set(self._offsets.partitions):
                await self._offsets.look_again()
            positions = await self.committed() | positions
        if not self._owned <= positions.keys():
            raise QueueUnavailableError("Kafka does not say yet where a new partition begins")
        if assignment != self._assignments or self._consumer is None:
            return
        for partition in self._owned:
            self._consumer.seek(TopicPartition(self._settings.topic, partition), positions[partition])
            self._positions[partition] = positions[partition]
        self._positioned = assignment

    async def _take_damage(self) -> None:
        """Hand on, as faults, the batches that do not match their checksums, and continue behind them.

        getmany has failed, and may have taken records of other partitions with it: they are read again.
        """
        assignment = self._assignments
        self._positioned = -1
        damaged = await read_damage(self._settings, dict(self._positions))
        if assignment != self._assignments:
            return
        for partition, messages in damaged.items():
            fault = messages[-1]
            logger.error("partition %d is damaged from %d to %d", partition, fault.offset, fault.next_offset)
            self._buffer.extend(messages)
            self._positions[partition] = fault.next_offset
