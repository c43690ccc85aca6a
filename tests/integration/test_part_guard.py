"""A merged part without its content is replaced by what it was merged from."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream.clickhouse.part_guard import PartGuard
from runstream.schemas.ports.database import Database, DatabaseError
from support.clickhouse_engine import shared_database


@pytest.fixture
def table() -> Iterator[str]:
    name = f"guarded_{uuid.uuid4().hex}"
    database = shared_database()
    database.execute(f"CREATE TABLE {name} (n Int64, text String) ENGINE = ReplacingMergeTree ORDER BY n")
    # Only what a test asks for is merged.
    database.execute(f"SYSTEM STOP MERGES {name}")
    yield name
    database.execute(f"DROP TABLE {name}")


def insert(table: str, first: int, rows: int = 1000) -> None:
    shared_database().execute(
        f"INSERT INTO {table} SELECT number, repeat('x', 50) FROM numbers({first}, {rows})"
    )


def merge(table: str) -> Path:
    database = shared_database()
    database.execute(f"SYSTEM START MERGES {table}")
    database.execute(f"OPTIMIZE TABLE {table} FINAL")
    database.execute(f"SYSTEM STOP MERGES {table}")
    (path,) = active(database, table)
    return path


def active(database: Database, table: str) -> list[Path]:
    found = database.arrow(f"SELECT path FROM system.parts WHERE table = '{table}' AND active")
    return [Path(path) for path in found["path"].to_pylist()]


def content(table: str) -> Any:
    database = shared_database()
    # What was read before would be remembered.
    for cache in ("MARK CACHE", "UNCOMPRESSED CACHE", "PRIMARY INDEX CACHE"):
        database.execute(f"SYSTEM DROP {cache}")
    found = database.arrow(f"SELECT uniqExact(n) AS points, sum(n) AS total, max(text) AS text FROM {table}")
    return found.to_pylist()[0]


@pytest.mark.parametrize("left", ["nothing", "half"])
def test_what_a_merge_lost_comes_back(table: str, left: str) -> None:
    for part in range(4):
        insert(table, part * 500)
    guard = PartGuard(shared_database(), [table])
    before = content(table)
    path = merge(table)
    for file in path.iterdir():
        os.truncate(file, file.stat().st_size // 2 if left == "half" else 0)
    assert guard.check(table) == [path.name]
    assert content(table) == before
    assert path not in active(shared_database(), table)
    assert guard.check(table) == []


def test_whole_parts_are_left_alone(table: str) -> None:
    for part in range(3):
        insert(table, part * 500)
    guard = PartGuard(shared_database(), [table])
    path = merge(table)
    assert guard.check(table) == []
    assert active(shared_database(), table) == [path]


def test_what_cannot_come_back_is_said_once(table: str, caplog: pytest.LogCaptureFixture) -> None:
    shared_database().execute(f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = 0")
    for part in range(3):
        insert(table, part * 500)
    guard = PartGuard(shared_database(), [table])
    path = merge(table)
    for file in path.iterdir():
        os.truncate(file, 0)
    for other in path.parent.iterdir():
        if other != path and other.is_dir() and other.name.startswith("all_"):
            for file in other.iterdir():
                os.truncate(file, 0)
    for _ in range(2):
        assert guard.check(table) == []
    assert caplog.text.count("is gone") == 1
    with pytest.raises(DatabaseError):
        content(table)
