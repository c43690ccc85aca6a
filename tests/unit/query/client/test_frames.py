"""Frames of points: a wide one shows of several points at a step the newest by MLflow's rule."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from runstream.query.client.frames import widen


@pytest.mark.parametrize(
    ("values", "newest"),
    [
        ([1.0, 2.0, math.nan], 2.0),
        ([-1.0, math.nan], math.nan),
        ([math.nan], math.nan),
        ([0.0, math.nan], 0.0),
    ],
)
def test_nan_counts_as_zero_where_timestamps_tie(values: list[float], newest: float) -> None:
    size = len(values)
    frame = pd.DataFrame(
        {
            "run_id": ["r"] * size,
            "key": ["k"] * size,
            "step": [3] * size,
            "timestamp": [7] * size,
            "value": values,
        }
    )
    assert widen(frame).loc[("r", 3), "k"] == pytest.approx(newest, nan_ok=True)


def test_the_newest_timestamp_wins() -> None:
    frame = pd.DataFrame(
        {
            "run_id": ["r"] * 2,
            "key": ["k"] * 2,
            "step": [3] * 2,
            "timestamp": [8, 7],
            "value": [math.nan, 5.0],
        }
    )
    assert widen(frame).loc[("r", 3), "k"] == pytest.approx(math.nan, nan_ok=True)
