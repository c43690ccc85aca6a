"""SQLite: what searches are ordered by, kept beside MLflow's tables and brought up to date a little later.

An index of ``latest_metrics`` by value would do, but every new value of every metric of a running training would then
change two pages anywhere in the file: measured, upserts take seven times as long. So values stand in tables beside
(``runstream_values``, ``runstream_params``, ``runstream_tags``), and a run's are put there once it has ended. Which
runs are not there as they are now is known exactly: triggers on MLflow's tables put every run that anybody changes,
MLflow itself too, into ``runstream_unsettled``, in the same transaction. Searches look at those themselves. What stands
beside is only ever a hint where to look: it is compared with MLflow's tables, so old entries do no harm.

Triggers and tables are made in one transaction, with MLflow's tables marked as unfilled. What is there already is then
sorted outside of the database's file, and copied in that order, in short transactions; searches scan until that is
done. As long as the triggers are there, nothing was missed: a run that has changed since is unsettled, the others were
copied. If a migration rebuilds one of MLflow's tables, its triggers are gone: searches scan, and all of this is made
again. It may be dropped at any time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from runstream.ingest.control.search.grammar import Kind
from runstream.ingest.control.search.sql import INDEXED_CHARACTERS, SETTLED, UNFILLED, UNSETTLED

PREFIX: Final = "runstream_"
# A run that goes on is settled as well when it has been unsettled for this long and there are many.
_LONG_S: Final = 600
_MANY: Final = 1_000
# A run that has just ended may still get its last values.
_QUIET_S: Final = 2
# Whoever copies a table says so at least this often.
_CLAIM_S: Final = 600
# A transaction of ours should hold up others no longer than this.
_HOLD_S: Final = 0.25
_MOST_RUNS: Final = 5_000
_MOST_ROWS: Final = 1_000_000

_WATCHED: Final = ("latest_metrics", "params", "tags")
_EVENTS: Final = {"INSERT": "new", "UPDATE": "new", "DELETE": "old"}
_INDEXES: Final = {
    f"{PREFIX}runs_place": "runs (run_uuid, experiment_id, lifecycle_stage, start_time)",
    f"{PREFIX}runs_start": "runs (experiment_id, lifecycle_stage, start_time, run_uuid)",
}
_TEXTS: Final = {Kind.PARAM: "params", Kind.TAG: "tags"}


def _statements() -> dict[str, str]:
    """What makes each thing, by its name, in order."""
    makers = {name: f"CREATE INDEX {name} ON {what}" for name, what in _INDEXES.items()}
    makers[SETTLED[Kind.METRIC]] = (
        f"CREATE TABLE {SETTLED[Kind.METRIC]} (key TEXT, is_nan INTEGER, value REAL, run_uuid TEXT,"
        " PRIMARY KEY (key, is_nan, value, run_uuid)) WITHOUT ROWID"
    )
    for kind in _TEXTS:
        makers[SETTLED[kind]] = (
            f"CREATE TABLE {SETTLED[kind]} (key TEXT, value TEXT, run_uuid TEXT,"
            " PRIMARY KEY (key, value, run_uuid)) WITHOUT ROWID"
        )
    makers[UNFILLED] = f"CREATE TABLE {UNFILLED} (source TEXT PRIMARY KEY, claimed INTEGER)"
    makers[UNSETTLED] = f"CREATE TABLE {UNSETTLED} (run_uuid TEXT PRIMARY KEY, since INTEGER) WITHOUT ROWID"
    for table in _WATCHED:
        for event, row in _EVENTS.items():
            name = f"{PREFIX}{table}_{event.lower()}"
            # Not INSERT OR IGNORE: inside a trigger, what began it decides about conflicts.
            makers[name] = (
                f"CREATE TRIGGER {name} AFTER {event} ON {table}"
                f" WHEN NOT EXISTS (SELECT 1 FROM {UNSETTLED} WHERE run_uuid = {row}.run_uuid)"
                f" BEGIN INSERT INTO {UNSETTLED}"
                f" VALUES ({row}.run_uuid, CAST(strftime('%s', 'now') AS INTEGER)); END"
            )
    return makers


NAMES: Final = frozenset(_statements())


def is_made(connection: sqlite3.Connection) -> bool:
    """Whether all of it is there."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'runstream%'")
    return {row[0] for row in found} >= NAMES


def make(connection: sqlite3.Connection) -> bool:
    """Make it anew, with nothing filled; ``False`` if MLflow's tables are not there yet."""
    with writing(connection):
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables >= {"alembic_version", "runs", *_WATCHED}:
            return False
        if is_made(connection):
            return True
        drop(connection)
        for statement in _statements().values():
            connection.execute(statement)
        connection.executemany(f"INSERT INTO {UNFILLED} VALUES (?, 0)", [(table,) for table in _WATCHED])
    return True


def drop(connection: sqlite3.Connection) -> None:
    """Take it all away."""
    found = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE name LIKE 'runstream%' AND type IN ('trigger', 'index', 'table')"
        " ORDER BY CASE type WHEN 'trigger' THEN 0 WHEN 'index' THEN 1 ELSE 2 END"
    ).fetchall()
    for kind, name in found:
        if name in NAMES:
            connection.execute(f"DROP {kind} {name}")


