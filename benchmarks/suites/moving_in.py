"""How fast points move in: from an MLflow database on SQLite or PostgreSQL that is adopted, and from event files.

    python -m benchmarks moving_in [--points 5000000] [--postgres]

The database is filled as MLflow lays it out (its own tables, 50 runs, 10 metrics each, runs in turn as they are
logged side by side), a server is started over it, and ``runstream import`` moves the points while it serves. Event
files are only read here, as `--dry-run` does. Importer and server share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.harness import results  # noqa: E402
from runstream.importing.tensorboard import TensorBoard  # noqa: E402
from runstream.importing.tensorboard_writer import EventWriter  # noqa: E402
from support.postgres import postgres_server  # noqa: E402
from support.runstream_server import RunstreamServer  # noqa: E402

RUNS, KEYS = 50, 10


def main() -> None:
    """Print the figures, and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=5_000_000)
    parser.add_argument("--postgres", action="store_true")
    results.add_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        if options.postgres:
            uri = (
                stack.enter_context(postgres_server())
                .create_database("moving")
                .replace("postgresql:", "postgresql+psycopg:")
            )
        found = {
            "database": "PostgreSQL" if options.postgres else "SQLite",
            **adoption(folder, uri, options.points),
            **events(folder, min(options.points, 2_000_000)),
        }
    print(json.dumps(found, indent=2))
    results.keep("moving_in", found, options.out)


def adoption(folder: Path, uri: str, points: int) -> dict[str, float]:
    """Points a second of the move, and of move and comparison together."""
    environment = {"RUNSTREAM_METADATA": uri}
    with RunstreamServer(folder / "data", environment=environment):
        pass  # MLflow makes its tables
    fill(uri, points)
    with RunstreamServer(folder / "data", environment=environment) as server:
        started = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "runstream", "import", uri),
                *("--server", server.url, "--data-dir", str(server.data_dir)),
            ],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        took = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    moved = re.search(r"moved ([\d,]+) points in ([\d.]+) s", done.stdout)
    assert moved is not None
    return {
        "points": points,
        "moved_per_s": round(points / float(moved[2])),
        "moved_and_compared_per_s": round(points / took),
    }


def fill(uri: str, points: int) -> None:
    """Rows of MLflow's table ``metrics``, made by the database itself."""
    series = "generate_series(0, {last})" if uri.startswith("postgresql") else None
    numbers = (
        f"SELECT n AS i FROM {series.format(last=points - 1)} AS n"
        if series
        else f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {points - 1}) SELECT i FROM n"
    )
    engine = sa.create_engine(uri)
    with engine.begin() as connection:
        for run in range(RUNS):
            connection.exec_driver_sql(
                "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, artifact_uri, user_id,"
                f" source_type, start_time) VALUES ('{run:032x}', 'r', 'FINISHED', 'active', 0, 'x', 'u', 'LOCAL', 1)"
            )
        number = f"(i / {KEYS}) % {RUNS}"
        digits = [f"substr('0123456789abcdef', {number} {part} 16 + 1, 1)" for part in ("/", "%")]
        owner = f"'{'0' * 30}' || {' || '.join(digits)}"
        false = "false" if series else "0"
        connection.execute(
            sa.text(
                "INSERT INTO metrics (run_uuid, key, step, timestamp, value, is_nan)"
                f" SELECT {owner}, 'train/metric_' || (i % {KEYS}), i / {KEYS * RUNS}, 1700000000000 + i,"
                f" i * 0.37, {false}"
                f" FROM ({numbers}) AS numbers"
            )
        )
    engine.dispose()


def events(folder: Path, points: int) -> dict[str, float]:
    """Points a second out of an event file of scalars."""
    with EventWriter(folder / "events", 0) as writer:
        for first in range(0, points, 100_000):
            count = min(100_000, points - first)
            steps = list(range(first // KEYS, first // KEYS + count))
            keys = [f"train/metric_{place % KEYS}" for place in range(count)]
            writer.scalars(keys, steps, steps, np.random.default_rng(first).normal(size=count))
    (run,) = TensorBoard(folder / "events").runs()
    started, used = time.monotonic(), time.process_time()
    read = sum(len(block) for block in run.read())
    assert read == points
    return {
        "event_points_per_s": round(points / (time.monotonic() - started)),
        "event_points_per_cpu_s": round(points / (time.process_time() - used)),
    }


if __name__ == "__main__":
    main()
