"""Brings back what a merge has lost.

An engine whose disk fills up while it finishes a merge can put a part in place whose files are empty or cut short
(chDB 4.4; seen with every file at 0 bytes). In its memory the part is right, so that nothing is noticed until somebody
reads it; the parts that it was merged from stay on the disk for a while (``old_parts_lifetime``). So merged parts are
measured soon after they appear, and where one is shorter than the engine believes, those parts take its place again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runstream.schemas.ports.database import Database, DatabaseError

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
_PARTS = (
    "SELECT name, path, active, toUInt64(rows) AS rows, toUInt64(bytes_on_disk) AS bytes,"
    " min_block_number AS low, max_block_number AS high FROM system.parts"
    " WHERE database = currentDatabase() AND table = {table:String} AND part_type != 'InMemory'"
)


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    path: Path
    active: bool
    rows: int
    nbytes: int
    low: int
    high: int

    @property
    def merged(self) -> bool:
        return self.low != self.high

    def within(self, other: _Part) -> bool:
        return self.name != other.name and other.low <= self.low and self.high <= other.high

    def is_whole(self) -> bool:
        """Whether its files are as long as the engine believes. Raises ``OSError`` if they are gone."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file()) >= self.nbytes


class PartGuard:
    """Watches the merged parts of some tables of the engine in this process, whose files are at hand."""

    def __init__(self, database: Database, tables: Iterable[str]) -> None:
        self._database = database
        self._tables = tuple(tables)
        self._whole: dict[str, set[str]] = {table: set() for table in self._tables}
        self._lost: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled; what goes wrong is logged and tried again."""
        while True:
            for table in self._tables:
                try:
                    await asyncio.to_thread(self.check, table)
                except (DatabaseError, OSError) as error:
                    _log.warning("parts cannot be measured", extra={"table": table, "error": str(error)})
            await asyncio.sleep(_EVERY_S)

    def check(self, table: str) -> list[str]:
        """Measure parts that are new, and repair; the names of those that were replaced. Blocks."""
        rows = self._database.arrow(_PARTS, {"table": table}).to_pylist()
        parts = [
            _Part(
                row["name"],
                Path(row["path"]),
                bool(row["active"]),
                int(row["rows"]),
                int(row["bytes"]),
                int(row["low"]),
                int(row["high"]),
            )
            for row in rows
        ]
        active = [part for part in parts if part.active and part.merged]
        whole = self._whole[table] = self._whole[table] & {part.name for part in active}
        replaced = []
        for part in active:
            if part.name in whole:
                continue
            try:
                if part.is_whole():
                    whole.add(part.name)
                    continue
            except FileNotFoundError:
                continue  # merged away meanwhile
            if self._replace(table, part, [one for one in parts if one.within(part)]):
                replaced.append(part.name)
        return replaced

    def _replace(self, table: str, broken: _Part, older: list[_Part]) -> bool:
        sources: list[_Part] = []
        for part in sorted(older, key=lambda part: (part.low, -part.high)):
            # Of parts within each other the largest that is there.
            if not any(part.within(taken) for taken in sources) and part.path.exists() and part.is_whole():
                sources.append(part)
        # A merge drops repeats and adds nothing.
        if sum(part.rows for part in sources) < broken.rows:
            if broken.name not in self._lost:
                self._lost.add(broken.name)
                _log.error(
                    "a merged part is damaged, and what it was made of is gone",
                    extra={"table": table, "part": broken.name, "rows": broken.rows},
                )
            return False
        for part in sources:
            # Links: the engine may remove its own soon. They become parts of their own, under new numbers.
            place = broken.path.parent / "detached" / part.name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for entry in os.scandir(part.path):
                if entry.is_file():
                    os.link(entry.path, place / entry.name)
            self._database.execute(f"ALTER TABLE {table} ATTACH PART '{part.name}'")
        self._database.execute(f"ALTER TABLE {table} DROP PART '{broken.name}'")
        _log.error(
            "a merge was cut short by the disk; its parts are back",
            extra={"table": table, "part": broken.name, "parts": len(sources), "rows": broken.rows},
        )
        return True
