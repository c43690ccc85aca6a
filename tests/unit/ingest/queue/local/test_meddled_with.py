"""A log folder that others meddle with: what is acknowledged is read all the same, or is not acknowledged."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer, files
from runstream.ingest.queue.local.files import segment_name, stream_dir
from runstream.schemas.errors import QueueUnavailableError

WITHIN_S = 30


@asynccontextmanager
async def log(path: Path) -> AsyncIterator[tuple[LocalLogProducer, LocalLogConsumer]]:
    producer, consumer = LocalLogProducer(path), LocalLogConsumer(path)
    await producer.start()
    await consumer.start()
    try:
        yield producer, consumer
    finally:
        await producer.close()
        await consumer.close()


async def append(producer: LocalLogProducer, record: bytes) -> int:
    """Append until it is acknowledged, as a client would; how often it was refused."""
    refused = 0
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await producer.append(producer.route(""), record)
                return refused
            except QueueUnavailableError:
                refused += 1
                await asyncio.sleep(0.05)


async def read(consumer: LocalLogConsumer, count: int) -> list[bytes]:
    """Poll until ``count`` records have come, and commit them, however often that has to be tried.

    What was refused and sent again may come twice, as everywhere.
    """
    found: dict[bytes, None] = {}
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count:
            try:
                messages = await consumer.poll(max_bytes=1 << 20, timeout_s=0.2)
            except QueueUnavailableError:
                continue
            assert [message.fault for message in messages if message.fault is not None] == []
            found |= dict.fromkeys(message.payload for message in messages)
            offsets = {message.partition: message.next_offset for message in messages}
            while offsets:
                try:
                    await consumer.commit(offsets)
                    break
                except QueueUnavailableError:
                    await asyncio.sleep(0.05)
    return list(found)


def stream(path: Path) -> None:
    shutil.rmtree(stream_dir(path, 0))


def segments(path: Path) -> None:
    for file in stream_dir(path, 0).glob("*.log"):
        file.unlink()


def commit_file(path: Path) -> None:
    (stream_dir(path, 0) / files.COMMITTED).unlink()


@pytest.mark.parametrize("delete", [stream, shutil.rmtree, segments])
async def test_nothing_is_acknowledged_into_a_deleted_file(
    tmp_path: Path, delete: Callable[[Path], None]
) -> None:
    path = tmp_path / "log"
    async with log(path) as (producer, consumer):
        await append(producer, b"before")
        assert await read(consumer, 1) == [b"before"]
        delete(path)
        assert await append(producer, b"after") > 0
        await append(producer, b"later")
        assert await read(consumer, 2) == [b"after", b"later"]
        assert await consumer.committed() == await consumer.end_offsets()
        # Nobody else can have the stream meanwhile.
        async with log_producer(path) as other:
            assert other.stream != producer.stream
    async with log(path) as (producer, consumer):
        await append(producer, b"next time")
        assert await read(consumer, 1) == [b"next time"]


@asynccontextmanager
async def log_producer(path: Path) -> AsyncIterator[LocalLogProducer]:
    producer = LocalLogProducer(path)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.close()


async def test_what_was_not_read_yet_is_read_from_the_deleted_file(tmp_path: Path) -> None:
    async with log(tmp_path / "log") as (producer, consumer):
        await append(producer, b"one")
        assert await read(consumer, 1) == [b"one"]
        await append(producer, b"two")
        stream(tmp_path / "log")
        await append(producer, b"three")
        assert await read(consumer, 2) == [b"two", b"three"]


async def test_a_deleted_commit_file_is_made_anew(tmp_path: Path) -> None:
    async with log(tmp_path) as (producer, consumer):
        for record in (b"one", b"two"):
            await append(producer, record)
            assert await read(consumer, 1) == [record]
            commit_file(tmp_path)
        await append(producer, b"three")
        assert await read(consumer, 1) == [b"three"]
        async with asyncio.timeout(WITHIN_S):
            while producer.depth().bytes:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", [segment_name(30), segment_name((1 << 62) - 1), "9" * 20 + ".log", "7.log"])
@pytest.mark.parametrize("content", [b"", b"a foreign file, of some bytes", b"\0" * 5000])
async def test_a_foreign_file_hides_no_record(tmp_path: Path, name: str, content: bytes) -> None:
    async with log(tmp_path) as (producer, consumer):
        await append(producer, b"first")
        await append(producer, b"second")
        assert await read(consumer, 2) == [b"first", b"second"]
        await append(producer, b"third")
        await append(producer, b"fourth")
    (stream_dir(tmp_path, 0) / name).write_bytes(content)
    async with log(tmp_path) as (producer, consumer):
        await append(producer, b"fifth")
        assert await read(consumer, 3) == [b"third", b"fourth", b"fifth"]
        assert producer.depth().bytes == 0
    (left,) = [entry for entry in stream_dir(tmp_path, 0).iterdir() if entry.name.startswith(name)]
    assert left.read_bytes() == content


async def test_a_folder_in_place_of_a_segment(tmp_path: Path) -> None:
    async with log(tmp_path) as (producer, _):
        await append(producer, b"one")
    (stream_dir(tmp_path, 0) / segment_name(1000)).mkdir()
    async with log(tmp_path) as (producer, consumer):
        await append(producer, b"two")
        assert await read(consumer, 2) == [b"one", b"two"]


async def test_the_writing_thread_outlives_what_is_no_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log(tmp_path) as (producer, consumer):
        await append(producer, b"one")
        real, failures = os.pwritev, iter([MemoryError(), ValueError("odd")])

        def write(*arguments: object) -> int:
            if (failure := next(failures, None)) is not None:
                raise failure
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "pwritev", write)
        assert await append(producer, b"two") >= 1
        assert await read(consumer, 2) == [b"one", b"two"]


@pytest.mark.skipif(not hasattr(os, "RWF_DSYNC"), reason="this system has no RWF_DSYNC")
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
async def test_a_kernel_that_refuses_synced_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.pwritev
    synced: list[int] = []

    def write(fd: int, buffers: list[bytes], at: int, flags: int = 0) -> int:
        if flags:
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "pwritev", write)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(files, "_DSYNC", os.RWF_DSYNC)
    async with log(tmp_path) as (producer, consumer):
        for record in (b"one", b"two"):
            assert await append(producer, record) == 0
        assert len(synced) >= 2
        assert await read(consumer, 2) == [b"one", b"two"]
