"""Searches from the event loop: processes that search, and answers that are still true."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from runstream.ingest.control.processes.pool import SearchLimits, SearchProcesses, SearchUnavailableError

# As MLflow makes them, as far as searches of experiments see them.
TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, artifact_location TEXT, lifecycle_stage TEXT,
    creation_time BIGINT, last_update_time BIGINT, workspace TEXT);
CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER, PRIMARY KEY (key, experiment_id));
INSERT INTO experiments VALUES (1, 'one', 'a', 'active', 1, 2, 'default');
"""
ROUTE = "experiments/search"
BODY = json.dumps({"max_results": 5}).encode()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    return path


@pytest.fixture
async def workers(database: Path) -> AsyncIterator[SearchProcesses]:
    found = SearchProcesses(f"sqlite:///{database}", SearchLimits(processes=1, timeout_s=60))
    yield found
    await found.close()


def change(database: Path, name: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE experiments SET name = ?", (name,))
        connection.commit()


async def test_an_answer_is_what_the_database_says_now(workers: SearchProcesses, database: Path) -> None:
    for name in ("one", "two", "three"):
        change(database, name)
        for _ in range(3):
            found = await workers.answer(ROUTE, BODY)
            assert found is not None
            assert json.loads(found)["experiments"][0]["name"] == name


async def test_what_is_unusual_is_left_to_mlflow(workers: SearchProcesses) -> None:
    for body in (b"{", b"{}", b'{"max_results": 0}', b'{"max_results": 5, "filter": "x ~ 1"}', b"[]"):
        assert await workers.answer(ROUTE, body) is None
    assert await workers.answer("traces/search", BODY) is None
    assert await workers.answer(ROUTE, BODY) is not None


async def test_a_process_that_ends_is_replaced(workers: SearchProcesses) -> None:
    assert await workers.answer(ROUTE, BODY) is not None
    [process] = [
        child
        for child in psutil.Process().children()
        if "runstream.ingest.control.processes.program" in child.cmdline()
    ]
    process.kill()
    process.wait(30)
    with contextlib.suppress(SearchUnavailableError):
        await workers.answer(ROUTE, BODY)
    assert await workers.answer(ROUTE, BODY) is not None


async def test_processes_end_with_their_owner(database: Path) -> None:
    workers = SearchProcesses(f"sqlite:///{database}")
    assert await workers.answer(ROUTE, BODY) is not None
    before = psutil.Process().children()
    await workers.close()
    _, alive = psutil.wait_procs(before, timeout=30)
    assert not [child for child in alive if "runstream.ingest.control.processes.program" in child.cmdline()]


async def test_no_database(tmp_path: Path) -> None:
    workers = SearchProcesses(f"sqlite:///{tmp_path / 'none.db'}", SearchLimits(processes=1))
    with pytest.raises(SearchUnavailableError):
        await workers.answer(ROUTE, BODY)
    await workers.close()
