"""Metric values as MLflow's database has them, in whole columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.mlflow.limits import MAX_DOUBLE


def as_stored(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values as MLflow stores, compares and shows them, and which of them are NaN: NaN is 0 with a flag, infinities
    are the largest doubles, and there is one zero (``SqlAlchemyStore.sanitize_metric_value``). New arrays."""
    is_nan = np.isnan(values)
    stored = np.where(is_nan, 0.0, values)
    np.clip(stored, -MAX_DOUBLE, MAX_DOUBLE, out=stored)
    stored += 0.0  # makes -0.0 a 0.0
    return stored, is_nan
