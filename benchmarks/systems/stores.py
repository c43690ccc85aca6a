"""Where peers keep their metrics: what both of them need on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from benchmarks.harness.postgres import PostgresCluster, find_postgres
from benchmarks.systems.base import Server, free_port


class OnSqlite(Server):
    """Keeps its metrics in one SQLite file."""

    @property
    def database(self) -> Path:
        return self.folder / "metrics.db"

    def stored_points(self) -> int:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return int(connection.execute("select count(*) from metrics").fetchone()[0])

    def stored_bytes(self) -> int:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        return self.database.stat().st_size


class OnPostgres(Server):
    """Keeps its metrics in a PostgreSQL cluster of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._cluster = PostgresCluster(folder / "postgres", free_port())

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (None if find_postgres() else "PostgreSQL (apt-get install postgresql)")

    def roots(self) -> list[int]:
        own = super().roots()
        return own + ([self._cluster.process.pid] if self._cluster.process else [])

    def role(self, command_line: str) -> str:
        return "database" if "postgres" in command_line.split(" ", 1)[0] else "server"

    def stored_points(self) -> int:
        return self._cluster.ask("select count(*) from metrics")

    def stored_bytes(self) -> int:
        return self._cluster.ask("select pg_total_relation_size('metrics')")

    def stop(self) -> None:
        super().stop()
        self._cluster.stop()
