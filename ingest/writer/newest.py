"""The newest point of every series, by MLflow's rule: the largest (step, timestamp, value)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.limits import MAX_DOUBLE, MAX_KEY_LENGTH
from schemas.record import PointColumns

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
    order = np.lexsort((-rows, _stored(points.values[rows])[0], points.timestamps[rows], series[rows]))
    ordered = series[rows][order]
    last_of_series = np.append(ordered[1:] != ordered[:-1], True)
    rows = np.sort(rows[order[last_of_series]])
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


def latest_rows(points: PointColumns) -> LatestRows:
    """The rows for ``points``, which hold one point per series; series whose key does not fit are left out."""
    key_ranks, run_ranks = _ranks(points.keys), _ranks(points.runs)
    rows = np.lexsort((run_ranks[points.run_codes], key_ranks[points.key_codes]))
    fits = np.array([len(key) <= MAX_KEY_LENGTH and "\0" not in key for key in points.keys], bool)
    rows = rows[fits[points.key_codes[rows]]]
    values, is_nan = _stored(points.values[rows])
    return LatestRows(
        runs=[points.runs[code] for code in points.run_codes[rows].tolist()],
        keys=[points.keys[code] for code in points.key_codes[rows].tolist()],
        steps=points.steps[rows].tolist(),
        timestamps=points.timestamps[rows].tolist(),
        values=values.tolist(),
        is_nan=is_nan.tolist(),
    )


def _stored(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values as MLflow stores and compares them, and which are NaN (SqlAlchemyStore.sanitize_metric_value)."""
    is_nan = np.isnan(values)
    return np.clip(np.where(is_nan, 0.0, values), -MAX_DOUBLE, MAX_DOUBLE), is_nan


def _series(points: PointColumns) -> NDArray[np.int64]:
    """A number for each point's series; numbers are small, not necessarily without gaps."""
    series: NDArray[np.int64] = points.run_codes.astype(np.int64) * len(points.keys) + points.key_codes
    if len(points.runs) * len(points.keys) <= max(_DENSE_SLOTS, _DENSE_SLOTS_PER_POINT * len(points)):
        return series
    return np.asarray(np.unique(series, return_inverse=True)[1], np.int64)


def _ranks(names: list[str]) -> NDArray[np.int64]:
    """Each name's place in code point order, which is the order of Python, SQLite and COLLATE "C"."""
    ranks = np.empty(len(names), np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks
