"""ClickHouse: chDB in this process, or servers over HTTP, behind ``runstream.schemas.ports.database.Database``.

The only package that imports clickhouse_connect and chdb.
"""

from __future__ import annotations

from dataclasses import replace

from runstream.clickhouse.sql import identifiers
from runstream.clickhouse.url import ClickHouseUrl, parse_url
from runstream.schemas.ports.database import Database

__all__ = ["ClickHouseUrl", "connect", "create_database", "parse_url"]


def connect(url: str, *, reserve: int | None = None) -> Database:
    """A database for ``chdb:///PATH`` or ``http(s)://user:password@host:port,host2:port/database``.

    chDB opens its folder at once (one process per folder, one folder per process) and raises
    ``ConfigError`` when another process holds it, it cannot be written, or the ``embedded`` extra is
    missing. HTTP connects at the first call, so that a role can start while ClickHouse is away. Options
    follow ``?``: ``ClickHouseUrl``. ``reserve`` is what chDB is to leave free on its disk, in bytes.
    """
    parsed = parse_url(url)
    if parsed.path is not None:
        from runstream.clickhouse.embedded import EmbeddedDatabase

        return EmbeddedDatabase(parsed, reserve=reserve)
    from runstream.clickhouse.server import ServerDatabase

    return ServerDatabase(parsed)


def create_database(url: str, on_cluster: str = "") -> None:
    """Create the URL's database on a server if it is missing; chDB's is made by ``connect``.

    ``on_cluster`` is an ``ON CLUSTER`` clause or empty. Raises ``DatabaseError``.
    """
    parsed = parse_url(url)
    if parsed.path is not None:
        return
    from runstream.clickhouse.server import ServerDatabase

    database = ServerDatabase(replace(parsed, database="default"))
    try:
        database.execute(f"CREATE DATABASE IF NOT EXISTS {identifiers([parsed.database])} {on_cluster}")
    finally:
        database.close()
