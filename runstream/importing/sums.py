"""Counts and sums by which two sets of points are compared without holding either of them.

Every point has a 64-bit hash of its key, step, timestamp and value (bit for bit, NaN too; 0.0 and -0.0 are one point
to ClickHouse, and so here). A series is summed up as its number of points, of NaNs, and the sum of the hashes: the same
in any order, and another one if a single bit of a single point differs, but for one chance in 2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runstream.schemas.record import PointColumns

Hashes = NDArray[np.uint64]
_FACTORS = tuple(np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFT = np.uint64(29)
# A table of all pairs of run and key is the fastest way to count, as long as it is small.
_MOST_PAIRS = 1 << 21


class Sum(NamedTuple):
    """A series: its points, how many of them are NaN, and the sum of their hashes modulo 2^64."""

    points: int
    nans: int
    hash: int


@lru_cache(1 << 16)
def _name_hash(name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def hashes(points: PointColumns) -> Hashes:
    """One hash for each point; its run takes no part in it."""
    names = np.fromiter(map(_name_hash, points.keys), np.uint64, len(points.keys))
    mixed = names[points.key_codes]
    values = np.where(points.values == 0, 0.0, points.values)
    columns = (points.steps.view(np.uint64), points.timestamps.view(np.uint64), values.view(np.uint64))
    for column, factor in zip(columns, _FACTORS, strict=True):
        mixed ^= column
        mixed *= factor
        mixed ^= mixed >> _SHIFT
    return mixed


def distinct(points: PointColumns) -> PointColumns:
    """The points of one run without repetitions, in the order in which they came."""
    _, first = np.unique(hashes(points), return_index=True)
    return points if len(first) == len(points) else take(points, np.sort(first))


def take(points: PointColumns, places: NDArray[np.intp] | NDArray[np.bool_]) -> PointColumns:
    """Some of the points, under the same names."""
    return PointColumns(
        points.runs,
        points.keys,
        points.run_codes[places],
        points.key_codes[places],
        points.steps[places],
        points.timestamps[places],
        points.values[places],
        points.created_at_ms,
    )


@dataclass(frozen=True, slots=True)
class Totals:
    """What all series together come to."""

    runs: int
    series: int
    points: int
    nans: int


class Sums:
    """Sums of every series of any number of runs: some hundred bytes a series, whatever their length."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[str, Sum]] = {}

    def add(self, points: PointColumns) -> None:
        """Count these in; no point may come twice."""
        if not len(points):
            return
        width = len(points.keys)
        pairs = points.run_codes.astype(np.int64) * width + points.key_codes
        if len(points.runs) * width > _MOST_PAIRS:
            found, pairs = np.unique(pairs, return_inverse=True)
            counts = np.bincount(pairs)
        else:
            counts = np.bincount(pairs, minlength=len(points.runs) * width)
            found = np.arange(len(counts))
        sums = np.zeros(len(counts), np.uint64)
        np.add.at(sums, pairs, hashes(points))
        nans = np.bincount(pairs[np.isnan(points.values)], minlength=len(counts))
        runs, keys = list(points.runs), list(points.keys)
        for place in np.flatnonzero(counts).tolist():
            run, key = divmod(int(found[place]), width)
            series = self._runs.setdefault(runs[run], {})
            one = series.get(keys[key], Sum(0, 0, 0))
            series[keys[key]] = Sum(
                one.points + int(counts[place]),
                one.nans + int(nans[place]),
                (one.hash + int(sums[place])) & 0xFFFFFFFFFFFFFFFF,
            )

    def of(self, run_id: str) -> dict[str, Sum]:
        """The series of a run."""
        return self._runs.get(run_id, {})

    @property
    def runs(self) -> list[str]:
        """Every run that has points."""
        return list(self._runs)

    def totals(self) -> Totals:
        """All of it together."""
        every = [one for series in self._runs.values() for one in series.values()]
        return Totals(
            len(self._runs), len(every), sum(one.points for one in every), sum(one.nans for one in every)
        )

    def differences(self, other: Sums) -> Iterator[tuple[str, str, Sum, Sum]]:
        """Series of this one that are not the same in ``other``: run, key, what is here, what is there."""
        nothing = Sum(0, 0, 0)
        for run_id, series in self._runs.items():
            theirs = other.of(run_id)
            for key, one in series.items():
                if theirs.get(key, nothing) != one:
                    yield run_id, key, one, theirs.get(key, nothing)
