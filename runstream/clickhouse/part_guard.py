"""Keeps every part of the embedded engine readable, whatever happens to its disk.

chDB (4.4) goes on when the disk refuses a write: a merge, or an insert, then puts a part in place whose files are empty
or cut short. In the engine's memory the part is right, so that nothing is noticed until somebody reads it. Therefore:

- when little room is left, no merge begins and those under way are called off, before the disk is full; the ballast's
  room is there for what is done here;
- what a part was made of stays on the disk until the part has been looked at: the engine removes old parts only while
  the guard lets it, which it does after a look that found everything whole;
- where a part is not whole, what it was merged from takes its place again; an insert's part is dropped, for its insert
  has failed and is repeated (``EmbeddedDatabase``);
- where that is gone too, the points are written again from what the log still holds (``rewrite``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runstream.process.disk import Ballast
from runstream.schemas.ports.database import Database, DatabaseError

_log = logging.getLogger(__name__)
_ROOM_EVERY_S = 0.1
_LOOK_EVERY_S = 1.0
# Old parts are let go so often, for so long. Far less than the age at which the engine removes them
# (``old_parts_lifetime``, 60 s): what is merged meanwhile is looked at before its turn comes.
_LET_GO_EVERY_S = 15.0
_LET_GO_S = 1.5
# A statement that puts parts in order takes some kilobytes.
_REPAIR_BYTES = 1 << 20
_BALLAST_BYTES = 32 << 20
_PARTS = (
    "SELECT name, path, active, toUInt64(rows) AS rows, toUInt64(bytes_on_disk) AS bytes,"
    " min_block_number AS low, max_block_number AS high, toUnixTimestamp(modification_time) AS made FROM system.parts"
    " WHERE database = currentDatabase() AND table = {table:String} AND part_type != 'InMemory'"
)
_SET_ASIDE = (
    "SELECT name, path FROM system.detached_parts"
    " WHERE database = currentDatabase() AND table = {table:String} AND startsWith(reason, 'broken')"
)


class Engine(Database, Protocol):
    """The embedded engine, whose files are at hand."""

    reserve_bytes: int

    @property
    def folder(self) -> Path: ...

    def free_bytes(self) -> int: ...

    def has_room(self) -> bool: ...

    def refused_writes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    path: Path
    active: bool
    rows: int
    nbytes: int
    low: int
    high: int
    made: int

    @property
    def merged(self) -> bool:
        return self.low != self.high

    def within(self, other: _Part) -> bool:
        return self.name != other.name and other.low <= self.low and self.high <= other.high

    def is_whole(self) -> bool:
        """Whether its files are as long as the engine believes. Raises ``OSError`` if they are gone."""
        sizes = [entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file()]
        return all(sizes) and sum(sizes) >= self.nbytes


class PartGuard:
    """Watches some tables of the engine in this process.

    ``rewrite`` writes the points of the first table again that are still in the log, and returns how many; it blocks.
    ``survived`` is told, after each look, the Unix time before which everything inserted has been merged since and
    found whole.
    """

    def __init__(
        self,
        database: Engine,
        tables: Iterable[str],
        *,
        rewrite: Callable[[], int] | None = None,
        survived: Callable[[float], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tables = tuple(tables)
        self._rewrite = rewrite
        self._survived = survived
        self._monotonic = monotonic
        self._ballast = Ballast(database.folder / "ballast", min(database.reserve_bytes // 4, _BALLAST_BYTES))
        self._whole: dict[str, set[str]] = {table: set() for table in self._tables}
        self._refused = dict.fromkeys(self._tables, 0)
        self._broken: dict[str, list[str]] = {table: [] for table in self._tables}
        self._lost: set[str] = set()
        self._halted: bool | None = None
        self._recovered = False
        self._let_go_at = float("-inf")

    async def run(self) -> None:
        """Work until cancelled; what goes wrong is logged and tried again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(_ROOM_EVERY_S, self._room_has_changed, self.keep_room))
            tasks.create_task(self._again(_LOOK_EVERY_S, lambda: self._halted is not None, self.look))

    async def _again(self, every_s: float, due: Callable[[], bool], work: Callable[[], None]) -> None:
        while True:
            try:
                if due():
                    await asyncio.to_thread(work)
            except (DatabaseError, OSError) as error:
                _log.warning("the engine's disk cannot be looked after", extra={"error": str(error)})
                await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.sleep(every_s)

    # Room

    def _room_has_changed(self) -> bool:
        if self._halted is None:
            return True
        if self._halted:
            return self._database.free_bytes() >= self._database.reserve_bytes + self._ballast.size
        return not self._database.has_room()

    def keep_room(self) -> None:
        """Call merges off while little room is left, and let them begin again when there is enough. Blocks."""
        if self._halted is None:
            # Nothing old goes before a look.
            self._system("STOP CLEANUP")
        if self._database.has_room():
            if self._halted:
                self._system("START MERGES")
                _log.warning("there is room again: merges go on", extra={"free": self._database.free_bytes()})
            self._halted = False
            if self._database.free_bytes() >= self._database.reserve_bytes + self._ballast.size:
                self._ballast.hold()
            return
        self._system("STOP MERGES")
        self._ballast.release()
        if not self._halted:
            _log.error(
                "the disk is nearly full: nothing is merged until there is room",
                extra={"free": self._database.free_bytes(), "reserve": self._database.reserve_bytes},
            )
        self._halted = True

    def _system(self, what: str) -> None:
        for table in self._tables:
            try:
                self._database.execute(f"SYSTEM {what} {table}")
            except DatabaseError as error:
                if error.code != 243:  # the disk's refusals are not this statement's
                    raise

    # Parts

    def look(self) -> None:
        """Look at every new part, put in order what is not whole, and let old parts go if all is. Blocks."""
        self._recover()
        whole = True
        survived = time.time()
        for table in self._tables:
            self.check(table)
            whole = whole and not self._broken[table]
        if self._survived is not None and whole:
            fresh = [part.made for part in self._parts(self._tables[0]) if part.active and not part.merged]
            self._survived(min([survived, *fresh]))
        if whole and self._monotonic() >= self._let_go_at:
            self._system("START CLEANUP")
            try:
                time.sleep(_LET_GO_S)
            finally:
                self._system("STOP CLEANUP")
            self._let_go_at = self._monotonic() + _LET_GO_EVERY_S

    def check(self, table: str) -> list[str]:
        """Look at the parts that are new, and repair; the names of those that were replaced. Blocks."""
        parts = self._parts(table)
        # After the parts: whatever was refused to one of them has been counted by now.
        refused = self._database.refused_writes()
        suspicious = refused != self._refused[table]
        active = [part for part in parts if part.active]
        whole = self._whole[table] = self._whole[table] & {part.name for part in active}
        replaced: list[str] = []
        broken: list[str] = []
        for part in active:
            if part.name in whole:
                continue
            try:
                if part.is_whole() and not (suspicious and self._fails_check(table, part)):
                    whole.add(part.name)
                    continue
            except FileNotFoundError:
                continue  # merged away meanwhile
            if self._replace(table, part, [one for one in parts if one.within(part)]):
                replaced.append(part.name)
            elif part.name not in self._lost:
                broken.append(part.name)
        self._broken[table] = broken
        if not broken:
            self._refused[table] = refused
        return replaced

    def _recover(self) -> None:
        """Write again what the engine set aside when it started because it could not read it. Once."""
        if self._recovered or self._rewrite is None:
            return
        found = self._database.arrow(_SET_ASIDE, {"table": self._tables[0]}).to_pylist()
        if found:
            rows = self._rewrite()
            for row in found:
                place = Path(row["path"])
                place.rename(place.with_name(f"ignored_{place.name}"))
            _log.error(
                "parts could not be read at the start, and what the log holds is written again",
                extra={"parts": [row["name"] for row in found], "rewritten": rows},
            )
        self._recovered = True

    def _parts(self, table: str) -> list[_Part]:
        return [
            _Part(
                row["name"],
                Path(row["path"]),
                bool(row["active"]),
                int(row["rows"]),
                int(row["bytes"]),
                int(row["low"]),
                int(row["high"]),
                int(row["made"]),
            )
            for row in self._database.arrow(_PARTS, {"table": table}).to_pylist()
        ]

    def _fails_check(self, table: str, part: _Part) -> bool:
        """The engine's own look at every byte; only after a refused write, for it reads the whole part."""
        try:
            found = self._database.arrow(f"CHECK TABLE {table} PART '{part.name}'").to_pylist()
        except DatabaseError as error:
            if error.code == 232:  # NO_SUCH_DATA_PART: merged away meanwhile
                return False
            _log.warning("a part does not pass its check", extra={"part": part.name, "error": str(error)})
            return True
        return any(row.get("is_passed", row.get("result", 1)) == 0 for row in found)

    def _replace(self, table: str, broken: _Part, older: list[_Part]) -> bool:
        if self._database.free_bytes() < _REPAIR_BYTES:
            return False  # these statements write too
        sources: list[_Part] = []
        for part in sorted(older, key=lambda part: (part.low, -part.high)):
            # Of parts within each other the largest that is there.
            if not any(part.within(taken) for taken in sources) and part.path.exists() and part.is_whole():
                sources.append(part)
        # A merge drops repeats and adds nothing.
        if sum(part.rows for part in sources) < broken.rows:
            return self._give_up(table, broken)
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

    def _give_up(self, table: str, broken: _Part) -> bool:
        """A part without anything that it was made of; whether it could be done without."""
        if not broken.merged and self._refused_an_insert(table):
            self._database.execute(f"ALTER TABLE {table} DROP PART '{broken.name}'")
            _log.error(
                "an insert was cut short by the disk, and is repeated",
                extra={"table": table, "part": broken.name},
            )
            return True
        if self._rewrite is not None and table == self._tables[0] and self._database.has_room():
            rows = self._rewrite()
            self._database.execute(f"ALTER TABLE {table} DROP PART '{broken.name}'")
            _log.error(
                "a damaged part is dropped, and what the log holds is written again",
                extra={"table": table, "part": broken.name, "rows": broken.rows, "rewritten": rows},
            )
            return True
        if broken.name not in self._lost:
            self._lost.add(broken.name)
            _log.error(
                "a merged part is damaged, and what it was made of is gone",
                extra={"table": table, "part": broken.name, "rows": broken.rows},
            )
        return False

    def _refused_an_insert(self, table: str) -> bool:
        return self._database.refused_writes() != self._refused[table]
