"""Live points where the table has no parts to look at, as on a cluster."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from runstream.query.http.workers import Workers
from runstream.query.live.hub import Hub
from runstream.query.live.polled_feed import PolledFeed
from runstream.query.points.distributed import DistributedTable
from runstream.schemas.ports.database import DatabaseError
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import Fresh


async def test_new_points_are_found_without_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # The embedded engine knows no clusters: the table only says that it is a Distributed one.
    behind = DistributedTable("main", "runstream", "metrics_local")
    monkeypatch.setattr("runstream.query.live.polled_feed.distributed_table", lambda _: behind)
    monkeypatch.setattr("runstream.query.live.polled_feed.active_parts", lambda _: [])
    database, run, now = shared_database(), uuid.uuid4().hex, int(time.time() * 1000)
    hub, workers = Hub(), Workers(threads=1, max_waiting=8, timeout_s=30)
    insert_points(database, run, "k", [(-1, now, 1.0)])
    listener = hub.listen([run])
    assert listener is not None
    feeding = asyncio.create_task(PolledFeed(database, workers, Fresh(), hub, interval_s=0.01).run())
    found: list[int] = []
    try:
        deadline = time.monotonic() + 30
        step = 0
        # What was inserted before the first round is old; when that was, only its consequence shows.
        while not found and time.monotonic() < deadline:
            insert_points(database, run, "k", [(step, now, 1.0), (step, now, float("nan"))])
            step += 1
            found = [s for event in await listener.take(0.2) for s in event.steps]
        insert_points(database, run, "k", [(1_000, now, 1.0)])
        while 1_000 not in found and time.monotonic() < deadline:
            found += [s for event in await listener.take(1) for s in event.steps]
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await workers.close()
    assert found.count(1_000) == 1
    assert -1 not in found
    assert all(found.count(s) == 2 for s in found if s != 1_000)


@pytest.mark.parametrize("distributed", [False, True])
async def test_whoever_listens_misses_nothing(distributed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is listened to for the first time, while others are: its first point after ``watched`` arrives."""
    behind = DistributedTable("main", "runstream", "metrics_local") if distributed else None
    monkeypatch.setattr("runstream.query.live.polled_feed.distributed_table", lambda _: behind)
    database, now = shared_database(), int(time.time() * 1000)
    hub, workers = Hub(looked_for=True), Workers(threads=1, max_waiting=8, timeout_s=30)
    feeding = asyncio.create_task(PolledFeed(database, workers, Fresh(), hub, interval_s=0.01).run())
    try:
        for _ in range(10):
            run = uuid.uuid4().hex
            insert_points(database, run, "k", [(-1, now, 1.0)])
            listener = hub.listen([run])
            assert listener is not None
            assert await hub.watched([run], 30)
            insert_points(database, run, "k", [(7, now, 1.0)])
            steps: list[int] = []
            async with asyncio.timeout(30):
                while 7 not in steps:
                    steps += [step for event in await listener.take(1) for step in event.steps]
            assert steps.count(7) == 1
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await workers.close()


async def test_a_look_that_fails_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    database, run, now = shared_database(), uuid.uuid4().hex, int(time.time() * 1000)
    monkeypatch.setattr("runstream.query.live.polled_feed.distributed_table", lambda _: None)
    hub, workers = Hub(looked_for=True), Workers(threads=1, max_waiting=8, timeout_s=30)
    listener = hub.listen([run])
    assert listener is not None
    arrow, failures = database.arrow, [0]

    def flaky(sql: str, *more: Any) -> Any:
        if "_part NOT IN" in sql and failures[0] < 3:
            failures[0] += 1
            raise DatabaseError("away", retryable=True)
        return arrow(sql, *more)

    feeding = asyncio.create_task(PolledFeed(database, workers, Fresh(), hub, interval_s=0.01).run())
    try:
        assert await hub.watched([run], 30)
        monkeypatch.setattr(database, "arrow", flaky)
        insert_points(database, run, "k", [(7, now, 1.0)])
        async with asyncio.timeout(30):
            steps = [step for event in await listener.take(30) for step in event.steps]
        assert failures == [3]
        assert steps == [7]
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await workers.close()
