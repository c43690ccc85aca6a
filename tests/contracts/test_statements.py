"""What all that run users' SQL promise, in a process beside the embedded engine and in threads over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pyarrow.ipc
import pytest

from runstream.clickhouse import connect, create_database
from runstream.clickhouse.migrate import migrate
from runstream.query.http.workers import BusyError
from runstream.query.sql.threads import SqlThreads
from runstream.roles.sql_process import SqlProcess
from runstream.schemas.errors import MlflowError, RunstreamError
from runstream.schemas.migrations import Flavour
from runstream.schemas.ports.database import Database
from runstream.schemas.ports.statements import Statement, Statements
from support.chdb_http import chdb_server
from support.clickhouse_engine import insert_points, shared_database

COUNT = "select count() as n from metrics where run_id = {run:String}"
# Long, and looked at by the engine's clock: it ends when it is killed, or by its time.
SLOW = "select count() as n from numbers(200000000000) where sipHash64(number) = 1"


@dataclass
class Place:
    """Statements, and the engine that they read."""

    statements: Statements
    database: Database

    async def ask(self, query: str, format: str = "json", **parameters: Any) -> bytes:
        return await self.statements.answer(Statement(query=query, parameters=parameters, format=format))

    async def rows(self, query: str, **parameters: Any) -> Any:
        return orjson.loads(await self.ask(query, **parameters))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with chdb_server(tmp_path_factory.mktemp("chdb") / "data") as server:
        create_database(server.url)
        database = connect(server.url)
        migrate(database, Flavour())
        yield database
        database.close()


@pytest.fixture(params=["process", "threads"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made: Statements
    database: Database
    if request.param == "process":
        database = shared_database()
        made = SqlProcess(shared_database(), tmp_path / "sql", max_query_s=5, grace_s=5, max_waiting=1)
    else:
        database = request.getfixturevalue("served")
        made = SqlThreads(database, max_query_s=5, max_waiting=1)
    yield Place(made, database)
    await made.close()


async def test_every_point_that_was_there_before_the_call(place: Place) -> None:
    run = uuid.uuid4().hex
    assert await place.rows(COUNT, run=run) == [{"n": 0}]
    for last in range(1, 4):
        insert_points(place.database, run, "k", [(last, last, 0.5)])
        assert await place.rows(COUNT, run=run) == [{"n": last}]


async def test_formats(place: Place) -> None:
    run = uuid.uuid4().hex
    insert_points(place.database, run, "k", [(1, 2, float("nan"))])
    query = "select step, value from metrics where run_id = {run:String}"
    table = pyarrow.ipc.open_stream(BytesIO(await place.ask(query, "arrow", run=run))).read_all()
    assert table["step"].to_pylist() == [1]
    assert str(table["value"][0]) == "nan"
    assert b"NaN" in await place.ask(query, "csv", run=run)


@pytest.mark.parametrize(
    "query",
    [
        "selec 1",
        "select * from system.tables",
        "select * from url('http://127.0.0.1/', CSV, 'x String')",
        "drop table metrics",
        "select 1; select 2",
        "select nothing from metrics",
        "",
    ],
)
async def test_what_is_wrong_or_not_allowed_is_said_and_harms_nobody(place: Place, query: str) -> None:
    with pytest.raises(MlflowError):
        await place.ask(query)
    assert await place.rows("select 1 as n") == [{"n": 1}]


async def test_too_long_is_refused(place: Place) -> None:
    with pytest.raises(MlflowError):
        await place.ask(SLOW)
    assert await place.rows("select 1 as n") == [{"n": 1}]


async def test_few_wait_and_those_who_leave_make_room(place: Place) -> None:
    asked = [asyncio.create_task(place.ask(SLOW)) for _ in range(12)]
    done, busy = await asyncio.wait(asked, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    refused = [task.exception() for task in done]
    assert all(isinstance(error, RunstreamError) for error in refused), refused
    assert any(isinstance(error, RunstreamError) and error.retryable for error in refused)
    for task in busy:
        task.cancel()
    await asyncio.wait(asked)
    for _ in range(100):
        with suppress(BusyError):
            assert await place.rows("select 1 as n") == [{"n": 1}]
            return
        await asyncio.sleep(0.1)
    raise AssertionError("nobody who left has made room")
