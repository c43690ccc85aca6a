"""Offsets of the metrics topic and of the writers' group, asked of the brokers directly.

Not through the consumer's own connections, for two reasons. A broker answers the requests of a connection in
turn, so a question would wait behind a long fetch. And when a coordinator has moved, a broker of today says
so once for the whole answer (OffsetFetch v2 and later), which aiokafka 0.14 does not look at: it takes "ask
another broker" for "nothing is committed" and would begin at the oldest record again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, LeaderNotAvailableError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.schemas.errors import QueueUnavailableError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_LATEST = -1
_EARLIEST = -2
_RETRY_S = 0.05


class KafkaOffsets:
    """Beginning, end and committed offset of each partition. For any number of tasks of one event loop.

    Every method tries again when a broker is away, has just lost a partition, and the like, and raises
    ``QueueUnavailableError`` after ``request_timeout_ms``.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: AIOKafkaClient | None = None
        self._coordinator: int | None = None
        self.partitions: list[int] = []

    async def start(self) -> None:
        """Connect; raises ``QueueUnavailableError`` if Kafka is away or has no such topic."""
        self._client = AIOKafkaClient(**self._settings.client_options())
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._client.bootstrap()
                cluster = await self._client.fetch_all_metadata()
                found = cluster.partitions_for_topic(self._settings.topic)
                if not found:
                    raise UnknownTopicOrPartitionError(self._settings.topic)
                await self._client.set_topics([self._settings.topic])
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise QueueUnavailableError(f"Kafka's offsets cannot be asked for: {error!r}") from error
        self.partitions = sorted(found)

    async def look_again(self) -> None:
        """Ask for the topic's partitions again: it may have got more. Raises ``QueueUnavailableError``."""

        async def look() -> list[int]:
            cluster = await self._connected().fetch_all_metadata()
            return sorted(cluster.partitions_for_topic(self._settings.topic) or self.partitions)

        self.partitions = await self._retry(look)

    async def ends(self) -> dict[int, int]:
        """The offset after the newest record of each partition that is fully replicated. An acknowledged
        record is below it: with acks=all a broker answers only after the high watermark has passed the
        record."""
        return await self._retry(lambda: self._list(_LATEST))

    async def beginnings(self) -> dict[int, int]:
        """The offset of the oldest record that each partition still has."""
        return await self._retry(lambda: self._list(_EARLIEST))

    async def committed(self) -> dict[int, int]:
        """What the writers' group has committed; partitions without a commit are left out."""
        return await self._retry(self._fetch_committed)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _retry(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        error: KafkaError | None = None
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                while True:
                    try:
                        return await attempt()
                    except KafkaError as failure:
                        error = failure
                        logger.debug("asking for offsets: %r", error)
                        self._coordinator = None
                        client = self._connected()
                        client.force_metadata_update()
                        await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            raise QueueUnavailableError(f"Kafka does not say its offsets: {error!r}") from error

    def _connected(self) -> AIOKafkaClient:
        if self._client is None:
            raise QueueUnavailableError("the connection for Kafka's offsets is closed")
        return self._client

    async def _list(self, which: int) -> dict[int, int]:
        client = self._connected()
        topic = self._settings.topic
        by_leader: dict[int, list[tuple[int, int]]] = {}
        for partition in self.partitions:
            leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if leader is None or leader == -1:
                raise LeaderNotAvailableError(f"{topic}-{partition}")
            by_leader.setdefault(leader, []).append((partition, which))
        answers = await asyncio.gather(
            *(
                client.send(leader, OffsetRequest(-1, 0, [(topic, asked)]))
                for leader, asked in by_leader.items()
            )
        )
        found: dict[int, int] = {}
        for answer in answers:
            for _, partitions in answer.topics:
                for partition, code, _, offset, *_ in partitions:
                    if code:
                        raise for_code(code)()
                    found[partition] = offset
        return found

    async def _fetch_committed(self) -> dict[int, int]:
        client = self._connected()
        if self._coordinator is None:
            self._coordinator = await client.coordinator_lookup(CoordinationType.GROUP, self._settings.group)
        answer = await client.send(
            self._coordinator,
            OffsetFetchRequest(self._settings.group, [(self._settings.topic, self.partitions)]),
            group=ConnectionGroup.COORDINATION,
        )
        if answer.error_code:
            raise for_code(answer.error_code)()
        found: dict[int, int] = {}
        for _, partitions in answer.topics:
            for partition, offset, _, code in partitions:
                if code:
                    raise for_code(code)()
                if offset >= 0:
                    found[partition] = offset
        return found
