"""Reads the batch that a consumer cannot get past because its checksum does not match."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import TopicPartition

from ingest.queue.kafka.settings import KafkaSettings
from schemas.errors import QueueUnavailableError

# RecordBatch v2: base offset (i64), length (i32), …
_LENGTH_AT = 8
_OVERHEAD = 12


@dataclass(frozen=True, slots=True)
class DamagedBatch:
    """A batch whose checksum is wrong: its bytes as the broker stores them, and the offset after it."""

    next_offset: int
    payload: bytes


async def find_damage(settings: KafkaSettings, positions: dict[int, int]) -> dict[int, DamagedBatch]:
    """The damaged batches among those that stand at ``positions`` (partition -> offset).

    Raises ``QueueUnavailableError`` if a broker does not answer in time.
    """
    client = AIOKafkaClient(**settings.client_options())
    try:
        async with asyncio.timeout(settings.request_timeout_ms / 1000):
            await client.bootstrap()
            await client.set_topics([settings.topic])
            found = {}
            for partition, offset in positions.items():
                damage = await _read(client, settings, partition, offset)
                if damage is not None:
                    found[partition] = damage
            return found
    except (KafkaError, TimeoutError) as error:
        raise QueueUnavailableError(f"cannot read a damaged batch: {error!r}") from error
    finally:
        await client.close()


async def _read(
    client: AIOKafkaClient, settings: KafkaSettings, partition: int, offset: int
) -> DamagedBatch | None:
    leader = client.cluster.leader_for_partition(TopicPartition(settings.topic, partition))
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(f"{settings.topic}-{partition}")
    limit = settings.partition_fetch_bytes
    request = FetchRequest(0, 1, limit, 0, [(settings.topic, [(partition, offset, limit)])])
    answer = await client.send(leader, request)
    for _, partitions in answer.topics:
        for _, code, *_, stored in partitions:
            if code:
                raise for_code(code)()
            if len(stored) < _OVERHEAD:
                continue
            length = int.from_bytes(stored[_LENGTH_AT:_OVERHEAD], "big", signed=True)
            batch = bytes(stored[: _OVERHEAD + length])
            parsed = DefaultRecordBatch(batch)
            if not parsed.validate_crc():
                return DamagedBatch(max(parsed.next_offset, offset + 1), batch)
    return None
