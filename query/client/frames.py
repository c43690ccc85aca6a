"""Results as data frames: tidy, wide, and drawn."""

from __future__ import annotations

import io
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

As = Literal["pandas", "polars", "arrow", "wide"]


class Plotter:
    """What ``MetricsFrame.plot`` is: to be called, or pandas' accessor."""

    def __init__(self, frame: MetricsFrame) -> None:
        self._frame = frame

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Draw one set of axes per key and one line per run, over steps; returns the matplotlib figure.

        ``x`` may be ``"timestamp"``, ``log=True`` gives a logarithmic axis. A frame that has lost its
        columns, or a call with arguments of pandas' own, is drawn as pandas does.
        """
        ours = {"x", "log", "figsize"}
        whole = {"run_id", "key", "step", "value"} <= set(self._frame.columns)
        if args or not set(options) <= ours or not whole:
            return pd.DataFrame(self._frame).plot(*args, **options)
        return draw(self._frame, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(pd.DataFrame(self._frame).plot, name)


class MetricsFrame(pd.DataFrame):
    """A tidy frame of points (run_id, key, step, timestamp, value): a pandas frame that knows how to draw
    itself.

    ``run_id`` and ``key`` are categories, ``timestamp`` is Unix milliseconds.
    """

    @property
    def _constructor(self) -> Any:
        return MetricsFrame

    @property
    def plot(self) -> Any:
        """``plot()`` draws one set of axes per key and one line per run (``Plotter``); ``plot.line`` and the others
        are pandas' own."""
        return Plotter(self)

    def wide(self) -> pd.DataFrame:
        """One row per run and step, one column per key; of several points at a step the newest."""
        return widen(self)


def as_result(table: pa.Table, as_: As) -> Any:
    """A table of points as what was asked for. Raises ``ValueError`` and ``ImportError``."""
    if as_ == "arrow":
        return table
    if as_ == "polars":
        return to_polars(table)
    if as_ not in ("pandas", "wide"):
        raise ValueError(f"as_ is 'pandas', 'polars', 'arrow' or 'wide', not {as_!r}")
    frame = to_pandas(table)
    return widen(frame) if as_ == "wide" else MetricsFrame(frame)


def to_polars(table: pa.Table) -> Any:
    """A polars frame. Raises ``ImportError`` without polars."""
    try:
        import polars
    except ImportError as error:
        raise ImportError("as_='polars' needs polars: pip install polars") from error
    return polars.from_arrow(table)


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A pandas frame; the table's memory is given back on the way."""
    unified = table.unify_dictionaries()
    frame: pd.DataFrame = unified.to_pandas(split_blocks=True)
    return frame


def widen(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run and step, one column per key; of several points the newest by MLflow's rule, to which NaN
    counts as 0."""
    values = frame["value"]
    order = ["run_id", "key", "step", "timestamp", "shown", "number"]
    newest = (
        frame.assign(shown=values.fillna(0.0), number=values.notna())
        .sort_values(order, kind="stable")
        .drop_duplicates(["run_id", "step", "key"], keep="last")
    )
    return newest.pivot(index=["run_id", "step"], columns="key", values="value").sort_index()


def draw(frame: pd.DataFrame, *, x: str = "step", log: bool = False, figsize: Any = None) -> Any:
    """The frame's curves, as a matplotlib figure that a notebook shows. Raises ``ImportError`` without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("plot() needs matplotlib: pip install matplotlib") from error

    class Curves(Figure):
        """Shown by a notebook that has not imported pyplot, which is what teaches it matplotlib's figures."""

        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png")
            return image.getvalue()

    keys = list(dict.fromkeys(frame["key"].astype(str)))
    figure = Curves(figsize=figsize or (8, 2.8 * max(len(keys), 1)), layout="constrained")
    axes = figure.subplots(max(len(keys), 1), 1, squeeze=False)[:, 0]
    many_runs = frame["run_id"].nunique() > 1
    for axis, key in zip(axes, keys, strict=False):
        of_key = frame[frame["key"] == key]
        for run_id, points in of_key.groupby("run_id", observed=True):
            places = pd.to_datetime(points[x], unit="ms") if x == "timestamp" else points[x]
            # A line through one point is no line.
            marker = "o" if len(points) == 1 else None
            axis.plot(places, points["value"], linewidth=1.2, marker=marker, label=str(run_id)[:8])
        axis.set_title(key, loc="left", fontsize=10)
        axis.grid(alpha=0.25)
        if x == "step":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log:
            axis.set_yscale("log")
        if many_runs and of_key["run_id"].nunique() <= 12:
            axis.legend(fontsize=7)
    if len(axes):
        axes[-1].set_xlabel("time" if x == "timestamp" else x)
    return figure
