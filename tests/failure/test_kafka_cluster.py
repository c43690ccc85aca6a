"""The Kafka queue while brokers and writers die, hang and come back: three real brokers, ledgers of what was
acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts.queue_backends import KafkaBackend

from runstream.ingest.queue.kafka import KafkaConsumerQueue, KafkaProducerQueue, KafkaSettings
from runstream.ingest.queue.kafka.offsets import KafkaOffsets
from runstream.schemas.errors import QueueFullError, QueueUnavailableError
from support.kafka import KafkaCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), size=3) as cluster:
        yield cluster


@pytest.fixture
async def queue(cluster: KafkaCluster) -> AsyncIterator[KafkaBackend]:
    backend = KafkaBackend(
        tuple(cluster.servers),
        partitions=6,
        replication_factor=3,
        min_insync_replicas=2,
        append_timeout_ms=4_000,
        request_timeout_ms=4_000,
    )
    yield backend
    await backend.close()


class Load:
    """Clients that append numbered records, a writer that applies them, and the ledger of both."""

    def __init__(self, producer: KafkaProducerQueue, consumer: KafkaConsumerQueue) -> None:
        self.acknowledged: set[bytes] = set()
        self.applied: set[bytes] = set()
        self.refused = 0
        self._producer = producer
        self._consumer = consumer
        self._stop = asyncio.Event()
        self._numbers = iter(range(10**9))
        self._clients = [asyncio.create_task(self._append()) for _ in range(12)]
        self._writer = asyncio.create_task(self._apply())

    async def finish(self, timeout_s: float = 60) -> None:
        """Stop appending; wait until all that was acknowledged is applied and committed."""
        self._stop.set()
        await asyncio.gather(*self._clients)
        async with asyncio.timeout(timeout_s):
            while not self.acknowledged <= self.applied:
                await asyncio.sleep(0.05)
            while await self._consumer.committed() != await self._consumer.end_offsets():
                await asyncio.sleep(0.05)
        self.cancel()

    def cancel(self) -> None:
        for task in (self._writer, *self._clients):
            task.cancel()

    async def until_acknowledged(self, more: int, timeout_s: float = 60) -> None:
        """Wait until ``more`` further records were acknowledged."""
        target = len(self.acknowledged) + more
        async with asyncio.timeout(timeout_s):
            while len(self.acknowledged) < target:
                await asyncio.sleep(0.02)

    async def _append(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            record = b"record %d" % number
            try:
                await self._producer.append(number % self._producer.partitions, record)
            except (QueueUnavailableError, QueueFullError):
                self.refused += 1
                await asyncio.sleep(0.1)
            else:
                self.acknowledged.add(record)
                await asyncio.sleep(0.005)

    async def _apply(self) -> None:
        while True:
            try:
                messages = await self._consumer.poll(max_bytes=100_000, timeout_s=1)
                self.applied.update(message.payload for message in messages)
                await self._consumer.commit({m.partition: m.next_offset for m in messages})
            except QueueUnavailableError:
                await asyncio.sleep(0.1)


async def test_brokers_killed_one_after_the_other(cluster: KafkaCluster, queue: KafkaBackend) -> None:
    load = Load(await queue.producer(), await queue.consumer())
    dice = random.Random(5)
    rounds = cluster.brokers if os.environ.get("RUNSTREAM_TEST_LONG") else cluster.brokers[:1]
    try:
        await load.until_acknowledged(50)
        for broker in rounds:
            broker.kill()
            await asyncio.sleep(dice.uniform(0, 1))
            await load.until_acknowledged(100)
            broker.start()
            await asyncio.to_thread(cluster.wait)
            await load.until_acknowledged(100)
        await load.finish()
    finally:
        load.cancel()
    assert len(load.acknowledged) > 200 * len(rounds)


async def test_a_cluster_that_hangs_for_longer_than_the_deadline(
    cluster: KafkaCluster, queue: KafkaBackend
) -> None:
    producer = await queue.producer()
    load = Load(producer, await queue.consumer())
    try:
        await load.until_acknowledged(50)
        for broker in cluster.brokers:
            broker.pause()
        try:
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            with pytest.raises(QueueUnavailableError):
                await producer.append(0, b"nobody answers")
            assert time.monotonic() - begin < 6, "a caller is answered within the deadline"
            with pytest.raises(QueueUnavailableError):
                await producer.check()
            await asyncio.sleep(2)
        finally:
            for broker in cluster.brokers:
                broker.resume()
        await load.until_acknowledged(100)
        await producer.check()
        await load.finish()
    finally:
        load.cancel()
    assert load.refused
    assert producer.rebuilds


_WRITER = """
import asyncio, json, sys
from runstream.ingest.queue.kafka import KafkaConsumerQueue, KafkaSettings

