"""Answers equal, byte for byte, what MLflow's handlers print for the same points."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runstream.query.mlflow.bodies import bulk_body, history_body, interval_body
from runstream.query.points.series import Series

int64 = st.integers(-(2**63), 2**63 - 1)
shown = st.floats(allow_infinity=False) | st.floats(1e-6, 1e-3) | st.floats(1e14, 1e18)
series = st.lists(st.tuples(int64, int64, shown), max_size=20).map(
    lambda rows: Series(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
    )
)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def rows(points: Series) -> list[tuple[int, int, float]]:
    return list(zip(points.steps.tolist(), points.timestamps.tolist(), points.values.tolist(), strict=True))


def text(value: float) -> float | str:
    return "NaN" if math.isnan(value) else value


@given(keys, series, st.none() | st.text("abc=", min_size=1))
def test_history(key: str, points: Series, token: str | None) -> None:
    message: dict[str, object] = {}
    if len(points):
        message["metrics"] = [
            {"key": key, "value": text(value), "timestamp": timestamp, "step": step}
            for step, timestamp, value in rows(points)
        ]
        if token is not None:
            message["next_page_token"] = token
    assert history_body(key, points, token) == json.dumps(message, indent=2).encode()


@given(keys, st.lists(st.tuples(keys, series), max_size=3))
def test_interval(key: str, found: list[tuple[str, Series]]) -> None:
    metrics = [
        {"key": key, "value": text(value), "timestamp": timestamp, "step": step, "run_id": run_id}
        for run_id, points in found
        for step, timestamp, value in rows(points)
    ]
    message = {"metrics": metrics} if metrics else {}
    assert interval_body(key, found) == json.dumps(message, indent=2).encode()


@given(keys, st.lists(st.tuples(keys, series), max_size=3))
def test_bulk(key: str, found: list[tuple[str, Series]]) -> None:
    metrics = [
        {"key": key, "run_id": run_id, "step": step, "timestamp": timestamp, "value": value}
        for run_id, points in found
        for step, timestamp, value in rows(points)
    ]
    expected = json.dumps({"metrics": metrics}, separators=(",", ":"), sort_keys=True) + "\n"
    assert bulk_body(key, found) == expected.encode()
