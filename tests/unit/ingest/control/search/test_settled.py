"""SQLite: which runs stand beside MLflow's tables as they are is known, whoever changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstream.ingest.control.search import settled
from runstream.ingest.control.search.grammar import Kind
from runstream.ingest.control.search.sql import SETTLED, UNFILLED, UNSETTLED

# As MLflow makes them, as far as it matters here.
TABLES = """
CREATE TABLE alembic_version (version_num TEXT);
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, status TEXT, experiment_id INTEGER, lifecycle_stage TEXT,
    start_time BIGINT);
CREATE TABLE latest_metrics (key TEXT, value FLOAT NOT NULL, timestamp BIGINT, step BIGINT, is_nan BOOLEAN,
    run_uuid TEXT, PRIMARY KEY (key, run_uuid));
CREATE TABLE params (key TEXT, value TEXT NOT NULL, run_uuid TEXT, PRIMARY KEY (key, run_uuid));
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid));
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    connection.executescript(TABLES)
    yield connection
    connection.close()


def run(database: sqlite3.Connection, name: str, *, status: str = "FINISHED", loss: float = 0.5) -> None:
    database.execute("INSERT INTO runs VALUES (?, ?, 1, 'active', 5)", (name, status))
    database.execute("INSERT INTO latest_metrics VALUES ('loss', ?, 1, 1, 0, ?)", (loss, name))
    database.execute("INSERT INTO params VALUES ('lr', ?, ?)", ("x" * 100, name))
    database.execute("INSERT INTO tags VALUES ('team', NULL, ?)", (name,))


def unsettled(database: sqlite3.Connection) -> set[str]:
    return {row[0] for row in database.execute(f"SELECT run_uuid FROM {UNSETTLED}")}


def values(database: sqlite3.Connection) -> list[tuple[str, float]]:
    return database.execute(f"SELECT run_uuid, value FROM {SETTLED[Kind.METRIC]} ORDER BY 1, 2").fetchall()


def work(database: sqlite3.Connection) -> None:
    """Everything that is due, as if some time had passed."""
    database.execute(f"UPDATE {UNSETTLED} SET since = since - 100")
    settler = settled.Settler(database)
    while settler.work():
        pass


def test_no_tables_yet(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "empty.db", isolation_level=None)
    assert not settled.make(connection)
    connection.close()


def test_what_was_there_is_copied(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "_MOST_ROWS", 2)
    for number in range(5):
        run(database, f"r{number}", loss=number / 10)
    assert settled.make(database)
    assert not unsettled(database)
    assert database.execute(f"SELECT count(*) FROM {UNFILLED}").fetchone() == (3,)
    database.execute("UPDATE latest_metrics SET value = 9 WHERE run_uuid = 'r3'")
    work(database)
    assert database.execute(f"SELECT count(*) FROM {UNFILLED}").fetchone() == (0,)
    assert ("r2", 0.2) in values(database)
    assert ("r3", 9.0) in values(database)
    [(longest,)] = database.execute(f"SELECT DISTINCT length(value) FROM {SETTLED[Kind.PARAM]}")
    assert longest == 64


CHANGES = [
    "INSERT INTO latest_metrics VALUES ('acc', 1, 1, 1, 0, 'r')",
    "INSERT INTO latest_metrics VALUES ('loss', 1, 1, 1, 0, 'r') ON CONFLICT DO UPDATE SET value = excluded.value",
    "INSERT OR REPLACE INTO latest_metrics VALUES ('loss', 2, 1, 1, 0, 'r')",
    "INSERT OR IGNORE INTO params VALUES ('other', 'x', 'r')",
    "UPDATE latest_metrics SET is_nan = 1 WHERE run_uuid = 'r'",
    "DELETE FROM latest_metrics WHERE run_uuid = 'r'",
    "UPDATE tags SET value = 'x' WHERE run_uuid = 'r'",
    "DELETE FROM params WHERE run_uuid = 'r'",
]


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_changes_a_run_it_is_unsettled(database: sqlite3.Connection, change: str) -> None:
    run(database, "r")
    run(database, "other")
    assert settled.make(database)
    work(database)
    assert not unsettled(database)
    database.execute(change)
    assert unsettled(database) == {"r"}
    work(database)
    assert not unsettled(database)
    now = {tuple(row) for row in database.execute("SELECT run_uuid, value FROM latest_metrics")}
    assert now <= set(values(database))


def test_a_change_that_is_undone_changes_nothing(database: sqlite3.Connection) -> None:
    run(database, "r")
    assert settled.make(database)
    work(database)
    database.execute("BEGIN")
    database.execute(CHANGES[0])
    database.execute("ROLLBACK")
    assert not unsettled(database)


def test_a_run_that_goes_on_is_left_alone(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settled.make(database)
    run(database, "r", status="RUNNING")
    work(database)
    assert unsettled(database) == {"r"}
    monkeypatch.setattr(settled, "_MANY", 0)
    monkeypatch.setattr(settled, "_LONG_S", 10)
    work(database)
    assert not unsettled(database)


def test_a_migration_that_rebuilds_a_table_is_noticed(database: sqlite3.Connection) -> None:
    run(database, "r")
    assert settled.make(database)
    work(database)
    # As alembic does it on SQLite.
    database.executescript(
        """
        CREATE TABLE _alembic_tmp_params (key TEXT, value TEXT, run_uuid TEXT, more TEXT, PRIMARY KEY (key, run_uuid));
        INSERT INTO _alembic_tmp_params SELECT key, value, run_uuid, NULL FROM params;
        DROP TABLE params;
        ALTER TABLE _alembic_tmp_params RENAME TO params;
        """
    )
    assert not settled.is_made(database)
    assert settled.Settler(database).work() == 0
    database.execute("UPDATE params SET value = 'new'")
    assert settled.make(database)
    assert settled.is_made(database)
    work(database)
    assert database.execute(f"SELECT value FROM {SETTLED[Kind.PARAM]}").fetchall() == [("new",)]


def test_it_may_be_dropped(database: sqlite3.Connection) -> None:
    assert settled.make(database)
    settled.drop(database)
    assert database.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'runstream%'").fetchone() == (
        0,
    )
    run(database, "r")
