"""Order, identity and sampling of points, against models that spell MLflow's rules out."""

from __future__ import annotations

import math
import sqlite3

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runstream.query.points.series import Series, by_step, by_time, ntile_positions

MAX = 1.7976931348623157e308
# Few different numbers, so that ties and repeats are common.
values = (
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, MAX, -MAX, 1e-300]) | st.floats()
)
small = st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1])
points = st.lists(st.tuples(small, small, values), max_size=60)


def stored(value: float) -> tuple[float, bool]:
    """``SqlAlchemyStore.sanitize_metric_value``."""
    if math.isnan(value):
        return 0.0, True
    return max(-MAX, min(MAX, value)), False


def columns(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
    )


def shown(series: Series) -> list[tuple[int, int, tuple[float, bool]]]:
    return [
        (step, timestamp, stored(value))
        for step, timestamp, value in zip(
            series.steps.tolist(), series.timestamps.tolist(), series.values.tolist(), strict=True
        )
    ]


@given(points)
def test_by_time_is_the_sorted_set_of_points(rows: list[tuple[int, int, float]]) -> None:
    expected = sorted({(t, s, stored(v)) for s, t, v in rows})
    assert shown(by_time(*columns(rows))) == [(s, t, v) for t, s, v in expected]


@given(points)
def test_by_step_is_the_sorted_set_of_points(rows: list[tuple[int, int, float]]) -> None:
    assert shown(by_step(*columns(rows))) == sorted({(s, t, stored(v)) for s, t, v in rows})


@given(points)
def test_values_are_shown_as_mlflow_shows_them(rows: list[tuple[int, int, float]]) -> None:
    series = by_time(*columns(rows))
    assert not np.isinf(series.values).any()
    assert not (np.signbit(series.values) & (series.values == 0)).any()


@given(st.integers(0, 300), st.integers(1, 60))
def test_sampling_keeps_what_mlflow_s_sql_keeps(count: int, max_results: int) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE points (position INTEGER)")
        connection.executemany("INSERT INTO points VALUES (?)", [(i,) for i in range(count)])
        kept = [
            row[0]
            for row in connection.execute(
                "SELECT min(position) FROM (SELECT position, ntile(?) OVER (ORDER BY position) AS bucket"
                " FROM points) GROUP BY bucket ORDER BY 1",
                (max_results,),
            )
        ]
    connection.close()
    if kept and kept[-1] != count - 1:
        if len(kept) >= max_results:
            kept[-1] = count - 1
        else:
            kept.append(count - 1)
    assert ntile_positions(count, max_results).tolist() == kept


def test_the_documented_example_of_sampling() -> None:
    assert ntile_positions(37, 5).tolist() == [0, 8, 16, 23, 36]
