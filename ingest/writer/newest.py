"""The newest point of every series, by MLflow's rule: the largest (step, timestamp, value)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.mlflow.limits import MAX_KEY_LENGTH
from runstream.schemas.mlflow.stored import as_stored
from runstream.schemas.names import Names
from runstream.schemas.record import PointColumns

# Up to this many possible series per point, one array slot for each is cheaper than sorting the points.
_DENSE_SLOTS_PER_POINT = 8
_DENSE_SLOTS = 1 << 16


@dataclass(frozen=True, slots=True)
class LatestRows:
    """Rows of MLflow's ``latest_metrics``, one per series, in the order of (key, run); equal lengths.

    ``values`` are finite: NaN is 0 with ``is_nan``, an infinity the largest double.
    """

    runs: list[str]
    keys: list[str]
    steps: list[int]
    timestamps: list[int]
    values: list[float]
    is_nan: list[bool]

    def __len__(self) -> int:
        return len(self.runs)


def newest(points: PointColumns) -> PointColumns:
    """One point per series: the largest by (step, timestamp, stored value), and among equals the first.

    (SqlAlchemyStore._update_latest_metrics_if_necessary, where only a strictly greater point replaces.)
    Costs a few array passes. Rows keep their order, so that ``newest(merge([newest(a), newest(b)]))`` is
    ``newest(merge([a, b]))``.
    """
    if not len(points):
        return points
    series = _series(points)
    top = np.full(int(series.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(top, series, points.steps)
    # Most points are behind their series' last step: only the others need a real comparison.
    rows = np.flatnonzero(points.steps == top[series])
    contested = np.bincount(series[rows])[series[rows]] > 1
    if contested.any():
        rows = np.sort(np.append(rows[~contested], _largest(points, series, rows[contested])))
    return PointColumns(
        runs=points.runs,
        keys=points.keys,
        run_codes=points.run_codes[rows],
        key_codes=points.key_codes[rows],
        steps=points.steps[rows],
        timestamps=points.timestamps[rows],
        values=points.values[rows],
        created_at_ms=points.created_at_ms,
    )


def _largest(points: PointColumns, series: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows that share their series' last step, the one for each series."""
    order = np.lexsort((-rows, as_stored(points.values[rows])[0], points.timestamps[rows], series[rows]))
    ordered = series[rows][order]
    largest: NDArray[np.int64] = rows[order[np.append(ordered[1:] != ordered[:-1], True)]]
    return largest


def latest_rows(points: PointColumns) -> LatestRows:
    """The rows for ``points``, which hold one point per series; series whose key does not fit are left out."""
    runs, keys = Names.of(points.runs), Names.of(points.keys)
    rows = np.argsort(keys.ranks()[points.key_codes] * len(runs) + runs.ranks()[points.run_codes])
    fits = (keys.characters() <= MAX_KEY_LENGTH) & ~keys.containing("\0")
    rows = rows[fits[points.key_codes[rows]]]
    values, is_nan = as_stored(points.values[rows])
    return LatestRows(
        runs=list(map(list(runs).__getitem__, points.run_codes[rows].tolist())),
        keys=keys.pick(points.key_codes[rows]),
        steps=points.steps[rows].tolist(),
        timestamps=points.timestamps[rows].tolist(),
        values=values.tolist(),
        is_nan=is_nan.tolist(),
    )


def _series(points: PointColumns) -> NDArray[np.int64]:
    """A number for each point's series; numbers are small, not necessarily without gaps."""
    series: NDArray[np.int64] = points.run_codes.astype(np.int64) * len(points.keys) + points.key_codes
    if len(points.runs) * len(points.keys) <= max(_DENSE_SLOTS, _DENSE_SLOTS_PER_POINT * len(points)):
        return series
    return np.asarray(np.unique(series, return_inverse=True)[1], np.int64)
