"""The writer's contract: nothing lost, nothing committed early, newest values right, whatever fails."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runstream.clickhouse import connect, create_database
from runstream.clickhouse.migrate import migrate
from runstream.ingest.queue.local import LocalLogConsumer, LocalLogProducer, read_dead_letters
from runstream.ingest.queue.protocol import Consumer
from runstream.ingest.writer import retry as retry_module
from runstream.ingest.writer.config import WriterConfig
from runstream.ingest.writer.latest import LatestValues, open_latest
from runstream.ingest.writer.newest import LatestRows
from runstream.ingest.writer.pipeline import Writer
from runstream.schemas.migrations import Flavour
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.record import PointColumns
from support.chdb_http import ChdbServer, Fault, chdb_server
from support.memory_queue import MemoryConsumer, MemoryQueue
from support.metadata import writers_tables
from support.points import Row, record

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()

# Nothing in these tests happens by the clock but what a test waits for.
PATIENT = WriterConfig(linger_s=3600, max_linger_s=3600, revoke_timeout_s=20)
EAGER = WriterConfig(linger_s=0.01, max_linger_s=0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbServer]:
    with chdb_server(tmp_path_factory.mktemp("chdb") / "data") as server:
        yield server


@dataclass
class Place:
    """A ClickHouse database, a metadata database with MLflow's two tables, and a queue, all empty."""

    server: ChdbServer
    url: str
    database: Database
    metadata: Path
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    rows: list[Row] = field(default_factory=list)

    def log(self, partition: int = 0, points: int = 3, run: str = "r") -> list[Row]:
        """Append one record of new points."""
        new = [(f"{run}{partition}", f"k{n % 2}", next(_numbers), 7, n / 3) for n in range(points)]
        self.queue.append(partition, record(new, created_at_ms=int(time.time() * 1000)))
        self.rows += new
        return new

    def stored(self) -> list[Row]:
        """Every row in ClickHouse, sorted, repeats included."""
        table = self.database.arrow("SELECT run_id, key, step, timestamp, value FROM metrics").to_pydict()
        return sorted(zip(*table.values(), strict=True))

    def latest(self) -> dict[tuple[str, str], int]:
        with sqlite3.connect(self.metadata) as connection:
            found = connection.execute("SELECT run_uuid, key, step FROM latest_metrics").fetchall()
        connection.close()
        return {(run, key): step for run, key, step in found}

    def newest(self) -> dict[tuple[str, str], int]:
        """What ``latest`` must be."""
        found: dict[tuple[str, str], int] = {}
        for run, key, step, _, _ in self.rows:
            found[run, key] = max(step, found.get((run, key), step))
        return found

    @asynccontextmanager
    async def writer(
        self,
        config: WriterConfig = PATIENT,
        consumer: Consumer | None = None,
        on_points: Callable[[PointColumns], None] | None = None,
    ) -> AsyncIterator[Writer]:
        latest = open_latest(f"sqlite:///{self.metadata}")
        consumer = consumer or MemoryConsumer(self.queue)
        writer = Writer(consumer, self.database, latest, config, on_points=on_points)
        task = asyncio.create_task(writer.run())
        try:
            yield writer
        finally:
            await writer.stop(30, drain=False)
            with suppress(asyncio.CancelledError):
                await task
            latest.close()


@pytest.fixture
def place(server: ChdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(retry_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_module, "LONGEST_PAUSE_S", 0.05)
    url = server.url.replace("/runstream", f"/writer_{next(_numbers)}")
    create_database(url)
    database = connect(url)
    migrate(database, Flavour())
    database.execute("SYSTEM STOP MERGES metrics")
    metadata = writers_tables(tmp_path / "mlflow.db", "r0", "r1")
    yield Place(server, url, database, metadata)
    server.faults()
    database.close()


async def until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


async def test_everything_arrives_once(place: Place) -> None:
    for number in range(40):
        place.log(number % 2, points=random.Random(number).randrange(1, 50))
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 30)
        assert place.stored() == sorted(place.rows)
        assert place.latest() == place.newest()
        assert place.queue.committed == place.queue.ends()
        assert writer.stats.points == len(place.rows)
        assert writer.stats.records == 40
        assert writer.lag_s() == 0.0


