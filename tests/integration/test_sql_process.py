"""Users' SQL in a process of its own: what it sees, and that whatever it does harms nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import requests

from runstream.query.http.workers import BusyError
from runstream.query.service import QueryConfig
from runstream.roles.sql_process import SqlProcess
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.statements import Statement
from support.clickhouse_engine import insert_points, shared_database
from support.query_server import TOKEN, query_server

# One block of work, which ClickHouse looks at no clock in: minutes.
ENDLESS = "select hasAll(arrayReverse(range(900000)), range(900000)) as x"
COUNT = "select count() as n, uniqExact(step) as steps from metrics where run_id = {run:String}"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[SqlProcess]:
    made = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=30, grace_s=60)
    yield made
    await made.close()
    assert not list(tmp_path.glob("sql/*")), "it leaves no links behind"


async def ask(process: SqlProcess, query: str, **parameters: Any) -> Any:
    statement = Statement(query=query, parameters=parameters, format="json")
    return orjson.loads(await process.answer(statement))


async def test_it_sees_what_was_there_before_it_was_asked(process: SqlProcess) -> None:
    run = uuid.uuid4().hex
    assert await ask(process, COUNT, run=run) == [{"n": 0, "steps": 0}]
    first = process.pid
    for last in range(1, 6):
        insert_points(shared_database(), run, "k", [(step, step, 0.5) for step in range(last)])
        assert await ask(process, COUNT, run=run) == [{"n": last, "steps": last}]
    assert process.pid == first


async def test_it_follows_merges_and_deletions(process: SqlProcess) -> None:
    database = shared_database()
    run, other = uuid.uuid4().hex, uuid.uuid4().hex
    for _ in range(3):
        insert_points(database, run, "k", [(step, step, 0.5) for step in range(100)])
    insert_points(database, other, "k", [(0, 0, 0.5)])
    assert await ask(process, COUNT, run=run) == [{"n": 100, "steps": 100}]
    database.execute("SYSTEM START MERGES metrics")
    try:
        database.execute("OPTIMIZE TABLE metrics FINAL")
        assert await ask(process, COUNT, run=run) == [{"n": 100, "steps": 100}]
        database.execute("DELETE FROM metrics WHERE run_id = {run:String}", {"run": run})
    finally:
        database.execute("SYSTEM STOP MERGES metrics")
    assert await ask(process, COUNT, run=run) == [{"n": 0, "steps": 0}]
    assert await ask(process, COUNT, run=other) == [{"n": 1, "steps": 1}]


async def test_a_caller_that_leaves_ends_its_statement_and_the_next_one_is_answered(
    process: SqlProcess,
) -> None:
    run = uuid.uuid4().hex
    insert_points(shared_database(), run, "k", [(0, 0, 0.5)])
    await ask(process, COUNT, run=run)
    pid = process.pid
    assert pid is not None
    asking = asyncio.create_task(ask(process, ENDLESS))
    before = sum(psutil.Process(pid).cpu_times()[:2])
    await eventually(lambda: sum(psutil.Process(pid).cpu_times()[:2]) > before + 0.3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await ask(process, COUNT, run=run) == [{"n": 1, "steps": 1}]
    await eventually(lambda: not psutil.pid_exists(pid))


async def test_what_no_clock_is_looked_at_in_is_ended(tmp_path: Path) -> None:
    process = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=1, grace_s=1)
    try:
        await started(process)
        with pytest.raises(MlflowError, match="longer than 1 s"):
            await ask(process, ENDLESS)
    finally:
        await process.close()


async def test_a_process_that_is_killed_says_so_and_another_takes_its_place(process: SqlProcess) -> None:
    await ask(process, COUNT, run="r")
    pid = process.pid
    assert pid is not None
    asking = asyncio.create_task(ask(process, ENDLESS))
    before = sum(psutil.Process(pid).cpu_times()[:2])
    await eventually(lambda: sum(psutil.Process(pid).cpu_times()[:2]) > before + 0.3)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MlflowError, match="was ended"):
        await asking
    assert await ask(process, COUNT, run="r") == [{"n": 0, "steps": 0}]


async def test_few_wait(tmp_path: Path) -> None:
    process = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=30, grace_s=60, max_waiting=1)
    try:
        busy = [asyncio.create_task(ask(process, ENDLESS)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await ask(process, COUNT, run="r")
        for task in busy:
            task.cancel()
        await asyncio.wait(busy)
    finally:
        await process.close()


async def test_an_idle_process_ends_and_leaves_no_link(tmp_path: Path) -> None:
    process = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=30, grace_s=60, idle_s=0.05)
    try:
        await ask(process, COUNT, run="r")
        await eventually(lambda: process.pid is None and not list((tmp_path / "sql").iterdir()))
    finally:
        await process.close()


def test_nobody_who_has_left_holds_up_a_history(tmp_path: Path) -> None:
    run = uuid.uuid4().hex
    insert_points(shared_database(), run, "k", [(0, 0, 0.5)])
    apart = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=30, grace_s=60)
    with query_server(statements=apart) as url:
        for _ in range(6):
            with pytest.raises(requests.Timeout):
                requests.post(f"{url}/api/1.0/runstream/sql", json={"query": ENDLESS}, timeout=0.3)
        history = {"run_id": run, "metric_key": "k"}
        answer = requests.get(f"{url}/api/2.0/mlflow/metrics/get-history", params=history, timeout=60)
        assert len(answer.json()["metrics"]) == 1
        body = {"query": COUNT, "parameters": {"run": run}}
        sql = requests.post(
            f"{url}/api/1.0/runstream/sql", json=body, headers={"Accept": "application/json"}, timeout=120
        )
        assert sql.json() == [{"n": 1, "steps": 1}]


def test_it_can_be_switched_off() -> None:
    with query_server(config=QueryConfig(internal_token=TOKEN, sql=False)) as url:
        answer = requests.post(f"{url}/api/1.0/runstream/sql", json={"query": "select 1"}, timeout=30)
    assert answer.status_code == 403
    assert "RUNSTREAM_SQL" in answer.json()["message"]


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def started(process: SqlProcess) -> None:
    """Starting takes longer than a short statement may on a loaded machine."""
    for _ in range(20):
        try:
            await ask(process, "select 1 as one")
        except MlflowError:
            continue
        return
