"""Sums tell sets of points apart, whatever their order and however they are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.importing.sums import Sums, distinct, hashes, take
from runstream.schemas.record import PointColumns

_NANS = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)


def _points(count: int, seed: int = 0) -> PointColumns:
    random = np.random.default_rng(seed)
    return PointColumns(
        ["run a", "run b"],
        ["loss", "é", "never"],
        random.integers(0, 2, count).astype(np.uint32),
        random.integers(0, 2, count).astype(np.uint32),
        np.arange(count),
        random.integers(0, 2**50, count),
        np.concatenate([_NANS, random.normal(size=count)])[:count],
        0,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 300), st.randoms())
def test_order_and_cuts_do_not_matter(count: int, cut: int, random: np.random.Generator) -> None:
    points = _points(count)
    whole, parts = Sums(), Sums()
    whole.add(points)
    order = np.random.default_rng(cut).permutation(count)
    for places in (order[:cut], order[cut:]):
        parts.add(take(points, places))
    assert not list(whole.differences(parts))
    assert not list(parts.differences(whole))
    assert whole.totals() == parts.totals()
    assert whole.totals().points == count
    assert whole.totals().nans == min(count, 3)


def test_one_bit_of_one_value_is_a_difference() -> None:
    points = _points(100)
    whole, other = Sums(), Sums()
    whole.add(points)
    for place in (1, 50):  # a NaN's payload, and a number's last bit
        changed = points.values.copy()
        changed.view(np.uint64)[place] ^= 1
        other = Sums()
        other.add(
            PointColumns(
                points.runs,
                points.keys,
                points.run_codes,
                points.key_codes,
                points.steps,
                points.timestamps,
                changed,
                0,
            )
        )
        (found,) = whole.differences(other)
        assert found[:2] == (points.runs[points.run_codes[place]], points.keys[points.key_codes[place]])
    (missing,) = (one for one in [whole.of("run a")] if one)
    assert set(missing) == {"loss", "é"}


def test_a_point_that_comes_twice_is_one() -> None:
    points = _points(50)
    twice = take(points, np.concatenate([np.arange(50), np.arange(0, 50, 7)]))
    assert np.array_equal(np.unique(hashes(twice)), np.unique(hashes(points)))
    assert np.array_equal(distinct(twice).steps, points.steps)
