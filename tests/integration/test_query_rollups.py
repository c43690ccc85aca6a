"""Rollups of long series change what an answer costs and nothing that it says; newest points that are kept are the
newest."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable

import numpy as np
import pytest

from runstream.ingest.writer.blocks import native_block
from runstream.query.points import long_series
from runstream.query.points.downsample import Method
from runstream.query.points.long_series import downsample_long
from runstream.query.points.newest import NewestCache, newest_points
from runstream.query.points.parts import active_parts
from runstream.query.points.rollup_builder import RollupBuilder
from runstream.query.points.rollups import find_rollup, forget_rollups, make_rollups, rolled_up
from runstream.query.points.selection import Range, Selection
from runstream.query.points.series import Series
from runstream.schemas.migrations import METRICS_COLUMNS
from runstream.schemas.record import PointColumns
from support.clickhouse_engine import insert_points, shared_database

POINTS = 100_000
KEY = "k"


@pytest.fixture(autouse=True)
def everything_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.query.points.rollups._LONG_GRANULES", 2)
    monkeypatch.setattr("runstream.query.points.rollups._STRETCH_POINTS", 16)
    monkeypatch.setattr("runstream.query.points.long_series.LONG_POINTS", 10_000)


def insert(run: str, points: Series) -> None:
    codes = np.zeros(len(points), np.uint32)
    block = PointColumns([run], [KEY], codes, codes, points.steps, points.timestamps, points.values, 0)
    shared_database().insert_native("metrics", METRICS_COLUMNS, native_block(block))


def make_for(run: str) -> None:
    """Rollups of the parts that hold points of a run now."""
    found = shared_database().arrow(
        "SELECT DISTINCT _part AS name FROM metrics WHERE run_id = {run:String}", {"run": run}
    )
    names = set(found.column("name").to_pylist())
    for part in active_parts(shared_database()):
        if part.name in names:
            make_rollups(shared_database(), part)


@pytest.fixture(scope="module")
def written() -> tuple[str, Series]:
    """A run whose series came in three blocks that overlap, and all of its distinct points in order."""
    rng = np.random.default_rng(3)
    run = uuid.uuid4().hex
    steps = np.arange(POINTS, dtype=np.int64) - 700
    values = rng.normal(size=POINTS).cumsum()
    values[[5, 40_000, 40_001]] = [math.nan, math.inf, -math.inf]
    values[60_000] = 5_000.0
    points = Series(steps, 1_000 + 3 * np.arange(POINTS, dtype=np.int64), values)
    late = Series(steps[30_000:31_000], np.full(1_000, 7, np.int64), rng.normal(size=1_000) - 900)
    insert(run, points.take(slice(0, 70_000)))
    insert(run, points.take(slice(60_000, POINTS)))
    insert(run, late)
    insert(run, points.take(slice(10, 2_000)))
    whole = long_series._distinct([points, late])
    return run, whole


def rows(series: Series) -> list[tuple[int, int, str]]:
    return [
        (step, timestamp, repr(value))
        for step, timestamp, value in zip(
            series.steps.tolist(), series.timestamps.tolist(), series.values.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("steps", [(None, None), (-650, 90_001), (1_003, None), (None, 77_777)])
def test_extremes_of_every_bucket_are_exact(written: tuple[str, Series], steps: Range) -> None:
    run, whole = written
    make_for(run)
    rollup = find_rollup(shared_database(), run, KEY, active_parts(shared_database()))
    assert rollup is not None
    assert len(rollup.parts) == 2, "the small parts are scanned"
    assert len(rollup.points) < POINTS // 4
    found = downsample_long(shared_database(), Selection([run], [KEY], steps), {}, 400, "minmax")
    assert found is not None
    low, high = steps
    inside = (whole.steps >= (-(10**9) if low is None else low)) & (
        whole.steps <= (10**9 if high is None else high)
    )
    ranged = whole.take(np.flatnonzero(inside))
    expected = ranged.take(long_series._of_buckets(ranged, rollup.shift, 400))
    assert rows(found) == rows(expected)
    assert 300 < len(found) <= 403


@pytest.mark.parametrize("method", ["lttb", "minmax"])
def test_rollups_are_never_stale(method: Method) -> None:
    database = shared_database()
    run = uuid.uuid4().hex
    steps = np.arange(POINTS, dtype=np.int64)
    insert(run, Series(steps, steps, np.sin(steps / 500)))
    make_for(run)
    selection = Selection([run], [KEY])

    def ask() -> Series:
        found = downsample_long(database, selection, {}, 200, method)
        assert found is not None
        return found

    before = ask()
    insert_points(database, run, KEY, [(50_000, 1, 77.0), (POINTS, 5, 0.5), (7, 7, math.nan)])
    after = set(rows(ask()))
    assert {(50_000, 1, "77.0"), (POINTS, 5, "0.5"), (7, 7, "nan")} <= after
    assert (POINTS, 5, "0.5") not in rows(before)
    database.execute("SYSTEM START MERGES metrics")
    try:
        database.execute("DELETE FROM metrics WHERE run_id = {run:String}", {"run": run})
    finally:
        database.execute("SYSTEM STOP MERGES metrics")
    assert find_rollup(database, run, KEY, active_parts(database)) is None
    assert downsample_long(database, selection, {}, 200, method) is None


def test_too_many_odd_points_are_not_rolled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.query.points.rollups._MAX_ODD_POINTS", 100)
    run = uuid.uuid4().hex
    steps = np.arange(POINTS, dtype=np.int64)
    insert(run, Series(steps, steps, np.where(steps % 500, 1.0, np.nan)))
    make_for(run)
    assert find_rollup(shared_database(), run, KEY, active_parts(shared_database())) is None


def test_the_builder_makes_each_once_and_forgets_old_ones() -> None:
    database = shared_database()
    run = uuid.uuid4().hex
    steps = np.arange(POINTS, dtype=np.int64)
    insert(run, Series(steps, steps, np.cos(steps / 500)))
    now = [0.0]
    builder = RollupBuilder(database, min_rows=50_000, settled_s=20, clock=lambda: now[0])
    assert not builder.step(), "the part may be merged away soon"
    now[0] = 21
    while builder.step():
        assert len(rolled_up(database)) < 50
    assert find_rollup(database, run, KEY, active_parts(database)) is not None
    forget_rollups(database, [])
    assert find_rollup(database, run, KEY, active_parts(database)) is not None, "made just now"


def test_newest_points_that_are_kept(written: tuple[str, Series]) -> None:
    database = shared_database()
    run = uuid.uuid4().hex
    cache = NewestCache(database)

    def check() -> None:
        exact = newest_points(database, "run_id = {run:String}", {"run": run}, {})
        found = cache.of_run(run, {})
        assert repr(found.to_pylist()) == repr(exact.to_pylist())

    insertions: list[Callable[[], None]] = [
        lambda: insert_points(database, run, "a", [(1, 1, 1.0), (2, 1, math.nan)]),
        lambda: insert_points(database, run, "a", [(2, 1, -1.0)]),
        lambda: insert_points(database, run, "é", [(2, 1, 0.0), (2, 1, math.nan)]),
        lambda: insert_points(database, run, "b", [(5, 1, math.inf)]),
        lambda: insert_points(database, run, "b", [(4, 9, 1.0)]),
        lambda: insert_points(database, run, "é", [(2, 1, 0.5)]),
    ]
    for insertion in insertions:
        insertion()
        check()
    check()
    database.execute("SYSTEM START MERGES metrics")
    try:
        database.execute("DELETE FROM metrics WHERE run_id = {run:String}", {"run": run})
    finally:
        database.execute("SYSTEM STOP MERGES metrics")
    assert cache.of_run(run, {}).num_rows == 0
