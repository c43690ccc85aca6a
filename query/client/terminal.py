"""Curves as text: a plot in the terminal, drawn with Braille dots."""

from __future__ import annotations

import numpy as np
import pandas as pd

# Bits of the eight dots of a Braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_COLORS = (36, 33, 35, 32, 34, 31)
_MARGIN = 11


def text_plot(frame: pd.DataFrame, *, width: int = 80, height: int = 12, color: bool = True) -> str:
    """One plot per key, one line per run, over steps; ``width`` and ``height`` in characters.

    Points that are not finite are counted below the plot, not drawn.
    """
    plots = []
    for key in dict.fromkeys(frame["key"].astype(str)):
        curves = [
            (str(run_id), points["step"].to_numpy(), points["value"].to_numpy())
            for run_id, points in frame[frame["key"] == key].groupby("run_id", observed=True)
        ]
        plots.append(_plot(key, curves, max(width - _MARGIN - 1, 10), max(height, 3), color))
    return "\n\n".join(plots)


def _plot(
    key: str, curves: list[tuple[str, np.ndarray, np.ndarray]], width: int, height: int, color: bool
) -> str:
    steps = np.concatenate([curve[1] for curve in curves]).astype(np.float64)
    values = np.concatenate([curve[2] for curve in curves])
    finite = np.isfinite(values)
    lines = [key]
    if finite.any():
        left, right = steps[finite].min(), steps[finite].max()
        low, high = values[finite].min(), values[finite].max()
        cells = np.zeros((height, width), np.uint8)
        owners = np.zeros((height, width), np.uint8)
        for number, (_, x, y) in enumerate(curves):
            shown = np.isfinite(y)
            across = _places(x[shown].astype(np.float64), left, right, 2 * width)
            down = 4 * height - 1 - _places(y[shown], low, high, 4 * height)
            _line(cells, owners, across, down, number % len(_COLORS))
        labels = {0: _number(high), height - 1: _number(low)}
        for row in range(height):
            text = "".join(
                _paint(chr(0x2800 + int(cell)), int(owner), color and len(curves) > 1)
                for cell, owner in zip(cells[row], owners[row], strict=True)
            )
            lines.append(f"{labels.get(row, ''):>{_MARGIN - 1}} │{text}")
        ends = f"{left:.0f}", f"{right:.0f}"
        lines.append(" " * (_MARGIN + 1) + ends[0] + ends[1].rjust(width - len(ends[0])))
    if len(curves) > 1:
        names = (
            _paint(run_id[:8], number % len(_COLORS), color) for number, (run_id, _, _) in enumerate(curves)
        )
        lines.append(" " * (_MARGIN + 1) + "  ".join(names))
    if not finite.all():
        lines.append(f"{int((~finite).sum())} of {len(values)} points are NaN or infinite")
    return "\n".join(lines)


def _places(numbers: np.ndarray, low: float, high: float, size: int) -> np.ndarray:
    """Positions 0 to ``size`` - 1; halves, so that the range of large numbers does not overflow."""
    span = high / 2 - low / 2
    if span == 0:
        return np.full(len(numbers), size // 2, np.int64)
    return np.rint((numbers / 2 - low / 2) / span * (size - 1)).astype(np.int64)


def _line(cells: np.ndarray, owners: np.ndarray, across: np.ndarray, down: np.ndarray, owner: int) -> None:
    if len(across) == 0:
        return
    xs, ys = [across[:1]], [down[:1]]
    for start in range(len(across) - 1):
        count = int(max(abs(across[start + 1] - across[start]), abs(down[start + 1] - down[start]), 1))
        share = np.arange(1, count + 1) / count
        xs.append(np.rint(across[start] + share * (across[start + 1] - across[start])).astype(np.int64))
        ys.append(np.rint(down[start] + share * (down[start + 1] - down[start])).astype(np.int64))
    x, y = np.concatenate(xs), np.concatenate(ys)
    bits = np.array(_DOTS, np.uint8)[y % 4, x % 2]
    np.bitwise_or.at(cells, (y // 4, x // 2), bits)
    owners[y // 4, x // 2] = owner


def _paint(text: str, owner: int, color: bool) -> str:
    return f"\x1b[{_COLORS[owner]}m{text}\x1b[0m" if color else text


def _number(value: float) -> str:
    return f"{value:.4g}"
