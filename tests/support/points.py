"""Points in columns, and ways to look at them row by row."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from runstream.schemas.record import PointColumns, RecordBuilder

Row = tuple[str, str, int, int, float]  # run, key, step, timestamp, value

KEYS = st.sampled_from(["a", "b", "é/ü", "k" * 200])
INT64 = st.integers(-(2**63), 2**63 - 1)


def rows(keys: st.SearchStrategy[str] = KEYS, max_size: int = 40) -> st.SearchStrategy[list[Row]]:
    """Lists of points; small pools of names, steps and timestamps so that they meet."""
    few = st.integers(-2, 2)
    return st.lists(
        st.tuples(
            st.sampled_from(["r1", "r2", "r3"]),
            keys,
            st.one_of(few, INT64),
            st.one_of(few, INT64),
            st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(allow_nan=True, allow_infinity=True)),
        ),
        max_size=max_size,
    )


def columns(points: Iterable[Row], created_at_ms: int = 1) -> PointColumns:
    """Points as ``PointColumns``, with dictionaries in order of appearance."""
    points = list(points)
    runs = list(dict.fromkeys(row[0] for row in points))
    keys = list(dict.fromkeys(row[1] for row in points))
    return PointColumns(
        runs=runs,
        keys=keys,
        run_codes=np.array([runs.index(row[0]) for row in points], np.uint32),
        key_codes=np.array([keys.index(row[1]) for row in points], np.uint32),
        steps=np.array([row[2] for row in points], np.int64),
        timestamps=np.array([row[3] for row in points], np.int64),
        values=np.array([row[4] for row in points], np.float64),
        created_at_ms=created_at_ms,
    )


def as_rows(points: PointColumns) -> list[Row]:
    """Points row by row."""
    return [
        (points.runs[run], points.keys[key], step, timestamp, value)
        for run, key, step, timestamp, value in zip(
            points.run_codes.tolist(),
            points.key_codes.tolist(),
            points.steps.tolist(),
            points.timestamps.tolist(),
            points.values.tolist(),
            strict=True,
        )
    ]


def exact(point: Row) -> tuple[str, str, int, int, bytes]:
    """A point that equals another only bit for bit."""
    return (*point[:4], struct.pack("<d", point[4]))


def record(points: Iterable[Row], created_at_ms: int = 1) -> bytes:
    """A queue record of the points."""
    builder = RecordBuilder(created_at_ms)
    for run, key, step, timestamp, value in points:
        builder.add(run, [key], [step], [timestamp], [value])
    return builder.build()
