"""MLflow's interval sampling of a series too long to hold: as a stream, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.points.series import EMPTY, Series, by_step, ntile_positions
from runstream.schemas.ports.database import Database

_READINGS = 3


def sample_stream(
    database: Database,
    source: str,
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
    max_results: int,
) -> Series:
    """Sample the series that ``source`` (``FROM … WHERE …``) selects; blocks.

    The positions depend on the number of distinct points, which ClickHouse counts slowly. So the number of
    rows is taken for it, and only if the stream turns out to hold repeats it is read again. A series that is being
    logged meanwhile need never have the number expected: then the last reading's points are taken, and its last point.
    """
    counted = database.arrow(f"SELECT count() AS rows {source}", parameters, settings)
    count = int(counted.column("rows")[0].as_py())
    for attempt in range(1, _READINGS + 1):
        positions = ntile_positions(count, max_results)
        kept: list[Series] = []
        seen = 0
        last = EMPTY
        with database.arrow_stream(
            f"SELECT step, timestamp, value {source} ORDER BY step, timestamp, value", parameters, settings
        ) as batches:
            for series in _distinct(batches):
                inside = positions[np.searchsorted(positions, seen) :]
                inside = inside[: np.searchsorted(inside, seen + len(series))]
                if len(inside):
                    kept.append(series.take(inside - seen))
                seen += len(series)
                last = series.take(slice(len(series) - 1, None))
        if seen == count:
            break
        if attempt == _READINGS and len(positions) > 1:
            # A sample ends with its series.
            kept = [_join(kept).take(slice(0, len(positions) - 1)), last]
        count = seen
    return _join(kept)


def _distinct(batches: Iterator[pa.RecordBatch]) -> Iterator[Series]:
    """The stream's points in MLflow's order, without repeats.

    ClickHouse sorts NaN last and tells infinities from the largest doubles, MLflow does not; only points of
    one (step, timestamp) can differ in order, so those at the end of a batch wait for the next.
    """
    waiting = EMPTY
    for batch in batches:
        series = by_step(
            np.concatenate((waiting.steps, batch.column("step").to_numpy())),
            np.concatenate((waiting.timestamps, batch.column("timestamp").to_numpy())),
            np.concatenate((waiting.values, batch.column("value").to_numpy())),
        )
        if not len(series):
            continue
        same = (series.steps == series.steps[-1]) & (series.timestamps == series.timestamps[-1])
        settled = len(series) - int(same.sum())
        waiting = series.take(slice(settled, None))
        if settled:
            yield series.take(slice(0, settled))
    if len(waiting):
        yield waiting


def _join(parts: list[Series]) -> Series:
    if not parts:
        return EMPTY
    return Series(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
