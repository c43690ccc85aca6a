"""``ReadPool`` on PostgreSQL, with psycopg's asynchronous connections."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, cast

import psycopg

from runstream.ingest.control.database.addresses import postgres_conninfo
from runstream.ingest.control.database.reads import Dialect, MetadataUnavailableError, Row

_CONNECT_TIMEOUT_S = 5
# PostgreSQL compiles a statement that it believes to be costly, anew each time, prepared or not: 60 ms for a read of
# runs that takes 6 ms.
NO_JIT = "-c jit=off"


def with_options(conninfo: str, options: str) -> str:
    """A connection string with these settings of the server's beside those that it names itself."""
    named = psycopg.conninfo.conninfo_to_dict(conninfo).get("options") or ""
    return psycopg.conninfo.make_conninfo(conninfo, options=f"{named} {options}".strip())


@functools.lru_cache(maxsize=512)
def percent_style(sql: str) -> bytes:
    """A statement with psycopg's placeholders for ``?``."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


class PostgresReads:
    """See ``ReadPool``. Connections are opened as they are needed, and again after they broke."""

    def __init__(self, uri: str, *, max_connections: int, timeout_s: float) -> None:
        self._conninfo = with_options(postgres_conninfo(uri), NO_JIT)
        self._timeout_s = timeout_s
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection[Row] | None] = asyncio.LifoQueue()
        self._size = max_connections
        for _ in range(max_connections):
            self._free.put_nowait(None)

    @property
    def dialect(self) -> Dialect:
        return "postgresql"

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._rows(percent_style(sql), parameters)
        except TimeoutError as error:
            raise MetadataUnavailableError("the metadata database is too slow") from error

    async def _rows(self, sql: bytes, parameters: Sequence[Any]) -> list[Row]:
        connection = await self._free.get()
        kept = None
        try:
            for attempt in (1, 2):
                fresh = connection is None
                try:
                    connection = connection or await self._connect()
                    found = await (await connection.execute(cast(Any, sql), parameters)).fetchall()
                    kept = connection
                    return found
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    if connection is not None:
                        await connection.close()
                        connection = None
                    # A connection that had been idle may have been cut: once more, on a new one.
                    if fresh or attempt == 2:
                        raise MetadataUnavailableError("the metadata database does not answer") from error
            raise AssertionError("unreachable")
        finally:
            if kept is None and connection is not None:
                # A read that was cancelled leaves its answer on the connection.
                await connection.close()
            self._free.put_nowait(kept)

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        return await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, prepare_threshold=2
        )

    async def close(self) -> None:
        for _ in range(self._size):
            connection = await self._free.get()
            if connection is not None:
                await connection.close()
