"""Downsampling of very long series inside ClickHouse, so that millions of points need not leave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from query.downsample import Method, keep_positions
from query.selection import Selection
from query.series import Series
from schemas.database import Database, DatabaseError

# From here on a scan inside ClickHouse is cheaper than sending the points.
LONG_POINTS = 500_000
_TOO_MANY_GROUPS = 158

_EXTREMES = """
SELECT bitShiftRight(step, {shift:UInt8}) AS stretch, count() AS points,
    argMin((step, timestamp), value) AS low, argMax((step, timestamp), value) AS high,
    min(value) AS low_value, max(value) AS high_value
FROM metrics WHERE WHERE_CLAUSE AND isFinite(value) GROUP BY stretch
"""


def downsample_long(
    database: Database, selection: Selection, settings: Mapping[str, Any], max_points: int, method: Method
) -> Series | None:
    """At most ``max_points`` points, and the non-finite ones, of the one series that ``selection`` names.

    ``None`` if the series is not long, or its steps are so uneven that stretches of equal width say little:
    then read it. Blocks; raises ``DatabaseError``.

    Stretches are powers of two wide, so that neither end of the series has to be looked for first.
    """
    where, parameters = selection.where()
    count = _number(database.arrow(f"SELECT count() AS n FROM metrics WHERE {where}", parameters, settings))
    if count <= max(LONG_POINTS, 8 * max_points):
        return None
    stretches = 2 * max_points if method == "lttb" else max_points
    shift = max((count // stretches).bit_length() - 1, 0)
    try:
        found = database.arrow(
            _EXTREMES.replace("WHERE_CLAUSE", where),
            {**parameters, "shift": shift},
            {**settings, "max_rows_to_group_by": 8 * stretches + 65_536, "group_by_overflow_mode": "throw"},
        )
    except DatabaseError as error:
        if error.code == _TOO_MANY_GROUPS:
            return None
        raise
    if found.num_rows < stretches // 4 + 1:
        return None
    parts = [_extremes(found, "low"), _extremes(found, "high")]
    if int(found.column("points").to_numpy().sum()) != count:
        parts.append(_read(database, f"{where} AND NOT isFinite(value)", parameters, settings))
    ends = _read(database, where, parameters, settings, " ORDER BY step, timestamp, value LIMIT 1")
    last = {**parameters, "from": int(found.column("stretch").to_numpy().max()) << shift}
    tail = _read(database, f"{where} AND step >= {{from:Int64}}", last, settings)
    parts += [ends, tail.take(np.lexsort((tail.values, tail.timestamps, tail.steps))[-1:])]
    series = _distinct(parts)
    kept = keep_positions(series, max_points, method)
    return series if kept is None else series.take(kept)


def _number(table: pa.Table) -> int:
    return int(table.column("n")[0].as_py())


def _read(
    database: Database, where: str, parameters: Mapping[str, Any], settings: Mapping[str, Any], tail: str = ""
) -> Series:
    table = database.arrow(
        f"SELECT step, timestamp, value FROM metrics WHERE {where}{tail}", parameters, settings
    )
    return Series(
        table.column("step").to_numpy(),
        table.column("timestamp").to_numpy(),
        table.column("value").to_numpy(),
    )


def _extremes(found: pa.Table, which: str) -> Series:
    places = found.column(which).combine_chunks()
    return Series(
        places.field(0).to_numpy(zero_copy_only=False),
        places.field(1).to_numpy(zero_copy_only=False),
        found.column(f"{which}_value").to_numpy(),
    )


def _distinct(parts: list[Series]) -> Series:
    steps = np.concatenate([part.steps for part in parts])
    timestamps = np.concatenate([part.timestamps for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.lexsort((values, timestamps, steps))
    series = Series(steps, timestamps, values).take(order)
    same = (series.steps[1:] == series.steps[:-1]) & (series.timestamps[1:] == series.timestamps[:-1])
    left, right = series.values[:-1], series.values[1:]
    same &= (left == right) | (np.isnan(left) & np.isnan(right))
    return series.take(np.flatnonzero(np.concatenate(([True], ~same))))
