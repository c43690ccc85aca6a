"""Sends records to one topic and survives what makes an aiokafka producer useless."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError

from runstream.ingest.queue.kafka.quiet import quieten
from runstream.ingest.queue.kafka.settings import KafkaSettings
from runstream.schemas.backoff import Backoff
from runstream.schemas.errors import ConfigError, QueueUnavailableError
from runstream.schemas.tasks import Tasks

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]

_RETRY_S = (0.1, 2.0)
_ABANDON_S = 30.0


class Sender:
    """acks=all and idempotent, with a deadline of its own for every record.

    An idempotent aiokafka producer never gives a batch up: it tries again for ever while the broker is away,
    and once a batch has been refused, the sequence numbers after it do not fit any more and every later one
    of that partition is refused too. So a watchdog drops the producer, with what it holds in memory, and
    builds a new one when a record was refused or passed its deadline. Records whose callers still wait are
    sent again through the new one: that may store them twice, which readers do not see.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._clock = clock
        self._producer: AIOKafkaProducer | None = None
        self._built_at = 0.0
        self._changed = asyncio.Event()
        self._away: str | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._tasks = Tasks("giving a producer up")
        self._closed = False
        self.partitions = 0
        self.rebuilds = 0

    async def start(self) -> None:
        """Connect, waiting for Kafka up to ``start_timeout_ms``. Raises ``ConfigError`` with one line if it
        does not answer or the topic is missing."""
        quieten()
        deadline = self._clock() + self._settings.start_timeout_ms / 1000
        while True:
            try:
                producer, found = await self._build_and_look()
                break
            except KafkaError as error:
                if self._clock() >= deadline:
                    raise ConfigError(_unreachable(self._settings, error)) from error
                logger.warning("%s; trying again", _unreachable(self._settings, error))
                await asyncio.sleep(1.0)
        if not found:
            await producer.stop()
            raise ConfigError(f"Kafka has no topic {self._topic}: create it with `runstream migrate`")
        self.partitions = len(found)
        self._producer = producer

    async def send(self, partition: int | None, value: bytes, headers: Headers = ()) -> int:
        """Store one record; returns its offset, or -1 if the broker had it already and does not say.

        Raises ``QueueUnavailableError`` at the deadline, or at once while Kafka is known to be away.
        """
        deadline = self._clock() + self._settings.append_timeout_ms / 1000
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._settings.append_timeout_ms / 1000):
                while True:
                    producer = await self._connected()
                    try:
                        future = await producer.send(
                            self._topic, value, partition=partition, headers=list(headers)
                        )
                        return int((await future).offset)
                    except MessageSizeTooLargeError as error:
                        self._discard(producer, error)
                        raise QueueUnavailableError(
                            f"Kafka refuses a record of {len(value)} bytes; see max.message.bytes"
                        ) from error
                    # An assertion of aiokafka's fails when the topic has lost partitions.
                    except (KafkaError, AssertionError) as error:
                        self._discard(producer, error)
        except TimeoutError:
            waited = f"Kafka has not confirmed a record within {self._settings.append_timeout_ms} ms"
            # A producer that is younger than the deadline has not had its chance yet.
            if producer is not None and deadline - self._built_at >= self._settings.append_timeout_ms / 1000:
                self._discard(producer, TimeoutError(waited))
            raise QueueUnavailableError(waited) from None

    async def check(self) -> None:
        """Raise ``QueueUnavailableError`` unless a broker answers now."""
        if self._producer is None or self._closed:
            raise QueueUnavailableError(self._away or "the connection to Kafka is being made")
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._producer.client.fetch_all_metadata()
        except (KafkaError, TimeoutError) as error:
            raise QueueUnavailableError(_unreachable(self._settings, error)) from error

    async def close(self) -> None:
        """Release everything; what is under way gets a moment to finish."""
        self._closed = True
        self._changed.set()
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.wait([self._rebuilding])
        if self._producer is not None:
            self._abandon_soon(self._producer, finish=True)
            self._producer = None
        if not await self._tasks.ended(self._settings.append_timeout_ms / 1000):
            self._tasks.cancel()
            await self._tasks.ended()

    async def _connected(self) -> AIOKafkaProducer:
        while True:
            if self._closed:
                raise QueueUnavailableError("the Kafka queue is closed")
            if self._producer is not None:
                return self._producer
            if self._away is not None:
                raise QueueUnavailableError(self._away)
            self._changed.clear()
            await self._changed.wait()

    async def _build_and_look(self) -> tuple[AIOKafkaProducer, set[int]]:
        producer = await self._build()
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                # All topics, because naming one would create it where the broker allows that.
                cluster = await producer.client.fetch_all_metadata()
        except BaseException as error:
            await producer.stop()
            if isinstance(error, TimeoutError):
                raise KafkaConnectionError("no answer in time") from error
            raise
        return producer, cluster.partitions_for_topic(self._topic) or set()

    async def _build(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(
            **settings.client_options(),
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            linger_ms=settings.linger_ms,
            max_batch_size=settings.batch_bytes,
            max_request_size=settings.max_record_bytes,
        )
        try:
            async with asyncio.timeout(settings.request_timeout_ms / 1000):
                await producer.start()
        except BaseException as error:
            with contextlib.suppress(KafkaError):
                await producer.stop()
            if isinstance(error, TimeoutError):
                raise KafkaConnectionError("no answer in time") from error
            raise
        self._built_at = self._clock()
        return producer

    def _discard(self, producer: AIOKafkaProducer, error: Exception) -> None:
        if producer is not self._producer:
            return
        logger.warning("rebuilding the producer of %s: %r", self._topic, error)
        self._producer = None
        self.rebuilds += 1
        self._abandon_soon(producer, finish=False)
        self._rebuilding = asyncio.create_task(self._rebuild())

    async def _rebuild(self) -> None:
        backoff = Backoff(*_RETRY_S)
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                self._producer = await self._build()
            # Also what is no fault of Kafka's: certificates are replaced while we read them.
            except Exception as error:
                self._away = _unreachable(self._settings, error)
                logger.warning("%s", self._away)
            else:
                self._away = None
            self._changed.set()
            if self._producer is not None:
                return

    def _abandon_soon(self, producer: AIOKafkaProducer, *, finish: bool) -> None:
        self._tasks.start(self._abandon(producer, finish))

    async def _abandon(self, producer: AIOKafkaProducer, finish: bool) -> None:
        """Stop a producer within a bound. Its own ``stop`` waits for ever for what it cannot send."""
        if not finish:
            _drop_batches(producer)
        try:
            async with asyncio.timeout(self._settings.append_timeout_ms / 1000 if finish else _ABANDON_S):
                await producer.stop()
        # It was given up because it is in no good state: whatever it raises now tells nothing new.
        except (Exception, asyncio.CancelledError) as error:
            logger.debug("giving a producer up: %r", error)
            _drop_batches(producer)
            with contextlib.suppress(Exception):
                await producer.client.close()
            if isinstance(error, asyncio.CancelledError):
                raise


def _drop_batches(producer: AIOKafkaProducer) -> None:
    """Fail what a producer still holds; callers that wait send it again through the next one."""
    held = producer._message_accumulator
    # A request that is under way would put its batch back into a queue that does not know it any more.
    held.reenqueue = lambda batch: None
    held.fail_all(KafkaConnectionError("the producer was given up"))
    for batches in [*held._batches.values(), held._pending_batches]:
        for batch in batches:
            batch._drain_waiter.exception()  # nobody waits for it, and asyncio would complain about that


def _unreachable(settings: KafkaSettings, error: Exception) -> str:
    return f"cannot reach Kafka at {', '.join(settings.servers)}: {error or type(error).__name__}"
