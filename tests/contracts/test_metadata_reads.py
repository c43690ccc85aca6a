"""The contract of ``ReadPool``, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from runstream.ingest.control.database.opening import open_reads
from runstream.ingest.control.database.reads import MetadataUnavailableError, ReadPool
from runstream.schemas.errors import ConfigError
from support.postgres import Postgres, postgres_server


@pytest.fixture(scope="module")
def postgres():  # type: ignore[no-untyped-def]
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[ReadPool, sa.Engine]]:
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path}/a folder/m.db"
        (tmp_path / "a folder").mkdir()
    else:
        server: Postgres = request.getfixturevalue("postgres")
        uri = server.create_database(tmp_path.name.replace("-", "_"))
    engine = sa.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (a BIGINT, b VARCHAR(100))"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 'x%?'), (2, 'é'), (3, NULL)"))
    reads = await open_reads(uri, max_connections=2)
    yield reads, engine
    await reads.close()
    engine.dispose()


async def test_rows_with_parameters(pool: tuple[ReadPool, sa.Engine]) -> None:
    reads, _ = pool
    assert await reads.rows("SELECT a, b FROM t WHERE a >= ? ORDER BY a", [2]) == [(2, "é"), (3, None)]
    assert await reads.rows("SELECT a FROM t WHERE b = ?", ["x%?"]) == [(1,)]


async def test_sees_what_was_committed_before(pool: tuple[ReadPool, sa.Engine]) -> None:
    reads, engine = pool
    for number in range(5):
        with engine.begin() as connection:
            connection.execute(sa.text(f"INSERT INTO t VALUES (9, '{number}')"))
        assert await reads.rows("SELECT count(*) FROM t WHERE a = ?", [9]) == [(number + 1,)]


async def test_more_reads_than_connections(pool: tuple[ReadPool, sa.Engine]) -> None:
    reads, _ = pool
    found = await asyncio.gather(*(reads.rows("SELECT a FROM t WHERE a = ?", [1]) for _ in range(20)))
    assert found == [[(1,)]] * 20


async def test_a_read_that_is_given_up_harms_no_other(pool: tuple[ReadPool, sa.Engine]) -> None:
    reads, _ = pool
    for _ in range(5):
        given_up = asyncio.create_task(reads.rows("SELECT a, b FROM t ORDER BY a"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await reads.rows("SELECT b FROM t WHERE a = ?", [2]) == [("é",)]


async def test_a_database_that_is_away() -> None:
    reads = await open_reads("postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(MetadataUnavailableError):
        await reads.rows("SELECT 1")
    await reads.close()
    with pytest.raises(ConfigError):
        await open_reads("mysql://x/y")
