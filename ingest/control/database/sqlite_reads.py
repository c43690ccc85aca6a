"""``ReadPool`` on SQLite: a few threads, a connection each."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runstream.ingest.control.database.addresses import sqlite_path
from runstream.ingest.control.database.reads import Dialect, MetadataUnavailableError, Row

_BUSY_TIMEOUT_S = 5.0
_STATEMENTS = 256


def connect_readonly(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. It may be used by one thread after another."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
    )
    # As MLflow's own connections compare (mlflow.store.db.utils).
    connection.execute("PRAGMA case_sensitive_like = true")
    return connection


class SqliteReads:
    """See ``ReadPool``."""

    def __init__(self, uri: str, *, max_connections: int, timeout_s: float) -> None:
        self._path = sqlite_path(uri)
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="metadata-read")
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []

    @property
    def dialect(self) -> Dialect:
        return "sqlite"

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, self._read, sql, parameters)
        except TimeoutError as error:
            raise MetadataUnavailableError("the metadata database is too slow") from error

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise MetadataUnavailableError(f"the metadata database does not answer: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_readonly(self._path)
            self._open.append(connection)
        return connection

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._open:
            connection.close()
