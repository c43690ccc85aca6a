"""One line per series: its ends, its extremes and where they are, its mean, its counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.points.stream import NAME

_PLACES = ("first", "last", "min", "max")
SUMMARY = pa.schema(
    [
        pa.field("run_id", NAME, nullable=False),
        pa.field("key", NAME, nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("nan_count", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),
        *[
            pa.field(f"{place}{what}", kind)
            for place in _PLACES
            for what, kind in (("", pa.float64()), ("_step", pa.int64()), ("_timestamp", pa.int64()))
        ],
    ]
)
_BATCH_ROWS = 16_384

# A partial summary: counts, sum of what is not NaN, then (value, step, timestamp) of each place; the
# extremes of a series of NaN alone are None.
_Place = tuple[float, int, int] | None
_Partial = tuple[int, int, float, _Place, _Place, _Place, _Place]


def summarize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of ``SUMMARY`` from ordered, exact points (``stream_points``).

    NaN is counted, and left out of the rest but the first and the last point. Of equal extremes the
    earliest counts.
    """
    rows: list[tuple[str, str, _Partial]] = []
    for run_id, key, partial in _partials(batches):
        if rows and rows[-1][:2] == (run_id, key):
            rows[-1] = (run_id, key, _merge(rows[-1][2], partial))
            continue
        if len(rows) >= _BATCH_ROWS:
            yield _batch(rows)
            rows = []
        rows.append((run_id, key, partial))
    if rows:
        yield _batch(rows)


def _partials(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, str, _Partial]]:
    for batch in batches:
        run, key, step, timestamp, value = batch.columns
        runs, keys = run.indices.to_numpy(), key.indices.to_numpy()
        starts = np.concatenate(([0], np.flatnonzero((runs[1:] != runs[:-1]) | (keys[1:] != keys[:-1])) + 1))
        ends = np.concatenate((starts[1:], [batch.num_rows]))
        steps, times, values = step.to_numpy(), timestamp.to_numpy(), value.to_numpy()
        is_nan = np.isnan(values)
        counts = ends - starts
        nans = np.add.reduceat(is_nan.astype(np.int64), starts)
        with np.errstate(invalid="ignore", over="ignore"):
            sums = np.add.reduceat(np.where(is_nan, 0.0, values), starts)
        smallest = _positions(np.where(is_nan, np.inf, values), is_nan, starts, counts, np.minimum)
        largest = _positions(np.where(is_nan, -np.inf, values), is_nan, starts, counts, np.maximum)
        run_names, key_names = run.dictionary.to_pylist(), key.dictionary.to_pylist()

        first, last = _first_and_last(starts, ends, steps, times, values)

        def at(position: int, steps: Any = steps, times: Any = times, values: Any = values) -> _Place:
            if position < 0:
                return None
            return float(values[position]), int(steps[position]), int(times[position])

        for series, start in enumerate(starts.tolist()):
            yield (
                run_names[runs[start]],
                key_names[keys[start]],
                (
                    int(counts[series]),
                    int(nans[series]),
                    float(sums[series]),
                    at(int(first[series])),
                    at(int(last[series])),
                    at(int(smallest[series])),
                    at(int(largest[series])),
                ),
            )


def _first_and_last(starts: Any, ends: Any, steps: Any, times: Any, values: Any) -> tuple[Any, Any]:
    """Where each series begins and ends by (step, timestamp, value), NaN being 0; the table has NaN last."""
    first, last = starts.copy(), ends - 1
    # Where step and timestamp are those of the row before: all else is in order.
    tied = np.concatenate(([False], (steps[1:] == steps[:-1]) & (times[1:] == times[:-1])))
    tied[starts] = False
    nans = np.flatnonzero(tied & np.isnan(values))
    series = np.searchsorted(starts, nans, "right") - 1
    for row, of in zip(nans.tolist(), series.tolist(), strict=True):
        if row == last[of] and values[row - 1] >= 0:
            last[of] = row - 1
        start = starts[of]
        if steps[row] == steps[start] and times[row] == times[start] and values[start] >= 0:
            first[of] = row
    return first, last


def _order(place: _Place) -> tuple[int, int, float, bool]:
    """MLflow's order of points; NaN comes just before 0. The first and the last point are never ``None``."""
    assert place is not None
    value, step, timestamp = place
    return (step, timestamp, 0.0, False) if math.isnan(value) else (step, timestamp, value, True)


def _positions(numbers: Any, is_nan: Any, starts: Any, counts: Any, reduce: Any) -> Any:
    """Where each series' extreme is first, -1 if it is all NaN."""
    extremes = np.repeat(reduce.reduceat(numbers, starts), counts)
    hits = np.flatnonzero((numbers == extremes) & ~is_nan)
    series = np.repeat(np.arange(len(starts)), counts)[hits]
    found = np.full(len(starts), -1, np.int64)
    # Backwards, so that the earliest is the one that stays.
    found[series[::-1]] = hits[::-1]
    return found


def _merge(left: _Partial, right: _Partial) -> _Partial:
    return (
        left[0] + right[0],
        left[1] + right[1],
        left[2] + right[2],
        left[3] if _order(left[3]) <= _order(right[3]) else right[3],
        right[4] if _order(left[4]) <= _order(right[4]) else left[4],
        right[5] if left[5] is None or (right[5] is not None and right[5][0] < left[5][0]) else left[5],
        right[6] if left[6] is None or (right[6] is not None and right[6][0] > left[6][0]) else left[6],
    )


def _batch(rows: list[tuple[str, str, _Partial]]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [] for name in SUMMARY.names}
    for run_id, key, (count, nans, total, *places) in rows:
        columns["run_id"].append(run_id)
        columns["key"].append(key)
        columns["count"].append(count)
        columns["nan_count"].append(nans)
        columns["mean"].append(total / (count - nans) if count > nans else None)
        for name, place in zip(_PLACES, places, strict=True):
            value, step, timestamp = place if place is not None else (None, None, None)
            columns[name].append(value)
            columns[f"{name}_step"].append(step)
            columns[f"{name}_timestamp"].append(timestamp)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[field.name]).dictionary_encode()
            if field.type == NAME
            else pa.array(columns[field.name], field.type)
            for field in SUMMARY
        ],
        schema=SUMMARY,
    )
