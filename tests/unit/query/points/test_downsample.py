"""Fewer points, the same curve: what must never be lost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.query.points.downsample import Method, keep_positions
from runstream.query.points.series import Series

int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
anything = finite | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
methods = st.sampled_from(["lttb", "minmax"])


@st.composite
def series(draw: st.DrawFn, values: st.SearchStrategy[float]) -> Series:
    steps = sorted(draw(st.lists(st.integers(0, 30) | int64, min_size=1, max_size=80)))
    size = len(steps)
    timestamps = draw(st.lists(st.integers(0, 2**63 - 1), min_size=size, max_size=size))
    numbers = draw(st.lists(values, min_size=size, max_size=size))
    return Series(np.array(steps, np.int64), np.array(timestamps, np.int64), np.array(numbers, np.float64))


@given(series(anything), st.integers(4, 60), methods)
def test_what_stays(points: Series, max_points: int, method: Method) -> None:
    kept = keep_positions(points, max_points, method)
    if len(points) <= max_points:
        assert kept is None
        return
    assert kept is not None
    positions = kept.tolist()
    assert positions == sorted(set(positions))
    assert positions[0] == 0
    assert positions[-1] == len(points) - 1
    assert len(positions) <= max_points
    ends = ends_of_odd_stretches(points.values)
    if len(ends) <= max_points // 2:
        assert ends <= set(positions)


def ends_of_odd_stretches(values: np.ndarray) -> set[int]:
    kinds = ["finite" if math.isfinite(value) else repr(value) for value in values.tolist()]
    ends: set[int] = set()
    for kind, stretch in itertools.groupby(range(len(kinds)), key=kinds.__getitem__):
        places = list(stretch)
        if kind != "finite":
            ends |= {places[0], places[-1]}
    return ends


@pytest.mark.parametrize("method", ["lttb", "minmax"])
def test_a_training_that_diverged_shows_where(method: Method) -> None:
    values = np.concatenate((1 / np.arange(1, 1001), np.full(19_000, math.nan)))
    points = Series(np.arange(20_000), np.arange(20_000), values)
    kept = keep_positions(points, 100, method)
    assert kept is not None
    assert len(kept) <= 100
    assert [place for place in kept.tolist() if place >= 1000] == [1000, 19_999]


@pytest.mark.parametrize("method", ["lttb", "minmax"])
def test_many_holes_leave_room_for_the_curve(method: Method) -> None:
    values = np.sin(np.arange(20_000) / 100)
    values[::2] = math.nan
    points = Series(np.arange(20_000), np.arange(20_000), values)
    kept = keep_positions(points, 100, method)
    assert kept is not None
    assert len(kept) <= 100
    assert np.isfinite(values[kept]).sum() >= 40
    assert np.isnan(values[kept]).sum() >= 40


@given(series(finite), st.integers(4, 60))
def test_extremes_stay(points: Series, max_points: int) -> None:
    kept = keep_positions(points, max_points, "minmax")
    if kept is not None:
        assert points.values[kept].min() == points.values.min()
        assert points.values[kept].max() == points.values.max()


@pytest.mark.parametrize("method", ["lttb", "minmax"])
@pytest.mark.parametrize("size", [1_000, 200_000])
def test_a_spike_is_seen(method: Method, size: int) -> None:
    values = np.sin(np.arange(size) / 100)
    values[size // 3] = 50.0
    values[size // 2] = -50.0
    points = Series(np.arange(size), np.arange(size), values)
    kept = keep_positions(points, 100, method)
    assert kept is not None
    assert {50.0, -50.0} <= set(values[kept].tolist())