async def test_linger_and_size_flush_without_anybody_waiting(place: Place) -> None:
    place.log()
    async with place.writer(EAGER):
        await until(lambda: place.queue.committed == {0: 3})
    async with place.writer(WriterConfig(linger_s=3600, max_linger_s=3600, max_rows=10)):
        place.log(points=9)
        place.log(points=9)
        await until(
            lambda: place.queue.committed == place.queue.ends() | {1: 0} or place.queue.committed == {0: 9}
        )
    assert place.stored() == sorted(place.rows)


async def test_waiters_share_blocks_and_see_their_writes(place: Place) -> None:
    async with place.writer() as writer:

        async def log_and_read(number: int) -> None:
            points = place.log(number % 2)
            assert await writer.flush_until(place.queue.ends(), 30)
            seen = await asyncio.to_thread(place.stored)
            assert set(points) <= set(seen)
            assert all(place.latest()[run, key] >= step for run, key, step, _, _ in points)

        for _ in range(3):
            await asyncio.gather(*(log_and_read(number) for number in range(20)))
        assert writer.stats.flushes <= 9
    assert place.stored() == sorted(place.rows)


async def test_waiting_for_nothing_new_is_immediate(place: Place) -> None:
    async with place.writer() as writer:
        assert await writer.flush_until({}, 0.5)
        assert await writer.flush_until(place.queue.ends(), 5)
        assert not await writer.flush_until({0: 10**9}, 0.05)
        assert writer.stats.flushes == 0


async def test_who_looks_on_is_told_of_every_point_before_it_is_stored_and_stops_nothing(
    place: Place,
) -> None:
    seen: list[int] = []

    def look(points: PointColumns) -> None:
        seen.extend(points.steps.tolist())
        if len(seen) > 3:
            raise ValueError("a listener's fault")

    async with place.writer(on_points=look) as writer:
        first = place.log()
        place.queue.append(0, b"not a record")
        await until(lambda: len(seen) == 3)
        assert seen == [step for _, _, step, _, _ in first]
        assert place.stored() == []
        place.log()
        assert await writer.flush_until(place.queue.ends(), 30)
        assert place.stored() == sorted(place.rows)


async def test_flush_marker(place: Place) -> None:
    async with place.writer() as writer:
        place.log()
        marker = place.queue.append(0, b"", flush=True)
        await until(lambda: place.queue.committed.get(0) == marker.next_offset)
        assert place.stored() == sorted(place.rows)
        assert writer.stats.dead_letters == 0
        lonely = place.queue.append(1, b"", flush=True)
        await until(lambda: place.queue.committed.get(1) == lonely.next_offset)


async def test_records_that_cannot_be_decoded(place: Place) -> None:
    place.log()
    bad = place.queue.append(0, b"\x09garbage")
    place.log()
    torn = place.queue.append(0, record(place.rows)[:-3])
    faulty = place.queue.append(0, record(place.rows), fault="checksum differs")
    place.log()
    place.queue.fail(3)
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 30)
        assert writer.stats.dead_letters == 3
    assert [message for message, _ in place.queue.letters] == [bad, torn, faulty]
    reasons = [reason for _, reason in place.queue.letters]
    assert "shorter than its header" in reasons[0]
    assert reasons[2] == "checksum differs"
    assert place.stored() == sorted(place.rows)


async def test_only_dead_letters_are_committed_too(place: Place) -> None:
    place.queue.append(0, b"?")
    async with place.writer(EAGER):
        await until(lambda: place.queue.committed == {0: 3})


