"""Choices of points of long series that are kept beside the table, part by part (migration 2 says what and why).

A part is named by its content, so a rollup is never stale: it is used while a part with that content is active.
Blocking; raises ``DatabaseError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.points.parts import Part
from runstream.query.points.series import Series
from runstream.schemas.ports.database import Database

# A series with fewer granules than this in a part is not long there: about 260,000 points.
_LONG_GRANULES = 32
_STRETCH_POINTS = 512
_MAX_STRETCHES = 1 << 16
# A series with more NaN and infinities than this is scanned: all of them would have to be in its rollup.
_MAX_ODD_POINTS = 1 << 16
_KEPT_S = 3600

_LONG_SERIES = """
SELECT run_id, key, min(step) AS first, max(step) AS last, sum(rows_in_granule) AS points
FROM mergeTreeIndex(currentDatabase(), 'metrics') WHERE part_name = {part:String}
GROUP BY run_id, key HAVING count() >= {granules:UInt64}
"""
_MAKE = """
INSERT INTO metric_rollups (run_id, key, part, shift, points, steps, timestamps, values)
SELECT {run:String}, {key:String}, {content:String}, {shift:UInt8}, sum(points),
    groupArrayArray(arrayMap(p -> p.1, chosen)), groupArrayArray(arrayMap(p -> p.2, chosen)),
    groupArrayArray(arrayMap(p -> p.3, chosen))
FROM (
    SELECT bitShiftRight(step, {shift:UInt8}) AS stretch, count() AS points,
        arrayConcat(
            if(countIf(isFinite(value)) = 0, [], [
                (argMinIf(step, value, isFinite(value)), argMinIf(timestamp, value, isFinite(value)),
                    minIf(value, isFinite(value))),
                (argMaxIf(step, value, isFinite(value)), argMaxIf(timestamp, value, isFinite(value)),
                    maxIf(value, isFinite(value)))]),
            groupArrayIf({odd:UInt64})((step, timestamp, value), NOT isFinite(value))) AS chosen
    FROM metrics WHERE _part = {part:String} AND run_id = {run:String} AND key = {key:String}
    GROUP BY stretch
)
HAVING sum(points) > 0 AND length(groupArrayArray(chosen)) < 2 * count() + {odd:UInt64}
"""
_FIND = """
SELECT part, shift, steps, timestamps, values FROM metric_rollups
WHERE run_id = {run:String} AND key = {key:String} AND part IN {parts:Array(String)}
"""
# One thread: what is made in the background leaves the processors to others.
_SETTINGS = {"max_threads": 1}


@dataclass(frozen=True, slots=True)
class Rollup:
    """Of each stretch of ``2**shift`` steps of a series in some parts the smallest and the largest point, and
    every point that is not finite; in no order, and some perhaps twice."""

    parts: tuple[Part, ...]
    shift: int
    points: Series


def find_rollup(database: Database, run_id: str, key: str, parts: Sequence[Part]) -> Rollup | None:
    """What is kept of a series in these parts, all joined; ``None`` if nothing is."""
    by_content = {part.content: part for part in parts if part.rows >= _LONG_GRANULES * 1024}
    if not by_content:
        return None
    table = database.arrow(_FIND, {"run": run_id, "key": key, "parts": list(by_content)})
    if not table.num_rows:
        return None
    return Rollup(
        tuple({by_content[content] for content in table.column("part").to_pylist()}),
        max(table.column("shift").to_pylist()),
        Series(*(_flat(table, name) for name in ("steps", "timestamps", "values"))),
    )


def make_rollups(database: Database, part: Part, max_query_s: int = 60) -> int:
    """Make those of one part, if it has long series, each in one statement; how many there are. Repeating it is
    harmless."""
    found = database.arrow(_LONG_SERIES, {"part": part.name, "granules": _LONG_GRANULES}).to_pylist()
    for row in found:
        database.execute(
            _MAKE,
            {
                "run": row["run_id"],
                "key": row["key"],
                "part": part.name,
                "content": part.content,
                "shift": _shift(row["last"] - row["first"] + 1, int(row["points"])),
                "odd": _MAX_ODD_POINTS,
            },
            {**_SETTINGS, "max_execution_time": max_query_s},
        )
    return len(found)


def rolled_up(database: Database) -> set[str]:
    """The content of every part that has rollups."""
    return set(database.arrow("SELECT DISTINCT part FROM metric_rollups").column("part").to_pylist())


def forget_rollups(database: Database, parts: Iterable[Part]) -> None:
    """Remove rollups that are of none of these parts and were not made just now."""
    database.execute(
        "DELETE FROM metric_rollups WHERE NOT has({parts:Array(String)}, part)"
        " AND made_at < now() - {age:UInt32}",
        {"parts": [part.content for part in parts], "age": _KEPT_S},
    )


def _shift(steps: int, points: int) -> int:
    """Stretches hold about ``_STRETCH_POINTS`` points where steps are even, and there are not too many."""
    stretches = min(max(points // _STRETCH_POINTS, 1), _MAX_STRETCHES)
    return min(max((steps // stretches).bit_length(), 1) - 1, 62)


def _flat(table: pa.Table, name: str) -> Any:
    column = table.column(name).combine_chunks()
    return np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False))