async def main(options, ledger):
    consumer = KafkaConsumerQueue(KafkaSettings(**{**options, "servers": tuple(options["servers"])}))
    await consumer.start()
    with open(ledger, "ab", buffering=0) as file:
        while True:
            messages = await consumer.poll(max_bytes=1000, timeout_s=0.2)
            for message in messages:
                file.write(message.payload + b"\\n")
                await asyncio.sleep(0.002)
            await consumer.commit({m.partition: m.next_offset for m in messages})

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2]))
"""


async def test_a_writer_that_hangs_past_its_session_and_comes_back(
    queue: KafkaBackend, tmp_path: Path
) -> None:
    """A zombie: another writer takes its partitions over; what it commits afterwards counts for nothing."""
    producer = await queue.producer()
    settings = queue.settings
    options: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("topic", "dead_letter_topic", "group", "request_timeout_ms")
    } | {"servers": settings.servers, "session_timeout_ms": 2_000, "heartbeat_interval_ms": 300}
    writers = [_start_writer(options, tmp_path / f"ledger {i}") for i in range(2)]
    offsets = KafkaOffsets(KafkaSettings(settings.servers, topic=settings.topic, group=settings.group))
    await offsets.start()
    sent = set()
    seen: dict[int, int] = {}
    try:
        for number in range(600):
            record = b"record %d" % number
            await producer.append(number % 6, record)
            sent.add(record)
            if number in (100, 300):
                writers[number // 300].send_signal(signal.SIGSTOP)
            if number in (250, 500):
                writers[number // 500].send_signal(signal.SIGCONT)
            await asyncio.sleep(0.015)
            if number % 20 == 0:
                committed = await offsets.committed()
                assert all(committed.get(partition, 0) >= offset for partition, offset in seen.items())
                seen = committed
        async with asyncio.timeout(40):
            while await offsets.committed() != await offsets.ends():
                await asyncio.sleep(0.1)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
        await offsets.close()
    applied = set()
    for ledger in tmp_path.glob("ledger *"):
        lines = set(ledger.read_bytes().splitlines())
        assert lines, "both writers had their share"
        applied |= lines
    assert applied == sent


def _start_writer(options: dict[str, Any], ledger: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", _WRITER, json.dumps(options), str(ledger)]
    return subprocess.Popen(command, env=environment)


async def test_writers_that_come_and_go(queue: KafkaBackend) -> None:
    """A storm of rebalances: members join and leave all the time, and every record is applied."""
    producer = await queue.producer()
    sent: set[bytes] = set()
    applied: set[bytes] = set()
    steady = await queue.consumer()

    async def write(consumer: KafkaConsumerQueue) -> None:
        while True:
            with contextlib.suppress(QueueUnavailableError):
                messages = await consumer.poll(max_bytes=1000, timeout_s=0.2)
                applied.update(message.payload for message in messages)
                await consumer.commit({m.partition: m.next_offset for m in messages})

    async def send() -> None:
        for number in range(10**9):
            await producer.append(number % 6, b"record %d" % number)
            sent.add(b"record %d" % number)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(write(steady)), asyncio.create_task(send())]
    try:
        for _ in range(5):
            passing = await queue.consumer()
            guest = asyncio.create_task(write(passing))
            await asyncio.sleep(0.3)
            guest.cancel()
            await asyncio.wait([guest])
            await passing.close()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        async with asyncio.timeout(40):
            while not sent <= applied:
                await asyncio.sleep(0.05)
            while len(await steady.committed()) < 6 or await steady.committed() != await steady.end_offsets():
                await asyncio.sleep(0.05)
    finally:
        for task in tasks:
            task.cancel()
