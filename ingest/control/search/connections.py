"""Connections of a search process: one each, blocking, that only reads.

``snapshot`` names the state of the database that the connection sees: while it says the same, everything that was read
is as it was. On SQLite this is ``PRAGMA data_version``, which every commit of another connection changes; on PostgreSQL
``pg_current_snapshot()``, for what a snapshot sees follows from its text alone.

SQLAlchemy and the other database's driver are not loaded: a search process stays small and starts soon.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import quote

from runstream.ingest.control.database.reads import MetadataUnavailableError, Row
from runstream.ingest.control.search.finder import Database
from runstream.ingest.control.search.sql import Dialect, Sql

if TYPE_CHECKING:
    import psycopg

# The virtual machine's steps between two looks at the clock: some tens of microseconds.
_SQLITE_STEPS: Final = 20_000
_CACHE_KIB: Final = 16_384
_BUSY_TIMEOUT_S: Final = 5.0
_CONNECT_TIMEOUT_S: Final = 5


class Connection(Database, Protocol):
    """One connection of a search process. Every method may raise ``MetadataUnavailableError``; the connection then
    opens itself again at the next call."""

    def snapshot(self) -> str:
        """The name of the state that reads see now."""
        ...

    def reading(self) -> Any:
        """A context in which all reads see one state. It is ended after the time that reads may take."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Address:
    """A database: the path of a SQLite file, or libpq's connection string."""

    dialect: Dialect
    name: str


def address_of(uri: str) -> Address:
    """The database of MLflow's backend store URI. Raises ``ConfigError``. Loads SQLAlchemy."""
    from runstream.ingest.control.database.addresses import postgres_conninfo, sqlite_path
    from runstream.schemas.errors import ConfigError

    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if scheme == "sqlite":
        return Address("sqlite", str(sqlite_path(uri)))
    if scheme in ("postgresql", "postgres"):
        return Address("postgresql", postgres_conninfo(uri))
    raise ConfigError(f"searches know SQLite and PostgreSQL, not {scheme}")


def connect(address: Address, *, timeout_s: float) -> Connection:
    """A connection, opened at its first use. ``timeout_s`` bounds one search."""
    if address.dialect == "sqlite":
        return _Sqlite(address.name, timeout_s)
    return _Postgres(address.name, timeout_s)


class _Sqlite:
    dialect: Dialect = "sqlite"

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._open: sqlite3.Connection | None = None
        self._deadline = 0.0

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            connection = sqlite3.connect(
                f"file:{quote(self._path)}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
            )
            # As MLflow's own connections compare (mlflow.store.db.utils).
            connection.execute("PRAGMA case_sensitive_like = true")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _SQLITE_STEPS)
            self._open = connection
        return self._open

    def rows(self, sql: Sql) -> list[Row]:
        try:
            return self._connection().execute(sql.text, sql.parameters).fetchall()
        except sqlite3.Error as error:
            raise MetadataUnavailableError(f"the metadata database does not answer: {error}") from error

    def snapshot(self) -> str:
        self._deadline = time.monotonic() + self._timeout_s
        return str(self.rows(Sql("PRAGMA data_version"))[0][0])

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._deadline = time.monotonic() + self._timeout_s
        self.rows(Sql("BEGIN"))
        try:
            yield
        finally:
            if self._open is not None and self._open.in_transaction:
                self._open.rollback()

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _Postgres:
    dialect: Dialect = "postgresql"

    def __init__(self, conninfo: str, timeout_s: float) -> None:
        import psycopg

        self._psycopg = psycopg
        self._conninfo = conninfo
        self._timeout_s = timeout_s
        self._open: psycopg.Connection[Row] | None = None

    def _connection(self) -> psycopg.Connection[Row]:
        if self._open is None or self._open.closed:
            # Statements are planned for their values each time: a plan for any value is a bad one here.
            self._open = self._psycopg.connect(
                self._conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, prepare_threshold=None
            )
            self._open.execute("SET default_transaction_read_only = on")
            self._open.execute("SET jit = off")
            self._open.execute(f"SET statement_timeout = {int(self._timeout_s * 1000)}")
        return self._open

    def rows(self, sql: Sql) -> list[Row]:
        for attempt in (1, 2):
            was_open = self._open is not None and not self._open.closed
            try:
                return (
                    self._connection().execute(cast(Any, _percent_style(sql.text)), sql.parameters).fetchall()
                )
            except self._psycopg.Error as error:
                lost = isinstance(error, self._psycopg.OperationalError | self._psycopg.InterfaceError)
                if lost and was_open and attempt == 1 and not self._in_transaction():
                    self.close()  # it had been idle, and was cut
                    continue
                raise MetadataUnavailableError("the metadata database does not answer") from error
        raise AssertionError("unreachable")

    def _in_transaction(self) -> bool:
        return (
            self._open is not None
            and self._open.info.transaction_status != self._psycopg.pq.TransactionStatus.IDLE
        )

    def snapshot(self) -> str:
        return str(self.rows(Sql("SELECT pg_current_snapshot()::text"))[0][0])

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            connection = self._connection()
            connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                yield
        except self._psycopg.Error as error:
            raise MetadataUnavailableError("the metadata database does not answer") from error

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


@functools.lru_cache(maxsize=512)
def _percent_style(sql: str) -> bytes:
    """With psycopg's placeholders."""
    return sql.replace("%", "%%").replace("?", "%s").encode()