_VALUE: Final = f"substr(value, 1, {INDEXED_CHARACTERS})"
# By the table of MLflow's: the table beside it, and the columns of that.
_COPIES: Final = {
    "latest_metrics": (SETTLED[Kind.METRIC], "key, is_nan, value, run_uuid"),
    "params": (SETTLED[Kind.PARAM], f"key, {_VALUE}, run_uuid"),
    "tags": (SETTLED[Kind.TAG], f"key, {_VALUE}, run_uuid"),
}


class _Pace:
    """How much fits into a transaction that holds others up for ``_HOLD_S``."""

    def __init__(self, begin: int, most: int) -> None:
        self.size = begin
        self._most = most

    def took(self, done: int, seconds: float) -> None:
        """Learn from one."""
        if done >= self.size:
            factor = min(2.0, _HOLD_S / max(seconds, 0.001))
            self.size = int(min(self._most, max(1, self.size * factor)))


class Settler:
    """Brings the tables beside up to date, in short transactions. ``connection`` may write."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._runs = _Pace(20, _MOST_RUNS)
        self._rows = _Pace(5_000, _MOST_ROWS)
        self._filling = self._fill()

    def work(self) -> int:
        """Do some of what is to be done; how much it was, 0 for nothing. Blocks, for longer before the first copy."""
        done = next(self._filling, 0)
        if not done:
            self._filling = self._fill()
            done = next(self._filling, 0)
        return done or self._settle()

    def _fill(self) -> Iterator[int]:
        """Copy one of MLflow's tables, if there is one to copy that nobody else is at; yields after each part."""
        execute = self._connection.execute
        if not execute(f"SELECT 1 FROM {UNFILLED} WHERE claimed < ?", (self._long_ago(),)).fetchone():
            return
        with writing(self._connection):
            claim = f"UPDATE {UNFILLED} SET claimed = ? WHERE claimed < ? AND source = (SELECT source FROM {UNFILLED}"
            claim += " WHERE claimed < ? LIMIT 1) RETURNING source"
            row = execute(claim, (int(time.time()), self._long_ago(), self._long_ago())).fetchone()
        if row is None:
            return
        source: str = row[0]
        target, columns = _COPIES[source]
        execute("ATTACH '' AS sorting")  # a file of its own, without a name
        try:
            # Readers hold up nobody. By an index of its, the table would be read all over the place.
            execute(
                f"CREATE TABLE sorting.rows AS SELECT {columns} FROM main.{source} NOT INDEXED"
                f" WHERE value IS NOT NULL ORDER BY {columns}"
            )
            yield 1
            after, last = 0, execute("SELECT coalesce(max(rowid), 0) FROM sorting.rows").fetchone()[0]
            while after < last:
                size = self._rows.size
                begun = time.monotonic()
                with writing(self._connection):
                    if not is_made(self._connection):
                        return
                    execute(
                        f"INSERT OR IGNORE INTO {target} SELECT * FROM sorting.rows WHERE rowid > ? AND rowid <= ?",
                        (after, after + size),
                    )
                    execute(f"UPDATE {UNFILLED} SET claimed = ? WHERE source = ?", (int(time.time()), source))
                self._rows.took(size, time.monotonic() - begun)
                after += size
                yield size
            execute(f"DELETE FROM {UNFILLED} WHERE source = ?", (source,))
            yield 1
        finally:
            execute("DETACH sorting")

    @staticmethod
    def _long_ago() -> int:
        return int(time.time()) - _CLAIM_S

    def _settle(self) -> int:
        if not self._due(1):
            return 0
        begun = time.monotonic()
        with writing(self._connection):
            if not is_made(self._connection):
                return 0
            due = self._due(self._runs.size)
            runs = json.dumps(due)
            these = "run_uuid IN (SELECT value FROM json_each(?))"
            for source, (target, columns) in _COPIES.items():
                self._connection.execute(
                    f"INSERT OR IGNORE INTO {target} SELECT {columns} FROM {source}"
                    f" WHERE {these} AND value IS NOT NULL ORDER BY 1, 2, 3",
                    (runs,),
                )
            self._connection.execute(f"DELETE FROM {UNSETTLED} WHERE {these}", (runs,))
        self._runs.took(len(due), time.monotonic() - begun)
        return len(due)

    def _due(self, limit: int) -> list[str]:
        now = int(time.time())
        query = (
            f"SELECT u.run_uuid FROM {UNSETTLED} u LEFT JOIN runs r ON r.run_uuid = u.run_uuid WHERE u.since < ?"
            f" AND (r.status IS NOT 'RUNNING' OR (u.since < ? AND (SELECT count(*) FROM {UNSETTLED}) > ?)) LIMIT ?"
        )
        found = self._connection.execute(query, (now - _QUIET_S + 1, now - _LONG_S, _MANY, limit))
        return [row[0] for row in found]


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that may write from its beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