async def test_commits_come_after_everything_else(place: Place) -> None:
    """At each commit, whatever is below the offsets is stored, and the newest values are written."""
    below: dict[int, dict[int, list[Row]]] = {0: {}, 1: {}}
    seen: list[int] = []

    def check(offsets: Mapping[int, int]) -> None:
        stored, latest = set(place.stored()), place.latest()
        for partition, end in offsets.items():
            for offset, points in below[partition].items():
                if offset < end:
                    assert set(points) <= stored
                    assert all(latest[run, key] >= step for run, key, step, _, _ in points)
        seen.append(len(stored))

    place.queue.on_commit = check
    async with place.writer(WriterConfig(linger_s=0.001, max_linger_s=0.001, max_rows=20)) as writer:
        for number in range(60):
            partition = number % 2
            offset = place.queue.ends()[partition]
            below[partition][offset] = place.log(partition)
            if number % 7 == 0:
                await asyncio.sleep(0.01)
        assert await writer.flush_until(place.queue.ends(), 30)
    assert seen[-1] == len(place.rows)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", "INSERT INTO metrics", times=4, code=252),
        Fault("refuse", "INSERT INTO metrics", times=4, code=241),
        Fault("drop", "INSERT INTO metrics", times=4),
        Fault("drop", "INSERT INTO metrics", times=4, when="after"),
    ],
    ids=["too-many-parts", "memory", "dropped", "dropped-after"],
)
async def test_failing_inserts_are_repeated(place: Place, fault: Fault) -> None:
    place.server.faults(fault)
    place.log()
    async with place.writer() as writer:
        waiting = asyncio.create_task(writer.flush_until(place.queue.ends(), 60))
        await until(lambda: writer.stats.failure)
        assert writer.stats.failure is not None
        assert "insert" in writer.stats.failure
        assert place.queue.committed == {}
        assert writer.lag_s() > 0
        assert await waiting
        assert writer.stats.failure is None
        assert writer.stats.retries >= 2
        assert writer.stats.dead_letters == 0
    assert set(place.stored()) == set(place.rows)


async def test_clickhouse_killed_in_mid_insert(place: Place) -> None:
    place.server.faults(Fault("die", "INSERT INTO metrics", when="during"))
    async with place.writer(EAGER) as writer:
        place.log(points=2000)
        await until(lambda: writer.stats.retries > 0)
        await asyncio.to_thread(place.server.wait_dead)
        place.log(1)
        await asyncio.to_thread(place.server.start)
        assert await writer.flush_until(place.queue.ends(), 60)
    assert set(place.stored()) == set(place.rows)
    assert place.latest() == place.newest()


async def test_table_that_is_missing_makes_no_dead_letters(place: Place) -> None:
    place.database.execute("RENAME TABLE metrics TO elsewhere")
    place.log()
    async with place.writer() as writer:
        waiting = asyncio.create_task(writer.flush_until(place.queue.ends(), 60))
        await until(lambda: writer.stats.retries > 3)
        assert place.queue.letters == []
        place.database.execute("RENAME TABLE elsewhere TO metrics")
        assert await waiting
    assert place.stored() == sorted(place.rows)


@pytest.mark.parametrize("code", [None, 1001, 49])
async def test_errors_that_are_not_about_records_make_no_dead_letters(
    place: Place, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """A proxy's answer without a code, a file system's error: an empty block may well go in meanwhile."""
    insert, left = place.database.insert_native, [3]

    def flaky(table: str, columns: Sequence[str], block: bytes, **more: Any) -> None:
        if more.get("deduplication_token") and left[0]:
            left[0] -= 1
            raise DatabaseError("502 Bad Gateway", code=code, retryable=False)
        insert(table, columns, block, **more)

    monkeypatch.setattr(place.database, "insert_native", flaky)
    place.log()
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 60)
        assert writer.stats.retries == 3
    assert place.queue.letters == []
    assert place.stored() == sorted(place.rows)


