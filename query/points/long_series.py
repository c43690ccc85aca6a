"""Downsampling of very long series inside ClickHouse, so that millions of points need not leave it.

A series is cut into stretches of ``2**shift`` steps, several to a bucket of the answer. The extremes of each come from
rollups (``runstream.query.points.rollups``) where parts have them, and from a scan of the other parts. Extremes of
several sources of a stretch are candidates side by side; the final choice compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.points.downsample import Method, axis, ends_of_odd, extremes_of, keep_positions
from runstream.query.points.parts import active_parts
from runstream.query.points.rollups import Rollup, find_rollup
from runstream.query.points.selection import Selection
from runstream.query.points.series import Series
from runstream.schemas.ports.database import Database, DatabaseError

# From here on a scan inside ClickHouse is cheaper than sending the points.
LONG_POINTS = 500_000
# Stretches of a bucket, at least: a bucket is a whole number of them, so this is how even buckets can be.
_STRETCHES_PER_BUCKET = 4
_MAX_GROUPS = 1 << 18
_TOO_MANY_GROUPS = 158
_EDGES = ("low", "high")
_ENDS = ("first", "last")

# Step and timestamp apart: over tuples, argMin takes half as long again. Both see the same rows in the same order, so
# that they name one point.
_EXTREMES = """
SELECT count() AS points, min(value) AS low, max(value) AS high,
    argMin(step, value) AS low_step, argMin(timestamp, value) AS low_timestamp,
    argMax(step, value) AS high_step, argMax(timestamp, value) AS high_timestamp
FROM metrics WHERE WHERE_CLAUSE AND isFinite(value) GROUP BY bitShiftRight(step, {shift:UInt8})
"""
# What is not finite: of each kind in a stretch the first and the last, however many there are.
_ODD = """
SELECT any(value) AS kind, min((step, timestamp)) AS first, max((step, timestamp)) AS last,
    first.1 AS first_step, first.2 AS first_timestamp, last.1 AS last_step, last.2 AS last_timestamp
