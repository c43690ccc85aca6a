"""The tap hands points to listeners and everything, unchanged, to the writer."""

from __future__ import annotations

from pathlib import Path

from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer
from runstream.query.live.hub import Hub
from runstream.roles.tap import TappedConsumer
from runstream.schemas.record import RecordBuilder


def record(run_id: str, step: int) -> bytes:
    builder = RecordBuilder(created_at_ms=0)
    builder.add(run_id, ["k"], [step], [step], [0.5])
    return builder.build()


async def test_listeners_see_what_the_writer_takes(tmp_path: Path) -> None:
    producer = LocalLogProducer(tmp_path)
    await producer.start()
    hub = Hub()
    consumer = TappedConsumer(LocalLogConsumer(tmp_path), hub)
    await consumer.start()
    try:
        await producer.append(producer.stream, record("a", 1))
        assert len(await consumer.poll(max_bytes=1 << 20, timeout_s=10)) == 1
        listener = hub.listen(["a"])
        assert listener is not None
        for payload in (record("a", 2), b"not a record", record("b", 3), record("a", 4)):
            await producer.append(producer.stream, payload)
        payloads: list[bytes] = []
        while len(payloads) < 4:
            payloads += [message.payload for message in await consumer.poll(max_bytes=1 << 20, timeout_s=10)]
        assert payloads[1] == b"not a record"
        assert [step for event in await listener.take(1) for step in event.steps] == [2, 4]
        ends = await consumer.end_offsets()
        await consumer.commit(ends)
        assert await consumer.committed() == ends
    finally:
        await consumer.close()
        await producer.close()
