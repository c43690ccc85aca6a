"""What every queue between gateway and writer promises, on every backend."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contracts.queue_backends import Backend, KafkaBackend, LocalBackend, drain

from runstream.ingest.queue.protocol import Message
from runstream.schemas.errors import QueueUnavailableError
from support.kafka import shared_servers


@pytest.fixture(params=["local", "local-small-segments", "kafka"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend: Backend
    if request.param == "kafka":
        backend = KafkaBackend(shared_servers(request.config))
    elif request.param == "local":
        backend = LocalBackend(tmp_path / "log")
    else:
        backend = LocalBackend(tmp_path / "log", segment_bytes=2000)
    yield backend
    await backend.close()


def ends_of(messages: list[Message]) -> dict[int, int]:
    return {message.partition: message.next_offset for message in messages}


async def test_records_arrive_whole_and_in_order(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    partition = producer.route("run")
    assert partition == producer.route("run")
    records = [random.Random(i).randbytes(i * 37 % 3000 + 1) for i in range(100)]
    for record in records:
        await producer.append(partition, record)
    messages = await drain(consumer, 100)
    assert [m.payload for m in messages] == records
    assert {m.partition for m in messages} == {partition}
    assert all(m.fault is None for m in messages)
    for before, after in itertools.pairwise(messages):
        assert before.offset < before.next_offset <= after.offset


async def test_concurrent_appends_all_arrive_once(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()

    async def client(name: int) -> None:
        for i in range(25):
            await producer.append(producer.route(f"run-{name}"), b"%d/%d" % (name, i))

    await asyncio.gather(*(client(name) for name in range(40)))
    messages = await drain(consumer, 1000)
    assert len(messages) == 1000
    for name in range(40):
        mine = [m.payload for m in messages if m.payload.startswith(b"%d/" % name)]
        assert mine == [b"%d/%d" % (name, i) for i in range(25)]


async def test_several_producers_share_the_queue(queue: Backend) -> None:
    producers = [await queue.producer() for _ in range(3)]
    consumer = await queue.consumer()
    late = await queue.producer()
    for i, producer in enumerate([*producers, late]):
        await producer.append(producer.route("run"), b"from %d" % i)
    messages = await drain(consumer, 4)
    assert sorted(m.payload for m in messages) == [b"from 0", b"from 1", b"from 2", b"from 3"]


async def test_a_restarted_consumer_begins_at_the_committed_offset(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    partition = producer.route("run")
    for i in range(10):
        await producer.append(partition, b"record %d" % i)
    messages = await drain(consumer, 10)
    await consumer.commit({partition: messages[3].next_offset})
    assert (await consumer.committed())[partition] == messages[3].next_offset
    await consumer.close()

    again = await queue.consumer()
    assert [m.payload for m in await drain(again, 6)] == [b"record %d" % i for i in range(4, 10)]
    assert (await again.committed())[partition] == messages[3].next_offset
    await again.commit({partition: messages[9].next_offset})
    await again.close()

    third = await queue.consumer()
    assert await third.poll(max_bytes=1000, timeout_s=0.3) == []
    await producer.append(partition, b"one more")
    assert [m.payload for m in await drain(third, 1)] == [b"one more"]


async def test_records_wait_for_a_consumer_and_outlive_their_producer(queue: Backend) -> None:
    producer = await queue.producer()
    partition = producer.route("run")
    await producer.append(partition, b"early")
    await producer.close()
    consumer = await queue.consumer()
    assert [m.payload for m in await drain(consumer, 1)] == [b"early"]
    again = await queue.producer()
    await again.append(again.route("run"), b"later")
    assert [m.payload for m in await drain(consumer, 1)] == [b"later"]


async def test_end_offsets_are_what_a_reader_must_reach(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    partition = producer.route("run")
    for i in range(5):
        await producer.append(partition, b"record %d" % i)
        end = (await consumer.end_offsets())[partition]
        messages = await drain(consumer, 1)
        assert messages[-1].next_offset == end
        await consumer.commit(ends_of(messages))
        assert await consumer.committed() == await consumer.end_offsets()


async def test_end_offsets_know_of_a_producer_that_has_just_begun(queue: Backend) -> None:
    consumer = await queue.consumer()
    await consumer.poll(max_bytes=1000, timeout_s=0)
    producer = await queue.producer()
    await producer.append(producer.route("run"), b"first")
    end = (await consumer.end_offsets())[producer.route("run")]
    assert ends_of(await drain(consumer, 1))[producer.route("run")] == end


async def test_end_offsets_after_a_restart_with_everything_consumed(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    await producer.append(producer.route("run"), b"only")
    await consumer.commit(ends_of(await drain(consumer, 1)))
    await consumer.close()
    await producer.close()
    again = await queue.consumer()
    assert await again.poll(max_bytes=1000, timeout_s=0.3) == []
    committed, ends = await again.committed(), await again.end_offsets()
    assert all(ends[partition] <= offset for partition, offset in committed.items())


async def test_an_empty_poll_returns_within_its_time(queue: Backend) -> None:
    consumer = await queue.consumer()
    await consumer.poll(max_bytes=1000, timeout_s=0.1)
    begin = asyncio.get_running_loop().time()
    assert await consumer.poll(max_bytes=1000, timeout_s=0.2) == []
    assert asyncio.get_running_loop().time() - begin < 2


async def test_a_waiting_poll_wakes_for_a_record(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    poll = asyncio.create_task(consumer.poll(max_bytes=1000, timeout_s=30))
    await asyncio.sleep(0.05)
    await producer.append(producer.route("run"), b"wake up")
    assert [m.payload for m in await asyncio.wait_for(poll, 10)] == [b"wake up"]


async def test_a_cancelled_poll_loses_nothing(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    partition = producer.route("run")
    found: list[Message] = []
    for i in range(60):
        await producer.append(partition, b"record %d" % i)
        poll = asyncio.create_task(consumer.poll(max_bytes=100_000, timeout_s=1))
        for _ in range(i % 6):
            await asyncio.sleep(0)
        poll.cancel()
        try:
            found += await poll
        except asyncio.CancelledError:
            pass
    found += await drain(consumer, 60 - len(found))
    assert [m.payload for m in found] == [b"record %d" % i for i in range(60)]


async def test_a_record_larger_than_max_bytes_comes_alone(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    partition = producer.route("run")
    large = random.Random(1).randbytes(700_000)
    for record in (b"before", large, b"after"):
        await producer.append(partition, record)
    messages = await drain(consumer, 3, max_bytes=100)
    assert [m.payload for m in messages] == [b"before", large, b"after"]


async def test_poll_keeps_to_max_bytes(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    for _ in range(50):
        await producer.append(producer.route("run"), bytes(1000))
    seen = 0
    while seen < 50:
        messages = await consumer.poll(max_bytes=10_000, timeout_s=5)
        assert 1 <= len(messages) <= 12
        seen += len(messages)


async def test_dead_letters_keep_payload_reason_and_origin(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    await producer.append(producer.route("run"), b"\x00not a record\xff")
    (message,) = await drain(consumer, 1)
    await consumer.dead_letter(message, "unknown record version 0 – ünïcode")
    (letter,) = await queue.dead_letters()
    assert letter.payload == b"\x00not a record\xff"
    assert letter.reason == "unknown record version 0 – ünïcode"
    assert (letter.partition, letter.offset) == (message.partition, message.offset)


async def test_a_closed_producer_refuses(queue: Backend) -> None:
    producer = await queue.producer()
    partition = producer.route("run")
    await producer.append(partition, b"x")
    await producer.close()
    with pytest.raises(QueueUnavailableError):
        await producer.append(partition, b"y")
    await producer.close()


async def test_close_finishes_what_is_under_way(queue: Backend) -> None:
    producer, consumer = await queue.producer(), await queue.consumer()
    appends = [asyncio.create_task(producer.append(producer.route("run"), b"%d" % i)) for i in range(50)]
    await asyncio.sleep(0)
    await producer.close()
    await asyncio.gather(*appends)
    assert len(await drain(consumer, 50)) == 50
