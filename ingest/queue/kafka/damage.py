"""Reads past a batch whose checksum does not match, which the aiokafka consumer cannot."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import TopicPartition

from runstream.ingest.queue.kafka.records import to_message
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.ingest.queue.protocol import Message
from runstream.schemas.errors import QueueUnavailableError

# A stored batch (RecordBatch v2) begins with its base offset (i64) and its length after these twelve bytes
# (i32).
_LENGTH_AT = 8
_OVERHEAD = 12


async def read_damage(settings: KafkaSettings, positions: dict[int, int]) -> dict[int, list[Message]]:
    """For each partition that has a damaged batch near its position (partition -> offset): the records from
    there on, up to and with that batch, as a fault.

    Raises ``QueueUnavailableError`` if a broker does not answer in time.
    """
    client = AIOKafkaClient(**settings.client_options())
    try:
        async with asyncio.timeout(settings.request_timeout_ms / 1000):
            await client.bootstrap()
            await client.set_topics([settings.topic])
            found = {}
            for partition, offset in positions.items():
                messages = _parse(partition, offset, await _fetch(client, settings, partition, offset))
                if messages and messages[-1].fault is not None:
                    found[partition] = messages
            return found
    except (KafkaError, TimeoutError) as error:
        raise QueueUnavailableError(f"cannot read a damaged batch: {error!r}") from error
    finally:
        await client.close()


async def _fetch(client: AIOKafkaClient, settings: KafkaSettings, partition: int, offset: int) -> bytes:
    leader = client.cluster.leader_for_partition(TopicPartition(settings.topic, partition))
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(f"{settings.topic}-{partition}")
    limit = settings.partition_fetch_bytes
    answer: Any = await client.send(
        leader, FetchRequest(0, 1, limit, 0, [(settings.topic, [(partition, offset, limit)])])
    )
    for _, partitions in answer.topics:
        for _, code, *_, stored in partitions:
            if code:
                raise for_code(code)()
            return bytes(stored)
    return b""


def _parse(partition: int, offset: int, stored: bytes) -> list[Message]:
    messages: list[Message] = []
    at = 0
    while len(stored) - at > _OVERHEAD:
        length = int.from_bytes(stored[at + _LENGTH_AT : at + _OVERHEAD], "big", signed=True)
        stop = at + _OVERHEAD + length
        if length <= 0 or stop > len(stored):
            break
        batch = DefaultRecordBatch(stored[at:stop])
        if not batch.validate_crc():
            begin = max(batch.base_offset, offset)
            fault = "the batch's checksum does not match"
            messages.append(
                Message(partition, begin, max(batch.next_offset, begin + 1), stored[at:stop], fault)
            )
            break
        if not batch.is_control_batch:
            messages += [to_message(partition, record) for record in batch if record.offset >= offset]
        at = stop
    return messages
