"""``Session`` on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import psycopg
from psycopg import errors

from runstream.ingest.control.database.postgres_reads import NO_JIT, percent_style, with_options
from runstream.ingest.control.database.reads import Dialect, MetadataUnavailableError, Row
from runstream.ingest.control.database.session import (
    CommitUnknownError,
    ConflictError,
    RefusedByDatabaseError,
)

_CONNECT_TIMEOUT_S = 5
_CONFLICTS = (
    errors.UniqueViolation,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.ForeignKeyViolation,
)
# A statement that hangs (a lock that somebody keeps) ends as an error.
_OPTIONS = f"{NO_JIT} -c statement_timeout=10000 -c lock_timeout=8000"


class PostgresSession:
    """See ``Session``. Rows of runs are locked as they are read, in one order for all: transactions of several
    gateways on one run follow one another."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = with_options(conninfo, _OPTIONS)
        self._connection: psycopg.Connection[Row] | None = None

    @property
    def dialect(self) -> Dialect:
        return "postgresql"

    def begin(self) -> None:
        try:
            self.execute("BEGIN")
        except MetadataUnavailableError:
            # A connection that had been idle may have been cut.
            self.close()
            self.execute("BEGIN")

    def commit(self) -> None:
        try:
            self.execute("COMMIT")
        except MetadataUnavailableError as error:
            raise CommitUnknownError("the metadata database went away") from error

    def rollback(self) -> None:
        if self._connection is not None:
            try:
                self._connection.execute("ROLLBACK")
            except psycopg.Error:
                self.close()

    def mark(self) -> None:
        self.execute("SAVEPOINT one")

    def undo(self) -> None:
        self.execute("ROLLBACK TO one")

    def gather(self, columns: str, rest: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self.rows(f"SELECT {columns} FROM {rest}", parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._run(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._run(sql, parameters)

    def _run(self, sql: str, parameters: Sequence[Any]) -> psycopg.Cursor[Row]:
        try:
            if self._connection is None:
                self._connection = psycopg.Connection.connect(
                    self._conninfo,
                    autocommit=True,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    prepare_threshold=2,
                )
            return self._connection.execute(cast(Any, percent_style(sql)), parameters)
        except _CONFLICTS as error:
            raise ConflictError(str(error)) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise MetadataUnavailableError("the metadata database does not answer") from error
        except psycopg.Error as error:
            raise RefusedByDatabaseError(str(error)) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
