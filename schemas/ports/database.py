"""A ClickHouse engine, as the writer and the query service see it.

The implementation (chDB in process, or a server over HTTP) is ``runstream.clickhouse``; parts receive it, and
never open one themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from runstream.schemas.errors import RunstreamError


class DatabaseError(RunstreamError):
    """ClickHouse refused or failed. ``code`` is ClickHouse's error code, or ``None`` if none was received."""

    def __init__(self, message: str, *, code: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable

    @property
    def asks_too_much(self) -> bool:
        """Whether a statement broke a bound of its own (time, memory), which trying again does not help."""
        # ClickHouse: TIMEOUT_EXCEEDED, TOO_SLOW, MEMORY_LIMIT_EXCEEDED; that of the whole server is called "(total)".
        return self.code in (159, 160) or (self.code == 241 and "(total)" not in str(self))


class Database(Protocol):
    """Thread-safe and blocking: call it off the event loop.

    ``parameters`` are bound by ClickHouse itself (``{name:Type}`` in the SQL), never spliced into the text.
    Every method raises ``DatabaseError``.
    """

    def execute(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Run a statement without a result."""
        ...

    def arrow(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Run a query and return its whole result; strings arrive as Arrow strings."""
        ...

    def arrow_stream(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[Iterator[pa.RecordBatch]]:
        """Run a query and iterate its result with bounded memory."""
        ...

    def insert_native(
        self, table: str, columns: Sequence[str], block: bytes, *, deduplication_token: str | None = None
    ) -> None:
        """Insert one block in ClickHouse's Native format; returns when it is durable. One block is one part."""
        ...

    def ping(self) -> bool:
        """Whether the engine answers now; never raises."""
        ...

    def close(self) -> None:
        """Release every connection; blocks until calls under way have ended."""
        ...
