"""The table that reads are measured on, built straight through the writer's own block and insert.

A hundred runs train at a time and log all their keys together, so that a series arrives in several blocks among
others, as it does in life. Beside them: a run with 10,000 keys, a series of a million points and one of ten million,
which has a NaN and an infinity that a faithful answer has to show. Every point follows from the seed, so that answers
can be checked.
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.curves import catalogue, loss
from benchmarks.harness.workloads import START_MS
from runstream.clickhouse import connect
from runstream.clickhouse.migrate import migrate
from runstream.ingest.writer.blocks import native_block
from runstream.schemas.migrations import METRICS_COLUMNS, METRICS_TABLE, Flavour
from runstream.schemas.ports.database import Database
from runstream.schemas.record import PointColumns
from runstream.serve.data_dir import DataDir

KEY = "train/loss"
_WAVE = 100
_BLOCK_ROWS = 1_000_000
_STEP_MS = 250


@dataclass(frozen=True)
class Shape:
    """How large the table is: ``runs`` x ``keys`` x ``steps``, a run of ``wide_keys`` x ``wide_steps``, and two
    long series."""

    runs: int = 1_000
    keys: int = 100
    steps: int = 1_000
    wide_keys: int = 10_000
    wide_steps: int = 100
    long: int = 1_000_000
    longest: int = 10_000_000

    @property
    def points(self) -> int:
        """Of the whole table."""
        return (
            self.runs * self.keys * self.steps + self.wide_keys * self.wide_steps + self.long + self.longest
        )


FULL = Shape()
QUICK = Shape(
    runs=200, keys=50, steps=1_000, wide_keys=10_000, wide_steps=20, long=200_000, longest=2_000_000
)


def run_id(name: str) -> str:
    """The id of one of the table's runs: ``run-0`` …, ``wide``, ``long``, ``longest``."""
    return hashlib.md5(name.encode()).hexdigest()


def run_ids(count: int) -> list[str]:
    """Ids of the first ``count`` ordinary runs."""
    return [run_id(f"run-{number}") for number in range(count)]


def key_names(count: int) -> list[str]:
    """The keys of every ordinary run."""
    return [name for name, _ in catalogue(count)]


def clock(rng: np.random.Generator, steps: int) -> NDArray[np.int64]:
    """When each step was logged (Unix, milliseconds): a steady pace with jitter."""
    start = START_MS + int(rng.integers(0, 3_600_000))
    ticks: NDArray[np.int64] = start + np.cumsum(_STEP_MS + rng.integers(-30, 31, steps))
    return ticks


