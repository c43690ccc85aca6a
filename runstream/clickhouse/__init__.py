"""ClickHouse: chDB in this process, or servers over HTTP, behind ``schemas.database.Database``.

The only package that imports clickhouse_connect and chdb.
"""

from __future__ import annotations

from runstream.clickhouse.url import ClickHouseUrl, parse_url
from schemas.database import Database

__all__ = ["ClickHouseUrl", "connect", "parse_url"]


def connect(url: str) -> Database:
    """A database for ``chdb:///PATH`` or ``http(s)://user:password@host:port,host2:port/database``.

    chDB opens its folder at once (one process per folder, one folder per process) and raises
    ``ConfigError`` when another process holds it, it cannot be written, or the ``embedded`` extra is
    missing. HTTP connects at the first call, so that a role can start while ClickHouse is away. Options
    follow ``?``: ``ClickHouseUrl``.
    """
    parsed = parse_url(url)
    if parsed.path is not None:
        from runstream.clickhouse.embedded import EmbeddedDatabase

        return EmbeddedDatabase(parsed)
    from runstream.clickhouse.server import ServerDatabase

    return ServerDatabase(parsed)
