"""The cache of series: bounded in bytes and in time."""

from __future__ import annotations

import numpy as np

from runstream.query.mlflow.snapshots import Snapshot, SnapshotCache
from runstream.query.points.parts import coverage
from runstream.query.points.series import Series


def snapshot(points: int) -> Snapshot:
    series = Series(np.zeros(points, np.int64), np.zeros(points, np.int64), np.zeros(points))
    return Snapshot(series, coverage([]))


def test_the_least_recently_used_goes_first() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", snapshot(4))
    cache.put("b", "k", snapshot(4))
    assert cache.get("a", "k") is not None
    cache.put("c", "k", snapshot(4))
    assert cache.get("b", "k") is None
    assert cache.get("a", "k") is not None
    assert cache.get("c", "k") is not None
    assert cache.nbytes == 24 * 8


def test_one_too_large_is_not_held_and_displaces_nothing() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", snapshot(10))
    cache.put("b", "k", snapshot(11))
    assert cache.get("b", "k") is None
    assert cache.get("a", "k") is not None


def test_a_newer_reading_replaces_the_older() -> None:
    cache = SnapshotCache(max_bytes=24 * 10)
    cache.put("a", "k", snapshot(3))
    cache.put("a", "k", snapshot(5))
    found = cache.get("a", "k")
    assert found is not None
    assert len(found.series) == 5
    assert cache.nbytes == 24 * 5


def test_entries_age() -> None:
    now = 0.0
    cache = SnapshotCache(max_bytes=1000, ttl_s=60, clock=lambda: now)
    cache.put("a", "k", snapshot(1))
    now = 59.0
    assert cache.get("a", "k") is not None
    now = 61.0
    assert cache.get("a", "k") is None
    assert cache.nbytes == 0
