"""Exact points of many series as a stream of Arrow batches, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runstream.query.points.selection import Selection
from runstream.schemas.ports.database import Database

NAME = pa.dictionary(pa.int32(), pa.string())
POINTS = pa.schema(
    [
        pa.field("run_id", NAME, nullable=False),
        pa.field("key", NAME, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
_AS_DICTIONARY = {"output_format_arrow_low_cardinality_as_dictionary": 1}
_ORDER = "ORDER BY run_id, key, step, timestamp, value"

Last = tuple[str, str, int, int, float]


def stream_points(
    database: Database,
    selection: Selection,
    settings: Mapping[str, Any],
    *,
    extra: str = "",
    extra_parameters: Mapping[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of ``POINTS``, ordered by all five columns, each point once. Blocks; raises ``DatabaseError``.

    ``extra`` is one more condition. Close the iterator to release the connection early.
    """
    for part in selection.parts():
        where, parameters = part.where()
        last: Last | None = None
        with database.arrow_stream(
            f"SELECT run_id, key, step, timestamp, value FROM metrics WHERE {where}{extra} {_ORDER}",
            {**parameters, **(extra_parameters or {})},
            {**settings, **_AS_DICTIONARY},
        ) as batches:
            for batch in batches:
                if not batch.num_rows:
                    continue
                distinct = without_repeats(_canonical(batch), last)
                last = _last_row(batch)
                if distinct.num_rows:
                    yield distinct


def without_repeats(batch: pa.RecordBatch, last: Last | None = None) -> pa.RecordBatch:
    """The rows of an ordered batch that differ from the row before; ``last`` is the row before the first.

    NaN equals NaN, and 0.0 equals -0.0.
    """
    run, key, step, timestamp, value = batch.columns
    repeated = np.zeros(batch.num_rows, np.bool_)
    steps = step.to_numpy()
    # Neighbours mostly differ in their steps; the other columns are compared only if some do not.
    same = steps[1:] == steps[:-1]
    if same.any():
        times = timestamp.to_numpy()
        same &= times[1:] == times[:-1]
        if same.any():
            numbers = value.to_numpy()
            same &= (numbers[1:] == numbers[:-1]) | (np.isnan(numbers[1:]) & np.isnan(numbers[:-1]))
            for names in (run, key):
                codes = names.indices.to_numpy()
                same &= codes[1:] == codes[:-1]
            repeated[1:] = same
    if last is not None:
        repeated[0] = _same_point(_first_row(batch), last)
    if not repeated.any():
        return batch
    return batch.filter(pa.array(~repeated))


def _canonical(batch: pa.RecordBatch) -> pa.RecordBatch:
    run, key, *numbers = batch.columns
    return pa.RecordBatch.from_arrays([_compact(run), _compact(key), *numbers], schema=POINTS)


def _compact(names: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same names with a dictionary of those that occur: ClickHouse sends the whole part's."""
    codes: NDArray[np.int32] = names.indices.to_numpy()
    used = np.zeros(len(names.dictionary), np.bool_)
    used[codes] = True
    kept = np.flatnonzero(used)
    renamed = np.zeros(len(used), np.int32)
    renamed[kept] = np.arange(len(kept), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(renamed[codes]), names.dictionary.take(pa.array(kept)))


def _first_row(batch: pa.RecordBatch) -> Last:
    row = batch.slice(0, 1).to_pylist()[0]
    return row["run_id"], row["key"], row["step"], row["timestamp"], row["value"]


def _last_row(batch: pa.RecordBatch) -> Last:
    return _first_row(batch.slice(batch.num_rows - 1))


def _same_point(left: Last, right: Last) -> bool:
    both_nan = left[4] != left[4] and right[4] != right[4]
    return left[:4] == right[:4] and (left[4] == right[4] or both_nan)
