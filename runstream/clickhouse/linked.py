"""A second engine that sees the metrics table of the first one as it was a moment ago.

chDB gives a folder to one process. But a part never changes once it is active, so another process can have the same
parts under other names: hard links in a folder of its own cost neither space nor a copy. The engine that owns the table
says which parts there are (``table_parts``), the other one takes over those that it lacks and lets go of those that are
gone (``LinkedTable.follow``). Whatever happens to the second engine, the first one's folder is not touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from runstream.clickhouse.migrate import migrate
from runstream.clickhouse.sql import literal
from runstream.schemas.migrations import METRICS_TABLE, Flavour
from runstream.schemas.ports.database import Database

_PARTS = (
    "SELECT name, hash_of_all_files AS content, path FROM system.parts"
    " WHERE active AND rows > 0 AND database = currentDatabase() AND table = {table:String}"
)
# DROP PART takes one name at a time.
_DROPS_AT_ONCE = 100


class PartsGoneError(Exception):
    """Parts were merged into others, and removed, before they could be linked: ask for the parts again."""


def table_parts(database: Database) -> dict[str, str]:
    """The folder of each part of the metrics table by the hash of its content. Blocks; raises ``DatabaseError``."""
    rows = database.arrow(_PARTS, {"table": METRICS_TABLE}).to_pylist()
    return {row["content"]: row["path"] for row in rows}


class LinkedTable:
    """The metrics table of an engine that has nothing else to do. Parts of equal content count once, which readers who
    drop repeats do not notice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        migrate(database, Flavour())
        database.execute(f"SYSTEM STOP MERGES {METRICS_TABLE}")
        paths = database.arrow(
            "SELECT data_paths[1] AS path FROM system.tables"
            " WHERE database = currentDatabase() AND name = {table:String}",
            {"table": METRICS_TABLE},
        )
        self._waiting = Path(paths.column("path")[0].as_py()) / "detached"

    def follow(self, parts: Mapping[str, str]) -> None:
        """Hold these parts (``table_parts``) and no others. Blocks; raises ``PartsGoneError`` and ``DatabaseError``."""
        have = self._have()
        new = {content: path for content, path in parts.items() if content not in have}
        if new:
            self._attach(new.values())
        gone = [name for content, names in have.items() if content not in parts for name in names]
        for at in range(0, len(gone), _DROPS_AT_ONCE):
            drops = ", ".join(f"DROP PART {literal(name)}" for name in gone[at : at + _DROPS_AT_ONCE])
            self._database.execute(f"ALTER TABLE {METRICS_TABLE} {drops}")

    def _have(self) -> dict[str, list[str]]:
        have: dict[str, list[str]] = {}
        for row in self._database.arrow(_PARTS, {"table": METRICS_TABLE}).to_pylist():
            have.setdefault(row["content"], []).append(row["name"])
        return have

    def _attach(self, paths: Iterable[str]) -> None:
        for left in self._waiting.iterdir() if self._waiting.exists() else ():
            shutil.rmtree(left)
        for path in map(Path, paths):
            place = self._waiting / path.name
            place.mkdir(parents=True)
            try:
                for entry in os.scandir(path):
                    if entry.is_file():
                        os.link(entry.path, place / entry.name)
            except FileNotFoundError as error:
                raise PartsGoneError(path.name) from error
        self._database.execute(f"ALTER TABLE {METRICS_TABLE} ATTACH PARTITION tuple()")
