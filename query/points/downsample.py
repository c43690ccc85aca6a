"""Fewer points of a series that show the same curve.

Whatever the method: never more than ``max_points``, a series of at most so many is exact, and the first and the last
point stay. Of each stretch of NaN, or of one infinity, its two ends stay; if they would take more than half of
``max_points``, as many of them as that, evenly. The rest is for what is finite: ``minmax`` keeps the smallest and the
largest value of each of equally wide stretches, ``lttb`` (largest triangle, three buckets) what an eye would draw the
curve through.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tsdownsample import LTTBDownsampler

from runstream.query.points.series import Floats, Series

Method = Literal["lttb", "minmax"]
# Above this LTTB picks among the extremes of short stretches (MinMaxLTTB), which looks the same and is
# cheaper.
_PLAIN_LTTB_POINTS = 50_000

Positions = NDArray[np.int64]


def keep_positions(series: Series, max_points: int, method: Method) -> Positions | None:
    """Which points of an ordered series to keep, ascending; ``None`` for all. ``max_points`` is at least 4."""
    if len(series) <= max_points:
        return None
    x = axis(series)
    finite = np.isfinite(series.values)
    if finite.all():
        return _of_finite(x, series.values, max_points, method)
    odd, even = ends_of_odd(x, series.values, max_points // 2), np.flatnonzero(finite)
    left = max_points - len(odd)
    if len(even) > left:
        even = even[_of_finite(x[even] - x[even[0]], series.values[even], left, method)]
    return np.union1d(even, odd)


def ends_of_odd(x: Floats, values: Floats, most: int) -> Positions:
    """The ends of stretches of NaN, and of either infinity; of more than ``most`` those that are spread best."""
    kind = np.select([np.isnan(values), values == np.inf, values == -np.inf], [1, 2, 3], 0)
    changes = np.concatenate(([True], kind[1:] != kind[:-1], [True]))
    ends = np.flatnonzero((changes[:-1] | changes[1:]) & (kind > 0))
    if len(ends) <= most:
        return ends
    # The first of each of equally wide stretches, and the last of all.
    places = max(most - 1, 1)
    place = np.minimum((x[ends] * (places / max(x[-1], 1.0))).astype(np.int64), places - 1)
    chosen = np.concatenate(([True], place[1:] != place[:-1]))
    chosen[-1] = True
    return ends[chosen]


def _of_finite(x: Floats, values: Floats, max_points: int, method: Method) -> Positions:
    if max_points < 4:
        return np.unique([0, len(values) - 1])
    if method == "minmax":
        return _extremes(x, values, (max_points - 2) // 2)
    if len(values) <= _PLAIN_LTTB_POINTS:
        return _lttb(x, values, max_points)
    chosen = _extremes(x, values, 2 * max_points)
    return chosen[_lttb(x[chosen], values[chosen], max_points)]


def _lttb(x: Floats, values: Floats, max_points: int) -> Positions:
    if len(x) <= max_points:
        return np.arange(len(x))
    sampler = LTTBDownsampler()  # type: ignore[no-untyped-call]
    kept = sampler.downsample(x, _moderate(values), n_out=max_points)
    return np.unique(kept.astype(np.int64))


def _extremes(x: Floats, values: Floats, stretches: int) -> Positions:
    """The first, the last, and the first smallest and first largest of each stretch; ``x`` ascends from 0."""
    return extremes_of(
        np.minimum((x * (stretches / max(x[-1], 1.0))).astype(np.int64), stretches - 1), values
    )


def extremes_of(stretch: NDArray[np.int64], values: Floats) -> Positions:
    """The first, the last, and the first smallest and first largest of each stretch; stretches ascend, values
    are finite."""
    starts = np.flatnonzero(np.concatenate(([True], stretch[1:] != stretch[:-1])))
    lengths = np.diff(np.concatenate((starts, [len(values)])))
    kept = [np.array([0, len(values) - 1])]
    for reduce in (np.minimum, np.maximum):
        extremes = np.repeat(reduce.reduceat(values, starts), lengths)
        hits = np.flatnonzero(values == extremes)
        first = np.concatenate(([True], stretch[hits[1:]] != stretch[hits[:-1]]))
        kept.append(hits[first])
    return np.unique(np.concatenate(kept))


def axis(series: Series) -> Floats:
    """What a curve is drawn over, from 0: steps, or, where everything was logged at one step, time."""
    places = series.steps if series.steps[0] != series.steps[-1] else np.sort(series.timestamps)
    # Unsigned, because the distance of two int64 can be beyond int64.
    unsigned = places.astype(np.uint64)
    distances: Floats = (unsigned - unsigned[0]).astype(np.float64)
    return distances


def _moderate(values: Floats) -> Floats:
    """The values scaled so that areas of triangles neither overflow nor vanish; the choice is the same."""
    largest = float(np.abs(values).max())
    if 1e-100 < largest < 1e100 or largest == 0:
        return np.ascontiguousarray(values)
    return values / largest
