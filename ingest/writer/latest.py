"""Keeps MLflow's own ``latest_metrics`` table: what ``get_run`` and ``search_runs`` read.

A row is replaced only by a strictly greater (step, timestamp, value), decided by the database in the
statement that writes, so that arrival order, replays and other writers (MLflow itself among them) do not
matter. Rows of runs that no longer exist are skipped: a run may be removed for good while its points are
under way.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Protocol

import sqlalchemy as sa

from runstream.ingest.writer.newest import LatestRows
from runstream.schemas.errors import ConfigError, RunstreamError

_BUSY_TIMEOUT_MS = 5_000
# Rows per SQLite statement: 40% less CPU than one row each, and far below SQLite's limit of 32,766 variables. Each
# statement also waits for Python's lock, for up to 5 ms beside a busy thread: many rows need few statements.
_ROWS = 100
_MANY_ROWS = 1000


class LatestUnavailableError(RunstreamError):
    """The metadata database did not take the rows: away, locked, or not migrated by MLflow yet."""

    retryable = True


class LatestValues(Protocol):
    """Where newest values go. Blocking; used by one thread at a time."""

    def upsert(self, rows: LatestRows) -> None:
        """Write what is newer than what is there, in one transaction; returns when it is durable.

        Raises ``LatestUnavailableError``; repeating it is harmless.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def open_latest(uri: str) -> LatestValues:
    """For MLflow's backend store URI: SQLite or PostgreSQL. Connects at the first upsert. Raises ``ConfigError``."""
    try:
        url = sa.make_url(uri)
        dialect = url.get_backend_name()
        options: dict[str, Any] = {}
        if dialect != "sqlite":
            options = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True, "pool_recycle": 1800}
        engine = sa.create_engine(url, **options)
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"the metadata URI cannot be used: {error}") from error
    if dialect == "sqlite":
        return _EngineLatestValues(engine, SqliteUpsert(engine))
    if dialect == "postgresql":
        return _EngineLatestValues(engine, PostgresUpsert())
    engine.dispose()
    raise ConfigError(f"the metadata database must be SQLite or PostgreSQL, not {dialect}")


class Upsert(Protocol):
    """One database's way to do it, inside a transaction that the caller opens and commits."""

    def run(self, connection: sa.Connection, rows: LatestRows) -> None:
        """Write these rows where they are newer. Blocks; raises SQLAlchemy's errors."""


class _EngineLatestValues:
    def __init__(self, engine: sa.Engine, upsert: Upsert) -> None:
        self._engine = engine
        self._upsert = upsert

    def upsert(self, rows: LatestRows) -> None:
        if not len(rows):
            return
        try:
            with self._engine.begin() as connection:
                self._upsert.run(connection, rows)
        except sa.exc.SQLAlchemyError as error:
            # The cause alone: SQLAlchemy's own text repeats the statement and its parameters.
            cause = getattr(error, "orig", None) or error
            raise LatestUnavailableError(" ".join(str(cause).split())[:300]) from error

    def close(self) -> None:
        self._engine.dispose()


class SqliteUpsert:
    """SQLite: short write transactions, many rows a statement, readers never blocked (WAL)."""

    _SQL = """
        INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES {values}
        ON CONFLICT (key, run_uuid) DO UPDATE SET
            value = excluded.value, timestamp = excluded.timestamp,
            step = excluded.step, is_nan = excluded.is_nan
        WHERE (excluded.step, excluded.timestamp, excluded.value)
            > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)
    """

    def __init__(self, engine: sa.Engine) -> None:
        row = "(?, ?, ?, ?, ?, ?)"
        self._statements = {
            size: self._SQL.format(values=", ".join([row] * size)) for size in (_MANY_ROWS, _ROWS, 1)
        }
        sa.event.listen(engine, "connect", self._configure)
        sa.event.listen(engine, "begin", self._begin)

    def run(self, connection: sa.Connection, rows: LatestRows) -> None:
        """See ``Upsert.run``."""
        known = self._known_runs(connection, set(rows.runs))
        columns = zip(
            rows.keys, rows.values, rows.timestamps, rows.steps, rows.is_nan, rows.runs, strict=True
        )
        found = [row for row in columns if row[5] in known]
        at = 0
        for size, statement in self._statements.items():
            groups = range(at, at + (len(found) - at) // size * size, size)
            if groups:
                connection.exec_driver_sql(
                    statement, [tuple(chain.from_iterable(found[first : first + size])) for first in groups]
                )
                at = groups.stop

    @staticmethod
    def _known_runs(connection: sa.Connection, runs: set[str]) -> set[str]:
        known: set[str] = set()
        names = sorted(runs)
        for at in range(0, len(names), _ROWS):
            part = tuple(names[at : at + _ROWS])
            query = f"SELECT run_uuid FROM runs WHERE run_uuid IN ({', '.join('?' * len(part))})"
            known.update(connection.exec_driver_sql(query, part).scalars())
        return known

    @staticmethod
    def _configure(dbapi_connection: Any, _record: Any) -> None:
        # Transactions are begun below, not by the driver, which would begin them for reading.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # Offsets are committed after the rows, so the rows must be on disk, not only in the WAL's cache.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @staticmethod
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class PostgresUpsert:
    """PostgreSQL: one statement, whose rows are locked in one order for all writers: no deadlocks."""

    _SQL = """
        INSERT INTO latest_metrics AS stored (key, value, timestamp, step, is_nan, run_uuid)
        SELECT new.key, new.value, new.timestamp, new.step, new.is_nan, new.run_uuid
        FROM unnest(
            %(keys)s::text[], %(values)s::float8[], %(timestamps)s::int8[], %(steps)s::int8[],
            %(is_nan)s::bool[], %(runs)s::text[]
        ) AS new (key, value, timestamp, step, is_nan, run_uuid)
        JOIN runs ON runs.run_uuid = new.run_uuid
        ORDER BY new.key COLLATE "C", new.run_uuid COLLATE "C"
        ON CONFLICT (key, run_uuid) DO UPDATE SET
            value = excluded.value, timestamp = excluded.timestamp,
            step = excluded.step, is_nan = excluded.is_nan
        WHERE (excluded.step, excluded.timestamp, excluded.value)
            > (stored.step, stored.timestamp, stored.value)
    """

    def run(self, connection: sa.Connection, rows: LatestRows) -> None:
        """See ``Upsert.run``."""
        connection.exec_driver_sql(
            self._SQL,
            {
                "keys": rows.keys,
                "values": rows.values,
                "timestamps": rows.timestamps,
                "steps": rows.steps,
                "is_nan": rows.is_nan,
                "runs": rows.runs,
            },
        )
