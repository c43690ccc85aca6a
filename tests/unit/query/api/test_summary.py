"""The line about a series: its ends follow MLflow's order of points, where NaN counts as 0."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.query.api.summary import summarize
from runstream.query.points.stream import POINTS

Row = tuple[str, int, int, float]  # key, step, timestamp, value
values = st.sampled_from([-1.0, 0.0, 2.0, math.nan, math.inf])
rows = st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 1), values), min_size=1)


def batch(some: list[Row]) -> pa.RecordBatch:
    keys, steps, times, numbers = zip(*some, strict=True)
    columns = [
        pa.array(["run"] * len(some)).dictionary_encode(),
        pa.array(keys).dictionary_encode(),
        pa.array(steps, pa.int64()),
        pa.array(times, pa.int64()),
        pa.array(np.array(numbers, np.float64), from_pandas=False),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=POINTS)


def ordered(row: Row) -> tuple[int, int, float, bool]:
    _, step, timestamp, value = row
    return step, timestamp, 0.0 if math.isnan(value) else value, not math.isnan(value)


def in_table(row: Row) -> tuple[str, int, int, bool, float]:
    key, step, timestamp, value = row
    return key, step, timestamp, math.isnan(value), 0.0 if math.isnan(value) else value


@given(rows, st.integers(1, 5))
def test_first_and_last(some: set[Row], size: int) -> None:
    table = sorted(some, key=in_table)
    found = list(summarize(batch(table[at : at + size]) for at in range(0, len(table), size)))
    lines = {row["key"]: row for row in pa.Table.from_batches(found).to_pylist()}
    for key in {row[0] for row in some}:
        of_key = sorted((row for row in some if row[0] == key), key=ordered)
        for end, expected in (("first", of_key[0]), ("last", of_key[-1])):
            line = lines[key]
            assert (line[f"{end}_step"], line[f"{end}_timestamp"]) == expected[1:3]
            assert line[end] == pytest.approx(expected[3], nan_ok=True)
        assert lines[key]["count"] == len(of_key)
