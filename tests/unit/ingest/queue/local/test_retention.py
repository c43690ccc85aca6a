"""Consumed segments stay until what they hold has survived elsewhere, and can be read again until then."""

from __future__ import annotations

from pathlib import Path

from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer
from runstream.ingest.queue.local.files import list_segments, stream_dir
from runstream.ingest.queue.local.retention import Retention, kept_records
from runstream.ingest.queue.local.segment import SegmentWriter
from runstream.ingest.queue.local.stream import StreamConsumer

RECORDS = [bytes([number]) * 100 for number in range(8)]


def consumed(tmp_path: Path, now: list[float]) -> StreamConsumer:
    """A stream of a segment a record, all consumed."""
    directory = stream_dir(tmp_path, 0)
    directory.mkdir()
    writer = SegmentWriter(directory, segment_bytes=1)
    for record in RECORDS:
        writer.append([record])
    writer.close()
    stream = StreamConsumer(tmp_path, 0, wall_clock=lambda: now[0])
    while stream.has_news():
        stream.read(1 << 20)
    stream.commit(stream.delivered)
    return stream


def left(tmp_path: Path) -> int:
    return len(list_segments(stream_dir(tmp_path, 0)))


def test_what_has_survived_goes(tmp_path: Path) -> None:
    now = [1000.0]
    stream = consumed(tmp_path, now)
    retention = Retention(max_bytes=1 << 20)
    stream.release(retention)
    assert left(tmp_path) == len(RECORDS)
    assert [message.payload for message in kept_records(tmp_path)] == RECORDS
    retention.survived = 1000.0
    stream.release(retention)
    assert left(tmp_path) == len(RECORDS)
    retention.survived = 1000.5
    stream.release(retention)
    assert left(tmp_path) == 1
    stream.close()


def test_so_does_what_is_old(tmp_path: Path) -> None:
    now = [1000.0]
    stream = consumed(tmp_path, now)
    retention = Retention(max_bytes=1 << 20, max_age_s=3600)
    stream.release(retention)
    now[0] += 3601
    stream.release(retention)
    assert left(tmp_path) == 1
    stream.close()


def test_and_what_takes_too_much_room(tmp_path: Path) -> None:
    stream = consumed(tmp_path, [1000.0])
    stream.release(Retention(max_bytes=3 * 116))
    assert left(tmp_path) == 4
    assert [message.payload for message in kept_records(tmp_path)] == RECORDS[-4:]
    stream.release(Retention(max_bytes=0))
    assert left(tmp_path) == 1
    stream.close()


async def test_what_stays_is_not_delivered_again(tmp_path: Path) -> None:
    producer = LocalLogProducer(tmp_path, segment_bytes=1)
    await producer.start()
    retention = Retention(max_bytes=1 << 20)
    for record in RECORDS:
        consumer = LocalLogConsumer(tmp_path, retention=retention)
        await consumer.start()
        await producer.append(producer.stream, record)
        (message,) = await consumer.poll(max_bytes=1 << 20, timeout_s=10)
        assert message.payload == record
        await consumer.commit({message.partition: message.next_offset})
        await consumer.close()
    assert left(tmp_path) == len(RECORDS)
    await producer.close()
