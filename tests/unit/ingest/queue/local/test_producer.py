"""The local log's producer: bounds, deadlines, locks, group commit, and a disk that fails."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer
from runstream.ingest.queue.local.files import list_segments, stream_dir
from runstream.schemas.errors import ConfigError, QueueFullError, QueueUnavailableError


@asynccontextmanager
async def produce(path: Path, **options: int | float) -> AsyncIterator[LocalLogProducer]:
    producer = LocalLogProducer(path, **options)  # type: ignore[arg-type]
    await producer.start()
    try:
        yield producer
    finally:
        await producer.close()


@asynccontextmanager
async def consume(path: Path) -> AsyncIterator[LocalLogConsumer]:
    consumer = LocalLogConsumer(path)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.close()


async def read(consumer: LocalLogConsumer, count: int) -> list[bytes]:
    """Poll until ``count`` records have come, and commit them."""
    found: list[bytes] = []
    deadline = asyncio.get_running_loop().time() + 20
    while len(found) < count and asyncio.get_running_loop().time() < deadline:
        messages = await consumer.poll(max_bytes=1 << 20, timeout_s=0.5)
        found += [message.payload for message in messages if message.fault is None]
        assert not [message.fault for message in messages if message.fault is not None]
        await consumer.commit({message.partition: message.next_offset for message in messages})
    return found


async def test_streams_are_claimed_and_freed(tmp_path: Path) -> None:
    async with produce(tmp_path) as first, produce(tmp_path) as second:
        assert (first.stream, second.stream) == (0, 1)
        await first.close()
        async with produce(tmp_path) as third, produce(tmp_path) as fourth:
            assert (third.stream, fourth.stream) == (0, 2)


async def test_one_consumer_owns_the_folder(tmp_path: Path) -> None:
    async with consume(tmp_path):
        with pytest.raises(ConfigError, match="in use by another writer"):
            await LocalLogConsumer(tmp_path).start()
    async with consume(tmp_path):
        pass


async def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for part in (LocalLogProducer(tmp_path / "file"), LocalLogConsumer(tmp_path / "file" / "below")):
        with pytest.raises(ConfigError, match=r"^[^\n]+file[^\n]+$"):
            await part.start()


async def test_many_appends_share_a_write(tmp_path: Path) -> None:
    async with produce(tmp_path) as producer:
        writes = _count_writes(producer)
        await asyncio.gather(*(producer.append(0, b"x" * 100) for _ in range(1000)))
        assert writes() <= 4


def _count_writes(producer: LocalLogProducer) -> Callable[[], int]:
    writer = producer._writer
    assert writer is not None
    append, calls = writer.append, []

    def counted(payloads: list[bytes]) -> None:
        calls.append(len(payloads))
        append(payloads)

    writer.append = counted  # type: ignore[method-assign, assignment]
    return lambda: len(calls)


async def test_unconsumed_bytes_are_bounded(tmp_path: Path) -> None:
    async with produce(tmp_path, max_bytes=50_000, segment_bytes=5_000) as producer:
        for _ in range(50):
            await producer.append(0, bytes(984))
        with pytest.raises(QueueFullError):
            await producer.append(0, bytes(984))
        assert producer.depth().bytes == 50_000 == producer.depth().max_bytes
        async with consume(tmp_path) as consumer:
            assert len(await read(consumer, 50)) == 50
            assert len(list_segments(stream_dir(tmp_path, 0))) == 1, "consumed segments are removed"
            await _eventually(lambda: producer.depth().bytes == 0)
            for _ in range(50):
                await producer.append(0, bytes(984))
            with pytest.raises(QueueFullError):
                await producer.append(0, bytes(984))


async def test_whether_it_takes_anything_now(tmp_path: Path) -> None:
    """What ``/ready`` asks: bounds, room on the disk, and what the last write met."""
    async with produce(tmp_path, max_bytes=5_000, segment_bytes=1_000) as producer:
        await producer.check()
        for _ in range(5):
            await producer.append(0, bytes(984))
        async with consume(tmp_path) as consumer:
            assert len(await read(consumer, 5)) == 5
            await producer.check()
        resource.prlimit(os.getpid(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            with pytest.raises(QueueUnavailableError):
                await producer.append(0, b"x")
            with pytest.raises(QueueUnavailableError):
                await producer.check()
        finally:
            resource.prlimit(os.getpid(), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        async with asyncio.timeout(30):
            while True:
                try:
                    await producer.append(0, b"x")
                    break
                except QueueUnavailableError:
                    await asyncio.sleep(0.01)
        await producer.check()
    with pytest.raises(QueueUnavailableError):
        await producer.check()
    async with produce(tmp_path, reserve_bytes=1 << 60) as producer:
        with pytest.raises(QueueFullError, match="nearly full"):
            await producer.check()


async def test_bytes_in_memory_are_bounded(tmp_path: Path) -> None:
    async with produce(tmp_path, max_pending_bytes=10_000) as producer:
        results = await asyncio.gather(
            *(producer.append(0, bytes(984)) for _ in range(30)), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None)] * 10 + [QueueFullError] * 20
        await producer.append(0, bytes(984))


async def test_an_append_that_hangs_meets_its_deadline(tmp_path: Path) -> None:
    """The disk is held up by a writing thread that waits; then it goes on, and so does the log."""
    async with produce(tmp_path, deadline_s=0.3) as producer, consume(tmp_path) as consumer:
        await producer.append(0, b"before")
        assert producer._writer is not None
        write, gate = producer._writer.append, asyncio.Event()
        loop = asyncio.get_running_loop()

        def held_up(payloads: list[bytes]) -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
            write(payloads)

        producer._writer.append = held_up  # type: ignore[method-assign, assignment]
        first = asyncio.create_task(producer.append(0, b"under way"))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(producer.append(0, b"waiting"))
        for append in (first, second):
            with pytest.raises(QueueUnavailableError, match=r"0\.3 s"):
                await asyncio.wait_for(append, 5)
        gate.set()
        await producer.append(0, b"after")
        assert await read(consumer, 3) == [b"before", b"under way", b"after"]


async def test_a_cancelled_append_harms_nobody(tmp_path: Path) -> None:
    async with produce(tmp_path) as producer, consume(tmp_path) as consumer:
        appends = [asyncio.create_task(producer.append(0, b"%d" % i)) for i in range(20)]
        await asyncio.sleep(0)
        for append in appends[::2]:
            append.cancel()
        await asyncio.gather(*appends, return_exceptions=True)
        await producer.append(0, b"last")
        assert (await read(consumer, 21))[-1] == b"last"


@pytest.fixture(params=["file size limit", *(["full disk"] if os.geteuid() == 0 else [])])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, object]]:
    """A folder that takes about 200 kB, and a function that gives it more."""
    if request.param == "file size limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            yield tmp_path / "log", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=208k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        remount = ["mount", "-o", "remount,size=4m", str(disk)]
        yield disk / "log", lambda: subprocess.run(remount, check=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_refuses_and_recovers(small_disk: tuple[Path, object]) -> None:
    path, free = small_disk
    async with produce(path) as producer, consume(path) as consumer:
        ledger: list[bytes] = []
        refused = 0
        for turn in range(400):
            records = [b"%d/%d " % (turn, i) + bytes(3000) for i in range(7)]
            results = await asyncio.gather(*(producer.append(0, r) for r in records), return_exceptions=True)
            for record, result in zip(records, results, strict=True):
                if result is None:
                    ledger.append(record)
                else:
                    assert isinstance(result, QueueUnavailableError)
                    refused += 1
            if refused:
                break
        assert ledger
        assert "written" in str(result)
        found = set(await read(consumer, len(ledger)))
        assert set(ledger) <= found, "everything acknowledged is there although the disk is full"

        # Consumed segments are removed, so a disk that the log itself has filled is free again.
        more = await _append_when_possible(producer, b"after" + bytes(150_000))
        assert (await read(consumer, 1))[-1] == more
        with pytest.raises(QueueUnavailableError):
            await producer.append(0, bytes(210_000))
        free()  # type: ignore[operator]
        more = await _append_when_possible(producer, bytes(210_000))
        assert (await read(consumer, 1))[-1] == more
        assert len(list_segments(stream_dir(path, 0))) <= 2
        ends, committed = await consumer.end_offsets(), await consumer.committed()
        assert ends == committed


async def _append_when_possible(producer: LocalLogProducer, record: bytes) -> bytes:
    for _ in range(100):
        try:
            await producer.append(0, record)
        except QueueUnavailableError:
            await asyncio.sleep(0.05)
        else:
            return record
    raise AssertionError("the log did not recover")


async def _eventually(condition: object) -> None:
    for _ in range(100):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")
