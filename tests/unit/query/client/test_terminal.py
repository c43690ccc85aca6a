"""Plots as text."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from runstream.query.client.terminal import text_plot


def frame(values: list[float], run: str = "a", key: str = "loss") -> pd.DataFrame:
    return pd.DataFrame({"run_id": run, "key": key, "step": range(len(values)), "value": values})


def test_a_line_goes_from_corner_to_corner() -> None:
    lines = text_plot(
        frame([float(step) for step in range(50)]), width=40, height=6, color=False
    ).splitlines()
    assert lines[0] == "loss"
    assert lines[1].startswith("        49 │")
    assert lines[6].startswith("         0 │")
    assert lines[1][-1] != "⠀"
    assert lines[6].split("│")[1][0] != "⠀"
    assert lines[7].split() == ["0", "49"]


@pytest.mark.parametrize(
    "values", [[1.0], [2.0] * 10, [1e308, -1e308], [math.nan, 1.0, math.inf], [math.nan], [5e-324, 0.0]]
)
def test_odd_curves(values: list[float]) -> None:
    text = text_plot(frame(values), width=30, height=4, color=False)
    odd = sum(not math.isfinite(value) for value in values)
    assert ("NaN or infinite" in text) == bool(odd)
    assert all(len(line) <= 45 for line in text.splitlines())


def test_runs_and_keys() -> None:
    curves = [frame(list(np.random.rand(9)), run, key) for run in ("first", "second") for key in ("x", "y")]
    text = text_plot(pd.concat(curves), color=True)
    assert text.count("│") == 24
    assert "first" in text
    assert "\x1b[33m" in text
