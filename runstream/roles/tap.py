"""Live points where writer and query service share a process: a look at what the writer takes from the queue."""

from __future__ import annotations

from collections.abc import Mapping

from runstream.ingest.queue.protocol import Consumer, Message, RevokeHandler
from runstream.query.live.hub import Hub
from runstream.schemas.errors import BadRecordError
from runstream.schemas.record import decode


class TappedConsumer:
    """A consumer that also publishes the points of what it hands out, while somebody listens.

    What a consumer hands out is durable already, so listeners need not wait until it is in ClickHouse. Records that
    cannot be decoded are the writer's business. Everything else is the inner consumer's.
    """

    def __init__(self, consumer: Consumer, hub: Hub) -> None:
        self._consumer = consumer
        self._hub = hub

    async def start(self, on_revoke: RevokeHandler | None = None) -> None:
        """See ``Consumer.start``."""
        await self._consumer.start(on_revoke)

    async def poll(self, *, max_bytes: int, timeout_s: float) -> list[Message]:
        """See ``Consumer.poll``; what is handed out is published."""
        messages = await self._consumer.poll(max_bytes=max_bytes, timeout_s=timeout_s)
        if messages and self._hub.runs():
            for message in messages:
                if message.fault is None and message.payload:
                    self._publish(message)
        return messages

    def _publish(self, message: Message) -> None:
        try:
            self._hub.publish(decode(message.payload))
        except BadRecordError:
            pass

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See ``Consumer.commit``."""
        await self._consumer.commit(offsets)

    async def end_offsets(self) -> dict[int, int]:
        """See ``Consumer.end_offsets``."""
        return await self._consumer.end_offsets()

    async def committed(self) -> dict[int, int]:
        """See ``Consumer.committed``."""
        return await self._consumer.committed()

    async def dead_letter(self, message: Message, reason: str) -> None:
        """See ``Consumer.dead_letter``."""
        await self._consumer.dead_letter(message, reason)

    async def close(self) -> None:
        """See ``Consumer.close``."""
        await self._consumer.close()
