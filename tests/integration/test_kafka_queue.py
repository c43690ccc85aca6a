"""The Kafka queue on a real broker, beyond what every queue promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from contracts.queue_backends import KafkaBackend, drain

from runstream.ingest.queue.kafka import (
    KafkaConsumerQueue,
    KafkaProducerQueue,
    KafkaSettings,
    ensure_topics,
)
from runstream.ingest.queue.kafka.offsets import KafkaOffsets
from runstream.schemas.errors import ConfigError, QueueFullError, QueueUnavailableError
from support.kafka import free_ports, shared_cluster, shared_servers

Open = Callable[..., KafkaBackend]


@pytest.fixture
async def kafka(pytestconfig: pytest.Config) -> AsyncIterator[Open]:
    """Opens queues with topics of their own; all parts are closed at the end."""
    backends: list[KafkaBackend] = []

    def build(**options: Any) -> KafkaBackend:
        backends.append(KafkaBackend(shared_servers(pytestconfig), **options))
        return backends[-1]

    yield build
    for backend in backends:
        await backend.close()


async def list_topics(settings: KafkaSettings) -> list[str]:
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


async def test_topics_are_created_then_checked(kafka: Open) -> None:
    settings = kafka().settings
    assert await ensure_topics(settings, dry_run=True) == [
        f"topic {settings.topic} is missing; would create it with 3 partitions",
        f"topic {settings.dead_letter_topic} is missing; would create it with 1 partition",
    ]
    assert settings.topic not in await list_topics(settings)
    await ensure_topics(settings)
    assert all(line.endswith("as configured") for line in await ensure_topics(settings))

    name = {"topic": settings.topic, "dead_letter_topic": settings.dead_letter_topic}
    for difference, options in {
        "partitions 3 instead of 4": {"partitions": 4},
        "retention.ms 604800000 instead of 1000": {"retention_ms": 1000},
        "replication factor 1 instead of 2": {"replication_factor": 2},
        "max.message.bytes 8388608 instead of 5": {"max_record_bytes": 5},
    }.items():
        with pytest.raises(ConfigError, match=difference):
            await ensure_topics(kafka(**name, **options).settings)


async def test_a_replication_that_the_cluster_cannot_give_is_one_clear_line(kafka: Open) -> None:
    with pytest.raises(ConfigError, match=r"^Kafka does not create topic [^\n]*eplication factor"):
        await ensure_topics(kafka(replication_factor=7).settings)


async def test_a_missing_topic_is_said_and_not_created(kafka: Open) -> None:
    settings = kafka(start_timeout_ms=0).settings
    producer, consumer = KafkaProducerQueue(settings), KafkaConsumerQueue(settings)
    with pytest.raises(ConfigError, match=rf"no topic {settings.topic}.*runstream migrate"):
        await producer.start()
    with pytest.raises(ConfigError, match=settings.topic):
        await consumer.start()
    await producer.close()
    await consumer.close()
    assert settings.topic not in await list_topics(settings)


async def test_nobody_listening_is_one_clear_line() -> None:
    server = f"127.0.0.1:{free_ports(1)[0]}"
    settings = KafkaSettings(servers=(server,), start_timeout_ms=0)
    producer = KafkaProducerQueue(settings)
    for start in (producer.start(), KafkaConsumerQueue(settings).start(), ensure_topics(settings)):
        with pytest.raises(ConfigError, match=rf"^[^\n]*Kafka[^\n]*{server}[^\n]*$"):
            await start
    await producer.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"servers": ()}, "host:port"),
        ({"servers": ("host",)}, "host:port"),
        ({"sasl_mechanism": "GSSAPI"}, "PLAIN, SCRAM"),
        ({"sasl_mechanism": "PLAIN"}, "user name and a password"),
        ({"compression": "brotli"}, "compression"),
        ({"min_insync_replicas": 4}, "replication factor"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KafkaSettings(**({"servers": ("127.0.0.1:9092",)} | options))


def test_secrets_do_not_show() -> None:
    settings = KafkaSettings(
        servers=("h:1",), sasl_mechanism="PLAIN", username="me", password="hunter2", key_password="hunter3"
    )
    assert "hunter" not in repr(settings)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_read_back(kafka: Open, compression: str) -> None:
    queue = kafka(compression=compression, partitions=1)
    producer, consumer = await queue.producer(), await queue.consumer()
    records = [b"%d " % i * 500 for i in range(50)]
    await asyncio.gather(*(producer.append(0, record) for record in records))
    assert [m.payload for m in await drain(consumer, 50)] == records


async def test_bytes_on_their_way_are_bounded(kafka: Open) -> None:
    producer = await kafka(max_pending_bytes=100_000).producer()
    results = await asyncio.gather(
        *(producer.append(0, bytes(30_000)) for _ in range(10)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None)] * 3 + [QueueFullError] * 7
    assert producer.depth().bytes == 0
    await producer.append(0, bytes(99_000))


async def test_a_refused_record_does_not_stop_the_ones_after_it(kafka: Open) -> None:
    """A broker with a smaller limit refuses a batch; the sequence numbers after it would be refused as well."""
    small = kafka(max_record_bytes=100_000, partitions=1)
    await ensure_topics(small.settings)
    producer = KafkaProducerQueue(
        KafkaSettings(servers=small.settings.servers, topic=small.settings.topic, append_timeout_ms=8_000)
    )
    await producer.start()
    try:
        await producer.append(0, b"before")
        with pytest.raises(QueueUnavailableError, match=r"200000 bytes.*max\.message\.bytes"):
            await producer.append(0, bytes(200_000))
        for i in range(5):
            await producer.append(0, b"after %d" % i)
        assert producer.rebuilds == 1
    finally:
        await producer.close()
    payloads = [m.payload for m in await drain(await small.consumer(), 6)]
    assert payloads == [b"before", *(b"after %d" % i for i in range(5))]


async def test_a_record_larger_than_the_limit_is_the_callers_mistake(kafka: Open) -> None:
    producer = await kafka(max_record_bytes=10_000).producer()
    with pytest.raises(ValueError, match="exceeds"):
        await producer.append(0, bytes(10_000))


async def test_partitions_are_shared_and_handed_over(kafka: Open) -> None:
    """One writer, then two, then one again: every record is applied, and nothing is committed ahead of that."""
    queue = kafka(partitions=4)
    producer = await queue.producer()
    applied: dict[bytes, int] = {}
    sent: list[bytes] = []
    revoked: list[Sequence[int]] = []

    async def on_revoke(partitions: Sequence[int]) -> None:
        revoked.append(partitions)

    async def write(consumer: KafkaConsumerQueue) -> None:
        while True:
            messages = await consumer.poll(max_bytes=1000, timeout_s=0.2)
            for message in messages:
                applied[message.payload] = applied.get(message.payload, 0) + 1
            await consumer.commit({m.partition: m.next_offset for m in messages})

    async def send(count: int) -> None:
        for _ in range(count):
            record = b"record %d" % len(sent)
            await producer.append(len(sent) % 4, record)
            sent.append(record)

    first = await queue.consumer(on_revoke)
    writers = [asyncio.create_task(write(first))]
    try:
        await send(100)
        assert len(await first.committed()) == 4
        second = await queue.consumer(on_revoke)
        writers.append(asyncio.create_task(write(second)))
        await send(100)
        async with asyncio.timeout(20):
            while not (len(await first.committed()) == 2 == len(await second.committed())):
                await asyncio.sleep(0.05)
        assert [0, 1, 2, 3] in revoked
        await send(100)
        await first.close()
        writers[0].cancel()
        async with asyncio.timeout(20):
            while len(await second.committed()) != 4:
                await asyncio.sleep(0.05)
        await send(100)
        async with asyncio.timeout(20):
            while len(applied) < len(sent):
                await asyncio.sleep(0.05)
        assert set(applied) == set(sent)
        async with asyncio.timeout(20):
            while await second.committed() != await second.end_offsets():
                await asyncio.sleep(0.05)
    finally:
        for task in writers:
            task.cancel()
        with contextlib.suppress(QueueUnavailableError, asyncio.CancelledError):
            await asyncio.gather(*writers)


async def test_a_commit_after_the_hand_over_changes_nothing(kafka: Open) -> None:
    queue = kafka(partitions=1)
    producer, first = await queue.producer(), await queue.consumer()
    for i in range(5):
        await producer.append(0, b"%d" % i)
    messages = await drain(first, 5)
    await first.commit({0: messages[1].next_offset})
    await first.close()
    await first.commit({0: messages[4].next_offset})
    second = await queue.consumer()
    assert await second.committed() == {0: messages[1].next_offset}
    assert [m.payload for m in await drain(second, 3)] == [b"2", b"3", b"4"]


async def test_what_is_in_flight_may_be_committed_during_the_hand_over(kafka: Open) -> None:
    queue = kafka(partitions=1)
    producer = await queue.producer()
    for i in range(5):
        await producer.append(0, b"%d" % i)

    async def on_revoke(_: Sequence[int]) -> None:
        await first.commit({0: messages[2].next_offset})

    first = await queue.consumer(on_revoke)
    messages = await drain(first, 5)
    poll = asyncio.create_task(first.poll(max_bytes=1, timeout_s=20))
    second = await queue.consumer()
    assert (await second.committed() or await first.committed()) == {0: messages[2].next_offset}
    poll.cancel()


async def test_a_damaged_batch_is_reported_and_passed(kafka: Open, pytestconfig: pytest.Config) -> None:
    queue = kafka(partitions=2)
    producer = await queue.producer()
    for i in range(5):
        for partition in (0, 1):
            await producer.append(partition, b"record %d of %d" % (i, partition))
    (segment,) = shared_cluster(pytestconfig).segments(queue.settings.topic, 0)
    stored = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(stored.index(b"record 2 of 0") + 3)
        file.write(b"\xff")
    consumer = await queue.consumer()
    messages = await drain(consumer, 10)
    assert [m.payload for m in messages if m.partition == 1] == [b"record %d of 1" % i for i in range(5)]
    first = [m for m in messages if m.partition == 0]
    assert [m.offset for m in first] == [0, 1, 2, 3, 4]
    assert [m.payload for m in first if m.fault is None] == [b"record %d of 0" % i for i in (0, 1, 3, 4)]
    (fault,) = [m for m in first if m.fault is not None]
    assert fault.offset == 2
    assert b"rec\xffrd 2 of 0" in fault.payload
    await consumer.commit({0: 5, 1: 5})
    assert await consumer.committed() == await consumer.end_offsets()


async def _write(consumer: KafkaConsumerQueue, seen: list[bool]) -> None:
    """A writer that only writes when it is asked to."""
    applied: dict[int, int] = {}
    while True:
        for message in await consumer.poll(max_bytes=10_000, timeout_s=1):
            applied[message.partition] = message.next_offset
            seen.append(message.flush)
            if message.flush:
                assert message.payload == b""
                await consumer.commit(applied)


async def test_the_barrier_makes_the_writer_flush(kafka: Open) -> None:
    queue = kafka()
    producer, barrier = await queue.producer(), await queue.barrier()
    consumer = await queue.consumer()
    seen: list[bool] = []
    writer = asyncio.create_task(_write(consumer, seen))
    offsets = KafkaOffsets(queue.settings)
    await offsets.start()
    try:
        assert await barrier.wait(["run"], 5), "nothing was ever written"
        for i in range(20):
            run = f"run {i % 7}"
            partition = producer.route(run)
            await producer.append(partition, b"points")
            end = (await offsets.ends())[partition]
            assert await barrier.wait([run], 10)
            assert (await offsets.committed())[partition] >= end

        appended = await asyncio.gather(*(producer.append(i % 3, b"points") for i in range(60)))
        markers = sum(seen)
        assert all(await asyncio.gather(*(barrier.wait(None, 10) for _ in range(50))))
        assert len(appended) == 60
        assert sum(seen) - markers <= 15, "concurrent waits share their markers"

        before = await offsets.ends()
        assert await barrier.wait(None, 5)
        assert await offsets.ends() == before, "a barrier over an idle queue writes nothing"
    finally:
        writer.cancel()
        await offsets.close()


async def test_the_barrier_gives_up_in_time_when_no_writer_is_there(kafka: Open) -> None:
    queue = kafka()
    producer, barrier = await queue.producer(), await queue.barrier()
    await producer.append(producer.route("run"), b"points")
    begin = asyncio.get_running_loop().time()
    assert not await barrier.wait(["run"], 0.5)
    assert asyncio.get_running_loop().time() - begin < 2
    idle = next(str(i) for i in range(100) if producer.route(str(i)) != producer.route("run"))
    assert await barrier.wait([idle], 5), "other partitions are not kept waiting"


async def test_a_topic_gets_more_partitions_while_it_is_read(kafka: Open) -> None:
    queue = kafka(partitions=2)
    producer, consumer = await queue.producer(), await queue.consumer()
    for partition in range(2):
        await producer.append(partition, b"before")
    assert len(await drain(consumer, 2)) == 2
    admin = AIOKafkaAdminClient(**queue.settings.client_options())
    await admin.start()
    await admin.create_partitions({queue.settings.topic: NewPartitions(3)})
    await admin.close()
    # Another process, which sees all three.
    later = KafkaProducerQueue(queue.settings)
    async with asyncio.timeout(60):
        await later.start()
        try:
            await later.append(2, b"after")
        finally:
            await later.close()
        found: list[bytes] = []
        while b"after" not in found:
            # The client would look by itself within a minute.
            assert consumer._consumer is not None
            client = consumer._consumer._client
            await client.force_metadata_update()
            with contextlib.suppress(QueueUnavailableError):
                found += [m.payload for m in await consumer.poll(max_bytes=10_000, timeout_s=0.5)]
    assert found.count(b"after") == 1
    await consumer.commit({2: 1})
    assert (await consumer.committed())[2] == 1
