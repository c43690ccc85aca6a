"""``Session`` on SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from runstream.ingest.control.database.reads import Dialect, MetadataUnavailableError, Row
from runstream.ingest.control.database.session import RefusedByDatabaseError

_BUSY_TIMEOUT_S = 10.0
# SQLite's own waiting sleeps for up to 100 ms between looks: beside a gateway that commits every few milliseconds the
# lock would hardly ever be found free.
_LOOK_AGAIN_S = 0.0005


class SqliteSession:
    """See ``Session``. Transactions take SQLite's write lock when they begin, so that they never have to be repeated;
    MLflow's server, the writer and other gateways wait for it as this waits for theirs (WAL: readers never do)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    @property
    def dialect(self) -> Dialect:
        return "sqlite"

    def begin(self) -> None:
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self.execute("BEGIN IMMEDIATE")
                return
            except MetadataUnavailableError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.close()

    def mark(self) -> None:
        self.execute("SAVEPOINT one")

    def undo(self) -> None:
        self.execute("ROLLBACK TO one")

    def gather(self, columns: str, rest: str, parameters: Sequence[Any] = ()) -> list[Row]:
        # One row whatever is found: each one costs a hand-over of Python's lock.
        [(text,)] = self.rows(f"SELECT json_group_array(json_array({columns})) FROM {rest}", parameters)
        found: list[Row] = orjson.loads(text)
        return found

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._open().execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise MetadataUnavailableError(f"the metadata database does not take it: {error}") from error
        except sqlite3.Error as error:
            raise RefusedByDatabaseError(str(error)) from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.rows(sql, parameters)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=rw",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            # What was acknowledged is on disk, not only in the system's cache.
            connection.execute("PRAGMA synchronous = FULL")
            # As MLflow's own connections.
            connection.execute("PRAGMA foreign_keys = ON")
            self._connection = connection
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
