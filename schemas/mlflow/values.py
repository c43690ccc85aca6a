"""What MLflow's JSON says for numbers that JSON lacks: protobuf's names, as strings."""

from __future__ import annotations

import math

BY_NAME = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_number(value: float) -> float | str:
    """The value itself if it is finite, else its name."""
    if value - value == 0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
