"""Which parts of the table a result was made from, so that it can be used again while nothing was added.

ClickHouse numbers the blocks that are inserted; a part holds a range of them, and merges join ranges. So a result
that was made from some parts is still right while every part of today holds only blocks of those, or holds no row
that the result is about. Only for a table that is on the engine at hand: a Distributed table has no parts here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runstream.schemas.ports.database import Database

_PARTS = (
    "SELECT name, min_block_number AS low, max_block_number AS high,"
    " if(data_version > min_block_number, data_version, 0) AS deletion,"
    " toUInt64(rows) AS rows, hash_of_all_files AS content FROM system.parts"
    " WHERE active AND database = currentDatabase() AND table = 'metrics'"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part: blocks ``low`` to ``high``; ``deletion`` is the last deletion that was applied to it, 0 for none.

    ``content`` is a hash of what it holds, deletions included.
    """

    name: str
    low: int
    high: int
    deletion: int
    rows: int = 0
    content: str = ""

    @property
    def merged(self) -> bool:
        """Whether it was made of more than one block."""
        return self.low != self.high


@dataclass(frozen=True, slots=True)
class Coverage:
    """Blocks that were seen, as ranges without gaps, and the last deletion that was."""

    ranges: tuple[tuple[int, int], ...]
    deletion: int

    def holds(self, part: Part) -> bool:
        """Whether every block of the part was seen, with the same rows deleted."""
        if part.deletion > self.deletion:
            return False
        return any(low <= part.low and part.high <= high for low, high in self.ranges)


def coverage(parts: Iterable[Part], seen: Coverage | None = None) -> Coverage:
    """What is seen once these parts are, and what ``seen`` says."""
    parts = list(parts)
    newest = max((part.deletion for part in parts), default=0)
    # A deletion is applied part by part: it has been seen once all that it concerns, the blocks before it, have it.
    deletion = min((part.deletion for part in parts if part.low < newest), default=newest)
    ranges = [(part.low, part.high) for part in parts] + list(seen.ranges if seen else ())
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        # A number between two parts may be an insert that is still under way: ranges join only without a gap.
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return Coverage(tuple(joined), max(deletion, seen.deletion if seen else 0))


def active_parts(database: Database) -> list[Part]:
    """The parts that a query reads now; none for a table that is not here. Blocks; raises ``DatabaseError``."""
    return [
        Part(
            row["name"],
            int(row["low"]),
            int(row["high"]),
            int(row["deletion"]),
            int(row["rows"]),
            row["content"],
        )
        for row in database.arrow(_PARTS).to_pylist()
    ]


def still_right(
    database: Database,
    seen: Coverage,
    parts: list[Part],
    where: str,
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> bool:
    """Whether what was read of the rows that the condition selects is all of them still: ``seen`` is what was read,
    ``parts`` are those of now (none: nobody knows). Blocks; raises ``DatabaseError``."""
    if not parts or any(part.deletion > seen.deletion for part in parts):
        return False  # rows are gone, and the parts do not show whose
    known = [part.name for part in parts if seen.holds(part)]
    if len(known) == len(parts):
        return True
    # Not "in the others": a part that has just been merged into a new one would be left out.
    table = database.arrow(
        f"SELECT 1 AS one FROM metrics WHERE _part NOT IN {{known:Array(String)}} AND {where} LIMIT 1",
        {**parameters, "known": known},
        settings,
    )
    return not table.num_rows
