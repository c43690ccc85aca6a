"""Opens the queue that the settings name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runstream.ingest.queue.protocol import Consumer, Producer
from runstream.process.disk import reserve_bytes
from runstream.schemas.errors import ConfigError
from runstream.settings import QueueSettings

if TYPE_CHECKING:
    from runstream.ingest.queue.kafka import KafkaSettings
    from runstream.ingest.queue.local.retention import Retention

_HOUR_MS = 3_600_000
_SEGMENT_BYTES = 64 << 20
_APPEND_TIMEOUT_S = 15.0
_MAX_PENDING_BYTES = 128 << 20
_KEPT_BYTES = 256 << 20


def is_local(settings: QueueSettings) -> bool:
    """Whether the queue is the local log, which only processes of one machine share."""
    return settings.queue.startswith("local:")


def local_path(url: str) -> str:
    """The folder of ``local://PATH``; PATH may be relative."""
    parts = urlsplit(url)
    path = unquote(parts.netloc + parts.path)
    if not path:
        raise ConfigError("RUNSTREAM_QUEUE local:// needs a path")
    return path


def kafka_settings(
    settings: QueueSettings,
    *,
    append_timeout_s: float = _APPEND_TIMEOUT_S,
    max_pending_bytes: int = _MAX_PENDING_BYTES,
) -> KafkaSettings:
    """What the Kafka queue needs. Raises ``ConfigError``."""
    from runstream.ingest.queue.kafka import KafkaSettings

    security = settings.kafka_security
    password = settings.kafka_password
    servers = settings.queue.removeprefix("kafka://").strip("/")
    return KafkaSettings(
        servers=tuple(server.strip() for server in servers.split(",")),
        tls=security in ("SSL", "SASL_SSL"),
        ca_file=str(settings.kafka_ca_file) if settings.kafka_ca_file else None,
        cert_file=str(settings.kafka_cert_file) if settings.kafka_cert_file else None,
        key_file=str(settings.kafka_key_file) if settings.kafka_key_file else None,
        sasl_mechanism=settings.kafka_sasl_mechanism if security.startswith("SASL") else None,
        username=settings.kafka_user,
        password=password.get_secret_value() if password else None,
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication,
        min_insync_replicas=settings.kafka_min_insync,
        retention_ms=settings.kafka_retention_hours * _HOUR_MS,
        compression=settings.kafka_compression,
        session_timeout_ms=settings.kafka_session_timeout_ms,
        # A third of the session is Kafka's own advice; a second is often enough to notice a rebalance.
        heartbeat_interval_ms=min(1_000, settings.kafka_session_timeout_ms // 3),
        max_pending_bytes=min(settings.queue_max_bytes, max_pending_bytes),
        append_timeout_ms=round(append_timeout_s * 1000),
    )


def log_reserve(settings: QueueSettings) -> tuple[Path, int]:
    """Where the local log is, and how many bytes of its disk it leaves free."""
    folder = existing(local_path(settings.queue))
    return folder, reserve_bytes(folder, settings.disk_reserve_bytes)


def existing(folder: str) -> Path:
    """The folder, or what is there of its path: it is made by whoever opens it."""
    return next(one for one in (Path(folder), *Path(folder).absolute().parents) if one.exists())


async def open_producer(
    settings: QueueSettings,
    *,
    append_timeout_s: float = _APPEND_TIMEOUT_S,
    max_pending_bytes: int = _MAX_PENDING_BYTES,
) -> Producer:
    """A producer that has started, which refuses an append that is not durable in time, and more bytes on their way
    than it may hold. Raises ``ConfigError`` or ``QueueUnavailableError``."""
    if is_local(settings):
        from runstream.ingest.queue.local import LocalLogProducer

        folder = local_path(settings.queue)
        local = LocalLogProducer(
            folder,
            max_bytes=settings.queue_max_bytes,
            max_pending_bytes=max_pending_bytes,
            deadline_s=append_timeout_s,
            reserve_bytes=log_reserve(settings)[1],
            # Consumed records leave the disk by whole segments, so these have to be small beside the bound.
            segment_bytes=min(_SEGMENT_BYTES, settings.queue_max_bytes // 8),
        )
        await local.start()
        return local
    from runstream.ingest.queue.kafka import KafkaProducerQueue

    kafka = KafkaProducerQueue(
        kafka_settings(settings, append_timeout_s=append_timeout_s, max_pending_bytes=max_pending_bytes)
    )
    await kafka.start()
    return kafka


def log_retention(settings: QueueSettings) -> Retention:
    """What the local log keeps of what is consumed: up to 256 MiB, an eighth of its bound, or a twentieth of its disk.

    Consumed segments are taken up whole, so on small disks it is the newest alone.
    """
    from runstream.ingest.queue.local.retention import Retention

    facts = os.statvfs(existing(local_path(settings.queue)))
    disk_bytes = facts.f_blocks * facts.f_frsize
    return Retention(max_bytes=min(_KEPT_BYTES, settings.queue_max_bytes // 8, disk_bytes // 20))


def make_consumer(settings: QueueSettings, retention: Retention | None = None) -> Consumer:
    """A consumer; the writer starts it. ``retention`` is the local log's."""
    if is_local(settings):
        from runstream.ingest.queue.local import LocalLogConsumer

        return LocalLogConsumer(local_path(settings.queue), retention=retention)
    from runstream.ingest.queue.kafka import KafkaConsumerQueue

    return KafkaConsumerQueue(kafka_settings(settings))
