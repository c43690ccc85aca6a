"""One metric's points as arrays, and what MLflow defines on them: order, identity, sampling.

Points are compared as MLflow stores them (``SqlAlchemyStore.sanitize_metric_value``): infinities are the
largest doubles, -0.0 is 0.0, and NaN counts as 0 with a mark that makes it differ from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.mlflow.stored import as_stored

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one run and key; the three arrays have the shape ``(N,)``.

    ``timestamps`` are Unix milliseconds. No two points are equal.
    """

    steps: Ints
    timestamps: Ints
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return self.steps.nbytes + self.timestamps.nbytes + self.values.nbytes

    def take(self, positions: Ints | slice) -> Series:
        """The points at these positions, in their order."""
        return Series(self.steps[positions], self.timestamps[positions], self.values[positions])


EMPTY = Series(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def by_time(steps: Ints, timestamps: Ints, values: Floats) -> Series:
    """Distinct points as MLflow shows them, in the order (timestamp, step, value), as get-history returns
    them."""
    return _arrange(timestamps, steps, values, swapped=True)


def by_step(steps: Ints, timestamps: Ints, values: Floats) -> Series:
    """Distinct points as MLflow shows them, in the order (step, timestamp, value), as interval sampling
    sorts them."""
    return _arrange(steps, timestamps, values, swapped=False)


def _arrange(first: Ints, second: Ints, values: Floats, *, swapped: bool) -> Series:
    shown, is_nan = as_stored(values)
    # Tables are read in (nearly) this order already, so that the sort is the exception.
    if not _is_sorted(first, second, shown, is_nan):
        order = np.lexsort((is_nan, shown, second, first))
        first, second, shown, is_nan = first[order], second[order], shown[order], is_nan[order]
    if len(first) > 1:
        repeated = (
            (first[1:] == first[:-1])
            & (second[1:] == second[:-1])
            & (shown[1:] == shown[:-1])
            & (is_nan[1:] == is_nan[:-1])
        )
        if repeated.any():
            keep = np.concatenate(([True], ~repeated))
            first, second, shown, is_nan = first[keep], second[keep], shown[keep], is_nan[keep]
    shown[is_nan] = np.nan
    return Series(second, first, shown) if swapped else Series(first, second, shown)


def _is_sorted(first: Ints, second: Ints, shown: Floats, is_nan: Flags) -> bool:
    if len(first) < 2:
        return True
    if bool((first[1:] > first[:-1]).all()):
        return True
    ascending = shown[1:] > shown[:-1]
    ascending |= (shown[1:] == shown[:-1]) & (is_nan[1:] >= is_nan[:-1])
    ascending = (second[1:] > second[:-1]) | ((second[1:] == second[:-1]) & ascending)
    ascending = (first[1:] > first[:-1]) | ((first[1:] == first[:-1]) & ascending)
    return bool(ascending.all())


def ntile_positions(count: int, max_results: int) -> Ints:
    """Which of ``count`` ordered points MLflow's interval sampling keeps
    (``_sample_rows_with_window_functions``).

    The first of each of NTILE(``max_results``)'s buckets, the last of them replaced by the last point of all.
    """
    if count <= max_results:
        return np.arange(count, dtype=np.int64)
    size, larger = divmod(count, max_results)
    bucket = np.arange(max_results, dtype=np.int64)
    positions = bucket * size + np.minimum(bucket, larger)
    positions[-1] = count - 1
    return positions
