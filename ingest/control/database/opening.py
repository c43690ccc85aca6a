"""The pool of reads for a database's address."""

from __future__ import annotations

from runstream.ingest.control.database.postgres_reads import PostgresReads
from runstream.ingest.control.database.reads import ReadPool
from runstream.ingest.control.database.sqlite_reads import SqliteReads
from runstream.schemas.errors import ConfigError


async def open_reads(uri: str, *, max_connections: int = 2, timeout_s: float = 20.0) -> ReadPool:
    """A pool for MLflow's backend store URI; connects at the first read. ``timeout_s`` bounds a read with its wait
    for a connection. Raises ``ConfigError`` for a database that is neither SQLite nor PostgreSQL."""
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if scheme == "sqlite":
        return SqliteReads(uri, max_connections=max_connections, timeout_s=timeout_s)
    if scheme in ("postgresql", "postgres"):
        return PostgresReads(uri, max_connections=max_connections, timeout_s=timeout_s)
    raise ConfigError(f"the control plane knows SQLite and PostgreSQL, not {scheme}")