def ordinary_run(number: int, shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timestamps ``(steps,)`` and values ``(steps, keys)`` of one ordinary run."""
    rng = np.random.default_rng([1, number])
    times, steps = clock(rng, shape.steps), np.arange(shape.steps)
    return times, np.stack([curve(rng, steps) for _, curve in catalogue(shape.keys)], axis=1)


def long_series(name: str, points: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timestamps and values of a long series: a loss with spikes, one NaN and one infinity."""
    rng = np.random.default_rng([2, len(name)])
    times, steps = clock(rng, points), np.arange(points)
    values = loss(rng, steps // 1_000)
    values[rng.integers(0, points, 200)] *= rng.uniform(2, 30, 200)
    values[points // 3], values[2 * points // 3] = np.nan, np.inf
    return times, values


def _waves(shape: Shape) -> Iterator[PointColumns]:
    keys = key_names(shape.keys)
    for first in range(0, shape.runs, _WAVE):
        numbers = range(first, min(first + _WAVE, shape.runs))
        made = [ordinary_run(number, shape) for number in numbers]
        stretch = max(_BLOCK_ROWS // (len(numbers) * shape.keys), 1)
        for start in range(0, shape.steps, stretch):
            steps = np.arange(start, min(start + stretch, shape.steps))
            count = len(steps)
            yield PointColumns(
                runs=[run_id(f"run-{number}") for number in numbers],
                keys=keys,
                run_codes=np.repeat(np.arange(len(numbers), dtype=np.uint32), count * shape.keys),
                key_codes=np.tile(np.arange(shape.keys, dtype=np.uint32), count * len(numbers)),
                steps=np.tile(np.repeat(steps, shape.keys), len(numbers)),
                timestamps=np.concatenate([np.repeat(times[steps], shape.keys) for times, _ in made]),
                values=np.concatenate([values[steps].ravel() for _, values in made]),
                created_at_ms=0,
            )


def _wide(shape: Shape) -> Iterator[PointColumns]:
    rng = np.random.default_rng([3])
    times = clock(rng, shape.wide_steps)
    stretch = max(_BLOCK_ROWS // 4 // shape.wide_keys, 1)
    for start in range(0, shape.wide_steps, stretch):
        steps = np.arange(start, min(start + stretch, shape.wide_steps))
        yield PointColumns(
            runs=[run_id("wide")],
            keys=[f"layers/{number:05d}/grad_norm" for number in range(shape.wide_keys)],
            run_codes=np.zeros(len(steps) * shape.wide_keys, np.uint32),
            key_codes=np.tile(np.arange(shape.wide_keys, dtype=np.uint32), len(steps)),
            steps=np.repeat(steps, shape.wide_keys),
            timestamps=np.repeat(times[steps], shape.wide_keys),
            values=wide_values(steps, shape.wide_keys).ravel(),
            created_at_ms=0,
        )


def wide_values(steps: NDArray[np.int64], keys: int) -> NDArray[np.float64]:
    """Values ``(steps, keys)`` of the run with many keys."""
    phase = np.sqrt(np.arange(1, keys + 1))
    values: NDArray[np.float64] = np.abs(np.sin(phase * (1 + steps[:, None]))) + 0.01
    return values.astype(np.float32).astype(np.float64)


def _long(name: str, points: int) -> Iterator[PointColumns]:
    times, values = long_series(name, points)
    for start in range(0, points, _BLOCK_ROWS):
        end = min(start + _BLOCK_ROWS, points)
        codes = np.zeros(end - start, np.uint32)
        yield PointColumns(
            [run_id(name)], [KEY], codes, codes, np.arange(start, end), times[start:end], values[start:end], 0
        )


def build(folder: Path, shape: Shape, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Build the table in a data folder of ``runstream serve``, or find that it is there; what it cost.

    Blocks for minutes. ``cpu_s`` is this process's: encoding, inserts and merges, without making the points.
    """
    facts_file = folder / "table.json"
    if facts_file.exists():
        found: dict[str, Any] = json.loads(facts_file.read_text())
        if found["shape"] == asdict(shape):
            return found
        raise SystemExit(f"{folder} holds another table; give another --dir")
    data = DataDir(folder)
    database = connect(f"chdb://{data.clickhouse}")
    try:
        migrate(database, Flavour())
        facts = {"shape": asdict(shape), **_fill(database, shape, tell)}
    finally:
        database.close()
    folder.mkdir(parents=True, exist_ok=True)
    facts_file.write_text(json.dumps(facts, indent=1))
    return facts


def _fill(database: Database, shape: Shape, tell: Callable[[str], None]) -> dict[str, Any]:
    rows, making_s, began, shown, cpu = 0, 0.0, time.monotonic(), 0, _cpu_s()

    def blocks() -> Iterator[PointColumns]:
        yield from _waves(shape)
        yield from _wide(shape)
        yield from _long("long", shape.long)
        yield from _long("longest", shape.longest)

    source = blocks()
    while True:
        making = time.thread_time()
        points = next(source, None)
        making_s += time.thread_time() - making
        if points is None:
            break
        database.insert_native(METRICS_TABLE, METRICS_COLUMNS, native_block(points))
        rows += len(points)
        if rows * 10 // shape.points > shown:
            shown = rows * 10 // shape.points
            tell(f"  {rows:,} of {shape.points:,} points, {time.monotonic() - began:.0f} s")
    _settle(database)
    used = _cpu_s() - cpu - making_s
    size = database.arrow(
        "SELECT sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts FROM system.parts"
        f" WHERE active AND database = currentDatabase() AND table = '{METRICS_TABLE}'"
    ).to_pylist()[0]
    return {
        "points": rows,
        "seconds": round(time.monotonic() - began, 1),
        "insert_cpu_ms_per_1000": round(used / rows * 1e6, 3),
        "bytes_per_point": round(size["bytes"] / size["rows"], 2),
        "parts": int(size["parts"]),
    }


def _settle(database: Database, timeout_s: float = 120.0) -> None:
    """Wait until no merge has been under way for two seconds."""
    deadline = time.monotonic() + timeout_s
    calm_since = time.monotonic()
    while time.monotonic() < min(deadline, calm_since + 2):
        if database.arrow("SELECT count() AS n FROM system.merges").column("n")[0].as_py():
            calm_since = time.monotonic()
        time.sleep(0.1)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
