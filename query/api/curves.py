"""Points of many series with a bound on each: exact where short, downsampled where long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.api.curve_cache import CurveCache
from runstream.query.points.downsample import Method, keep_positions
from runstream.query.points.long_series import downsample_long
from runstream.query.points.selection import Selection, is_glob
from runstream.query.points.series import Series
from runstream.query.points.stream import POINTS, stream_points
from runstream.schemas.ports.database import Database

# Looking for long series costs a query each; with more series than this they are simply read.
_MAX_LOOKED_UP = 16
# A series is thinned out when it has grown to this many points, and again each time it has.
_BUFFER_POINTS = 2_000_000
_BATCH_ROWS = 65_536


def stream_curves(
    database: Database,
    selection: Selection,
    settings: Mapping[str, Any],
    max_points: int,
    method: Method,
    cache: CurveCache,
) -> Iterator[pa.RecordBatch]:
    """Batches of ``POINTS``; each series whole and ordered, at most ``max_points`` of it and its non-finite
    points.

    Memory is bounded by one series' thinned points. Blocks; raises ``DatabaseError``.
    """
    out = _Output()
    for short, long in _long_ones(database, selection, settings, max_points, method, cache):
        if long is not None:
            yield from out.add(short.runs[0], _only_key(short), long)
            continue
        for run_id, key, series in _whole_series(
            stream_points(database, short, settings), max_points, method
        ):
            kept = keep_positions(series, max_points, method)
            yield from out.add(run_id, key, series if kept is None else series.take(kept))
    yield from out.rest()


def _long_ones(
    database: Database,
    selection: Selection,
    settings: Mapping[str, Any],
    max_points: int,
    method: Method,
    cache: CurveCache,
) -> Iterator[tuple[Selection, Series | None]]:
    """The selection in pieces; a piece that is one long series comes with its points."""
    runs = sorted(set(selection.runs))
    keys = sorted(set(selection.keys or ()))
    if not keys or any(map(is_glob, keys)) or len(runs) * len(keys) > _MAX_LOOKED_UP:
        yield selection, None
        return
    for run_id in runs:
        for key in keys:
            one = replace(selection, runs=[run_id], keys=[key])
            question = (run_id, key, selection.steps, selection.time, max_points, method)

            def make(one: Selection = one) -> Series | None:
                return downsample_long(database, one, settings, max_points, method)

            yield one, cache.get_or_make(question, one, settings, make)


def _only_key(selection: Selection) -> str:
    assert selection.keys is not None
    return selection.keys[0]


def _whole_series(
    batches: Iterator[pa.RecordBatch], max_points: int, method: Method
) -> Iterator[tuple[str, str, Series]]:
    """The stream cut into its series; one that grows very long arrives thinned out, its extremes kept."""
    name: tuple[str, str] | None = None
    held: list[Series] = []
    for batch in batches:
        for run_id, key, series in _split(batch):
            if name is not None and name != (run_id, key):
                yield *name, _join(held)
                held = []
            name = (run_id, key)
            held.append(series)
            if sum(map(len, held)) > _BUFFER_POINTS:
                held = [_thin(_join(held), max_points)]
    if name is not None:
        yield *name, _join(held)


def _split(batch: pa.RecordBatch) -> Iterator[tuple[str, str, Series]]:
    run, key, step, timestamp, value = batch.columns
    runs, keys = run.indices.to_numpy(), key.indices.to_numpy()
    changes = np.flatnonzero((runs[1:] != runs[:-1]) | (keys[1:] != keys[:-1])) + 1
    whole = Series(step.to_numpy(), timestamp.to_numpy(), value.to_numpy())
    starts = [0, *changes.tolist()]
    run_names, key_names = run.dictionary.to_pylist(), key.dictionary.to_pylist()
    for start, end in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        yield run_names[runs[start]], key_names[keys[start]], whole.take(slice(start, end))


def _thin(series: Series, max_points: int) -> Series:
    kept = keep_positions(series, min(64 * max_points, _BUFFER_POINTS // 4), "minmax")
    return series if kept is None else series.take(kept)


def _join(parts: list[Series]) -> Series:
    if len(parts) == 1:
        return parts[0]
    return Series(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


class _Output:
    """Collects series into batches of a useful size."""

    def __init__(self) -> None:
        self._names: list[tuple[str, str]] = []
        self._parts: list[Series] = []
        self._rows = 0

    def add(self, run_id: str, key: str, series: Series) -> Iterator[pa.RecordBatch]:
        if not len(series):
            return
        self._names.append((run_id, key))
        self._parts.append(series)
        self._rows += len(series)
        if self._rows >= _BATCH_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        if not self._rows:
            return
        lengths = [len(part) for part in self._parts]
        joined = _join(self._parts)
        yield pa.RecordBatch.from_arrays(
            [
                _repeated([run_id for run_id, _ in self._names], lengths),
                _repeated([key for _, key in self._names], lengths),
                pa.array(joined.steps),
                pa.array(joined.timestamps),
                pa.array(joined.values),
            ],
            schema=POINTS,
        )
        self._names, self._parts, self._rows = [], [], 0


def _repeated(names: list[str], lengths: list[int]) -> pa.DictionaryArray:
    codes: dict[str, int] = {}
    per_series = [codes.setdefault(name, len(codes)) for name in names]
    indices = np.repeat(np.array(per_series, np.int32), lengths)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(list(codes), pa.string()))
