"""The newest points of a run's series, kept and brought up to date instead of being looked for again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.points.parts import Coverage, Part, active_parts, coverage
from runstream.query.points.sized_cache import SizedCache
from runstream.query.points.stream import POINTS
from runstream.schemas.ports.database import Database

# What an entry takes beside its points: runs without any are remembered too.
_ENTRY_BYTES = 1_000
# In the table's order backwards, ClickHouse need not hold a state per series.
_NEWEST = (
    "SELECT run_id, key, step, timestamp, value FROM metrics WHERE {where}"
    " ORDER BY run_id DESC, key DESC, step DESC, timestamp DESC,"
    " if(isNaN(value), 0, value) DESC, isNaN(value) LIMIT 1 BY run_id, key"
)


def newest_points(
    database: Database, where: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]
) -> pa.Table:
    """The newest point of each series (``POINTS``), ordered by run and key: the largest by (step, timestamp, value),
    NaN counting as 0. Blocks; raises ``DatabaseError``.

    That is MLflow's rule (``SqlAlchemyStore._update_latest_metrics_if_necessary``).
    """
    table = database.arrow(_NEWEST.format(where=where), parameters, settings)
    backwards = table.take(pa.array(np.arange(table.num_rows - 1, -1, -1)))
    columns = [
        backwards.column(field.name).combine_chunks().dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else backwards.column(field.name)
        for field in POINTS
    ]
    return pa.Table.from_arrays(columns, schema=POINTS).combine_chunks()


@dataclass(frozen=True, slots=True)
class _Entry:
    points: pa.Table
    seen: Coverage


class NewestCache:
    """Newest points of whole runs, the least recently used dropped first. Thread-safe.

    A later question reads only the parts that were not there before; every point that a reader could see counts.
    """

    def __init__(self, database: Database, *, max_bytes: int = 32 << 20) -> None:
        self._database = database
        self._cache: SizedCache[str, _Entry] = SizedCache(
            max_bytes, lambda entry: entry.points.nbytes + _ENTRY_BYTES
        )

    def of_run(self, run_id: str, settings: Mapping[str, Any]) -> pa.Table:
        """``newest_points`` of all series of a run."""
        parts = active_parts(self._database)
        entry = self._cache.get(run_id)
        if entry is not None and any(part.deletion > entry.seen.deletion for part in parts):
            entry = None  # rows are gone, and the parts do not show whose
        points = self._read(run_id, settings, parts, entry)
        if parts:
            # What was there before the reading began; the reading may have seen more.
            self._cache.put(run_id, _Entry(points, coverage(parts, entry.seen if entry else None)))
        return points

    def _read(
        self, run_id: str, settings: Mapping[str, Any], parts: list[Part], entry: _Entry | None
    ) -> pa.Table:
        where, parameters = "run_id = {run:String}", {"run": run_id}
        if entry is None:
            return newest_points(self._database, where, parameters, settings)
        known = [part.name for part in parts if entry.seen.holds(part)]
        if len(known) == len(parts):
            return entry.points
        # Not "in the others": a part that has just been merged into a new one would be left out.
        where += " AND _part NOT IN {known:Array(String)}"
        found = newest_points(self._database, where, {**parameters, "known": known}, settings)
        return _newest_of(entry.points, found) if found.num_rows else entry.points


def _newest_of(old: pa.Table, new: pa.Table) -> pa.Table:
    """Of each series in two tables of one run the newer point, ordered by key."""
    both = pa.concat_tables([old, new]).unify_dictionaries().combine_chunks()
    keys = both.column("key").chunk(0)
    values = both.column("value").to_numpy()
    is_nan = np.isnan(values)
    codes = keys.indices.to_numpy()
    order = np.lexsort(
        (
            ~is_nan,
            np.where(is_nan, 0.0, values),
            both.column("timestamp").to_numpy(),
            both.column("step").to_numpy(),
            codes,
        )
    )
    codes = codes[order]
    last = order[np.append(codes[1:] != codes[:-1], True)]
    kept = both.take(pa.array(last))
    names = kept.column("key").combine_chunks().dictionary_decode()
    # Bytes of UTF-8, as ClickHouse compares strings.
    return kept.take(pa.compute.sort_indices(names.cast(pa.binary()))).combine_chunks()
