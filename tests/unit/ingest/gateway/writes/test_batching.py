"""Group commit at the gateway, against a queue that the test opens and closes at will."""

from __future__ import annotations

import asyncio

import pytest

from runstream.ingest.gateway.writes.batching import Batcher, Points
from runstream.ingest.queue.protocol import Depth
from runstream.schemas.errors import QueueFullError, QueueUnavailableError
from runstream.schemas.record import decode


class GatedQueue:
    """Keeps what is appended; an append ends when the test says so."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.records: list[tuple[int, bytes]] = []
        self.gates: list[asyncio.Future[None]] = []
        self.arrived = asyncio.Condition()

    def route(self, run_id: str) -> int:
        return int(run_id) % self.partitions

    async def append(self, partition: int, record: bytes) -> None:
        gate = asyncio.get_running_loop().create_future()
        async with self.arrived:
            self.records.append((partition, record))
            self.gates.append(gate)
            self.arrived.notify_all()
        await gate

    async def appends(self, count: int) -> None:
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.records) >= count)

    def depth(self) -> Depth:
        return Depth(0, None)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Appends:
    def __init__(self) -> None:
        self.seen: list[tuple[int, Exception | None]] = []

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        self.seen.append((points, error))


def batcher(queue: GatedQueue, telemetry: Appends | None = None, **bounds: float) -> Batcher:
    return Batcher(
        queue,
        telemetry or Appends(),
        linger_ms=bounds.get("linger_ms", 60_000),
        max_record_bytes=int(bounds.get("max_record_bytes", 1 << 20)),
        max_pending_bytes=int(bounds.get("max_pending_bytes", 1 << 30)),
        append_timeout_s=bounds.get("append_timeout_s", 30),
        clock_ms=lambda: 42,
    )


def points(run_id: str = "0", count: int = 1) -> Points:
    return Points(run_id, ["k"] * count, list(range(count)), [7] * count, [0.5] * count)


async def test_one_request_does_not_wait_for_others() -> None:
    queue = GatedQueue()
    request = asyncio.create_task(batcher(queue).add(points()))
    await queue.appends(1)
    assert not request.done()
    queue.gates[0].set_result(None)
    await request
    assert decode(queue.records[0][1]).created_at_ms == 42


async def test_requests_during_an_append_share_the_next_record() -> None:
    queue = GatedQueue()
    telemetry = Appends()
    under_test = batcher(queue, telemetry)
    first = asyncio.create_task(under_test.add(points("1")))
    await queue.appends(1)
    others = [asyncio.create_task(under_test.add(points(str(n), 3))) for n in range(2, 22)]
    await asyncio.sleep(0)
    queue.gates[0].set_result(None)
    await first
    await queue.appends(2)
    assert not any(task.done() for task in others)
    queue.gates[1].set_result(None)
    await asyncio.gather(*others)
    assert [count for count, _ in telemetry.seen] == [1, 60]
    columns = decode(queue.records[1][1])
    assert columns.runs == [str(n) for n in range(2, 22)]
    assert len(columns) == 60
    assert under_test.pending_bytes == 0


async def test_a_full_record_does_not_wait_for_the_append_before_it() -> None:
    queue = GatedQueue()
    under_test = batcher(queue, max_record_bytes=2_000)
    tasks = [asyncio.create_task(under_test.add(points("0", 100))) for _ in range(3)]
    await queue.appends(3)
    for gate in queue.gates:
        gate.set_result(None)
    await asyncio.gather(*tasks)


async def test_partitions_are_kept_apart() -> None:
    queue = GatedQueue(partitions=3)
    under_test = batcher(queue)
    tasks = [asyncio.create_task(under_test.add(points(str(n)))) for n in range(9)]
    await queue.appends(3)
    assert sorted(partition for partition, _ in queue.records) == [0, 1, 2]
    for gate in queue.gates:
        gate.set_result(None)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "error", [QueueFullError("full"), QueueUnavailableError("away"), RuntimeError("bug")]
)
async def test_every_waiter_hears_of_a_failure_and_the_next_append_is_tried(error: Exception) -> None:
    queue = GatedQueue()
    under_test = batcher(queue)
    tasks = [asyncio.create_task(under_test.add(points())) for _ in range(5)]
    await queue.appends(1)
    queue.gates[0].set_exception(error)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, QueueFullError | QueueUnavailableError) for result in results)
    again = asyncio.create_task(under_test.add(points()))
    await queue.appends(2)
    queue.gates[1].set_result(None)
    await again
    assert under_test.pending_bytes == 0


async def test_memory_is_bounded() -> None:
    queue = GatedQueue()
    under_test = batcher(queue, max_pending_bytes=3_000)
    accepted = [asyncio.create_task(under_test.add(points("0", 100))) for _ in range(2)]
    await queue.appends(1)
    with pytest.raises(QueueFullError):
        await under_test.add(points())
    queue.gates[0].set_result(None)
    await asyncio.gather(*accepted)


async def test_an_append_that_hangs_has_a_deadline() -> None:
    queue = GatedQueue()
    with pytest.raises(QueueUnavailableError, match="in time"):
        await batcher(queue, append_timeout_s=0.05).add(points())


async def test_a_caller_that_goes_away_takes_nobody_with_it() -> None:
    queue = GatedQueue()
    under_test = batcher(queue)
    leaving, staying = (asyncio.create_task(under_test.add(points(run))) for run in ("0", "1"))
    await queue.appends(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    queue.gates[0].set_result(None)
    await staying
    assert decode(queue.records[0][1]).runs == ["0", "1"]


async def test_drain_waits_for_what_is_under_way() -> None:
    queue = GatedQueue()
    under_test = batcher(queue)
    tasks = [asyncio.create_task(under_test.add(points()))]
    await queue.appends(1)
    tasks.append(asyncio.create_task(under_test.add(points())))
    await asyncio.sleep(0)
    draining = asyncio.create_task(under_test.drain())
    await queue.appends(2)
    assert not draining.done()
    for gate in queue.gates:
        gate.set_result(None)
    await draining
    await asyncio.gather(*tasks)
