"""The cache of series: bounded in bytes and in time."""

from __future__ import annotations

import numpy as np

from runstream.query.mlflow.snapshots import SnapshotCache
from runstream.query.points.series import Series


def series(points: int) -> Series:
    return Series(np.zeros(points, np.int64), np.zeros(points, np.int64), np.zeros(points))


def test_the_least_recently_used_goes_first() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", series(4))
    cache.put("b", "k", series(4))
    assert cache.get("a", "k") is not None
    cache.put("c", "k", series(4))
    assert cache.get("b", "k") is None
    assert cache.get("a", "k") is not None
    assert cache.get("c", "k") is not None
    assert cache.nbytes == 24 * 8


def test_one_too_large_is_not_held_and_displaces_nothing() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", series(10))
    cache.put("b", "k", series(11))
    assert cache.get("b", "k") is None
    assert cache.get("a", "k") is not None


def test_a_newer_reading_replaces_the_older() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", series(3))
    cache.put("a", "k", series(5))
    found = cache.get("a", "k")
    assert found is not None
    assert len(found) == 5
    assert cache.nbytes == 24 * 5


def test_entries_age() -> None:
    now = 0.0
    cache = SnapshotCache(max_bytes=1000, ttl_s=60, clock=lambda: now)
    cache.put("a", "k", series(1))
    now = 59.0
    assert cache.get("a", "k") is not None
    now = 61.0
    assert cache.get("a", "k") is None
    assert cache.nbytes == 0


def test_runs_are_forgotten() -> None:
    cache = SnapshotCache(max_bytes=1000)
    for run in ("a", "b"):
        for key in ("k", "l"):
            cache.put(run, key, series(1))
    cache.forget_runs({"a"})
    assert cache.get("a", "k") is None
    assert cache.get("b", "l") is not None
    assert cache.nbytes == 24 * 2