FROM metrics WHERE WHERE_CLAUSE AND NOT isFinite(value)
GROUP BY bitShiftRight(step, {shift:UInt8}), if(isNaN(value), 0, sign(value))
"""
_FIRST = " ORDER BY step, timestamp, value LIMIT 1"
_LAST = " ORDER BY step DESC, timestamp DESC, value DESC NULLS FIRST LIMIT 1"


def downsample_long(
    database: Database, selection: Selection, settings: Mapping[str, Any], max_points: int, method: Method
) -> Series | None:
    """At most ``max_points`` points of the one series that ``selection`` names.

    ``None`` if the series is not long, or its steps are so uneven that stretches of equal width say little:
    then read it. Blocks; raises ``DatabaseError``.
    """
    return _LongSeries(database, selection, settings).thinned(max_points, method)


class _LongSeries:
    """One question about one series; it asks ClickHouse several times, and the answers may differ by what was
    inserted meanwhile."""

    def __init__(self, database: Database, selection: Selection, settings: Mapping[str, Any]) -> None:
        assert selection.keys is not None
        self._database = database
        self._selection = selection
        self._settings = settings
        self._run, self._key = selection.runs[0], selection.keys[0]

    def thinned(self, max_points: int, method: Method) -> Series | None:
        """See ``downsample_long``."""
        count = self._count()
        if count <= max(LONG_POINTS, 8 * max_points):
            return None
        ends = _join([self._read(self._selection, tail=_FIRST), self._read(self._selection, tail=_LAST)])
        first, last = int(ends.steps[0]), int(ends.steps[-1])
        wanted = _STRETCHES_PER_BUCKET * ((max_points - 2) // 2 if method == "minmax" else 2 * max_points)
        found = self._from_rollups(first, last, wanted)
        if found is None:
            shift = min(max(((last - first + 1) // wanted).bit_length() - 1, 0), 62)
            scanned = self._extremes(self._selection, shift, count)
            if scanned is None or len(scanned) < wanted // 8:
                return None
            found = shift, scanned
        shift, chosen = found
        series = _distinct([ends, chosen])
        if method == "minmax":
            return series.take(_of_buckets(series, shift, max_points))
        kept = keep_positions(series, max_points, method)
        return series if kept is None else series.take(kept)

    def _from_rollups(self, first: int, last: int, wanted: int) -> tuple[int, Series] | None:
        """Width of stretches and candidates from rollups, with what they do not cover read from the table."""
        if self._selection.time != (None, None):
            return None
        parts = active_parts(self._database)
        rollup = find_rollup(self._database, self._run, self._key, parts) if parts else None
        if rollup is None or (last - first) >> rollup.shift < wanted:
            return None
        chosen, edges = rollup.points, []
        if self._selection.steps != (None, None):
            # What a rollup says of a stretch that lies only partly in the range may be about points outside.
            low, high = -(-first >> rollup.shift), (last + 1 >> rollup.shift) - 1
            stretch = chosen.steps >> rollup.shift
            chosen = chosen.take(np.flatnonzero((stretch >= low) & (stretch <= high)))
            edges = [(first, (low << rollup.shift) - 1), (high + 1 << rollup.shift, last)]
        sources = [chosen, *(self._read(replace(self._selection, steps=e)) for e in edges if e[0] <= e[1])]
        rest = self._extremes(self._selection, rollup.shift, None, rollup)
        if rest is None:
            return None
        return rollup.shift, _join([*sources, rest])

    def _extremes(
        self, selection: Selection, shift: int, count: int | None, without: Rollup | None = None
    ) -> Series | None:
        """Each stretch's smallest and largest point and the ends of what is not finite; ``None`` for too many
        stretches."""
        where, parameters = self._where(selection)
        if without is not None:
            # Not "in the others": a part that has just been merged into a new one would be left out.
            where += " AND _part NOT IN {known:Array(String)}"
            parameters["known"] = [part.name for part in without.parts]
        parameters["shift"] = shift
        try:
            found = self._groups(_EXTREMES, where, parameters)
            candidates = [_columns(found, f"{which}_step", f"{which}_timestamp", which) for which in _EDGES]
            if count is None or int(found.column("points").to_numpy().sum()) != count:
                odd = self._groups(_ODD, where, parameters)
                candidates += [_columns(odd, f"{end}_step", f"{end}_timestamp", "kind") for end in _ENDS]
        except DatabaseError as error:
            if error.code == _TOO_MANY_GROUPS:
                return None
            raise
        return _join(candidates)

    def _groups(self, statement: str, where: str, parameters: Mapping[str, Any]) -> pa.Table:
        bounds = {"max_rows_to_group_by": _MAX_GROUPS, "group_by_overflow_mode": "throw"}
        return self._database.arrow(
            statement.replace("WHERE_CLAUSE", where), parameters, {**self._settings, **bounds}
        )

    def _read(self, selection: Selection, tail: str = "") -> Series:
        where, parameters = self._where(selection)
        return _series(self._arrow(where + tail, parameters))

    def _count(self) -> int:
        where, parameters = self._where(self._selection)
        table = self._database.arrow(
            f"SELECT count() AS n FROM metrics WHERE {where}", parameters, self._settings
        )
        return int(table.column("n")[0].as_py())

    def _where(self, selection: Selection) -> tuple[str, dict[str, Any]]:
        # Equalities, so that ClickHouse sees that the rest of the sorting key is in order.
        where, parameters = replace(selection, keys=None).where()
        where = where.replace(
            "run_id IN {runs:Array(String)}", "run_id = {run:String} AND key = {key:String}"
        )
        del parameters["runs"]
        return where, {**parameters, "run": self._run, "key": self._key}

    def _arrow(self, where: str, parameters: Mapping[str, Any]) -> pa.Table:
        return self._database.arrow(
            f"SELECT step, timestamp, value FROM metrics WHERE {where}", parameters, self._settings
        )


def _of_buckets(series: Series, shift: int, max_points: int) -> Any:
    """Of the finite points the first, the last and the extremes of buckets that are whole numbers of stretches; of the
    others as ``ends_of_odd`` chooses."""
    odd = ends_of_odd(axis(series), series.values, max_points // 2)
    finite = np.flatnonzero(np.isfinite(series.values))
    buckets = (max_points - len(odd) - 2) // 2
    if not len(finite) or not buckets:
        return np.union1d(odd, finite[[0, -1]] if len(finite) else finite)
    stretch = (series.steps >> shift).astype(np.uint64)
    stretch -= stretch[0]
    width = int(stretch[-1]) // buckets + 1
    bucket = (stretch // np.uint64(width)).astype(np.int64)
    return np.union1d(odd, finite[extremes_of(bucket[finite], series.values[finite])])


def _columns(table: pa.Table, step: str, timestamp: str, value: str) -> Series:
    return Series(*(table.column(name).to_numpy() for name in (step, timestamp, value)))


def _series(table: pa.Table) -> Series:
    return _columns(table, "step", "timestamp", "value")


def _join(parts: Sequence[Series]) -> Series:
    return Series(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _distinct(parts: list[Series]) -> Series:
    series = _join(parts)
    series = series.take(np.lexsort((series.values, series.timestamps, series.steps)))
    same = (series.steps[1:] == series.steps[:-1]) & (series.timestamps[1:] == series.timestamps[:-1])
    left, right = series.values[:-1], series.values[1:]
    same &= (left == right) | (np.isnan(left) & np.isnan(right))
    return series.take(np.flatnonzero(np.concatenate(([True], ~same))))
