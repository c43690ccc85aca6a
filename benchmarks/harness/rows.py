"""What is measured: the rows of the table, grouped into sessions on a fresh server each, and the profiles.

A session runs on every contender in turn before the next one begins, so that slow changes of the machine's
speed reach all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.harness.workloads import MAX_PASSES, REPLAYED_BASE, Shape

RUNS = 200
KEYS = 50
SEED = 20_260_801
PEER_SECONDS = 6.0
_BUILT_S = 10.0
# In this order, so that the most telling are in if the machine is too slow for all.
QUICK = ("runstream", "mlflow-postgres", "fasttrackml-sqlite", "mlflow-sqlite")


@dataclass(frozen=True)
class Row:
    """One line of the table. ``kind`` is how it runs: load, memory, half, overload, reads, reads-at-load, retry.

    A load lasts ``seconds``, on the peers at most ``PEER_SECONDS``: their rates are steady from the first second.
    Bodies that are replayed are built for ``_BUILT_S`` of the load.
    """

    name: str
    title: str
    kind: str
    shape: Shape
    connections: int
    seconds: float


@dataclass(frozen=True)
class Session:
    """Rows that run one after another on one fresh server. ``size`` asks for bytes per point at its end."""

    name: str
    rows: tuple[Row, ...]
    contenders: tuple[str, ...]
    size: bool = False


@dataclass(frozen=True)
class Profile:
    """A whole benchmark. Sessions that would begin after ``budget_s`` are left out."""

    name: str
    budget_s: float
    sessions: tuple[Session, ...]
    read_runs: int
    sample_requests: int
    limit_seconds: float


def _replayed(seconds: float, points_per_s: float, points: int) -> tuple[int, int]:
    """How many bodies, and in how many passes, so that they do not run out."""
    total = _requests(seconds, points_per_s, points)
    passes = max(1, min(MAX_PASSES, math.ceil(seconds / _BUILT_S)))
    return math.ceil(total / passes), passes


def _requests(seconds: float, points_per_s: float, points: int) -> int:
    """Enough bodies for a server that takes ``points_per_s``; a faster one ends its load early."""
    return max(int(seconds * points_per_s / points), 50)


def _headline(seconds: float, runs: int = RUNS, connections: int = 32) -> Row:
    requests, passes = _replayed(seconds, 1_200_000 if runs == RUNS else 60_000, 1000)
    shape = Shape(runs, KEYS, 1000, requests, step_base=REPLAYED_BASE, passes=passes)
    title = f"log-batch of 1,000, {connections} connections"
    return Row("batch-1000", title, "load", shape, connections, seconds)


def _batch(points: int, connections: int, seconds: float, cap: float, base: int, runs: int = RUNS) -> Row:
    shape = Shape(runs, KEYS, points, _requests(seconds, cap, points), step_base=base)
    return Row(
        f"batch-{points}",
        f"log-batch of {points:,}, {connections} connections",
        "load",
        shape,
        connections,
        seconds,
    )


def _single(connections: int, seconds: float, base: int, runs: int = RUNS) -> Row:
    shape = Shape(runs, 10, 1, _requests(seconds, 45_000, 1), step_base=base, single=True)
    return Row("log-metric", f"log-metric, {connections} connections", "load", shape, connections, seconds)


def _like(row: Row, name: str, title: str, kind: str, seconds: float, base: int, cap: float) -> Row:
    shape = replace(row.shape, requests=_requests(seconds, cap, row.shape.points), step_base=base)
    return replace(row, name=name, title=title, kind=kind, seconds=seconds, shape=shape)


def _reads(seconds: float) -> Row:
    return Row("reads", "reads, server at rest", "reads", Shape(1, 1, 1, 1), 1, seconds)


def _core(seconds: float, headline: float, contenders: tuple[str, ...]) -> Session:
    rows = (
        _headline(headline),
        _batch(100, 64, seconds, 600_000, 2_000_000_000),
        _single(64, seconds, 3_000_000_000),
        _reads(seconds),
    )
    # Values that come again would compress too well to tell the size of real ones.
    return Session("core", rows, contenders, size=rows[0].shape.passes == 1)


def _pressure(seconds: float, contenders: tuple[str, ...]) -> Session:
    base = _batch(1000, 32, seconds, 1_000_000, 0)
    half = "the same at half of that rate"
    at_load = "reads, server at full load"
    rows = (
        replace(base, name="base", title="log-batch of 1,000, the rate for the rows below"),
        _like(base, "half", half, "half", seconds, 10_000_000, 500_000),
        replace(
            _like(base, "overload", "twice that rate offered", "overload", seconds, 20_000_000, 1_500_000),
            connections=128,
        ),
        # Longer, because it takes many reads to tell their slowest hundredth.
        _like(base, "reads-at-load", at_load, "reads-at-load", 2 * seconds, 40_000_000, 800_000),
    )
    return Session("pressure", rows, contenders, size=True)


def _special(seconds: float, many: int, contenders: tuple[str, ...]) -> Session:
    rows = (
        Row(
            "retry",
            f"a retried batch, run of 10,000 and up to {many:,} points",
            "retry",
            Shape(1, 10, 1000, many // 1000 + 20, step_base=100_000_000),
            8,
            4 * seconds,
        ),
        Row(
            "series",
            "1,000,000 series in one run, new ones first",
            "load",
            Shape(1, 1, 1000, 1000, step_base=REPLAYED_BASE, series=1_000_000, passes=20),
            32,
            # Long enough for newest values to be written more than once.
            3.5 * seconds,
        ),
        Row(
            "long-keys",
            "keys of 250 characters, batches of 1,000",
            "load",
            Shape(
                RUNS,
                KEYS,
                1000,
                _requests(2, 800_000, 1000),
                REPLAYED_BASE,
                key_length=250,
                passes=MAX_PASSES,
            ),
            32,
            seconds,
        ),
        # Last, because a server that falls behind here is still busy with it long after.
        Row(
            "one-run",
            "1,000 writers on one run, batches of 10",
            "load",
            Shape(1, 10, 10, _requests(seconds, 250_000, 10)),
            1000,
            seconds,
        ),
    )
    return Session("special", rows, contenders)


def memory(seconds: float, contenders: tuple[str, ...]) -> Session:
    """Full load for a long time, to see that memory stays flat: not part of a whole benchmark."""
    row = replace(_headline(seconds), name="memory", title="memory at full load", kind="memory")
    return Session("memory", (row,), contenders)


def _smoke(contenders: tuple[str, ...]) -> Session:
    base = _headline(1, runs=8, connections=8)
    rows = (
        base,
        _batch(100, 16, 1, 60_000, 2_000_000_000, runs=8),
        _single(16, 1, 3_000_000_000, runs=8),
        _like(base, "overload", "twice that rate offered", "overload", 1, 30_000_000, 100_000),
        Row("retry", "a retried batch", "retry", Shape(1, 10, 1000, 32, step_base=100_000_000), 8, 2),
        _reads(1),
    )
    return Session("smoke", rows, contenders, size=True)


def profile(name: str, contenders: tuple[str, ...]) -> Profile:
    """``full`` (at most 30 minutes), ``quick`` (at most 3) or ``smoke`` (seconds)."""
    if name == "smoke":
        return Profile(name, 120, (_smoke(contenders),), read_runs=2, sample_requests=8, limit_seconds=1)
    if name == "quick":
        return Profile(
            name, 130, (_core(3, 4, contenders),), read_runs=10, sample_requests=20, limit_seconds=3
        )
    sessions = (
        _core(8, 60, contenders),
        _pressure(6, contenders),
        _core(8, 30, contenders),
        # Last, because it may be cut short: peers can take minutes for a row of it.
        _special(6, 10_000_000, contenders),
    )
    return Profile(name, 1600, sessions, read_runs=20, sample_requests=40, limit_seconds=10)