async def test_record_that_clickhouse_refuses(place: Place) -> None:
    """Only the records at fault become dead letters; the others of their block are stored."""
    place.database.execute("ALTER TABLE metrics ADD CONSTRAINT small CHECK step < 1000000")
    bad = []
    for number in range(30):
        if number in (4, 5, 29):
            points = [("r0", "k", 2_000_000 + number, 1, 0.5), ("r0", "k", 1, 1, 0.5)]
            bad.append(place.queue.append(0, record(points)))
        else:
            place.log()
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 60)
        assert writer.stats.dead_letters == 3
    assert sorted(message.offset for message, _ in place.queue.letters) == [one.offset for one in bad]
    assert all("refused the points" in reason for _, reason in place.queue.letters)
    assert place.stored() == sorted(place.rows)
    assert place.latest() == place.newest()


async def test_metadata_database_that_is_locked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.ingest.writer.latest._BUSY_TIMEOUT_MS", 20)
    place.log()
    other = sqlite3.connect(place.metadata, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with place.writer() as writer:
        waiting = asyncio.create_task(writer.flush_until(place.queue.ends(), 60))
        await until(lambda: writer.stats.failure and "latest values" in writer.stats.failure)
        assert place.queue.committed == {}
        other.rollback()
        assert await waiting
    other.close()
    assert place.latest() == place.newest()


class _HeldLatest:
    """Upserts wait until they are let through."""

    def __init__(self, inner: LatestValues) -> None:
        self._inner = inner
        self.begun, self.through = threading.Event(), threading.Event()

    def upsert(self, rows: LatestRows) -> None:
        self.begun.set()
        assert self.through.wait(60)
        self._inner.upsert(rows)

    def close(self) -> None:
        self._inner.close()


async def test_blocks_go_on_beside_a_slow_upsert_and_are_not_committed_with_it(place: Place) -> None:
    latest = _HeldLatest(open_latest(f"sqlite:///{place.metadata}"))
    writer = Writer(MemoryConsumer(place.queue), place.database, latest, EAGER)
    running = asyncio.create_task(writer.run())
    try:
        place.log()
        first = place.queue.ends()[0]
        await until(latest.begun.is_set)
        place.log()
        await until(lambda: writer.stats.points == len(place.rows))
        assert place.queue.committed == {}
        latest.through.set()
        assert await writer.flush_until(place.queue.ends(), 30)
        assert place.queue.commits[0] == {0: first}
        assert place.queue.committed == {0: place.queue.ends()[0]}
        assert place.latest() == place.newest()
    finally:
        latest.through.set()
        await writer.stop(30)
        await running
        latest.close()


class _HeldDatabase:
    """Inserts wait until they are let through."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.begun, self.through = threading.Event(), threading.Event()

    def insert_native(
        self, table: str, columns: Sequence[str], block: bytes, *, deduplication_token: str | None = None
    ) -> None:
        self.begun.set()
        assert self.through.wait(60)
        self._inner.insert_native(table, columns, block, deduplication_token=deduplication_token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_readers_of_other_runs_cause_no_block(place: Place) -> None:
    place.log(0)
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 30, runs=["elsewhere"])
        assert writer.pending_points() == 3
        place.log(1)
        assert await writer.flush_until(place.queue.ends(), 30, runs=["elsewhere", "another"], newest=False)
        assert writer.pending_points() == 6
        assert writer.stats.flushes == 0
        assert not await writer.flush_until({0: 10**9}, 0.05, runs=["elsewhere"])
        assert await writer.flush_until(place.queue.ends(), 30, runs=["elsewhere", "r1"])
        assert place.stored() == sorted(place.rows)
        assert place.latest() == place.newest()


async def test_readers_beside_a_slow_insert(place: Place) -> None:
    """Those of other runs go on; those of a run in the block, or behind it, see their points."""
    place.database = held = _HeldDatabase(place.database)
    async with place.writer(EAGER) as writer:
        try:
            place.log(0)
            await until(held.begun.is_set)
            place.log(1)
            ends = place.queue.ends()
            assert await writer.flush_until(ends, 30, runs=["elsewhere"])
            for run in ("r0", "r1"):
                assert not await writer.flush_until(ends, 0.1, runs=["elsewhere", run], newest=False)
            assert place.stored() == []
            waiting = [
                asyncio.create_task(writer.flush_until(ends, 30, runs=[run], newest=False))
                for run in ("r0", "r1")
            ]
            await asyncio.sleep(0)
            held.through.set()
            assert await waiting[0]
            assert set(place.stored()) >= {row for row in place.rows if row[0] == "r0"}
            assert await waiting[1]
            assert place.stored() == sorted(place.rows)
        finally:
            held.through.set()


async def test_readers_beside_a_slow_upsert(place: Place) -> None:
    """Only those of newest values wait for it, and only of runs that have some under way."""
    latest = _HeldLatest(open_latest(f"sqlite:///{place.metadata}"))
    writer = Writer(MemoryConsumer(place.queue), place.database, latest, EAGER)
    running = asyncio.create_task(writer.run())
    try:
        place.log(0)
        await until(latest.begun.is_set)
        place.log(1)
        ends = place.queue.ends()
        for runs in (["r0"], ["r1"], None):
            assert await writer.flush_until(ends, 30, runs=runs, newest=False)
        assert place.stored() == sorted(place.rows)
        assert await writer.flush_until(ends, 30, runs=["elsewhere"])
        for run in ("r0", "r1"):
            assert not await writer.flush_until(ends, 0.1, runs=["elsewhere", run])
        assert place.latest() == {}
        waiting = [asyncio.create_task(writer.flush_until(ends, 30, runs=[run])) for run in ("r0", "r1")]
        await asyncio.sleep(0)
        latest.through.set()
        assert await waiting[0]
        assert (
            place.latest().items() >= {key: n for key, n in place.newest().items() if key[0] == "r0"}.items()
        )
        assert await waiting[1]
        assert place.latest() == place.newest()
    finally:
        latest.through.set()
        await writer.stop(30)
        await running
        latest.close()


async def test_many_runs_are_read_while_all_are_written(place: Place) -> None:
    chance = random.Random(7)
    with sqlite3.connect(place.metadata) as connection:
        connection.executemany("INSERT INTO runs VALUES (?)", [(f"{n}-{n % 2}",) for n in range(12)])
    connection.close()

    async def log_and_read(number: int) -> None:
        for _ in range(8):
            points = place.log(number % 2, run=f"{number}-")
            newest = chance.random() < 0.5
            runs = [f"{number}-{number % 2}", "elsewhere"]
            assert await writer.flush_until(place.queue.ends(), 30, runs=runs, newest=newest)
            assert set(points) <= set(await asyncio.to_thread(place.stored))
            if newest:
                latest = place.latest()
                assert all(latest[run, key] >= step for run, key, step, _, _ in points)

    async with place.writer(WriterConfig(linger_s=0.02, max_linger_s=0.02, max_rows=30)) as writer:
        await asyncio.gather(*(log_and_read(number) for number in range(12)))
    assert place.stored() == sorted(place.rows)


async def test_readers_while_a_partition_is_revoked_and_after(place: Place) -> None:
    place.database = held = _HeldDatabase(place.database)
    consumer = MemoryConsumer(place.queue)
    async with place.writer(EAGER, consumer) as writer:
        try:
            place.log(0)
            await until(held.begun.is_set)
            place.log(0, run="later")
            place.log(1)
            await until(lambda: writer.pending_points() == 9)
            revoking = asyncio.create_task(consumer.revoke(0))
            await until(lambda: writer.pending_points() == 6)
            assert not await writer.flush_until(place.queue.ends(), 0.1, runs=["later0"], newest=False)
            place.log(0)  # Polled, but what came before it was dropped.
            place.log(1)
            mine = {1: place.queue.ends()[1]}
            assert await writer.flush_until(mine, 30, runs=["later0"])
            for run in ("later0", "elsewhere"):
                assert not await writer.flush_until(place.queue.ends(), 0.1, runs=[run], newest=False)
            held.through.set()
            await revoking
            assert not await writer.flush_until(place.queue.ends(), 0.1, runs=["later0"])
            assert await writer.flush_until(mine, 30, runs=["r1"])
            assert set(place.stored()) >= {row for row in place.rows if row[0] == "r1"}
        finally:
            held.through.set()
    async with place.writer(EAGER, MemoryConsumer(place.queue, {0})) as other:
        assert await other.flush_until({0: place.queue.ends()[0]}, 30, runs=["later0"])
        assert {row for row in place.rows if row[0] == "later0"} <= set(place.stored())
        assert await other.flush_until({0: place.queue.ends()[0]}, 30)
    assert set(place.stored()) == set(place.rows)


async def test_failing_commits_are_repeated(place: Place) -> None:
    place.log()
    place.queue.fail(5)
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 30)
        assert writer.stats.retries == 5
    assert len(place.queue.commits) == 1


async def test_memory_stays_bounded_while_clickhouse_is_slow(place: Place) -> None:
    place.server.faults(Fault(match="INSERT INTO metrics", delay_s=0.3, times=10**6))
    config = WriterConfig(linger_s=0.01, max_linger_s=0.01, max_rows=200, poll_bytes=2000)
    for number in range(200):
        place.log(number % 2, points=20)
    most = 0
    async with place.writer(config) as writer:
        while not await writer.flush_until(place.queue.ends(), 0.01):
            most = max(most, writer.pending_points())
    assert 0 < most < 2 * (200 + 400)
    assert place.stored() == sorted(place.rows)


async def test_event_loop_stays_free(place: Place) -> None:
    """Heartbeats of a consumer group go on while inserts, upserts and decoding block."""
    place.server.faults(Fault(match="INSERT INTO metrics", delay_s=0.5, times=3))
    place.log(points=20_000)
    longest = 0.0
    async with place.writer() as writer:
        waiting = asyncio.create_task(writer.flush_until(place.queue.ends(), 30))
        while not waiting.done():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)
        assert await waiting
    assert longest < 0.4


async def test_revoked_partition_is_finished_first(place: Place) -> None:
    place.server.faults(Fault(match="INSERT INTO metrics", delay_s=0.5, times=1))
    consumer = MemoryConsumer(place.queue)
    async with place.writer(EAGER, consumer) as writer:
        place.log(0)
        place.log(1)
        await until(
            lambda: any("INSERT INTO metrics" in entry["sql"] for entry in place.server.statements()[-2:])
        )
        await consumer.revoke(0)
        assert place.queue.committed[0] == place.queue.ends()[0]
        place.log(0)
        place.log(1)
        assert await writer.flush_until({1: place.queue.ends()[1]}, 30)
        assert place.queue.committed[0] < place.queue.ends()[0]


async def test_revoked_partition_that_does_not_finish_is_never_committed(place: Place) -> None:
    place.server.faults(Fault("refuse", "INSERT INTO metrics", times=10**6))
    consumer = MemoryConsumer(place.queue)
    config = WriterConfig(linger_s=0.01, max_linger_s=0.01, revoke_timeout_s=0.1)
    async with place.writer(config, consumer) as writer:
        place.log(0)
        place.log(1)
        await until(lambda: writer.stats.retries > 0)
        await consumer.revoke(0)
        place.server.faults()
        assert await writer.flush_until({1: place.queue.ends()[1]}, 30)
        assert place.queue.committed == {1: place.queue.ends()[1]}
    async with place.writer(EAGER, MemoryConsumer(place.queue, {0})) as other:
        assert await other.flush_until({0: place.queue.ends()[0]}, 30)
    assert set(place.stored()) == set(place.rows)


async def test_what_waits_for_a_block_is_dropped_when_revoked(place: Place) -> None:
    consumer = MemoryConsumer(place.queue)
    async with place.writer(PATIENT, consumer) as writer:
        place.log(0)
        mine = place.log(1)
        await until(lambda: writer.pending_points() == 6)
        await consumer.revoke(0)
        assert writer.pending_points() == 3
        assert await writer.flush_until({1: place.queue.ends()[1]}, 30)
        assert place.stored() == sorted(mine)
        assert place.queue.committed == {1: place.queue.ends()[1]}


async def test_stop_drains(place: Place) -> None:
    async with place.writer() as writer:
        await writer.flush_until({}, 1)
        for number in range(30):
            place.log(number % 2)
        assert await writer.stop(30)
    assert place.queue.committed == place.queue.ends()
    assert place.stored() == sorted(place.rows)


async def test_stop_keeps_its_deadline_and_the_next_writer_goes_on(place: Place) -> None:
    place.server.faults(Fault("refuse", "INSERT INTO metrics", times=10**6))
    place.log()
    async with place.writer(EAGER) as writer:
        await until(lambda: writer.stats.retries > 0)
        started = time.monotonic()
        assert not await writer.stop(0.3)
        assert time.monotonic() - started < 5
        assert not await writer.flush_until(place.queue.ends(), 0.1)
    assert place.queue.committed == {}
    place.server.faults()
    async with place.writer() as writer:
        assert await writer.flush_until(place.queue.ends(), 30)
    assert place.stored() == sorted(place.rows)


STOPPING = """
import asyncio, sys
from runstream.ingest.queue.protocol import Message
from runstream.ingest.writer.latest import LatestValues, open_latest
from runstream.ingest.writer.newest import LatestRows
from runstream.ingest.writer.config import WriterConfig
from runstream.ingest.writer.pipeline import Writer
from runstream.clickhouse import connect
from runstream.roles.storage import writing
from runstream.process.http import stop_on_signals
from support.metadata import writers_tables
from support.memory_queue import MemoryConsumer, MemoryQueue

async def main(url, metadata, payload):
    stop, queue = stop_on_signals(), MemoryQueue()
    queue.append(0, bytes.fromhex(payload))
    writer = Writer(
        MemoryConsumer(queue), connect(url), open_latest(metadata), WriterConfig(linger_s=0.01, max_linger_s=0.01)
    )
    async with writing(writer, stop, 0.5, drain=False):
        await stop.wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_does_not_wait_for_a_statement_that_hangs(place: Place) -> None:
    place.server.faults(Fault("none", "INSERT INTO metrics", delay_s=60))
    before = len(place.server.statements())
    payload = record([("r0", "k", 1, 7, 0.5)], created_at_ms=7).hex()
    command = [sys.executable, "-c", STOPPING, place.url, f"sqlite:///{place.metadata}", payload]
    paths = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "tests"))
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": paths})
    try:
        await until(
            lambda: any("INSERT INTO metrics" in one["sql"] for one in place.server.statements()[before:])
        )
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def test_replays_change_nothing_for_readers(place: Place) -> None:
    for _ in range(5):
        place.log()
    for _ in range(3):
        async with place.writer() as writer:
            assert await writer.flush_until(place.queue.ends(), 30)
        place.queue.committed.clear()
    found = place.database.arrow("SELECT count() AS n FROM metrics FINAL").to_pydict()
    assert found == {"n": [len(place.rows)]}
    assert place.latest() == place.newest()


async def test_with_the_local_log(place: Place, tmp_path: Path) -> None:
    producer = LocalLogProducer(tmp_path / "log")
    await producer.start()
    consumer = LocalLogConsumer(tmp_path / "log")
    async with place.writer(PATIENT, consumer) as writer:
        assert await writer.flush_until({}, 30)  # started, so that the consumer can be asked
        for number in range(50):
            new = [("r0", "k", next(_numbers), 7, number / 3) for _ in range(20)]
            place.rows += new
            await producer.append(producer.stream, record(new))
            if number % 10 == 0:
                await producer.append(producer.stream, b"garbage")
            if number % 5 == 0:
                assert await writer.flush_until(await consumer.end_offsets(), 30)
                assert len(await asyncio.to_thread(place.stored)) == len(place.rows)
        assert await writer.stop(30)
    await producer.close()
    assert place.stored() == sorted(place.rows)
    letters = read_dead_letters(tmp_path / "log")
    assert [letter.payload for letter in letters] == [b"garbage"] * 5
