"""Where the Kafka queue keeps records that cannot be applied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from runstream.ingest.queue.kafka.sender import Sender
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.ingest.queue.protocol import Message
from runstream.schemas.errors import ConfigError, QueueUnavailableError


class KafkaDeadLetters:
    """Sends to the dead-letter topic; connects when the first letter comes.

    A letter's value is the record as it was. Its headers, UTF-8: ``reason``, ``origin.topic``,
    ``origin.partition``, ``origin.offset``, ``origin.next_offset``, ``at_ms`` (Unix).
    """

    def __init__(self, settings: KafkaSettings, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._wall_clock = wall_clock
        self._sender: Sender | None = None
        self._starting = asyncio.Lock()
        self.stored = 0

    async def add(self, message: Message, reason: str) -> None:
        """Store one letter durably. Raises ``QueueUnavailableError``, also without the topic."""
        async with self._starting:
            if self._sender is None:
                sender = Sender(self._settings, self._settings.dead_letter_topic)
                try:
                    await sender.start()
                except ConfigError as error:
                    # Kafka is away, or somebody has to make the topic; the record stays where it is until then.
                    raise QueueUnavailableError(str(error)) from error
                self._sender = sender
        headers = {
            "reason": reason,
            "origin.topic": self._settings.topic,
            "origin.partition": str(message.partition),
            "origin.offset": str(message.offset),
            "origin.next_offset": str(message.next_offset),
            "at_ms": str(int(self._wall_clock() * 1000)),
        }
        await self._sender.send(0, message.payload, [(key, text.encode()) for key, text in headers.items()])
        self.stored += 1

    async def close(self) -> None:
        """Close the connection."""
        if self._sender is not None:
            await self._sender.close()
