"""Bodies of the requests of Runstream's own read API, checked when they are decoded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from runstream.query.points.downsample import Method
from runstream.query.points.selection import Selection
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN

RunId = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9][\w\-]{0,255}$")]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=250)]
Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
Bounds = tuple[Int64 | None, Int64 | None]
Runs = Annotated[
    list[RunId],
    msgspec.Meta(min_length=1, max_length=100_000, description="Run ids; one named twice counts once."),
]
Keys = Annotated[
    list[Key],
    msgspec.Meta(
        min_length=1,
        max_length=10_000,
        description="Metric names, or globs such as `train/*`; none: every metric.",
    ),
]
Steps = Annotated[Bounds, msgspec.Meta(description="First and last step, inclusive; null is no bound.")]
Time = Annotated[
    Bounds,
    msgspec.Meta(description="First and last timestamp, Unix milliseconds, inclusive; null is no bound."),
]
Compression = Annotated[
    Literal["lz4", "zstd", "none"],
    msgspec.Meta(description="Compression of an Arrow stream's buffers, or of a Parquet file's pages."),
]
# So many runs one listener may follow.
MAX_LIVE_RUNS = 1_000
Statistic = Literal["count", "mean", "std", "min", "max", "median", "p10", "p90"]


class _Selecting(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    runs: Runs
    keys: Keys | None = None
    steps: Steps = (None, None)
    time: Time = (None, None)
    compression: Compression = "lz4"

    def selection(self) -> Selection:
        """What is selected. Raises ``MlflowError`` for a range that ends before it begins."""
        for name, (low, high) in (("steps", self.steps), ("time", self.time)):
            if low is not None and high is not None and low > high:
                raise MlflowError(f"'{name}' ends before it begins: {low} > {high}")
        return Selection(self.runs, self.keys, self.steps, self.time)


class PointsRequest(_Selecting):
    """Points of many series."""

    max_points: (
        Annotated[int, msgspec.Meta(ge=4, le=1_000_000, description="Points of each series, at most.")] | None
    ) = None
    method: Annotated[
        Method, msgspec.Meta(description="How series with more than `max_points` points are thinned out.")
    ] = "lttb"


class LatestRequest(_Selecting):
    """The newest point of each series."""


class SummaryRequest(_Selecting):
    """One line about each series."""


class AggregateRequest(_Selecting):
    """Statistics over runs, per key and step."""

    stats: Annotated[list[Statistic], msgspec.Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: ["mean", "std", "min", "max", "p10", "p90"]
    )
    every: Annotated[
        int, msgspec.Meta(ge=1, le=INT64_MAX, description="Steps that are taken together; 1: each by itself.")
    ] = 1


class LiveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Runs to listen to."""

    runs: Annotated[list[RunId], msgspec.Meta(min_length=1, max_length=MAX_LIVE_RUNS)]
    keys: Keys | None = None


def check_runs(runs: list[str], limit: int) -> list[str]:
    """Run ids of a URL. Raises ``MlflowError``."""
    return _check(runs, Annotated[list[RunId], msgspec.Meta(min_length=1, max_length=limit)])


def check_keys(keys: list[str]) -> list[str]:
    """Keys of a URL. Raises ``MlflowError``."""
    return _check(keys, Keys)


def _check(values: list[str], kind: Any) -> list[str]:
    try:
        checked: list[str] = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise MlflowError(f"Bad request: {error}") from error
    return checked
