"""What every barrier promises: after a wait, readers see what was appended before it; or ``False``, in time."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from contracts.queue_backends import KafkaBackend, LocalBackend

from runstream.ingest.queue.protocol import Consumer, Producer
from runstream.ingest.writer.barrier import LocalBarrier
from runstream.ingest.writer.config import WriterConfig
from runstream.ingest.writer.latest import open_latest
from runstream.ingest.writer.pipeline import Writer
from runstream.schemas.ports.barrier import Barrier
from support.clickhouse_engine import shared_database
from support.kafka import shared_servers
from support.metadata import writers_tables
from support.points import record

# A writer of this kind writes when somebody waits, and never by itself.
_PATIENT = WriterConfig(linger_s=3600, max_linger_s=3600, revoke_timeout_s=20)


class Setting:
    """A queue, a barrier over it, and a writer that is started when a test wants one."""

    def __init__(self, backend: LocalBackend | KafkaBackend, metadata: Path) -> None:
        self.backend = backend
        self.metadata = metadata
        self.producer: Producer
        self.barrier: Barrier
        self._consumer: Consumer
        self._latest = open_latest(f"sqlite:///{metadata}")
        self._writer: Writer
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self.producer = await self.backend.producer()
        # Not started: that is the writer's work.
        self._consumer = self.backend.consumer_of_a_writer()
        self._writer = Writer(self._consumer, shared_database(), self._latest, _PATIENT)
        if isinstance(self.backend, KafkaBackend):
            self.barrier = await self.backend.barrier()
        else:
            self.barrier = LocalBarrier(self._consumer, self._writer)

    def start_writer(self) -> None:
        self._running = asyncio.create_task(self._writer.run())

    async def close(self) -> None:
        if self._running is not None:
            await self._writer.stop(30, drain=False)
            with suppress(asyncio.CancelledError):
                await self._running
        await self.backend.close()
        self._latest.close()

    def run(self) -> str:
        """A new run, of which MLflow knows."""
        run_id = uuid.uuid4().hex
        with sqlite3.connect(self.metadata) as connection:
            connection.execute("INSERT INTO runs VALUES (?)", (run_id,))
        connection.close()
        return run_id

    async def log(self, run_id: str, step: int) -> None:
        partition = self.producer.route(run_id)
        await self.producer.append(partition, record([(run_id, "k", step, step, 0.5)], created_at_ms=step))

    def stored(self, run_id: str) -> int:
        counted = "SELECT uniqExact(step) AS n FROM metrics WHERE run_id = {run:String}"
        return int(shared_database().arrow(counted, {"run": run_id})["n"][0].as_py())

    def newest(self, run_id: str) -> int | None:
        with sqlite3.connect(self.metadata) as connection:
            row = connection.execute(
                "SELECT step FROM latest_metrics WHERE run_uuid = ?", (run_id,)
            ).fetchone()
        connection.close()
        return None if row is None else int(row[0])


@pytest.fixture(params=["local", "kafka"])
async def setting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setting]:
    metadata = writers_tables(tmp_path / "mlflow.db")
    backend: LocalBackend | KafkaBackend
    if request.param == "kafka":
        backend = KafkaBackend(shared_servers(request.config))
    else:
        backend = LocalBackend(tmp_path / "log")
    made = Setting(backend, metadata)
    await made.open()
    yield made
    await made.close()


async def test_what_was_appended_before_is_seen_after(setting: Setting) -> None:
    setting.start_writer()
    run = setting.run()
    for step in range(1, 8):
        await setting.log(run, step)
        assert await setting.barrier.wait([run], 30)
        assert setting.stored(run) == step
        assert setting.newest(run) == step


async def test_waits_side_by_side_for_one_run_for_several_and_for_any(setting: Setting) -> None:
    setting.start_writer()
    runs = [setting.run() for _ in range(6)]

    async def one(number: int) -> None:
        run = runs[number]
        for step in range(1, 5):
            await setting.log(run, step)
            wanted = ([run], [run, runs[number - 1]], None)[step % 3]
            assert await setting.barrier.wait(wanted, 30, newest=step % 2 == 0)
            assert setting.stored(run) == step

    await asyncio.gather(*map(one, range(len(runs))))


async def test_nothing_to_wait_for_is_no_wait(setting: Setting) -> None:
    setting.start_writer()
    assert await setting.barrier.wait([], 30)
    assert await setting.barrier.wait([setting.run()], 30)
    assert await setting.barrier.wait(None, 30)


async def test_without_a_writer_it_says_so_in_time_and_later_it_holds(setting: Setting) -> None:
    run = setting.run()
    await setting.log(run, 1)
    async with asyncio.timeout(20):
        assert await setting.barrier.wait([run], 0.3) is False
        assert await setting.barrier.wait(None, 0.0) is False
    setting.start_writer()
    assert await setting.barrier.wait([run], 30)
    assert setting.stored(run) == 1


async def test_one_who_leaves_keeps_nobody_else_from_waiting(setting: Setting) -> None:
    run = setting.run()
    await setting.log(run, 1)
    leaving = [asyncio.create_task(setting.barrier.wait([run], 30)) for _ in range(5)]
    staying = asyncio.create_task(setting.barrier.wait([run], 30))
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    setting.start_writer()
    assert await staying
    assert setting.stored(run) == 1
