"""Opens the queue that the settings name."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from ingest.queue.protocol import Consumer, Producer
from runstream.settings import QueueSettings
from schemas.errors import ConfigError


def local_path(url: str) -> str:
    """The folder of ``local://PATH``; PATH may be relative."""
    parts = urlsplit(url)
    path = unquote(parts.netloc + parts.path)
    if not path:
        raise ConfigError("RUNSTREAM_QUEUE local:// needs a path")
    return path


async def open_producer(settings: QueueSettings) -> Producer:
    """A producer that has started."""
    if settings.queue.startswith("local:"):
        from ingest.queue.local import LocalLogProducer

        producer = LocalLogProducer(local_path(settings.queue), max_bytes=settings.queue_max_bytes)
        await producer.start()
        return producer
    raise ConfigError("RUNSTREAM_QUEUE must begin with local:// or kafka://")


async def open_consumer(settings: QueueSettings) -> Consumer:
    """A consumer; the writer starts it."""
    if settings.queue.startswith("local:"):
        from ingest.queue.local import LocalLogConsumer

        return LocalLogConsumer(local_path(settings.queue))
    raise ConfigError("RUNSTREAM_QUEUE must begin with local:// or kafka://")
